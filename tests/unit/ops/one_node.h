// One ONNX node on constants.
//
//   EXPECT_EQ(OneNode("Relu").Counting({3}).Result(), "[3]: 0 1 2");
#ifndef GRADWIRE_TESTS_UNIT_OPS_ONE_NODE_H_
#define GRADWIRE_TESTS_UNIT_OPS_ONE_NODE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/exec/specialize.h"
#include "engine/graph/node_import.h"
#include "engine/ops/all_ops.h"

namespace gradwire {

// What is frozen is a constant; there are no bodies.
class ConstantScope final : public ImportScope {
 public:
  explicit ConstantScope(const GraphBuilder& b) : b_(b) {}
  absl::StatusOr<Tensor> Freeze(ValueId v, Purpose) override {
    const Tensor* value = b_.ConstantValue(v);
    if (value == nullptr) return Error(Reason::kDataDependentShape, "no constant");
    return *value;
  }
  std::vector<ValueId> Inline(const Model&, absl::Span<const ValueId>, int64_t) override {
    return {};
  }

 private:
  const GraphBuilder& b_;
};

class OneNode {
 public:
  explicit OneNode(const char* op, int opset = 18, int outputs = 1)
      : op_(op), opset_(opset), outputs_(outputs) {}
  OneNode& Ints(std::vector<int64_t> values) {
    const auto n = static_cast<int64_t>(values.size());
    return Input(Tensor::FromVector<int64_t>({n}, values));
  }
  // 0, 1, 2, ... as DOUBLE.
  OneNode& Counting(Shape shape) {
    std::vector<double> values;
    for (int64_t i = 0; i < shape.num_elements(); ++i) values.push_back(static_cast<double>(i));
    return Input(Tensor::FromVector<double>(std::move(shape), values));
  }
  OneNode& Input(Tensor value) {
    in_.push_back(b_.Constant(std::move(value)));
    return *this;
  }
  OneNode& Without() {
    in_.push_back(kNoValue);
    return *this;
  }
  OneNode& With(const char* name, AttrValue value) {
    attrs_.emplace_back(name, std::move(value));
    return *this;
  }
  const absl::Status& Import() {
    const OpRegistry::Match match = AllOps().FindOnnx("", op_, opset_);
    if (match.op == nullptr) {
      b_.Fail(Error(Reason::kUnsupportedOp, op_));
      return b_.status();
    }
    const Attrs attrs(attrs_);
    ConstantScope scope(b_);
    NodeImport n(b_, attrs, in_, outputs_, opset_, Mode::kAsGraph, scope, 0);
    out_ = match.binding->import != nullptr ? match.binding->import(n)
                                            : b_.AddMulti(*match.op, in_, attrs);
    return b_.status();
  }
  // "[2,2]: 0 1 2 3" of output i, or the error's reason. Of what is no constant only the shape.
  std::string Result(int i = 0) {
    const ValueId v = Output(i);
    return b_.ok() ? Text(v, b_.ConstantValue(v)) : ReasonNameOf(b_.status());
  }
  // The same with the elements of whatever it is.
  std::string Evaluated(int i = 0) {
    const ValueId v = Output(i);
    if (!b_.ok()) return ReasonNameOf(b_.status());
    const auto values = EvaluateByReference(b_.so_far(), {}, {v}, int64_t{1} << 20);
    return values.ok() ? Text(v, &(*values)[0]) : ReasonNameOf(values.status());
  }

 private:
  ValueId Output(int i) {
    if (out_.empty() && b_.ok()) Import().IgnoreError();
    return b_.ok() ? out_[static_cast<size_t>(i)] : kNoValue;
  }
  std::string Text(ValueId v, const Tensor* value) const {
    std::string text = absl::StrCat(b_.shape(v).ToString(), ":");
    for (int64_t k = 0; value != nullptr && k < value->num_elements(); ++k) {
      absl::StrAppend(&text, " ", ElementAsDouble(*value, k));
    }
    return text;
  }

  const char* op_;
  int opset_, outputs_;
  GraphBuilder b_;
  std::vector<ValueId> in_, out_;
  std::vector<Attrs::Entry> attrs_;
};

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_OPS_ONE_NODE_H_
