// Weighted sums of few elements along an axis, as a node: what Resize is made of.
//
//   // halves: out[i] = (x[2i] + x[2i + 1]) / 2
//   Resample(b, x, 0, {.offsets = {0, 2, 4}, .taps = {0, 1, 2, 3}, .weights = {.5, .5, .5, .5}});
#ifndef GRADWIRE_ENGINE_OPS_RESAMPLE_H_
#define GRADWIRE_ENGINE_OPS_RESAMPLE_H_

#include <vector>

#include "engine/graph/builder.h"

namespace gradwire {

// Row i of a sparse matrix has weights[t] in column taps[t] for t in [offsets[i], offsets[i + 1]).
struct TapRows {
  std::vector<int64_t> offsets;
  std::vector<int64_t> taps;
  std::vector<double> weights;
};

// The matrix times x along `axis`. FLOAT or DOUBLE; taps lie inside the axis.
ValueId Resample(GraphBuilder& b, ValueId x, int axis, TapRows rows);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_RESAMPLE_H_
