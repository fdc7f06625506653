#include "server/core/training_core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "server/core/pipeline.h"
#include "server/jobs/checkpoints.h"
#include "server/jobs/model_source.h"
#include "server/store/page.h"

namespace gradwire::server {
namespace {

using jobs::EventType;
using jobs::IdOf;
using jobs::kDatasetPrefix;
using jobs::kJobPrefix;
using store::Store;

constexpr size_t kChunkBytes = 1 << 20;
constexpr int kWatchPage = 256;

// What a newer caller says and this server does not know: fields, and values of enums. As deep as
// the messages' types are nested.
void FindUnknown(const google::protobuf::Message& message, const std::string& where,
                 Problems* problems) {
  using google::protobuf::FieldDescriptor;
  const auto* r = message.GetReflection();
  if (!r->GetUnknownFields(message).empty()) {
    problems->Add(Reason::kInvalidSpec, where.empty() ? "request" : where,
                  "has a field that this server does not know");
  }
  std::vector<const FieldDescriptor*> fields;
  r->ListFields(message, &fields);
  for (const FieldDescriptor* f : fields) {
    if (f->is_map()) continue;  // reflection would copy it: see Resolve
    const std::string path = absl::StrCat(where, where.empty() ? "" : ".", f->name());
    const int count = f->is_repeated() ? r->FieldSize(message, f) : 1;
    for (int i = 0; i < count; ++i) {
      if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        FindUnknown(
            f->is_repeated() ? r->GetRepeatedMessage(message, f, i) : r->GetMessage(message, f),
            f->is_repeated() ? absl::StrCat(path, "[", i, "]") : path, problems);
      } else if (f->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        const int value =
            f->is_repeated() ? r->GetRepeatedEnumValue(message, f, i) : r->GetEnumValue(message, f);
        if (f->enum_type()->FindValueByNumber(value) != nullptr) continue;
        problems->Add(Reason::kInvalidSpec, path,
                      absl::StrCat("there is no ", f->enum_type()->name(), " ", value));
      }
    }
  }
}

absl::Status CheckKnown(const google::protobuf::Message& request) {
  Problems problems;
  FindUnknown(request, "", &problems);
  return problems.ToStatus();
}

// What was received is on disk when the stream ends, whichever way.
class AppendSink final : public Sink<v1::AppendDatasetRequest, v1::Dataset> {
 public:
  explicit AppendSink(jobs::Datasets& datasets) : datasets_(datasets) {}

  absl::Status Push(const v1::AppendDatasetRequest& chunk) override {
    if (id_.empty()) {
      GW_ASSIGN_OR_RETURN(id_, IdOf(chunk.name(), kDatasetPrefix));
    } else if (!chunk.name().empty() && chunk.name() != kDatasetPrefix + id_) {
      return Error(Reason::kInvalidSpec, "name: a stream appends to one data set");
    }
    return datasets_.Append(id_, chunk);
  }
  absl::Status Finish(v1::Dataset* response) override {
    if (id_.empty()) return Error(Reason::kInvalidSpec, "the stream was empty");
    GW_RETURN_IF_ERROR(datasets_.Sync(id_));
    GW_ASSIGN_OR_RETURN(*response, datasets_.Get(id_));
    return absl::OkStatus();
  }

 private:
  jobs::Datasets& datasets_;
  std::string id_;
};

class EventSource final : public Source<v1::TrainingEvent> {
 public:
  EventSource(const jobs::Shared& shared, std::string id, int64_t after)
      : shared_(shared), id_(std::move(id)), after_(after) {}
  ~EventSource() override { shared_.watchers->Drop(id_, this); }

  absl::StatusOr<Next> Pull(v1::TrainingEvent* message) override {
    if (next_ == page_.size()) GW_RETURN_IF_ERROR(ReadPage());
    if (next_ == page_.size()) return over_ ? Next::kEnd : Next::kWait;
    const store::Event& event = page_[next_++];
    if (!message->ParseFromString(event.bytes)) {
      return Error(Reason::kCorruptData, absl::StrCat("event ", event.number, " does not parse"));
    }
    after_ = event.number;
    return Next::kMessage;
  }
  void OnReady(absl::AnyInvocable<void()> wake) override {
    shared_.watchers->Await(id_, this, seen_, std::move(wake));
  }

 private:
  absl::Status ReadPage() {
    seen_ = shared_.watchers->Version(id_);
    next_ = 0;
    return shared_.store->Read([&](Store::Snapshot& s) -> absl::Status {
      GW_ASSIGN_OR_RETURN(page_, s.Events(id_, after_, kWatchPage));
      GW_ASSIGN_OR_RETURN(const jobs::JobRecord record, jobs::GetJob(s, id_));
      over_ = jobs::HasEnded(record.job.state());
      return absl::OkStatus();
    });
  }

  const jobs::Shared& shared_;
  const std::string id_;
  int64_t after_;
  int64_t seen_ = 0;
  std::vector<store::Event> page_;
  size_t next_ = 0;
  bool over_ = false;
};

class FileSource final : public Source<v1::FileChunk> {
 public:
  // `owner` holds the bytes.
  template <typename Owner>
  FileSource(Owner owner, absl::string_view bytes)
      : owner_(std::make_shared<Owner>(std::move(owner))), bytes_(bytes) {}

  absl::StatusOr<Next> Pull(v1::FileChunk* chunk) override {
    if (at_ >= bytes_.size() && at_ > 0) return Next::kEnd;
    if (at_ == 0) chunk->set_total_bytes(static_cast<int64_t>(bytes_.size()));
    const absl::string_view part = bytes_.substr(at_, kChunkBytes);
    chunk->set_data(std::string(part));
    at_ += std::max<size_t>(part.size(), 1);
    return Next::kMessage;
  }
  void OnReady(absl::AnyInvocable<void()>) override {}  // never waits

 private:
  const std::shared_ptr<void> owner_;
  const absl::string_view bytes_;
  size_t at_ = 0;
};

}  // namespace

// ---- Data sets

absl::Status DatasetCore::CreateDataset(const v1::CreateDatasetRequest& request,
                                        v1::Dataset* response, Call&) {
  GW_RETURN_IF_ERROR(CheckKnown(request));
  return datasets_.Create(request, response);
}

absl::StatusOr<std::unique_ptr<Sink<v1::AppendDatasetRequest, v1::Dataset>>>
DatasetCore::AppendDataset(Call&) {
  return std::make_unique<AppendSink>(datasets_);
}

absl::Status DatasetCore::SealDataset(const v1::SealDatasetRequest& request, v1::Dataset* response,
                                      Call&) {
  GW_RETURN_IF_ERROR(CheckKnown(request));
  return datasets_.Seal(request, response);
}

absl::Status DatasetCore::GetDataset(const v1::GetDatasetRequest& request, v1::Dataset* response,
                                     Call&) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kDatasetPrefix));
  GW_ASSIGN_OR_RETURN(*response, datasets_.Get(id));
  return absl::OkStatus();
}

absl::Status DatasetCore::ListDatasets(const v1::ListDatasetsRequest& request,
                                       v1::ListDatasetsResponse* response, Call&) {
  return datasets_.List(request, response);
}

absl::Status DatasetCore::DeleteDataset(const v1::DeleteDatasetRequest& request,
                                        google::protobuf::Empty* response, Call&) {
  return datasets_.Delete(request, response);
}

// ---- Jobs

absl::Status TrainingCore::Resolve(v1::TrainingJob* job) {
  Problems problems;
  for (const auto& [name, tensor] : job->inputs()) {
    FindUnknown(tensor, absl::StrCat("job.inputs.", name), &problems);
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  if (!job->model().has_graph()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const KeptGraph kept, graphs_.Find(job->model().graph()));
  jobs::SetSource(kept.format, std::string(kept.bytes->bytes()), job->mutable_model());
  return absl::OkStatus();
}

absl::Status TrainingCore::CreateTrainingJob(const v1::CreateTrainingJobRequest& request,
                                             v1::TrainingJob* response, Call&) {
  GW_RETURN_IF_ERROR(CheckKnown(request));
  return jobs_.Create(
      request, [this](v1::TrainingJob* job) { return Resolve(job); }, response);
}

absl::Status TrainingCore::GetTrainingJob(const v1::GetTrainingJobRequest& request,
                                          v1::TrainingJob* response, Call&) {
  return jobs_.Get(request.name(), response);
}

absl::Status TrainingCore::ListTrainingJobs(const v1::ListTrainingJobsRequest& request,
                                            v1::ListTrainingJobsResponse* response, Call&) {
  return jobs_.List(request, response);
}

absl::Status TrainingCore::DeleteTrainingJob(const v1::DeleteTrainingJobRequest& request,
                                             google::protobuf::Empty* response, Call&) {
  return jobs_.Delete(request, response);
}

absl::Status TrainingCore::CancelTrainingJob(const v1::CancelTrainingJobRequest& request,
                                             v1::TrainingJob* response, Call&) {
  return jobs_.Cancel(request, response);
}

absl::Status TrainingCore::PauseTrainingJob(const v1::PauseTrainingJobRequest& request,
                                            v1::TrainingJob* response, Call&) {
  return jobs_.Pause(request, response);
}

absl::Status TrainingCore::ResumeTrainingJob(const v1::ResumeTrainingJobRequest& request,
                                             v1::TrainingJob* response, Call&) {
  GW_RETURN_IF_ERROR(CheckKnown(request));
  return jobs_.Resume(request, response);
}

absl::StatusOr<std::unique_ptr<Source<v1::TrainingEvent>>> TrainingCore::WatchTrainingJob(
    const v1::WatchTrainingJobRequest& request, Call&) {
  GW_ASSIGN_OR_RETURN(std::string id, IdOf(request.name(), kJobPrefix));
  GW_RETURN_IF_ERROR(jobs_.shared().store->Read(
      [&](Store::Snapshot& s) -> absl::Status { return jobs::GetJob(s, id).status(); }));
  if (request.after_event() < 0) {
    return Error(Reason::kInvalidSpec, "after_event: expected 0 or more");
  }
  return std::make_unique<EventSource>(jobs_.shared(), std::move(id), request.after_event());
}

absl::Status TrainingCore::QueryMetrics(const v1::QueryMetricsRequest& request,
                                        v1::QueryMetricsResponse* response, Call&) {
  constexpr int kDefaultPoints = 1000, kMaxPoints = 100'000;
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  if (request.max_points() < 0 || request.from_step() < 0 || request.to_step() < 0) {
    return Error(Reason::kInvalidSpec, "max_points, from_step, to_step: expected 0 or more");
  }
  const int limit =
      request.max_points() == 0 ? kDefaultPoints : std::min(request.max_points(), kMaxPoints);
  const EventType type = request.evaluations() ? EventType::kEvaluation : EventType::kMetrics;
  const int64_t last = request.to_step() == 0 ? INT64_MAX : request.to_step();
  return jobs_.shared().store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_RETURN_IF_ERROR(jobs::GetJob(s, id).status());
    int64_t total = 0;
    GW_ASSIGN_OR_RETURN(
        const auto events,
        s.ThinnedEvents(id, static_cast<int>(type), request.from_step(), last, limit, &total));
    response->set_total_points(total);
    for (const store::Event& event : events) {
      v1::TrainingEvent parsed;
      if (!parsed.ParseFromString(event.bytes)) continue;
      *response->add_points() = request.evaluations() ? std::move(*parsed.mutable_evaluation())
                                                      : std::move(*parsed.mutable_metrics());
    }
    return absl::OkStatus();
  });
}

absl::Status TrainingCore::EstimateTrainingJob(const v1::EstimateTrainingJobRequest& request,
                                               v1::TrainingEstimate* response, Call&) {
  GW_RETURN_IF_ERROR(CheckKnown(request));
  v1::TrainingJob job = request.job();
  GW_RETURN_IF_ERROR(Resolve(&job));
  return jobs_.Estimate(job, response);
}

absl::Status TrainingCore::ListCheckpoints(const v1::ListCheckpointsRequest& request,
                                           v1::ListCheckpointsResponse* response, Call&) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kJobPrefix));
  // Steps serve as serial numbers; a page token is the last step of the page before, plus one.
  GW_ASSIGN_OR_RETURN(const store::Page page,
                      store::PageOf(request.page_size(), request.page_token()));
  return jobs_.shared().store->Read([&](Store::Snapshot& s) -> absl::Status {
    GW_RETURN_IF_ERROR(jobs::GetJob(s, id).status());
    GW_ASSIGN_OR_RETURN(const auto rows, s.Checkpoints(id));
    for (const store::CheckpointRow& row : rows) {
      if (page.before > 0 && row.step + 1 >= page.before) continue;
      if (response->checkpoints_size() == page.size) {
        const auto& last = response->checkpoints(page.size - 1);
        response->set_next_page_token(absl::StrCat(last.step() + 1));
        break;
      }
      response->add_checkpoints()->ParseFromString(row.bytes);
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unique_ptr<Source<v1::FileChunk>>> TrainingCore::DownloadCheckpoint(
    const v1::DownloadCheckpointRequest& request, Call&) {
  const jobs::Shared& shared = jobs_.shared();
  GW_ASSIGN_OR_RETURN(const auto row, jobs::FindCheckpoint(*shared.store, request.name()));
  GW_ASSIGN_OR_RETURN(const auto blob, jobs::OpenCheckpoint(row, *shared.blobs));
  return std::make_unique<FileSource>(blob, blob->bytes());
}

absl::StatusOr<std::unique_ptr<Source<v1::FileChunk>>> TrainingCore::ExportModel(
    const v1::ExportModelRequest& request, Call& call) {
  const jobs::Shared& shared = jobs_.shared();
  GW_ASSIGN_OR_RETURN(const auto row, jobs::FindCheckpoint(*shared.store, request.name()));
  GW_ASSIGN_OR_RETURN(const auto blob, jobs::OpenCheckpoint(row, *shared.blobs));
  v1::TrainingJob job;
  GW_RETURN_IF_ERROR(jobs_.Get(request.name().substr(0, request.name().find('/', 5)), &job));
  GW_ASSIGN_OR_RETURN(std::string model, jobs::ExportTrained(*shared.engine, job, blob->bytes()));
  GW_RETURN_IF_ERROR(call.memory.Grow(static_cast<int64_t>(model.size()), "the model"));
  auto owner = std::make_shared<const std::string>(std::move(model));
  return std::make_unique<FileSource>(owner, *owner);
}

}  // namespace gradwire::server
