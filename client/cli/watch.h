// File: watch.h
//
// A job as it goes: its events as a progress bar, as plain lines or as JSON, through restarts of
// the server.
//
//   jobs/3f2c [###########--------------]  45%  450/1000  loss 0.0712  accuracy 0.9625  312 steps/s
//   2s left
#ifndef GRADWIRE_CLIENT_CLI_WATCH_H_
#define GRADWIRE_CLIENT_CLI_WATCH_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/console.h"
#include "client/training.h"

namespace gradwire::cli {

// What is known of a job from its events.
class JobProgress {
 public:
  explicit JobProgress(const v1::TrainingJob& job);

  void Apply(const v1::TrainingEvent& event);
  // The job anew: how many steps there are may change when it is resumed.
  void SetTotal(int64_t total_steps) { total_ = total_steps; }

  v1::TrainingJob::State state() const { return state_; }
  const std::string& state_reason() const { return reason_; }

  // The line above; the bar is for terminals.
  std::string Line(bool with_bar) const;
  // "690 steps, loss 0.0312, accuracy 0.9666".
  std::string Summary() const;

 private:
  std::string Metrics() const;
  void MeasureRate(absl::Time time);

  const std::string name_;
  v1::TrainingJob::State state_;
  std::string reason_;
  int64_t step_ = 0;
  int64_t total_ = 0;
  bool has_loss_ = false;
  double loss_ = 0;
  std::map<std::string, double> evaluation_;
  double steps_per_second_ = 0;
  // Where the rate is measured from.
  absl::Time anchor_time_ = absl::InfinitePast();
  int64_t anchor_step_ = 0;
};

struct WatchSettings {
  int64_t after_event = 0;
  bool json = false;  // one object a line for each event
  absl::Duration deadline = absl::InfiniteDuration();
};

// Shows what happens to `job`, on console.out, until it has ended; gives the job as it is then.
absl::StatusOr<v1::TrainingJob> WatchJob(const TrainingClient& training, const v1::TrainingJob& job,
                                         const WatchSettings& settings, const Console& console);

// 0 for SUCCEEDED; 1 for FAILED and CANCELLED.
int ExitCodeOf(v1::TrainingJob::State state);

// The history of loss and evaluations as an SVG file.
absl::Status WritePlot(const TrainingClient& training, const v1::TrainingJob& job,
                       const std::string& path);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_WATCH_H_
