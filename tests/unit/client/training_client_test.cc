// DatasetClient and TrainingClient against a server in this process that breaks when it is told to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/datasets.h"
#include "client/training.h"
#include "engine/base/status.h"
#include "engine/io/file.h"
#include "tests/unit/client/fake_server.h"

namespace gradwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMebibyte = int64_t{1} << 20;

// Three chunks and a bit.
NamedTensors LargeColumns() {
  Tensor x(TensorType{DType::kUint8, {3 * kMebibyte + 5, 1}});
  for (int64_t i = 0; i < x.bytes(); ++i) x.mutable_data<uint8_t>()[i] = static_cast<uint8_t>(i);
  Tensor t(TensorType{DType::kUint8, {3 * kMebibyte + 5}});
  return {{"x", x}, {"t", t}};
}

std::string BytesOf(const Tensor& tensor) {
  return std::string(static_cast<const char*>(tensor.raw()), tensor.bytes());
}

// The request ids of the calls of one kind.
std::vector<std::string> IdsOf(const FakeState& state, const std::string& call) {
  std::vector<std::string> ids;
  for (const std::string& entry : state.calls) {
    if (absl::StartsWith(entry, call + " ")) ids.push_back(entry.substr(call.size() + 1));
  }
  return ids;
}

// ---- Data sets.

TEST(DatasetClientTest, ImportsColumnsInChunks) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const NamedTensors columns = LargeColumns();
  std::vector<int64_t> done;
  ImportOptions options;
  options.display_name = "numbers";
  options.upload.progress = [&](int64_t bytes, int64_t total) {
    EXPECT_EQ(total, 2 * (3 * kMebibyte + 5));
    done.push_back(bytes);
  };
  const absl::StatusOr<v1::Dataset> dataset = datasets.Import(columns, options);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->state(), v1::Dataset::SEALED);
  EXPECT_EQ(dataset->rows(), 3 * kMebibyte + 5);
  EXPECT_EQ(dataset->display_name(), "numbers");
  EXPECT_EQ(server.state().bytes[dataset->name()]["x"], BytesOf(columns.at("x")));
  EXPECT_EQ(server.state().chunks.size(), 8u);
  EXPECT_EQ(server.state().chunks[0].name(), dataset->name());
  EXPECT_EQ(server.state().chunks[1].name(), "") << "in the first message only";
  EXPECT_EQ(done.back(), 2 * (3 * kMebibyte + 5));
}

TEST(DatasetClientTest, ABrokenUploadGoesOnFromTheBytesReceived) {
  for (bool lose_bytes : {false, true}) {
    FakeServer server;
    server.state().append_breaks_after = 2;
    server.state().lose_bytes = lose_bytes;
    const DatasetClient datasets(Client::Connect(server.address()));
    const NamedTensors columns = LargeColumns();
    int outages = 0;
    ImportOptions options;
    options.upload.patience.on_outage = [&](const absl::Status& status) {
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
      ++outages;
    };
    // The fake refuses a chunk that does not begin where the one before ended.
    const absl::StatusOr<v1::Dataset> dataset = datasets.Import(columns, options);
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    EXPECT_EQ(outages, 1);
    for (const auto& [name, tensor] : columns) {
      EXPECT_EQ(server.state().bytes[dataset->name()][name], BytesOf(tensor));
    }
  }
}

TEST(DatasetClientTest, AnUploadRidesOverARestart) {
  FakeServer server;
  server.state().append_breaks_after = 3;
  const DatasetClient datasets(Client::Connect(server.address()));
  const NamedTensors columns = LargeColumns();
  ImportOptions options;
  std::thread restart;
  options.upload.patience.on_outage = [&](const absl::Status&) {
    if (restart.joinable()) return;
    server.Stop();
    restart = std::thread([&server] {
      absl::SleepFor(absl::Milliseconds(300));
      server.Start();
    });
  };
  const absl::StatusOr<v1::Dataset> dataset = datasets.Import(columns, options);
  ASSERT_TRUE(restart.joinable());
  restart.join();
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(server.state().bytes[dataset->name()]["x"], BytesOf(columns.at("x")));
}

TEST(DatasetClientTest, AnUploadThatFailedIsResumedByName) {
  FakeServer server;
  server.state().append_breaks_after = 2;
  const DatasetClient datasets(Client::Connect(server.address()));
  const NamedTensors columns = LargeColumns();
  ImportOptions options;
  options.upload.patience.outage = absl::ZeroDuration();
  const absl::Status failure = datasets.Import(columns, options).status();
  EXPECT_EQ(failure.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failure.message()),
              HasSubstr("the upload of datasets/1 broke off, and can be resumed"));

  options.resume = "datasets/1";
  EXPECT_EQ(ReasonNameOf(datasets.Import({{"x", columns.at("x")}}, options).status()),
            "INVALID_SPEC")
      << "other columns";
  const absl::StatusOr<v1::Dataset> dataset = datasets.Import(columns, options);
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->name(), "datasets/1");
  EXPECT_EQ(server.state().chunks.size(), 8u) << "no chunk was sent twice";
}

TEST(DatasetClientTest, BytesThatChangedOnTheWayAreNoticed) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const v1::Dataset begun = *datasets.Create([] {
    v1::Dataset dataset;
    dataset.add_columns()->set_name("x");
    dataset.mutable_columns(0)->set_data_type(v1::UINT8);
    return dataset;
  }());
  ASSERT_TRUE(
      datasets.Append(begun.name(), {{"x", Tensor::FromVector<uint8_t>({2}, {1, 2})}}).ok());
  // The first bytes are other ones now; what is missing would go up.
  ImportOptions options;
  options.resume = begun.name();
  const NamedTensors changed = {{"x", Tensor::FromVector<uint8_t>({3}, {9, 2, 3})}};
  EXPECT_EQ(datasets.Import(changed, options).status().code(), absl::StatusCode::kDataLoss);
}

TEST(DatasetClientTest, EqualDataIsUploadedOnce) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const NamedTensors columns = {{"x", {1, 2}}, {"t", {3, 4}}};
  const std::string first = datasets.Import(columns)->name();
  for (double other : {1, 2, 3}) ASSERT_TRUE(datasets.Import({{"x", {other}}}).ok());
  EXPECT_EQ(datasets.Import(columns)->name(), first) << "though not on the first page";
  EXPECT_NE(datasets.Import({{"y", {1, 2}}, {"t", {3, 4}}})->name(), first);
  ImportOptions anew;
  anew.reuse = false;
  EXPECT_NE(datasets.Import(columns, anew)->name(), first);
}

TEST(DatasetClientTest, EqualDataThatGoesAwayTooEarlyIsNotTaken) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const NamedTensors columns = {{"x", {1, 2}}};
  ImportOptions an_hour, a_minute;
  an_hour.ttl = absl::Hours(1);
  a_minute.ttl = absl::Minutes(1);
  const std::string first = datasets.Import(columns, an_hour)->name();
  EXPECT_EQ(datasets.Import(columns, a_minute)->name(), first);
  EXPECT_NE(datasets.Import(columns)->name(), first) << "it is to be kept";
}

TEST(DatasetClientTest, ColumnsThatDoNotFitAreRefusedHere) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const absl::Status status = datasets.Import({{"a", {1, 2}}, {"b", {1, 2, 3}}, {"c", 1}}).status();
  EXPECT_EQ(ReasonNameOf(status), "SHAPE_MISMATCH");
  EXPECT_EQ(ViolationsOf(status).size(), 2u);
  EXPECT_EQ(ReasonNameOf(datasets.Import({}).status()), "INVALID_SPEC");
  EXPECT_THAT(server.state().calls, IsEmpty());
}

TEST(DatasetClientTest, AnEmptyDataSetHasNothingToUpload) {
  FakeServer server;
  const DatasetClient datasets(Client::Connect(server.address()));
  const absl::StatusOr<v1::Dataset> dataset =
      datasets.Import({{"x", Tensor(TensorType{DType::kFloat, {0, 4}})}});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->rows(), 0);
  EXPECT_THAT(server.state().chunks, IsEmpty());
}

// ---- The example of training.h.

TEST(TrainingClientTest, TheExampleTrains) {
  FakeServer server;
  server.AddFinishedJob("jobs/1", 3);
  server.state().checkpoint_files["jobs/1"] = SafetensorsFile({{"w", {0.5, 1.5}}});
  const NamedTensors data = {{"x", Tensor(TensorType{DType::kDouble, {4, 2}})},
                             {"t", {1, 2, 3, 4}}};
  std::vector<double> losses;

  Client client = Client::Connect(server.address());
  v1::TrainingJob job;
  job.mutable_model()->set_expression("mean((x @ w - t)^2)");
  (*job.mutable_inputs())["w"] = ToProto(Tensor::FromVector<double>({2}, {0, 0}));
  job.set_dataset(DatasetClient(client).Import(data).value().name());
  job.set_batch_size(32);
  job.mutable_optimizer()->mutable_adam()->set_lr(0.05);
  job.mutable_stop()->set_epochs(20);
  TrainingClient training(client);
  job = training.Create(job).value();
  absl::Status watched = training.Watch(job.name(), 0, [&](const v1::TrainingEvent& event) {
    if (event.has_metrics()) losses.push_back(event.metrics().values().at("loss"));
    return true;  // go on watching
  });

  EXPECT_TRUE(watched.ok()) << watched;
  EXPECT_THAT(losses, ElementsAre(1, 0.5, 1.0 / 3));
  EXPECT_TRUE(training.Parameters(job.name()).value()["w"] ==
              Tensor::FromVector<double>({2}, {0.5, 1.5}));
  EXPECT_EQ(server.state().created[0].job().dataset(), "datasets/1");
}

// ---- Idempotency.

TEST(TrainingClientTest, ATryAgainHasTheSameRequestId) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 3);
  const Client client = Client::Connect(server.address());
  const DatasetClient datasets(client);
  const TrainingClient training(client);
  FakeState& state = server.state();
  v1::ResumeTrainingJobRequest resume;
  resume.set_name("jobs/x");
  const v1::Dataset dataset = *datasets.Import({{"x", {1}}});
  const std::vector<std::pair<std::string, std::function<bool()>>> calls = {
      {"CreateDataset", [&] { return datasets.Create(dataset).ok(); }},
      {"SealDataset", [&] { return datasets.Seal(dataset.name()).ok(); }},
      {"DeleteDataset", [&] { return datasets.Delete(dataset.name()).ok(); }},
      {"CreateTrainingJob", [&] { return training.Create({}).ok(); }},
      {"PauseTrainingJob", [&] { return training.Pause("jobs/x").ok(); }},
      {"ResumeTrainingJob", [&] { return training.Resume(resume).ok(); }},
      {"CancelTrainingJob", [&] { return training.Cancel("jobs/x").ok(); }},
      {"DeleteTrainingJob", [&] { return training.Delete("jobs/x").ok(); }}};
  std::set<std::string> all;
  for (const auto& [name, call] : calls) {
    state.calls.clear();
    state.unavailable = 2;
    EXPECT_TRUE(call()) << name;
    const std::vector<std::string> ids = IdsOf(state, name);
    ASSERT_EQ(ids.size(), 3u) << name;
    EXPECT_EQ(ids[0].size(), 32u) << name;
    EXPECT_EQ(ids[1], ids[0]) << name;
    EXPECT_EQ(ids[2], ids[0]) << name;
    EXPECT_TRUE(all.insert(ids[0]).second) << name << ": the id of another call";
  }
}

TEST(TrainingClientTest, LargeModelsAreTriedAgainToo) {
  FakeServer server;
  server.state().unavailable = 1;
  const TrainingClient training(Client::Connect(server.address()));
  v1::TrainingJob job;
  job.mutable_model()->set_onnx(std::string(2 * kMebibyte, 'x'));
  ASSERT_TRUE(training.Create(job).ok());
  EXPECT_EQ(IdsOf(server.state(), "CreateTrainingJob").size(), 2u);
}

TEST(TrainingClientTest, GivesUpAfterFourTries) {
  FakeServer server;
  server.state().unavailable = 100;
  const TrainingClient training(Client::Connect(server.address()));
  EXPECT_EQ(training.List().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server.state().unavailable, 96);
}

// ---- Reading.

TEST(TrainingClientTest, ListsAllPages) {
  FakeServer server;
  for (int i = 0; i < 5; ++i) server.AddFinishedJob(absl::StrCat("jobs/", i), 1);
  server.state().jobs["jobs/2"].set_state(v1::TrainingJob::FAILED);
  const TrainingClient training(Client::Connect(server.address()));
  EXPECT_EQ(training.List()->size(), 5u);
  ASSERT_EQ(training.List({v1::TrainingJob::FAILED})->size(), 1u);
  EXPECT_EQ(training.List({v1::TrainingJob::FAILED})->front().name(), "jobs/2");
  EXPECT_EQ(training.ListCheckpoints("jobs/1")->size(), 1u);
  EXPECT_EQ(ReasonNameOf(training.Get("jobs/none").status()), "NOT_FOUND");
}

// ---- Watching.

std::vector<int64_t> Watched(const TrainingClient& training, const std::string& name,
                             absl::Status* status, const Patience& patience = {}) {
  std::vector<int64_t> numbers;
  *status = training.Watch(
      name, 0,
      [&](const v1::TrainingEvent& event) {
        numbers.push_back(event.number());
        return true;
      },
      patience);
  return numbers;
}

std::vector<int64_t> UpTo(int64_t last) {
  std::vector<int64_t> numbers;
  for (int64_t i = 1; i <= last; ++i) numbers.push_back(i);
  return numbers;
}

TEST(WatchTest, ReconnectingLosesAndRepeatsNothing) {
  for (grpc::StatusCode code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::UNKNOWN,
                                grpc::StatusCode::CANCELLED, grpc::StatusCode::OK}) {
    for (int breaks_after = 0; breaks_after <= 10; ++breaks_after) {
      FakeServer server;
      server.AddFinishedJob("jobs/x", 4);  // 9 events
      server.state().watch_breaks_after = breaks_after;
      server.state().watch_break = code;
      server.state().watch_repeats = true;
      const TrainingClient training(Client::Connect(server.address()));
      absl::Status status;
      EXPECT_EQ(Watched(training, "jobs/x", &status), UpTo(9)) << code << " " << breaks_after;
      EXPECT_TRUE(status.ok()) << status;
      if (breaks_after < 9) {
        EXPECT_THAT(server.state().watched_after, ElementsAre(0, breaks_after));
      }
    }
  }
}

TEST(WatchTest, RidesOverARestart) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  server.state().watch_breaks_after = 5;
  const TrainingClient training(Client::Connect(server.address()));
  std::thread restart;
  Patience patience;
  patience.on_outage = [&](const absl::Status&) {
    if (restart.joinable()) return;
    server.Stop();
    restart = std::thread([&server] {
      absl::SleepFor(absl::Milliseconds(400));
      server.Start();
    });
  };
  absl::Status status;
  EXPECT_EQ(Watched(training, "jobs/x", &status, patience), UpTo(9));
  EXPECT_TRUE(status.ok()) << status;
  ASSERT_TRUE(restart.joinable());
  restart.join();
}

TEST(WatchTest, AMissingEventIsDataLoss) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  server.state().watch_leaves_out = 3;
  absl::Status status;
  EXPECT_EQ(Watched(TrainingClient(Client::Connect(server.address())), "jobs/x", &status), UpTo(2));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST(WatchTest, EndsWhereTheCallerOrTheJobDoes) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  const TrainingClient training(Client::Connect(server.address()));
  int seen = 0;
  EXPECT_TRUE(training.Watch("jobs/x", 0, [&](const auto&) { return ++seen < 3; }).ok());
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(training.Watch("jobs/x", 9, [&](const auto&) { return ++seen > 0; }).ok());
  EXPECT_EQ(seen, 3) << "nothing is left after the last event";
  absl::Status status;
  Watched(training, "jobs/none", &status);
  EXPECT_EQ(ReasonNameOf(status), "NOT_FOUND");
}

TEST(WatchTest, AFailedJobThatWasResumedIsWatchedToItsEnd) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  server.state().events["jobs/x"][2].mutable_state()->set_state(v1::TrainingJob::FAILED);
  absl::Status status;
  EXPECT_EQ(Watched(TrainingClient(Client::Connect(server.address())), "jobs/x", &status), UpTo(9));
  EXPECT_TRUE(status.ok());
}

TEST(WatchTest, PatienceIsBounded) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  server.Stop();
  const TrainingClient training(Client::Connect(server.address()));
  absl::Status status;
  Patience patience;
  patience.outage = absl::Milliseconds(500);
  Watched(training, "jobs/x", &status, patience);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  patience = Patience();
  patience.deadline = absl::Milliseconds(500);
  Watched(training, "jobs/x", &status, patience);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

// ---- Downloading.

TEST(DownloadTest, ABrokenDownloadBeginsAgainAndTheFileIsWhole) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  const std::string bytes = SafetensorsFile({{"w", {1, 2}}, {"gradwire.slot.exp_avg.w", {3, 4}}});
  server.state().checkpoint_files["jobs/x"] = bytes;
  const TrainingClient training(Client::Connect(server.address()));
  const std::string path = testing::TempDir() + "/training_client_test.safetensors";
  for (bool model : {false, true}) {
    std::remove(path.c_str());
    server.state().download_breaks_after = 4;
    int64_t done = 0;
    DownloadOptions options;
    options.progress = [&](int64_t bytes_done, int64_t total) {
      done = bytes_done;
      EXPECT_EQ(total, static_cast<int64_t>(bytes.size()));
    };
    const absl::Status status =
        model ? training.ExportModel("jobs/x", path, options)
              : training.DownloadCheckpoint("jobs/x/checkpoints/4", path, options);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(*ReadFile(path), bytes);
    EXPECT_EQ(done, static_cast<int64_t>(bytes.size()));
  }
  EXPECT_FALSE(training.ExportModel("jobs/none", path).ok());
  EXPECT_EQ(*ReadFile(path), bytes) << "a failed download leaves the older file";
  EXPECT_FALSE(training.ExportModel("jobs/x", "/nonexistent/model.onnx").ok());
  std::remove(path.c_str());
}

TEST(DownloadTest, ParametersAreTheTensorsWithoutTheOptimisers) {
  FakeServer server;
  server.AddFinishedJob("jobs/x", 4);
  server.state().checkpoint_files["jobs/x"] =
      SafetensorsFile({{"w", {1, 2}}, {"gradwire.slot.exp_avg.w", {3, 4}}});
  server.state().download_breaks_after = 2;
  const TrainingClient training(Client::Connect(server.address()));
  const absl::StatusOr<NamedTensors> parameters = training.Parameters("jobs/x");
  ASSERT_TRUE(parameters.ok()) << parameters.status();
  EXPECT_EQ(parameters->size(), 1u);
  EXPECT_TRUE(parameters->at("w") == Tensor::FromVector<double>({2}, {1, 2}));
}

}  // namespace
}  // namespace gradwire
