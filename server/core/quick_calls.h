// QuickCalls: which calls are known to be answered in a few microseconds, so that the thread that
// received one may answer it itself: a request of the same structure has run before, its Program is
// small, and it should still be in the cache. Everything else, the first call of a kind included,
// which compiles, goes to a worker.
//
// It only chooses where a call runs, never what it answers: a false "yes" costs time, a false "no"
// a change of threads. So it is a table of hashes without locks, where newer entries overwrite.
#ifndef GRADWIRE_SERVER_CORE_QUICK_CALLS_H_
#define GRADWIRE_SERVER_CORE_QUICK_CALLS_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "gradwire/v1/gradient_service.pb.h"

namespace gradwire::server {

class QuickCalls {
 public:
  bool Contains(uint64_t key) const { return Slot(key).load(std::memory_order_relaxed) == key; }
  void Add(uint64_t key) { Slot(key).store(key, std::memory_order_relaxed); }
  void Remove(uint64_t key) {
    if (Contains(key)) Slot(key).store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr size_t kSlots = 8192;
  std::atomic<uint64_t>& Slot(uint64_t key) { return slots_[key % kSlots]; }
  const std::atomic<uint64_t>& Slot(uint64_t key) const { return slots_[key % kSlots]; }
  std::array<std::atomic<uint64_t>, kSlots> slots_{};
};

// A hash of all that decides the Program of a request: model, types of tensors, values of integer
// tensors (a shape may depend on them), names, options; not of floating data. Never 0. Cost: linear
// in the model's bytes.
uint64_t QuickKey(const v1::EvaluateRequest& request);
uint64_t QuickKey(const v1::ComputeGradientRequest& request);
uint64_t QuickKey(const v1::ComputeVjpRequest& request);
uint64_t QuickKey(const v1::ComputeJvpRequest& request);
uint64_t QuickKey(const v1::ComputeHvpRequest& request);
uint64_t QuickKey(const v1::ComputeJacobianRequest& request);
uint64_t QuickKey(const v1::ComputeHessianRequest& request);
uint64_t QuickKey(const v1::CheckGradientsRequest& request);  // never quick

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_QUICK_CALLS_H_
