// File: reduce.h
//
// Reductions of a dense [outer, axis, inner] view over its middle dimension into dense
// [outer, inner]. Any reduction over neighbouring axes has this form.
//
//   const ReduceFn sum = FindReduce(ReduceKind::kSum, DType::kDouble);
//   sum(matrix, row_sums, /*outer=*/rows, /*axis=*/columns, /*inner=*/1, /*threads=*/1);
//   sum(matrix, column_sums, /*outer=*/1, /*axis=*/rows, /*inner=*/columns, /*threads=*/1);
//
// Numerics: the order is fixed by the extents; neither threads nor the CPU change a bit. Sums run
// in blocks along the axis (4096 neighbours, or 64 rows), combined pairwise, so that rounding
// errors grow with log(axis). Integer sums wrap. In Max and Min a NaN wins. An empty axis gives 0,
// -inf (or the lowest integer), +inf (or the highest). Cost: one pass over the input, up to about
// 200 KiB of stack per thread, no allocation. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_KERNELS_REDUCE_H_
#define GRADWIRE_ENGINE_KERNELS_REDUCE_H_

#include <cstdint>

#include "engine/graph/op_def.h"

namespace gradwire {

// `in` and `out` are aligned for their element type and do not overlap.
using ReduceFn = void (*)(const void* in, void* out, int64_t outer, int64_t axis, int64_t inner,
                          int threads);

// Null where there is none: booleans and half-width floating types.
ReduceFn FindReduce(ReduceKind kind, DType dtype);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_KERNELS_REDUCE_H_
