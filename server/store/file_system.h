// File: file_system.h
//
// Files that outlive a crash. This is the only place in the server that writes files.
//
//   GW_RETURN_IF_ERROR(MakeDirectories("/data/uploads"));
//   GW_RETURN_IF_ERROR(WriteFileDurably("/data/blobs/ab/ab34", bytes));  // on disk, or not there
//
//   GW_ASSIGN_OR_RETURN(auto upload, WritableFile::Open("/data/uploads/17"));
//   GW_RETURN_IF_ERROR(upload->WriteAt(offset, chunk));
//   GW_RETURN_IF_ERROR(upload->Sync());                                  // now it may be
//   acknowledged
//
// Folders are made with mode 0700 and files with 0600. Files are opened relative to their folder;
// neither the file nor the folder it lies in may be a symbolic link. Links further up are followed.
//
// Errors: DISK_FULL for no space, quota or size; NOT_FOUND for a file to be read that is not there;
// else INTERNAL, with path and the system's words. Thread-safety: the functions may be called from
// any thread; an object belongs to one thread at a time, except MappedFile, which is immutable.
// failpoints.h makes any of this fail on purpose.
#ifndef GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_
#define GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace gradwire::store {

// Every folder on the way that is not there. OK where all are.
absl::Status MakeDirectories(const std::string& path);
absl::Status SyncDirectory(const std::string& path);

// Writes the pieces, one after another, to a file beside `path`, syncs it, moves it to its place,
// and syncs the folder. After a crash at any moment `path` has its old content (or none) or the new
// one. On an error it has the old one, and nothing is left behind; only where syncing the folder
// failed the new one may be there, not safe from a crash.
absl::Status WriteFileDurably(const std::string& path, absl::Span<const absl::string_view> pieces);
inline absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes) {
  return WriteFileDurably(path, absl::MakeConstSpan(&bytes, 1));
}
// Syncs a complete file and gives it a second name on the same file system, in place of what has
// that name, as WriteFileDurably does. It keeps the first: the caller removes that one when nothing
// needs it any more.
absl::Status LinkFileDurably(const std::string& from, const std::string& to);
// Removes a file and syncs the folder. OK where there is none.
absl::Status RemoveFile(const std::string& path);
// Removes what interrupted WriteFileDurably calls left in a folder. Nobody may write there
// meanwhile.
absl::Status RemoveUnfinishedWrites(const std::string& dir);

// Names in a folder, sorted.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);
absl::StatusOr<bool> FileExists(const std::string& path);
// Changes with every write to a file, and where another takes its place.
struct FileStamp {
  uint64_t inode = 0;
  int64_t bytes = 0;
  int64_t modified_ns = 0;
  bool operator==(const FileStamp&) const = default;
};
absl::StatusOr<FileStamp> StampOf(const std::string& path);
// Passes the content to `take`, piece by piece.
absl::Status ReadFile(const std::string& path, absl::FunctionRef<void(absl::string_view)> take);

// A file that grows, such as an upload.
class WritableFile {
 public:
  // Made where there is none, and then it will be found after a crash; what it has stays.
  static absl::StatusOr<std::unique_ptr<WritableFile>> Open(const std::string& path);
  ~WritableFile();
  WritableFile(const WritableFile&) = delete;
  WritableFile& operator=(const WritableFile&) = delete;

  absl::StatusOr<int64_t> Size() const;
  absl::Status WriteAt(int64_t offset, absl::string_view bytes);
  // INTERNAL where the file is shorter.
  absl::StatusOr<std::string> ReadAt(int64_t offset, int64_t length) const;
  absl::Status Truncate(int64_t bytes);
  // Everything written so far is on disk. After a failure the system may have dropped any of what
  // was written since the last good Sync, and would not say so again: every later call fails. Open
  // the file anew and write that part again.
  absl::Status Sync();

 private:
  WritableFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  absl::Status CheckSound() const;

  const int fd_;
  const std::string path_;
  bool sync_failed_ = false;
};

// A file in memory, read-only: pages are read when they are first touched, and shared with every
// other mapping. It stays as it is when the file is removed or replaced.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  absl::string_view bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::string_view bytes) : bytes_(bytes) {}
  const absl::string_view bytes_;
};

// Keeps every other process out of a folder, by a lock on DIR/lock that goes away with this
// process.
class DirectoryLock {
 public:
  // FAILED_PRECONDITION where somebody has it.
  static absl::StatusOr<std::unique_ptr<DirectoryLock>> Take(const std::string& dir);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  explicit DirectoryLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_FILE_SYSTEM_H_
