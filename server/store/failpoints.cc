#include "server/store/failpoints.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/status.h"

namespace gradwire::store {
namespace {

constexpr FailpointInfo kFailpoints[] = {
    {Failpoint::kBlobWrite, "blob.write"},     {Failpoint::kBlobFsync, "blob.fsync"},
    {Failpoint::kBlobRename, "blob.rename"},   {Failpoint::kBlobDirFsync, "blob.dirfsync"},
    {Failpoint::kFileRemove, "file.remove"},   {Failpoint::kUploadWrite, "upload.write"},
    {Failpoint::kUploadFsync, "upload.fsync"}, {Failpoint::kUploadDirFsync, "upload.dirfsync"},
    {Failpoint::kDatabaseCommit, "db.commit"},
};

constexpr int kDies = -1;
struct Kind {
  const char* name;
  int error;
};
constexpr Kind kKinds[] = {{"kill", kDies}, {"eio", EIO}, {"enospc", ENOSPC}};

struct Rule {
  Failpoint point;
  int error;
  int64_t first = 1;
  bool and_after = true;
};

struct Rules {
  std::vector<Rule> rules;
  bool count = false;
  std::array<int64_t, std::size(kFailpoints)> hits{};
};

struct Shared {
  absl::Mutex mutex;
  Rules rules ABSL_GUARDED_BY(mutex);
};
Shared& TheShared() {
  static Shared& shared = *new Shared();
  return shared;
}

enum Mode { kEnvironmentUnread, kIdle, kArmed };
std::atomic<int> mode{kEnvironmentUnread};
absl::once_flag environment_once;

absl::StatusOr<Rule> ParseRule(absl::string_view text) {
  const std::pair<absl::string_view, absl::string_view> sides =
      absl::StrSplit(text, absl::MaxSplits('=', 1));
  std::pair<absl::string_view, absl::string_view> action =
      absl::StrSplit(sides.second, absl::MaxSplits('@', 1));
  const auto* point = std::find_if(std::begin(kFailpoints), std::end(kFailpoints),
                                   [&](const auto& f) { return sides.first == f.name; });
  const auto* kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const Kind& k) { return action.first == k.name; });
  if (point == std::end(kFailpoints) || kind == std::end(kKinds)) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\": expected POINT=KIND, POINT=KIND@N or POINT=KIND@N+"));
  }
  Rule rule{point->point, kind->error};
  if (action.first.size() == sides.second.size()) return rule;
  rule.and_after = absl::ConsumeSuffix(&action.second, "+");
  if (!absl::SimpleAtoi(action.second, &rule.first) || rule.first < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\": expected a number from 1 on after the @"));
  }
  return rule;
}

absl::StatusOr<Rules> ParseRules(absl::string_view text) {
  Rules out;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    if (part == "count") {
      out.count = true;
      continue;
    }
    GW_ASSIGN_OR_RETURN(const Rule rule, ParseRule(part));
    out.rules.push_back(rule);
  }
  return out;
}

void Install(Rules rules) {
  if (rules.count) {
    static const int registered = std::atexit(LogFailpointHits);
    (void)registered;
  }
  Shared& shared = TheShared();
  absl::MutexLock lock(&shared.mutex);
  mode.store(rules.count || !rules.rules.empty() ? kArmed : kIdle, std::memory_order_relaxed);
  shared.rules = std::move(rules);
}

void ReadEnvironment() {
  const char* text = std::getenv("GRADWIRE_FAILPOINTS");
  absl::StatusOr<Rules> rules = ParseRules(text == nullptr ? "" : text);
  if (!rules.ok()) {
    const std::string line = absl::StrCat("GRADWIRE_FAILPOINTS: ", rules.status().message(), "\n");
    std::fputs(line.c_str(), stderr);
    _exit(2);
  }
  Install(*std::move(rules));
}

}  // namespace

absl::Span<const FailpointInfo> AllFailpoints() { return kFailpoints; }

int HitFailpoint(Failpoint point) {
  const int now = mode.load(std::memory_order_relaxed);
  if (now == kIdle) return 0;
  if (now == kEnvironmentUnread) absl::call_once(environment_once, ReadEnvironment);
  Shared& shared = TheShared();
  absl::MutexLock lock(&shared.mutex);
  const int64_t hit = ++shared.rules.hits[static_cast<size_t>(point)];
  for (const Rule& rule : shared.rules.rules) {
    if (rule.point != point || hit < rule.first || (hit > rule.first && !rule.and_after)) continue;
    if (rule.error == kDies) kill(getpid(), SIGKILL);
    return rule.error;
  }
  return 0;
}

absl::Status SetFailpoints(absl::string_view rules) {
  GW_ASSIGN_OR_RETURN(Rules parsed, ParseRules(rules));
  absl::call_once(environment_once, [] {});
  Install(std::move(parsed));
  return absl::OkStatus();
}

int64_t FailpointHits(Failpoint point) {
  Shared& shared = TheShared();
  absl::MutexLock lock(&shared.mutex);
  return shared.rules.hits[static_cast<size_t>(point)];
}

void LogFailpointHits() {
  absl::call_once(environment_once, ReadEnvironment);
  Shared& shared = TheShared();
  absl::MutexLock lock(&shared.mutex);
  if (!shared.rules.count) return;
  for (const FailpointInfo& info : kFailpoints) {
    const auto hits = static_cast<long long>(shared.rules.hits[static_cast<size_t>(info.point)]);
    std::fprintf(stderr, "failpoint %s %lld\n", info.name, hits);
  }
}

}  // namespace gradwire::store
