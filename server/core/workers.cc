#include "server/core/workers.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire::server {
namespace {

// All kept arenas together hold at most a quarter of the budget.
int64_t KeepBytes(const Workers::Options& options) {
  return options.admission->limit_bytes() / (4 * std::max(options.workers, 1));
}

// Processors that a cgroup's quota amounts to; a large number where there is none.
double QuotaCpus() {
  std::string quota, period;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); !(v2 >> quota >> period)) {
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> quota;
    std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  }
  double used, every;
  if (!absl::SimpleAtod(quota, &used) || !absl::SimpleAtod(period, &every)) return 1e9;
  return used > 0 && every > 0 ? used / every : 1e9;
}

}  // namespace

CpuGate::Claim::Claim(CpuGate* gate, int cpus)
    : gate_(gate), cpus_(gate == nullptr ? 0 : std::clamp(cpus, 1, gate->cpus_)) {
  if (gate_ == nullptr) return;
  absl::MutexLock lock(&gate_->mutex_);
  const int64_t ticket = gate_->next_ticket_++;
  const auto my_turn = [this, ticket] {
    gate_->mutex_.AssertHeld();
    return gate_->serving_ == ticket && gate_->free_ >= cpus_;
  };
  gate_->mutex_.Await(absl::Condition(&my_turn));
  gate_->free_ -= cpus_;
  ++gate_->serving_;
}

CpuGate::Claim::~Claim() {
  if (gate_ == nullptr) return;
  absl::MutexLock lock(&gate_->mutex_);
  gate_->free_ += cpus_;
}

Workers::Workers(const Options& options) : options_(options), gate_(options.cpus) {
  for (int i = 0; i < std::max(options.workers, 1); ++i) threads_.emplace_back([this] { Work(); });
}

Workers::~Workers() { Stop(); }

absl::Status Workers::Submit(Job job) {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || new_ >= options_.queue_limit) {
    return Error(Reason::kQueueFull, absl::StrCat("too many calls are waiting: ", new_,
                                                  ", the limit is ", options_.queue_limit));
  }
  queue_.push_back({std::move(job), true});
  ++new_;
  return absl::OkStatus();
}

bool Workers::Resume(Job job) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return false;
  queue_.push_back({std::move(job), false});
  return true;
}

void Workers::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Workers::Work() {
  Workspace workspace(options_.admission, KeepBytes(options_));
  const auto ready = [this] {
    mutex_.AssertHeld();
    return stopping_ || !queue_.empty();
  };
  while (true) {
    Job job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      job = std::move(queue_.front().job);
      new_ -= queue_.front().is_new;
      queue_.pop_front();
    }
    job(workspace);
    workspace.Trim();
  }
}

int AvailableCpus() {
  cpu_set_t set;
  const int mask = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, static_cast<int>(std::min<double>(mask, QuotaCpus())));
}

}  // namespace gradwire::server
