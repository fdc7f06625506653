// Determinants, with derivatives that are right for singular matrices too.
//
// Elimination with complete pivoting gives w and v of determinant 1 with w A v = diag(d), well
// conditioned whatever the rank of A. For fixed w and v, det(A) = det(w A v) as a function of A, so
// the derivatives of det are those at a diagonal matrix, where they are products of elements of d:
//   cof(A)    = w' diag(prod of d but d_i) v'
//   D cof(A)[H] = w' E v',  E_ii = sum over j of p_ij h_jj,  E_ij = -p_ij h_ji,  h = w H v,
// p_ij = the product of d but d_i and d_j, p_ii = 0.
#include <cstring>

#include "engine/kernels/factor.h"
#include "engine/ops/builders.h"
#include "engine/ops/matrix_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;
using Values = std::vector<ValueId>;

constexpr char kNoCofactorForm[] = "derivatives of determinants have no ONNX form";

ValueId Cofactor(GraphBuilder& b, ValueId a);
ValueId CofactorDerivative(GraphBuilder& b, ValueId a, ValueId h);

// ---- Det

Types InferDet(const InferArgs& args) {
  const TensorType& a = args.in[0];
  GW_RETURN_IF_ERROR(CheckSquare(a));
  Dims pivots = a.shape.dims();
  pivots.pop_back();
  return std::vector<TensorType>{
      {a.dtype, Shape(StackOf(a.shape))}, a, {DType::kInt64, Shape(pivots)}};
}

absl::Status ReferenceDet(const ReferenceArgs& args) {
  const TensorView& a = args.in[0];
  const int64_t n = a.shape().dims().back(), count = args.out_types[0].shape.num_elements();
  if (a.bytes() > 0) std::memcpy(args.out[1], a.raw(), static_cast<size_t>(a.bytes()));
  VisitFloating(a.dtype(), [&]<typename T>(TypeTag<T>) {
    T *out = static_cast<T*>(args.out[0]), *lu = static_cast<T*>(args.out[1]);
    int64_t* pivots = static_cast<int64_t*>(args.out[2]);
    ForMatrices(args.threads, count, n, [&](int64_t i, int threads) -> int64_t {
      factor::Lu(lu + i * n * n, n, pivots + i * n, threads);
      T product = 1;
      for (int64_t k = 0; k < n; ++k) {
        const T u = lu[(i * n + k) * n + k];
        product *= pivots[i * n + k] == k ? u : -u;
      }
      out[i] = product + T{0};  // not -0
      return -1;
    });
  });
  return absl::OkStatus();
}

// Of ranks n, n - 1, n - 2 and 0.
std::vector<Sample> DetSamples() {
  return {
      {.inputs = {Regular({3, 3})}},
      {.inputs = {Drawn({2, 2, 4, 4})}},
      {.inputs = {Given({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9})}},
      {.inputs = {Given({2, 3, 3}, {1, 2, -1, 2, 4, -2, 3, 6, -3, 0, 0, 0, 0, 2, 1, 0, 1, 3})}},
      {.inputs = {Given({4, 4}, {1, 2, 0, 1, 2, 0, 1, 3, 3, 2, 1, 4, 4, 4, 1, 5})}},
      {.inputs = {Given({4, 4}, {0})}},
      {.inputs = {Given({1, 1}, {0})}},
      {.inputs = {Given({2, 2}, {0})}},
      {.inputs = {Drawn({2, 1, 1})}},
      {.inputs = {Drawn({12, 12}, -0.8, 0.8)}},
      {.inputs = {Drawn({2, 0, 0})}},
      {.inputs = {Drawn({0, 3, 3})}},
  };
}

const OpDef kDetOp = {
    .name = "Det",
    .doc =
        "The determinants of matrices of `[..., n, n]`, by LU with partial pivoting; 1 for n = 0."
        " The derivative is the matrix of cofactors and, like the second one, right for singular"
        " matrices too; a third derivative there is an error (INVALID_TENSOR).",
    .infer = InferDet,
    .reference = ReferenceDet,
    .derivative = General{[](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
                            if (g[0] == kNoValue) return Values{kNoValue};
                            return Values{Mul(b, AsMatrices(b, g[0]), Cofactor(b, n.in[0]))};
                          },
                          [](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
                            const int64_t rank = b.shape(n.in[0]).rank();
                            const ValueId change = Mul(b, Cofactor(b, n.in[0]), t[0]);
                            return Values{ReduceSum(b, change, {rank - 2, rank - 1})};
                          }},
    .flops = CubicFlops,
    .onnx = {{.name = "Det",
              .since = 11,
              .import = [](NodeImport& n) -> Values {
                if (!TakesSquare(n, 1)) return {};
                return {n.b.Add(kDetOp, {n.in(0)})};
              }}},
    .export_onnx = [](NodeExport& n) { n.Add("Det", {n.in(0)}, n.out(0)); },
    .domain = {.samples = DetSamples()},
};

// ---- The factorisation

Types InferRankFactor(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckSquare(args.in[0]));
  return std::vector<TensorType>(3, args.in[0]);
}

absl::Status ReferenceRankFactor(const ReferenceArgs& args) {
  const TensorView& a = args.in[0];
  if (a.bytes() == 0) return absl::OkStatus();
  const int64_t n = a.shape().dims().back();
  std::memcpy(args.out[2], a.raw(), static_cast<size_t>(a.bytes()));
  VisitFloating(a.dtype(), [&]<typename T>(TypeTag<T>) {
    const auto at = [&](int output, int64_t i) {
      return static_cast<T*>(args.out[static_cast<size_t>(output)]) + i * n * n;
    };
    ForMatrices(args.threads, a.num_elements() / n / n, n, [&](int64_t i, int threads) -> int64_t {
      factor::Diagonalize(at(2, i), at(0, i), at(1, i), n, threads);
      return -1;
    });
  });
  return absl::OkStatus();
}

const OpDef kRankFactorOp = {
    .name = "RankFactor",
    .doc =
        "`W`, `V` and the diagonal `D = W A V`, with det(W) = det(V) = 1, by elimination with"
        " complete pivoting. What is made of the factors takes its derivative by `A`.",
    .infer = InferRankFactor,
    .reference = ReferenceRankFactor,
    .derivative = NotDifferentiable{"the factors serve Det, which has derivatives"},
    .flops = CubicFlops,
    .no_onnx_form = kNoCofactorForm,
    .domain = {.samples = {{.inputs = {Regular({2, 3, 3})}},
                           {.inputs = {Given({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9})}},
                           {.inputs = {Drawn({12, 12})}},
                           {.inputs = {Regular({0, 0})}}}},
};

// Products of d without some of its elements: of all that are not 0, divided again by those.
struct Products {
  ValueId nonzero = kNoValue;  // [..., n]: d, with 1 for 0
  ValueId zero = kNoValue;     // [..., n]: 1 where d is 0
  ValueId product = kNoValue;  // [..., 1]
  ValueId zeros = kNoValue;    // [..., 1]
};

struct Factors {
  ValueId w, v;
  Products of;
};

Factors RankFactors(GraphBuilder& b, ValueId a) {
  const Values f = b.AddMulti(kRankFactorOp, {StopGradient(b, a)});
  if (!b.ok()) return {};
  const ValueId d = Diagonal(b, f[2]), one = b.ScalarLike(a, 1);
  const ValueId is_zero = Equal(b, d, b.ScalarLike(a, 0));
  if (!b.ok()) return {};
  const int64_t last = b.shape(d).rank() - 1;
  Products p;
  p.nonzero = Where(b, is_zero, one, d);
  p.zero = Cast(b, is_zero, b.dtype(a));
  p.product = ReduceProd(b, p.nonzero, {last}, true);
  p.zeros = ReduceSum(b, p.zero, {last}, true);
  return {f[0], f[1], p};
}

// [..., n] as [..., n, 1] or [..., 1, n].
ValueId Column(GraphBuilder& b, ValueId x) { return Unsqueeze(b, x, {b.shape(x).rank()}); }
ValueId Row(GraphBuilder& b, ValueId x) { return Unsqueeze(b, x, {b.shape(x).rank() - 1}); }

// w' m v'
ValueId Between(GraphBuilder& b, const Factors& f, ValueId m) {
  return MatMul(b, MatrixTranspose(b, f.w), MatMul(b, m, MatrixTranspose(b, f.v)));
}

// ---- Cofactors

Types InferCopy(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckSquare(args.in[0]));
  for (const TensorType& type : args.in) {
    if (type == args.in[0]) continue;
    return Error(Reason::kShapeMismatch, absl::StrCat("is ", type.ToString(), ", expected ",
                                                      args.in[0].ToString(), " throughout"));
  }
  return std::vector<TensorType>{args.in[0]};
}

absl::Status ReferenceCopy(const ReferenceArgs& args) {
  const TensorView& value = args.in.back();
  if (value.bytes() > 0) {
    std::memcpy(args.out[0], value.raw(), static_cast<size_t>(value.bytes()));
  }
  return absl::OkStatus();
}

const OpDef kCofactorOp = {
    .name = "Cofactor",
    .doc =
        "The cofactors of matrices of `[..., n, n]`, the derivative of Det: `det(A)` times the"
        " transposed inverse where there is one. The last input holds them; the derivative is"
        " taken by `A`.",
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferCopy,
    .reference = ReferenceCopy,
    .derivative = General{[](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
                            return Values{CofactorDerivative(b, n.in[0], g[0]), kNoValue};
                          },
                          [](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
                            if (t[0] == kNoValue) return Values{kNoValue};
                            return Values{CofactorDerivative(b, n.in[0], t[0])};
                          }},
    .onnx = {{.name = "Cofactor",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                if (!TakesSquare(n, 1)) return {};
                return {Cofactor(n.b, n.in(0))};
              }}},
    .no_onnx_form = kNoCofactorForm,
    .domain = {.samples = {{.inputs = {Regular({3, 3})}},
                           {.inputs = {Given({2, 2}, {0, 2, 1, 1})}},
                           {.inputs = {Regular({2, 4, 4})}},
                           {.inputs = {Regular({2, 1, 1})}},
                           {.inputs = {Regular({0, 0})}}}},
};

ValueId Cofactor(GraphBuilder& b, ValueId a) {
  const Factors f = RankFactors(b, a);
  if (!b.ok()) return kNoValue;
  const ValueId none = Equal(b, f.of.zeros, f.of.zero);  // no other element is 0
  const ValueId others = Where(b, none, Div(b, f.of.product, f.of.nonzero), b.ScalarLike(a, 0));
  // diag(others) v'
  const ValueId right = Mul(b, Column(b, others), MatrixTranspose(b, f.v));
  const ValueId value = MatMul(b, MatrixTranspose(b, f.w), right);
  return b.Add(kCofactorOp, {a, value});
}

ValueId Trace(GraphBuilder& b, ValueId x) {
  const ValueId diagonal = Diagonal(b, x);
  if (!b.ok()) return kNoValue;
  return AsMatrices(b, ReduceSum(b, diagonal, {b.shape(diagonal).rank() - 1}));
}

// D^2 cof(A)[H, G] for A with an inverse, with X = A^-1 H and Y = A^-1 G: cof(A) N' for
// N = (tr X tr Y - tr XY) I - tr X Y - tr Y X + XY + YX.
ValueId SecondDerivative(GraphBuilder& b, ValueId a, ValueId h, ValueId g) {
  const ValueId x = Solve(b, a, h), y = Solve(b, a, g);
  const ValueId xy = MatMul(b, x, y), yx = MatMul(b, y, x);
  const ValueId tx = Trace(b, x), ty = Trace(b, y);
  if (!b.ok()) return kNoValue;
  const ValueId scale = Sub(b, Mul(b, tx, ty), Trace(b, xy));
  const ValueId diagonal = OnDiagonal(b, LastExtent(b, a));
  ValueId sum = Where(b, diagonal, scale, b.ScalarLike(a, 0));
  sum = Sub(b, Sub(b, sum, Mul(b, tx, y)), Mul(b, ty, x));
  sum = Add(b, Add(b, sum, xy), yx);
  return MatMul(b, Cofactor(b, a), MatrixTranspose(b, sum));
}

Values CofactorDerivativeJvp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
  ValueId out = kNoValue;
  if (t[1] != kNoValue) out = CofactorDerivative(b, n.in[0], t[1]);
  if (t[0] != kNoValue) {
    const ValueId change = SecondDerivative(b, n.in[0], n.in[1], t[0]);
    out = out == kNoValue ? change : Add(b, out, change);
  }
  return {out};
}

const OpDef kCofactorDerivativeOp = {
    .name = "CofactorDerivative",
    .doc =
        "The derivative of Cofactor at `A` along `H`, which is linear and symmetric in `H`. The"
        " last input holds it; derivatives are taken by `A` and `H`, by `A` only where it is not"
        " singular (INVALID_TENSOR).",
    .min_inputs = 3,
    .max_inputs = 3,
    .infer = InferCopy,
    .reference = ReferenceCopy,
    .derivative = General{[](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
                            return Values{SecondDerivative(b, n.in[0], n.in[1], g[0]),
                                          CofactorDerivative(b, n.in[0], g[0]), kNoValue};
                          },
                          CofactorDerivativeJvp},
    .onnx = {{.name = "CofactorDerivative",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                if (!TakesSquare(n, 2)) return {};
                if (n.type(1) != n.type(0)) {
                  n.Fail(Reason::kShapeMismatch,
                         absl::StrCat("the direction is ", n.type(1).ToString(), ", expected ",
                                      n.type(0).ToString()));
                  return {};
                }
                return {CofactorDerivative(n.b, n.in(0), n.in(1))};
              }}},
    .no_onnx_form = kNoCofactorForm,
    .domain = {.samples = {{.inputs = {Regular({3, 3}), Drawn({3, 3})}},
                           {.inputs = {Given({2, 2}, {0, 2, 1, 1}), Drawn({2, 2})}},
                           {.inputs = {Regular({2, 4, 4}), Drawn({2, 4, 4})}},
                           {.inputs = {Regular({0, 0}), Drawn({0, 0})}}}},
};

ValueId CofactorDerivative(GraphBuilder& b, ValueId a, ValueId h) {
  const Factors f = RankFactors(b, a);
  if (!b.ok()) return kNoValue;
  const ValueId change = MatMul(b, f.w, MatMul(b, StopGradient(b, h), f.v));
  const ValueId zero = b.ScalarLike(a, 0);
  const ValueId two = Mul(b, Column(b, f.of.nonzero), Row(b, f.of.nonzero));
  const ValueId left_out = Add(b, Column(b, f.of.zero), Row(b, f.of.zero));
  if (!b.ok()) return kNoValue;
  const ValueId none = Equal(b, Column(b, f.of.zeros), left_out);  // no other element is 0
  const ValueId diagonal = OnDiagonal(b, LastExtent(b, a));
  const ValueId p =
      Where(b, diagonal, zero, Where(b, none, Div(b, Column(b, f.of.product), two), zero));
  const ValueId turned = MatMul(b, p, Column(b, Diagonal(b, change)));  // [..., n, 1]
  const ValueId e = Where(b, diagonal, turned, Neg(b, Mul(b, p, MatrixTranspose(b, change))));
  return b.Add(kCofactorDerivativeOp, {a, h, Between(b, f, e)});
}

}  // namespace

std::vector<const OpDef*> DeterminantOps() {
  return {&kDetOp, &kRankFactorOp, &kCofactorOp, &kCofactorDerivativeOp};
}

}  // namespace gradwire
