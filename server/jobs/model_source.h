// What a v1::Model sends, in the engine's terms, and back. Pure functions.
#ifndef GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_
#define GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/engine.h"
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

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_MODEL_SOURCE_H_
