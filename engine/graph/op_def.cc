#include "engine/graph/op_def.h"

#include <algorithm>
#include <tuple>

namespace gradwire {

OpRegistry::OpRegistry(std::vector<const OpDef*> rows) : rows_(std::move(rows)) {
  std::sort(rows_.begin(), rows_.end(),
            [](const OpDef* a, const OpDef* b) { return a->name < b->name; });
  for (const OpDef* row : rows_) {
    for (const OnnxBinding& binding : row->onnx) onnx_.push_back({row, &binding});
  }
  std::sort(onnx_.begin(), onnx_.end(), [](const OnnxEntry& a, const OnnxEntry& b) {
    return std::tie(a.binding->domain, a.binding->name, a.binding->since) <
           std::tie(b.binding->domain, b.binding->name, b.binding->since);
  });
}

const OpDef* OpRegistry::Find(absl::string_view name) const {
  auto it = std::lower_bound(rows_.begin(), rows_.end(), name,
                             [](const OpDef* row, absl::string_view n) { return row->name < n; });
  return it != rows_.end() && (*it)->name == name ? *it : nullptr;
}

OpRegistry::Match OpRegistry::FindOnnx(absl::string_view domain, absl::string_view name,
                                       int opset) const {
  auto it = std::lower_bound(onnx_.begin(), onnx_.end(), std::tie(domain, name),
                             [](const OnnxEntry& e, const auto& key) {
                               return std::tie(e.binding->domain, e.binding->name) < key;
                             });
  Match best;
  for (; it != onnx_.end() && it->binding->domain == domain && it->binding->name == name; ++it) {
    if (it->binding->since <= opset && opset <= it->binding->until) best = {it->op, it->binding};
  }
  return best;
}

bool OpRegistry::KnowsOnnx(absl::string_view domain, absl::string_view name) const {
  return std::any_of(onnx_.begin(), onnx_.end(), [&](const OnnxEntry& e) {
    return e.binding->domain == domain && e.binding->name == name;
  });
}

}  // namespace gradwire
