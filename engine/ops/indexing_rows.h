// The rows of gather.cc, which indexing.cc adds to its family: two files because of their length.
#ifndef GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_
#define GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_

#include "engine/graph/op_def.h"

namespace gradwire {

std::vector<const OpDef*> GatherOps();

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_INDEXING_ROWS_H_
