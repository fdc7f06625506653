#include "engine/graph/node_import.h"

#include <algorithm>

namespace gradwire {

std::optional<Tensor> NodeImport::Frozen(int i) {
  if (!has(i) || !b.ok()) return std::nullopt;
  absl::StatusOr<Tensor> value = freeze_(in(i));
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
