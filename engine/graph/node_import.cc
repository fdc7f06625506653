#include "engine/graph/node_import.h"

#include <algorithm>

namespace gradwire {

namespace {

// Copies of a list count too: a loop that makes one a member longer each trip is quadratic.
constexpr int64_t kMaxListMembers = int64_t{1} << 24;

}  // namespace

ValueId ImportScope::AddList(std::vector<ValueId> members) {
  members_ += 1 + static_cast<int64_t>(members.size());
  if (members_ > kMaxListMembers) return kNoValue;
  lists_.push_back(std::move(members));
  return kNothing - static_cast<ValueId>(lists_.size());
}

const std::vector<ValueId>* ImportScope::List(ValueId v) const {
  return v < kNothing ? &lists_[static_cast<size_t>(kNothing - v - 1)] : nullptr;
}

ValueId NodeImport::in(int i) const {
  const ValueId v = any(i);
  if (v >= kNoValue) return v;
  b.Fail(Error(Reason::kInvalidModel,
               absl::StrCat("input ", i, " is ", v == kNothing ? "an empty optional" : "a sequence",
                            ", expected a tensor")));
  return kNoValue;
}

absl::Span<const ValueId> NodeImport::inputs() const {
  for (int i = 0; i < num_inputs(); ++i) in(i);
  return in_;
}

const std::vector<ValueId>* NodeImport::List(int i) const {
  const std::vector<ValueId>* list = scope_.List(any(i));
  if (list == nullptr) {
    b.Fail(Error(Reason::kInvalidModel, absl::StrCat("input ", i, " is no sequence")));
  }
  return list;
}

ValueId NodeImport::MakeList(std::vector<ValueId> members) {
  const ValueId list = scope_.AddList(std::move(members));
  if (list == kNoValue) {
    Fail(Reason::kGraphTooLarge,
         absl::StrCat("sequences have more than ", kMaxListMembers, " members together"));
  }
  return list;
}

std::optional<bool> NodeImport::Decide(ValueId v) {
  if (!b.ok()) return std::nullopt;
  absl::StatusOr<Tensor> value = Error(Reason::kInvalidModel, "the condition is no tensor");
  if (v >= 0) value = scope_.Freeze(v, ImportScope::Purpose::kBranch);
  if (value.ok() && (value->dtype() != DType::kBool || value->num_elements() != 1)) {
    value =
        Error(Reason::kShapeMismatch,
              absl::StrCat("the condition is ", value->type().ToString(), ", expected one BOOL"));
  }
  if (value.ok()) return *value->data<bool>();
  b.Fail(value.status());
  return std::nullopt;
}

const Model* NodeImport::Body(absl::string_view name) {
  const AttrValue* value = attrs.Find(name);
  const auto* body = value == nullptr ? nullptr : std::get_if<std::shared_ptr<const Model>>(value);
  if (body != nullptr) return body->get();
  Fail(Reason::kInvalidModel, absl::StrCat("attribute ", name, " is no graph"));
  return nullptr;
}

std::vector<ValueId> NodeImport::Inline(const Model& body, absl::Span<const ValueId> inputs,
                                        int64_t trip) {
  if (!b.ok()) return {};
  if (inputs.size() != body.inputs.size()) {
    Fail(Reason::kInvalidModel,
         absl::StrCat("the body has ", body.inputs.size(), " inputs, expected ", inputs.size()));
    return {};
  }
  return scope_.Inline(body, inputs, trip);
}

std::optional<Tensor> NodeImport::Frozen(int i) {
  if (!has(i) || !b.ok()) return std::nullopt;
  absl::StatusOr<Tensor> value = scope_.Freeze(in(i), ImportScope::Purpose::kShape);
  if (!value.ok()) {
    b.Fail(value.status());
    return std::nullopt;
  }
  return *std::move(value);
}

std::optional<std::vector<int64_t>> NodeImport::FrozenInts(int i) {
  std::optional<Tensor> value = Frozen(i);
  if (!value) return std::nullopt;
  if (!IsInteger(value->dtype()) && value->dtype() != DType::kBool) {
    Fail(Reason::kDtypeUnsupported,
         absl::StrCat("input ", i, " is ", DTypeName(value->dtype()), ", expected INT64"));
    return std::nullopt;
  }
  return ToInt64s(*value);
}

std::optional<std::vector<int64_t>> NodeImport::IntsFromAttrOrInput(absl::string_view name, int i) {
  if (const AttrValue* value = attrs.Find(name)) {
    if (const auto* ints = std::get_if<std::vector<int64_t>>(value)) return *ints;
    if (const auto* one = std::get_if<int64_t>(value)) return std::vector<int64_t>{*one};
    Fail(Reason::kInvalidModel, absl::StrCat("attribute ", name, " is not a list of integers"));
    return std::nullopt;
  }
  return FrozenInts(i);
}

int NodeImport::Axis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    Fail(Reason::kShapeMismatch,
         absl::StrCat("axis ", axis, " is outside [", -rank, ", ", rank - 1, "] for rank ", rank));
    return 0;
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

std::vector<int64_t> NodeImport::Axes(const std::vector<int64_t>& axes, int rank) {
  std::vector<int64_t> out;
  if (axes.empty()) {
    for (int i = 0; i < rank; ++i) out.push_back(i);
    return out;
  }
  for (int64_t axis : axes) out.push_back(Axis(axis, rank));
  std::sort(out.begin(), out.end());
  if (std::adjacent_find(out.begin(), out.end()) != out.end()) {
    Fail(Reason::kInvalidModel, "the same axis is given twice");
    out.erase(std::unique(out.begin(), out.end()), out.end());
  }
  return out;
}

ValueId NodeImport::State(int i) const {
  if (states_ == nullptr) return in(i);
  const auto known = states_->find(in(i));
  return known == states_->end() ? in(i) : known->second;
}

void NodeImport::SetState(int i, ValueId next) {
  if (states_ == nullptr) return;
  const auto known = states_->find(in(i));
  if (known != states_->end()) known->second = next;
}

ValueId NodeImport::Seed() {
  const ValueId known = b.so_far().FindInput(kSeedInput);
  if (known != kNoValue) return known;
  return b.Input(kSeedInput, {DType::kInt64, {2}}, Stage::kPoint);
}

}  // namespace gradwire
