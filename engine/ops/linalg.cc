// Matrix products.
#include <algorithm>
#include <numeric>

#include "engine/base/checked.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/pointwise_row.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

absl::StatusOr<std::vector<TensorType>> InferMatMul(const InferArgs& args) {
  const TensorType &x = args.in[0], &y = args.in[1];
  if (x.dtype != y.dtype || !InClass(x.dtype, kNumeric)) {
    return Error(Reason::kDtypeUnsupported,
                 absl::StrCat("lhs is ", DTypeName(x.dtype), ", rhs ", DTypeName(y.dtype),
                              "; expected two of the same numeric type"));
  }
  const int rx = x.shape.rank(), ry = y.shape.rank();
  if (rx < 2 || ry < 2) {
    return Error(Reason::kShapeMismatch, absl::StrCat("expected matrices: lhs ", x.shape.ToString(),
                                                      ", rhs ", y.shape.ToString()));
  }
  if (x.shape[rx - 1] != y.shape[ry - 2]) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("inner dimensions differ: lhs ", x.shape.ToString(), ", rhs ",
                              y.shape.ToString()));
  }
  const Shape batch_x(Dims(x.shape.dims().begin(), x.shape.dims().end() - 2));
  const Shape batch_y(Dims(y.shape.dims().begin(), y.shape.dims().end() - 2));
  Shape batch;
  if (!BroadcastShapes(batch_x, batch_y, &batch)) {
    return Error(Reason::kShapeMismatch,
                 absl::StrCat("leading dimensions do not broadcast: lhs ", x.shape.ToString(),
                              ", rhs ", y.shape.ToString()));
  }
  Dims dims = batch.dims();
  dims.push_back(x.shape[rx - 2]);
  dims.push_back(y.shape[ry - 1]);
  GW_ASSIGN_OR_RETURN(Shape shape, ResultShape(dims));
  return std::vector<TensorType>{{x.dtype, std::move(shape)}};
}

template <typename T>
T DotProduct(const T* x, const T* y, int64_t y_step, int64_t k) {
  using Sum = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
  Sum sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    sum += static_cast<Sum>(x[i]) * static_cast<Sum>(y[i * y_step]);
  }
  return static_cast<T>(sum);
}

absl::Status ReferenceMatMul(const ReferenceArgs& args) {
  const Shape &x = args.in[0].shape(), &y = args.in[1].shape(), &out = args.out_types[0].shape;
  const int64_t rows = out[out.rank() - 2], columns = out[out.rank() - 1];
  const int64_t inner = x[x.rank() - 1];
  Shape batch(Dims(out.dims().begin(), out.dims().end() - 2));
  // The walk sees one element a matrix; types only give it the shapes.
  auto batch_of = [](const Shape& s) {
    return TensorView({DType::kBool, Shape(Dims(s.dims().begin(), s.dims().end() - 2))}, nullptr);
  };
  const TensorView batches[] = {batch_of(x), batch_of(y)};
  const bool known = VisitNumeric(args.in[0].dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    BroadcastWalk walk(batches, batch);
    T* to = static_cast<T*>(args.out[0]);
    for (int64_t i = 0; i < batch.num_elements(); ++i, walk.Next()) {
      const T* lhs = args.in[0].data<T>() + walk.offset(0) * rows * inner;
      const T* rhs = args.in[1].data<T>() + walk.offset(1) * inner * columns;
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t c = 0; c < columns; ++c) {
          *to++ = DotProduct(lhs + m * inner, rhs + c, columns, inner);
        }
      }
    }
  });
  if (known) return absl::OkStatus();
  return Error(Reason::kDtypeUnsupported, "MatMul has no kernel for this type");
}

// MatMul where a vector is a row on the left, a column on the right.
ValueId AnyProduct(NodeImport& n, ValueId lhs, ValueId rhs) {
  if (!n.b.ok()) return kNoValue;
  const Shape x = n.b.shape(lhs), y = n.b.shape(rhs);
  if (x.rank() == 0 || y.rank() == 0) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("operands are scalars: lhs ", x.ToString(), ", rhs ", y.ToString(),
                        "; expected rank 1 or more"));
    return kNoValue;
  }
  if (x.rank() == 1) lhs = Reshape(n.b, lhs, {1, x[0]});
  if (y.rank() == 1) rhs = Reshape(n.b, rhs, {y[0], 1});
  const ValueId product = MatMul(n.b, lhs, rhs);
  if (!n.b.ok() || (x.rank() > 1 && y.rank() > 1)) return product;
  Dims dims = n.b.shape(product).dims();
  if (y.rank() == 1) dims.pop_back();
  if (x.rank() == 1) dims.erase(dims.end() - (y.rank() == 1 ? 1 : 2));
  return Reshape(n.b, product, Shape(dims));
}

const OpDef kMatMulOp = {
    .name = "MatMul",
    .doc =
        "Matrix product `[..., M, K] x [..., K, N]`; leading dimensions broadcast. A "
        "one-dimensional"
        " operand is a row on the left, a column on the right. Sums of FLOAT may be taken in any"
        " fixed order; the reference adds in double.",
    .min_inputs = 2,
    .max_inputs = 2,
    .infer = InferMatMul,
    .reference = ReferenceMatMul,
    .derivative =
        Bilinear{.lhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return MatMul(b, g, MatrixTranspose(b, n.in[1])); },
                 .rhs = [](GraphBuilder& b, const NodeView& n,
                           ValueId g) { return MatMul(b, MatrixTranspose(b, n.in[0]), g); }},
    .lowering = Primitive{PrimitiveKind::kMatMul},
    .flops =
        [](const InferArgs& args, const TensorType& out) {
          const Shape& lhs = args.in[0].shape;
          return SaturatingMul(SaturatingMul(2, out.shape.num_elements()), lhs[lhs.rank() - 1]);
        },
    .onnx = {{.name = "MatMul",
              .since = 1,
              .import = [](NodeImport& n) -> std::vector<ValueId> {
                if (!TakesInputs(n, 2, 2)) return {};
                return {AnyProduct(n, n.in(0), n.in(1))};
              }}},
    .domain = {.samples =
                   {
                       {.inputs = {Drawn({2, 3}), Drawn({3, 4})}},
                       {.inputs = {Drawn({3}), Drawn({3})}},
                       {.inputs = {Drawn({3}), Drawn({2, 3, 4})}},
                       {.inputs = {Drawn({2, 2, 3}), Drawn({3})}},
                       {.inputs = {Drawn({2, 1, 2, 3}), Drawn({5, 3, 2})}},
                       {.inputs = {Drawn({4, 2, 3}), Drawn({3, 5})}},
                       {.inputs = {Drawn({2, 3}), Drawn({2, 3, 2})}},
                       {.inputs = {Drawn({2, 0}), Drawn({0, 3})}},
                       {.inputs = {Drawn({0, 2}), Drawn({2, 3})}},
                       {.inputs = {Drawn({17, 33}), Drawn({33, 9})}},
                   }},
};

ValueId Scaled(GraphBuilder& b, ValueId x, double factor) {
  return factor == 1 ? x : Mul(b, x, b.ScalarLike(x, factor));
}

// A type in which the factor has a meaning: 0.5 of an integer has none.
bool FactorFits(NodeImport& n, absl::string_view name, double factor) {
  if (IsFloating(n.type(0).dtype) || (factor == static_cast<double>(static_cast<int32_t>(
                                                    std::max(-1e9, std::min(1e9, factor)))))) {
    return true;
  }
  n.Fail(Reason::kDtypeUnsupported, absl::StrCat(name, " is ", factor, ", expected an integer for ",
                                                 DTypeName(n.type(0).dtype)));
  return false;
}

std::vector<ValueId> ImportGemm(NodeImport& n) {
  if (!TakesInputs(n, n.opset < 11 ? 3 : 2, 3)) return {};
  for (int i = 0; i < 2; ++i) {
    if (n.type(i).shape.rank() != 2) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("input ", i, " is ", n.type(i).shape.ToString(), ", expected rank 2"));
      return {};
    }
  }
  const double alpha = FloatAttr(n, "alpha", 1), beta = FloatAttr(n, "beta", 1);
  if (!FactorFits(n, "alpha", alpha) || !FactorFits(n, "beta", beta)) return {};
  ValueId x = n.in(0), y = n.in(1);
  if (IntAttr(n, "transA", 0) != 0) x = MatrixTranspose(n.b, x);
  if (IntAttr(n, "transB", 0) != 0) y = MatrixTranspose(n.b, y);
  const ValueId product = Scaled(n.b, MatMul(n.b, x, y), alpha);
  // As in BLAS, what is multiplied by a beta of 0 is not read.
  if (!n.b.ok() || !n.has(2) || beta == 0) return {product};
  const Shape out = n.b.shape(product), c = n.type(2).shape;
  const bool broadcast = n.opset >= 7 || IntAttr(n, "broadcast", 0) != 0;
  if (broadcast ? !BroadcastsTo(c, out) : c != out) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("C is ", c.ToString(), ", expected ",
                        broadcast ? "what broadcasts to " : "", out.ToString()));
    return {};
  }
  return {Add(n.b, product, Scaled(n.b, n.in(2), beta))};
}

const OpDef kGemmOp =
    {
        .name = "Gemm",
        .doc =
            "`alpha * A' * B' + beta * C`, where `'` transposes as `transA` and `transB` say; C is"
            " broadcast to the product. C is not read where beta is 0.",
        .min_inputs = 2,
        .max_inputs = 3,
        .onnx = {{.name = "Gemm", .since = 6, .import = ImportGemm}},
        .domain = {.samples =
                       {
                           {.inputs = {Drawn({2, 3}), Drawn({3, 4}), Drawn({4})}},
                           {.inputs = {Drawn({2, 3}), Drawn({3, 4})}},
                           {.inputs = {Drawn({3, 2}), Drawn({4, 3}), Drawn({2, 1})},
                            .attrs = {{"alpha", 0.5},
                                      {"beta", 2.0},
                                      {"transA", int64_t{1}},
                                      {"transB", int64_t{1}}}},
                           {.inputs = {Drawn({2, 3}), Drawn({4, 3}), Drawn({})},
                            .attrs = {{"transB", int64_t{1}}, {"beta", 0.25}},
                            .opset = 9},
                           {.inputs = {Drawn({2, 3}), Drawn({3, 4}), Drawn({4})},
                            .attrs = {{"broadcast", int64_t{1}}},
                            .opset = 6},
                           {.inputs = {Drawn({2, 3}), Drawn({3, 4}), Drawn({2, 4})}, .opset = 6},
                           {.inputs = {Drawn({0, 3}), Drawn({3, 4}), Drawn({4})}},
                       }},
};

// Operand i as INT32 less its zero point: a scalar, or one for each row (column) of the operand.
ValueId Dequantized(NodeImport& n, int i) {
  GraphBuilder& b = n.b;
  const TensorType type = n.type(i);
  if (type.dtype != DType::kInt8 && type.dtype != DType::kUint8) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input ", i, " is ", DTypeName(type.dtype), ", expected INT8 or UINT8"));
    return kNoValue;
  }
  const ValueId x = Cast(b, n.in(i), DType::kInt32);
  if (!n.has(i + 2)) return x;
  if (n.type(i + 2).dtype != type.dtype) {
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("input ", i + 2, " is ", DTypeName(n.type(i + 2).dtype), ", expected ",
                        DTypeName(type.dtype)));
    return kNoValue;
  }
  ValueId zero = Cast(b, n.in(i + 2), DType::kInt32);
  const Shape shape = b.shape(zero);
  if (i == 0 && shape.rank() == 1 && shape[0] > 1) zero = Reshape(b, zero, {shape[0], 1});
  if (shape.num_elements() == 1) zero = Reshape(b, zero, {});
  if (!b.ok() || !BroadcastsTo(b.shape(zero), type.shape)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("zero point ", shape.ToString(), " does not fit ", type.shape.ToString()));
    return kNoValue;
  }
  return Sub(b, x, zero);
}

const OpDef kMatMulIntegerOp =
    {
        .name = "MatMulInteger",
        .doc =
            "MatMul of INT8 or UINT8 less their zero points, as INT32 that wraps. A zero point is a"
            " scalar, or one for each row of the first operand or column of the second.",
        .min_inputs = 2,
        .max_inputs = 4,
        .onnx = {{.name = "MatMulInteger",
                  .since = 10,
                  .import = [](NodeImport& n) -> std::vector<ValueId> {
                    if (!TakesInputs(n, 2, 4)) return {};
                    const ValueId lhs = Dequantized(n, 0);
                    return {AnyProduct(n, lhs, Dequantized(n, 1))};
                  }}},
        .domain = {.samples =
                       {
                           {.inputs = {Given({2, 3}, {1, 200, 3, 4, 5, 250}, DType::kUint8),
                                       Given({3, 2}, {-1, 2, -3, 4, 5, -128}, DType::kInt8)}},
                           {.inputs = {Given({2, 2}, {1, 200, 3, 4}, DType::kUint8),
                                       Given({2, 2}, {1, 2, 3, 4}, DType::kUint8),
                                       Given({2}, {7, 12}, DType::kUint8),
                                       Given({2}, {1, 9}, DType::kUint8)}},
                           {.inputs = {Given({2}, {1, 200}, DType::kUint8),
                                       Given({2, 2}, {1, 2, 3, 4}, DType::kUint8),
                                       Given({1}, {7}, DType::kUint8),
                                       Given({}, {1}, DType::kUint8)}},
                       }},
};

}  // namespace

ValueId MatMul(GraphBuilder& b, ValueId x, ValueId y) {
  if (!b.ok()) return kNoValue;
  const Shape lhs = b.shape(x), rhs = b.shape(y);
  // A stack of matrices times one matrix is one taller product: its derivatives then contract over
  // the stack too, instead of making one matrix for each member and adding them.
  if (lhs.rank() > 2 && rhs.rank() == 2 && lhs[lhs.rank() - 1] == rhs[0]) {
    Dims dims = lhs.dims();
    const int64_t inner = dims.back();
    dims.pop_back();
    int64_t rows = 1;
    for (int64_t d : dims) rows *= d;
    dims.push_back(rhs[1]);
    const std::optional<Shape> out = ResultShape(b, dims);
    if (!out) return kNoValue;
    return Reshape(b, MatMul(b, Reshape(b, x, {rows, inner}), y), *out);
  }
  return b.Add(kMatMulOp, {x, y});
}

ValueId SwapFactors(GraphBuilder& b, ValueId x, const std::vector<int64_t>& perm) {
  const Node* product = b.Producer(x);
  if (product == nullptr || product->op != &kMatMulOp) return kNoValue;
  std::vector<int64_t> swap(perm.size());
  std::iota(swap.begin(), swap.end(), 0);
  std::swap(swap[swap.size() - 2], swap[swap.size() - 1]);
  if (perm != swap) return kNoValue;
  const ValueId lhs = b.operands(*product)[0], rhs = b.operands(*product)[1];
  const ValueId first = MatrixTranspose(b, rhs);
  return MatMul(b, first, MatrixTranspose(b, lhs));
}

bool IsThinProduct(const GraphBuilder& b, ValueId v) {
  const Node* node = b.Producer(v);
  if (node == nullptr || node->op != &kMatMulOp) return false;
  const Shape &x = b.shape(b.operands(*node)[0]), &y = b.shape(b.operands(*node)[1]);
  return x.rank() == 2 && y.rank() == 2 &&
         SaturatingAdd(x.num_elements(), y.num_elements()) < b.shape(v).num_elements();
}

ValueId SumThinProducts(GraphBuilder& b, absl::Span<const ValueId> products) {
  if (!b.ok() || products.empty()) return kNoValue;
  if (products.size() == 1) return products[0];
  std::vector<ValueId> lhs, rhs;
  for (ValueId v : products) {
    const auto factors = b.operands(*b.Producer(v));
    rhs.push_back(factors[1]);
    lhs.push_back(factors[0]);
  }
  // Put together by rows: the left factor of a weight's gradient is a transpose.
  for (ValueId& x : lhs) x = MatrixTranspose(b, x);
  const ValueId left = MatrixTranspose(b, Concat(b, lhs, 0));
  return MatMul(b, left, Concat(b, rhs, 0));
}

ValueId MatrixTranspose(GraphBuilder& b, ValueId x) {
  if (!b.ok()) return kNoValue;
  const int rank = b.shape(x).rank();
  if (rank < 2) {
    b.Fail(Error(Reason::kShapeMismatch,
                 absl::StrCat("expected a matrix, got ", b.shape(x).ToString())));
    return kNoValue;
  }
  std::vector<int64_t> perm = Iota(0, rank);
  std::swap(perm[static_cast<size_t>(rank) - 1], perm[static_cast<size_t>(rank) - 2]);
  return Transpose(b, x, perm);
}

std::vector<const OpDef*> LinalgOps() { return {&kMatMulOp, &kGemmOp, &kMatMulIntegerOp}; }

}  // namespace gradwire
