// Guarded: what stands around each call and each run of a job, since the standard library and
// others throw where memory is short. Nothing of this project does.
#ifndef GRADWIRE_ENGINE_BASE_GUARDED_H_
#define GRADWIRE_ENGINE_BASE_GUARDED_H_

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire {

// What `fn` returns; MEMORY_LIMIT or INTERNAL for what it throws.
template <typename Fn>
absl::Status Guarded(const Fn& fn) {
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return Error(Reason::kMemoryLimit, "the system has no more memory");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("unexpected: ", e.what()));
  }
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_GUARDED_H_
