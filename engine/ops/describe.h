// The op table as a page for people: docs/ops.md is what this makes of AllOps().
#ifndef GRADWIRE_ENGINE_OPS_DESCRIBE_H_
#define GRADWIRE_ENGINE_OPS_DESCRIBE_H_

#include <string>

#include "engine/graph/op_def.h"

namespace gradwire {

// The opsets of ai.onnx that ranges are clipped to: those that import reads.
inline constexpr int kFirstDescribedOpset = 6;
inline constexpr int kLastDescribedOpset = 23;

// Markdown: a table with a line for each row, in the order of the registry.
std::string DescribeOps(const OpRegistry& registry);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_DESCRIBE_H_
