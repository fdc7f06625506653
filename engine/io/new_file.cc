#include "engine/io/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire {
namespace {

int SyncFolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return -1;
  const int result = fsync(fd);
  close(fd);
  return result;
}

}  // namespace

absl::StatusOr<NewFile> NewFile::Create(const std::string& path) {
  std::random_device random;
  constexpr int kTries = 8;
  for (int i = 0; i < kTries; ++i) {
    std::string temporary = absl::StrCat(path, ".", absl::Hex(random(), absl::kZeroPad8), ".part");
    const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return NewFile(path, std::move(temporary), fd);
    if (errno != EEXIST) break;
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
}

NewFile::NewFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

NewFile& NewFile::operator=(NewFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  return *this;
}

NewFile::~NewFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status NewFile::Failed() const {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
}

absl::Status NewFile::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Failed();
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status NewFile::Clear() {
  if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) != 0) return Failed();
  return absl::OkStatus();
}

absl::Status NewFile::Commit() {
  if (fsync(fd_) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) return Failed();
  close(fd_);
  fd_ = -1;
  return SyncFolderOf(path_) == 0 ? absl::OkStatus() : Failed();
}

absl::Status WriteNewFile(const std::string& path, absl::string_view bytes) {
  GW_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  GW_RETURN_IF_ERROR(file.Write(bytes));
  return file.Commit();
}

}  // namespace gradwire
