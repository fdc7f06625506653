// ONNX's Attention, said with products, a softmax and the masks before it.
#include <cmath>
#include <limits>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
enum Input { kQuery, kKey, kValue, kMask, kPastKey, kPastValue };

class AttentionImport {
 public:
  explicit AttentionImport(NodeImport& n) : n_(n), b_(n.b) {}

  std::vector<ValueId> Run() {
    if (!ReadInputs() || !ReadAttributes()) return {};
    const ValueId bias = Bias();
    if (!b_.ok()) return {};
    const ValueId scaled = Mul(b_, query_, b_.ScalarLike(query_, scale_));
    const ValueId scores = Product(scaled, MatrixTranspose(b_, key_));
    const ValueId capped = Capped(scores);
    const ValueId biased = bias == kNoValue ? capped : Add(b_, capped, bias);
    const ValueId weights = Weights(biased, bias);
    const ValueId by_mode[] = {scores, capped, biased, weights};
    std::vector<ValueId> out = {Joined(Product(weights, value_)), key_, value_, by_mode[mode_]};
    out.resize(static_cast<size_t>(n_.num_outputs));
    return out;
  }

 private:
  bool Fail(Reason reason, absl::string_view what) {
    n_.Fail(reason, what);
    return false;
  }

  bool CheckTypes() {
    for (int i : {kQuery, kKey, kValue, kPastKey, kPastValue}) {
      if (!n_.has(i)) continue;
      if (!IsFloating(n_.type(i).dtype) || n_.type(i).dtype != n_.type(0).dtype) {
        return Fail(Reason::kDtypeUnsupported,
                    absl::StrCat("input ", i, " is ", DTypeName(n_.type(i).dtype), ", input 0 ",
                                 DTypeName(n_.type(0).dtype), "; expected one floating type"));
      }
      const int rank = n_.type(i).shape.rank(), expected = i < kMask ? n_.type(0).shape.rank() : 4;
      if (rank != expected || rank < 3 || rank > 4) {
        return Fail(Reason::kShapeMismatch,
                    absl::StrCat("input ", i, " is ", n_.type(i).shape.ToString(),
                                 ", expected 3 or 4 dimensions as input 0"
                                 " has, and 4 for past ones"));
      }
    }
    return true;
  }

  // Input i as [batch, heads, sequence, size].
  ValueId Heads(int i, absl::string_view attribute) {
    const Shape shape = n_.type(i).shape;
    if (shape.rank() == 4) return n_.in(i);
    const int64_t heads = IntAttr(n_, attribute, 0);
    if (heads <= 0 || shape[2] % heads != 0) {
      n_.Fail(Reason::kShapeMismatch,
              absl::StrCat("input ", i, " is ", shape.ToString(), ", ", attribute, " ", heads,
                           "; expected a positive number of heads that divides the last extent"));
      return kNoValue;
    }
    const ValueId split = Reshape(b_, n_.in(i), {shape[0], shape[1], heads, shape[2] / heads});
    return Transpose(b_, split, {0, 2, 1, 3});
  }

  bool ReadInputs() {
    if (!TakesInputs(n_, 3, 6) || !CheckTypes()) return false;
    if (n_.has(kPastKey) != n_.has(kPastValue)) {
      return Fail(Reason::kInvalidModel, "past_key and past_value are used together only");
    }
    query_ = Heads(kQuery, "q_num_heads");
    key_ = Heads(kKey, "kv_num_heads");
    value_ = Heads(kValue, "kv_num_heads");
    if (!b_.ok()) return false;
    if (n_.has(kPastKey)) {
      past_ = n_.type(kPastKey).shape[2];
      key_ = Concat(b_, {n_.in(kPastKey), key_}, 2);
      value_ = Concat(b_, {n_.in(kPastValue), value_}, 2);
    }
    if (!b_.ok()) return false;
    const Shape q = b_.shape(query_), k = b_.shape(key_), v = b_.shape(value_);
    const bool fits = q[0] == k[0] && k[0] == v[0] && k[1] == v[1] && k[2] == v[2] && q[3] == k[3];
    if (!fits || (k[1] == 0 ? q[1] != 0 : q[1] % k[1] != 0)) {
      return Fail(Reason::kShapeMismatch,
                  absl::StrCat("queries are ", q.ToString(), ", keys ", k.ToString(), ", values ",
                               v.ToString(),
                               "; expected [batch, heads, sequence, size] with a"
                               " multiple of the keys' heads for the queries"));
    }
    batch_ = q[0], heads_ = q[1], rows_ = q[2], columns_ = k[2];
    return IndicesFit(n_, std::max(rows_, columns_));
  }

  bool ReadAttributes() {
    const double size = static_cast<double>(b_.shape(query_)[3]);
    scale_ = FloatAttr(n_, "scale", 1 / std::sqrt(size));
    softcap_ = FloatAttr(n_, "softcap", 0);
    mode_ = IntAttr(n_, "qk_matmul_output_mode", 0);
    const auto precision = IntAttr(n_, "softmax_precision", 0);
    precision_ = precision == 0 ? b_.dtype(query_) : static_cast<DType>(precision);
    if (!b_.ok()) return false;
    if (!(softcap_ >= 0) || mode_ < 0 || mode_ > 3) {
      return Fail(Reason::kInvalidModel,
                  absl::StrCat("softcap is ", softcap_, ", qk_matmul_output_mode ", mode_,
                               "; expected a softcap of 0 or more and a mode of 0 to 3"));
    }
    if (precision_ != DType::kFloat && precision_ != DType::kDouble) {
      return Fail(Reason::kDtypeUnsupported,
                  absl::StrCat("softmax_precision is ", precision, ", expected FLOAT or DOUBLE"));
    }
    return true;
  }

  // What is added to the scores, kNoValue for nothing.
  ValueId Bias() {
    const ValueId zero = b_.ScalarLike(query_, 0), never = b_.ScalarLike(query_, -kInfinity);
    ValueId bias = kNoValue;
    if (n_.has(kMask)) {
      const DType dtype = n_.type(kMask).dtype;
      if (dtype != DType::kBool && dtype != b_.dtype(query_)) {
        n_.Fail(Reason::kDtypeUnsupported,
                absl::StrCat("the mask is ", DTypeName(dtype), ", expected BOOL or ",
                             DTypeName(b_.dtype(query_))));
        return kNoValue;
      }
      const ValueId mask = n_.in(kMask);
      const Shape scores({batch_, heads_, rows_, columns_});
      if (!BroadcastsTo(b_.shape(mask), scores)) {
        n_.Fail(Reason::kShapeMismatch,
                absl::StrCat("the mask is ", n_.type(kMask).shape.ToString(),
                             ", expected what broadcasts to ", scores.ToString()));
      }
      if (!b_.ok()) return kNoValue;
      bias = dtype == DType::kBool ? Where(b_, mask, zero, never) : mask;
    }
    if (IntAttr(n_, "is_causal", 0) == 0) return bias;
    const auto indices = [&](int64_t count, int64_t from) {
      return b_.Constant(Tensor::FromVector<int64_t>({count}, Iota(from, from + count)));
    };
    const ValueId last = Reshape(b_, indices(rows_, past_), {rows_, 1});
    const ValueId causal = Where(b_, LessOrEqual(b_, indices(columns_, 0), last), zero, never);
    return bias == kNoValue ? causal : Add(b_, bias, causal);
  }

  // x [batch, heads, m, k] times y [batch, kv heads, k, n]: consecutive heads share one of y's.
  ValueId Product(ValueId x, ValueId y) {
    if (!b_.ok()) return kNoValue;
    const Shape rows = b_.shape(x), columns = b_.shape(y);
    const int64_t groups = columns[1] == 0 ? 1 : rows[1] / columns[1];
    const ValueId grouped = Reshape(b_, x, {rows[0], columns[1], groups * rows[2], rows[3]});
    return Reshape(b_, MatMul(b_, grouped, y), {rows[0], rows[1], rows[2], columns[3]});
  }

  ValueId Capped(ValueId scores) {
    if (softcap_ == 0) return scores;
    const ValueId cap = b_.ScalarLike(scores, softcap_);
    return Mul(b_, Tanh(b_, Div(b_, scores, cap)), cap);
  }

  // The softmax; 0 where the bias masks the whole row. The scores of such a row are replaced first,
  // so that no NaN gets into derivatives.
  ValueId Weights(ValueId biased, ValueId bias) {
    const bool may_mask_all = n_.has(kMask);
    const ValueId zero = b_.ScalarLike(biased, 0);
    ValueId masked = kNoValue;
    if (may_mask_all) {
      const int rank = b_.shape(bias).rank();
      const ValueId top = rank == 0 ? bias : ReduceMax(b_, bias, {rank - 1}, true);
      masked = Equal(b_, top, b_.ScalarLike(biased, -kInfinity));
      biased = Where(b_, masked, zero, biased);
    }
    const DType dtype = b_.dtype(biased);
    const ValueId weights = Cast(b_, Softmax(b_, Cast(b_, biased, precision_), {3}), dtype);
    return may_mask_all ? Where(b_, masked, zero, weights) : weights;
  }

  // As the query came: heads side by side where it had three dimensions.
  ValueId Joined(ValueId y) {
    if (n_.type(kQuery).shape.rank() == 4 || !b_.ok()) return y;
    const int64_t width = heads_ * b_.shape(y)[3];
    return Reshape(b_, Transpose(b_, y, {0, 2, 1, 3}), {batch_, rows_, width});
  }

  NodeImport& n_;
  GraphBuilder& b_;
  ValueId query_ = kNoValue, key_ = kNoValue, value_ = kNoValue;
  int64_t batch_ = 0, heads_ = 0, rows_ = 0, columns_ = 0, past_ = 0;
  double scale_ = 1, softcap_ = 0;
  int64_t mode_ = 0;
  DType precision_ = DType::kUndefined;
};

std::vector<Sample> AttentionSamples() {
  const SampleInput q = Drawn({2, 4, 3, 2}), k = Drawn({2, 4, 5, 2}), v = Drawn({2, 4, 5, 3});
  const SampleInput q3 = Drawn({2, 3, 8}), k3 = Drawn({2, 5, 4}), v3 = Drawn({2, 5, 6});
  const Attrs heads = {{"q_num_heads", int64_t{4}}, {"kv_num_heads", int64_t{2}}};
  const auto masked = [](Dims shape, std::vector<double> values) {
    return Given(std::move(shape), std::move(values), DType::kBool);
  };
  std::vector<Sample> out = {
      {.inputs = {q, k, v}},
      {.inputs = {q3, k3, v3}, .attrs = heads, .num_outputs = 3},
      {.inputs = {q, k, v, Drawn({3, 5})}, .attrs = {{"is_causal", int64_t{1}}, {"scale", 0.3}}},
      {.inputs = {q, k, v, Drawn({2, 1, 3, 5})}, .attrs = {{"softcap", 1.5}}},
      {.inputs = {q, k, v, Drawn({4, 3, 1})}},
      {.inputs = {q, k, v, masked({3, 5}, {1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0})}},
      {.inputs = {q, k, v, masked({1, 3, 5}, {0, 1, 1, 0, 1})},
       .attrs = {{"is_causal", int64_t{1}}}},
      {.inputs = {q, Drawn({2, 2, 2, 2}), Drawn({2, 2, 2, 3}), Absent(), Drawn({2, 2, 4, 2}),
                  Drawn({2, 2, 4, 3})},
       .attrs = {{"is_causal", int64_t{1}}, {"softmax_precision", int64_t{11}}},
       .num_outputs = 3},
      {.inputs = {Drawn({1, 2, 0, 2}), Drawn({1, 2, 0, 2}), Drawn({1, 2, 0, 2})}},
  };
  for (int64_t mode = 0; mode < 4; ++mode) {
    out.push_back({.inputs = {q, k, v, Drawn({3, 5})},
                   .attrs = {{"qk_matmul_output_mode", mode}, {"softcap", 2.0}},
                   .num_outputs = 4});
  }
  for (Sample& sample : out) sample.opset = 23;
  return out;
}

const OpDef kAttentionOp = {
    .name = "Attention",
    .doc =
        "`softmax(scale Q K' + mask) V` for each head, with all of ONNX's options: heads side by"
        " side or as a dimension, fewer heads for keys and values, past keys and values, `softcap`"
        " before the mask, `is_causal` counted from behind the past. A row whose keys are all"
        " masked gives 0. Masks are BOOL or of the queries' type; FLOAT or DOUBLE for"
        " `softmax_precision`.",
    .min_inputs = 3,
    .max_inputs = 6,
    .onnx = {{.name = "Attention",
              .since = 23,
              .import = [](NodeImport& n) { return AttentionImport(n).Run(); }}},
    .domain = {.samples = AttentionSamples()},
};

}  // namespace

std::vector<const OpDef*> AttentionOps() { return {&kAttentionOp}; }

}  // namespace gradwire
