// InFlight: the calls that are being answered, so that a server can stop taking new ones, wait for
// the rest and cancel what does not end. Thread-safe.
#ifndef GRADWIRE_SERVER_RPC_IN_FLIGHT_H_
#define GRADWIRE_SERVER_RPC_IN_FLIGHT_H_

#include <functional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/base/cancel.h"

namespace gradwire::rpc {

class InFlight {
 public:
  // False, and no Leave() is due, once Drain() was called. `look_again`, where there is one, is
  // called by Drain() and by CancelAll(), possibly after Leave(): nobody polls the token of a
  // stream that waits.
  bool Enter(CancelToken* call, std::function<void()> look_again = nullptr) {
    absl::MutexLock lock(&mutex_);
    if (draining_) return false;
    calls_.emplace(call, std::move(look_again));
    return true;
  }
  void Leave(CancelToken* call) {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
  }
  void Drain() {
    {
      absl::MutexLock lock(&mutex_);
      draining_ = true;
    }
    LookAgain();
  }
  bool draining() const {
    absl::MutexLock lock(&mutex_);
    return draining_;
  }
  // False where calls were left at the deadline.
  bool WaitUntilEmpty(absl::Time deadline) const {
    absl::MutexLock lock(&mutex_);
    const auto empty = [this] {
      mutex_.AssertHeld();
      return calls_.empty();
    };
    return mutex_.AwaitWithDeadline(absl::Condition(&empty), deadline);
  }
  void CancelAll() {
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [call, look_again] : calls_) call->Cancel();
    }
    LookAgain();
  }

 private:
  // Without the lock: a call may leave during it.
  void LookAgain() {
    std::vector<std::function<void()>> all;
    {
      absl::MutexLock lock(&mutex_);
      for (const auto& [call, look_again] : calls_) {
        if (look_again) all.push_back(look_again);
      }
    }
    for (const auto& look_again : all) look_again();
  }

  mutable absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<CancelToken*, std::function<void()>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_IN_FLIGHT_H_
