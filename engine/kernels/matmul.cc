#include "engine/kernels/matmul.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/kernels/simd_targets.h"
#include "engine/kernels/tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/matmul.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

// After foreach_target.h.
#include "hwy/highway.h"

#ifndef GRADWIRE_ENGINE_KERNELS_MATMUL_ONCE_
#define GRADWIRE_ENGINE_KERNELS_MATMUL_ONCE_
namespace gradwire::matmul {

// Products are summed in blocks of this many along K: part of the numerics.
inline constexpr int64_t kBlockK = 256;
// A block of the left operand stays in the second-level cache, a panel of the right one in the
// first.
inline constexpr int64_t kBlockM = 96;
inline constexpr int64_t kBlockN = 1024;

}  // namespace gradwire::matmul
#endif  // GRADWIRE_ENGINE_KERNELS_MATMUL_ONCE_

HWY_BEFORE_NAMESPACE();
namespace gradwire::matmul {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr int kRows = 12;  // 24 of 32 registers accumulate
#elif HWY_TARGET == HWY_AVX2
constexpr int kRows = 6;  // 12 of 16
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 2;

template <class T>
constexpr int64_t Lanes() {
  return static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));
}
template <class T>
constexpr int64_t Columns() {
  return kVectors * Lanes<T>();
}

// The operands of the inner loop. Packed a: element (i, k) at a[k * kRows + i]. b: row k at
// b + k * b_row, as many vectors as are used.
template <class T>
struct Panel {
  int64_t k;
  const T* a;
  int64_t a_row, a_col;  // unpacked only
  const T* b;
  int64_t b_row;
  T* c;
  int64_t c_row;
  int64_t n;        // columns to write
  bool accumulate;  // else overwrite
};

// A block of kR rows and kV vectors of c; every element has an accumulator of its own.
template <int kR, int kV, bool kPackedA, class T>
void Inner(const Panel<T>& p) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t kLanes = Lanes<T>();
  V sum[kR][kV];
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) sum[i][v] = hn::Zero(d);
  }
  const T* a = p.a;
  const T* b = p.b;
  const int64_t a_row = kPackedA ? 1 : p.a_row;
  const int64_t a_col = kPackedA ? kRows : p.a_col;
  for (int64_t k = 0; k < p.k; ++k, a += a_col, b += p.b_row) {
    V right[kV];
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) right[v] = hn::LoadU(d, b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
      const V left = hn::Set(d, a[i * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sum[i][v] = hn::MulAdd(left, right[v], sum[i][v]);
    }
  }
  if (p.n == kV * kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        T* c = p.c + i * p.c_row + v * kLanes;
        hn::StoreU(p.accumulate ? hn::Add(hn::LoadU(d, c), sum[i][v]) : sum[i][v], d, c);
      }
    }
    return;
  }
  HWY_ALIGN T buffer[kR * kV * HWY_LANES(T)];
#pragma GCC unroll 16
  for (int i = 0; i < kR; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) hn::Store(sum[i][v], d, buffer + (i * kV + v) * kLanes);
  }
  for (int i = 0; i < kR; ++i) {
    T* c = p.c + i * p.c_row;
    const T* from = buffer + i * kV * kLanes;
    for (int64_t j = 0; j < p.n; ++j) c[j] = p.accumulate ? c[j] + from[j] : from[j];
  }
}

// Calls Inner for `rows` rows, 1 to kRows.
template <int kR, bool kPackedA, class T>
HWY_INLINE void InnerForRows(int64_t rows, const Panel<T>& p) {
  if constexpr (kR > 1) {
    if (rows < kR) return InnerForRows<kR - 1, kPackedA>(rows, p);
  }
  if (p.n <= Lanes<T>()) return Inner<kR, 1, kPackedA>(p);
  Inner<kR, kVectors, kPackedA>(p);
}

// Copies rows [0, m) x columns [0, k) of a into panels of kRows rows; the last panel's missing rows
// are never read.
template <class T>
void PackA(const T* a, int64_t a_row, int64_t a_col, int64_t m, int64_t k, T* out) {
  for (int64_t i0 = 0; i0 < m; i0 += kRows, out += kRows * k) {
    const int64_t rows = std::min<int64_t>(kRows, m - i0);
    const T* from = a + i0 * a_row;
    if (rows == kRows) {
      for (int64_t j = 0; j < k; ++j) {
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) out[j * kRows + i] = from[i * a_row + j * a_col];
      }
      continue;
    }
    for (int64_t j = 0; j < k; ++j) {
      for (int64_t i = 0; i < rows; ++i) out[j * kRows + i] = from[i * a_row + j * a_col];
    }
  }
}

// Copies k rows x n columns of b into panels of Columns<T>() columns, zeros where b ends.
template <class T>
void PackB(const T* b, int64_t b_row, int64_t b_col, int64_t k, int64_t n, T* out) {
  constexpr int64_t kColumns = Columns<T>();
  const hn::ScalableTag<T> d;
  for (int64_t j0 = 0; j0 < n; j0 += kColumns, out += kColumns * k) {
    const int64_t columns = std::min(kColumns, n - j0);
    const T* from = b + j0 * b_col;
    if (columns == kColumns && b_col == 1) {
      for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const int64_t at = v * Lanes<T>();
          hn::StoreU(hn::LoadU(d, from + i * b_row + at), d, out + i * kColumns + at);
        }
      }
    } else if (columns == kColumns) {
      for (int64_t i = 0; i < k; ++i) {
#pragma GCC unroll 16
        for (int64_t j = 0; j < kColumns; ++j) out[i * kColumns + j] = from[i * b_row + j * b_col];
      }
    } else {
      for (int64_t i = 0; i < k; ++i) {
        T* row = out + i * kColumns;
        for (int64_t j = 0; j < columns; ++j) row[j] = from[i * b_row + j * b_col];
        std::fill(row + columns, row + kColumns, T{0});
      }
    }
  }
}

// Adds the bias and applies the post-op to finished rows [m0, m1) x columns [n0, n1).
template <class T>
void Finish(const Gemm<T>& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  if (g.bias != nullptr) {
    for (int64_t i = m0; i < m1; ++i) {
      T* row = g.c + i * g.c_row + n0;
      const void* in[] = {row, g.bias + n0};
      g.add(in, row, n1 - n0);
    }
  }
  if (g.post == nullptr) return;
  const bool contiguous = n1 - n0 == g.c_row;
  const int64_t run = contiguous ? (m1 - m0) * g.c_row : n1 - n0;
  for (int64_t i = m0; i < (contiguous ? std::min(m0 + 1, m1) : m1); ++i) {
    T* row = g.c + i * g.c_row + n0;
    const void* in[] = {row};
    g.post(in, row, run);
  }
}

// Computes rows [m0, m1) of columns [n0, n1) over one block of K. `b` is packed, or null where full
// panels are read in place; then `edge` has room for the last, partial one.
template <class T>
void RunBlock(const Gemm<T>& g, int64_t m0, int64_t m1, int64_t n0, int64_t n1, int64_t k0,
              int64_t k_extent, const T* packed_a, const T* packed_b, T* edge) {
  constexpr int64_t kColumns = Columns<T>();
  // A single row against b in place reads long pieces of b's rows: caches and TLBs need that.
  constexpr int kWideVectors = 8;
  constexpr int64_t kWide = kWideVectors * Lanes<T>();
  int64_t j = n0;
  if (m1 - m0 == 1 && packed_a == nullptr && packed_b == nullptr) {
    for (; j + kWide <= n1; j += kWide) {
      Inner<1, kWideVectors, false>(Panel<T>{
          k_extent, g.a + m0 * g.a_row + k0 * g.a_col, g.a_row, g.a_col, g.b + k0 * g.b_row + j,
          g.b_row, g.c + m0 * g.c_row + j, g.c_row, kWide, k0 > 0 || g.accumulate});
    }
  }
  for (; j < n1; j += kColumns) {
    Panel<T> p;
    p.k = k_extent;
    p.n = std::min(kColumns, n1 - j);
    p.accumulate = k0 > 0 || g.accumulate;
    p.c_row = g.c_row;
    p.b_row = kColumns;
    if (packed_b != nullptr) {
      p.b = packed_b + (j - n0) * k_extent;
    } else if (p.n == kColumns || p.n == Lanes<T>()) {
      p.b = g.b + k0 * g.b_row + j;
      p.b_row = g.b_row;
    } else {
      PackB(g.b + k0 * g.b_row + j * g.b_col, g.b_row, g.b_col, k_extent, p.n, edge);
      p.b = edge;
    }
    p.a_row = g.a_row;
    p.a_col = g.a_col;
    for (int64_t i = m0; i < m1; i += kRows) {
      const int64_t rows = std::min<int64_t>(kRows, m1 - i);
      p.c = g.c + i * g.c_row + j;
      if (packed_a != nullptr) {
        p.a = packed_a + (i - m0) * k_extent;
        InnerForRows<kRows, true>(rows, p);
      } else {
        p.a = g.a + i * g.a_row + k0 * g.a_col;
        InnerForRows<kRows, false>(rows, p);
      }
    }
  }
}

template <class T>
void Run(const Gemm<T>& g, const Region& r, T* scratch) {
  if (r.m_begin == r.m_end || r.n_begin == r.n_end) return;
  if (g.k == 0) {
    for (int64_t i = r.m_begin; i < r.m_end && !g.accumulate; ++i) {
      std::fill(g.c + i * g.c_row + r.n_begin, g.c + i * g.c_row + r.n_end, T{0});
    }
    return Finish(g, r.m_begin, r.m_end, r.n_begin, r.n_end);
  }
  // An operand that is read once or twice is not worth packing.
  const bool pack_a = r.n_end - r.n_begin > 2 * Columns<T>() && r.m_end - r.m_begin > 1;
  const bool pack_b = g.b_col != 1 || r.m_end - r.m_begin > 2 * kRows;
  T* packed_b = scratch;
  T* packed_a = scratch + std::min(g.k, kBlockK) * std::min(RoundUp(g.n, Columns<T>()), kBlockN);
  for (int64_t n0 = r.n_begin; n0 < r.n_end; n0 += kBlockN) {
    const int64_t n1 = std::min(n0 + kBlockN, r.n_end);
    for (int64_t k0 = 0; k0 < g.k; k0 += kBlockK) {
      const int64_t k_extent = std::min(kBlockK, g.k - k0);
      if (pack_b) {
        PackB(g.b + k0 * g.b_row + n0 * g.b_col, g.b_row, g.b_col, k_extent, n1 - n0, packed_b);
      }
      for (int64_t m0 = r.m_begin; m0 < r.m_end; m0 += kBlockM) {
        const int64_t m1 = std::min(m0 + kBlockM, r.m_end);
        if (pack_a) {
          PackA(g.a + m0 * g.a_row + k0 * g.a_col, g.a_row, g.a_col, m1 - m0, k_extent, packed_a);
        }
        RunBlock(g, m0, m1, n0, n1, k0, k_extent, pack_a ? packed_a : nullptr,
                 pack_b ? packed_b : nullptr, packed_b);
        if (k0 + k_extent == g.k) Finish(g, m0, m1, n0, n1);
      }
    }
  }
}

Kernels<float> FloatKernels() { return {kRows, Columns<float>(), &Run<float>}; }
Kernels<double> DoubleKernels() { return {kRows, Columns<double>(), &Run<double>}; }

}  // namespace HWY_NAMESPACE
}  // namespace gradwire::matmul
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace gradwire {
namespace matmul {

HWY_EXPORT(FloatKernels);
HWY_EXPORT(DoubleKernels);

template <>
Kernels<float> BestKernels<float>() {
  return HWY_DYNAMIC_DISPATCH(FloatKernels)();
}
template <>
Kernels<double> BestKernels<double>() {
  return HWY_DYNAMIC_DISPATCH(DoubleKernels)();
}

template <class T>
int64_t Kernels<T>::ScratchElements(int64_t m, int64_t n, int64_t k) const {
  const int64_t depth = std::min(k, kBlockK);
  const int64_t b = depth * std::min(RoundUp(n, columns), kBlockN);
  const int64_t a = depth * std::min(RoundUp(m, rows), kBlockM);
  return RoundUp(a + b, 64 / static_cast<int64_t>(sizeof(T)));
}
template struct Kernels<float>;
template struct Kernels<double>;

TileFn PostTile(PostOp post_op, DType dtype) {
  const DType types[] = {dtype};
  switch (post_op) {
    case PostOp::kNone:
      return nullptr;
    case PostOp::kRelu:
      return tiles::Relu(types, dtype);
    case PostOp::kTanh:
      return tiles::Tanh(types, dtype);
    case PostOp::kSigmoid:
      return tiles::Sigmoid(types, dtype);
  }
  return nullptr;
}

namespace {

// Below this many multiplications a team costs more than it saves.
constexpr int64_t kMinTeamProducts = 1 << 17;

struct BatchDim {
  int64_t extent, a_stride, b_stride;
};

template <class T>
class MatMulKernel : public Kernel {
 public:
  explicit MatMulKernel(const PrimitiveCall& call)
      : kernels_(BestKernels<T>()), post_op_(call.post_op), threads_(std::max(call.threads, 1)) {
    const Shape& a = call.in[0].shape;
    const Shape& b = call.in[1].shape;
    const Dims& a_strides = call.layouts[0].strides;
    const Dims& b_strides = call.layouts[1].strides;
    const int rank = call.out.shape.rank();
    gemm_.m = a[a.rank() - 2];
    gemm_.k = a[a.rank() - 1];
    gemm_.n = gemm_.c_row = b[b.rank() - 1];
    gemm_.a_row = a_strides[a.rank() - 2];
    gemm_.a_col = a_strides[a.rank() - 1];
    gemm_.b_row = b_strides[b.rank() - 2];
    gemm_.b_col = b_strides[b.rank() - 1];
    if (gemm_.n == 1) gemm_.b_col = 1;  // the stride of one column is anything
    for (int i = 0; i < rank - 2; ++i) {
      const int64_t extent = call.out.shape[i];
      batches_ *= extent;
      if (extent == 1) continue;
      batch_.push_back({extent, BatchStride(a, a_strides, i - rank + a.rank()),
                        BatchStride(b, b_strides, i - rank + b.rank())});
    }
    FoldBatchIntoRows();
    has_bias_ = call.has_bias;
    const DType types[] = {kDTypeOf<T>, kDTypeOf<T>};
    gemm_.add = tiles::Add(types, kDTypeOf<T>);
    gemm_.post = PostTile(post_op_, kDTypeOf<T>);
    const int64_t products =
        SaturatingMul(SaturatingMul(batches_, gemm_.m), SaturatingMul(gemm_.n, gemm_.k));
    if (products < kMinTeamProducts) threads_ = 1;
  }

  int64_t scratch_bytes() const {
    return SaturatingMul(threads_, ScratchElements() * static_cast<int64_t>(sizeof(T)));
  }

  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    Gemm<T> gemm = gemm_;
    gemm.a = static_cast<const T*>(in[0]);
    gemm.b = static_cast<const T*>(in[1]);
    gemm.c = static_cast<T*>(out[0]);
    gemm.bias = has_bias_ ? static_cast<const T*>(in[2]) : nullptr;
    if (gemm.m == 0 || gemm.n == 0) return absl::OkStatus();
    T* const panels = static_cast<T*>(scratch);
    const int team = std::clamp(threads, 1, threads_);
    if (batches_ >= team) {
      ParallelFor(team, team, [&](int64_t task) {
        const int64_t end = batches_ * (task + 1) / team;
        for (int64_t i = batches_ * task / team; i < end; ++i) {
          kernels_.run(OfBatch(gemm, i), {0, gemm.m, 0, gemm.n}, panels + task * ScratchElements());
        }
      });
      return absl::OkStatus();
    }
    for (int64_t i = 0; i < batches_; ++i) {
      const Gemm<T> one = OfBatch(gemm, i);
      ParallelFor(team, team, [&](int64_t task) {
        kernels_.run(one, TaskRegion(task, team), panels + task * ScratchElements());
      });
    }
    return absl::OkStatus();
  }

  std::string Describe() const override {
    return absl::StrCat("own matmul", has_bias_ ? "+bias" : "", PostOpName(post_op_),
                        sizeof(T) == 4 ? " f32 " : " f64 ",
                        batches_ == 1 ? "" : absl::StrCat(batches_, "*"), gemm_.m, "x", gemm_.k,
                        "x", gemm_.n);
  }

 private:
  static int64_t BatchStride(const Shape& shape, const Dims& strides, int dim) {
    return dim < 0 || shape[dim] == 1 ? 0 : strides[dim];
  }

  // Products with one right-hand side, whose left rows follow each other evenly, are one product.
  void FoldBatchIntoRows() {
    while (!batch_.empty() && batch_.back().b_stride == 0 &&
           batch_.back().a_stride == gemm_.a_row * gemm_.m && batch_.back().extent > 0) {
      gemm_.m *= batch_.back().extent;
      batches_ /= batch_.back().extent;
      batch_.pop_back();
    }
  }

  int64_t ScratchElements() const { return kernels_.ScratchElements(gemm_.m, gemm_.n, gemm_.k); }

  Gemm<T> OfBatch(Gemm<T> gemm, int64_t index) const {
    gemm.c += index * gemm.m * gemm.n;
    for (size_t i = batch_.size(); i-- > 0;) {
      const int64_t at = index % batch_[i].extent;
      index /= batch_[i].extent;
      gemm.a += at * batch_[i].a_stride;
      gemm.b += at * batch_[i].b_stride;
    }
    return gemm;
  }

  // Task's share of one product: a slice of whole register blocks of the longer side.
  Region TaskRegion(int64_t task, int64_t tasks) const {
    const int64_t row_blocks = (gemm_.m + kernels_.rows - 1) / kernels_.rows;
    const int64_t column_blocks = (gemm_.n + kernels_.columns - 1) / kernels_.columns;
    if (row_blocks * kernels_.rows >= column_blocks * kernels_.columns) {
      return {std::min(row_blocks * task / tasks * kernels_.rows, gemm_.m),
              std::min(row_blocks * (task + 1) / tasks * kernels_.rows, gemm_.m), 0, gemm_.n};
    }
    return {0, gemm_.m, std::min(column_blocks * task / tasks * kernels_.columns, gemm_.n),
            std::min(column_blocks * (task + 1) / tasks * kernels_.columns, gemm_.n)};
  }

  const Kernels<T> kernels_;
  const PostOp post_op_;
  int threads_;
  bool has_bias_ = false;
  Gemm<T> gemm_;
  int64_t batches_ = 1;
  absl::InlinedVector<BatchDim, 4> batch_;  // of the output, outermost first
};

template <class T>
Proposal ProposeFor(const PrimitiveCall& call) {
  auto kernel = std::make_unique<MatMulKernel<T>>(call);
  Proposal proposal;
  proposal.scratch_bytes = kernel->scratch_bytes();
  proposal.kernel = std::move(kernel);
  return proposal;
}

}  // namespace
}  // namespace matmul

std::optional<Proposal> ProposeMatMul(const PrimitiveCall& call) {
  if (call.kind != PrimitiveKind::kMatMul || call.in.size() != 2 || call.layouts.size() != 2) {
    return std::nullopt;
  }
  const DType dtype = call.out.dtype;
  for (const TensorType& type : call.in) {
    if (type.dtype != dtype || type.shape.rank() < 2) return std::nullopt;
  }
  if (dtype == DType::kFloat) return matmul::ProposeFor<float>(call);
  if (dtype == DType::kDouble) return matmul::ProposeFor<double>(call);
  return std::nullopt;
}

}  // namespace gradwire
#endif  // HWY_ONCE
