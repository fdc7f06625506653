// What the families that pick, place and order elements share: their rows, which indexing.cc adds
// to its own, checks of indices, and arithmetic on indices as nodes.
#ifndef GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_
#define GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_

#include "engine/graph/node_import.h"

namespace gradwire {

std::vector<const OpDef*> GatherOps();       // gather.cc
std::vector<const OpDef*> ScatterOps();      // scatter.cc
std::vector<const OpDef*> SelectionOps();    // selection.cc
std::vector<const OpDef*> ArrangementOps();  // arrangement.cc
std::vector<const OpDef*> ResampleOps();     // resample.cc
std::vector<const OpDef*> ResizeOps();       // resize.cc
std::vector<const OpDef*> GridSampleOps();   // grid_sample.cc

// ---- For references
absl::Status CheckIndexType(DType dtype);  // INT32 or INT64
absl::Status CheckAxis(int64_t axis, const Shape& shape);
int64_t IndexAt(const TensorView& indices, int64_t i);
// All in [-extent, extent). Checked before any element moves, so that the loops after it need not
// fail.
absl::Status CheckIndices(const TensorView& indices, int64_t extent);

// Extents before, at and behind the axis of `shape`.
struct Runs {
  int64_t outer = 1, extent = 1, inner = 1;
  Runs(const Shape& shape, int64_t axis) : extent(shape[static_cast<int>(axis)]) {
    for (int d = 0; d < axis; ++d) outer *= shape[d];
    for (int d = static_cast<int>(axis) + 1; d < shape.rank(); ++d) inner *= shape[d];
  }
};

inline constexpr int64_t kBlockBytes = 64 * 1024;  // what is worth a thread's while

// ---- As nodes: INT64 values
ValueId Integer(GraphBuilder& b, int64_t value);
// 0, step, 2 step, ... (n of them) along dimension `axis` of a value of that rank, 1 elsewhere.
// Import allocates it: who asks has checked n with IndicesFit.
ValueId Counting(GraphBuilder& b, int64_t n, int rank, int axis, int64_t step = 1);
// Indices as INT64, negative ones counted from the end of an extent.
ValueId FromStart(GraphBuilder& b, ValueId indices, int64_t extent);
// Where such an index is one of the extent.
ValueId Inside(GraphBuilder& b, ValueId index, int64_t extent);
// The places of the k greatest (or least) elements along an axis, the greatest (least) first, lower
// indices first where elements are equal. NaN counts as greater than everything.
ValueId TopIndices(GraphBuilder& b, ValueId x, int axis, int64_t k, bool largest);
// out[i...] = x[i... with indices[i...] at `axis`]; the extents of `indices` fit those of x.
ValueId GatherElements(NodeImport& n, ValueId x, ValueId indices, int axis);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_
