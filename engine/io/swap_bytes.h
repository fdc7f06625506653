// File: swap_bytes.h
//
// SwapBytes: big-endian elements to little-endian ones, in place.
#ifndef GRADWIRE_ENGINE_IO_SWAP_BYTES_H_
#define GRADWIRE_ENGINE_IO_SWAP_BYTES_H_

#include <algorithm>

#include "engine/tensor/tensor.h"

namespace gradwire {

inline void SwapBytes(Tensor* tensor) {
  const int64_t size = DTypeBytes(tensor->dtype());
  if (size <= 1) return;
  char* bytes = static_cast<char*>(tensor->mutable_raw());
  for (int64_t i = 0; i < tensor->bytes(); i += size) std::reverse(bytes + i, bytes + i + size);
}

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_SWAP_BYTES_H_
