// File: cancel.h
//
// CancelToken: how a caller stops a computation, by hand or by a deadline. The executor polls it
// between the steps of a Program, never inside its commit tail. Thread-safe.
//
//   CancelToken token(absl::Now() + absl::Seconds(1));
//   std::thread watcher([&] { token.Cancel(); });
//   absl::Status s = program->Run(bindings, {.cancel = &token});   // CANCELLED or
//   DEADLINE_EXCEEDED
#ifndef GRADWIRE_ENGINE_BASE_CANCEL_H_
#define GRADWIRE_ENGINE_BASE_CANCEL_H_

#include <atomic>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace gradwire {

class CancelToken {
 public:
  explicit CancelToken(absl::Time deadline = absl::InfiniteFuture()) : deadline_(deadline) {}
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;

  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  absl::Time deadline() const { return deadline_; }

  // OK, CANCELLED or DEADLINE_EXCEEDED. Costs a load; the clock is read only where a deadline is
  // set.
  absl::Status Poll() const {
    if (cancelled()) return absl::CancelledError("the caller went away");
    if (deadline_ != absl::InfiniteFuture() && absl::Now() >= deadline_) {
      return absl::DeadlineExceededError("the deadline passed while computing");
    }
    return absl::OkStatus();
  }

 private:
  std::atomic<bool> cancelled_{false};
  const absl::Time deadline_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_CANCEL_H_
