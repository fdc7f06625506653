#include "engine/kernels/factor.h"

#include <algorithm>
#include <cmath>

#include "engine/base/team.h"

namespace gradwire::factor {
namespace {

constexpr int64_t kPanel = 32;      // columns that are eliminated together
constexpr int64_t kRows = 16;       // rows that a thread takes at a time
constexpr int64_t kColumns = 64;    // right-hand sides that a thread takes at a time
constexpr int64_t kWork = 1 << 16;  // multiplications that are worth waking threads for

// Calls fn(i) for the rows [first, last), each of them costing `work`.
template <class Fn>
void ForRows(int threads, int64_t first, int64_t last, int64_t work, const Fn& fn) {
  const int64_t blocks = (last - first + kRows - 1) / kRows;
  if ((last - first) * work < kWork) threads = 1;
  ParallelFor(threads, blocks, [&](int64_t block) {
    const int64_t begin = first + block * kRows, end = std::min(last, begin + kRows);
    for (int64_t i = begin; i < end; ++i) fn(i);
  });
}

template <class T>
T Dot(const T* x, const T* y, int64_t n) {
  constexpr int64_t kLanes = 8;
  T sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * y[i + lane];
  }
  for (; i < n; ++i) sums[i % kLanes] += x[i] * y[i];
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// x -= factor * y
template <class T>
void Subtract(T* __restrict x, T factor, const T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] -= factor * y[i];
}

// The same for four, one after the other.
template <class T>
void Subtract4(T* __restrict x, const T (&f)[4], const T* __restrict a, const T* __restrict b,
               const T* __restrict c, const T* __restrict d, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    x[i] = (((x[i] - f[0] * a[i]) - f[1] * b[i]) - f[2] * c[i]) - f[3] * d[i];
  }
}

template <class T>
void SwapRows(T* a, int64_t columns, int64_t i, int64_t k) {
  std::swap_ranges(a + i * columns, a + (i + 1) * columns, a + k * columns);
}

// Makes rows i >= k1 of the panel's columns [k0, k1) multipliers, and rows [k0, k1) rows of U.
template <class T>
void FactorPanel(T* a, int64_t n, int64_t k0, int64_t k1, int64_t* pivots) {
  for (int64_t k = k0; k < k1; ++k) {
    int64_t at = k;
    for (int64_t i = k + 1; i < n; ++i) {  // a NaN is the largest, so that it is seen
      if (!(std::abs(a[i * n + k]) <= std::abs(a[at * n + k]))) at = i;
    }
    pivots[k] = at;
    if (at != k) SwapRows(a, n, k, at);
    const T pivot = a[k * n + k];
    if (pivot == T{0}) continue;
    for (int64_t i = k + 1; i < n; ++i) {
      T* row = a + i * n;
      row[k] /= pivot;
      Subtract(row + k + 1, row[k], a + k * n + k + 1, k1 - k - 1);
    }
  }
  for (int64_t k = k0; k < k1; ++k) {
    for (int64_t r = k0; r < k; ++r) {
      Subtract(a + k * n + k1, a[k * n + r], a + r * n + k1, n - k1);
    }
  }
}

// Multiplies column k by -1, which with a swap of two columns is of determinant 1.
template <class T>
void SwapColumns(T* a, int64_t n, int64_t i, int64_t k) {
  for (int64_t r = 0; r < n; ++r) {
    std::swap(a[r * n + i], a[r * n + k]);
    a[r * n + k] = -a[r * n + k];
  }
}

template <class T>
void SetIdentity(T* a, int64_t n) {
  std::fill(a, a + n * n, T{0});
  for (int64_t i = 0; i < n; ++i) a[i * n + i] = T{1};
}

// Brings the largest element of the rows and columns from k on to (k, k); false where all are 0.
template <class T>
bool PivotCompletely(T* a, T* w, T* v, int64_t n, int64_t k) {
  int64_t row = k, column = k;
  for (int64_t i = k; i < n; ++i) {
    for (int64_t j = k; j < n; ++j) {
      if (!(std::abs(a[i * n + j]) <= std::abs(a[row * n + column]))) row = i, column = j;
    }
  }
  if (a[row * n + column] == T{0}) return false;
  if (row != k) {
    for (T* m : {a, w}) {
      SwapRows(m, n, row, k);
      for (int64_t j = 0; j < n; ++j) m[k * n + j] = -m[k * n + j];
    }
  }
  if (column != k) {
    for (T* m : {a, v}) SwapColumns(m, n, column, k);
  }
  return true;
}

}  // namespace

template <class T>
int64_t Cholesky(T* a, int64_t n, int threads) {
  for (int64_t j0 = 0; j0 < n; j0 += kPanel) {
    const int64_t j1 = std::min(n, j0 + kPanel);
    // Columns [j0, min(j1, i)) of row i, of rows that are finished up to their own diagonal.
    const auto fill_row = [&](int64_t i) {
      T* row = a + i * n;
      for (int64_t j = j0; j < std::min(j1, i); ++j) {
        row[j] = (row[j] - Dot(row, a + j * n, j)) / a[j * n + j];
      }
    };
    for (int64_t i = j0; i < j1; ++i) {
      fill_row(i);
      T* row = a + i * n;
      const T pivot = row[i] - Dot(row, row, i);
      if (pivot <= T{0}) return i;
      row[i] = std::sqrt(pivot);
      std::fill(row + i + 1, row + n, T{0});
    }
    ForRows(threads, j1, n, j1 * (j1 - j0), fill_row);
  }
  return -1;
}

template <class T>
void Lu(T* a, int64_t n, int64_t* pivots, int threads) {
  for (int64_t k0 = 0; k0 < n; k0 += kPanel) {
    const int64_t k1 = std::min(n, k0 + kPanel);
    FactorPanel(a, n, k0, k1, pivots);
    ForRows(threads, k1, n, (n - k1) * (k1 - k0), [&](int64_t i) {
      T* row = a + i * n;
      for (int64_t k = k0; k < k1; ++k) Subtract(row + k1, row[k], a + k * n + k1, n - k1);
    });
  }
}

template <class T>
int64_t FirstZero(const Triangle<T>& t) {
  for (int64_t i = 0; i < t.n && !t.unit; ++i) {
    if (t.a[i * (t.row + t.column)] == T{0}) return i;
  }
  return -1;
}

template <class T>
void SolveTriangle(const Triangle<T>& t, T* x, int64_t m, int threads) {
  if (t.n * t.n * m < kWork) threads = 1;
  const int64_t step = t.lower ? 1 : -1;
  ParallelFor(threads, (m + kColumns - 1) / kColumns, [&](int64_t block) {
    const int64_t first = block * kColumns, count = std::min(kColumns, m - first);
    for (int64_t s = 0; s < t.n; ++s) {
      const int64_t i = t.lower ? s : t.n - 1 - s;
      T* to = x + i * m + first;
      int64_t k = t.lower ? 0 : t.n - 1;
      const auto element = [&](int64_t ahead) {
        return t.a[i * t.row + (k + ahead * step) * t.column];
      };
      const auto row = [&](int64_t ahead) { return x + (k + ahead * step) * m + first; };
      int64_t left = s;
      for (; left >= 4; left -= 4, k += 4 * step) {
        Subtract4(to, {element(0), element(1), element(2), element(3)}, row(0), row(1), row(2),
                  row(3), count);
      }
      for (; left > 0; --left, k += step) Subtract(to, element(0), row(0), count);
      if (t.unit) continue;
      const T pivot = t.a[i * (t.row + t.column)];
      for (int64_t c = 0; c < count; ++c) to[c] /= pivot;
    }
  });
}

template <class T>
void Diagonalize(T* a, T* w, T* v, int64_t n, int threads) {
  SetIdentity(w, n);
  SetIdentity(v, n);
  for (int64_t k = 0; k < n && PivotCompletely(a, w, v, n, k); ++k) {
    T* pivot_row = a + k * n;
    const T pivot = pivot_row[k];
    ForRows(threads, k + 1, n, 2 * n, [&](int64_t i) {
      T* row = a + i * n;
      const T factor = row[k] / pivot;
      row[k] = T{0};
      Subtract(row + k + 1, factor, pivot_row + k + 1, n - k - 1);
      Subtract(w + i * n, factor, w + k * n, n);
    });
    for (int64_t j = k + 1; j < n; ++j) pivot_row[j] /= pivot;
    ForRows(threads, 0, n, n, [&](int64_t i) {
      Subtract(v + i * n + k + 1, v[i * n + k], pivot_row + k + 1, n - k - 1);
    });
    std::fill(pivot_row + k + 1, pivot_row + n, T{0});
  }
}

#define GW_INSTANTIATE(T)                                               \
  template int64_t Cholesky<T>(T*, int64_t, int);                       \
  template void Lu<T>(T*, int64_t, int64_t*, int);                      \
  template int64_t FirstZero<T>(const Triangle<T>&);                    \
  template void SolveTriangle<T>(const Triangle<T>&, T*, int64_t, int); \
  template void Diagonalize<T>(T*, T*, T*, int64_t, int)
GW_INSTANTIATE(float);
GW_INSTANTIATE(double);
#undef GW_INSTANTIATE

}  // namespace gradwire::factor
