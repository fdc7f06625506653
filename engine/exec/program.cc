#include "engine/exec/program.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "absl/time/clock.h"
#include "engine/base/team.h"
#include "engine/exec/plan.h"

namespace gradwire {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// One more in the exponent reaches the sign bit where the exponent is all ones. No comparisons, so
// that every instruction set has it for vectors.
template <typename Bits, typename T>
bool AllFinite(const T* data, int64_t n) {
  constexpr Bits kSign = Bits{1} << (8 * sizeof(T) - 1);
  constexpr Bits kOne = Bits{1} << (std::numeric_limits<T>::digits - 1);  // of the exponent
  constexpr Bits kExponent = kSign - kOne;
  Bits reached = 0;
#pragma omp simd reduction(| : reached)
  for (int64_t i = 0; i < n; ++i) reached |= (std::bit_cast<Bits>(data[i]) & kExponent) + kOne;
  return (reached & kSign) == 0;
}

// Index of the first element that is not finite, -1 where all are.
template <typename Bits, typename T>
int64_t FirstNonFinite(const T* data, int64_t n, int threads) {
  constexpr int64_t kBlock = 1 << 16;
  std::atomic<bool> found{false};
  ParallelFor(threads, (n + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t begin = block * kBlock;
    if (!AllFinite<Bits>(data + begin, std::min(kBlock, n - begin))) {
      found.store(true, std::memory_order_relaxed);
    }
  });
  if (!found) return -1;
  return std::find_if_not(data, data + n, [](T x) { return std::isfinite(x); }) - data;
}

absl::Status CheckFinite(const SignatureEntry& entry, const void* data, int threads) {
  int64_t at = -1;
  const TensorType& type = entry.type;
  const int64_t n = type.shape.num_elements();
  if (type.dtype == DType::kFloat) {
    at = FirstNonFinite<uint32_t>(static_cast<const float*>(data), n, threads);
  } else if (type.dtype == DType::kDouble) {
    at = FirstNonFinite<uint64_t>(static_cast<const double*>(data), n, threads);
  }
  if (at < 0) return absl::OkStatus();
  return Error(Reason::kNonFiniteValue,
               absl::StrCat("\"", entry.name, "\" ", type.ToString(), " holds ",
                            ElementAsDouble(TensorView(type, data), at), " at element ", at));
}

}  // namespace

Arena::~Arena() { std::free(data_); }

void* Arena::Reserve(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 1);
  if (bytes <= bytes_) return data_;
  if (bytes > INT64_MAX - kHugePage) return nullptr;
  std::free(data_);
  data_ = nullptr;
  bytes_ = 0;
  // Small arenas are ordinary memory; a huge page each would be waste.
  const int64_t align = bytes >= kHugePage / 2 ? kHugePage : 4096;
  const int64_t size = (bytes + align - 1) / align * align;
  data_ = std::aligned_alloc(static_cast<size_t>(align), static_cast<size_t>(size));
  if (data_ == nullptr) return nullptr;
  if (align == kHugePage) madvise(data_, static_cast<size_t>(size), MADV_HUGEPAGE);
  bytes_ = size;
  return data_;
}

Program::Program(std::unique_ptr<const Plan> plan) : plan_(std::move(plan)) {}
Program::~Program() = default;

const Signature& Program::signature() const { return plan_->signature; }
const Cost& Program::cost() const { return plan_->cost; }
const Digest& Program::plan_digest() const { return plan_->digest; }
int Program::threads() const { return plan_->threads; }
int64_t Program::footprint_bytes() const { return plan_->footprint_bytes; }

std::string Program::DescribeStep(int64_t step) const {
  return plan_->steps[static_cast<size_t>(step)].kernel->Describe();
}

std::string Program::Describe() const {
  std::string out;
  for (int64_t i = 0; i < plan_->cost.steps; ++i) {
    absl::StrAppend(&out, i, ": ", DescribeStep(i), "\n");
  }
  return out;
}

absl::Status Program::Run(const Bindings& bindings, RunContext& context, Stage from) const {
  const Plan& plan = *plan_;
  const bool in_place = bindings.updates.empty();
  const int64_t arena_bytes = plan.cost.arena_bytes - (in_place ? 0 : plan.cost.update_bytes);
  char* const arena = static_cast<char*>(context.arena->Reserve(arena_bytes));
  if (arena == nullptr) {
    return Error(Reason::kMemoryLimit,
                 absl::StrCat("cannot get ", arena_bytes, " bytes of working memory"));
  }
  auto resolve = [&](const Plan::Slot& slot) -> char* {
    switch (slot.where) {
      case Place::kArena:
        return arena + slot.offset;
      case Place::kInput:
        return const_cast<char*>(
                   static_cast<const char*>(bindings.inputs[static_cast<size_t>(slot.index)])) +
               slot.offset;
      case Place::kOutput:
        return static_cast<char*>(bindings.outputs[static_cast<size_t>(slot.index)]) + slot.offset;
      case Place::kConstant:
        return const_cast<char*>(static_cast<const char*>(
                   plan.constants[static_cast<size_t>(slot.index)].raw())) +
               slot.offset;
      case Place::kUpdate:
        return (in_place ? arena + plan.update_offsets[static_cast<size_t>(slot.index)]
                         : static_cast<char*>(bindings.updates[static_cast<size_t>(slot.index)])) +
               slot.offset;
      case Place::kNowhere:
        break;
    }
    return nullptr;
  };
  void** const pointers = reinterpret_cast<void**>(arena + plan.pointers_offset);
  for (const Plan::Step& step : plan.steps) {
    if (step.stage < from) continue;
    if (context.cancel != nullptr) GW_RETURN_IF_ERROR(context.cancel->Poll());
    const Plan::Slot* slots = plan.slots.data() + step.first_slot;
    for (int32_t k = 0; k < step.num_in + step.num_out; ++k) pointers[k] = resolve(slots[k]);
    const absl::Time start = context.step_seconds != nullptr ? absl::Now() : absl::Time();
    GW_RETURN_IF_ERROR(step.kernel->Run(pointers, pointers + step.num_in,
                                        arena + step.scratch_offset, plan.threads));
    if (context.step_seconds != nullptr) {
      context.step_seconds[&step - plan.steps.data()] = absl::ToDoubleSeconds(absl::Now() - start);
    }
  }
  if (context.check_finite) {
    for (size_t i = 0; i < plan.signature.outputs.size(); ++i) {
      GW_RETURN_IF_ERROR(CheckFinite(plan.signature.outputs[i], bindings.outputs[i], plan.threads));
    }
    for (const Plan::Commit& commit : plan.commits) {
      const SignatureEntry& e = plan.signature.inputs[static_cast<size_t>(commit.input)];
      GW_RETURN_IF_ERROR(CheckFinite(e, resolve(commit.from), plan.threads));
    }
  }
  if (context.cancel != nullptr) GW_RETURN_IF_ERROR(context.cancel->Poll());
  // The tail: from here on nothing can fail and nothing interrupts.
  for (size_t i = 0; i < plan.commits.size(); ++i) {
    const Plan::Commit& commit = plan.commits[i];
    void* const to = in_place
                         ? const_cast<void*>(bindings.inputs[static_cast<size_t>(commit.input)])
                         : bindings.updates[i];
    const void* const from = resolve(commit.from);
    if (from != to) std::memmove(to, from, static_cast<size_t>(commit.bytes));
  }
  return absl::OkStatus();
}

}  // namespace gradwire
