#include "tests/unit/client/fake_server.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/training.h"
#include "engine/base/status.h"
#include "proto/codec/status_codec.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"

namespace gradwire {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;

constexpr size_t kFileChunkBytes = 10;

Status Refusal(const absl::Status& status) {
  const google::rpc::Status wire = codec::ToRpcStatus(status);
  return Status(static_cast<StatusCode>(wire.code()), wire.message(), wire.SerializeAsString());
}

Status NotFound(const std::string& name) {
  return Refusal(Error(Reason::kNotFound, absl::StrCat("there is no ", name)));
}

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size));
}

// Notes a unary call; true where it is to be refused.
bool Fails(FakeState* state, const std::string& call) {
  state->calls.push_back(call);
  if (state->unavailable <= 0) return false;
  --state->unavailable;
  return true;
}

Status Unavailable() { return Status(StatusCode::UNAVAILABLE, "the fake server is tired"); }

// Entries of a map in pages, newest (last by name) first. Tokens are names.
template <typename Value, typename Add>
std::string Page(const std::map<std::string, Value>& all, const std::string& token, int size,
                 const Add& add) {
  auto at = token.empty() ? all.rbegin() : std::make_reverse_iterator(all.upper_bound(token));
  for (; at != all.rend() && size > 0; ++at, --size) add(at->second);
  return at == all.rend() ? "" : at->first;
}

class FakeGradients : public v1::GradientService::Service {
 public:
  // Of sum(x^2) over all inputs, whatever the model says.
  Status ComputeGradient(ServerContext*, const v1::ComputeGradientRequest* request,
                         v1::ComputeGradientResponse* response) override {
    double value = 0;
    for (const auto& [name, wire] : request->inputs()) {
      std::vector<Tensor> owned;
      const TensorView x = *codec::ViewOf(wire, name, &owned);
      Tensor gradient(x.type());
      for (int64_t i = 0; i < x.num_elements(); ++i) {
        value += x.data<double>()[i] * x.data<double>()[i];
        gradient.mutable_data<double>()[i] = 2 * x.data<double>()[i];
      }
      (*response->mutable_gradients())[name] = codec::ToProto(gradient);
    }
    *response->mutable_value() = codec::ToProto(Tensor::Scalar(value));
    return Status::OK;
  }
};

class FakeDatasets : public v1::DatasetService::Service {
 public:
  explicit FakeDatasets(FakeState* state) : state_(state) {}

  Status CreateDataset(ServerContext*, const v1::CreateDatasetRequest* request,
                       v1::Dataset* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "CreateDataset " + request->request_id())) return Unavailable();
    *response = request->dataset();
    response->set_name(absl::StrCat("datasets/", state_->datasets.size() + 1));
    response->set_state(v1::Dataset::UPLOADING);
    if (request->has_ttl()) {
      *response->mutable_expire_time() =
          codec::ToProto(absl::Now() + codec::DurationOf(request->ttl()));
    }
    state_->datasets[response->name()] = *response;
    return Status::OK;
  }

  Status AppendDataset(ServerContext*, grpc::ServerReader<v1::AppendDatasetRequest>* reader,
                       v1::Dataset* response) override {
    v1::AppendDatasetRequest chunk;
    std::string name;
    while (reader->Read(&chunk)) {
      absl::MutexLock lock(&state_->mutex);
      if (name.empty()) name = chunk.name();
      if (state_->datasets.count(name) == 0) return NotFound(name);
      if (state_->append_breaks_after == 0) {
        state_->append_breaks_after = -1;
        if (state_->lose_bytes) {
          chunk.mutable_data()->resize(chunk.data().size() / 2);
          Take(name, chunk);
        }
        return Unavailable();
      }
      if (state_->append_breaks_after > 0) --state_->append_breaks_after;
      if (chunk.crc32() !=
          crc32_z(0, reinterpret_cast<const Bytef*>(chunk.data().data()), chunk.data().size())) {
        return Refusal(Error(Reason::kInvalidSpec, "the CRC does not fit"));
      }
      if (chunk.offset() != static_cast<int64_t>(state_->bytes[name][chunk.column()].size())) {
        return Refusal(Error(Reason::kInvalidSpec, "a gap, or bytes sent twice"));
      }
      Take(name, chunk);
    }
    absl::MutexLock lock(&state_->mutex);
    *response = state_->datasets[name];
    return Status::OK;
  }

  Status SealDataset(ServerContext*, const v1::SealDatasetRequest* request,
                     v1::Dataset* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "SealDataset " + request->request_id())) return Unavailable();
    v1::Dataset& dataset = state_->datasets[request->name()];
    dataset.set_state(v1::Dataset::SEALED);
    for (v1::Column& column : *dataset.mutable_columns()) {
      const std::string& bytes = state_->bytes[request->name()][column.name()];
      int64_t row = DTypeBytes(DTypeFromOnnx(column.data_type()));
      for (int64_t extent : column.shape()) row *= extent;
      dataset.set_rows(row == 0 ? 0 : static_cast<int64_t>(bytes.size()) / row);
      column.set_sha256(Sha256(bytes));
    }
    *response = dataset;
    return Status::OK;
  }

  Status GetDataset(ServerContext*, const v1::GetDatasetRequest* request,
                    v1::Dataset* response) override {
    absl::MutexLock lock(&state_->mutex);
    const auto at = state_->datasets.find(request->name());
    if (at == state_->datasets.end()) return NotFound(request->name());
    *response = at->second;
    return Status::OK;
  }

  Status ListDatasets(ServerContext*, const v1::ListDatasetsRequest* request,
                      v1::ListDatasetsResponse* response) override {
    absl::MutexLock lock(&state_->mutex);
    response->set_next_page_token(
        Page(state_->datasets, request->page_token(), state_->page_size,
             [&](const v1::Dataset& dataset) { *response->add_datasets() = dataset; }));
    return Status::OK;
  }

  Status DeleteDataset(ServerContext*, const v1::DeleteDatasetRequest* request,
                       google::protobuf::Empty*) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "DeleteDataset " + request->request_id())) return Unavailable();
    return state_->datasets.erase(request->name()) > 0 ? Status::OK : NotFound(request->name());
  }

 private:
  void Take(const std::string& name, v1::AppendDatasetRequest chunk) {
    std::string& bytes = state_->bytes[name][chunk.column()];
    bytes += chunk.data();
    for (v1::Column& column : *state_->datasets[name].mutable_columns()) {
      if (column.name() == chunk.column()) column.set_received_bytes(bytes.size());
    }
    chunk.clear_data();
    state_->chunks.push_back(std::move(chunk));
  }

  FakeState* const state_;
};

class FakeTraining : public v1::TrainingService::Service {
 public:
  explicit FakeTraining(FakeState* state) : state_(state) {}

  Status CreateTrainingJob(ServerContext*, const v1::CreateTrainingJobRequest* request,
                           v1::TrainingJob* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "CreateTrainingJob " + request->request_id())) return Unavailable();
    state_->created.push_back(*request);
    *response = request->job();
    if (request->validate_only()) return Status::OK;
    // The job has been made ready under the next number.
    const std::string name = absl::StrCat("jobs/", state_->created.size());
    response->set_name(name);
    const auto ready = state_->jobs.find(name);
    response->set_state(ready == state_->jobs.end() ? v1::TrainingJob::QUEUED
                                                    : ready->second.state());
    if (ready == state_->jobs.end()) state_->jobs[name] = *response;
    return Status::OK;
  }

  Status GetTrainingJob(ServerContext*, const v1::GetTrainingJobRequest* request,
                        v1::TrainingJob* response) override {
    absl::MutexLock lock(&state_->mutex);
    return Give(request->name(), response);
  }

  Status ListTrainingJobs(ServerContext*, const v1::ListTrainingJobsRequest* request,
                          v1::ListTrainingJobsResponse* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "ListTrainingJobs")) return Unavailable();
    response->set_next_page_token(Page(
        state_->jobs, request->page_token(), state_->page_size, [&](const v1::TrainingJob& job) {
          const auto& states = request->states();
          if (states.empty() ||
              std::find(states.begin(), states.end(), job.state()) != states.end()) {
            *response->add_jobs() = job;
          }
        }));
    return Status::OK;
  }

  Status DeleteTrainingJob(ServerContext*, const v1::DeleteTrainingJobRequest* request,
                           google::protobuf::Empty*) override {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, "DeleteTrainingJob " + request->request_id())) return Unavailable();
    return state_->jobs.erase(request->name()) > 0 ? Status::OK : NotFound(request->name());
  }

  Status CancelTrainingJob(ServerContext*, const v1::CancelTrainingJobRequest* request,
                           v1::TrainingJob* response) override {
    return Change("CancelTrainingJob ", *request, v1::TrainingJob::CANCELLED, response);
  }
  Status PauseTrainingJob(ServerContext*, const v1::PauseTrainingJobRequest* request,
                          v1::TrainingJob* response) override {
    return Change("PauseTrainingJob ", *request, v1::TrainingJob::PAUSED, response);
  }
  Status ResumeTrainingJob(ServerContext*, const v1::ResumeTrainingJobRequest* request,
                           v1::TrainingJob* response) override {
    {
      absl::MutexLock lock(&state_->mutex);
      state_->resumed.push_back(*request);
    }
    return Change("ResumeTrainingJob ", *request, v1::TrainingJob::QUEUED, response);
  }

  Status WatchTrainingJob(ServerContext*, const v1::WatchTrainingJobRequest* request,
                          grpc::ServerWriter<v1::TrainingEvent>* writer) override {
    absl::MutexLock lock(&state_->mutex);
    state_->watched_after.push_back(request->after_event());
    if (state_->jobs.count(request->name()) == 0) return NotFound(request->name());
    for (const v1::TrainingEvent& event : state_->events[request->name()]) {
      const bool again = state_->watch_repeats && event.number() == request->after_event();
      if (event.number() <= request->after_event() && !again) continue;
      if (event.number() == state_->watch_leaves_out) continue;
      if (state_->watch_breaks_after == 0) {
        state_->watch_breaks_after = -1;
        return Status(state_->watch_break, "broken");
      }
      if (state_->watch_breaks_after > 0) --state_->watch_breaks_after;
      writer->Write(event);
    }
    return Status::OK;
  }

  Status QueryMetrics(ServerContext*, const v1::QueryMetricsRequest* request,
                      v1::QueryMetricsResponse* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (state_->jobs.count(request->name()) == 0) return NotFound(request->name());
    for (const v1::TrainingEvent& event : state_->events[request->name()]) {
      if (request->evaluations() ? event.has_evaluation() : event.has_metrics()) {
        *response->add_points() = request->evaluations() ? event.evaluation() : event.metrics();
      }
    }
    response->set_total_points(response->points_size());
    return Status::OK;
  }

  Status EstimateTrainingJob(ServerContext*, const v1::EstimateTrainingJobRequest*,
                             v1::TrainingEstimate* response) override {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->has_estimates) return Status(StatusCode::UNIMPLEMENTED, "");
    *response = state_->estimate;
    return Status::OK;
  }

  Status ListCheckpoints(ServerContext*, const v1::ListCheckpointsRequest* request,
                         v1::ListCheckpointsResponse* response) override {
    absl::MutexLock lock(&state_->mutex);
    std::map<std::string, v1::Checkpoint> all;
    for (const v1::TrainingEvent& event : state_->events[request->name()]) {
      if (event.has_checkpoint()) all[event.checkpoint().name()] = event.checkpoint();
    }
    response->set_next_page_token(
        Page(all, request->page_token(), state_->page_size,
             [&](const v1::Checkpoint& checkpoint) { *response->add_checkpoints() = checkpoint; }));
    return Status::OK;
  }

  Status DownloadCheckpoint(ServerContext*, const v1::DownloadCheckpointRequest* request,
                            grpc::ServerWriter<v1::FileChunk>* writer) override {
    return Send(request->name(), writer);
  }
  Status ExportModel(ServerContext*, const v1::ExportModelRequest* request,
                     grpc::ServerWriter<v1::FileChunk>* writer) override {
    return Send(request->name(), writer);
  }

 private:
  Status Give(const std::string& name, v1::TrainingJob* response) {
    const auto at = state_->jobs.find(name);
    if (at == state_->jobs.end()) return NotFound(name);
    *response = at->second;
    return Status::OK;
  }

  template <typename Request>
  Status Change(const char* call, const Request& request, v1::TrainingJob::State to,
                v1::TrainingJob* response) {
    absl::MutexLock lock(&state_->mutex);
    if (Fails(state_, call + request.request_id())) return Unavailable();
    const auto at = state_->jobs.find(request.name());
    if (at == state_->jobs.end()) return NotFound(request.name());
    at->second.set_state(to);
    *response = at->second;
    return Status::OK;
  }

  Status Send(const std::string& name, grpc::ServerWriter<v1::FileChunk>* writer) {
    absl::MutexLock lock(&state_->mutex);
    const std::string job = name.substr(0, name.find("/checkpoints/"));
    const auto file = state_->checkpoint_files.find(job);
    if (file == state_->checkpoint_files.end()) return NotFound(name);
    for (size_t at = 0; at < file->second.size(); at += kFileChunkBytes) {
      if (state_->download_breaks_after == 0) {
        state_->download_breaks_after = -1;
        return Unavailable();
      }
      if (state_->download_breaks_after > 0) --state_->download_breaks_after;
      v1::FileChunk chunk;
      chunk.set_data(file->second.substr(at, kFileChunkBytes));
      if (at == 0) chunk.set_total_bytes(file->second.size());
      writer->Write(chunk);
    }
    return Status::OK;
  }

  FakeState* const state_;
};

}  // namespace

std::string SafetensorsFile(const std::map<std::string, std::vector<double>>& tensors) {
  std::string header = "{";
  std::string data;
  for (const auto& [name, values] : tensors) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
    const std::string shape = values.size() == 1 ? "" : absl::StrCat(values.size());
    absl::StrAppend(&header, header.size() > 1 ? "," : "", "\"", name,
                    "\":{\"dtype\":\"F64\",\"shape\":[", shape, "],\"data_offsets\":[", begin, ",",
                    data.size(), "]}");
  }
  header += "}";
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + header + data;
}

FakeServer::FakeServer()
    : gradients_(std::make_unique<FakeGradients>()),
      datasets_(std::make_unique<FakeDatasets>(&state_)),
      training_(std::make_unique<FakeTraining>(&state_)) {
  static int count = 0;
  address_ = absl::StrCat("unix:", testing::TempDir(), "/fake_", getpid(), "_", count++, ".sock");
  Start();
}

FakeServer::~FakeServer() { Stop(); }

void FakeServer::Stop() {
  if (!server_) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_.reset();
}

void FakeServer::Start() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  builder.RegisterService(gradients_.get());
  builder.RegisterService(datasets_.get());
  builder.RegisterService(training_.get());
  server_ = builder.BuildAndStart();
  ASSERT_TRUE(server_ != nullptr) << address_;
}

void FakeServer::AddFinishedJob(const std::string& name, int64_t steps) {
  absl::MutexLock lock(&state_.mutex);
  std::vector<v1::TrainingEvent>& events = state_.events[name];
  constexpr int64_t kStart = 1700000000;
  const auto add = [&](int64_t step) {
    v1::TrainingEvent& event = events.emplace_back();
    event.set_number(static_cast<int64_t>(events.size()));
    event.set_step(step);
    event.mutable_time()->set_seconds(kStart + step);
    return &event;
  };
  add(0)->mutable_state()->set_state(v1::TrainingJob::QUEUED);
  add(0)->mutable_state()->set_state(v1::TrainingJob::RUNNING);
  for (int64_t step = 1; step <= steps; ++step) {
    v1::MetricPoint* point = add(step)->mutable_metrics();
    point->set_step(step);
    (*point->mutable_values())["loss"] = 1.0 / static_cast<double>(step);
  }
  v1::MetricPoint* evaluation = add(steps)->mutable_evaluation();
  evaluation->set_step(steps);
  (*evaluation->mutable_values())["loss"] = 0.5;
  (*evaluation->mutable_values())["accuracy"] = 0.96875;
  v1::Checkpoint* checkpoint = add(steps)->mutable_checkpoint();
  checkpoint->set_name(absl::StrCat(name, "/checkpoints/", steps));
  checkpoint->set_step(steps);
  v1::StateChange* end = add(steps)->mutable_state();
  end->set_state(v1::TrainingJob::SUCCEEDED);
  end->set_reason("all steps are done");

  v1::TrainingJob& job = state_.jobs[name];
  job.set_name(name);
  job.set_state(v1::TrainingJob::SUCCEEDED);
  job.set_state_reason(end->reason());
  job.set_last_event(static_cast<int64_t>(events.size()));
  job.mutable_progress()->set_step(steps);
  job.mutable_progress()->set_total_steps(steps);
  job.mutable_progress()->set_loss(1.0 / static_cast<double>(steps));
  job.mutable_progress()->set_percent(100);
  job.mutable_create_time()->set_seconds(kStart);
  job.mutable_start_time()->set_seconds(kStart);
  job.mutable_end_time()->set_seconds(kStart + steps);
}

}  // namespace gradwire
