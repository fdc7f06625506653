// File: patience.h
//
// Patience: how a call that rides over restarts of the server waits for it. Uploads, watches and
// downloads take one; when the connection breaks they connect again, with waits from 0.1 to 5
// seconds between their tries, and go on where they were.
//
//   Patience patience;
//   patience.deadline = absl::Hours(8);
//   training.Watch(name, 0, on_event, patience);
#ifndef GRADWIRE_CLIENT_PATIENCE_H_
#define GRADWIRE_CLIENT_PATIENCE_H_

#include <functional>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gradwire {

struct Patience {
  // How long the whole call may take; then it is DEADLINE_EXCEEDED.
  absl::Duration deadline = absl::InfiniteDuration();
  // How long the server may be away at a time; then the call gives up with UNAVAILABLE.
  absl::Duration outage = absl::Minutes(5);
  // Told why, each time before the call waits. May be empty.
  std::function<void(const absl::Status&)> on_outage;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_PATIENCE_H_
