// File: idx.h
//
// IDX, the format of the MNIST files: one array.
//
//   GW_ASSIGN_OR_RETURN(std::string bytes, ReadFile("train-images-idx3-ubyte"));
//   GW_ASSIGN_OR_RETURN(Tensor images, ReadIdx(bytes));   // UINT8[60000,28,28]
//
// Two zero bytes, the element type, the rank, an extent for each dimension (32 bits), the elements;
// all big-endian, row-major. The format is described at http://yann.lecun.com/exdb/mnist.
//
// Any bytes may be read: nothing is allocated beyond their size. Thread-safety: pure functions.
#ifndef GRADWIRE_ENGINE_IO_IDX_H_
#define GRADWIRE_ENGINE_IO_IDX_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// True where the bytes begin as an IDX file does. The files have no common ending of their names.
bool LooksLikeIdx(absl::string_view bytes);

// The array, in the machine's byte order. Errors: DTYPE_UNSUPPORTED for an element type that the
// format does not have; INVALID_TENSOR where the bytes are not exactly one array.
absl::StatusOr<Tensor> ReadIdx(absl::string_view bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_IDX_H_
