// File: zip.h
//
// Reads zip archives whole: stored and deflated members.
//
//   GW_ASSIGN_OR_RETURN(std::vector<ZipMember> members, ReadZip(bytes, int64_t{1} << 30));
//
// Any bytes may be read. Members may not overlap, each must have the size and the CRC-32 that the
// directory declares, and declared sizes are believed only as far as deflate could reach them: an
// archive of n bytes never makes more than about 1032 n bytes be allocated, nor more than the cap.
// Encryption, several disks and archives above 4 GiB (zip64) are refused.
// Thread-safety: pure function.
#ifndef GRADWIRE_ENGINE_IO_ZIP_H_
#define GRADWIRE_ENGINE_IO_ZIP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace gradwire {

struct ZipMember {
  std::string name;
  std::string bytes;
};

// All members in the order of the directory. Errors: INVALID_TENSOR for a malformed archive;
// MEMORY_LIMIT where the members are above `max_bytes` together.
absl::StatusOr<std::vector<ZipMember>> ReadZip(absl::string_view archive, int64_t max_bytes);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_ZIP_H_
