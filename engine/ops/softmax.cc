// Softmax and the losses on its logarithm, all said with core ops: Compile fuses them into rows.
#include <algorithm>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using SoftmaxFn = ValueId (*)(GraphBuilder&, ValueId, const Axes&);

template <SoftmaxFn kSoftmax>
std::vector<ValueId> ImportSoftmax(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const int rank = std::max(n.type(0).shape.rank(), 1);
  // Below opset 13 the input counts as the matrix of what is before the axis by what follows.
  const bool matrix = n.opset < 13;
  const int axis = n.Axis(IntAttr(n, "axis", matrix ? 1 : -1), rank);
  if (!n.b.ok()) return {};
  // A scalar counts as a vector of one.
  if (n.type(0).shape.rank() == 0) {
    return {Reshape(n.b, kSoftmax(n.b, Reshape(n.b, n.in(0), {1}), {0}), {})};
  }
  return {kSoftmax(n.b, n.in(0), Iota(axis, matrix ? rank : axis + 1))};
}

std::vector<Sample> SoftmaxSamples() {
  return {
      {.inputs = {Drawn({3, 5})}},
      {.inputs = {Drawn({2, 3, 4})}, .attrs = {{"axis", int64_t{1}}}},
      {.inputs = {Drawn({2, 3, 4})}, .attrs = {{"axis", int64_t{-3}}}},
      {.inputs = {Drawn({2, 3, 4})}, .opset = 11},
      {.inputs = {Drawn({2, 3, 4})}, .attrs = {{"axis", int64_t{-1}}}, .opset = 11},
      {.inputs = {Drawn({2, 3})}, .attrs = {{"axis", int64_t{0}}}, .opset = 6},
      {.inputs = {Drawn({4})}},
      {.inputs = {Drawn({})}},
      {.inputs = {Drawn({3, 1})}},
      {.inputs = {Drawn({0, 3})}},
      {.inputs = {Drawn({3, 0})}},
      {.inputs = {Drawn({4, 67}, -20, 20)}},
  };
}

const OpDef kSoftmaxOp = {
    .name = "Softmax",
    .doc =
        "`exp(x - max) / sum(exp(x - max))` along `axis` (below opset 13: over all dimensions from"
        " `axis` on). A slice that is all -inf gives NaN.",
    .onnx = {{.name = "Softmax", .since = 1, .import = ImportSoftmax<Softmax>}},
    .domain = {.samples = SoftmaxSamples()},
};

const OpDef kLogSoftmaxOp = {
    .name = "LogSoftmax",
    .doc =
        "`x - max - log(sum(exp(x - max)))` along `axis` (below opset 13: over all dimensions from"
        " `axis` on).",
    .onnx = {{.name = "LogSoftmax", .since = 1, .import = ImportSoftmax<LogSoftmax>}},
    .domain = {.samples = SoftmaxSamples()},
};

// ---- Losses

// Scores [N, C, d1..dk], labels [N, d1..dk], weights [C] where given.
bool LossInputsFit(NodeImport& n) {
  if (!TakesInputs(n, 2, 3)) return false;
  const TensorType scores = n.type(0), labels = n.type(1);
  if (!IsFloating(scores.dtype)) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("scores are ", DTypeName(scores.dtype), ", expected FLOAT or DOUBLE"));
    return false;
  }
  if (labels.dtype != DType::kInt32 && labels.dtype != DType::kInt64) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("labels are ", DTypeName(labels.dtype), ", expected INT32 or INT64"));
    return false;
  }
  Dims expected = scores.shape.dims();
  if (scores.shape.rank() >= 2) expected.erase(expected.begin() + 1);
  if (scores.shape.rank() < 2 || labels.shape != Shape(expected)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("scores are ", scores.shape.ToString(), ", labels ",
                        labels.shape.ToString(), "; expected [N,C,...] and [N,...]"));
    return false;
  }
  const TensorType weights{scores.dtype, {scores.shape[1]}};
  if (n.has(2) && n.type(2) != weights) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("weights are ", n.type(2).ToString(), ", expected ", weights.ToString()));
    return false;
  }
  return IndicesFit(n, scores.shape[1]);
}

// Minus the weighted log probabilities of the labels, reduced as the node says.
ValueId LabelLoss(NodeImport& n, ValueId log_prob) {
  GraphBuilder& b = n.b;
  const std::string reduction = StringAttr(n, "reduction", "mean");
  if (reduction != "none" && reduction != "sum" && reduction != "mean") {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("reduction is \"", reduction, "\", expected none, sum or mean"));
  }
  const int64_t ignored = IntAttr(n, "ignore_index", 0);
  if (!b.ok()) return kNoValue;
  const bool ignores = n.attrs.Has("ignore_index");
  const LabelPick pick = PickLabels(b, log_prob, n.in(1), n.has(2) ? n.in(2) : kNoValue,
                                    ignores ? std::optional<int64_t>(ignored) : std::nullopt);
  const ValueId loss = Neg(b, Mul(b, pick.weight, pick.log_prob));
  if (reduction == "none") return loss;
  if (reduction == "sum") return ReduceSum(b, loss, {});
  if (!ignores && !n.has(2)) return ReduceMean(b, loss, {});
  return Div(b, ReduceSum(b, loss, {}), ReduceSum(b, pick.weight, {}));
}

std::vector<Sample> LossSamples(int outputs) {
  auto labels = [](Dims shape, std::vector<double> values, DType dtype = DType::kInt64) {
    return Given(std::move(shape), std::move(values), dtype);
  };
  auto reduction = [](const char* how) { return Attrs::Entry{"reduction", std::string(how)}; };
  const SampleInput weights = Drawn({4}, 0.2, 2);
  const Attrs::Entry ignore = {"ignore_index", int64_t{-100}};
  return {
      {.inputs = {Drawn({3, 4}), labels({3}, {0, 3, 1})}, .num_outputs = outputs},
      {.inputs = {Drawn({3, 4}), labels({3}, {2, 2, 1}, DType::kInt32)},
       .attrs = {reduction("sum")}},
      {.inputs = {Drawn({2, 4, 3}), labels({2, 3}, {0, 1, 2, 3, 0, 1}), weights},
       .attrs = {reduction("none")},
       .num_outputs = outputs},
      {.inputs = {Drawn({2, 4, 3}), labels({2, 3}, {0, 1, 2, 3, 0, 1}), weights}, .opset = 12},
      {.inputs = {Drawn({3, 4}), labels({3}, {-100, 3, 1}), weights}, .attrs = {ignore}},
      {.inputs = {Drawn({3, 4}), labels({3}, {3, -100, 1})}, .attrs = {ignore}, .opset = 13},
      {.inputs = {Drawn({3, 4}), labels({3}, {1, 0, 1})},
       .attrs = {{"ignore_index", int64_t{1}}, reduction("none")}},
      {.inputs = {Drawn({1, 4, 2, 2}), labels({1, 2, 2}, {3, 2, 1, 0})}},
      {.inputs = {Drawn({0, 4}), labels({0}, {})}, .attrs = {reduction("sum")}},
  };
}

const OpDef kSoftmaxCrossEntropyLossOp = {
    .name = "SoftmaxCrossEntropyLoss",
    .doc =
        "Minus the log softmax of the scores `[N, C, ...]` at the labels `[N, ...]`, times the"
        " class weights; `mean` divides by the sum of the weights. Labels equal to"
        " `ignore_index` count for nothing; others outside [0, C) are an error. The second"
        " output is the log softmax.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "SoftmaxCrossEntropyLoss",
              .since = 12,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!LossInputsFit(n)) return {};
                const ValueId log_prob = LogSoftmax(n.b, n.in(0), {1});
                const ValueId loss = LabelLoss(n, log_prob);
                if (n.num_outputs < 2) return {loss};
                return {loss, log_prob};
              }}},
    .domain = {.samples = LossSamples(2)},
};

const OpDef kNegativeLogLikelihoodLossOp = {
    .name = "NegativeLogLikelihoodLoss",
    .doc =
        "Minus the input `[N, C, ...]` (log probabilities) at the labels `[N, ...]`, weighted and"
        " reduced as in SoftmaxCrossEntropyLoss.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "NegativeLogLikelihoodLoss",
              .since = 12,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!LossInputsFit(n)) return {};
                return {LabelLoss(n, n.in(0))};
              }}},
    .domain = {.samples = LossSamples(1)},
};

}  // namespace

ValueId Softmax(GraphBuilder& b, ValueId x, const Axes& axes) {
  const ValueId top = StopGradient(b, ReduceMax(b, x, axes, true));
  const ValueId e = Exp(b, Sub(b, x, top));
  return Div(b, e, ReduceSum(b, e, axes, true));
}

ValueId LogSoftmax(GraphBuilder& b, ValueId x, const Axes& axes) {
  const ValueId shifted = Sub(b, x, StopGradient(b, ReduceMax(b, x, axes, true)));
  return Sub(b, shifted, Log(b, ReduceSum(b, Exp(b, shifted), axes, true)));
}

LabelPick PickLabels(GraphBuilder& b, ValueId log_prob, ValueId labels, ValueId class_weights,
                     std::optional<int64_t> ignored) {
  const TensorType scores = b.type(log_prob);
  const DType dtype = b.dtype(labels);
  const int64_t num_classes = scores.shape[1];
  ValueId valid = kNoValue;
  // An index that the labels' dtype does not have ignores nothing.
  const bool reachable =
      ignored.has_value() &&
      (dtype == DType::kInt64 || *ignored == static_cast<int64_t>(static_cast<int32_t>(*ignored)));
  if (reachable) {
    const ValueId which = b.Constant(Tensor::Scalar<int64_t>(*ignored));
    valid = Not(b, Equal(b, labels, Cast(b, which, dtype)));
  }
  // Extents of 1 behind C line it up with dimension 1 of the scores.
  Dims class_dims(static_cast<size_t>(scores.shape.rank() - 1), 1);
  class_dims[0] = num_classes;
  const ValueId classes =
      b.Constant(Tensor::FromVector<int64_t>(Shape(class_dims), Iota(0, num_classes)));
  ValueId hit = Equal(b, Unsqueeze(b, labels, {1}), Cast(b, classes, dtype));
  if (valid != kNoValue) hit = And(b, hit, Unsqueeze(b, valid, {1}));
  const ValueId nothing = b.Scalar(scores.dtype, 0);
  LabelPick out;
  out.log_prob = ReduceSum(b, Where(b, hit, log_prob, nothing), {1});
  // Reading the weights from a vector of C also refuses, when the Program runs, labels that are
  // outside [0, C) without being ignored; a one-hot comparison would pass them over. Gather counts
  // negative indices from the end; a negative label is an error.
  const ValueId zero = b.ScalarLike(labels, 0);
  const ValueId outside = b.ScalarLike(labels, static_cast<double>(num_classes));
  ValueId index = Where(b, Less(b, labels, zero), outside, labels);
  if (valid != kNoValue) index = Where(b, valid, index, zero);
  if (class_weights == kNoValue) class_weights = b.Full({scores.dtype, {num_classes}}, 1);
  const ValueId weights = Gather(b, class_weights, index, 0);
  out.weight = valid == kNoValue ? weights : Where(b, valid, weights, nothing);
  return out;
}

std::vector<const OpDef*> SoftmaxOps() {
  return {&kSoftmaxOp, &kLogSoftmaxOp, &kSoftmaxCrossEntropyLossOp, &kNegativeLogLikelihoodLossOp};
}

}  // namespace gradwire
