#include "engine/exec/step_kernels.h"

#include "engine/kernels/reduce.h"

namespace gradwire {
namespace {

class ReduceKernel : public Kernel {
 public:
  ReduceKernel(const LoweredStep& step, ReduceFn fn)
      : fn_(fn), outer_(step.outer), axis_(step.axis), inner_(step.inner) {}
  absl::Status Run(const void* const* in, void* const* out, void*, int threads) const override {
    fn_(in[0], out[0], outer_, axis_, inner_, threads);
    return absl::OkStatus();
  }
  std::string Describe() const override {
    return absl::StrCat("reduce [", outer_, ",", axis_, ",", inner_, "]");
  }

 private:
  const ReduceFn fn_;
  const int64_t outer_, axis_, inner_;
};

class ReferenceKernel : public Kernel {
 public:
  ReferenceKernel(const Node& node, const LoweredStep& step, const Lowered& lowered,
                  std::string label)
      : op_(node.op), attrs_(node.attrs), label_(std::move(label)) {
    for (const Operand& o : step.in) in_types_.push_back(o.type);
    for (ValueId v : step.out) out_types_.push_back(lowered.types[static_cast<size_t>(v)]);
  }

  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    auto* views = static_cast<TensorView*>(scratch);
    for (size_t i = 0; i < in_types_.size(); ++i) new (views + i) TensorView(in_types_[i], in[i]);
    absl::Status status =
        op_->reference({attrs_, absl::MakeConstSpan(views, in_types_.size()), out_types_,
                        absl::MakeConstSpan(out, out_types_.size()), threads});
    for (size_t i = 0; i < in_types_.size(); ++i) views[i].~TensorView();
    if (status.ok()) return status;
    Problems where;
    where.Add(status, label_);
    return where.ToStatus();
  }
  std::string Describe() const override { return absl::StrCat("reference ", op_->name); }
  int64_t scratch_bytes() const {
    return static_cast<int64_t>(in_types_.size() * sizeof(TensorView));
  }

 private:
  const OpDef* const op_;
  const Attrs attrs_;
  const std::string label_;
  std::vector<TensorType> in_types_, out_types_;
};

}  // namespace

BoundKernel MakeReduceKernel(const LoweredStep& step) {
  return {std::make_unique<ReduceKernel>(step, FindReduce(step.reduce, step.in[0].type.dtype)), 0};
}

BoundKernel MakeReferenceKernel(const Node& node, const LoweredStep& step, const Lowered& lowered) {
  auto kernel = std::make_unique<ReferenceKernel>(node, step, lowered, lowered.graph->Label(node));
  const int64_t scratch = kernel->scratch_bytes();
  return {std::move(kernel), scratch};
}

}  // namespace gradwire
