#include "server/store/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "server/store/failpoints.h"

namespace gradwire::store {
namespace {

constexpr char kUnfinished[] = "tmp-";
constexpr size_t kMaxWriteBytes = size_t{1} << 20;
constexpr size_t kReadBytes = size_t{256} << 10;

absl::Status SystemError(int error, absl::string_view what, absl::string_view path) {
  const std::string message = absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? Error(Reason::kDiskFull, message) : absl::InternalError(message);
}

absl::Status ReadError(int error, absl::string_view what, absl::string_view path) {
  if (error != ENOENT) return SystemError(error, what, path);
  return Error(Reason::kNotFound, absl::StrCat("there is no file ", path));
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.Release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// Neither a link nor, where somebody has put one there, a pipe that would block.
Descriptor OpenAt(int dir, const std::string& name, int flags) {
  int fd;
  do {
    fd = openat(dir, name.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  } while (fd < 0 && errno == EINTR);
  struct stat info;
  if (fd >= 0 && (flags & O_DIRECTORY) == 0 && fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)) {
    close(fd);
    fd = -1;
    errno = EINVAL;
  }
  return Descriptor(fd);
}

// A folder that is open, and the name of a file in it.
struct Place {
  Descriptor dir;
  std::string dir_path;
  std::string name;
};

using MakeError = absl::Status (*)(int error, absl::string_view what, absl::string_view path);

absl::StatusOr<Place> PlaceOf(const std::string& path, MakeError make_error = SystemError) {
  const size_t slash = path.rfind('/');
  const std::string dir =
      slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  Place place{OpenAt(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY), dir, path.substr(slash + 1)};
  if (!place.dir.ok()) return make_error(errno, "open the folder", dir);
  return place;
}

absl::StatusOr<Descriptor> OpenToRead(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const Place place, PlaceOf(path, ReadError));
  Descriptor file = OpenAt(place.dir.get(), place.name, O_RDONLY);
  if (!file.ok()) return ReadError(errno, "open", path);
  return file;
}

absl::StatusOr<int64_t> SizeOf(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return SystemError(errno, "look at", path);
  return static_cast<int64_t>(info.st_size);
}

absl::Status WriteAll(int fd, int64_t offset, absl::string_view bytes, Failpoint point,
                      const std::string& path) {
  while (!bytes.empty()) {
    if (const int error = HitFailpoint(point)) return SystemError(error, "write", path);
    const ssize_t n = pwrite(fd, bytes.data(), std::min(bytes.size(), kMaxWriteBytes), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(errno, "write", path);
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status SyncDescriptor(int fd, const std::string& path) {
  return fsync(fd) == 0 ? absl::OkStatus() : SystemError(errno, "sync", path);
}
absl::Status SyncDescriptor(int fd, Failpoint point, const std::string& path) {
  if (const int error = HitFailpoint(point)) return SystemError(error, "sync", path);
  return SyncDescriptor(fd, path);
}

std::string NextUnfinishedName() {
  static std::atomic<int64_t> count{0};
  return absl::StrCat(kUnfinished, getpid(), "-", count.fetch_add(1));
}

// Makes a file under another name with `make`, which returns false and sets errno where it cannot,
// and puts it in its place once `finish` is OK.
absl::Status Replace(const Place& place, const std::string& path,
                     absl::FunctionRef<bool(const std::string& name)> make,
                     absl::FunctionRef<absl::Status()> finish) {
  std::string name = NextUnfinishedName();
  while (!make(name)) {
    // An earlier process of the same id, as in a container, may have left one of that name.
    if (errno != EEXIST) return SystemError(errno, "make a file for", path);
    name = NextUnfinishedName();
  }
  absl::Status status = finish();
  if (status.ok()) {
    const int dir = place.dir.get();
    int error = HitFailpoint(Failpoint::kBlobRename);
    if (error == 0 && renameat(dir, name.c_str(), dir, place.name.c_str()) != 0) error = errno;
    status = error != 0 ? SystemError(error, "move a file to", path)
                        : SyncDescriptor(dir, Failpoint::kBlobDirFsync, place.dir_path);
  }
  // It is no longer there where it has moved.
  if (!status.ok()) unlinkat(place.dir.get(), name.c_str(), 0);
  return status;
}

absl::Status WriteAndSync(Descriptor& file, absl::Span<const absl::string_view> pieces,
                          const std::string& path) {
  int64_t offset = 0;
  for (const absl::string_view piece : pieces) {
    GW_RETURN_IF_ERROR(WriteAll(file.get(), offset, piece, Failpoint::kBlobWrite, path));
    offset += static_cast<int64_t>(piece.size());
  }
  GW_RETURN_IF_ERROR(SyncDescriptor(file.get(), Failpoint::kBlobFsync, path));
  return close(file.Release()) == 0 ? absl::OkStatus() : SystemError(errno, "close", path);
}

}  // namespace

absl::Status MakeDirectories(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0700) == 0) {
      const size_t slash = part.rfind('/');
      const std::string parent =
          slash == std::string::npos ? "." : part.substr(0, std::max<size_t>(slash, 1));
      GW_RETURN_IF_ERROR(SyncDirectory(parent));
    } else if (errno != EEXIST) {
      return SystemError(errno, "make the folder", part);
    }
    if (end == std::string::npos) break;
  }
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
  return SystemError(ENOTDIR, "make the folder", path);
}

absl::Status SyncDirectory(const std::string& path) {
  const Descriptor dir(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir.ok()) return SystemError(errno, "open the folder", path);
  return SyncDescriptor(dir.get(), path);
}

absl::Status WriteFileDurably(const std::string& path, absl::Span<const absl::string_view> pieces) {
  GW_ASSIGN_OR_RETURN(const Place place, PlaceOf(path));
  Descriptor file(-1);
  return Replace(
      place, path,
      [&](const std::string& name) {
        file = OpenAt(place.dir.get(), name, O_WRONLY | O_CREAT | O_EXCL);
        return file.ok();
      },
      [&] { return WriteAndSync(file, pieces, path); });
}

absl::Status LinkFileDurably(const std::string& from, const std::string& to) {
  GW_ASSIGN_OR_RETURN(const Place source, PlaceOf(from, ReadError));
  GW_ASSIGN_OR_RETURN(const Place target, PlaceOf(to));
  const Descriptor file = OpenAt(source.dir.get(), source.name, O_RDONLY);
  if (!file.ok()) return ReadError(errno, "open", from);
  return Replace(
      target, to,
      [&](const std::string& name) {
        return linkat(source.dir.get(), source.name.c_str(), target.dir.get(), name.c_str(), 0) ==
               0;
      },
      [&] { return SyncDescriptor(file.get(), Failpoint::kBlobFsync, from); });
}

absl::Status RemoveFile(const std::string& path) {
  const absl::StatusOr<Place> found = PlaceOf(path, ReadError);
  if (HasReason(found.status(), Reason::kNotFound)) return absl::OkStatus();
  GW_RETURN_IF_ERROR(found.status());
  const Place& place = *found;
  if (const int error = HitFailpoint(Failpoint::kFileRemove)) {
    return SystemError(error, "remove", path);
  }
  if (unlinkat(place.dir.get(), place.name.c_str(), 0) != 0 && errno != ENOENT) {
    return SystemError(errno, "remove", path);
  }
  return SyncDescriptor(place.dir.get(), place.dir_path);
}

absl::Status RemoveUnfinishedWrites(const std::string& dir) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(dir));
  for (const std::string& name : names) {
    if (absl::StartsWith(name, kUnfinished)) {
      GW_RETURN_IF_ERROR(RemoveFile(absl::StrCat(dir, "/", name)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  Descriptor fd = OpenAt(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) return ReadError(errno, "open the folder", path);
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(fd.get()), closedir);
  if (dir == nullptr) return SystemError(errno, "list", path);
  fd.Release();
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(dir.get())) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return SystemError(errno, "list", path);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<bool> FileExists(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) == 0) return true;
  if (errno == ENOENT) return false;
  return SystemError(errno, "look at", path);
}

absl::StatusOr<FileStamp> StampOf(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return ReadError(errno, "look at", path);
  return FileStamp{info.st_ino, static_cast<int64_t>(info.st_size),
                   int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

absl::Status ReadFile(const std::string& path, absl::FunctionRef<void(absl::string_view)> take) {
  GW_ASSIGN_OR_RETURN(const Descriptor file, OpenToRead(path));
  const auto buffer = std::make_unique<char[]>(kReadBytes);
  while (true) {
    const ssize_t n = read(file.get(), buffer.get(), kReadBytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(errno, "read", path);
    if (n == 0) return absl::OkStatus();
    take({buffer.get(), static_cast<size_t>(n)});
  }
}

absl::StatusOr<std::unique_ptr<WritableFile>> WritableFile::Open(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const Place place, PlaceOf(path));
  Descriptor file = OpenAt(place.dir.get(), place.name, O_RDWR | O_CREAT);
  if (!file.ok()) return SystemError(errno, "open", path);
  // Also where the file is there: whoever made it may have died before this.
  GW_RETURN_IF_ERROR(SyncDescriptor(place.dir.get(), Failpoint::kUploadDirFsync, place.dir_path));
  return std::unique_ptr<WritableFile>(new WritableFile(file.Release(), path));
}

WritableFile::~WritableFile() { close(fd_); }

absl::Status WritableFile::CheckSound() const {
  if (!sync_failed_) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path_,
                                          ": an earlier sync has failed, what was written "
                                          "since the one before is lost"));
}

absl::StatusOr<int64_t> WritableFile::Size() const { return SizeOf(fd_, path_); }

absl::Status WritableFile::WriteAt(int64_t offset, absl::string_view bytes) {
  GW_RETURN_IF_ERROR(CheckSound());
  return WriteAll(fd_, offset, bytes, Failpoint::kUploadWrite, path_);
}

absl::StatusOr<std::string> WritableFile::ReadAt(int64_t offset, int64_t length) const {
  GW_RETURN_IF_ERROR(CheckSound());
  GW_ASSIGN_OR_RETURN(const int64_t size, Size());
  if (offset < 0 || length < 0 || offset > size || length > size - offset) {
    return absl::InternalError(absl::StrCat("cannot read ", length, " bytes at ", offset, " of ",
                                            path_, ": it has ", size, " bytes"));
  }
  std::string out(static_cast<size_t>(length), '\0');
  for (size_t done = 0; done < out.size();) {
    const ssize_t n =
        pread(fd_, &out[done], out.size() - done, offset + static_cast<int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return SystemError(n < 0 ? errno : EIO, "read", path_);
    done += static_cast<size_t>(n);
  }
  return out;
}

absl::Status WritableFile::Truncate(int64_t bytes) {
  GW_RETURN_IF_ERROR(CheckSound());
  return ftruncate(fd_, bytes) == 0 ? absl::OkStatus() : SystemError(errno, "cut", path_);
}

absl::Status WritableFile::Sync() {
  GW_RETURN_IF_ERROR(CheckSound());
  const absl::Status status = SyncDescriptor(fd_, Failpoint::kUploadFsync, path_);
  sync_failed_ = !status.ok();
  return status;
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const Descriptor file, OpenToRead(path));
  GW_ASSIGN_OR_RETURN(const int64_t size, SizeOf(file.get(), path));
  if (size == 0) return std::unique_ptr<MappedFile>(new MappedFile({}));
  void* data = mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return SystemError(errno, "map", path);
  return std::unique_ptr<MappedFile>(
      new MappedFile({static_cast<const char*>(data), static_cast<size_t>(size)}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
}

absl::StatusOr<std::unique_ptr<DirectoryLock>> DirectoryLock::Take(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/lock");
  Descriptor file = OpenAt(AT_FDCWD, path, O_RDWR | O_CREAT);
  if (!file.ok()) return SystemError(errno, "open", path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
    return std::unique_ptr<DirectoryLock>(new DirectoryLock(file.Release()));
  }
  if (errno != EWOULDBLOCK) return SystemError(errno, "lock", path);
  return absl::FailedPreconditionError(absl::StrCat(
      dir, ": another server uses this data directory; stop it, or choose another --data-dir"));
}

DirectoryLock::~DirectoryLock() { close(fd_); }

}  // namespace gradwire::store
