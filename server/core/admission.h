// File: admission.h
//
// Admission     a process-wide budget of bytes. Whatever a call needs is reserved before it is
//               allocated, so that no mix of calls can take more memory than was granted.
// Reservation   a share of that budget, given back when it goes out of scope.
// Workspace     the arena of one thread, with the share of the budget that it holds on to.
//
//   Admission admission(DefaultMemoryLimit());
//   GW_ASSIGN_OR_RETURN(Reservation memory, admission.Reserve(request_bytes, "the request"));
//   GW_RETURN_IF_ERROR(memory.Grow(reply_bytes, "the reply"));  // MEMORY_LIMIT: nothing changed
//
// Thread-safety: an Admission may be used from any thread and outlives what it handed out; the
// others belong to one thread at a time.
#ifndef GRADWIRE_SERVER_CORE_ADMISSION_H_
#define GRADWIRE_SERVER_CORE_ADMISSION_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/exec/program.h"

namespace gradwire::server {

class Admission;

class Reservation {
 public:
  Reservation() = default;  // of nothing: cannot grow
  explicit Reservation(Admission* admission) : admission_(admission) {}
  // One of nothing, of the same budget.
  Reservation Another() const { return Reservation(admission_); }
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation() { Release(); }

  // Reserves `bytes` more. MEMORY_LIMIT, saying what was asked for and what is left, where the
  // budget does not have them; the reservation is then as before.
  absl::Status Grow(int64_t bytes, absl::string_view what);
  // MEMORY_LIMIT where `bytes` more could not be had even if nothing else ran.
  absl::Status CheckPossible(int64_t bytes, absl::string_view what) const;
  void Release();
  int64_t bytes() const { return bytes_; }

 private:
  Admission* admission_ = nullptr;
  int64_t bytes_ = 0;
};

class Admission {
 public:
  explicit Admission(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  absl::StatusOr<Reservation> Reserve(int64_t bytes, absl::string_view what);

  int64_t limit_bytes() const { return limit_bytes_; }
  int64_t reserved_bytes() const { return reserved_.load(std::memory_order_relaxed); }

 private:
  friend class Reservation;
  // False where the budget does not have them.
  bool Take(int64_t bytes);
  void Give(int64_t bytes) { reserved_.fetch_sub(bytes, std::memory_order_relaxed); }

  const int64_t limit_bytes_;
  std::atomic<int64_t> reserved_{0};
};

// An arena is kept between calls, because the first touch of a page is dear; so is its share of the
// budget. Above `keep_bytes` both are given back after the call.
class Workspace {
 public:
  Workspace(Admission* admission, int64_t keep_bytes);

  // Reserves what the arena needs to grow to `bytes`; allocates nothing.
  absl::Status Admit(int64_t bytes);
  Arena* arena() { return arena_.get(); }
  // To be called after every call.
  void Trim();
  int64_t reserved_bytes() const { return memory_.bytes(); }

 private:
  Admission* const admission_;
  const int64_t keep_bytes_;
  Reservation memory_;
  std::unique_ptr<Arena> arena_;
};

// Half of the memory that the process may use: the machine's, or the limit of its cgroup (version 1
// or 2) where that is lower.
int64_t DefaultMemoryLimit();

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_ADMISSION_H_
