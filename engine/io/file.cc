#include "engine/io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/checked.h"
#include "engine/base/status.h"

namespace gradwire {
namespace {

class OpenFile {
 public:
  // Without O_NONBLOCK a named pipe would wait for its writer.
  explicit OpenFile(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::StatusOr<int64_t> SizeOf(const OpenFile& file, const std::string& path) {
  struct stat info;
  if (file.fd() < 0 || fstat(file.fd(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  return static_cast<int64_t>(info.st_size);
}

absl::StatusOr<std::string> ReadPart(const OpenFile& file, const std::string& path, int64_t offset,
                                     int64_t length) {
  std::string bytes(static_cast<size_t>(length), '\0');
  int64_t done = 0;
  while (done < length) {
    const ssize_t n =
        pread(file.fd(), bytes.data() + done, static_cast<size_t>(length - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (n == 0) return absl::OutOfRangeError(absl::StrCat(path, " became shorter while read"));
    done += n;
  }
  return bytes;
}

absl::Status TooLarge(const std::string& path, int64_t bytes, int64_t max_bytes) {
  return Error(Reason::kMemoryLimit,
               absl::StrCat(path, ": ", bytes, " bytes are above the limit of ", max_bytes));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  const OpenFile file(path);
  GW_ASSIGN_OR_RETURN(const int64_t size, SizeOf(file, path));
  if (size > max_bytes) return TooLarge(path, size, max_bytes);
  return ReadPart(file, path, 0, size);
}

absl::StatusOr<std::string> ReadFilePart(const std::string& path, int64_t offset, int64_t length) {
  const OpenFile file(path);
  GW_ASSIGN_OR_RETURN(const int64_t size, SizeOf(file, path));
  int64_t end;
  if (offset < 0 || length < 0 || !CheckedAdd(offset, length, &end) || end > size) {
    return absl::OutOfRangeError(absl::StrCat(path, ": ", length, " bytes at offset ", offset,
                                              " lie outside of its ", size, " bytes"));
  }
  if (length > kMaxFileBytes) return TooLarge(path, length, kMaxFileBytes);
  return ReadPart(file, path, offset, length);
}

absl::StatusOr<int64_t> FileBytes(const std::string& path) {
  const OpenFile file(path);
  return SizeOf(file, path);
}

}  // namespace gradwire
