// File: factor.h
//
// Dense factorisations and triangular solves of FLOAT and DOUBLE, in place, row-major: what the
// rows of engine/ops/factor.cc and determinant.cc compute.
//
//   std::vector<double> a = {4, 0, 2, 5};               // the lower triangle of [[4, 2], [2, 5]]
//   int64_t row = factor::Cholesky(a.data(), 2, 1);     // -1; a is {2, 0, 1, 2}
//
// Numerics: plain loops over blocks. Every element takes its terms in ascending order (Cholesky: in
// eight interleaved sums), whatever the block size and the number of threads, so bits depend on the
// numbers alone. Cost: O(n^3), n^2 m for a solve with m columns. Allocates nothing. Thread-safety:
// pure functions. T is float or double.
#ifndef GRADWIRE_ENGINE_KERNELS_FACTOR_H_
#define GRADWIRE_ENGINE_KERNELS_FACTOR_H_

#include <cstdint>

namespace gradwire::factor {

// Replaces the lower triangle of the n x n matrix a by its Cholesky factor, what is above it by
// zeros. Returns the first row whose pivot is not positive (a is then garbage), -1 if there is
// none. A pivot that is NaN makes the rest NaN and is no failure.
template <class T>
int64_t Cholesky(T* a, int64_t n, int threads);

// P A = L U by partial pivoting, packed as LAPACK's getrf does: step k swapped the rows k and
// pivots[k] >= k. A column without a pivot leaves a 0 on the diagonal.
template <class T>
void Lu(T* a, int64_t n, int64_t* pivots, int threads);

// A triangular matrix: element (i, k) is a[i * row + k * column], so that strides swapped transpose
// it. What lies on the other side of the diagonal is not read, nor the diagonal where it is `unit`.
template <class T>
struct Triangle {
  const T* a;
  int64_t n, row, column;
  bool lower, unit;
};

// The first row with a 0 on the diagonal, -1 if there is none.
template <class T>
int64_t FirstZero(const Triangle<T>& t);

// x := t^-1 x, for x of n x m.
template <class T>
void SolveTriangle(const Triangle<T>& t, T* x, int64_t m, int threads);

// Elimination with complete pivoting from both sides: finds w and v with determinants of 1 and
// makes a the diagonal matrix w a v. Its elements come in falling order, roughly, and w and v are
// well conditioned, also where a is singular (then the last ones are 0 or of the size of rounding).
template <class T>
void Diagonalize(T* a, T* w, T* v, int64_t n, int threads);

}  // namespace gradwire::factor

#endif  // GRADWIRE_ENGINE_KERNELS_FACTOR_H_
