// File: checkpoints.h
//
// Checkpoints: the whole state of a run at the end of a step, as a safetensors file whose metadata
// has a manifest: everything that is not a tensor.
//
//   CheckpointWriter writer(shared, id);
//   writer.Start(TakeSnapshot(stepper, position), keep);   // the run goes on
//   GW_RETURN_IF_ERROR(writer.Wait());                     // on disk, and told as an event
//
// A checkpoint is in the store only when its file is whole on disk, so a kill at any moment leaves
// the one before or the new one. Thread-safety: an object belongs to one thread.
#ifndef GRADWIRE_SERVER_JOBS_CHECKPOINTS_H_
#define GRADWIRE_SERVER_JOBS_CHECKPOINTS_H_

#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/jobs/batches.h"
#include "server/jobs/job_run.h"
#include "server/jobs/stepper.h"

namespace gradwire::jobs {

// Where a run is, beside its tensors.
struct Position {
  int64_t step = 0;
  BatchPlace place;      // of the next batch
  double lr_factor = 1;  // of HALVE_LR
  double run_seconds = 0;
  // Of the last step: what the rules for stopping look at.
  double last_loss = 0;
  double loss_change = std::numeric_limits<double>::infinity();
  double gradient_norm = std::numeric_limits<double>::infinity();
  double best_value = 0;
  int64_t best_step = -1;
  int64_t evaluations_without_gain = 0;

  nlohmann::json ToJson() const;
  absl::Status FromJson(const nlohmann::json& json);
};

// Doubles through JSON, bit for bit, infinities and NaN too.
nlohmann::json ExactJson(double value);
double FromExactJson(const nlohmann::json& json);

struct Snapshot {
  Position position;
  std::vector<std::pair<std::string, Tensor>> tensors;  // copies
  nlohmann::json manifest;
  std::string parameter_digest;
  std::string plan_digest;
};

// XXH3-128 of all parameters, in order, in hex.
std::string ParameterDigest(Stepper& stepper);
// `parameter_digest` is ParameterDigest(stepper).
Snapshot TakeSnapshot(const v1::TrainingJob& job, Stepper& stepper, const Position& position,
                      std::string parameter_digest);
// Fills the stepper's tensors and memory, and the position. DATA_LOSS where they do not fit.
absl::Status Restore(absl::string_view file, Stepper& stepper, Position* position,
                     std::string* plan_digest);
// The row that "jobs/{id}/checkpoints/{step}" names, or the last one of "jobs/{id}".
absl::StatusOr<store::CheckpointRow> FindCheckpoint(store::Store& store, const std::string& name);

// Fills the parameters only, by name; INVALID_SPEC where one is missing or of another type.
absl::Status StartFrom(absl::string_view file, Stepper& stepper);

// The job's model as ONNX, with a checkpoint file's values for its parameters; what a formula takes
// as inputs and was trained becomes initialisers.
absl::StatusOr<std::string> ExportTrained(Engine& engine, const v1::TrainingJob& job,
                                          absl::string_view checkpoint);

// Checkpoints after the one that is written go: they are those of a run that could not be taken up
// from them.
struct KeepRule {
  int newest = 2;          // negative: all
  int64_t best_step = -1;  // kept as well
};

class CheckpointWriter {
 public:
  CheckpointWriter(const Shared& shared, std::string id) : shared_(shared), id_(std::move(id)) {}
  ~CheckpointWriter();
  // Waits for the one before.
  absl::Status Start(Snapshot snapshot, KeepRule keep);
  absl::Status Wait();

 private:
  absl::Status Write(const Snapshot& snapshot, KeepRule keep);
  absl::Status DropOthers(store::Store::Transaction& t, int64_t step, KeepRule keep,
                          std::vector<std::string>* dropped);

  const Shared& shared_;
  const std::string id_;
  std::thread thread_;
  absl::Status result_;
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_CHECKPOINTS_H_
