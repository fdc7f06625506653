// File: npz.h
//
// NumPy's .npz format: named arrays in a zip archive, as numpy.savez() and savez_compressed()
// write.
//
//   GW_ASSIGN_OR_RETURN(auto arrays, ReadNpz(bytes));
//   for (const auto& [name, tensor] : arrays) ...
//
// Any bytes may be read; zip.h says how memory is bounded. Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_IO_NPZ_H_
#define GRADWIRE_ENGINE_IO_NPZ_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/io/file.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// The arrays in the order of the archive, by name without ".npy". Errors: those of ReadNpy, with
// the member's name; INVALID_TENSOR for a damaged archive, a name that comes twice, or a member
// that is no .npy file; MEMORY_LIMIT where the arrays are above `max_bytes` together.
absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadNpz(
    absl::string_view bytes, int64_t max_bytes = kMaxFileBytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_NPZ_H_
