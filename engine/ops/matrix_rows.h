// What the families of matrix factorisations share: stacks [..., n, n] of square matrices, walks
// over them, masks and diagonals.
#ifndef GRADWIRE_ENGINE_OPS_MATRIX_ROWS_H_
#define GRADWIRE_ENGINE_OPS_MATRIX_ROWS_H_

#include <atomic>
#include <limits>
#include <vector>

#include "engine/base/checked.h"
#include "engine/base/team.h"
#include "engine/graph/node_import.h"

namespace gradwire {

// The rows of determinant.cc; FactorOps() includes them.
std::vector<const OpDef*> DeterminantOps();

// Of FLOAT or DOUBLE, with equal last extents.
absl::Status CheckSquare(const TensorType& a, absl::string_view what = "the matrix");
// So many inputs, the first a stack of square matrices. False after Fail().
bool TakesSquare(NodeImport& n, int inputs);
// The extents before the matrix.
Dims StackOf(const Shape& a);
// n^3 for each matrix of the stack: what a factorisation costs, up to a small factor.
int64_t CubicFlops(const InferArgs& args, const TensorType& out);

// Calls fn(matrix, threads) for all matrices of n x n of a stack: several at a time, or each with
// all threads. fn returns the row of the matrix that is bad, -1 for none. Returns the first bad
// matrix and row, {-1, -1} if there is none.
struct BadRow {
  int64_t matrix = -1, row = -1;
};
template <typename Fn>
BadRow ForMatrices(int threads, int64_t matrices, int64_t n, const Fn& fn) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first = kNone;
  const bool together = matrices >= 2 * threads && SaturatingMul(matrices, n * n * n) > 1 << 16;
  ParallelFor(together ? threads : 1, matrices, [&](int64_t i) {
    const int64_t row = fn(i, together ? 1 : threads);
    if (row < 0) return;
    int64_t known = first.load();
    while (i * n + row < known && !first.compare_exchange_weak(known, i * n + row)) {
    }
  });
  if (first == kNone) return {};
  return {first / n, first % n};
}

// ---- Building
// The last extent; 0 for a scalar, which is what there is after a failure.
int64_t LastExtent(const GraphBuilder& b, ValueId x);
// BOOL [n, n]: on the diagonal; on it or below.
ValueId OnDiagonal(GraphBuilder& b, int64_t n);
ValueId OnOrBelowDiagonal(GraphBuilder& b, int64_t n);
// The lower triangle, zeros above; the upper one, zeros below. `strict` drops the diagonal too.
ValueId LowerPart(GraphBuilder& b, ValueId x, bool strict = false);
ValueId UpperPart(GraphBuilder& b, ValueId x, bool strict = false);
// The diagonals [..., n] of [..., n, n].
ValueId Diagonal(GraphBuilder& b, ValueId x);
// [...] as [..., 1, 1].
ValueId AsMatrices(GraphBuilder& b, ValueId x);
// op(A)^-1 B for triangular A, and A^-1 B, of equal stacks. op transposes if asked to.
struct TriangleOptions {
  bool lower = true, transpose = false, unit_diagonal = false;
};
ValueId TriangularSolve(GraphBuilder& b, ValueId a, ValueId x, TriangleOptions options = {});
ValueId Solve(GraphBuilder& b, ValueId a, ValueId x, bool transpose = false);

// ---- Samples
// A stack of well conditioned matrices, which as lower triangles are positive definite.
SampleInput Regular(Dims shape);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_MATRIX_ROWS_H_
