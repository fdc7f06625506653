#include "server/store/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/status.h"

namespace gradwire::store {
namespace {

constexpr const char* kPoints[] = {"write", "fsync", "rename", "dirsync"};

absl::Status SystemError(int error, absl::string_view what, absl::string_view path) {
  const std::string message = absl::StrCat(what, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Error(Reason::kDiskFull, message);
    case ENOENT:
      return Error(Reason::kNotFound, message);
    default:
      return absl::InternalError(message);
  }
}

// ---- Failpoints.

struct Failpoint {
  std::string point;
  std::string kind;
  int64_t first = 1;
  bool and_after = false;
  int64_t hits = 0;
};

struct FailpointTable {
  std::atomic<bool> any{false};
  absl::Mutex mutex;
  std::vector<Failpoint> entries ABSL_GUARDED_BY(mutex);
};
FailpointTable& Table() {
  static FailpointTable& table = *[] {
    auto* made = new FailpointTable();
    return made;
  }();
  return table;
}

void ReadEnvironmentOnce() {
  static const bool read = [] {
    if (const char* spec = std::getenv("GRADWIRE_FAILPOINTS")) SetFailpoints(spec).IgnoreError();
    return true;
  }();
  (void)read;
}

// 0, or the error that the test wants here.
int Hit(absl::string_view point) {
  ReadEnvironmentOnce();
  FailpointTable& table = Table();
  if (!table.any.load(std::memory_order_relaxed)) return 0;
  absl::MutexLock lock(&table.mutex);
  for (Failpoint& f : table.entries) {
    if (f.point != point) continue;
    ++f.hits;
    if (f.hits != f.first && !(f.and_after && f.hits > f.first)) continue;
    if (f.kind == "kill") raise(SIGKILL);
    return f.kind == "enospc" ? ENOSPC : EIO;
  }
  return 0;
}

// ---- System calls.

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

int OpenRetrying(const std::string& path, int flags) {
  int fd;
  do {
    fd = open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

absl::Status WriteAllAt(int fd, int64_t offset, absl::string_view bytes, absl::string_view path) {
  while (!bytes.empty()) {
    if (const int error = Hit("write")) return SystemError(error, "cannot write", path);
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(errno, "cannot write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status SyncDescriptor(int fd, const char* point, absl::string_view path) {
  if (const int error = Hit(point)) return SystemError(error, "cannot sync", path);
  if (fsync(fd) != 0) return SystemError(errno, "cannot sync", path);
  return absl::OkStatus();
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
}

absl::Status SyncDirectory(const std::string& path) {
  const Descriptor dir(OpenRetrying(path, O_RDONLY | O_DIRECTORY));
  if (dir.get() < 0) return SystemError(errno, "cannot open", path);
  return SyncDescriptor(dir.get(), "dirsync", path);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (const int error = Hit("rename")) return SystemError(error, "cannot move to", to);
  if (rename(from.c_str(), to.c_str()) != 0) return SystemError(errno, "cannot move to", to);
  return SyncDirectory(DirectoryOf(to));
}

std::string TemporaryPath(const std::string& path) {
  static std::atomic<int64_t> count{0};
  return absl::StrCat(DirectoryOf(path), "/tmp-", getpid(), "-", count.fetch_add(1));
}

}  // namespace

absl::Span<const char* const> Failpoints() { return kPoints; }

absl::Status SetFailpoints(absl::string_view spec) {
  std::vector<Failpoint> entries;
  for (absl::string_view part : absl::StrSplit(spec, ',', absl::SkipEmpty())) {
    const std::vector<std::string> sides = absl::StrSplit(part, absl::MaxSplits('=', 1));
    Failpoint f;
    f.point = sides[0];
    bool good = sides.size() == 2 && std::count(std::begin(kPoints), std::end(kPoints), f.point);
    if (good) {
      const std::vector<std::string> action = absl::StrSplit(sides[1], absl::MaxSplits('@', 1));
      f.kind = action[0];
      absl::string_view number = action.size() == 2 ? absl::string_view(action[1]) : "1";
      f.and_after = absl::ConsumeSuffix(&number, "+");
      good = absl::SimpleAtoi(number, &f.first) && f.first > 0 &&
             (f.kind == "kill" || f.kind == "enospc" || f.kind == "eio");
    }
    if (!good) return absl::InvalidArgumentError(absl::StrCat("not a failpoint: ", part));
    entries.push_back(std::move(f));
  }
  FailpointTable& table = Table();
  absl::MutexLock lock(&table.mutex);
  table.any = !entries.empty();
  table.entries = std::move(entries);
  return absl::OkStatus();
}

absl::Status MakeDirectories(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0700) == 0) {
      GW_RETURN_IF_ERROR(SyncDirectory(DirectoryOf(part)));
    } else if (errno != EEXIST) {
      return SystemError(errno, "cannot make the folder", part);
    }
    if (end == std::string::npos) return absl::OkStatus();
  }
}

absl::Status WriteFileDurably(const std::string& path, absl::string_view bytes) {
  const std::string temporary = TemporaryPath(path);
  Descriptor file(OpenRetrying(temporary, O_WRONLY | O_CREAT | O_EXCL));
  if (file.get() < 0) return SystemError(errno, "cannot make", temporary);
  absl::Status status = WriteAllAt(file.get(), 0, bytes, temporary);
  if (status.ok()) status = SyncDescriptor(file.get(), "fsync", temporary);
  if (close(file.release()) != 0 && status.ok()) {
    status = SystemError(errno, "cannot close", temporary);
  }
  if (status.ok()) status = Rename(temporary, path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::Status MoveFileDurably(const std::string& from, const std::string& to) {
  {
    const Descriptor file(OpenRetrying(from, O_RDONLY));
    if (file.get() < 0) return SystemError(errno, "cannot open", from);
    GW_RETURN_IF_ERROR(SyncDescriptor(file.get(), "fsync", from));
  }
  return Rename(from, to);
}

absl::Status RemoveFile(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return SystemError(errno, "cannot remove", path);
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) return SystemError(errno, "cannot list", path);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(dir);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<bool> FileExists(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0) return true;
  if (errno == ENOENT) return false;
  return SystemError(errno, "cannot look at", path);
}

absl::StatusOr<std::unique_ptr<WritableFile>> WritableFile::Open(const std::string& path) {
  const int fd = OpenRetrying(path, O_RDWR | O_CREAT);
  if (fd < 0) return SystemError(errno, "cannot open", path);
  return std::unique_ptr<WritableFile>(new WritableFile(fd, path));
}

WritableFile::~WritableFile() { close(fd_); }

absl::StatusOr<int64_t> WritableFile::Size() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return SystemError(errno, "cannot look at", path_);
  return static_cast<int64_t>(info.st_size);
}

absl::Status WritableFile::WriteAt(int64_t offset, absl::string_view bytes) {
  return WriteAllAt(fd_, offset, bytes, path_);
}

absl::StatusOr<std::string> WritableFile::ReadAt(int64_t offset, int64_t length) const {
  std::string out(static_cast<size_t>(length), '\0');
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(fd_, &out[done], out.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(errno, "cannot read", path_);
    if (n == 0) return absl::OutOfRangeError(absl::StrCat(path_, " is too short"));
    done += static_cast<size_t>(n);
  }
  return out;
}

absl::Status WritableFile::Sync() { return SyncDescriptor(fd_, "fsync", path_); }

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  const Descriptor file(OpenRetrying(path, O_RDONLY));
  if (file.get() < 0) return SystemError(errno, "cannot open", path);
  struct stat info;
  if (fstat(file.get(), &info) != 0) return SystemError(errno, "cannot look at", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::unique_ptr<MappedFile>(new MappedFile({}));
  void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return SystemError(errno, "cannot map", path);
  return std::unique_ptr<MappedFile>(
      new MappedFile(absl::string_view(static_cast<const char*>(data), size)));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

absl::StatusOr<std::unique_ptr<DirectoryLock>> DirectoryLock::Take(const std::string& dir) {
  const std::string path = dir + "/lock";
  Descriptor file(OpenRetrying(path, O_RDWR | O_CREAT));
  if (file.get() < 0) return SystemError(errno, "cannot open", path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemError(errno, "cannot lock", path);
    return absl::FailedPreconditionError(absl::StrCat(
        dir, ": another server uses this data directory; stop it, or choose another --data-dir"));
  }
  return std::unique_ptr<DirectoryLock>(new DirectoryLock(file.release()));
}

DirectoryLock::~DirectoryLock() { close(fd_); }

}  // namespace gradwire::store
