// States of a model's own (running statistics of BatchNormalization): who updates them, and when.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/ops/builders.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// y = bn(bn(x) * w): both nodes share scale, bias and statistics. `first` is the momentum.
constexpr char kModel[] = R"(
<ir_version: 8, opset_import: ["" : 15]>
twice (double[N,1] x) => (double[N,1] y)
<double[1] scale = {1.0}, double[1] bias = {0.0}, double[1] mean = {8.0}, double[1] var = {16.0},
 double w = {3.0}>
{
  z = BatchNormalization <epsilon = 0.0, momentum = 0.5> (x, scale, bias, mean, var)
  zw = Mul (z, w)
  y = BatchNormalization <epsilon = 0.0, momentum = 0.5> (zw, scale, bias, mean, var)
}
)";

std::shared_ptr<const LoadedModel> Load(Engine& engine, absl::string_view text) {
  return Value(engine.LoadModel(ModelFormat::kText, text, {}));
}

Graph GraphOf(const LoadedModel& loaded, Mode mode, bool update_states) {
  const Tensor x = Tensor::FromVector<double>({2, 1}, {1, 3});
  const NamedViews inputs = {{"x", x}};
  SpecializeRequest request;
  request.inputs = &inputs;
  request.mode = mode;
  request.update_states = update_states;
  return Value(Specialize(*loaded.model, request)).graph;
}

TEST(StatesTest, ATrainingStepUpdatesThemOneNodeAfterTheOther) {
  Engine engine(QuickEngine());
  const auto loaded = Load(engine, kModel);
  const Graph graph = GraphOf(*loaded, Mode::kTrain, true);
  EXPECT_TRUE(VerifyGraph(graph).ok()) << VerifyGraph(graph);
  ASSERT_EQ(graph.updates().size(), 2u);
  BoundProgram program(CompileGraph(graph), {{"x", Tensor::FromVector<double>({2, 1}, {1, 3})},
                                             {"scale", Vector({1})},
                                             {"bias", Vector({0})},
                                             {"mean", Vector({8})},
                                             {"var", Vector({16})},
                                             {"w", Tensor::Scalar(3.0)}});
  EXPECT_EQ(ToDoubles(program.Results()[0]), (std::vector<double>{-1, 1}));
  // The batches' means are 2 and 0, their variances 1 and 9.
  EXPECT_EQ(ToDoubles(program.Input("mean")), (std::vector<double>{(8 + 2) / 2.0 / 2}));
  EXPECT_EQ(ToDoubles(program.Input("var")), (std::vector<double>{((16 + 1) / 2.0 + 9) / 2}));
}

TEST(StatesTest, NothingElseUpdatesThem) {
  Engine engine(QuickEngine());
  const auto loaded = Load(engine, kModel);
  EXPECT_TRUE(GraphOf(*loaded, Mode::kTrain, false).updates().empty());
  EXPECT_TRUE(GraphOf(*loaded, Mode::kEval, true).updates().empty());
  EXPECT_TRUE(GraphOf(*loaded, Mode::kAsGraph, true).updates().empty());
}

TEST(StatesTest, AStateThatIsNoInitialiserIsLeftAlone) {
  Engine engine(QuickEngine());
  const auto loaded = Load(engine, R"(
<ir_version: 8, opset_import: ["" : 15]>
bn (double[N,1] x) => (double[N,1] y)
<double[1] one = {1.0}, double[1] mean = {8.0}>
{
  half = Mul (mean, one)
  y = BatchNormalization (x, one, one, half, mean)
}
)");
  const Graph graph = GraphOf(*loaded, Mode::kTrain, true);
  ASSERT_EQ(graph.updates().size(), 1u);
  EXPECT_EQ(graph.updates()[0].input, "mean");
  // It also serves as something else than a state, so it is trained like any initialiser.
  EXPECT_THAT(TrainableInitializers(*loaded->model), ElementsAre("one", "mean"));
}

TEST(StatesTest, NothingDifferentiatesByThemUnlessAsked) {
  Engine engine(QuickEngine());
  const auto loaded = Load(engine, kModel);
  EXPECT_THAT(DefaultWrt(*loaded->model, {}), ElementsAre("scale", "bias", "w"));
  EXPECT_THAT(TrainableInitializers(*loaded->model), ElementsAre("scale", "bias", "w"));
  const Tensor x = Tensor::FromVector<double>({1, 1}, {1});
  const auto asked = engine.Prepare(
      *loaded, {.kind = Computation::kVjp, .outputs = {}, .wrt = {"mean", "var"}}, {{"x", x}});
  EXPECT_TRUE(asked.ok()) << asked.status();
}

}  // namespace
}  // namespace gradwire
