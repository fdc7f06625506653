// Any bytes as a file of tensors; the first byte chooses the format.
#include <cstdint>

#include "engine/io/csv.h"
#include "engine/io/npy.h"
#include "engine/io/npz.h"
#include "engine/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      gradwire::ReadNpy(bytes).status().IgnoreError();
      break;
    case 1:
      gradwire::ReadNpz(bytes).status().IgnoreError();
      break;
    case 2:
      gradwire::ReadSafetensors(bytes).status().IgnoreError();
      break;
    default:
      gradwire::ReadCsv(bytes).status().IgnoreError();
  }
  return 0;
}
