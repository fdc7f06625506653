// Factorisations of matrices, and what is solved with them.
#include "engine/kernels/factor.h"

#include <cmath>
#include <cstring>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/matrix_rows.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Types = absl::StatusOr<std::vector<TensorType>>;
using Values = std::vector<ValueId>;

constexpr char kNoFactorForm[] = "ONNX has no factorisations of matrices";

// Calls fn(TypeTag<T>) for FLOAT or DOUBLE; the type rules let nothing else through.
template <typename Fn>
absl::Status WithFloating(DType dtype, const Fn& fn) {
  absl::Status status;
  VisitFloating(dtype, [&](auto tag) { status = fn(tag); });
  return status;
}

absl::Status Singular(const BadRow& bad, absl::string_view what) {
  if (bad.matrix < 0) return absl::OkStatus();
  return Error(Reason::kInvalidTensor,
               absl::StrCat("matrix ", bad.matrix, " of the stack is ", what, " ", bad.row));
}

// [..., n, n] and [..., n, m] with the same leading extents.
absl::Status CheckSystem(const TensorType& a, const TensorType& x) {
  GW_RETURN_IF_ERROR(CheckSquare(a));
  const int rank = a.shape.rank();
  const bool fits = x.dtype == a.dtype && x.shape.rank() == rank &&
                    StackOf(x.shape) == StackOf(a.shape) && x.shape[rank - 2] == a.shape[rank - 2];
  if (fits) return absl::OkStatus();
  return Error(x.dtype == a.dtype ? Reason::kShapeMismatch : Reason::kDtypeUnsupported,
               absl::StrCat("the matrix is ", a.ToString(), ", the right-hand side ", x.ToString(),
                            "; expected [..., n, n] and [..., n, m] of one type"));
}

// n n m for each matrix.
int64_t SystemFlops(const InferArgs& args, const TensorType& out) {
  const Shape& a = args.in[0].shape;
  return SaturatingMul(2 * a[a.rank() - 1], out.shape.num_elements());
}

// The inputs 0 and 1 of a node with their stacks broadcast to each other; a vector counts as one
// column. False after a failure.
struct System {
  ValueId a = kNoValue, x = kNoValue;
  bool vector = false;
};
bool ReadSystem(NodeImport& n, System* out) {
  if (!TakesInputs(n, 2, 2)) return false;
  GraphBuilder& b = n.b;
  *out = {n.in(0), n.in(1), n.type(1).shape.rank() == 1};
  absl::Status square = CheckSquare(n.type(0));
  if (!square.ok()) {
    b.Fail(square);
    return false;
  }
  if (out->vector) out->x = Reshape(b, out->x, {b.shape(out->x)[0], 1});
  const Shape a = b.shape(out->a), x = b.shape(out->x);
  Shape stack;
  if (x.rank() < 2 || !BroadcastShapes(Shape(StackOf(a)), Shape(StackOf(x)), &stack)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("the matrix is ", a.ToString(), ", the right-hand side ", x.ToString(),
                        "; expected [..., n, n] and [..., n, m]"));
    return false;
  }
  for (ValueId* v : {&out->a, &out->x}) {
    Dims dims = stack.dims();
    const Shape old = b.shape(*v);
    for (int d : {old.rank() - 2, old.rank() - 1}) dims.push_back(old[d]);
    const std::optional<Shape> shape = ResultShape(b, dims);
    if (!shape) return false;
    *v = Expand(b, *v, *shape);
  }
  return IndicesFit(n, a[a.rank() - 1]);
}

Values Solution(NodeImport& n, const System& system, ValueId x) {
  if (!n.b.ok() || !system.vector) return {x};
  Dims dims = n.b.shape(x).dims();
  dims.pop_back();
  return {Reshape(n.b, x, Shape(dims))};
}

// ---- Cholesky

Types InferCholesky(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckSquare(args.in[0]));
  return std::vector<TensorType>{args.in[0]};
}

absl::Status ReferenceCholesky(const ReferenceArgs& args) {
  const TensorView& a = args.in[0];
  if (a.bytes() == 0) return absl::OkStatus();
  const int64_t n = a.shape()[a.shape().rank() - 1];
  std::memcpy(args.out[0], a.raw(), static_cast<size_t>(a.bytes()));
  return WithFloating(a.dtype(), [&]<typename T>(TypeTag<T>) {
    T* out = static_cast<T*>(args.out[0]);
    return Singular(ForMatrices(args.threads, a.num_elements() / n / n, n,
                                [&](int64_t i, int threads) {
                                  return factor::Cholesky(out + i * n * n, n, threads);
                                }),
                    "not positive definite: the pivot is not positive in row");
  });
}

// The lower triangle with half of the diagonal.
ValueId HalvedLowerPart(GraphBuilder& b, ValueId x) {
  const ValueId diagonal = OnDiagonal(b, LastExtent(b, x));
  return LowerPart(b, Where(b, diagonal, Mul(b, x, b.ScalarLike(x, 0.5)), x));
}

// X L^-1
ValueId TimesInverse(GraphBuilder& b, ValueId x, ValueId l) {
  return MatrixTranspose(b, TriangularSolve(b, l, MatrixTranspose(b, x), {.transpose = true}));
}

// I. Murray, "Differentiation of the Cholesky decomposition", arXiv:1602.07527, equations 8 and 10,
// for a function of the lower triangle alone.
Values CholeskyVjp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
  const ValueId l = n.out[0];
  const ValueId p = HalvedLowerPart(b, MatMul(b, MatrixTranspose(b, l), LowerPart(b, g[0])));
  const ValueId s = TimesInverse(b, TriangularSolve(b, l, p, {.transpose = true}), l);
  return {HalvedLowerPart(b, Add(b, s, MatrixTranspose(b, s)))};
}

Values CholeskyJvp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
  const ValueId l = n.out[0];
  const ValueId lower = OnOrBelowDiagonal(b, LastExtent(b, l));
  const ValueId s = Where(b, lower, t[0], MatrixTranspose(b, t[0]));
  const ValueId left = TriangularSolve(b, l, s);  // L^-1 S L^-T is symmetric
  const ValueId both = TriangularSolve(b, l, MatrixTranspose(b, left));
  return {MatMul(b, l, HalvedLowerPart(b, both))};
}

const OpDef kCholeskyOp = {
    .name = "Cholesky",
    .doc =
        "The lower triangular `L` with `L L' = A` for symmetric positive definite matrices `A` of"
        " `[..., n, n]`. Only the lower triangle of `A` is read, as in NumPy: what is above it has"
        " no influence and gets a derivative of 0, and an element below the diagonal that of both"
        " places. A pivot that is not positive is an error (INVALID_TENSOR), a NaN gives NaN.",
    .infer = InferCholesky,
    .reference = ReferenceCholesky,
    .derivative = General{CholeskyVjp, CholeskyJvp},
    .flops = CubicFlops,
    .onnx = {{.name = "Cholesky",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                if (!TakesInputs(n, 1, 1)) return {};
                const Shape a = n.type(0).shape;
                if (a.rank() > 0 && !IndicesFit(n, a.dims().back())) return {};
                return {n.b.Add(kCholeskyOp, {n.in(0)})};
              }}},
    .no_onnx_form = kNoFactorForm,
    .domain = {.samples = {{.inputs = {Regular({3, 3})}},
                           {.inputs = {Regular({1, 1})}},
                           {.inputs = {Regular({2, 2, 4, 4})}},
                           {.inputs = {Regular({37, 37})}},
                           {.inputs = {Regular({0, 3, 3})}},
                           {.inputs = {Regular({2, 0, 0})}}}},
};

// ---- TriangularSolve

Types InferTriangularSolve(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckSystem(args.in[0], args.in[1]));
  return std::vector<TensorType>{args.in[1]};
}

TriangleOptions OptionsOf(const Attrs& attrs) {
  return {attrs.Int("lower") != 0, attrs.Int("transpose") != 0, attrs.Int("unit_diagonal") != 0};
}

absl::Status ReferenceTriangularSolve(const ReferenceArgs& args) {
  const TensorView &a = args.in[0], &x = args.in[1];
  if (x.bytes() == 0) return absl::OkStatus();
  const int64_t n = a.shape().dims().back(), m = x.shape().dims().back();
  const TriangleOptions options = OptionsOf(args.attrs);
  std::memcpy(args.out[0], x.raw(), static_cast<size_t>(x.bytes()));
  return WithFloating(a.dtype(), [&]<typename T>(TypeTag<T>) {
    T* out = static_cast<T*>(args.out[0]);
    return Singular(
        ForMatrices(args.threads, a.num_elements() / n / n, n,
                    [&](int64_t i, int threads) {
                      factor::Triangle<T> t = {
                          a.data<T>() + i * n * n, n, n, 1, options.lower != options.transpose,
                          options.unit_diagonal};
                      if (options.transpose) std::swap(t.row, t.column);
                      const int64_t zero = factor::FirstZero(t);
                      if (zero < 0) factor::SolveTriangle(t, out + i * n * m, m, threads);
                      return zero;
                    }),
        "singular: its diagonal is 0 in row");
  });
}

ValueId Triangle(GraphBuilder& b, ValueId x, const TriangleOptions& options) {
  return options.lower ? LowerPart(b, x, options.unit_diagonal)
                       : UpperPart(b, x, options.unit_diagonal);
}

Values TriangularSolveVjp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
  const TriangleOptions options = OptionsOf(n.attrs);
  TriangleOptions transposed = options;
  transposed.transpose = !options.transpose;
  const ValueId to_x = TriangularSolve(b, n.in[0], g[0], transposed), x = n.out[0];
  const ValueId outer = options.transpose ? MatMul(b, x, MatrixTranspose(b, to_x))
                                          : MatMul(b, to_x, MatrixTranspose(b, x));
  return {Neg(b, Triangle(b, outer, options)), to_x};
}

Values TriangularSolveJvp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
  const TriangleOptions options = OptionsOf(n.attrs);
  ValueId right = t[1];
  if (t[0] != kNoValue) {
    ValueId change = Triangle(b, t[0], options);
    if (options.transpose) change = MatrixTranspose(b, change);
    change = MatMul(b, change, n.out[0]);
    right = right == kNoValue ? Neg(b, change) : Sub(b, right, change);
  }
  return {TriangularSolve(b, n.in[0], right, options)};
}

Values ImportTriangularSolve(NodeImport& n) {
  System system;
  const TriangleOptions options = {IntAttr(n, "lower", 1) != 0, IntAttr(n, "transpose", 0) != 0,
                                   IntAttr(n, "unit_diagonal", 0) != 0};
  if (!ReadSystem(n, &system)) return {};
  return Solution(n, system, TriangularSolve(n.b, system.a, system.x, options));
}

std::vector<Sample> TriangularSolveSamples() {
  std::vector<Sample> out = {{.inputs = {Regular({3, 3}), Drawn({3})}},
                             {.inputs = {Regular({37, 37}), Drawn({37, 70})}},
                             {.inputs = {Regular({2, 1, 3, 3}), Drawn({2, 3, 2})}},
                             {.inputs = {Regular({3, 3}), Drawn({2, 3, 2})}},
                             {.inputs = {Regular({0, 0}), Drawn({0, 2})}},
                             {.inputs = {Regular({2, 2}), Drawn({2, 0})}}};
  for (int64_t form = 0; form < 8; ++form) {
    out.push_back(
        {.inputs = {Regular({2, 5, 5}), Drawn({2, 5, 2})},
         .attrs = {
             {"lower", form & 1}, {"transpose", form >> 1 & 1}, {"unit_diagonal", form >> 2}}});
  }
  return out;
}

const OpDef kTriangularSolveOp = {
    .name = "TriangularSolve",
    .doc =
        "`X` with `op(A) X = B` for triangular `A` of `[..., n, n]` and `B` of `[..., n, m]` or"
        " `[n]`; leading dimensions broadcast. Only one triangle of `A` is read: the lower one, or"
        " the upper one where `lower` is 0; `transpose` says whether op transposes it, and with"
        " `unit_diagonal` its diagonal counts as ones. A 0 on the diagonal is an error"
        " (INVALID_TENSOR).",
    .attrs = {{"lower", int64_t{1}}, {"transpose", int64_t{0}}, {"unit_diagonal", int64_t{0}}},
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferTriangularSolve,
    .reference = ReferenceTriangularSolve,
    .derivative = General{TriangularSolveVjp, TriangularSolveJvp},
    .flops = SystemFlops,
    .onnx = {{.name = "TriangularSolve", .domain = "gradwire", .import = ImportTriangularSolve}},
    .no_onnx_form = kNoFactorForm,
    .domain = {.samples = TriangularSolveSamples()},
};

// ---- LU

Types InferLuFactor(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckSquare(args.in[0]));
  Dims pivots = args.in[0].shape.dims();
  pivots.pop_back();
  return std::vector<TensorType>{args.in[0], {DType::kInt64, Shape(pivots)}};
}

absl::Status ReferenceLuFactor(const ReferenceArgs& args) {
  const TensorView& a = args.in[0];
  if (a.bytes() == 0) return absl::OkStatus();
  const int64_t n = a.shape().dims().back();
  std::memcpy(args.out[0], a.raw(), static_cast<size_t>(a.bytes()));
  return WithFloating(a.dtype(), [&]<typename T>(TypeTag<T>) {
    T* out = static_cast<T*>(args.out[0]);
    int64_t* pivots = static_cast<int64_t*>(args.out[1]);
    ForMatrices(args.threads, a.num_elements() / n / n, n, [&](int64_t i, int threads) -> int64_t {
      factor::Lu(out + i * n * n, n, pivots + i * n, threads);
      return -1;
    });
    return absl::OkStatus();
  });
}

const OpDef kLuFactorOp = {
    .name = "LuFactor",
    .doc =
        "`P A = L U` by partial pivoting, packed into one matrix, and the row that each step"
        " swapped with its own. What is made of the factors takes its derivative by `A`.",
    .infer = InferLuFactor,
    .reference = ReferenceLuFactor,
    .derivative = NotDifferentiable{"the factors serve Solve and LogDet, which have derivatives"},
    .flops = CubicFlops,
    .no_onnx_form = kNoFactorForm,
    .domain = {.samples = {{.inputs = {Regular({2, 3, 3})}},
                           {.inputs = {Regular({69, 69})}},
                           {.inputs = {Given({3, 3}, {0, 2, 1, 0, 0, 3, 0, 1, 1})}},
                           {.inputs = {Regular({0, 0})}}}},
};

// Shared by all nodes that need them: equal nodes are made once.
Values LuFactor(GraphBuilder& b, ValueId a) {
  return b.AddMulti(kLuFactorOp, {StopGradient(b, a)});
}

absl::Status CheckFactors(absl::Span<const TensorType> in) {
  GW_RETURN_IF_ERROR(CheckSquare(in[0]));
  Dims pivots = in[0].shape.dims();
  pivots.pop_back();
  if (in[1] == in[0] && in[2] == TensorType{DType::kInt64, Shape(pivots)}) return absl::OkStatus();
  return Error(Reason::kShapeMismatch,
               absl::StrCat("factors ", in[1].ToString(), " and pivots ", in[2].ToString(),
                            " are not those of ", in[0].ToString()));
}

// ---- Solve

Types InferSolve(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckFactors(args.in.subspan(0, 3)));
  GW_RETURN_IF_ERROR(CheckSystem(args.in[0], args.in[3]));
  return std::vector<TensorType>{args.in[3]};
}

// Undoes or repeats the swaps of a factorisation on x of n x m.
template <typename T>
void SwapAll(const int64_t* pivots, int64_t n, T* x, int64_t m, bool backwards) {
  for (int64_t s = 0; s < n; ++s) {
    const int64_t k = backwards ? n - 1 - s : s;
    if (pivots[k] != k) std::swap_ranges(x + k * m, x + (k + 1) * m, x + pivots[k] * m);
  }
}

absl::Status ReferenceSolve(const ReferenceArgs& args) {
  const TensorView &lu = args.in[1], &x = args.in[3];
  if (x.bytes() == 0) return absl::OkStatus();
  const int64_t n = lu.shape().dims().back(), m = x.shape().dims().back();
  const bool transpose = args.attrs.Int("transpose") != 0;
  std::memcpy(args.out[0], x.raw(), static_cast<size_t>(x.bytes()));
  const int64_t* pivots = args.in[2].data<int64_t>();
  for (int64_t i = 0; i < args.in[2].num_elements(); ++i) {
    if (pivots[i] < 0 || pivots[i] >= n) {
      return Error(Reason::kInvalidTensor, absl::StrCat("pivot ", pivots[i], " is not a row"));
    }
  }
  return WithFloating(lu.dtype(), [&]<typename T>(TypeTag<T>) {
    const auto solve = [&](int64_t i, int threads) {
      factor::Triangle<T> l = {lu.data<T>() + i * n * n, n, n, 1, true, true};
      factor::Triangle<T> u = {l.a, n, n, 1, false, false};
      const int64_t zero = factor::FirstZero(u);
      if (zero >= 0) return zero;
      T* out = static_cast<T*>(args.out[0]) + i * n * m;
      if (transpose) {
        factor::SolveTriangle<T>({u.a, n, 1, n, true, false}, out, m, threads);
        factor::SolveTriangle<T>({l.a, n, 1, n, false, true}, out, m, threads);
        SwapAll(pivots + i * n, n, out, m, true);
      } else {
        SwapAll(pivots + i * n, n, out, m, false);
        factor::SolveTriangle(l, out, m, threads);
        factor::SolveTriangle(u, out, m, threads);
      }
      return zero;
    };
    return Singular(ForMatrices(args.threads, lu.num_elements() / n / n, n, solve),
                    "singular: elimination finds no pivot for row");
  });
}

Values SolveVjp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
  const bool transpose = n.attrs.Int("transpose") != 0;
  const ValueId to_x = Solve(b, n.in[0], g[0], !transpose), x = n.out[0];
  const ValueId outer =
      transpose ? MatMul(b, x, MatrixTranspose(b, to_x)) : MatMul(b, to_x, MatrixTranspose(b, x));
  return {Neg(b, outer), kNoValue, kNoValue, to_x};
}

Values SolveJvp(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
  const bool transpose = n.attrs.Int("transpose") != 0;
  ValueId right = t[3];
  if (t[0] != kNoValue) {
    const ValueId change = MatMul(b, transpose ? MatrixTranspose(b, t[0]) : t[0], n.out[0]);
    right = right == kNoValue ? Neg(b, change) : Sub(b, right, change);
  }
  return {Solve(b, n.in[0], right, transpose)};
}

const OpDef kSolveOp = {
    .name = "Solve",
    .doc =
        "`X` with `A X = B` (`A' X = B` with `transpose`) for `A` of `[..., n, n]` and `B` of"
        " `[..., n, m]` or `[n]`; leading dimensions broadcast. By LU with partial pivoting, which"
        " derivatives use again; the inputs in between are the factors. A matrix that elimination"
        " finds singular is an error (INVALID_TENSOR).",
    .attrs = {{"transpose", int64_t{0}}},
    .min_inputs = 4,
    .max_inputs = 4,
    .infer = InferSolve,
    .reference = ReferenceSolve,
    .derivative = General{SolveVjp, SolveJvp},
    .flops = SystemFlops,
    .onnx = {{.name = "Solve",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                System system;
                const bool transpose = IntAttr(n, "transpose", 0) != 0;
                if (!ReadSystem(n, &system)) return {};
                return Solution(n, system, Solve(n.b, system.a, system.x, transpose));
              }}},
    .no_onnx_form = kNoFactorForm,
    .domain = {.samples = {{.inputs = {Regular({3, 3}), Drawn({3})}},
                           {.inputs = {Regular({2, 4, 4}), Drawn({4, 2})}},
                           {.inputs = {Regular({4, 4}), Drawn({2, 4, 2})},
                            .attrs = {{"transpose", int64_t{1}}}},
                           {.inputs = {Given({2, 2}, {0, 2, 1, 1}), Drawn({2, 3})}},
                           {.inputs = {Given({3, 3}, {0, 2, 1, 1, 0, 3, 2, 1, 1}), Drawn({3, 1})},
                            .attrs = {{"transpose", int64_t{1}}}},
                           {.inputs = {Regular({37, 37}), Drawn({37, 3})}},
                           {.inputs = {Regular({0, 2, 2}), Drawn({2, 1})}},
                           {.inputs = {Regular({0, 0}), Drawn({0, 1})}}}},
};

// ---- Inverse

// [n, n] or its stack, of the type of `like`.
ValueId IdentityLike(GraphBuilder& b, ValueId like) {
  const Shape shape = b.shape(like);
  return Expand(b, Cast(b, OnDiagonal(b, LastExtent(b, like)), b.dtype(like)), shape);
}

const OpDef kInverseOp = {
    .name = "Inverse",
    .doc =
        "The inverses of matrices of `[..., n, n]`: Solve of the identity. A singular matrix is an"
        " error (INVALID_TENSOR).",
    .onnx = {{.name = "Inverse",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                if (!TakesSquare(n, 1)) return {};
                return {Solve(n.b, n.in(0), IdentityLike(n.b, n.in(0)))};
              }}},
    .domain = {.samples = {{.inputs = {Regular({3, 3})}},
                           {.inputs = {Regular({2, 1, 4, 4})}},
                           {.inputs = {Given({2, 2}, {0, 2, 1, 1})}},
                           {.inputs = {Regular({2, 0, 0})}}}},
};

// ---- LogDet

Types InferLogDet(const InferArgs& args) {
  GW_RETURN_IF_ERROR(CheckFactors(args.in));
  return std::vector<TensorType>{{args.in[0].dtype, Shape(StackOf(args.in[0].shape))}};
}

absl::Status ReferenceLogDet(const ReferenceArgs& args) {
  const TensorView &lu = args.in[1], &pivots = args.in[2];
  const int64_t n = lu.shape().dims().back();
  return WithFloating(lu.dtype(), [&]<typename T>(TypeTag<T>) {
    for (int64_t i = 0; i < args.out_types[0].shape.num_elements(); ++i) {
      double sum = 0;
      bool negative = false;
      for (int64_t k = 0; k < n; ++k) {
        const double u = static_cast<double>(lu.data<T>()[(i * n + k) * n + k]);
        negative ^= (u < 0) ^ (pivots.data<int64_t>()[i * n + k] != k);
        sum += std::log(std::abs(u));
      }
      const bool none = negative && sum != -std::numeric_limits<double>::infinity();
      static_cast<T*>(args.out[0])[i] = static_cast<T>(none ? std::nan("") : sum);
    }
    return absl::OkStatus();
  });
}

const OpDef kLogDetOp = {
    .name = "LogDet",
    .doc =
        "The logarithm of the determinants of matrices of `[..., n, n]`, from the logarithms of"
        " the pivots, so that it neither overflows nor underflows: -inf for a singular matrix, NaN"
        " where the determinant is negative, as in PyTorch. The derivative is the transposed"
        " inverse; for a singular matrix it is an error (INVALID_TENSOR).",
    .min_inputs = 3,
    .max_inputs = 3,
    .infer = InferLogDet,
    .reference = ReferenceLogDet,
    .derivative = General{[](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g) {
                            const ValueId inverse =
                                Solve(b, n.in[0], IdentityLike(b, n.in[0]), true);
                            return Values{Mul(b, AsMatrices(b, g[0]), inverse), kNoValue, kNoValue};
                          },
                          [](GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t) {
                            return Values{ReduceSum(b, Diagonal(b, Solve(b, n.in[0], t[0])),
                                                    {b.shape(n.in[0]).rank() - 2})};
                          }},
    .flops = CubicFlops,
    .onnx = {{.name = "LogDet",
              .domain = "gradwire",
              .import = [](NodeImport& n) -> Values {
                if (!TakesSquare(n, 1)) return {};
                const Values factors = LuFactor(n.b, n.in(0));
                if (!n.b.ok()) return {};
                return {n.b.Add(kLogDetOp, {n.in(0), factors[0], factors[1]})};
              }}},
    .no_onnx_form = kNoFactorForm,
    .domain = {.samples = {{.inputs = {Regular({3, 3})}},
                           {.inputs = {Regular({2, 2, 4, 4})}},
                           {.inputs = {Given({2, 2}, {0, -2, 1, 1})}},
                           {.inputs = {Regular({37, 37})}},
                           {.inputs = {Regular({2, 0, 0})}}}},
};

}  // namespace

absl::Status CheckSquare(const TensorType& a, absl::string_view what) {
  const int rank = a.shape.rank();
  if (!IsFloating(a.dtype)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat(what, " is ", DTypeName(a.dtype), ", expected FLOAT or DOUBLE"));
  }
  if (rank >= 2 && a.shape[rank - 1] == a.shape[rank - 2]) return absl::OkStatus();
  return Error(Reason::kShapeMismatch,
               absl::StrCat(what, " is ", a.shape.ToString(), ", expected [..., n, n]"));
}

bool TakesSquare(NodeImport& n, int inputs) {
  if (!TakesInputs(n, inputs, inputs)) return false;
  const absl::Status square = CheckSquare(n.type(0));
  if (!square.ok()) n.b.Fail(square);
  return square.ok() && IndicesFit(n, n.type(0).shape.dims().back());
}

Dims StackOf(const Shape& a) { return Dims(a.dims().begin(), a.dims().end() - 2); }

int64_t CubicFlops(const InferArgs& args, const TensorType&) {
  const Shape& a = args.in[0].shape;
  return SaturatingMul(a.num_elements(), a.dims().back());
}

namespace {

// Rows against columns, as [n, n].
ValueId CompareIndices(GraphBuilder& b, int64_t n,
                       ValueId (*compare)(GraphBuilder&, ValueId, ValueId)) {
  const ValueId columns = b.Constant(Tensor::FromVector<int64_t>({n}, Iota(0, n)));
  return compare(b, Reshape(b, columns, {n, 1}), columns);
}

ValueId Part(GraphBuilder& b, ValueId x, ValueId (*compare)(GraphBuilder&, ValueId, ValueId)) {
  const ValueId kept = CompareIndices(b, LastExtent(b, x), compare);
  return Where(b, kept, x, b.ScalarLike(x, 0));
}

}  // namespace

int64_t LastExtent(const GraphBuilder& b, ValueId x) {
  const Shape& shape = b.shape(x);
  return shape.rank() == 0 ? 0 : shape[shape.rank() - 1];
}

ValueId OnDiagonal(GraphBuilder& b, int64_t n) { return CompareIndices(b, n, Equal); }
ValueId OnOrBelowDiagonal(GraphBuilder& b, int64_t n) {
  return CompareIndices(b, n, GreaterOrEqual);
}

ValueId LowerPart(GraphBuilder& b, ValueId x, bool strict) {
  return Part(b, x, strict ? Greater : GreaterOrEqual);
}

ValueId UpperPart(GraphBuilder& b, ValueId x, bool strict) {
  return Part(b, x, strict ? Less : LessOrEqual);
}

ValueId Diagonal(GraphBuilder& b, ValueId x) {
  if (!b.ok()) return kNoValue;
  Dims dims = b.shape(x).dims();
  const int64_t n = dims.back();
  dims.pop_back();
  dims.back() = n * n;
  const ValueId rows = Reshape(b, x, Shape(dims));
  std::vector<int64_t> starts(dims.size(), 0), steps(dims.size(), 1);
  steps.back() = n + 1;
  dims.back() = n;
  return Slice(b, rows, starts, steps, Shape(dims));
}

ValueId AsMatrices(GraphBuilder& b, ValueId x) {
  if (!b.ok()) return kNoValue;
  Dims dims = b.shape(x).dims();
  dims.insert(dims.end(), {1, 1});
  return Reshape(b, x, Shape(dims));
}

ValueId TriangularSolve(GraphBuilder& b, ValueId a, ValueId x, TriangleOptions options) {
  return b.Add(kTriangularSolveOp, {a, x},
               {{"lower", int64_t{options.lower}},
                {"transpose", int64_t{options.transpose}},
                {"unit_diagonal", int64_t{options.unit_diagonal}}});
}

ValueId Solve(GraphBuilder& b, ValueId a, ValueId x, bool transpose) {
  const Values factors = LuFactor(b, a);
  if (!b.ok()) return kNoValue;
  return b.Add(kSolveOp, {a, factors[0], factors[1], x}, {{"transpose", int64_t{transpose}}});
}

SampleInput Regular(Dims shape) {
  std::vector<double> values;
  const int64_t n = shape.back(), count = Shape(shape).num_elements();
  for (int64_t i = 0; i < count; ++i) {
    const bool diagonal = i / n % n == i % n;
    values.push_back(static_cast<double>((i * 37 + 11) % 23 - 11) / 23 +
                     (diagonal ? 1 + static_cast<double>(n) / 2 : 0));
  }
  return Given(std::move(shape), std::move(values));
}

std::vector<const OpDef*> FactorOps() {
  std::vector<const OpDef*> rows = {&kCholeskyOp, &kTriangularSolveOp, &kLuFactorOp,
                                    &kSolveOp,    &kInverseOp,         &kLogDetOp};
  for (const OpDef* row : DeterminantOps()) rows.push_back(row);
  return rows;
}

}  // namespace gradwire
