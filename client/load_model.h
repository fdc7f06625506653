// File: load_model.h
//
// LoadModel: a model file, ready to be sent.
//
//   absl::StatusOr<ModelSource> model = LoadModel("mlp.onnx");
//
// A .onnx file may keep weights in files beside it (PyTorch 2.9 and later export that way), which
// servers refuse. They are put into the model here. Such a file must lie in the model's own folder
// or below it: absolute locations, "..", and links that lead elsewhere are refused, so that a model
// from a stranger cannot have other files of this machine sent away.
//
// Thread-safety: pure apart from the file system.
#ifndef GRADWIRE_CLIENT_LOAD_MODEL_H_
#define GRADWIRE_CLIENT_LOAD_MODEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/model_source.h"

namespace gradwire {

// Reads .onnx (bytes) or .onnxtxt (text) by the end of its name. A .onnx file without external data
// is passed on as it is. Errors: what ReadFile gives; INVALID_MODEL for bytes that are no model,
// or external data that is refused, missing or of another size than its tensor; MEMORY_LIMIT above
// 2 GiB in all.
absl::StatusOr<ModelSource> LoadModel(const std::string& path);

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_LOAD_MODEL_H_
