// File: executor.h
//
// What the kernels of this folder run primitives with. Private to engine/onednn.
#ifndef GRADWIRE_ENGINE_ONEDNN_EXECUTOR_H_
#define GRADWIRE_ENGINE_ONEDNN_EXECUTOR_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <memory>

#include "engine/onednn/bridge.h"

namespace gradwire::onednn {

inline int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

inline constexpr int64_t kBlockElements = 16384;  // a block of the team's work: 64 KiB

// The one place where exceptions of the library end.
template <typename Fn>
absl::Status Guarded(const Fn& fn) {
  try {
    fn();
    return absl::OkStatus();
  } catch (const dnnl::error& e) {
    return absl::InternalError(
        absl::StrCat("oneDNN: ", e.what(), " (status ", static_cast<int>(e.status), ")"));
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("oneDNN: ", e.what()));
  }
}

// Sets the team that the calling thread's next parallel region gets, for the life of the object.
// The library decides at creation how work is split, and asks again at execution.
class TeamSize {
 public:
  explicit TeamSize(int threads);
  ~TeamSize();
  TeamSize(const TeamSize&) = delete;
  TeamSize& operator=(const TeamSize&) = delete;

 private:
  const int before_;
  const int now_;
};

// Runs one primitive from several threads at once. The library takes pointers through memory
// objects, which cannot be shared between calls that run side by side and cost allocations to make.
// So there is a fixed row of argument sets; a call takes a free one, starting from a place of its
// thread's own, and makes its memory objects if it is the first there. A call that finds all taken
// makes a set for itself.
class Executor {
 public:
  // Throws as the library does.
  Executor(const dnnl::engine& engine, BuiltPrimitive built, int slots)
      : engine_(engine), built_(std::move(built)), num_slots_(slots), slots_(new Slot[slots]) {
    Fill(&slots_[0].set);
  }

  const BuiltPrimitive& built() const { return built_; }

  // `pointers` in the order of built().arguments; the library writes through the output's and the
  // scratchpad's only.
  absl::Status Execute(absl::Span<void* const> pointers) const;

 private:
  static constexpr int kMaxArguments = 6;
  struct ArgumentSet {
    dnnl::stream stream;
    std::array<dnnl::memory, kMaxArguments> memory;
    std::array<dnnl_exec_arg_t, kMaxArguments> arguments;
    bool filled = false;
  };
  struct alignas(64) Slot {
    std::atomic<bool> taken{false};
    ArgumentSet set;
  };

  Slot* Claim() const;
  void Fill(ArgumentSet* set) const;
  absl::Status ExecuteWith(ArgumentSet* set, absl::Span<void* const> pointers) const;

  const dnnl::engine engine_;
  const BuiltPrimitive built_;
  const int num_slots_;
  const std::unique_ptr<Slot[]> slots_;
};

// Relu that keeps NaN, which oneDNN's own makes 0.
void ReluInPlace(float* x, int64_t n, int threads);

}  // namespace gradwire::onednn

#endif  // GRADWIRE_ENGINE_ONEDNN_EXECUTOR_H_
