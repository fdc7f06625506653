// How ONNX writes the windows of convolutions and pools, as the attributes that MakeWindow takes.
#ifndef GRADWIRE_ENGINE_OPS_WINDOW_IMPORT_H_
#define GRADWIRE_ENGINE_OPS_WINDOW_IMPORT_H_

#include <optional>
#include <vector>

#include "engine/graph/node_import.h"
#include "engine/graph/window.h"

namespace gradwire {

// The attribute, or `otherwise` where it is left out; fails where it is no list of integers.
std::vector<int64_t> IntsAttr(NodeImport& n, absl::string_view name,
                              std::vector<int64_t> otherwise);

// NOTSET, VALID, SAME_UPPER or SAME_LOWER; fails where the node says anything else.
std::string AutoPad(NodeImport& n);

// "strides", "dilations" and "pads" of the node, completed: auto_pad has become pads (VALID none;
// SAME_UPPER and SAME_LOWER what makes ceil(in / stride) windows, the odd one after or before), and
// so has `ceil_mode`: one more window wherever it begins in the input or the padding before it.
// What the attributes hold is MakeWindow's business; nullopt only after a failure.
std::optional<std::vector<Attrs::Entry>> WindowAttrs(NodeImport& n, absl::Span<const int64_t> in,
                                                     const std::vector<int64_t>& kernel,
                                                     bool ceil_mode);

// ---- Pools of [N, C, ...]; `attrs` are those of MakeWindow and "kernel"
struct Pool {
  Window window;
  Shape output;
};
absl::StatusOr<Pool> MakePool(const Shape& x, const Attrs& attrs);
// The attributes of a pool over input 0 that an ONNX node says; nullopt only after a failure.
std::optional<std::vector<Attrs::Entry>> PoolAttrs(NodeImport& n, bool ceil_mode);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_WINDOW_IMPORT_H_
