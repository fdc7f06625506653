#include "engine/onednn/provider.h"

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/onednn/convolution.h"
#include "engine/onednn/executor.h"

namespace gradwire {
namespace {

using onednn::BuiltPrimitive;
using onednn::Executor;
using onednn::Guarded;
using onednn::MatMulSpec;
using onednn::Operand;
using onednn::ReluInPlace;
using onednn::RoundUp;
using onednn::TeamSize;

// ---- Geometry of a product ---------------------------------------------------------------------

struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 0;
  Dims batch_strides;  // one per Product::batch; 0 broadcasts
};
struct Product {
  Dims batch;
  Matrix lhs;
  Matrix rhs;
};

Matrix MatrixOf(const Shape& shape, const Dims& strides, int batch_rank) {
  const int rank = shape.rank();
  Matrix m{shape[rank - 2], shape[rank - 1], strides[rank - 2], strides[rank - 1], {}};
  for (int i = 0; i < batch_rank; ++i) {
    const int j = i - batch_rank + rank - 2;
    m.batch_strides.push_back(j < 0 || shape[j] == 1 ? 0 : strides[j]);
  }
  return m;
}

// Joins neighbouring batch dimensions that both sides walk with one stride.
void MergeBatch(Product* p) {
  const auto continues = [](int64_t stride, int64_t inner_stride, int64_t inner_extent) {
    return stride == inner_stride * inner_extent;
  };
  Product r;
  for (int i = static_cast<int>(p->batch.size()) - 1; i >= 0; --i) {
    const int64_t extent = p->batch[i];
    const int64_t lhs = p->lhs.batch_strides[i], rhs = p->rhs.batch_strides[i];
    if (extent == 1) continue;
    if (!r.batch.empty() && continues(lhs, r.lhs.batch_strides.back(), r.batch.back()) &&
        continues(rhs, r.rhs.batch_strides.back(), r.batch.back())) {
      r.batch.back() *= extent;
      continue;
    }
    r.batch.push_back(extent);
    r.lhs.batch_strides.push_back(lhs);
    r.rhs.batch_strides.push_back(rhs);
  }
  std::reverse(r.batch.begin(), r.batch.end());
  std::reverse(r.lhs.batch_strides.begin(), r.lhs.batch_strides.end());
  std::reverse(r.rhs.batch_strides.begin(), r.rhs.batch_strides.end());
  p->batch = r.batch;
  p->lhs.batch_strides = r.lhs.batch_strides;
  p->rhs.batch_strides = r.rhs.batch_strides;
}

// Turns batch dimensions that the right side does not have into rows of the left one.
void FoldBatchIntoRows(Product* p) {
  Matrix& lhs = p->lhs;
  while (!p->batch.empty() && p->rhs.batch_strides.back() == 0) {
    const int64_t stride = lhs.batch_strides.back();
    if (lhs.rows == 1) {
      lhs.row_stride = stride;
    } else if (stride != lhs.row_stride * lhs.rows) {
      return;
    }
    lhs.rows *= p->batch.back();
    p->batch.pop_back();
    lhs.batch_strides.pop_back();
    p->rhs.batch_strides.pop_back();
  }
}

// Gives strides of extents 1 the value that oneDNN expects; false where rows and columns are both
// scattered, repeated, overlapping or backwards.
bool Normalise(Matrix* m) {
  for (int64_t stride : m->batch_strides) {
    if (stride < 0) return false;
  }
  if (m->cols == 1) {
    m->col_stride = 1;
    if (m->rows == 1) m->row_stride = 1;
    return m->row_stride >= 1;
  }
  if (m->rows == 1) {
    m->row_stride = m->col_stride == 1 ? m->cols : 1;
    return m->col_stride >= 1;
  }
  return (m->col_stride == 1 && m->row_stride >= m->cols) ||
         (m->row_stride == 1 && m->col_stride >= m->rows);
}

// The product with the inputs in `dense` (bit i) taken as dense. Sets in *dense the inputs that
// have to be.
Product Arrange(const PrimitiveCall& call, uint32_t* dense) {
  const int batch_rank = call.out.shape.rank() - 2;
  for (;;) {
    Product p;
    p.batch.assign(call.out.shape.dims().begin(), call.out.shape.dims().end() - 2);
    const auto side = [&](int i) {
      const Shape& shape = call.in[i].shape;
      return MatrixOf(shape, (*dense >> i & 1) != 0 ? shape.Strides() : call.layouts[i].strides,
                      batch_rank);
    };
    p.lhs = side(0);
    p.rhs = side(1);
    MergeBatch(&p);
    FoldBatchIntoRows(&p);
    const uint32_t refused = (Normalise(&p.lhs) ? 0 : 1) | (Normalise(&p.rhs) ? 0 : 2);
    if ((refused & ~*dense) == 0) return p;
    *dense |= refused;
  }
}

Operand OperandOf(const Matrix& m, const Dims& batch) {
  Operand o;
  // Not used as an extent of 1 needs no stride, but oneDNN refuses strides that seem to overlap.
  const int64_t span = std::max(m.rows * m.row_stride, m.cols * m.col_stride);
  for (size_t i = 0; i < batch.size(); ++i) {
    const bool broadcast = m.batch_strides[i] == 0;
    o.dims.push_back(broadcast ? 1 : batch[i]);
    o.strides.push_back(broadcast ? span : m.batch_strides[i]);
  }
  o.dims.insert(o.dims.end(), {m.rows, m.cols});
  o.strides.insert(o.strides.end(), {m.row_stride, m.col_stride});
  return o;
}

MatMulSpec SpecOf(const Product& p, bool has_bias, PostOp post_op) {
  MatMulSpec spec{OperandOf(p.lhs, p.batch), OperandOf(p.rhs, p.batch), {}, has_bias, post_op};
  spec.out.dims = p.batch;
  spec.out.dims.insert(spec.out.dims.end(), {p.lhs.rows, p.rhs.cols});
  spec.out.strides = Shape(spec.out.dims).Strides();
  return spec;
}

// ---- Operands with bad strides -----------------------------------------------------------------

// A copy of one operand in scratch memory, line by line, under a stride that suits the cache.
struct Repack {
  int64_t lines = 0;  // 0: the operand is used where it lies
  int64_t length = 0;
  int64_t from_stride = 0;
  int64_t to_stride = 0;
  int64_t scratch_offset = 0;  // bytes
  int64_t bytes() const { return lines * to_stride * int64_t{sizeof(float)}; }
};

// Up to AVX2, oneDNN multiplies products with a short side without packing its operands. Where the
// lines of an operand run along M or N and start 2 KiB (4 KiB) apart, they fall into the same few
// sets of the L1 cache, and the product runs at two thirds (less than half) of its speed. Copying
// pays once an element is used often enough.
bool SuffersFrom(int64_t stride, int64_t uses) {
  return (stride % 512 == 0 && uses >= 32) || (stride % 1024 == 0 && uses >= 16);
}

Repack RepackFor(int64_t lines, int64_t length, int64_t* stride) {
  int64_t to = RoundUp(length, 16) + 16;
  if (to % 512 == 0) to += 16;
  return {lines, length, std::exchange(*stride, to), to, 0};
}

// Decides for both operands of a product and gives them their new strides.
std::array<Repack, 2> ChooseRepacks(Product* p) {
  std::array<Repack, 2> r;
  Matrix& lhs = p->lhs;
  Matrix& rhs = p->rhs;
  const int64_t m = lhs.rows, k = lhs.cols, n = rhs.cols;
  const bool packs_itself = 1.0 / m + 1.0 / n < 0.0038;  // the library's own rule
  if (!p->batch.empty() || packs_itself) return r;
  if (k > 1 && m > 1 && lhs.row_stride == 1 && SuffersFrom(lhs.col_stride, n)) {
    r[0] = RepackFor(k, m, &lhs.col_stride);
  }
  if (k > 1 && n > 1 && rhs.col_stride == 1 && SuffersFrom(rhs.row_stride, m)) {
    r[1] = RepackFor(k, n, &rhs.row_stride);
  }
  return r;
}

void CopyLines(const Repack& r, const float* from, float* to, int threads) {
  const int64_t lines_per_block = std::max<int64_t>(1, onednn::kBlockElements / r.length);
  const int64_t blocks = (r.lines + lines_per_block - 1) / lines_per_block;
  ParallelFor(threads, blocks, [&](int64_t block) {
    const int64_t begin = block * lines_per_block;
    const int64_t end = std::min(r.lines, begin + lines_per_block);
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(from + i * r.from_stride, r.length, to + i * r.to_stride);
    }
  });
}

// ---- MatMul ------------------------------------------------------------------------------------

class MatMulKernel : public Kernel {
 public:
  struct Options {
    bool has_bias = false;
    bool relu = false;
    int64_t out_elements = 0;
    std::array<Repack, 2> repacks;
    std::string description;
  };

  MatMulKernel(const dnnl::engine& engine, BuiltPrimitive built, int slots, Options options)
      : executor_(engine, std::move(built), slots), options_(std::move(options)) {}

  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    TeamSize team(threads);
    std::array<void*, 5> pointers;
    size_t n = 0;
    for (int i = 0; i < 2; ++i) {
      const Repack& r = options_.repacks[i];
      void* operand = const_cast<void*>(in[i]);
      if (r.lines > 0) {
        operand = static_cast<char*>(scratch) + r.scratch_offset;
        CopyLines(r, static_cast<const float*>(in[i]), static_cast<float*>(operand), threads);
      }
      pointers[n++] = operand;
    }
    if (options_.has_bias) pointers[n++] = const_cast<void*>(in[2]);
    pointers[n++] = out[0];
    if (executor_.built().scratchpad_bytes > 0) pointers[n++] = scratch;
    GW_RETURN_IF_ERROR(executor_.Execute(absl::MakeConstSpan(pointers.data(), n)));
    if (options_.relu) ReluInPlace(static_cast<float*>(out[0]), options_.out_elements, threads);
    return absl::OkStatus();
  }

  std::string Describe() const override { return options_.description; }

 private:
  const Executor executor_;
  const Options options_;
};

std::string Describe(const Product& p, bool has_bias, PostOp post_op) {
  std::string s = "onednn matmul";
  if (has_bias) s += "+bias";
  s += PostOpName(post_op);
  absl::StrAppend(&s, " f32 ", p.lhs.rows, "x", p.lhs.cols, "x", p.rhs.cols);
  if (!p.batch.empty()) absl::StrAppend(&s, " batch ", Shape(p.batch).ToString());
  return s;
}

bool IsFloatVector(const TensorType& type, int64_t n) {
  return type == TensorType{DType::kFloat, Shape{n}};
}

// True for products that this provider has kernels for, whatever their layouts.
bool Accepts(const PrimitiveCall& call) {
  if (call.kind != PrimitiveKind::kMatMul || call.in.size() < 2 || call.layouts.size() < 2) {
    return false;
  }
  const Shape& lhs = call.in[0].shape;
  const Shape& rhs = call.in[1].shape;
  const Shape& out = call.out.shape;
  for (const TensorType* type : {&call.in[0], &call.in[1], &call.out}) {
    if (type->dtype != DType::kFloat || type->shape.rank() < 2) return false;
    if (type->shape.num_elements() == 0) return false;
  }
  const int64_t m = lhs[lhs.rank() - 2], k = lhs[lhs.rank() - 1], n = rhs[rhs.rank() - 1];
  if (rhs[rhs.rank() - 2] != k) return false;
  const auto batch = [](const Shape& s) {
    return Shape(Dims(s.dims().begin(), s.dims().end() - 2));
  };
  Shape out_batch;
  if (!BroadcastShapes(batch(lhs), batch(rhs), &out_batch)) return false;
  Dims expected = out_batch.dims();
  expected.insert(expected.end(), {m, n});
  if (expected != out.dims()) return false;
  return !call.has_bias || call.in.size() < 3 || IsFloatVector(call.in[2], n);
}

uint32_t NotDense(const PrimitiveCall& call) {
  uint32_t mask = 0;
  for (int i = 0; i < 2; ++i) {
    if (!call.layouts[i].IsDense(call.in[i].shape)) mask |= 1u << i;
  }
  return mask;
}

class OneDnnProvider : public KernelProvider {
 public:
  OneDnnProvider()
      : slots_(std::clamp(2 * static_cast<int>(std::thread::hardware_concurrency()), 8, 128)),
        without_packing_(OneDnnIsa() == "avx2" || OneDnnIsa() == "avx" || OneDnnIsa() == "sse41") {
    const absl::Status status =
        Guarded([this] { engine_ = dnnl::engine(dnnl::engine::kind::cpu, 0); });
    usable_ = status.ok();
  }

  absl::string_view name() const override { return "onednn"; }
  std::string version() const override { return OneDnnVersion(); }

  std::optional<Proposal> Propose(const PrimitiveCall& call) const override {
    if (!usable_) return std::nullopt;
    if (IsConvolution(call.kind)) return onednn::ProposeConvolution(engine_, slots_, call);
    if (!Accepts(call)) return std::nullopt;
    const uint32_t not_dense = NotDense(call);
    uint32_t dense = 0;
    std::optional<Proposal> proposal = TryMatMul(call, &dense);
    if (!proposal.has_value() && (not_dense & ~dense) != 0) {
      dense = not_dense;
      proposal = TryMatMul(call, &dense);
    }
    if (proposal.has_value()) proposal->wants_dense = dense & not_dense;
    return proposal;
  }

 private:
  // At 8x8x8 a plain loop takes 0.27 us and oneDNN 0.79 us (0.30 and 0.37 us per entry of a batch);
  // at 12x12x12 they are even, beyond that the library wins.
  static constexpr int64_t kTinyProduct = 512;

  std::optional<Proposal> TryMatMul(const PrimitiveCall& call, uint32_t* dense) const {
    Product product = Arrange(call, dense);
    if (SaturatingMul(SaturatingMul(product.lhs.rows, product.lhs.cols), product.rhs.cols) <=
        kTinyProduct) {
      return std::nullopt;
    }
    MatMulKernel::Options options;
    options.has_bias = call.has_bias;
    options.relu = call.post_op == PostOp::kRelu;
    options.out_elements = call.out.shape.num_elements();
    options.description = Describe(product, call.has_bias, call.post_op);
    if (without_packing_) options.repacks = ChooseRepacks(&product);
    const MatMulSpec spec =
        SpecOf(product, call.has_bias, options.relu ? PostOp::kNone : call.post_op);

    TeamSize team(call.threads);
    Proposal proposal;
    const absl::Status status = Guarded([&] {
      BuiltPrimitive built = onednn::BuildMatMul(engine_, spec);
      if (absl::string_view(built.implementation).substr(0, 3) == "ref") return;
      proposal.scratch_bytes = RoundUp(built.scratchpad_bytes, 64);
      for (Repack& repack : options.repacks) {
        repack.scratch_offset = proposal.scratch_bytes;
        proposal.scratch_bytes += RoundUp(repack.bytes(), 64);
      }
      proposal.kernel =
          std::make_unique<MatMulKernel>(engine_, std::move(built), slots_, std::move(options));
    });
    if (!status.ok() || proposal.kernel == nullptr) return std::nullopt;
    return proposal;
  }

  dnnl::engine engine_;
  const int slots_;             // argument sets per kernel: calls that may run side by side
  const bool without_packing_;  // see SuffersFrom
  bool usable_ = false;
};

}  // namespace

std::unique_ptr<KernelProvider> MakeOneDnnProvider() { return std::make_unique<OneDnnProvider>(); }

std::string OneDnnVersion() {
  const dnnl_version_t* v = dnnl_version();
  return absl::StrCat(v->major, ".", v->minor, ".", v->patch);
}

std::string OneDnnIsa() { return onednn::EffectiveIsa(); }

}  // namespace gradwire
