// The op table as a page for people: docs/ops.md is what this makes of AllOps().
#ifndef GRADWIRE_SERVER_CORE_OPS_PAGE_H_
#define GRADWIRE_SERVER_CORE_OPS_PAGE_H_

#include <string>

#include "engine/graph/op_def.h"

namespace gradwire::server {

// Markdown: a table with a line for each row, in the order of the registry. Types and derivatives
// are those that ProbeOp finds.
std::string OpsPage(const OpRegistry& registry);

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_OPS_PAGE_H_
