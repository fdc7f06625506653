// File: file_system.h
//
// Writing files so that they outlive a crash: the only place in the server that does.
//
//   GW_RETURN_IF_ERROR(WriteFileDurably("/data/blobs/ab/ab34", bytes));
//
// Errors: DISK_FULL for no space or quota; NOT_FOUND; else INTERNAL with the system's words. After
// a failed sync a file is not to be trusted, and is removed. Thread-safety: pure apart from the
// files.
//
// For tests, GRADWIRE_FAILPOINTS makes these fail, or kills the process, at a chosen moment:
//   GRADWIRE_FAILPOINTS=rename=kill@3         at the third rename
//   GRADWIRE_FAILPOINTS=write=enospc@2+       the second write and all after it
//   kinds: kill, enospc, eio; points: write, fsync, rename, dirsync
#ifndef GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_
#define GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gradwire::store {

// The moments at which a write can fail.
absl::Span<const char* const> Failpoints();
// Replaces what GRADWIRE_FAILPOINTS says; "" for none. INVALID_ARGUMENT for what does not parse.
absl::Status SetFailpoints(absl::string_view spec);

absl::Status MakeDirectories(const std::string& path);
// Beside its place, synced, moved there, the folder synced.
absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes);
// Syncs the file, moves it and syncs the folder that it comes to lie in.
absl::Status MoveFileDurably(const std::string& from, const std::string& to);
// OK where there is none.
absl::Status RemoveFile(const std::string& path);
// Names in a folder, sorted; those that begin with "tmp-" are unfinished writes.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);
absl::StatusOr<bool> FileExists(const std::string& path);

// A file that is written piece by piece.
class WritableFile {
 public:
  // Made where there is none; what it has stays.
  static absl::StatusOr<std::unique_ptr<WritableFile>> Open(const std::string& path);
  ~WritableFile();
  absl::StatusOr<int64_t> Size() const;
  absl::Status WriteAt(int64_t offset, absl::string_view bytes);
  absl::StatusOr<std::string> ReadAt(int64_t offset, int64_t length) const;
  absl::Status Sync();

 private:
  WritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  const int fd_;
  const std::string path_;
};

// A file in memory, read-only, by the system's page cache.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  absl::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::string_view bytes) : bytes_(bytes) {}
  const absl::string_view bytes_;
};

// Keeps every other process out of a folder as long as it lives.
class DirectoryLock {
 public:
  // FAILED_PRECONDITION where another process has it.
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Take(const std::string& dir);
  ~DirectoryLock();

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_
