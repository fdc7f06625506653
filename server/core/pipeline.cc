#include "server/core/pipeline.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/base/checked.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/model_source.h"

namespace gradwire::server {
namespace {

// Programs below both may run on the thread that received the call.
constexpr double kQuickSeconds = 50e-6;
constexpr int64_t kQuickArenaBytes = 1 << 20;

alignas(64) constexpr char kZeros[4096] = {};

// Names, shapes and tags of a reply tensor take less than this beside its elements and its name.
constexpr int64_t kTensorOverheadBytes = 256;

constexpr char kUnknownField[] = "has a field that this server does not know";

// `status` without the "where: " that its message begins with.
absl::Status WithoutPlace(const absl::Status& status, absl::string_view where) {
  absl::string_view message = status.message();
  if (!absl::ConsumePrefix(&message, where)) return status;
  absl::ConsumePrefix(&message, ": ");
  absl::Status out(status.code(), message);
  status.ForEachPayload(
      [&out](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

// What autodiff puts before a name; a product's starts with a tangent's, so it is tried first.
struct Prefixes {
  std::string cotangent = CotangentName("");
  std::string tangent = TangentName("");
  std::string gradient = GradientName("");
  std::string product = ProductName("");
};
const Prefixes& NamePrefixes() {
  static const Prefixes& prefixes = *new Prefixes();
  return prefixes;
}

// The role of a Program's output and the name that the caller knows it by.
std::pair<Role, std::string> RoleOf(absl::string_view name) {
  const Prefixes& p = NamePrefixes();
  if (absl::ConsumePrefix(&name, p.product)) return {Role::kProduct, std::string(name)};
  if (absl::ConsumePrefix(&name, p.gradient)) return {Role::kGradient, std::string(name)};
  if (absl::ConsumePrefix(&name, p.tangent)) return {Role::kTangent, std::string(name)};
  return {Role::kOutput, std::string(name)};
}

template <typename From, typename To>
void ConvertElements(const TensorView& from, Tensor* to) {
  std::copy_n(from.data<From>(), from.num_elements(), to->mutable_data<To>());
}

}  // namespace

bool HasUnknownFields(const google::protobuf::Message& message) {
  return !message.GetReflection()->GetUnknownFields(message).empty();
}

Pipeline::Pipeline(Engine& engine, GraphStore* graphs, int64_t max_message_bytes, Call& call,
                   const Parts& parts)
    : engine_(engine),
      graphs_(graphs),
      max_message_bytes_(max_message_bytes),
      call_(call),
      parts_(parts),
      seed_{static_cast<int64_t>(parts.options->seed()), 0} {
  call_.queue_time = absl::Now() - call_.arrival;
  Decode(*parts_.inputs, "inputs", &inputs_);
}

void Pipeline::Decode(const TensorProtos& tensors, const std::string& field, NamedViews* views) {
  views->reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const std::string where = absl::StrCat(field, ".", name);
    if (HasUnknownFields(tensor)) problems_.Add(Reason::kInvalidSpec, where, kUnknownField);
    absl::StatusOr<TensorView> view = codec::ViewOf(tensor, where, &owned_);
    if (view.ok()) {
      views->emplace(name, *std::move(view));
    } else {
      problems_.Add(WithoutPlace(view.status(), where), where);
    }
  }
}

void Pipeline::AddVectors(absl::string_view field,
                          const google::protobuf::RepeatedPtrField<v1::TensorMap>& vectors) {
  vectors_.field = std::string(field);
  vectors_.views.resize(static_cast<size_t>(vectors.size()));
  if (vectors.empty()) {
    problems_.Add(Reason::kInvalidSpec, vectors_.field, "got none, expected at least one");
  }
  for (int k = 0; k < vectors.size(); ++k) {
    const std::string where = absl::StrCat(field, "[", k, "]");
    if (HasUnknownFields(vectors[k])) problems_.Add(Reason::kInvalidSpec, where, kUnknownField);
    Decode(vectors[k].tensors(), where, &vectors_.views[static_cast<size_t>(k)]);
  }
}

void Pipeline::AddSharedCotangents(const v1::TensorMap& cotangents) {
  hides_values_ = true;
  if (HasUnknownFields(cotangents)) {
    problems_.Add(Reason::kInvalidSpec, "cotangents", kUnknownField);
  }
  Decode(cotangents.tensors(), "cotangents", &shared_cotangents_);
}

std::string Pipeline::NameOfDirection(size_t input) const {
  absl::string_view name = prepared_.program->signature().inputs[input].name;
  if (!absl::ConsumePrefix(&name, NamePrefixes().cotangent)) {
    absl::ConsumePrefix(&name, NamePrefixes().tangent);
  }
  return std::string(name);
}

absl::string_view Pipeline::VectorPrefix() const {
  return vectors_.field == "cotangents" ? NamePrefixes().cotangent : NamePrefixes().tangent;
}

absl::Status Pipeline::CheckOptions() const {
  Problems problems;
  if (parts_.unknown_fields) problems.Add(Reason::kInvalidSpec, "request", kUnknownField);
  if (HasUnknownFields(*parts_.model)) problems.Add(Reason::kInvalidSpec, "model", kUnknownField);
  if (HasUnknownFields(*parts_.options)) {
    problems.Add(Reason::kInvalidSpec, "options", kUnknownField);
  }
  if (!v1::ComputeOptions::Mode::Value_IsValid(parts_.options->mode())) {
    problems.Add(Reason::kInvalidSpec, "options.mode",
                 absl::StrCat("got ", static_cast<int>(parts_.options->mode()),
                              ", expected AS_GRAPH, TRAIN or EVAL"));
  }
  if (!v1::ComputeOptions::Precision::Value_IsValid(parts_.options->precision())) {
    problems.Add(Reason::kInvalidSpec, "options.precision",
                 absl::StrCat("got ", static_cast<int>(parts_.options->precision()),
                              ", expected AS_GRAPH, FLOAT or DOUBLE"));
  }
  return problems.ToStatus();
}

absl::Status Pipeline::CheckRequest() {
  if (std::exchange(checked_, true)) return absl::OkStatus();
  GW_RETURN_IF_ERROR(CheckOptions());
  GW_RETURN_IF_ERROR(problems_.ToStatus());
  int64_t copied = 0;
  for (const Tensor& t : owned_) copied = SaturatingAdd(copied, t.bytes());
  return call_.memory.Grow(copied, "the tensors of the request");
}

absl::StatusOr<ModelBytes> Pipeline::FindModel() {
  if (found_.bytes.data() != nullptr) return found_;
  if (parts_.model->has_graph()) {
    if (graphs_ == nullptr) return Error(Reason::kNotFound, "model.graph: no graphs are kept");
    GW_ASSIGN_OR_RETURN(KeptGraph kept, graphs_->Find(parts_.model->graph()));
    const absl::string_view bytes = kept.bytes->bytes();
    GW_RETURN_IF_ERROR(call_.memory.Grow(static_cast<int64_t>(bytes.size()), "the graph"));
    return found_ = {kept.format, bytes, std::move(kept.bytes)};
  }
  GW_ASSIGN_OR_RETURN(const jobs::ModelSource source,
                      jobs::SourceOf(*parts_.model, "onnx, text, expression and graph"));
  return found_ = {source.format, *source.bytes, nullptr};
}

absl::Status Pipeline::Load() {
  GW_RETURN_IF_ERROR(CheckRequest());
  const absl::Time start = absl::Now();
  GW_ASSIGN_OR_RETURN(const ModelBytes model, FindModel());
  GW_ASSIGN_OR_RETURN(loaded_, engine_.LoadModel(model.format, model.bytes, inputs_));
  prepare_time_ = absl::Now() - start;
  return FindPoints();
}

// The inputs that have a row for each example, where `batch` does not say.
absl::StatusOr<std::vector<std::string>> Pipeline::NamesWithRows() const {
  std::vector<std::string> names;
  for (const ModelInput& input : model().inputs) {
    const std::string& name = model().value_names[static_cast<size_t>(input.value)];
    const bool is_open = input.dims && !input.dims->empty() && input.dims->front().extent < 0;
    if (is_open && inputs_.contains(name)) names.push_back(name);
  }
  if (names.empty()) {
    return Error(Reason::kInvalidSpec,
                 "per_example: the model leaves no input's first extent open; name the inputs "
                 "that have a batch axis in options.batch");
  }
  for (const auto& [name, view] : inputs_) {
    if (model().FindValue(name) < 0 && view.shape().rank() > 0) names.push_back(name);
  }
  return names;
}

absl::Status Pipeline::FindPoints() {
  std::vector<std::string> names(parts_.options->batch().begin(), parts_.options->batch().end());
  if (rows_apart_ && names.empty()) {
    GW_ASSIGN_OR_RETURN(names, NamesWithRows());
  }
  Problems problems;
  for (const std::string& name : names) {
    const auto given = inputs_.find(name);
    const std::string where = absl::StrCat("options.batch.", name);
    if (given == inputs_.end()) {
      problems.Add(Reason::kMissingInput, where, "`inputs` has no tensor of that name");
      continue;
    }
    if (HasPoints(name)) continue;
    TensorView& view = given->second;
    if (view.shape().rank() == 0) {
      problems.Add(Reason::kShapeMismatch, where, "is a scalar, expected a leading axis of points");
      continue;
    }
    const int64_t length = view.shape()[0];
    if (point_views_.empty()) points_ = length;
    if (length == 0) problems.Add(Reason::kInvalidSpec, where, "has no point");
    if (length != points_) {
      problems.Add(Reason::kShapeMismatch, where,
                   absl::StrCat("has ", length, " points, others have ", points_));
    }
    point_views_.emplace(name, view);
    std::vector<int64_t> dims(view.shape().dims().begin(), view.shape().dims().end());
    if (rows_apart_) {
      dims.front() = 1;
    } else {
      dims.erase(dims.begin());
    }
    GW_ASSIGN_OR_RETURN(Shape shape, Shape::Make(dims));
    view = TensorView({view.dtype(), std::move(shape)}, view.raw());
  }
  return problems.ToStatus();
}

// The part of `view` that belongs to a point, where it has one for each; `type` is that of the
// part.
TensorView Pipeline::PointOf(const TensorView& view, const TensorType& type, int64_t point) const {
  if (view.shape() == type.shape) return view;
  TensorType part = {view.dtype(), type.shape};
  const int64_t offset = point * part.bytes();
  return TensorView(std::move(part), static_cast<const char*>(view.raw()) + offset);
}

// With the axis of points, where there is one.
TensorType Pipeline::ResultType(const TensorType& type) const {
  if (point_views_.empty()) return type;
  Dims dims = type.shape.dims();
  dims.insert(dims.begin(), points_);
  return {type.dtype, Shape(std::move(dims))};
}

absl::Status Pipeline::Load(const v1::Loss* loss, const std::string& output) {
  GW_RETURN_IF_ERROR(Load());
  if (loss == nullptr) return absl::OkStatus();
  const absl::Time start = absl::Now();
  GW_ASSIGN_OR_RETURN(loaded_, jobs::AttachLoss(engine_, *loaded_, *loss, output, inputs_));
  prepare_time_ += absl::Now() - start;
  return absl::OkStatus();
}

std::vector<std::string> Pipeline::NamesOfVectors() const {
  std::vector<std::string> names;
  for (const NamedViews& views : vectors_.views) {
    for (const auto& [name, view] : views) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

void Pipeline::SetOptions(Computation* computation) const {
  switch (parts_.options->mode()) {
    case v1::ComputeOptions::Mode::TRAIN:
      computation->mode = Mode::kTrain;
      break;
    case v1::ComputeOptions::Mode::EVAL:
      computation->mode = Mode::kEval;
      break;
    default:
      computation->mode = Mode::kAsGraph;
  }
  switch (parts_.options->precision()) {
    case v1::ComputeOptions::Precision::FLOAT:
      computation->precision = Precision::kFloat;
      break;
    case v1::ComputeOptions::Precision::DOUBLE:
      computation->precision = Precision::kDouble;
      break;
    default:
      computation->precision = Precision::kAsGraph;
  }
}

absl::StatusOr<std::string> Pipeline::Export(Computation computation) {
  SetOptions(&computation);
  return engine_.Export(*loaded_, computation, inputs_);
}

absl::Status Pipeline::Prepare(Computation computation) {
  SetOptions(&computation);
  if (call_.cancel != nullptr) GW_RETURN_IF_ERROR(call_.cancel->Poll());
  const absl::Time start = absl::Now();
  GW_ASSIGN_OR_RETURN(prepared_, engine_.Prepare(*loaded_, computation, inputs_));
  prepare_time_ += absl::Now() - start;
  Problems problems;
  for (const std::string& name : prepared_.frozen) {
    if (!HasPoints(name)) continue;
    problems.Add(Reason::kInvalidSpec, absl::StrCat("options.batch.", name),
                 "decides a shape or a branch, so that not all points can be computed alike");
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  stage_of_points_ = StageOfPoints();
  outputs_.clear();
  ListOutputs();
  return absl::OkStatus();
}

void Pipeline::ListOutputs() {
  const auto& inputs = prepared_.program->signature().inputs;
  const bool reverse = std::any_of(inputs.begin(), inputs.end(), [](const SignatureEntry& e) {
    return e.stage == Stage::kDirection && absl::StartsWith(e.name, NamePrefixes().cotangent);
  });
  for (const SignatureEntry& entry : prepared_.program->signature().outputs) {
    auto [role, name] = RoleOf(entry.name);
    const bool per_vector =
        role == Role::kProduct || role == Role::kTangent || (role == Role::kGradient && reverse);
    outputs_.push_back({role, std::move(name), per_vector, hides_values_ && role == Role::kOutput});
  }
  hidden_.resize(outputs_.size());
}

absl::Status Pipeline::CheckVectorNames(absl::Span<const std::string> known, Reason reason) const {
  Problems problems;
  for (size_t k = 0; k < vectors_.views.size(); ++k) {
    for (const auto& [name, view] : vectors_.views[k]) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      problems.Add(reason, absl::StrCat(vectors_.field, "[", k, "].", name),
                   "there is no such name to carry a tensor");
    }
  }
  return problems.ToStatus();
}

absl::Status Pipeline::CheckSharedCotangentNames() const {
  Problems problems;
  for (const auto& [name, view] : shared_cotangents_) {
    const auto& known = prepared_.outputs;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    problems.Add(Reason::kUnknownOutput, absl::StrCat("cotangents.", name),
                 "the graph has no output of that name");
  }
  return problems.ToStatus();
}

void Pipeline::CheckVectorTypes(const std::string& where, const NamedViews& views,
                                absl::string_view prefix, Problems* problems) const {
  const bool converts = parts_.options->precision() != v1::ComputeOptions::Precision::AS_GRAPH;
  const auto& inputs = prepared_.program->signature().inputs;
  for (const auto& [name, view] : views) {
    const std::string full = absl::StrCat(prefix, name);
    const auto entry = std::find_if(inputs.begin(), inputs.end(),
                                    [&](const SignatureEntry& e) { return e.name == full; });
    const std::string at = absl::StrCat(where, ".", name);
    if (entry == inputs.end()) {
      problems->Add(Reason::kDtypeUnsupported, at, "only FLOAT and DOUBLE values have derivatives");
    } else if (entry->type.dtype != view.dtype() && !(converts && IsFloating(view.dtype()))) {
      problems->Add(Reason::kDtypeUnsupported, at,
                    absl::StrCat("is ", DTypeName(view.dtype()), ", expected ",
                                 DTypeName(entry->type.dtype)));
    } else if (entry->type.shape != view.shape() &&
               (point_views_.empty() || ResultType(entry->type).shape != view.shape())) {
      problems->Add(Reason::kShapeMismatch, at,
                    absl::StrCat("shape ", view.shape().ToString(), ", expected ",
                                 entry->type.shape.ToString()));
    }
  }
}

// Bytes of the largest cotangent or tangent that some vector leaves out.
int64_t Pipeline::LargestAbsentVector() const {
  int64_t largest = 0;
  for (const SignatureEntry& entry : prepared_.program->signature().inputs) {
    absl::string_view name = entry.name;
    const auto lacks = [&name](const NamedViews& views) { return !views.contains(name); };
    bool absent = false;
    if (entry.stage == Stage::kDirection) {
      name = absl::StripPrefix(name, VectorPrefix());
      absent = std::any_of(vectors_.views.begin(), vectors_.views.end(), lacks);
    } else if (absl::ConsumePrefix(&name, NamePrefixes().cotangent)) {
      absent = lacks(shared_cotangents_);
    }
    if (absent) largest = std::max(largest, entry.type.bytes());
  }
  return largest;
}

int64_t Pipeline::WireBytes(int64_t elements, DType dtype, const std::string& name) const {
  const int64_t values = SaturatingMul(elements, readable() ? 8 : DTypeBytes(dtype));
  return SaturatingAdd(values, kTensorOverheadBytes + static_cast<int64_t>(name.size()));
}

int64_t Pipeline::MemoryBytes(int64_t elements, DType dtype, const std::string& name) const {
  const int64_t wire = WireBytes(elements, dtype, name);
  return readable() ? SaturatingAdd(wire, SaturatingMul(elements, DTypeBytes(dtype))) : wire;
}

absl::Status Pipeline::Admit() {
  const auto& entries = prepared_.program->signature().outputs;
  int64_t reply = 0;    // on the wire
  int64_t buffers = 0;  // while it is computed
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const auto& [dtype, shape] = entries[i].type;
    const std::string& name = outputs_[i].name;
    const int64_t n = shape.num_elements();
    const int64_t times = SaturatingMul(points_, outputs_[i].per_vector ? num_vectors() : 1);
    buffers = SaturatingAdd(buffers, SaturatingMul(MemoryBytes(n, dtype, name), times));
    if (outputs_[i].hidden) continue;
    reply = SaturatingAdd(reply, SaturatingMul(WireBytes(n, dtype, name), times));
  }
  return AdmitBytes(reply, buffers, LargestAbsentVector());
}

absl::Status Pipeline::CheckReplyBytes(int64_t reply) const {
  if (reply <= max_message_bytes_) return absl::OkStatus();
  return Error(Reason::kResultTooLarge,
               absl::StrCat("the reply would have ", reply, " bytes, the limit is ",
                            max_message_bytes_, "; ask for fewer or smaller results"));
}

// `zeros` is the size of the buffer that stands for tensors left out.
absl::Status Pipeline::AdmitBytes(int64_t reply, int64_t buffers, int64_t zeros) {
  const int64_t arena = prepared_.program->cost().arena_bytes;
  const bool own_zeros = zeros > static_cast<int64_t>(sizeof(kZeros));
  if (own_zeros) buffers = SaturatingAdd(buffers, zeros);

  // What can never fit is told first: it is no use trying again with a smaller reply.
  GW_RETURN_IF_ERROR(call_.memory.CheckPossible(SaturatingAdd(buffers, arena), "the call"));
  GW_RETURN_IF_ERROR(CheckReplyBytes(reply));
  GW_RETURN_IF_ERROR(call_.memory.Grow(buffers, "the reply"));
  GW_RETURN_IF_ERROR(call_.workspace->Admit(arena));
  if (own_zeros) {
    GW_ASSIGN_OR_RETURN(zeros_, Tensor::Make({DType::kUint8, Shape({zeros})}));
  }
  return absl::OkStatus();
}

const TensorView* Pipeline::FindInitializer(absl::string_view name) {
  // The signature lists initialisers in the model's order: the next one is nearly always right.
  const auto& all = model().initializers;
  for (size_t tried = 0; tried < all.size(); ++tried) {
    const ModelInitializer& init = all[(next_initializer_ + tried) % all.size()];
    if (model().value_names[static_cast<size_t>(init.value)] != name) continue;
    next_initializer_ = (next_initializer_ + tried + 1) % all.size();
    initializer_ = init.data;
    return &initializer_;
  }
  return nullptr;
}

absl::StatusOr<const void*> Pipeline::BindInput(const SignatureEntry& entry, int64_t point) {
  if (entry.name == kSeedInput) return static_cast<const void*>(seed_);
  absl::string_view name = entry.name;
  const bool is_cotangent = absl::ConsumePrefix(&name, NamePrefixes().cotangent);
  const NamedViews& views = is_cotangent      ? shared_cotangents_
                            : HasPoints(name) ? point_views_
                                              : inputs_;
  const auto given = views.find(name);
  if (given != views.end()) {
    const TensorView view = PointOf(given->second, entry.type, point);
    return BindView(entry, &view);
  }
  if (is_cotangent) return BindView(entry, nullptr);
  const TensorView* view = FindInitializer(name);
  if (view == nullptr) {
    return absl::InternalError(absl::StrCat("no value for the program's input ", entry.name));
  }
  return BindView(entry, view);
}

absl::StatusOr<const void*> Pipeline::BindView(const SignatureEntry& entry,
                                               const TensorView* view) {
  if (view == nullptr) return zeros_.empty() ? static_cast<const void*>(kZeros) : zeros_.raw();
  if (view->dtype() == entry.type.dtype) return view->raw();
  GW_RETURN_IF_ERROR(call_.memory.Grow(entry.type.bytes(), "an input's conversion"));
  GW_ASSIGN_OR_RETURN(Tensor converted, Tensor::Make(entry.type));
  if (view->dtype() == DType::kFloat && entry.type.dtype == DType::kDouble) {
    ConvertElements<float, double>(*view, &converted);
  } else if (view->dtype() == DType::kDouble && entry.type.dtype == DType::kFloat) {
    ConvertElements<double, float>(*view, &converted);
  } else {
    return absl::InternalError(absl::StrCat("input ", entry.name, " has another type"));
  }
  owned_.push_back(std::move(converted));
  return owned_.back().raw();
}

// For points after the first, what differs from point to point.
absl::Status Pipeline::BindInputs(int64_t point, Bindings* bindings) {
  const auto& inputs = prepared_.program->signature().inputs;
  bindings->inputs.resize(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].stage == Stage::kDirection) continue;
    if (point > 0 && !HasPoints(inputs[i].name) &&
        !absl::StartsWith(inputs[i].name, NamePrefixes().cotangent)) {
      continue;
    }
    GW_ASSIGN_OR_RETURN(bindings->inputs[i], BindInput(inputs[i], point));
  }
  return absl::OkStatus();
}

// The earliest stage that has to run for another point.
Stage Pipeline::StageOfPoints() const {
  Stage first = shared_cotangents_.empty() ? Stage::kDirection : Stage::kPoint;
  for (const SignatureEntry& entry : prepared_.program->signature().inputs) {
    if (HasPoints(entry.name)) first = std::min(first, entry.stage);
  }
  return first;
}

absl::Status Pipeline::BindVector(Turn turn, Bindings* bindings) {
  if (vectors_.views.empty()) return absl::OkStatus();
  const NamedViews& views = vectors_.views[static_cast<size_t>(turn.vector)];
  const auto& inputs = prepared_.program->signature().inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].stage != Stage::kDirection) continue;
    const auto given = views.find(absl::StripPrefix(inputs[i].name, VectorPrefix()));
    if (given == views.end()) {
      GW_ASSIGN_OR_RETURN(bindings->inputs[i], BindView(inputs[i], nullptr));
      continue;
    }
    const TensorView view = PointOf(given->second, inputs[i].type, turn.point);
    GW_ASSIGN_OR_RETURN(bindings->inputs[i], BindView(inputs[i], &view));
  }
  return absl::OkStatus();
}

void Pipeline::StartResults(Route route) {
  const auto& entries = prepared_.program->signature().outputs;
  results_.assign(entries.size() * static_cast<size_t>(num_vectors()), nullptr);
  size_t next = 0;
  for (int k = 0; k < num_vectors(); ++k) {
    for (size_t i = 0; i < entries.size(); ++i, ++next) {
      if (k == 0 && outputs_[i].hidden) hidden_[i] = Tensor(entries[i].type);
      if (outputs_[i].hidden || (k > 0 && !outputs_[i].per_vector)) continue;
      results_[next] = route(outputs_[i].role, outputs_[i].name, k);
      codec::StartTensor(ResultType(entries[i].type), results_[next]);
    }
  }
}

void Pipeline::BindOutputs(Turn turn, Bindings* bindings) {
  const auto& entries = prepared_.program->signature().outputs;
  bindings->outputs.resize(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    if (turn.vector > 0 && entries[i].stage != Stage::kDirection) continue;
    v1::Tensor* to = results_[static_cast<size_t>(turn.vector) * entries.size() + i];
    if (to != nullptr) {
      bindings->outputs[i] = to->mutable_data()->data() + turn.point * entries[i].type.bytes();
    } else if (outputs_[i].hidden) {
      bindings->outputs[i] = hidden_[i].mutable_raw();
    }
  }
}

// A result that depends neither on the vector (a gradient that is constant zero) nor on the point
// was computed once.
void Pipeline::CopySharedResults(Turn turn) {
  if (turn.vector == 0 && turn.point == 0) return;
  const auto& entries = prepared_.program->signature().outputs;
  const Stage first = turn.vector > 0 ? Stage::kDirection : FirstStageOf(turn.point);
  for (size_t i = 0; i < entries.size(); ++i) {
    v1::Tensor* to = results_[static_cast<size_t>(turn.vector) * entries.size() + i];
    const int64_t bytes = entries[i].type.bytes();
    if (to == nullptr || bytes == 0 || entries[i].stage >= first) continue;
    const int64_t from = turn.vector > 0 ? turn.point : 0;
    std::memcpy(to->mutable_data()->data() + turn.point * bytes,
                results_[i]->data().data() + from * bytes, static_cast<size_t>(bytes));
  }
}

void Pipeline::MakeReplyReadable() {
  for (v1::Tensor* result : results_) {
    if (result != nullptr) codec::MakeReadable(result);
  }
}

absl::Status Pipeline::Run(Route route, v1::ComputeInfo* info) {
  Problems problems;
  for (size_t k = 0; k < vectors_.views.size(); ++k) {
    CheckVectorTypes(absl::StrCat(vectors_.field, "[", k, "]"), vectors_.views[k], VectorPrefix(),
                     &problems);
  }
  CheckVectorTypes("cotangents", shared_cotangents_, NamePrefixes().cotangent, &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  GW_RETURN_IF_ERROR(Admit());

  return RunPoints(
      route, info, [this](int64_t point, Bindings* bindings, RunContext& context) -> absl::Status {
        for (Turn turn{point}; turn.vector < num_vectors(); ++turn.vector) {
          GW_RETURN_IF_ERROR(BindVector(turn, bindings));
          BindOutputs(turn, bindings);
          GW_RETURN_IF_ERROR(RunProgram(*bindings, context,
                                        turn.vector > 0 ? Stage::kDirection : FirstStageOf(point)));
          CopySharedResults(turn);
        }
        return absl::OkStatus();
      });
}

absl::Status Pipeline::RunPoints(Route route, v1::ComputeInfo* info, RunPoint run_point) {
  const CpuGate::Claim claim(call_.gate, prepared_.program->threads());
  RunContext context = {.arena = call_.workspace->arena(),
                        .cancel = call_.cancel,
                        .check_finite = parts_.options->check_finite()};
  Bindings bindings;
  StartResults(route);
  const absl::Time start = absl::Now();
  for (int64_t point = 0; point < points_; ++point) {
    GW_RETURN_IF_ERROR(BindInputs(point, &bindings));
    GW_RETURN_IF_ERROR(run_point(point, &bindings, context));
    AddCotangentSum(point);
  }
  call_.compute_time = absl::Now() - start;
  if (readable()) MakeReplyReadable();
  FillInfo(info);
  return absl::OkStatus();
}

absl::Status Pipeline::RunProgram(const Bindings& bindings, RunContext& context, Stage from) {
  ++runs_;
  return prepared_.program->Run(bindings, context, from);
}

void Pipeline::AddCotangentSum(int64_t point) {
  if (!hides_values_) return;
  double sum = 0;
  const auto& entries = prepared_.program->signature().outputs;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto given = shared_cotangents_.find(outputs_[i].name);
    if (outputs_[i].role != Role::kOutput || given == shared_cotangents_.end()) continue;
    const TensorView cotangent = PointOf(given->second, entries[i].type, point);
    const TensorView y = hidden_[i];
    for (int64_t j = 0; j < y.num_elements(); ++j) {
      sum += ElementAsDouble(cotangent, j) * ElementAsDouble(y, j);
    }
  }
  cotangent_sums_.push_back(sum);
}

v1::Tensor Pipeline::SharedCotangentSum() const {
  bool all_float = true;
  const auto& entries = prepared_.program->signature().outputs;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (outputs_[i].role != Role::kOutput || !IsFloating(entries[i].type.dtype)) continue;
    all_float = all_float && entries[i].type.dtype == DType::kFloat;
  }
  const TensorType type = ResultType({DType::kDouble, Shape()});
  const Tensor sums = Tensor::CopyOf(TensorView(type, cotangent_sums_.data()));
  v1::Tensor out = codec::ToProto(all_float ? Converted(sums, DType::kFloat) : sums);
  if (readable()) codec::MakeReadable(&out);
  return out;
}

bool Pipeline::quick() const {
  const Cost& cost = prepared_.program->cost();
  return cost.estimated_seconds * static_cast<double>(runs_) < kQuickSeconds &&
         cost.arena_bytes <= kQuickArenaBytes;
}

void Pipeline::FillInfo(v1::ComputeInfo* info) const {
  const Program& program = *prepared_.program;
  info->set_graph_digest(prepared_.graph_digest.Hex());
  info->set_plan_digest(program.plan_digest().Hex());
  info->set_cache_hit(prepared_.cache_hit);
  const auto wire = [](absl::Duration d) {
    return codec::ToProto(std::max(d, absl::ZeroDuration()));
  };
  *info->mutable_compile_time() =
      wire(prepared_.cache_hit ? prepared_.compile_time : prepare_time_);
  *info->mutable_queue_time() = wire(call_.queue_time);
  *info->mutable_compute_time() = wire(call_.compute_time);
  info->set_peak_bytes(program.cost().arena_bytes);
  info->set_flops(SaturatingMul(program.cost().flops, runs_));
  info->set_threads(program.threads());
  info->set_engine_version(std::string(Engine::version()));
  info->set_cpu_isa(engine_.isa());
}

}  // namespace gradwire::server
