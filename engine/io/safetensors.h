// File: safetensors.h
//
// The safetensors format: named tensors behind a JSON header.
//
//   GW_ASSIGN_OR_RETURN(auto tensors, ReadSafetensors(bytes));
//
// Any bytes may be read: besides the header's JSON nothing is allocated beyond their size, because
// the tensors must fill the file, without holes and without overlaps. Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_IO_SAFETENSORS_H_
#define GRADWIRE_ENGINE_IO_SAFETENSORS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// The tensors by name, in order of their names; __metadata__ is left out. Errors: DTYPE_UNSUPPORTED
// for an element type that is none of ours (F8_E4M3 and the like); INVALID_TENSOR for anything
// malformed.
absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadSafetensors(
    absl::string_view bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_SAFETENSORS_H_
