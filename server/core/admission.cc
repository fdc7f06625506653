#include "server/core/admission.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status.h"

namespace gradwire::server {
namespace {

absl::Status TooMuch(absl::string_view what, int64_t wanted, int64_t available, int64_t limit) {
  return Error(Reason::kMemoryLimit,
               absl::StrCat(what, ": needs ", wanted, " bytes, available are ",
                            std::max<int64_t>(available, 0), " of ", limit));
}

// The number in a file, or `fallback` where there is none ("max", no such file).
int64_t NumberIn(const std::string& path, int64_t fallback) {
  std::ifstream file(path);
  std::string word;
  int64_t value;
  return file >> word && absl::SimpleAtoi(word, &value) && value > 0 ? value : fallback;
}

// The lowest limit from `path` up to the root of its hierarchy: a parent's limit holds too.
int64_t LowestLimit(const std::string& root, std::string path, const std::string& file) {
  int64_t lowest = NumberIn(absl::StrCat(root, "/", file), INT64_MAX);
  while (path.size() > 1) {
    lowest = std::min(lowest, NumberIn(absl::StrCat(root, path, "/", file), INT64_MAX));
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
  return lowest;
}

// Lines of /proc/self/cgroup: "0::/path" for version 2, "9:memory:/path" for version 1.
int64_t CgroupLimit() {
  int64_t lowest = INT64_MAX;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[0] == "0" && parts[1].empty()) {
      lowest = std::min(lowest, LowestLimit("/sys/fs/cgroup", parts[2], "memory.max"));
    }
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      lowest =
          std::min(lowest, LowestLimit("/sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"));
    }
  }
  return lowest;
}

}  // namespace

Reservation::Reservation(Reservation&& other) noexcept
    : admission_(other.admission_), bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this == &other) return *this;
  Release();
  admission_ = other.admission_;
  bytes_ = std::exchange(other.bytes_, 0);
  return *this;
}

absl::Status Reservation::Grow(int64_t bytes, absl::string_view what) {
  if (bytes <= 0) return absl::OkStatus();
  if (admission_ == nullptr) return TooMuch(what, bytes, 0, 0);
  if (!admission_->Take(bytes)) {
    return TooMuch(what, bytes, admission_->limit_bytes() - admission_->reserved_bytes(),
                   admission_->limit_bytes());
  }
  bytes_ += bytes;
  return absl::OkStatus();
}

absl::Status Reservation::CheckPossible(int64_t bytes, absl::string_view what) const {
  const int64_t limit = admission_ == nullptr ? 0 : admission_->limit_bytes();
  if (bytes <= limit - bytes_) return absl::OkStatus();
  return TooMuch(what, bytes, limit - bytes_, limit);
}

void Reservation::Release() {
  if (admission_ != nullptr) admission_->Give(std::exchange(bytes_, 0));
}

absl::StatusOr<Reservation> Admission::Reserve(int64_t bytes, absl::string_view what) {
  Reservation out(this);
  GW_RETURN_IF_ERROR(out.Grow(bytes, what));
  return out;
}

bool Admission::Take(int64_t bytes) {
  int64_t now = reserved_.load(std::memory_order_relaxed);
  do {
    if (bytes > limit_bytes_ - now) return false;
  } while (!reserved_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
  return true;
}

Workspace::Workspace(Admission* admission, int64_t keep_bytes)
    : admission_(admission),
      keep_bytes_(keep_bytes),
      memory_(admission),
      arena_(std::make_unique<Arena>()) {}

absl::Status Workspace::Admit(int64_t bytes) {
  return memory_.Grow(bytes - memory_.bytes(), "the program's working memory");
}

void Workspace::Trim() {
  if (memory_.bytes() <= keep_bytes_) return;
  arena_ = std::make_unique<Arena>();
  memory_ = Reservation(admission_);
}

int64_t DefaultMemoryLimit() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  const int64_t machine = pages > 0 && page_bytes > 0 ? pages * page_bytes : int64_t{1} << 30;
  return std::min(machine, CgroupLimit()) / 2;
}

}  // namespace gradwire::server
