#include "engine/onednn/executor.h"

#include <omp.h>

#include <utility>

#include "engine/base/team.h"

namespace gradwire::onednn {

TeamSize::TeamSize(int threads) : before_(omp_get_max_threads()), now_(std::max(threads, 1)) {
  if (now_ != before_) omp_set_num_threads(now_);
}
TeamSize::~TeamSize() {
  if (now_ != before_) omp_set_num_threads(before_);
}

absl::Status Executor::Execute(absl::Span<void* const> pointers) const {
  Slot* slot = Claim();
  if (slot == nullptr) {
    ArgumentSet own;
    return ExecuteWith(&own, pointers);
  }
  absl::Status status = ExecuteWith(&slot->set, pointers);
  slot->taken.store(false, std::memory_order_release);
  return status;
}

Executor::Slot* Executor::Claim() const {
  static std::atomic<unsigned> threads_seen{0};
  thread_local const unsigned ordinal = threads_seen.fetch_add(1, std::memory_order_relaxed);
  const unsigned n = static_cast<unsigned>(num_slots_);
  for (unsigned i = 0; i < n; ++i) {
    Slot* slot = &slots_[(ordinal + i) % n];
    if (!slot->taken.load(std::memory_order_relaxed) &&
        !slot->taken.exchange(true, std::memory_order_acquire)) {
      return slot;
    }
  }
  return nullptr;
}

void Executor::Fill(ArgumentSet* set) const {
  set->stream = dnnl::stream(engine_);
  for (size_t i = 0; i < built_.arguments.size(); ++i) {
    set->memory[i] = dnnl::memory(built_.arguments[i].desc, engine_, DNNL_MEMORY_NONE);
    set->arguments[i] = {built_.arguments[i].id, set->memory[i].get()};
  }
  set->filled = true;
}

absl::Status Executor::ExecuteWith(ArgumentSet* set, absl::Span<void* const> pointers) const {
  if (!set->filled) GW_RETURN_IF_ERROR(Guarded([&] { Fill(set); }));
  const size_t n = built_.arguments.size();
  dnnl_status_t status = pointers.size() == n ? dnnl_success : dnnl_invalid_arguments;
  for (size_t i = 0; i < n && status == dnnl_success; ++i) {
    status = dnnl_memory_set_data_handle(set->arguments[i].memory, pointers[i]);
  }
  // The C call: the C++ one copies the arguments into a map and a vector of ours.
  if (status == dnnl_success) {
    status = dnnl_primitive_execute(built_.primitive.get(), set->stream.get(), static_cast<int>(n),
                                    set->arguments.data());
  }
  if (status == dnnl_success) status = dnnl_stream_wait(set->stream.get());
  if (status == dnnl_success) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("oneDNN: execution of ", built_.implementation,
                                          " failed (status ", static_cast<int>(status), ")"));
}

void ReluInPlace(float* x, int64_t n, int threads) {
  ParallelFor(threads, (n + kBlockElements - 1) / kBlockElements, [&](int64_t block) {
    float* const begin = x + block * kBlockElements;
    const int64_t length = std::min(kBlockElements, n - block * kBlockElements);
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) begin[i] = begin[i] <= 0.f ? 0.f : begin[i];
  });
}

}  // namespace gradwire::onednn
