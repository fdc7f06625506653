// What a v1::Model sends, in the engine's terms, and back. Pure functions.
#ifndef GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_
#define GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
#include "gradwire/v1/loss.pb.h"
#include "gradwire/v1/model.pb.h"

namespace gradwire::jobs {

// `bytes` lie in the message.
struct ModelSource {
  ModelFormat format = ModelFormat::kOnnx;
  const std::string* bytes = nullptr;
};
// INVALID_MODEL where the model has none, or only a name; `choices` says what the caller takes.
absl::StatusOr<ModelSource> SourceOf(const v1::Model& model, absl::string_view choices);
void SetSource(ModelFormat format, std::string bytes, v1::Model* model);

// `model` with the loss on top, a loss by name being of its value `output`. Errors: INVALID_SPEC
// for what the message says wrongly, and those of Engine::AttachLoss.
absl::StatusOr<std::shared_ptr<const LoadedModel>> AttachLoss(Engine& engine,
                                                              const LoadedModel& model,
                                                              const v1::Loss& loss,
                                                              const std::string& output,
                                                              const NamedViews& inputs);

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_
