// File: file.h
//
// Whole files into memory, with a bound.
//
//   absl::StatusOr<std::string> bytes = ReadFile("x.npy", kMaxFileBytes);
//
// Thread-safety: pure apart from the file system.
#ifndef GRADWIRE_ENGINE_IO_FILE_H_
#define GRADWIRE_ENGINE_IO_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace gradwire {

// No message and no protobuf holds more than this.
inline constexpr int64_t kMaxFileBytes = int64_t{2} << 30;

// The bytes of a regular file. Errors: NOT_FOUND, PERMISSION_DENIED or another code after errno;
// INVALID_ARGUMENT for a folder or anything else that is no regular file; MEMORY_LIMIT above
// `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = kMaxFileBytes);

// `length` bytes from `offset`. OUT_OF_RANGE where the file is shorter; else as ReadFile.
absl::StatusOr<std::string> ReadFilePart(const std::string& path, int64_t offset, int64_t length);

// The size of a regular file; errors as ReadFile.
absl::StatusOr<int64_t> FileBytes(const std::string& path);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_IO_FILE_H_
