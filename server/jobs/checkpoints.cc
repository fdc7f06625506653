#include "server/jobs/checkpoints.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/base/status.h"
#include "engine/io/safetensors.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/model_source.h"

namespace gradwire::jobs {
namespace {

using nlohmann::json;

constexpr char kManifest[] = "gradwire.manifest";

absl::Status Misfit(absl::string_view what) {
  return Error(Reason::kCorruptData, absl::StrCat("the checkpoint does not fit the job: ", what));
}

// Where they lie in the file.
absl::StatusOr<std::map<std::string, TensorView>> TensorsOf(absl::string_view file,
                                                            json* manifest) {
  SafetensorsMetadata metadata;
  GW_ASSIGN_OR_RETURN(auto tensors, ViewSafetensors(file, &metadata));
  if (manifest != nullptr) {
    *manifest = json::parse(metadata[kManifest], nullptr, /*allow_exceptions=*/false);
    if (!manifest->is_object()) return Misfit("it has no manifest");
  }
  return std::map<std::string, TensorView>(tensors.begin(), tensors.end());
}

void CopyInto(const TensorView& from, Tensor* to) {
  if (from.bytes() > 0)
    std::memcpy(to->mutable_raw(), from.raw(), static_cast<size_t>(from.bytes()));
}

absl::Status NoLongerBest(store::Store::Transaction& t, const std::string& id,
                          const store::CheckpointRow& row) {
  v1::Checkpoint checkpoint;
  if (!checkpoint.ParseFromString(row.bytes)) {
    return Error(Reason::kCorruptData, absl::StrCat("checkpoint ", row.step, " does not parse"));
  }
  if (!checkpoint.best()) return absl::OkStatus();
  checkpoint.set_best(false);
  return t.PutCheckpoint(id, {row.step, checkpoint.SerializeAsString(), row.blob});
}

}  // namespace

json ExactJson(double value) {
  return absl::StrCat(absl::Hex(std::bit_cast<uint64_t>(value), absl::kZeroPad16));
}

double FromExactJson(const json& value) {
  uint64_t bits = 0;
  if (value.is_string() && absl::SimpleHexAtoi(value.get<std::string>(), &bits)) {
    return std::bit_cast<double>(bits);
  }
  return value.is_number() ? value.get<double>() : 0;
}

json Position::ToJson() const {
  return {{"step", step},
          {"epoch", place.epoch},
          {"batch", place.index},
          {"lr_factor", ExactJson(lr_factor)},
          {"run_seconds", ExactJson(run_seconds)},
          {"last_loss", ExactJson(last_loss)},
          {"loss_change", ExactJson(loss_change)},
          {"gradient_norm", ExactJson(gradient_norm)},
          {"best_value", ExactJson(best_value)},
          {"best_step", best_step},
          {"evaluations_without_gain", evaluations_without_gain}};
}

absl::Status Position::FromJson(const json& j) {
  try {
    step = j.at("step").get<int64_t>();
    place = {j.at("epoch").get<int64_t>(), j.at("batch").get<int64_t>()};
    lr_factor = FromExactJson(j.at("lr_factor"));
    run_seconds = FromExactJson(j.at("run_seconds"));
    last_loss = FromExactJson(j.at("last_loss"));
    loss_change = FromExactJson(j.at("loss_change"));
    gradient_norm = FromExactJson(j.at("gradient_norm"));
    best_value = FromExactJson(j.at("best_value"));
    best_step = j.at("best_step").get<int64_t>();
    evaluations_without_gain = j.at("evaluations_without_gain").get<int64_t>();
  } catch (const json::exception& error) {
    return Misfit(error.what());
  }
  return absl::OkStatus();
}

std::string ParameterDigest(Stepper& stepper) {
  DigestBuilder d;
  for (const StateTensor& s : stepper.state()) {
    if (!s.parameter) continue;
    d.Add(s.name).Add(DigestOf(
        {static_cast<const char*>(s.tensor->raw()), static_cast<size_t>(s.tensor->bytes())}));
  }
  return d.Finish().Hex();
}

Snapshot TakeSnapshot(const v1::TrainingJob& job, Stepper& stepper, const Position& position,
                      std::string parameter_digest) {
  Snapshot out;
  out.position = position;
  for (const StateTensor& s : stepper.state()) {
    out.tensors.emplace_back(s.name, Tensor::CopyOf(*s.tensor));
  }
  out.parameter_digest = std::move(parameter_digest);
  out.plan_digest = stepper.plan_digest().Hex();
  out.manifest = {{"position", position.ToJson()},
                  {"memory", stepper.SaveMemory()},
                  {"seed", job.seed()},
                  {"dataset", job.dataset()},
                  {"optimizer", job.optimizer().ShortDebugString()},
                  {"schedule", job.schedule().ShortDebugString()},
                  {"parameter_digest", out.parameter_digest},
                  {"plan_digest", out.plan_digest}};
  return out;
}

absl::Status Restore(absl::string_view file, Stepper& stepper, Position* position,
                     std::string* plan_digest) {
  json manifest;
  GW_ASSIGN_OR_RETURN(const auto tensors, TensorsOf(file, &manifest));
  Position restored;
  std::string plan;
  const json before = stepper.SaveMemory();
  absl::Status status;
  try {
    GW_RETURN_IF_ERROR(restored.FromJson(manifest.value("position", json())));
    plan = manifest.value("plan_digest", "");
    status = stepper.LoadMemory(manifest.value("memory", json()));
  } catch (const json::exception& error) {
    status = Misfit(error.what());
  }
  for (const StateTensor& s : stepper.state()) {
    const auto found = tensors.find(s.name);
    if (status.ok() && (found == tensors.end() || found->second.type() != s.tensor->type())) {
      status = Misfit(absl::StrCat("tensor ", s.name, " is missing or of another type"));
    }
  }
  if (!status.ok()) {
    GW_RETURN_IF_ERROR(stepper.LoadMemory(before));
    return status;
  }
  for (const StateTensor& s : stepper.state()) CopyInto(tensors.at(s.name), s.tensor);
  *position = restored;
  *plan_digest = plan;
  return absl::OkStatus();
}

absl::StatusOr<store::CheckpointRow> FindCheckpoint(store::Store& store, const std::string& name) {
  const size_t slash = name.find('/', sizeof(kJobPrefix) - 1);
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(name.substr(0, slash), kJobPrefix));
  absl::string_view rest = slash == std::string::npos ? "" : absl::string_view(name).substr(slash);
  int64_t step = -1;
  if (!rest.empty() &&
      (!absl::ConsumePrefix(&rest, "/checkpoints/") || !absl::SimpleAtoi(rest, &step))) {
    return Error(Reason::kInvalidSpec, absl::StrCat("name: got \"", name.substr(0, 80),
                                                    "\", expected jobs/ID/checkpoints/STEP"));
  }
  std::vector<store::CheckpointRow> rows;
  GW_RETURN_IF_ERROR(store.Read([&](store::Store::Snapshot& s) -> absl::Status {
    GW_RETURN_IF_ERROR(GetJob(s, id).status());
    GW_ASSIGN_OR_RETURN(rows, s.Checkpoints(id));
    return absl::OkStatus();
  }));
  for (store::CheckpointRow& row : rows) {
    if (step < 0 || row.step == step) return std::move(row);
  }
  return NotFound(step < 0 ? absl::StrCat("checkpoint of ", name) : name);
}

absl::Status StartFrom(absl::string_view file, Stepper& stepper) {
  GW_ASSIGN_OR_RETURN(const auto tensors, TensorsOf(file, nullptr));
  Problems problems;
  for (const StateTensor& s : stepper.state()) {
    if (!s.parameter) continue;
    const auto found = tensors.find(s.name);
    if (found == tensors.end()) {
      problems.Add(Reason::kInvalidSpec, "start",
                   absl::StrCat("the checkpoint has no parameter ", s.name));
    } else if (found->second.type() != s.tensor->type()) {
      problems.Add(Reason::kInvalidSpec, "start",
                   absl::StrCat("parameter ", s.name, " is ", found->second.type().ToString(),
                                " in the checkpoint, expected ", s.tensor->type().ToString()));
    }
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  for (const StateTensor& s : stepper.state()) {
    if (absl::StartsWith(s.name, "gradwire.")) continue;  // the optimiser's
    const auto found = tensors.find(s.name);
    // A checkpoint of training in mode EVAL has no running statistics.
    if (found != tensors.end() && found->second.type() == s.tensor->type()) {
      CopyInto(found->second, s.tensor);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExportTrained(Engine& engine, const v1::TrainingJob& job,
                                          absl::string_view checkpoint) {
  GW_ASSIGN_OR_RETURN(const auto trained, TensorsOf(checkpoint, nullptr));
  NamedViews inputs, values;
  std::vector<Tensor> owned;
  for (const auto& [name, proto] : job.inputs()) {
    GW_ASSIGN_OR_RETURN(const TensorView view,
                        codec::ViewOf(proto, absl::StrCat("inputs.", name), &owned));
    owned.push_back(Tensor::CopyOf(view));
    inputs.emplace(name, owned.back());
  }
  for (const auto& [name, tensor] : trained) values.emplace(name, tensor);
  GW_ASSIGN_OR_RETURN(const ModelSource source,
                      SourceOf(job.model(), "onnx, text, expression and graph"));
  return engine.ExportWith(source.format, *source.bytes, inputs, values);
}

CheckpointWriter::~CheckpointWriter() { Wait().IgnoreError(); }

absl::Status CheckpointWriter::Start(Snapshot snapshot, KeepRule keep) {
  GW_RETURN_IF_ERROR(Wait());
  thread_ = std::thread(
      [this, snapshot = std::move(snapshot), keep] { result_ = Write(snapshot, keep); });
  return absl::OkStatus();
}

absl::Status CheckpointWriter::Wait() {
  if (!thread_.joinable()) return absl::OkStatus();
  thread_.join();
  return result_;
}

absl::Status CheckpointWriter::Write(const Snapshot& snapshot, KeepRule keep) {
  std::vector<std::pair<std::string, TensorView>> views(snapshot.tensors.begin(),
                                                        snapshot.tensors.end());
  const std::string header = SafetensorsHeader(views, {{kManifest, snapshot.manifest.dump()}});
  std::vector<absl::string_view> file = {header};
  auto file_bytes = static_cast<int64_t>(header.size());
  for (const auto& [name, view] : views) {
    file.emplace_back(static_cast<const char*>(view.raw()), static_cast<size_t>(view.bytes()));
    file_bytes += view.bytes();
  }
  std::vector<std::string> dropped;
  {
    const store::BlobStore::Hold hold(shared_.blobs);
    GW_ASSIGN_OR_RETURN(const std::string blob, shared_.blobs->Put(file));
    const int64_t step = snapshot.position.step;
    v1::Checkpoint checkpoint;
    checkpoint.set_name(absl::StrCat(kJobPrefix, id_, "/checkpoints/", step));
    checkpoint.set_step(step);
    checkpoint.set_epoch(snapshot.position.place.epoch);
    *checkpoint.mutable_create_time() = codec::ToProto(absl::Now());
    checkpoint.set_bytes(file_bytes);
    checkpoint.set_sha256(blob);
    checkpoint.set_parameter_digest(snapshot.parameter_digest);
    checkpoint.set_plan_digest(snapshot.plan_digest);
    checkpoint.set_best(step == keep.best_step);
    GW_RETURN_IF_ERROR(shared_.store->Write([&](store::Store::Transaction& t) -> absl::Status {
      GW_RETURN_IF_ERROR(DropOthers(t, step, keep, &dropped));
      GW_RETURN_IF_ERROR(t.PutCheckpoint(id_, {step, checkpoint.SerializeAsString(), blob}));
      GW_ASSIGN_OR_RETURN(JobRecord record, GetJob(t, id_));
      v1::TrainingEvent event;
      *event.mutable_time() = checkpoint.create_time();
      event.set_step(step);
      *event.mutable_checkpoint() = std::move(checkpoint);
      std::vector<v1::TrainingEvent> events = {std::move(event)};
      GW_RETURN_IF_ERROR(AppendEvents(t, id_, events, &record.job));
      return PutJob(t, record);
    }));
  }
  shared_.watchers->Notify(id_);
  // A file that cannot be deleted now is deleted at the next start.
  for (const std::string& blob : dropped) {
    store::DeleteUnused(*shared_.store, *shared_.blobs, blob).IgnoreError();
  }
  return absl::OkStatus();
}

absl::Status CheckpointWriter::DropOthers(store::Store::Transaction& t, int64_t step, KeepRule keep,
                                          std::vector<std::string>* dropped) {
  GW_ASSIGN_OR_RETURN(const auto rows, t.Checkpoints(id_));
  int older = 0;
  for (const store::CheckpointRow& row : rows) {
    const bool among_newest =
        row.step < step && (keep.newest < 0 || ++older < std::max(keep.newest, 1));
    const bool best = row.step < step && row.step == keep.best_step;
    if (among_newest && !best) GW_RETURN_IF_ERROR(NoLongerBest(t, id_, row));
    if (among_newest || best) continue;
    GW_RETURN_IF_ERROR(t.DeleteCheckpoint(id_, row.step));
    dropped->push_back(row.blob);
  }
  return absl::OkStatus();
}

}  // namespace gradwire::jobs
