// File: builders.h
//
// Typed functions that add ops to a graph: how derivative rules, losses, optimisers and imports say
// mathematics. Each adds one core op (or an exact simplification of it), or a few for composites.
// NumPy broadcasting wherever two values meet. Errors are sticky in the builder.
//
//   ValueId loss = ReduceMean(b, Mul(b, d, d), {});      // mean of squares, over everything
#ifndef GRADWIRE_ENGINE_OPS_BUILDERS_H_
#define GRADWIRE_ENGINE_OPS_BUILDERS_H_

#include <optional>
#include <vector>

#include "engine/graph/builder.h"

namespace gradwire {

using Axes = std::vector<int64_t>;

// ---- elementwise.cc: arithmetic and functions of one value
ValueId Add(GraphBuilder& b, ValueId x, ValueId y);
ValueId Sub(GraphBuilder& b, ValueId x, ValueId y);
ValueId Mul(GraphBuilder& b, ValueId x, ValueId y);
ValueId Div(GraphBuilder& b, ValueId x, ValueId y);
ValueId Min(GraphBuilder& b, ValueId x, ValueId y);
ValueId Max(GraphBuilder& b, ValueId x, ValueId y);
ValueId Pow(GraphBuilder& b, ValueId x, ValueId y);
ValueId Neg(GraphBuilder& b, ValueId x);
ValueId Square(GraphBuilder& b, ValueId x);
ValueId Plus(GraphBuilder& b, ValueId x, double term);
ValueId Times(GraphBuilder& b, ValueId x, double factor);
ValueId Abs(GraphBuilder& b, ValueId x);
ValueId Sign(GraphBuilder& b, ValueId x);
ValueId Sqrt(GraphBuilder& b, ValueId x);
ValueId Reciprocal(GraphBuilder& b, ValueId x);
ValueId Exp(GraphBuilder& b, ValueId x);
ValueId Expm1(GraphBuilder& b, ValueId x);
ValueId Log(GraphBuilder& b, ValueId x);
ValueId Log1p(GraphBuilder& b, ValueId x);
ValueId Sin(GraphBuilder& b, ValueId x);
ValueId Cos(GraphBuilder& b, ValueId x);
ValueId Sinh(GraphBuilder& b, ValueId x);
ValueId Cosh(GraphBuilder& b, ValueId x);
ValueId Tanh(GraphBuilder& b, ValueId x);
ValueId Erf(GraphBuilder& b, ValueId x);
ValueId Sigmoid(GraphBuilder& b, ValueId x);
ValueId Softplus(GraphBuilder& b, ValueId x);
ValueId Relu(GraphBuilder& b, ValueId x);
// x, with a derivative of zero: for shifts that cancel out (the maximum in a softmax).
ValueId StopGradient(GraphBuilder& b, ValueId x);
// x as a value of its own: never merged with x, so that it can be differentiated by.
ValueId Tag(GraphBuilder& b, ValueId x, absl::string_view name);
extern const OpDef kTagOp;

// ---- rounding.cc
ValueId Floor(GraphBuilder& b, ValueId x);
ValueId Round(GraphBuilder& b, ValueId x);  // half to even
ValueId TruncatedMod(GraphBuilder& b, ValueId x, ValueId y);

// ---- logical.cc: comparisons (BOOL results), choice, conversion
ValueId Equal(GraphBuilder& b, ValueId x, ValueId y);
ValueId Less(GraphBuilder& b, ValueId x, ValueId y);
ValueId LessOrEqual(GraphBuilder& b, ValueId x, ValueId y);
ValueId Greater(GraphBuilder& b, ValueId x, ValueId y);
ValueId GreaterOrEqual(GraphBuilder& b, ValueId x, ValueId y);
ValueId Not(GraphBuilder& b, ValueId x);
ValueId And(GraphBuilder& b, ValueId x, ValueId y);
ValueId Or(GraphBuilder& b, ValueId x, ValueId y);
ValueId Where(GraphBuilder& b, ValueId condition, ValueId x, ValueId y);
ValueId Cast(GraphBuilder& b, ValueId x, DType to);

// ---- reduction.cc: over `axes` (normalised, sorted, distinct; empty means over all of them)
ValueId ReduceSum(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
ValueId ReduceMean(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
ValueId ReduceMax(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
ValueId ReduceMin(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
ValueId ReduceProd(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
ValueId ReduceLogSumExp(GraphBuilder& b, ValueId x, const Axes& axes, bool keepdims = false);
// The parts of p-norms, p at least 1: |x|^p, and x^(1/p) with a derivative of 0 at 0 (PyTorch's
// convention for norms) for what is not negative.
ValueId PowerOfMagnitude(GraphBuilder& b, ValueId x, double p);
ValueId NormRoot(GraphBuilder& b, ValueId x, double p);
// Sums x down to a shape that broadcasts to x's: the transpose of broadcasting.
ValueId SumTo(GraphBuilder& b, ValueId x, const Shape& shape);

// ---- softmax.cc
ValueId Softmax(GraphBuilder& b, ValueId x, const Axes& axes);
ValueId LogSoftmax(GraphBuilder& b, ValueId x, const Axes& axes);
// Of log probabilities [N, C, ...] at INT32 or INT64 labels [N, ...]: each label's log probability
// and class weight (1 without `class_weights` [C]); both are 0 where the label is `ignored`. Other
// labels outside [0, C) fail the Run.
struct LabelPick {
  ValueId log_prob = kNoValue;
  ValueId weight = kNoValue;
};
LabelPick PickLabels(GraphBuilder& b, ValueId log_prob, ValueId labels, ValueId class_weights,
                     std::optional<int64_t> ignored);

// ---- linalg.cc: [..., M, K] x [..., K, N], ranks of 2 and more, leading dimensions broadcast
ValueId MatMul(GraphBuilder& b, ValueId x, ValueId y);
// Swaps the last two dimensions.
ValueId MatrixTranspose(GraphBuilder& b, ValueId x);
// (A B)^T as B^T A^T: kNoValue unless x is a MatMul and perm swaps its last two dimensions only.
ValueId SwapFactors(GraphBuilder& b, ValueId x, const std::vector<int64_t>& perm);
// True where v is a product of two matrices that have fewer elements together than it has.
bool IsThinProduct(const GraphBuilder& b, ValueId v);
// The sum of such products, of one type, as one product: A B + C D = [A C] [B; D]. What the steps
// of an unrolled loop give to a weight then costs a copy of the factors and no additions.
ValueId SumThinProducts(GraphBuilder& b, absl::Span<const ValueId> products);

// ---- sum_pool.cc: the sum of each window of [N, C, ...], which "kernel", "strides", "pads" and
// "dilations" describe (engine/graph/window.h)
ValueId SumPool(GraphBuilder& b, ValueId x, const Attrs& window);

// ---- shape.cc, indexing.cc: moving elements
ValueId Reshape(GraphBuilder& b, ValueId x, const Shape& shape);
ValueId Transpose(GraphBuilder& b, ValueId x, const std::vector<int64_t>& perm);
ValueId Expand(GraphBuilder& b, ValueId x, const Shape& shape);
// Inserts dimensions of 1 at these positions of the result.
ValueId Unsqueeze(GraphBuilder& b, ValueId x, const Axes& axes);
// out[i] = x[starts + i * steps] in each dimension, of extents `shape`; steps may be negative.
ValueId Slice(GraphBuilder& b, ValueId x, const std::vector<int64_t>& starts,
              const std::vector<int64_t>& steps, const Shape& shape);
// The transpose of Slice: zeros of `shape` with x placed at starts + i * steps.
ValueId Unslice(GraphBuilder& b, ValueId x, const std::vector<int64_t>& starts,
                const std::vector<int64_t>& steps, const Shape& shape);
ValueId Concat(GraphBuilder& b, absl::Span<const ValueId> xs, int axis);
// True where v is an Unslice that steps by one: a part in a window of zeros.
bool IsPlaced(const GraphBuilder& b, ValueId v);
// The sum of such values, of one type. Parts whose windows lie side by side are joined by Concat,
// not added: putting together again what Slice cut up costs one copy, not one addition a piece.
ValueId SumPlaced(GraphBuilder& b, absl::Span<const ValueId> placed);
// out[..., i..., ...] = x[..., indices[i...], ...] along axis; negative indices count from the end.
ValueId Gather(GraphBuilder& b, ValueId x, ValueId indices, int axis);
// The transpose of Gather: zeros of extent `extent` along axis, with x added at the indices.
ValueId GatherGrad(GraphBuilder& b, ValueId x, ValueId indices, int axis, int64_t extent);

// ---- random.cc
// Uniform in [0, 1) by Philox, keyed by (seed, step) of the INT64[2] value `seed` and by `stream`.
ValueId RandomUniform(GraphBuilder& b, ValueId seed, const TensorType& type, int64_t stream);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_BUILDERS_H_
