// The commands for jobs and data sets: their words, their texts, and whole runs against the fake
// server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/cli/arguments.h"
#include "client/cli/interrupt.h"
#include "client/cli/message_json.h"
#include "client/cli/render_jobs.h"
#include "client/cli/run.h"
#include "client/cli/status_line.h"
#include "client/cli/text.h"
#include "client/cli/watch.h"
#include "engine/base/status.h"
#include "engine/io/file.h"
#include "tests/unit/client/fake_server.h"

namespace gradwire::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

// ---- Words.

Arguments Parse(const std::vector<std::string>& words) {
  ParsedArguments parsed = ParseArguments(words);
  EXPECT_TRUE(parsed.arguments.has_value()) << parsed.text;
  return parsed.arguments.value_or(Arguments());
}

std::string Misuse(const std::vector<std::string>& words) {
  const ParsedArguments parsed = ParseArguments(words);
  EXPECT_TRUE(parsed.is_error) << testing::PrintToString(words);
  return parsed.text;
}

TEST(TrainArgumentsTest, OptionsBecomeFieldsOfTheJob) {
  const Arguments a = Parse({"train", "job.toml", "--lr", "1e-3", "--optimizer=adam", "--set",
                             "seed=3", "--watch", "--shuffle", "--plot", "a.svg"});
  EXPECT_EQ(a.job_file, "job.toml");
  EXPECT_TRUE(a.watch);
  EXPECT_EQ(a.plot_path, "a.svg");
  ASSERT_EQ(a.overrides.size(), 4u);
  EXPECT_EQ(a.overrides[0].option, "--optimizer") << "before --lr, which looks for it";
  EXPECT_TRUE(a.overrides[0].is_text);
  EXPECT_EQ(a.overrides[1].value, "1e-3");
  EXPECT_EQ(a.overrides[2].key, "shuffle");
  EXPECT_EQ(a.overrides[3].option, "--set seed");
  EXPECT_EQ(a.overrides[3].value, "3");
  EXPECT_TRUE(Parse({"estimate", "job.toml"}).estimate);
}

TEST(TrainArgumentsTest, DeadlinesBoundWatchesOnlyWhereGiven) {
  EXPECT_EQ(Parse({"train", "j.toml"}).long_deadline, absl::InfiniteDuration());
  EXPECT_EQ(Parse({"train", "j.toml"}).call.deadline, absl::Seconds(60));
  const Arguments a = Parse({"jobs", "watch", "3f", "--deadline", "1h"});
  EXPECT_EQ(a.long_deadline, absl::Hours(1));
  EXPECT_EQ(a.call.deadline, absl::Hours(1));
}

TEST(JobArgumentsTest, NamesMayBeShort) {
  EXPECT_THAT(Parse({"jobs", "cancel", "3f", "jobs/4a"}).names, ElementsAre("jobs/3f", "jobs/4a"));
  EXPECT_THAT(Parse({"export", "3f/checkpoints/5", "-o", "m.onnx"}).names,
              ElementsAre("jobs/3f/checkpoints/5"));
  EXPECT_EQ(Parse({"export", "3f", "-o", "m.onnx"}).out_path, "m.onnx");
  EXPECT_EQ(Parse({"jobs", "download", "3f", "--out=c"}).out_path, "c");
  EXPECT_THAT(Parse({"datasets", "show", "1", "datasets/2"}).names,
              ElementsAre("datasets/1", "datasets/2"));
  EXPECT_THAT(Parse({"jobs", "list", "--state", "running,Paused"}).states,
              ElementsAre(v1::TrainingJob::RUNNING, v1::TrainingJob::PAUSED));
  EXPECT_EQ(Parse({"jobs", "watch", "3f", "--after", "12"}).after_event, 12);
}

TEST(JobArgumentsTest, ResumeMayChangeTheJob) {
  const v1::ResumeTrainingJobRequest plain = Parse({"jobs", "resume", "3f"}).resume;
  EXPECT_FALSE(plain.has_stop() || plain.has_priority() || plain.has_learning_rate_factor());
  const v1::ResumeTrainingJobRequest changed =
      Parse({"jobs", "resume", "3f", "--epochs", "60", "--lr-factor", "0.1", "--priority", "-2",
             "--wall-time", "1h"})
          .resume;
  EXPECT_EQ(changed.stop().epochs(), 60);
  EXPECT_EQ(changed.stop().wall_time().seconds(), 3600);
  EXPECT_EQ(changed.learning_rate_factor(), 0.1);
  EXPECT_EQ(changed.priority(), -2);
}

TEST(DatasetArgumentsTest, ImportsSayWhatBecomesOfColumns) {
  const Arguments a = Parse({"datasets", "import", "d.npz", "--columns", "x=a,b,c,t=label",
                             "--dtype", "x=float,t=INT64", "--scale", "x=1/255", "--shape",
                             "x=1x28x28", "--except", "4::5", "--name", "digits"});
  EXPECT_THAT(a.import.files, ElementsAre("d.npz"));
  EXPECT_THAT(a.import.columns.at("x"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(a.import.columns.at("t"), ElementsAre("label"));
  EXPECT_EQ(a.import.dtypes.at("t"), DType::kInt64);
  EXPECT_EQ(a.import.scales.at("x"), 1 / 255.0);
  EXPECT_THAT(a.import.shapes.at("x"), ElementsAre(1, 28, 28));
  EXPECT_EQ(a.import.except->start, 4);
  EXPECT_EQ(a.import.display_name, "digits");
  EXPECT_EQ(Parse({"datasets", "import", "d.npz", "--resume", "3f"}).upload.resume, "datasets/3f");
}

TEST(MinimizeArgumentsTest, TakesAFormulaAndWhereItStarts) {
  const Arguments a = Parse({"minimize", "-x^2 + y", "x=-1.2", "y=[1,2]", "--optimizer", "adam",
                             "--gtol=1e-6", "--wrt", "x", "--watch"});
  EXPECT_EQ(a.formula, "-x^2 + y");
  ASSERT_EQ(a.inputs.size(), 2u);
  EXPECT_EQ(a.inputs[0].value, "-1.2");
  EXPECT_THAT(a.wrt, ElementsAre("x"));
  ASSERT_EQ(a.overrides.size(), 2u);
  EXPECT_EQ(a.overrides[1].key, "stop.gradient_norm");
}

TEST(TrainingMisuseTest, IsExplained) {
  EXPECT_THAT(Misuse({"train"}), HasSubstr("give a job file, or options"));
  EXPECT_THAT(Misuse({"train", "a.toml", "b.toml"}), HasSubstr("At Most 1"));
  EXPECT_THAT(Misuse({"train", "a.toml", "--set", "seed"}), HasSubstr("'seed' is no KEY=VALUE"));
  EXPECT_THAT(Misuse({"train", "a.toml", "--plot", "a.svg"}),
              HasSubstr("--plot goes with --watch"));
  EXPECT_THAT(Misuse({"train", "a.toml", "--opt", "adam"}), HasSubstr("did you mean"));
  EXPECT_THAT(Misuse({"jobs", "lst"}), HasSubstr("did you mean 'list'"));
  EXPECT_THAT(Misuse({"jobs", "list", "--state", "busy"}), HasSubstr("QUEUED, RUNNING"));
  EXPECT_THAT(Misuse({"jobs", "watch", "3f", "--after", "-1"}), HasSubstr("'-1'"));
  EXPECT_THAT(Misuse({"jobs", "resume", "3f", "--lr-factor", "fast"}), HasSubstr("'fast'"));
  EXPECT_THAT(Misuse({"export", "3f"}), HasSubstr("--out"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--columns", "a"}), HasSubstr("no NAME=VALUE"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--columns", "a=b,a=c"}),
              HasSubstr("given twice"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--dtype", "x=half"}), HasSubstr("got 'half'"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--dtype", "x=float,double"}),
              HasSubstr("x has 2 values"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--scale", "x=1/0"}), HasSubstr("'1/0'"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--shape", "x=3x"}), HasSubstr("'3x'"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--rows", "4"}), HasSubstr("--rows: got '4'"));
  EXPECT_THAT(Misuse({"datasets", "import", "a", "--rows", "1:", "--except", "1:"}),
              HasSubstr("exclude each other"));
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"jobs"},
                                             {"jobs", "show"},
                                             {"jobs", "show", "a", "b"},
                                             {"datasets", "import"},
                                             {"minimize"},
                                             {"minimize", "x^2", "x"},
                                             {"jobs", "list", "extra"},
                                             {"train", "a.toml", "--deadline", "soon"}}) {
    Misuse(words);
  }
}

// ---- Texts.

TEST(TrainingTextTest, Durations) {
  EXPECT_EQ(ShortDuration(absl::Milliseconds(421)), "0.421s");
  EXPECT_EQ(ShortDuration(absl::Seconds(12.3)), "12s");
  EXPECT_EQ(ShortDuration(absl::Seconds(185)), "3m05s");
  EXPECT_EQ(ShortDuration(absl::Seconds(4000)), "1h06m");
  EXPECT_EQ(ShortDuration(absl::Hours(76)), "3d04h");
  EXPECT_EQ(ShortDuration(absl::InfiniteDuration()), "for ever");
  EXPECT_EQ(ShortDuration(-absl::Seconds(1)), "0s");
}

TEST(TrainingTextTest, TablesAreAligned) {
  EXPECT_EQ(AlignedTable({{"NAME", "N"}, {"a", "12345"}, {"longer", "1", ""}}),
            "NAME    N\n"
            "a       12345\n"
            "longer  1\n");
}

v1::TrainingJob SampleJob() {
  v1::TrainingJob job;
  job.set_name("jobs/3f");
  job.set_display_name("digits \x1b[2J");
  job.set_state(v1::TrainingJob::RUNNING);
  job.mutable_progress()->set_step(450);
  job.mutable_progress()->set_total_steps(1000);
  job.mutable_progress()->set_percent(45);
  job.mutable_progress()->set_loss(0.07123456);
  job.mutable_progress()->mutable_eta()->set_seconds(62);
  job.mutable_create_time()->set_seconds(1700000000);
  job.mutable_optimizer()->mutable_adam()->set_lr(0.01);
  return job;
}

TEST(TrainingTextTest, ListsJobs) {
  v1::TrainingJob queued;
  queued.set_name("jobs/4");
  queued.set_state(v1::TrainingJob::QUEUED);
  const absl::Time now = absl::FromUnixSeconds(1700000065);
  EXPECT_EQ(JobsAsText({SampleJob(), queued}, now),
            "NAME     STATE    STEP      %   LOSS     ETA    AGE    TITLE\n"
            "jobs/3f  RUNNING  450/1000  45  0.07123  1m02s  1m05s  digits ?[2J\n"
            "jobs/4   QUEUED   0         -   -        -      -\n");
  EXPECT_EQ(JobsAsText({}, now), "no jobs\n");
}

TEST(TrainingTextTest, ShowsAJob) {
  const std::string text = JobAsText(SampleJob(), absl::FromUnixSeconds(1700000065));
  EXPECT_THAT(text, AllOf(HasSubstr("state      RUNNING\n"), HasSubstr("450/1000\n"),
                          HasSubstr("optimizer  adam lr: 0.01\n"), HasSubstr(", 1m05s ago\n"),
                          Not(HasSubstr("reason")), Not(HasSubstr("\x1b"))));
}

TEST(TrainingTextTest, MessagesAsJson) {
  v1::TrainingJob job = SampleJob();
  job.mutable_model()->set_onnx("bytes");
  (*job.mutable_labels())["a\"b"] = "c";
  v1::Tensor* x = &(*job.mutable_inputs())["x"];
  x->add_values(NAN);
  job.mutable_stop()->set_gradient_norm(1e-8);
  job.mutable_ttl()->set_seconds(5);
  job.mutable_ttl()->set_nanos(500);
  job.add_trainable("w*");
  const Json json = Json::parse(MessageAsJson(job));
  EXPECT_EQ(json["name"], "jobs/3f");
  EXPECT_EQ(json["state"], "RUNNING");
  EXPECT_EQ(json["progress"]["step"], 450);
  EXPECT_EQ(json["progress"]["eta"], "62.000000000s");
  EXPECT_EQ(json["ttl"], "5.000000500s");
  EXPECT_EQ(json["create_time"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(json["labels"]["a\"b"], "c");
  EXPECT_EQ(json["inputs"]["x"]["data"][0], "NaN");
  EXPECT_EQ(json["inputs"]["x"]["dtype"], "DOUBLE");
  EXPECT_EQ(json["trainable"][0], "w*");
  EXPECT_EQ(json["optimizer"]["adam"]["lr"], 0.01);
  EXPECT_EQ(json["stop"]["gradient_norm"], 1e-8);
  EXPECT_EQ(json["batch_size"], 0) << "numbers are always there";
  EXPECT_FALSE(json["optimizer"]["adam"].contains("beta1")) << "unless they can be left out";
  EXPECT_FALSE(json["model"].contains("onnx"));
  EXPECT_FALSE(json.contains("start_time"));
  EXPECT_EQ(
      Json::parse(MessagesAsJson("jobs", std::vector<v1::TrainingJob>{job, job}))["jobs"].size(),
      2u);
}

TEST(JobProgressTest, MeasuresRateAndTimeLeft) {
  v1::TrainingJob job = SampleJob();
  job.set_state(v1::TrainingJob::QUEUED);
  JobProgress progress(job);
  EXPECT_THAT(progress.Line(true),
              StartsWith("jobs/3f QUEUED [###########--------------]  45%  450/1000"));
  v1::TrainingEvent running;
  running.set_step(450);
  running.mutable_state()->set_state(v1::TrainingJob::RUNNING);
  progress.Apply(running);
  for (int i = 0; i <= 20; ++i) {
    v1::TrainingEvent event;
    event.set_step(450 + 10 * i);
    event.mutable_time()->set_seconds(100 + i / 2);
    event.mutable_time()->set_nanos(i % 2 * 500000000);
    (*event.mutable_metrics()->mutable_values())["loss"] = 0.5;
    progress.Apply(event);
  }
  v1::TrainingEvent evaluation;
  evaluation.set_step(650);
  (*evaluation.mutable_evaluation()->mutable_values())["accuracy"] = 0.9625;
  (*evaluation.mutable_evaluation()->mutable_values())["loss"] = 0.75;
  progress.Apply(evaluation);
  EXPECT_EQ(progress.Line(true),
            "jobs/3f [################---------]  65%  650/1000  loss 0.5  accuracy 0.9625  "
            "eval loss 0.75  20 steps/s  17s left");
  EXPECT_EQ(progress.Summary(), "650 steps  loss 0.5  accuracy 0.9625  eval loss 0.75");
  EXPECT_THAT(progress.Line(false), StartsWith("jobs/3f  65%  650/1000  loss"));
  progress.SetTotal(0);
  EXPECT_THAT(progress.Line(true), AllOf(StartsWith("jobs/3f  step 650"), Not(HasSubstr("left"))));
}

TEST(StatusLineTest, RedrawsInPlaceOnATerminalOnly) {
  std::ostringstream terminal, plain;
  {
    StatusLine line(&terminal, 10);
    line.Update("0123456789");
    line.Update("too soon");
    line.Keep("kept");
    line.Update("again");
  }
  EXPECT_EQ(terminal.str(), "\r\x1b[K012345678\r\x1b[Kkept\n\r\x1b[Kagain\n");
  {
    StatusLine line(&plain, 0);
    line.Update("first");
    line.Update("too soon");
    line.Keep("kept");
  }
  EXPECT_EQ(plain.str(), "first\nkept\n");
  EXPECT_EQ(Bar(0), "[-------------------------]");
  EXPECT_EQ(Bar(7), "[#########################]");
}

// ---- Ctrl-C.

TEST(InterruptDeathTest, SaysHowTheJobGoesOnAndEnds130) {
  const auto interrupt = [](bool watching) {
    ExitOnInterrupt();
    std::optional<InterruptMessage> goodbye;
    if (watching) goodbye.emplace("jobs/3f goes on\n");
    raise(SIGINT);
  };
  EXPECT_EXIT(interrupt(true), testing::ExitedWithCode(130), "jobs/3f goes on");
  EXPECT_EXIT(interrupt(false), testing::ExitedWithCode(130), "^$");
}

// ---- Whole runs.

class TrainingRunTest : public testing::Test {
 protected:
  TrainingRunTest() {
    folder_ = absl::StrCat(testing::TempDir(), "/training_run_", getpid());
    mkdir(folder_.c_str(), 0777);
  }
  ~TrainingRunTest() override {
    for (const std::string& path : paths_) std::remove(path.c_str());
    rmdir(folder_.c_str());
  }

  std::string Path(const std::string& name) {
    paths_.push_back(folder_ + "/" + name);
    return paths_.back();
  }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = Path(name);
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  int Run(std::vector<std::string> words) {
    words.push_back("--server=" + server_.address());
    std::ostringstream out, err;
    const int code = cli::Run(words, {.out = &out, .err = &err});
    out_ = out.str();
    err_ = err.str();
    return code;
  }
  Json RunForJson(std::vector<std::string> words, int expected_code = 0) {
    words.push_back("--output=json");
    EXPECT_EQ(Run(words), expected_code) << out_ << err_;
    return Json::parse(out_);
  }

  FakeServer server_;
  std::string out_, err_;

 private:
  std::string folder_;
  std::vector<std::string> paths_;
};

constexpr char kJob[] = R"toml(
model = "mean((x @ w - t)^2)"
inputs.w = [0, 0]
optimizer.adam.lr = 0.1
batch_size = 2
stop.epochs = 3
[dataset]
file = "data.csv"
columns = {x = ["a", "b"], t = "t"}
)toml";

TEST_F(TrainingRunTest, ImportsADataSetOnce) {
  const std::string path = Write("data.csv", "a,b,t\n1,2,3\n4,5,6\n");
  ASSERT_EQ(Run({"datasets", "import", path, "--columns", "x=a,b,t=t"}), 0) << err_;
  EXPECT_EQ(out_, "datasets/1\n");
  ASSERT_EQ(Run({"datasets", "import", path, "--columns", "x=a,b,t=t"}), 0) << err_;
  EXPECT_EQ(out_, "datasets/1\n");
  const Json json = RunForJson({"datasets", "import", path, "--name", "all"});
  EXPECT_EQ(json["name"], "datasets/2");
  EXPECT_EQ(json["display_name"], "all");
  EXPECT_EQ(json["rows"], 2);
  EXPECT_EQ(Run({"datasets", "list"}), 0);
  EXPECT_THAT(out_, AllOf(HasSubstr("datasets/2  SEALED  2     a,b,t"), HasSubstr("data.csv")));
  EXPECT_EQ(RunForJson({"datasets", "list"})["datasets"].size(), 2u);
  EXPECT_EQ(Run({"datasets", "show", "1"}), 0);
  EXPECT_THAT(out_, HasSubstr("column x  DOUBLE[2] a row, 32 bytes"));
  EXPECT_EQ(RunForJson({"datasets", "delete", "1", "2"})["deleted"][1], "datasets/2");
  EXPECT_EQ(Run({"datasets", "show", "1"}), 3);
  EXPECT_THAT(err_, HasSubstr("NOT_FOUND"));
  EXPECT_EQ(Run({"datasets", "import", "/nonexistent.npz"}), 2);
}

TEST_F(TrainingRunTest, TrainUploadsCreatesAndPrintsTheName) {
  Write("data.csv", "a,b,t\n1,2,3\n4,5,6\n");
  const std::string job = Write("job.toml", kJob);
  ASSERT_EQ(Run({"train", job, "--lr", "0.5", "--name", "fit"}), 0) << err_;
  EXPECT_EQ(out_, "jobs/1\n");
  EXPECT_THAT(err_, HasSubstr("data.csv -> datasets/1 (2 rows)"));
  const v1::TrainingJob& created = server_.state().created.back().job();
  EXPECT_EQ(created.dataset(), "datasets/1");
  EXPECT_EQ(created.optimizer().adam().lr(), 0.5);
  EXPECT_EQ(created.display_name(), "fit");
  EXPECT_EQ(created.model().expression(), "mean((x @ w - t)^2)");

  EXPECT_EQ(RunForJson({"train", job, "--validate-only"})["valid"], true);
  EXPECT_TRUE(server_.state().created.back().validate_only());
  EXPECT_EQ(server_.state().datasets.size(), 1u) << "the data was uploaded once";

  EXPECT_EQ(Run({"train", Write("bad.toml", "batch_sise = 1\n[stop]\nstep = 3\n")}), 2);
  EXPECT_THAT(err_, AllOf(HasSubstr("bad.toml:1: batch_sise"), HasSubstr("bad.toml:3: stop.step")));
  EXPECT_EQ(Run({"train", "/nonexistent.toml"}), 2);
}

TEST_F(TrainingRunTest, EstimateShowsWhatTheJobNeeds) {
  server_.state().estimate.set_peak_bytes(1 << 20);
  server_.state().estimate.mutable_step_time()->set_nanos(1500000);
  server_.state().estimate.set_total_steps(30);
  ASSERT_EQ(Run({"estimate", "--model", "x^2", "--steps", "3"}), 0) << err_;
  EXPECT_THAT(out_,
              AllOf(HasSubstr("time per step   1.5ms\n"), HasSubstr("peak memory     1 MiB\n")));
  EXPECT_EQ(RunForJson({"train", "--model", "x^2", "--estimate"})["peak_bytes"], 1 << 20);
  EXPECT_THAT(server_.state().created, IsEmpty());
  server_.state().has_estimates = false;
  EXPECT_EQ(Run({"estimate", "--model", "x^2"}), 3);
  EXPECT_THAT(err_, HasSubstr("does not have this call"));
}

TEST_F(TrainingRunTest, TrainAndWatch) {
  server_.AddFinishedJob("jobs/1", 4);
  const std::string svg = Path("loss.svg");
  ASSERT_EQ(Run({"train", "--model", "x^2", "--watch", "--plot", svg}), 0) << err_;
  EXPECT_THAT(out_, AllOf(HasSubstr("jobs/1 RUNNING\n"), HasSubstr("jobs/1  25%  1/4  loss 1\n"),
                          HasSubstr("jobs/1 SUCCEEDED: all steps are done\n"),
                          HasSubstr("jobs/1: 4 steps  loss 0.25  accuracy 0.9688")));
  EXPECT_THAT(*ReadFile(svg), AllOf(StartsWith("<svg"), HasSubstr(">accuracy<")));
}

TEST_F(TrainingRunTest, WatchAsJsonIsOneEventALine) {
  server_.AddFinishedJob("jobs/1", 4);
  server_.state().watch_breaks_after = 3;
  ASSERT_EQ(Run({"train", "--model", "x^2", "--watch", "--output=json"}), 0) << err_;
  std::vector<std::string> lines = absl::StrSplit(out_, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 10u) << "the job and its nine events";
  EXPECT_EQ(Json::parse(lines[0])["name"], "jobs/1");
  for (int i = 1; i <= 9; ++i) EXPECT_EQ(Json::parse(lines[i])["number"], i);
  EXPECT_EQ(Json::parse(lines[4])["metrics"]["values"]["loss"], 0.5);
  EXPECT_THAT(err_, HasSubstr("server gone, waiting"));

  ASSERT_EQ(Run({"jobs", "watch", "1", "--output=json", "--after", "7"}), 0);
  lines = absl::StrSplit(out_, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(Json::parse(lines[1])["state"]["state"], "SUCCEEDED");
}

TEST_F(TrainingRunTest, WatchRidesOverARestart) {
  server_.AddFinishedJob("jobs/1", 4);
  server_.state().watch_breaks_after = 4;
  std::thread restart([this] {
    absl::SleepFor(absl::Milliseconds(50));
    server_.Stop();
    absl::SleepFor(absl::Milliseconds(300));
    server_.Start();
  });
  ASSERT_EQ(Run({"jobs", "watch", "1", "--after", "0"}), 0) << err_;
  restart.join();
  EXPECT_THAT(out_, AllOf(HasSubstr("server gone, waiting"), HasSubstr("the server is back"),
                          HasSubstr("jobs/1: 4 steps")));
}

TEST_F(TrainingRunTest, ExitCodesOfWatchesTellHowTheJobEnded) {
  for (const auto& [state, code] :
       std::vector<std::pair<v1::TrainingJob::State, int>>{{v1::TrainingJob::SUCCEEDED, 0},
                                                           {v1::TrainingJob::FAILED, 1},
                                                           {v1::TrainingJob::CANCELLED, 1}}) {
    server_.AddFinishedJob("jobs/1", 4);
    server_.state().jobs["jobs/1"].set_state(state);
    server_.state().events["jobs/1"].back().mutable_state()->set_state(state);
    EXPECT_EQ(Run({"jobs", "watch", "1"}), code) << "one that has ended";
    EXPECT_EQ(Run({"jobs", "watch", "1", "--after", "0"}), code);
    EXPECT_THAT(out_, HasSubstr(v1::TrainingJob::State_Name(state)));
    server_.state().events.clear();
  }
  EXPECT_EQ(Run({"jobs", "watch", "none"}), 3);
  server_.Stop();
  EXPECT_EQ(Run({"jobs", "watch", "1"}), 4);
  EXPECT_THAT(err_, HasSubstr("gradwire-server --listen="));
}

TEST_F(TrainingRunTest, JobsAreListedShownAndChanged) {
  server_.AddFinishedJob("jobs/1", 4);
  server_.AddFinishedJob("jobs/2", 5);
  server_.state().jobs["jobs/2"].set_state(v1::TrainingJob::PAUSED);
  ASSERT_EQ(Run({"jobs", "list"}), 0);
  EXPECT_THAT(out_,
              AllOf(HasSubstr("jobs/2  PAUSED     5/5"), HasSubstr("jobs/1  SUCCEEDED  4/4")));
  ASSERT_EQ(Run({"jobs", "list", "--state=succeeded"}), 0);
  EXPECT_THAT(out_, Not(HasSubstr("jobs/2")));
  EXPECT_EQ(RunForJson({"jobs", "list"})["jobs"].size(), 2u);
  EXPECT_EQ(RunForJson({"jobs", "show", "2"})["progress"]["total_steps"], 5);
  ASSERT_EQ(Run({"jobs", "show", "2"}), 0);
  EXPECT_THAT(out_, HasSubstr("state       PAUSED\n"));
  ASSERT_EQ(Run({"jobs", "checkpoints", "2"}), 0);
  EXPECT_THAT(out_, HasSubstr("jobs/2/checkpoints/5"));

  ASSERT_EQ(Run({"jobs", "resume", "2", "--epochs", "9"}), 0);
  EXPECT_EQ(out_, "jobs/2 QUEUED\n");
  EXPECT_EQ(server_.state().resumed.back().stop().epochs(), 9);
  ASSERT_EQ(Run({"jobs", "pause", "2"}), 0);
  EXPECT_EQ(out_, "jobs/2 PAUSED\n");
  EXPECT_EQ(RunForJson({"jobs", "cancel", "2", "1"})["jobs"][1]["state"], "CANCELLED");
  ASSERT_EQ(Run({"jobs", "delete", "1", "2"}), 0);
  EXPECT_EQ(out_, "jobs/1 is deleted\njobs/2 is deleted\n");
  EXPECT_EQ(Run({"jobs", "delete", "1"}), 3);
}

TEST_F(TrainingRunTest, DownloadsAndExports) {
  server_.AddFinishedJob("jobs/1", 4);
  server_.state().checkpoint_files["jobs/1"] = SafetensorsFile({{"w", {1, 2}}});
  const std::string path = Path("model.onnx");
  ASSERT_EQ(Run({"export", "1", "-o", path}), 0) << err_;
  EXPECT_THAT(out_, HasSubstr("model.onnx: "));
  EXPECT_EQ(*ReadFile(path), server_.state().checkpoint_files["jobs/1"]);
  EXPECT_EQ(RunForJson({"jobs", "download", "1/checkpoints/4", "-o", path})["bytes"],
            server_.state().checkpoint_files["jobs/1"].size());
  EXPECT_EQ(Run({"export", "none", "-o", path}), 3);
}

TEST_F(TrainingRunTest, MinimizePrintsWhereTheJobEnded) {
  server_.AddFinishedJob("jobs/1", 4);
  // The fake's gradient is that of the sum of squares, whatever the formula.
  server_.state().checkpoint_files["jobs/1"] =
      SafetensorsFile({{"x", {3}}, {"y", {4}}, {"gradwire.slot.d.x", {9}}});
  ASSERT_EQ(Run({"minimize", "x^2 + y^2", "x=1", "y=2", "--gtol", "1e-6"}), 0) << err_;
  EXPECT_EQ(out_,
            "f = 25\n"
            "x = 3\n"
            "y = 4\n"
            "\n"
            "gradient norm  10\n"
            "steps          4\n"
            "ended          SUCCEEDED: all steps are done\n"
            "job            jobs/1\n");
  const v1::TrainingJob& job = server_.state().created.back().job();
  EXPECT_TRUE(job.optimizer().has_lbfgs());
  EXPECT_EQ(job.optimizer().lbfgs().tolerance_grad(), 0);
  EXPECT_EQ(job.stop().gradient_norm(), 1e-6);
  EXPECT_EQ(job.stop().steps(), 1000);
  EXPECT_EQ(job.model().expression(), "x^2 + y^2");
  EXPECT_EQ(job.inputs().size(), 2u);

  server_.AddFinishedJob("jobs/2", 4);
  server_.state().checkpoint_files["jobs/2"] = server_.state().checkpoint_files["jobs/1"];
  const Json json = RunForJson({"minimize", "x^2 + y^2", "x=1", "y=2", "--optimizer=adam", "--lr",
                                "0.1", "--wrt", "x,y", "--watch"});
  EXPECT_EQ(json["value"]["data"][0], 25);
  EXPECT_EQ(json["parameters"]["y"]["data"][0], 4);
  EXPECT_EQ(json["gradient_norm"], 10);
  EXPECT_EQ(json["steps"], 4);
  EXPECT_EQ(json["state"], "SUCCEEDED");
  EXPECT_EQ(json["job"], "jobs/2");
  EXPECT_THAT(err_, HasSubstr("jobs/2 RUNNING")) << "--watch goes to the standard error";
  EXPECT_EQ(server_.state().created.back().job().optimizer().adam().lr(), 0.1);
  EXPECT_THAT(server_.state().created.back().job().trainable(), ElementsAre("x", "y"));
}

TEST_F(TrainingRunTest, MinimizeEndsOneWhereTheJobFails) {
  server_.AddFinishedJob("jobs/1", 4);
  server_.state().jobs["jobs/1"].set_state(v1::TrainingJob::FAILED);
  server_.state().jobs["jobs/1"].set_state_reason("NON_FINITE_VALUE: step 4");
  server_.state().events["jobs/1"].back().mutable_state()->set_state(v1::TrainingJob::FAILED);
  const Json json = RunForJson({"minimize", "log(x)", "x=1"}, 1);
  EXPECT_EQ(json["state"], "FAILED");
  EXPECT_EQ(json["reason"], "NON_FINITE_VALUE: step 4");
  server_.AddFinishedJob("jobs/2", 4);
  server_.state().jobs["jobs/2"].set_state(v1::TrainingJob::CANCELLED);
  EXPECT_EQ(Run({"minimize", "log(x)", "x=1"}), 1);
  EXPECT_THAT(err_, HasSubstr("jobs/2 CANCELLED"));
  EXPECT_EQ(Run({"minimize", "x", "x=@none.npy"}), 2);
  EXPECT_EQ(Run({"minimize", "x", "x=1", "--optimizer", "adamm"}), 2);
}

}  // namespace
}  // namespace gradwire::cli
