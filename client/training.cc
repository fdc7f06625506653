#include "client/training.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/connection.h"
#include "engine/base/status.h"
#include "engine/io/file.h"
#include "engine/io/new_file.h"
#include "engine/io/safetensors.h"
#include "proto/codec/tensor_codec.h"

namespace gradwire {
namespace {

using Stub = v1::TrainingService::Stub;

constexpr int kPageSize = 1000;
// Of a checkpoint's tensors, those that are no parameters begin so.
constexpr char kStatePrefix[] = "gradwire.";

// ---- Watching.

// One stream of a watch.
class Watcher {
 public:
  Watcher(Stub& stub, const std::string& name, int64_t after_event,
          const std::function<bool(const v1::TrainingEvent&)>& on_event)
      : stub_(stub), name_(name), last_(after_event), on_event_(on_event) {}

  int64_t last() const { return last_; }

  // Reads until the stream ends. Sets *done where there is nothing more to come.
  absl::Status Read(Backoff* backoff, bool* done) {
    grpc::ClientContext context;
    SetDeadline(backoff->deadline(), &context);
    v1::WatchTrainingJobRequest request;
    request.set_name(name_);
    request.set_after_event(last_);
    const auto stream = stub_.WatchTrainingJob(&context, request);
    v1::TrainingEvent event;
    bool ended = false;
    while (stream->Read(&event)) {
      backoff->NoteProgress();
      const int64_t expected = last_ + 1;
      if (event.number() < expected) continue;  // has been seen
      last_ = event.number();
      const bool missing = last_ != expected;
      if (missing || !on_event_(event)) {
        context.TryCancel();
        stream->Finish();
        *done = true;
        if (!missing) return absl::OkStatus();
        return absl::DataLossError(
            absl::StrCat(name_, ": got event ", last_, ", expected ", expected));
      }
      ended = event.has_state() && HasEnded(event.state().state());
    }
    const absl::Status status = ToStatus(stream->Finish());
    *done = ended;  // also where the connection broke just then
    return ended ? absl::OkStatus() : status;
  }

 private:
  Stub& stub_;
  const std::string& name_;
  int64_t last_;
  const std::function<bool(const v1::TrainingEvent&)>& on_event_;
};

// ---- Downloading.

// Where the bytes of a download go.
struct Sink {
  std::function<absl::Status()> clear;
  std::function<absl::Status(absl::string_view)> write;
};

template <typename Request>
using Opener = std::unique_ptr<grpc::ClientReader<v1::FileChunk>> (Stub::*)(grpc::ClientContext*,
                                                                            const Request&);

// One try, from the first byte on.
template <typename Request>
absl::Status ReadChunks(Stub& stub, Opener<Request> open, const Request& request,
                        const TransferProgress& progress, Backoff* backoff, const Sink& sink) {
  GW_RETURN_IF_ERROR(sink.clear());
  grpc::ClientContext context;
  SetDeadline(backoff->deadline(), &context);
  const auto stream = (stub.*open)(&context, request);
  v1::FileChunk chunk;
  int64_t done = 0;
  int64_t total = 0;
  while (stream->Read(&chunk)) {
    backoff->NoteProgress();
    if (total == 0) total = chunk.total_bytes();
    done += static_cast<int64_t>(chunk.data().size());
    if (absl::Status written = sink.write(chunk.data()); !written.ok()) {
      context.TryCancel();
      stream->Finish();
      return written;
    }
    if (progress) progress(done, total);
  }
  GW_RETURN_IF_ERROR(ToStatus(stream->Finish()));
  if (done == total) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(request.name(), ": got ", done, " bytes, expected ", total));
}

template <typename Request>
absl::Status Download(Stub& stub, Opener<Request> open, const std::string& name,
                      const DownloadOptions& options, const Sink& sink) {
  Request request;
  request.set_name(name);
  Backoff backoff(options.patience);
  while (true) {
    absl::Status status = ReadChunks(stub, open, request, options.progress, &backoff, sink);
    if (status.ok() || !backoff.WaitAfter(&status)) return status;
  }
}

template <typename Request>
absl::Status DownloadToFile(Stub& stub, Opener<Request> open, const std::string& name,
                            const std::string& path, const DownloadOptions& options) {
  GW_ASSIGN_OR_RETURN(NewFile file, NewFile::Create(path));
  const Sink sink = {[&file] { return file.Clear(); },
                     [&file](absl::string_view bytes) { return file.Write(bytes); }};
  GW_RETURN_IF_ERROR(Download(stub, open, name, options, sink));
  return file.Commit();
}

// A call with a name and a request_id, giving the job.
template <typename Request>
absl::StatusOr<v1::TrainingJob> Change(const Connection& connection,
                                       grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                    const Request&,
                                                                    v1::TrainingJob*),
                                       const std::string& name, absl::Duration deadline) {
  Request request;
  request.set_name(name);
  request.set_request_id(NewRequestId());
  v1::TrainingJob job;
  GW_RETURN_IF_ERROR(Call(*connection.training, method, request, deadline, &job));
  return job;
}

absl::StatusOr<v1::TrainingJob> CreateJob(const Connection& connection, const v1::TrainingJob& job,
                                          bool validate_only, absl::Duration deadline) {
  v1::CreateTrainingJobRequest request;
  *request.mutable_job() = job;
  request.set_validate_only(validate_only);
  request.set_request_id(NewRequestId());
  v1::TrainingJob out;
  GW_RETURN_IF_ERROR(Call(*connection.training, &Stub::CreateTrainingJob, request, deadline, &out));
  return out;
}

}  // namespace

v1::Tensor ToProto(const TensorView& tensor) { return codec::ToProto(tensor); }

bool HasEnded(v1::TrainingJob::State state) {
  return state == v1::TrainingJob::SUCCEEDED || state == v1::TrainingJob::FAILED ||
         state == v1::TrainingJob::CANCELLED;
}

absl::StatusOr<v1::TrainingJob> TrainingClient::Create(const v1::TrainingJob& job,
                                                       absl::Duration deadline) const {
  return CreateJob(*connection_, job, /*validate_only=*/false, deadline);
}

absl::Status TrainingClient::Validate(const v1::TrainingJob& job, absl::Duration deadline) const {
  return CreateJob(*connection_, job, /*validate_only=*/true, deadline).status();
}

absl::StatusOr<v1::TrainingEstimate> TrainingClient::Estimate(const v1::TrainingJob& job,
                                                              absl::Duration deadline) const {
  v1::EstimateTrainingJobRequest request;
  *request.mutable_job() = job;
  v1::TrainingEstimate out;
  GW_RETURN_IF_ERROR(
      Call(*connection_->training, &Stub::EstimateTrainingJob, request, deadline, &out));
  return out;
}

absl::StatusOr<v1::TrainingJob> TrainingClient::Get(const std::string& name,
                                                    absl::Duration deadline) const {
  v1::GetTrainingJobRequest request;
  request.set_name(name);
  v1::TrainingJob out;
  GW_RETURN_IF_ERROR(Call(*connection_->training, &Stub::GetTrainingJob, request, deadline, &out));
  return out;
}

absl::StatusOr<std::vector<v1::TrainingJob>> TrainingClient::List(
    const std::vector<v1::TrainingJob::State>& states, absl::Duration deadline,
    int64_t limit) const {
  std::vector<v1::TrainingJob> out;
  v1::ListTrainingJobsRequest request;
  const auto left = [&] { return limit - static_cast<int64_t>(out.size()); };
  for (v1::TrainingJob::State state : states) request.add_states(state);
  do {
    request.set_page_size(limit == 0 ? kPageSize
                                     : static_cast<int32_t>(std::min<int64_t>(left(), kPageSize)));
    v1::ListTrainingJobsResponse page;
    GW_RETURN_IF_ERROR(
        Call(*connection_->training, &Stub::ListTrainingJobs, request, deadline, &page));
    for (v1::TrainingJob& job : *page.mutable_jobs()) out.push_back(std::move(job));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty() && (limit == 0 || left() > 0));
  return out;
}

absl::StatusOr<v1::TrainingJob> TrainingClient::Cancel(const std::string& name,
                                                       absl::Duration deadline) const {
  return Change(*connection_, &Stub::CancelTrainingJob, name, deadline);
}

absl::StatusOr<v1::TrainingJob> TrainingClient::Pause(const std::string& name,
                                                      absl::Duration deadline) const {
  return Change(*connection_, &Stub::PauseTrainingJob, name, deadline);
}

absl::StatusOr<v1::TrainingJob> TrainingClient::Resume(v1::ResumeTrainingJobRequest request,
                                                       absl::Duration deadline) const {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
  v1::TrainingJob job;
  GW_RETURN_IF_ERROR(
      Call(*connection_->training, &Stub::ResumeTrainingJob, request, deadline, &job));
  return job;
}

absl::Status TrainingClient::Delete(const std::string& name, absl::Duration deadline) const {
  v1::DeleteTrainingJobRequest request;
  request.set_name(name);
  request.set_request_id(NewRequestId());
  google::protobuf::Empty out;
  return Call(*connection_->training, &Stub::DeleteTrainingJob, request, deadline, &out);
}

absl::Status TrainingClient::Watch(const std::string& name, int64_t after_event,
                                   const std::function<bool(const v1::TrainingEvent&)>& on_event,
                                   const Patience& patience) const {
  Backoff backoff(patience);
  Watcher watcher(*connection_->training, name, after_event, on_event);
  while (true) {
    bool done = false;
    absl::Status status = watcher.Read(&backoff, &done);
    if (done) return status;
    if (status.ok()) {
      // Either there was nothing left to tell, or the server closed the stream as it went away.
      const absl::StatusOr<v1::TrainingJob> job = Get(name);
      if (job.ok() && HasEnded(job->state()) && job->last_event() <= watcher.last()) return status;
      status = job.ok() ? absl::UnavailableError("the server ended the stream") : job.status();
    }
    if (!backoff.WaitAfter(&status)) return status;
  }
}

absl::StatusOr<v1::QueryMetricsResponse> TrainingClient::QueryMetrics(
    const v1::QueryMetricsRequest& request, absl::Duration deadline) const {
  v1::QueryMetricsResponse out;
  GW_RETURN_IF_ERROR(Call(*connection_->training, &Stub::QueryMetrics, request, deadline, &out));
  return out;
}

absl::StatusOr<std::vector<v1::Checkpoint>> TrainingClient::ListCheckpoints(
    const std::string& name, absl::Duration deadline) const {
  std::vector<v1::Checkpoint> out;
  v1::ListCheckpointsRequest request;
  request.set_name(name);
  request.set_page_size(kPageSize);
  do {
    v1::ListCheckpointsResponse page;
    GW_RETURN_IF_ERROR(
        Call(*connection_->training, &Stub::ListCheckpoints, request, deadline, &page));
    for (v1::Checkpoint& checkpoint : *page.mutable_checkpoints()) {
      out.push_back(std::move(checkpoint));
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return out;
}

absl::StatusOr<NamedTensors> TrainingClient::Parameters(const std::string& name,
                                                        const Patience& patience) const {
  std::string bytes;
  const Sink sink = {[&bytes] {
                       bytes.clear();
                       return absl::OkStatus();
                     },
                     [&bytes](absl::string_view chunk) {
                       if (static_cast<int64_t>(bytes.size() + chunk.size()) > kMaxFileBytes) {
                         return Error(Reason::kMemoryLimit,
                                      "the checkpoint is too large for memory: download it");
                       }
                       bytes.append(chunk.data(), chunk.size());
                       return absl::OkStatus();
                     }};
  GW_RETURN_IF_ERROR(Download(*connection_->training, &Stub::DownloadCheckpoint, name,
                              {.patience = patience, .progress = nullptr}, sink));
  GW_ASSIGN_OR_RETURN(auto tensors, ReadSafetensors(bytes));
  NamedTensors out;
  for (auto& [key, tensor] : tensors) {
    if (!absl::StartsWith(key, kStatePrefix)) out[key] = std::move(tensor);
  }
  return out;
}

absl::Status TrainingClient::DownloadCheckpoint(const std::string& name, const std::string& path,
                                                const DownloadOptions& options) const {
  return DownloadToFile(*connection_->training, &Stub::DownloadCheckpoint, name, path, options);
}

absl::Status TrainingClient::ExportModel(const std::string& name, const std::string& path,
                                         const DownloadOptions& options) const {
  return DownloadToFile(*connection_->training, &Stub::ExportModel, name, path, options);
}

}  // namespace gradwire
