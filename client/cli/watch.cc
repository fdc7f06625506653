#include "client/cli/watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/interrupt.h"
#include "client/cli/message_json.h"
#include "client/cli/plot.h"
#include "client/cli/render_jobs.h"
#include "client/cli/report.h"
#include "client/cli/status_line.h"
#include "client/cli/text.h"
#include "engine/base/status.h"
#include "engine/io/new_file.h"

namespace gradwire::cli {
namespace {

constexpr char kLoss[] = "loss";

std::string StateText(const std::string& name, v1::TrainingJob::State state,
                      const std::string& reason) {
  return Printable(absl::StrCat(name, " ", v1::TrainingJob::State_Name(state),
                                reason.empty() ? "" : ": ", reason));
}

// Shows one watch. Events come on the thread that watches.
class Watch {
 public:
  Watch(const TrainingClient& training, const v1::TrainingJob& job, const WatchSettings& settings,
        const Console& console)
      : training_(training),
        name_(job.name()),
        json_(settings.json),
        console_(console),
        line_(console.out, console.width_out),
        progress_(job) {
    if (!json_) line_.Keep(StateText(name_, job.state(), job.state_reason()));
  }

  const JobProgress& progress() const { return progress_; }

  bool OnEvent(const v1::TrainingEvent& event) {
    if (std::exchange(away_, false) && !json_) line_.Keep("the server is back");
    progress_.Apply(event);
    if (json_) {
      *console_.out << MessageAsJson(event) << "\n" << std::flush;
      return true;
    }
    if (event.has_state()) {
      line_.Keep(StateText(name_, event.state().state(), event.state().reason()));
      if (event.state().state() == v1::TrainingJob::RUNNING) FetchTotal();
    } else if (event.has_notice()) {
      line_.Keep(Printable(absl::StrCat(name_, " step ", event.step(), ": ",
                                        event.notice().reason(), ": ", event.notice().message())));
    } else if (line_.IsDue() && !HasEnded(progress_.state())) {
      line_.Update(progress_.Line(line_.on_terminal()));
    }
    return true;
  }

  void OnOutage(const absl::Status& status) {
    if (std::exchange(away_, true)) return;
    const std::string text =
        absl::StrCat("server gone, waiting ... (", Printable(status.message()), ")");
    if (json_) {
      *console_.err << text << "\n" << std::flush;
    } else {
      line_.Keep(text);
    }
  }

  void OnEnd() {
    if (!json_) line_.Keep(absl::StrCat(name_, ": ", progress_.Summary()));
  }

 private:
  // How many steps there are is known once the job runs, and may change when it is resumed.
  void FetchTotal() {
    const absl::StatusOr<v1::TrainingJob> job = training_.Get(name_);
    if (job.ok()) progress_.SetTotal(job->progress().total_steps());
  }

  const TrainingClient& training_;
  const std::string name_;
  const bool json_;
  const Console& console_;
  StatusLine line_;
  JobProgress progress_;
  bool away_ = false;
};

PlotSeries SeriesOf(const std::string& name, const std::string& metric,
                    const v1::QueryMetricsResponse& history) {
  PlotSeries series{name, {}};
  for (const v1::MetricPoint& point : history.points()) {
    const auto value = point.values().find(metric);
    if (value == point.values().end()) continue;
    series.points.emplace_back(static_cast<double>(point.step()), value->second);
  }
  return series;
}

}  // namespace

JobProgress::JobProgress(const v1::TrainingJob& job)
    : name_(job.name()),
      state_(job.state()),
      reason_(job.state_reason()),
      step_(job.progress().step()),
      total_(job.progress().total_steps()),
      has_loss_(job.progress().step() > 0),
      loss_(job.progress().loss()),
      steps_per_second_(job.progress().steps_per_second()) {}

void JobProgress::Apply(const v1::TrainingEvent& event) {
  step_ = event.step();
  if (event.has_state()) {
    state_ = event.state().state();
    reason_ = event.state().reason();
    anchor_time_ = absl::InfinitePast();
  }
  if (event.has_metrics()) {
    const auto loss = event.metrics().values().find(kLoss);
    if (loss != event.metrics().values().end()) {
      has_loss_ = true;
      loss_ = loss->second;
    }
    MeasureRate(TimeOf(event.time()));
  }
  if (event.has_evaluation()) {
    evaluation_.clear();
    for (const auto& [name, value] : event.evaluation().values()) evaluation_[name] = value;
  }
}

// Over a second or more at a time; the newest counts a third.
void JobProgress::MeasureRate(absl::Time time) {
  if (anchor_time_ == absl::InfinitePast()) {
    anchor_time_ = time;
    anchor_step_ = step_;
  }
  const double seconds = absl::ToDoubleSeconds(time - anchor_time_);
  if (seconds < 1) return;
  const double rate = static_cast<double>(step_ - anchor_step_) / seconds;
  steps_per_second_ = steps_per_second_ > 0 ? (2 * steps_per_second_ + rate) / 3 : rate;
  anchor_time_ = time;
  anchor_step_ = step_;
}

std::string JobProgress::Metrics() const {
  std::string out;
  const auto add = [&out](const std::string& name, double value) {
    absl::StrAppend(&out, out.empty() ? "" : "  ", Printable(name), " ", ShortNumber(value));
  };
  if (has_loss_) add(kLoss, loss_);
  for (const auto& [name, value] : evaluation_) add(name == kLoss ? "eval loss" : name, value);
  return out;
}

std::string JobProgress::Line(bool with_bar) const {
  std::string out = name_;
  if (state_ != v1::TrainingJob::RUNNING) {
    absl::StrAppend(&out, " ", v1::TrainingJob::State_Name(state_));
  }
  if (total_ > 0) {
    const double fraction = static_cast<double>(step_) / static_cast<double>(total_);
    absl::StrAppendFormat(&out, "%s %3.0f%%  %d/%d", with_bar ? " " + Bar(fraction) : "",
                          100 * fraction, step_, total_);
  } else {
    absl::StrAppend(&out, "  step ", step_);
  }
  const std::string metrics = Metrics();
  if (!metrics.empty()) absl::StrAppend(&out, "  ", metrics);
  if (steps_per_second_ > 0) {
    absl::StrAppend(&out, "  ", ShortNumber(steps_per_second_), " steps/s");
    if (total_ > step_) {
      const double left = static_cast<double>(total_ - step_) / steps_per_second_;
      absl::StrAppend(&out, "  ", ShortDuration(absl::Seconds(left)), " left");
    }
  }
  return out;
}

std::string JobProgress::Summary() const {
  std::string out = absl::StrCat(step_, step_ == 1 ? " step" : " steps");
  const std::string metrics = Metrics();
  if (!metrics.empty()) absl::StrAppend(&out, "  ", metrics);
  return out;
}

absl::StatusOr<v1::TrainingJob> WatchJob(const TrainingClient& training, const v1::TrainingJob& job,
                                         const WatchSettings& settings, const Console& console) {
  const InterruptMessage goodbye(
      absl::StrCat("\n", job.name(), " goes on. Watch it: gradwire jobs watch ", job.name(),
                   "; end it: gradwire jobs cancel ", job.name(), "\n"));
  Watch watch(training, job, settings, console);
  Patience patience;
  patience.deadline = settings.deadline;
  patience.outage = absl::InfiniteDuration();
  patience.on_outage = [&watch](const absl::Status& status) { watch.OnOutage(status); };
  GW_RETURN_IF_ERROR(training.Watch(
      job.name(), settings.after_event,
      [&watch](const v1::TrainingEvent& event) { return watch.OnEvent(event); }, patience));
  watch.OnEnd();
  absl::StatusOr<v1::TrainingJob> ended = training.Get(job.name());
  if (ended.ok()) return ended;
  // The server went away, or the job was deleted, just after its end: the events have told it.
  v1::TrainingJob known = job;
  known.set_state(watch.progress().state());
  known.set_state_reason(watch.progress().state_reason());
  return known;
}

int ExitCodeOf(v1::TrainingJob::State state) {
  return state == v1::TrainingJob::FAILED || state == v1::TrainingJob::CANCELLED ? kCheckFailed
                                                                                 : kOk;
}

absl::Status WritePlot(const TrainingClient& training, const v1::TrainingJob& job,
                       const std::string& path) {
  v1::QueryMetricsRequest request;
  request.set_name(job.name());
  GW_ASSIGN_OR_RETURN(const v1::QueryMetricsResponse steps, training.QueryMetrics(request));
  request.set_evaluations(true);
  GW_ASSIGN_OR_RETURN(const v1::QueryMetricsResponse evaluations, training.QueryMetrics(request));
  std::vector<PlotPanel> panels = {{kLoss, {SeriesOf("training", kLoss, steps)}}};
  PlotSeries evaluation_loss = SeriesOf("evaluation", kLoss, evaluations);
  if (!evaluation_loss.points.empty()) panels[0].series.push_back(std::move(evaluation_loss));
  std::map<std::string, bool> metrics;
  for (const v1::MetricPoint& point : evaluations.points()) {
    for (const auto& [name, value] : point.values()) metrics[name] = true;
  }
  metrics.erase(kLoss);
  for (const auto& [name, present] : metrics) {
    panels.push_back({name, {SeriesOf("evaluation", name, evaluations)}});
  }
  const std::string title = job.display_name().empty()
                                ? job.name()
                                : absl::StrCat(job.display_name(), " (", job.name(), ")");
  return AsLocal(WriteNewFile(path, PlotAsSvg(title, "step", panels)));
}

}  // namespace gradwire::cli
