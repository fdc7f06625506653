// File: model_source.h
//
// ModelSource: the model of a call, in one of the forms that a server reads.
//
//   client.Gradient(ModelSource::Formula("x^2*y + y^3"), {{"x", 2}, {"y", 3}});
//   client.Gradient(x * x * y, {{"x", 2}, {"y", 3}});   // an Expression converts (model_builder.h)
//   client.Gradient(*LoadModel("mlp.onnx"), inputs);    // load_model.h
//
// Copies share the bytes. Thread-safe: it never changes.
#ifndef GRADWIRE_CLIENT_MODEL_SOURCE_H_
#define GRADWIRE_CLIENT_MODEL_SOURCE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace gradwire {

class ModelSource {
 public:
  enum class Form { kOnnx, kText, kFormula, kKept };

  // The bytes of a .onnx file without external data.
  static ModelSource Onnx(std::string bytes) { return {Form::kOnnx, std::move(bytes)}; }
  // ONNX's textual syntax.
  static ModelSource Text(std::string text) { return {Form::kText, std::move(text)}; }
  // A formula; model.proto has the grammar.
  static ModelSource Formula(std::string formula) { return {Form::kFormula, std::move(formula)}; }
  // A graph that the server keeps, by its name, "graphs/{sha256}": Client::KeepGraph returns it.
  static ModelSource Kept(std::string name) { return {Form::kKept, std::move(name)}; }
  // A model that could not be made: every call with it fails with `error`.
  static ModelSource Failed(absl::Status error) { return ModelSource(std::move(error)); }

  const absl::Status& status() const { return status_; }
  Form form() const { return form_; }
  const std::string& content() const { return *content_; }

 private:
  ModelSource(Form form, std::string content)
      : form_(form), content_(std::make_shared<const std::string>(std::move(content))) {}
  explicit ModelSource(absl::Status error)
      : status_(std::move(error)), content_(std::make_shared<const std::string>()) {}

  absl::Status status_;
  Form form_ = Form::kOnnx;
  std::shared_ptr<const std::string> content_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_MODEL_SOURCE_H_
