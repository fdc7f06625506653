// File: matmul.h
//
// Matrix products of DOUBLE (oneDNN has none on CPU) and FLOAT: packed panels and a
// register-blocked inner loop compiled for each instruction set. Private to engine/kernels;
// own_provider.h says what becomes of it.
//
//   const matmul::Kernels<float> best = matmul::BestKernels<float>();
//   matmul::Gemm<float> product = {...};
//   best.run(product, {0, product.m, 0, product.n}, scratch);
//
// Numerics: each element sums its K products in ascending order, in blocks of 256 that are then
// added in order. Its bits depend on K and the instruction set only. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_KERNELS_MATMUL_H_
#define GRADWIRE_ENGINE_KERNELS_MATMUL_H_

#include <optional>

#include "engine/exec/kernel.h"

namespace gradwire {

// A kernel for any PrimitiveKind::kMatMul of FLOAT or DOUBLE; nullopt for other calls.
std::optional<Proposal> ProposeMatMul(const PrimitiveCall& call);

namespace matmul {

// One matrix product of T, c = a b (m x k, k x n). Strides count elements, any of a's and b's may
// be 0 or negative; rows of c are contiguous.
template <class T>
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t a_row = 0, a_col = 0;
  const T* b = nullptr;
  int64_t b_row = 0, b_col = 0;
  T* c = nullptr;
  int64_t c_row = 0;
  bool accumulate = false;  // c += a b
  const T* bias = nullptr;  // [n], or null
  TileFn add = nullptr;     // adds the bias
  TileFn post = nullptr;    // null: none
};

// A rectangle of the result.
struct Region {
  int64_t m_begin, m_end, n_begin, n_end;
};

// What one instruction set offers for T.
template <class T>
struct Kernels {
  int64_t rows, columns;  // of the register block
  void (*run)(const Gemm<T>& gemm, const Region& region, T* scratch);
  // What `run` needs, at most about 1.1 MiB; a whole number of 64-byte lines.
  int64_t ScratchElements(int64_t m, int64_t n, int64_t k) const;
};

// For the CPU found at run time. T is float or double.
template <class T>
Kernels<T> BestKernels();

// The loop of a post-op; null for none.
TileFn PostTile(PostOp post_op, DType dtype);

inline int64_t RoundUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

}  // namespace matmul
}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_KERNELS_MATMUL_H_
