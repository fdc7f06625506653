#include "client/model_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/base/status.h"
#include "onnx/onnx.pb.h"

namespace gradwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

onnx::ModelProto Parsed(const ModelSource& source) {
  EXPECT_TRUE(source.status().ok()) << source.status();
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(source.content()));
  return model;
}

std::vector<std::string> Ops(const onnx::ModelProto& model) {
  std::vector<std::string> ops;
  for (const onnx::NodeProto& node : model.graph().node()) ops.push_back(node.op_type());
  return ops;
}

std::string Mistake(const ModelSource& source) {
  EXPECT_EQ(ReasonNameOf(source.status()), "INVALID_MODEL");
  return std::string(source.status().message());
}

TEST(ModelBuilderTest, MakesNodesFromOperators) {
  ModelBuilder g;
  Expression x = g.Input("x"), y = g.Input("y");
  const onnx::ModelProto model = Parsed(x * x * y + y * y * y);
  EXPECT_EQ(model.opset_import(0).version(), 18);
  EXPECT_THAT(Ops(model), ElementsAre("Mul", "Mul", "Mul", "Mul", "Add", "Identity"));
  ASSERT_EQ(model.graph().input_size(), 2);
  const auto& type = model.graph().input(0).type().tensor_type();
  EXPECT_EQ(type.elem_type(), onnx::TensorProto::DOUBLE);
  EXPECT_TRUE(type.has_shape());
  EXPECT_EQ(type.shape().dim_size(), 0);
  EXPECT_EQ(model.graph().output(0).name(), "f");
  EXPECT_EQ(model.graph().node(4).output(0), model.graph().node(5).input(0));
}

TEST(ModelBuilderTest, NumbersTakeTheTypeOfTheOtherSide) {
  ModelBuilder g;
  Expression x = g.Input("x", DType::kFloat, {"N", 3});
  const onnx::ModelProto model = Parsed(2 * x - 0.5);
  EXPECT_THAT(Ops(model), ElementsAre("Constant", "Mul", "Constant", "Sub", "Identity"));
  const onnx::TensorProto& two = model.graph().node(0).attribute(0).t();
  EXPECT_EQ(two.data_type(), onnx::TensorProto::FLOAT);
  EXPECT_EQ(two.raw_data().size(), 4u);
  EXPECT_EQ(two.dims_size(), 0);
  const auto& shape = model.graph().input(0).type().tensor_type().shape();
  EXPECT_EQ(shape.dim(0).dim_param(), "N");
  EXPECT_EQ(shape.dim(1).dim_value(), 3);
}

TEST(ModelBuilderTest, ComparisonsAreBool) {
  ModelBuilder g;
  Expression x = g.Input("x");
  EXPECT_EQ((x < 0).dtype(), DType::kBool);
  EXPECT_EQ(Where(x >= 1, x, 0.0).dtype(), DType::kDouble);
  // C++ evaluates arguments in any order, so they are evaluated first here.
  Expression positive = x > 0;
  Expression opposite = -x;
  EXPECT_THAT(Ops(Parsed(Where(positive, x, opposite))),
              ElementsAre("Constant", "Greater", "Neg", "Where", "Identity"));
}

TEST(ModelBuilderTest, ReductionsTakeAxesAsInput) {
  ModelBuilder g;
  Expression x = g.Input("x", DType::kFloat, {2, 3});
  EXPECT_THAT(Ops(Parsed(Sum(x))), ElementsAre("ReduceSum", "Identity"));
  const onnx::ModelProto model = Parsed(Mean(x, {-1}, /*keep_dims=*/true));
  EXPECT_THAT(Ops(model), ElementsAre("Constant", "ReduceMean", "Identity"));
  EXPECT_EQ(model.graph().node(1).input_size(), 2);
  EXPECT_EQ(model.graph().node(1).attribute(0).i(), 1);
}

TEST(ModelBuilderTest, AnExpressionKeepsOnlyWhatItNeeds) {
  ModelBuilder g;
  Expression x = g.Input("x"), y = g.Input("y");
  Expression w = g.Parameter("w", Tensor::Scalar(2.0));
  Expression unused = Exp(y);
  const onnx::ModelProto model = Parsed(w * x);
  EXPECT_EQ(unused.dtype(), DType::kDouble);
  EXPECT_THAT(Ops(model), ElementsAre("Mul", "Identity"));
  ASSERT_EQ(model.graph().input_size(), 1);
  EXPECT_EQ(model.graph().input(0).name(), "x");
  EXPECT_EQ(model.graph().initializer_size(), 1);
}

TEST(ModelBuilderTest, ABuilderKeepsInputsAndNamedOutputs) {
  ModelBuilder g;
  Expression x = g.Input("x");
  g.Input("y");
  Expression loss = g.Output("loss", x * x);
  g.Output("f", loss + 1);
  const onnx::ModelProto model = Parsed(g);
  EXPECT_EQ(model.graph().input_size(), 2);
  EXPECT_EQ(model.graph().output(0).name(), "loss");
  EXPECT_EQ(model.graph().output(1).name(), "f");
  EXPECT_EQ(Parsed(loss).graph().output(0).name(), "f_") << "f is taken";
}

TEST(ModelBuilderTest, TheFirstMistakeIsReported) {
  ModelBuilder twice;
  twice.Input("x");
  EXPECT_THAT(Mistake(twice.Input("x") + 1), HasSubstr("'x' is given twice"));

  ModelBuilder mixed;
  Expression x = mixed.Input("x"), y = mixed.Input("y", DType::kFloat);
  EXPECT_THAT(Mistake(x + y), HasSubstr("DOUBLE and FLOAT"));

  ModelBuilder one, other;
  EXPECT_THAT(Mistake(one.Input("a") * other.Input("b")), HasSubstr("another builder"));

  ModelBuilder empty;
  EXPECT_THAT(Mistake(empty), HasSubstr("no Output()"));

  ModelBuilder integers;
  EXPECT_THAT(Mistake(integers.Input("i", DType::kInt64) * 0.5), HasSubstr("0.5"));
}

}  // namespace
}  // namespace gradwire
