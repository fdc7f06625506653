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

// The opsets in which a binding is read: of ai.onnx those that import knows, of our own domain its
// own. None where first > last.
struct OpsetRange {
  int first, last;
  bool empty() const { return first > last; }
};
OpsetRange OpsetsOf(const OnnxBinding& binding);

// Tries `binding` of `op` at an opset in the range, which is not empty. Cost: some microseconds a
// type.
OpProbe ProbeOp(const OpDef& op, const OnnxBinding& binding, OpsetRange opsets);

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_OP_PROBE_H_
