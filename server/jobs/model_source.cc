#include "server/jobs/model_source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire::jobs {

absl::StatusOr<ModelSource> SourceOf(const v1::Model& model, absl::string_view choices) {
  switch (model.source_case()) {
    case v1::Model::kOnnx:
      return ModelSource{ModelFormat::kOnnx, &model.onnx()};
    case v1::Model::kText:
      return ModelSource{ModelFormat::kText, &model.text()};
    case v1::Model::kExpression:
      return ModelSource{ModelFormat::kFormula, &model.expression()};
    case v1::Model::kGraph:
    case v1::Model::SOURCE_NOT_SET:
      break;
  }
  return Error(Reason::kInvalidModel, absl::StrCat("model: expected one of ", choices));
}

void SetSource(ModelFormat format, std::string bytes, v1::Model* model) {
  switch (format) {
    case ModelFormat::kOnnx:
      return model->set_onnx(std::move(bytes));
    case ModelFormat::kText:
      return model->set_text(std::move(bytes));
    case ModelFormat::kFormula:
      return model->set_expression(std::move(bytes));
  }
}

}  // namespace gradwire::jobs
