// Training jobs as a server runs them: batches, steps, metrics, commits and checkpoints, over a
// real port and with a data directory (in $TMPDIR).
//
//   build/bench/bin/jobs_bench --benchmark_filter=BM_TrainingJob
//
// A job's time is that of its own events: of the last step's metrics minus the first's.
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/workloads.h"
#include "client/datasets.h"
#include "client/training.h"
#include "google/protobuf/descriptor.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/records.h"
#include "server/rpc/server.h"

namespace gradwire::bench {
namespace {

using v1::TrainingJob;

void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(value.status());
  return *std::move(value);
}

// A folder that goes away with the object.
class ScratchFolder {
 public:
  ScratchFolder() {
    path_ = (std::filesystem::temp_directory_path() / "gradwire_bench_XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) Die(absl::InternalError("cannot make " + path_));
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

struct Service {
  ScratchFolder folder;
  std::unique_ptr<rpc::Server> server;

  explicit Service(int threads, const std::function<void(const std::string& folder)>& fill = {}) {
    // As gradwire-server does.
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    mallopt(M_ARENA_MAX, 1);
    if (fill) fill(folder.path());
    rpc::ServerOptions options;
    options.listen = {"127.0.0.1:0"};
    options.data_dir = folder.path();
    options.threads = threads;
    options.max_message_bytes = int64_t{1} << 30;
    server = OrDie(rpc::Server::Start(options));
  }
  Client Connect() const { return Client::Connect(server->addresses()[0]); }
};

// `rows` rows, the batch's again and again.
Tensor Column(const Tensor& batch, int64_t rows) {
  Dims dims(batch.shape().dims().begin(), batch.shape().dims().end());
  const int64_t bytes = batch.bytes() / dims[0];
  dims[0] = rows;
  Tensor out(TensorType{batch.dtype(), Shape(std::move(dims))});
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(static_cast<char*>(out.mutable_raw()) + i * bytes,
                static_cast<const char*>(batch.raw()) + i * bytes % batch.bytes(),
                static_cast<size_t>(bytes));
  }
  return out;
}

TrainingJob JobOf(const Training& training, const Client& client, int64_t steps) {
  TrainingJob job;
  NamedTensors columns;
  for (const auto& [name, tensor] : training.model.inputs) {
    const auto& wrt = training.model.wrt;
    if (std::find(wrt.begin(), wrt.end(), name) != wrt.end()) {
      (*job.mutable_inputs())[name] = ToProto(tensor);
    } else {
      columns[name] = Column(tensor, training.rows);
      job.set_batch_size(static_cast<int>(tensor.shape()[0]));
    }
  }
  job.set_dataset(OrDie(DatasetClient(client).Import(columns)).name());
  job.mutable_model()->set_text(training.model.model);
  const auto* field = v1::Optimizer::descriptor()->FindFieldByLowercaseName(training.optimizer);
  auto* settings =
      job.mutable_optimizer()->GetReflection()->MutableMessage(job.mutable_optimizer(), field);
  for (const auto& [name, value] : training.hyper) {
    settings->GetReflection()->SetDouble(settings, settings->GetDescriptor()->FindFieldByName(name),
                                         value);
  }
  job.set_shuffle(true);
  job.set_drop_last(true);
  job.set_seed(1);
  job.mutable_stop()->set_steps(steps);
  return job;
}

// Of a list, because Get carries the model.
TrainingJob Find(const std::vector<TrainingJob>& jobs, const std::string& name) {
  const auto found = std::find_if(jobs.begin(), jobs.end(),
                                  [&](const TrainingJob& job) { return job.name() == name; });
  if (found == jobs.end()) Die(absl::NotFoundError(name));
  return *found;
}

TrainingJob Await(const TrainingClient& client, const std::string& name, TrainingJob::State state) {
  while (true) {
    TrainingJob now = Find(OrDie(client.List()), name);
    if (now.state() == state) return now;
    // Where there is no room a job pauses by itself.
    if (HasEnded(now.state()) || now.state() == TrainingJob::PAUSED)
      Die(absl::InternalError(now.state_reason()));
    absl::SleepFor(absl::Milliseconds(50));
  }
}

// Runs it to its end.
TrainingJob RunJob(const TrainingClient& client, const TrainingJob& job) {
  return Await(client, OrDie(client.Create(job)).name(), TrainingJob::SUCCEEDED);
}

double SecondsPerStep(const TrainingClient& client, const TrainingJob& job) {
  v1::TrainingEvent first, last;
  const absl::Status status = client.Watch(job.name(), 0, [&](const v1::TrainingEvent& event) {
    if (!event.has_metrics()) return true;
    if (!first.has_metrics()) first = event;
    last = event;
    return true;
  });
  if (!status.ok()) Die(status);
  const absl::Duration time = codec::TimeOf(last.time()) - codec::TimeOf(first.time());
  return absl::ToDoubleSeconds(time) / static_cast<double>(last.step() - first.step());
}

// Of all threads of this process.
double ProcessorSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The whole job, data set and all; an iteration is a job, its time that of one step.
void BM_TrainingJob(benchmark::State& state, Training (*make)(), int64_t steps,
                    int64_t checkpoint_steps) {
  const auto threads = static_cast<int>(state.range(0));
  const Service service(threads);
  const Client client = service.Connect();
  TrainingJob job = JobOf(make(), client, steps);
  job.mutable_checkpoints()->set_every_steps(checkpoint_steps);
  const TrainingClient training(client);
  const v1::TrainingEstimate estimate = OrDie(training.Estimate(job));
  for (auto _ : state) {
    // What a job costs once, whatever its length, is that of a short one.
    const auto seconds = [&](int64_t count, TrainingJob* done) {
      const double before = ProcessorSeconds();
      job.mutable_stop()->set_steps(count);
      *done = RunJob(training, job);
      return ProcessorSeconds() - before;
    };
    TrainingJob done;
    const int64_t few = steps / 10;
    seconds(few, &done);
    const double once = seconds(few, &done);
    state.counters["cpu_seconds"] =
        (seconds(steps, &done) - once) / static_cast<double>(steps - few);
    state.SetIterationTime(SecondsPerStep(training, done));
  }
  state.counters["estimated_seconds"] =
      absl::ToDoubleSeconds(codec::DurationOf(estimate.step_time()));
  state.SetLabel(absl::StrCat(threads, " threads"));
}
constexpr int64_t kNoCheckpoints = int64_t{1} << 40;
#define GRADWIRE_JOB(name, make, steps, every)                \
  BENCHMARK_CAPTURE(BM_TrainingJob, name, make, steps, every) \
      ->Arg(1)                                                \
      ->Arg(2)                                                \
      ->UseManualTime()                                       \
      ->Iterations(1)                                         \
      ->Unit(benchmark::kMicrosecond)
GRADWIRE_JOB(digits, &Digits, 20000, kNoCheckpoints);
GRADWIRE_JOB(digits_checkpoints, &Digits, 20000, 100);
GRADWIRE_JOB(
    mlp_train_sgd, +[] { return MlpTrain("sgd"); }, 400, kNoCheckpoints);
GRADWIRE_JOB(
    mlp_train_adam, +[] { return MlpTrain("adam"); }, 400, kNoCheckpoints);
GRADWIRE_JOB(
    mlp_train_adam_checkpoints, +[] { return MlpTrain("adam"); }, 400, 100);
GRADWIRE_JOB(cnn, &CnnTrain, 40, kNoCheckpoints);

int64_t ResidentBytes(const char* which) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(which, 0) == 0) return std::atoll(line.c_str() + std::strlen(which)) * 1024;
  }
  return 0;
}

// How much the server grows while a job runs and writes checkpoints, beside its estimate.
void BM_JobMemory(benchmark::State& state) {
  const Service service(1);
  const Client client = service.Connect();
  const TrainingClient training(client);
  TrainingJob job = JobOf(WideMlp(state.range(0)), client, 20);
  job.mutable_checkpoints()->set_every_steps(5);
  const v1::TrainingEstimate estimate = OrDie(training.Estimate(job));
  int64_t growth = 0;
  for (auto _ : state) {
    // Paused first, so that the memory of the calls that carry the model does not count.
    const std::string name = OrDie(training.Create(job)).name();
    OrDie(training.Pause(name));
    Await(training, name, TrainingJob::PAUSED);
    malloc_trim(0);
    const int64_t before = ResidentBytes("VmRSS:");
    std::ofstream("/proc/self/clear_refs") << "5";  // the peak begins anew
    v1::ResumeTrainingJobRequest resume;
    resume.set_name(name);
    OrDie(training.Resume(resume));
    Await(training, name, TrainingJob::SUCCEEDED);
    growth = ResidentBytes("VmHWM:") - before;
  }
  state.counters["parameters"] = static_cast<double>(estimate.parameters());
  state.counters["estimate_bytes"] = static_cast<double>(estimate.peak_bytes());
  state.counters["growth_bytes"] = static_cast<double>(growth);
  state.counters["growth_over_estimate"] =
      static_cast<double>(growth) / static_cast<double>(estimate.peak_bytes());
}
BENCHMARK(BM_JobMemory)->Arg(2048)->Arg(5000)->Iterations(1)->Unit(benchmark::kMillisecond);

// What the store holds of a job that has ended, many times.
void FillWithJobs(const std::string& folder, int64_t count) {
  const auto store = OrDie(store::OpenSqliteStore(folder + "/state.db"));
  const absl::Status status = store->Write([&](store::Store::Transaction& t) -> absl::Status {
    for (int64_t i = 0; i < count; ++i) {
      jobs::JobRecord record;
      record.resource = {.kind = store::Kind::kJob, .id = jobs::NewId()};
      TrainingJob& job = record.job;
      job.set_name(jobs::kJobPrefix + record.resource.id);
      job.set_display_name(absl::StrCat("run ", i));
      job.set_dataset("datasets/0123456789abcdef");
      job.mutable_optimizer()->mutable_adam()->set_lr(1e-3);
      job.set_batch_size(64);
      job.mutable_stop()->set_epochs(30);
      job.mutable_progress()->set_step(690);
      job.mutable_progress()->set_loss(0.05);
      *job.mutable_create_time() = codec::ToProto(absl::Now());
      absl::Status put = jobs::ChangeState(t, record, TrainingJob::SUCCEEDED, "30 epochs are done");
      if (!put.ok()) return put;
    }
    return absl::OkStatus();
  });
  if (!status.ok()) Die(status);
}

void BM_ListJobs(benchmark::State& state) {
  const Service service(1,
                        [&](const std::string& folder) { FillWithJobs(folder, state.range(0)); });
  const Client client = service.Connect();
  const TrainingClient training(client);
  for (auto _ : state) {
    const auto jobs = OrDie(training.List({}, absl::Seconds(60), state.range(1)));
    if (static_cast<int64_t>(jobs.size()) != state.range(1)) std::abort();
  }
}
// What `gradwire jobs list` asks for, and all.
BENCHMARK(BM_ListJobs)
    ->ArgNames({"jobs", "listed"})
    ->Args({100, 100})
    ->Args({10000, 100})
    ->Args({10000, 10000})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace gradwire::bench

BENCHMARK_MAIN();
