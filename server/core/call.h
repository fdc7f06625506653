// Call: what the transport-free core knows about one call, and what it tells about it afterwards.
#ifndef GRADWIRE_SERVER_CORE_CALL_H_
#define GRADWIRE_SERVER_CORE_CALL_H_

#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/cancel.h"
#include "server/core/admission.h"
#include "server/core/workers.h"

namespace gradwire::server {

struct Call {
  // Set by whoever runs the call.
  const CancelToken* cancel = nullptr;  // null: cannot be cancelled
  absl::Time arrival = absl::Now();     // when the request was received
  Workspace* workspace = nullptr;       // of the thread that runs it
  Reservation memory;                   // holds the request's bytes; grows by the reply's
  CpuGate* gate = nullptr;              // null: on the thread that received it

  // Set by GradientCore::IsQuick; 0: not asked.
  uint64_t quick_key = 0;

  // Set by the core.
  absl::Duration queue_time, compute_time;
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_CALL_H_
