// Phase 3 of Compile: the schedule. Stage first, so that a Run can begin at any stage; then
// topological, and among ready steps the one whose nodes come first in the graph: forward values
// die about as early as the graph's author let them.
#include <queue>
#include <tuple>

#include "engine/exec/lowering.h"

namespace gradwire {

void Order(Lowered* lowered) {
  std::vector<LoweredStep>& steps = lowered->steps;
  std::vector<int32_t> writer(lowered->types.size(), -1);
  for (size_t i = 0; i < steps.size(); ++i) {
    for (ValueId v : steps[i].out) writer[static_cast<size_t>(v)] = static_cast<int32_t>(i);
  }
  std::vector<int32_t> waiting(steps.size(), 0);
  std::vector<std::vector<int32_t>> readers(steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    for (const Operand& o : steps[i].in) {
      const int32_t w = writer[static_cast<size_t>(o.root)];
      if (w < 0) continue;
      readers[static_cast<size_t>(w)].push_back(static_cast<int32_t>(i));
      ++waiting[i];
    }
  }
  using Key = std::tuple<Stage, int32_t, int32_t>;  // stage, last node, step
  std::priority_queue<Key, std::vector<Key>, std::greater<>> ready;
  auto push = [&](int32_t i) {
    ready.emplace(steps[static_cast<size_t>(i)].stage, steps[static_cast<size_t>(i)].last_node, i);
  };
  for (size_t i = 0; i < steps.size(); ++i) {
    if (waiting[i] == 0) push(static_cast<int32_t>(i));
  }
  std::vector<LoweredStep> ordered;
  ordered.reserve(steps.size());
  while (!ready.empty()) {
    const int32_t i = std::get<2>(ready.top());
    ready.pop();
    for (int32_t r : readers[static_cast<size_t>(i)]) {
      if (--waiting[static_cast<size_t>(r)] == 0) push(r);
    }
    ordered.push_back(std::move(steps[static_cast<size_t>(i)]));
  }
  steps = std::move(ordered);
}

}  // namespace gradwire
