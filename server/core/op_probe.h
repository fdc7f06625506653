// OpProbe: what an ONNX op can do here, found by trying it on a sample of its row.
#ifndef GRADWIRE_SERVER_CORE_OP_PROBE_H_
#define GRADWIRE_SERVER_CORE_OP_PROBE_H_

#include <vector>

#include "engine/graph/op_def.h"

namespace gradwire::server {

struct OpProbe {
  std::vector<DType> dtypes;  // that it takes where its sample leaves the type open, ascending
  bool vjp = false;           // some floating type of `dtypes` can be differentiated in reverse
  bool jvp = false;           // ... and forward
  bool second = false;        // ... and forward over reverse
};

// Tries `binding` of `op` at an opset in [first_opset, last_opset]. Cost: some microseconds a type.
OpProbe ProbeOp(const OpDef& op, const OnnxBinding& binding, int first_opset, int last_opset);

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_OP_PROBE_H_
