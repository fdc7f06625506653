// InFlight: the calls that are being answered, so that a server can stop taking new ones, wait for
// the rest and cancel what does not end. Thread-safe.
#ifndef GRADWIRE_SERVER_RPC_IN_FLIGHT_H_
#define GRADWIRE_SERVER_RPC_IN_FLIGHT_H_

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/base/cancel.h"

namespace gradwire::rpc {

class InFlight {
 public:
  // False, and no Leave() is due, once Drain() was called.
  bool Enter(CancelToken* call) {
    absl::MutexLock lock(&mutex_);
    if (draining_) return false;
    calls_.insert(call);
    return true;
  }
  void Leave(CancelToken* call) {
    absl::MutexLock lock(&mutex_);
    calls_.erase(call);
  }
  void Drain() {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
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
    absl::MutexLock lock(&mutex_);
    for (CancelToken* call : calls_) call->Cancel();
  }

 private:
  mutable absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<CancelToken*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_IN_FLIGHT_H_
