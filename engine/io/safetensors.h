// File: safetensors.h
//
// The safetensors format: named tensors behind a JSON header.
//
//   std::string bytes = WriteSafetensors({{"w", w}}, {{"step", "7"}});
//   GW_ASSIGN_OR_RETURN(auto tensors, ReadSafetensors(bytes));
//
// Any bytes may be read: besides the header's JSON nothing is allocated beyond their size, because
// the tensors must fill the file, without holes and without overlaps. Thread-safety: pure
// functions.
#ifndef GRADWIRE_ENGINE_IO_SAFETENSORS_H_
#define GRADWIRE_ENGINE_IO_SAFETENSORS_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// The file's own text, `__metadata__`.
using SafetensorsMetadata = std::map<std::string, std::string>;

// The tensors by name, in order of their names; the metadata where it is asked for. Errors:
// DTYPE_UNSUPPORTED for an element type that is none of ours (F8_E4M3 and the like); INVALID_TENSOR
// for anything malformed.
absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadSafetensors(
    absl::string_view bytes, SafetensorsMetadata* metadata = nullptr);

// The same where they lie, in `bytes`: not aligned for their type.
absl::StatusOr<std::vector<std::pair<std::string, TensorView>>> ViewSafetensors(
    absl::string_view bytes, SafetensorsMetadata* metadata = nullptr);

// A file of these tensors, each once by name; equal arguments give equal bytes. Tensors begin at
// multiples of 8 bytes where their sizes are such multiples.
//
// The header alone: the file is it and then the tensors' bytes, one after another, which need not
// be in one place.
std::string SafetensorsHeader(const std::vector<std::pair<std::string, TensorView>>& tensors,
                              const SafetensorsMetadata& metadata = {});
std::string WriteSafetensors(const std::vector<std::pair<std::string, TensorView>>& tensors,
                             const SafetensorsMetadata& metadata = {});

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_SAFETENSORS_H_
