// File: npy.h
//
// NumPy's .npy format, versions 1 to 3: one array.
//
//   GW_ASSIGN_OR_RETURN(std::string bytes, ReadFile("x.npy"));
//   GW_ASSIGN_OR_RETURN(Tensor x, ReadNpy(bytes));
//   std::string again = WriteNpy(x);
//
// Any bytes may be read: nothing is allocated beyond their size. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_IO_NPY_H_
#define GRADWIRE_ENGINE_IO_NPY_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// The array, in row-major order and the machine's byte order whatever the file has. Errors:
// DTYPE_UNSUPPORTED for element types that are none of ours (complex, strings, objects, records);
// INVALID_TENSOR for anything malformed, or where the bytes are not exactly one array.
absl::StatusOr<Tensor> ReadNpy(absl::string_view bytes);

// Version 1.0, as numpy.save() writes it. BFLOAT16, which NumPy lacks, is DTYPE_UNSUPPORTED.
absl::StatusOr<std::string> WriteNpy(const TensorView& tensor);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_NPY_H_
