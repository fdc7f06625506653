#include "server/jobs/model_source.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "proto/codec/tensor_codec.h"

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

absl::StatusOr<std::shared_ptr<const LoadedModel>> AttachLoss(Engine& engine,
                                                              const LoadedModel& model,
                                                              const v1::Loss& loss,
                                                              const std::string& output,
                                                              const NamedViews& inputs) {
  Engine::LossSource source;
  if (loss.kind_case() == v1::Loss::kGraph) {
    const bool extras = loss.reduction() != v1::Loss::MEAN || !loss.parameters().empty() ||
                        loss.has_weight() || !output.empty();
    if (extras) {
      return Error(Reason::kInvalidSpec,
                   "loss: reduction, parameters, weight and output are for losses by name");
    }
    const auto graph = SourceOf(loss.graph(), "onnx, text and expression");
    Problems problems;
    problems.Add(graph.status(), "loss.graph");
    GW_RETURN_IF_ERROR(problems.ToStatus());
    source.format = graph->format;
    source.bytes = *graph->bytes;
    return engine.AttachLoss(model, source, inputs);
  }
  if (loss.named().empty()) {
    return Error(Reason::kInvalidSpec, "loss: is empty, expected `named` or `graph`");
  }
  source.prediction = output;
  source.named.name = loss.named();
  source.named.settings.insert(loss.parameters().begin(), loss.parameters().end());
  source.named.reduction = loss.reduction() == v1::Loss::SUM ? LossSpec::kSum : LossSpec::kMean;
  if (loss.has_weight()) {
    std::vector<Tensor> owned;
    GW_ASSIGN_OR_RETURN(const TensorView weight,
                        codec::ViewOf(loss.weight(), "loss.weight", &owned));
    source.named.weight = Tensor::CopyOf(weight);
  }
  return engine.AttachLoss(model, source, inputs);
}

}  // namespace gradwire::jobs
