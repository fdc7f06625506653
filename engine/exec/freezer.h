// File: freezer.h
//
// Freezer: evaluates values of a graph under construction, with reference kernels, on the data of
// one call: shapes, axes, branches. Remembers what it evaluated and which inputs it looked at.
// Bounded in bytes and arithmetic; errors are DATA_DEPENDENT_SHAPE (the value depends on floating
// data that a derivative is taken by), MEMORY_LIMIT and GRAPH_TOO_LARGE. Not thread-safe.
#ifndef GRADWIRE_ENGINE_EXEC_FREEZER_H_
#define GRADWIRE_ENGINE_EXEC_FREEZER_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/graph/node_import.h"

namespace gradwire {

class Freezer {
 public:
  explicit Freezer(const GraphBuilder& builder) : builder_(builder) {}

  // `value` is input `name`, and has this data. The data of a view must outlive the Freezer. What
  // `varies`, because a derivative is taken by it, may decide branches, not shapes.
  void Bind(ValueId value, absl::string_view name, TensorView data, bool varies);
  absl::StatusOr<Tensor> Value(ValueId value, ImportScope::Purpose purpose);
  // Names of inputs whose data decided something, sorted.
  std::vector<std::string> used() const;

 private:
  struct Bound {
    std::string name;
    TensorView data;
    bool varies;
    bool used = false;
  };
  absl::Status EvaluateNode(const Node& node);
  absl::StatusOr<Tensor> InputValue(ValueId value, ImportScope::Purpose purpose);

  const GraphBuilder& builder_;
  absl::flat_hash_map<ValueId, Bound> inputs_;
  absl::flat_hash_map<ValueId, Tensor> known_;
  int64_t bytes_ = 0;
  int64_t flops_ = 0;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_FREEZER_H_
