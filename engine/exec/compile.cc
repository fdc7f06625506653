#include "engine/exec/compile.h"

#include <algorithm>

#include "engine/base/checked.h"
#include "engine/exec/lowering.h"
#include "engine/exec/plan.h"
#include "engine/exec/step_kernels.h"
#include "engine/graph/builder.h"

namespace gradwire {
namespace {

class PlanBuilder {
 public:
  PlanBuilder(const Lowered& lowered, const CompileOptions& options)
      : lowered_(lowered),
        graph_(*lowered.graph),
        options_(options),
        plan_(std::make_unique<Program::Plan>()) {}

  absl::StatusOr<std::unique_ptr<const Program::Plan>> Build(std::vector<LoweredStep>& steps) {
    plan_->threads = options_.threads;
    std::vector<int64_t> scratch_bytes;
    for (LoweredStep& step : steps) {
      BoundKernel bound = Bind(step);
      scratch_bytes.push_back(bound.scratch_bytes);
      plan_->steps.push_back({std::move(bound.kernel), step.stage, 0, 0, 0, 0});
    }
    GW_ASSIGN_OR_RETURN(buffers_, AssignBuffers(lowered_, scratch_bytes));
    for (size_t i = 0; i < steps.size(); ++i) FillStep(steps[i], i);
    FillSignature();
    FillCommits();
    FillCost(steps);
    plan_->digest = digest_.Finish();
    return std::unique_ptr<const Program::Plan>(std::move(plan_));
  }

 private:
  BoundKernel Bind(LoweredStep& step) {
    switch (step.kind) {
      case LoweredStep::kMap:
        return MakeMapKernel(step, options_.threads);
      case LoweredStep::kReduce:
        return MakeReduceKernel(step);
      case LoweredStep::kPrimitive:
        return {std::move(step.proposal.kernel), step.proposal.scratch_bytes};
      case LoweredStep::kReference:
        break;
    }
    return MakeReferenceKernel(graph_.nodes()[static_cast<size_t>(step.last_node)], step, lowered_);
  }

  Program::Plan::Slot SlotOf(ValueId root, int64_t element_offset) {
    const Place& place = buffers_.places[static_cast<size_t>(root)];
    const int64_t shift =
        element_offset * DTypeBytes(lowered_.types[static_cast<size_t>(root)].dtype);
    digest_.Add(place.where).Add(place.index).Add(place.offset + shift);
    return {place.where, place.index, place.offset + shift};
  }

  void FillStep(const LoweredStep& from, size_t index) {
    Program::Plan::Step& step = plan_->steps[index];
    step.first_slot = static_cast<int32_t>(plan_->slots.size());
    step.num_in = static_cast<int32_t>(from.in.size());
    step.num_out = static_cast<int32_t>(from.out.size());
    step.scratch_offset = buffers_.scratch[index];
    digest_.Add(step.kernel->Describe());
    for (const Operand& o : from.in) {
      plan_->slots.push_back(SlotOf(o.root, o.layout.offset));
      for (int64_t s : o.layout.strides) digest_.Add(s);
      moved_bytes_ = SaturatingAdd(moved_bytes_, o.type.bytes());
    }
    for (ValueId v : from.out) {
      plan_->slots.push_back(SlotOf(v, 0));
      moved_bytes_ = SaturatingAdd(moved_bytes_, lowered_.types[static_cast<size_t>(v)].bytes());
    }
    max_operands_ = std::max<int64_t>(max_operands_, step.num_in + step.num_out);
  }

  void FillSignature() {
    Signature& signature = plan_->signature;
    for (const GraphInput& in : graph_.inputs()) {
      signature.inputs.push_back({in.name, graph_.type(in.value), in.stage});
    }
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      const GraphOutput& o = graph_.outputs()[i];
      const ValueId root = lowered_.outputs[i].root;
      signature.outputs.push_back(
          {o.name, graph_.type(o.value), lowered_.stages[static_cast<size_t>(root)]});
    }
    for (const Node& node : graph_.nodes()) {
      if (node.op == &kConstantOp) plan_->constants.push_back(node.attrs.tensor("value"));
    }
  }

  void FillCommits() {
    for (size_t i = 0; i < graph_.updates().size(); ++i) {
      const StateUpdate& update = graph_.updates()[i];
      const auto& inputs = plan_->signature.inputs;
      const auto at = std::find_if(inputs.begin(), inputs.end(),
                                   [&](const SignatureEntry& e) { return e.name == update.input; });
      const auto input = static_cast<int32_t>(at - inputs.begin());
      plan_->signature.updated_inputs.push_back(input);
      plan_->commits.push_back({SlotOf(lowered_.update_roots[i], 0), input, at->type.bytes()});
      plan_->update_offsets.push_back(plan_->cost.update_bytes);
      plan_->cost.update_bytes =
          SaturatingAdd(plan_->cost.update_bytes, (at->type.bytes() + 63) / 64 * 64);
    }
  }

  void FillCost(const std::vector<LoweredStep>& steps) {
    Cost& cost = plan_->cost;
    plan_->pointers_offset = buffers_.arena_bytes;
    const int64_t own = SaturatingAdd(buffers_.arena_bytes, (max_operands_ * 8 + 63) / 64 * 64);
    for (int64_t& offset : plan_->update_offsets) offset = SaturatingAdd(offset, own);
    cost.arena_bytes = SaturatingAdd(own, cost.update_bytes);
    for (const SignatureEntry& e : plan_->signature.inputs) {
      cost.input_bytes = SaturatingAdd(cost.input_bytes, e.type.bytes());
    }
    for (const SignatureEntry& e : plan_->signature.outputs) {
      cost.output_bytes = SaturatingAdd(cost.output_bytes, e.type.bytes());
    }
    cost.moved_bytes = moved_bytes_;
    cost.nodes = static_cast<int64_t>(graph_.nodes().size());
    cost.steps = static_cast<int64_t>(steps.size());
    double seconds = 0;
    for (const LoweredStep& step : steps) {
      cost.flops = SaturatingAdd(cost.flops, step.flops);
      const double rate = step.kind == LoweredStep::kPrimitive ? 20e9 : 1e9;
      seconds += static_cast<double>(step.flops) / rate + 60e-9 +
                 (step.kind == LoweredStep::kMap ? 5e-9 * step.num_nodes : 0);
    }
    cost.estimated_seconds = std::max(seconds, static_cast<double>(moved_bytes_) / 8e9);
    int64_t footprint = static_cast<int64_t>(sizeof(Program::Plan) + plan_->slots.size() * 16);
    for (const Tensor& t : plan_->constants) footprint = SaturatingAdd(footprint, t.bytes() + 128);
    for (const LoweredStep& step : steps) {
      footprint += 512 + 64 * step.num_nodes + 96 * static_cast<int64_t>(step.in.size());
    }
    plan_->footprint_bytes = footprint;
    digest_.Add(cost.arena_bytes).Add(plan_->threads);
    for (const Tensor& t : plan_->constants) {
      digest_.Add(
          absl::string_view(static_cast<const char*>(t.raw()), static_cast<size_t>(t.bytes())));
    }
  }

  const Lowered& lowered_;
  const Graph& graph_;
  const CompileOptions& options_;
  std::unique_ptr<Program::Plan> plan_;
  Buffers buffers_;
  DigestBuilder digest_;
  int64_t moved_bytes_ = 0;
  int64_t max_operands_ = 0;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Program>> Compile(const Graph& graph,
                                                       const CompileOptions& options) {
  GW_ASSIGN_OR_RETURN(Lowered lowered, Partition(graph, options));
  Order(&lowered);
  GW_ASSIGN_OR_RETURN(auto plan, PlanBuilder(lowered, options).Build(lowered.steps));
  return std::make_shared<const Program>(std::move(plan));
}

}  // namespace gradwire
