// File: workers.h
//
// Workers    a fixed number of threads that compute, each with a Workspace of its own, behind one
//            bounded queue. gRPC threads never compute more than a few microseconds.
// CpuGate    how Programs share the processors: one that runs on a team of n waits until n are
// free.
//            So small Programs run side by side, one per worker, and a large one takes the team.
//
//   Workers workers({.workers = 2, .cpus = 2, .queue_limit = 256, .admission = &admission});
//   absl::Status s = workers.Submit([=](Workspace& workspace) { ... });   // or QUEUE_FULL
//
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_SERVER_CORE_WORKERS_H_
#define GRADWIRE_SERVER_CORE_WORKERS_H_

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "server/core/admission.h"

namespace gradwire::server {

class CpuGate {
 public:
  explicit CpuGate(int cpus) : cpus_(cpus), free_(cpus) {}

  // Processors held until the end of the scope. Waits its turn: first come, first served.
  class Claim {
   public:
    // More than there are counts as all of them. `gate` may be null: nothing is waited for.
    Claim(CpuGate* gate, int cpus);
    ~Claim();
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

   private:
    CpuGate* const gate_;
    const int cpus_;
  };

 private:
  const int cpus_;
  absl::Mutex mutex_;
  int free_ ABSL_GUARDED_BY(mutex_);
  int64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t serving_ ABSL_GUARDED_BY(mutex_) = 0;
};

class Workers {
 public:
  struct Options {
    int workers = 1;
    int cpus = 1;           // of the gate
    int queue_limit = 256;  // calls that wait
    Admission* admission = nullptr;
  };
  // Must not throw. The workspace is the worker's own; it is trimmed after the job.
  using Job = absl::AnyInvocable<void(Workspace&)>;

  explicit Workers(const Options& options);
  ~Workers();  // Stop()

  // Queues a call's job. QUEUE_FULL where the queue is full or Stop() was called; the job is then
  // dropped.
  absl::Status Submit(Job job);
  // Queues the next job of a call whose first one was submitted, such as a stream's next message.
  // It neither needs nor takes a place in the queue of the calls. False, and the job is dropped,
  // where Stop() was called.
  bool Resume(Job job);
  // Runs what is queued and joins the threads.
  void Stop();

  CpuGate* gate() { return &gate_; }
  int size() const { return static_cast<int>(threads_.size()); }

 private:
  void Work();

  const Options options_;
  CpuGate gate_;
  absl::Mutex mutex_;
  struct Queued {
    Job job;
    bool is_new;  // by Submit
  };
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  int new_ ABSL_GUARDED_BY(mutex_) = 0;  // in the queue
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

// Processors that the process may use: its affinity mask, or the quota of its cgroup where that is
// lower. At least 1.
int AvailableCpus();

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_WORKERS_H_
