#include "engine/onednn/convolution.h"

#include <utility>

#include "engine/onednn/executor.h"

namespace gradwire::onednn {
namespace {

constexpr int kOperands = BuiltConvolution::kOperands;

class ConvolutionKernel : public Kernel {
 public:
  // Throws as the library does.
  ConvolutionKernel(const dnnl::engine& engine, BuiltConvolution built, int slots,
                    const PrimitiveCall& call, std::string description)
      : primitive_(engine, std::move(built.primitive), slots),
        has_bias_(call.has_bias),
        relu_(call.post_op == PostOp::kRelu),
        out_elements_(call.out.shape.num_elements()),
        description_(std::move(description)) {
    // The scratchpads of steps that follow each other share their place.
    int64_t scratchpad = primitive_.built().scratchpad_bytes;
    for (const BuiltPrimitive& r : built.reorders) {
      scratchpad = std::max(scratchpad, r.scratchpad_bytes);
    }
    scratch_bytes_ = RoundUp(scratchpad, 64);
    for (size_t i = 0; i < kOperands; ++i) {
      if (built.reorders[i].arguments.empty()) continue;
      reorders_[i] = std::make_unique<Executor>(engine, std::move(built.reorders[i]), slots);
      offsets_[i] = scratch_bytes_;
      scratch_bytes_ += RoundUp(built.bytes[i], 64);
    }
  }

  int64_t scratch_bytes() const { return scratch_bytes_; }

  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    TeamSize team(threads);
    std::array<void*, kOperands> plain = {const_cast<void*>(in[0]), const_cast<void*>(in[1]),
                                          out[0]};
    std::array<void*, kOperands> used = plain;
    for (size_t i = 0; i < kOperands; ++i) {
      if (reorders_[i] == nullptr) continue;
      used[i] = static_cast<char*>(scratch) + offsets_[i];
      if (i + 1 < kOperands) GW_RETURN_IF_ERROR(Reorder(i, plain[i], used[i], scratch));
    }
    std::array<void*, 5> pointers;
    size_t n = 0;
    pointers[n++] = used[0];
    pointers[n++] = used[1];
    if (has_bias_) pointers[n++] = const_cast<void*>(in[2]);
    pointers[n++] = used[2];
    if (primitive_.built().scratchpad_bytes > 0) pointers[n++] = scratch;
    GW_RETURN_IF_ERROR(primitive_.Execute(absl::MakeConstSpan(pointers.data(), n)));
    if (reorders_[2] != nullptr) GW_RETURN_IF_ERROR(Reorder(2, used[2], plain[2], scratch));
    if (relu_) ReluInPlace(static_cast<float*>(out[0]), out_elements_, threads);
    return absl::OkStatus();
  }

  std::string Describe() const override { return description_; }

 private:
  absl::Status Reorder(size_t operand, void* from, void* to, void* scratchpad) const {
    const std::array<void*, 3> pointers = {from, to, scratchpad};
    const size_t n = reorders_[operand]->built().arguments.size();
    return reorders_[operand]->Execute(absl::MakeConstSpan(pointers.data(), n));
  }

  const Executor primitive_;
  const bool has_bias_;
  const bool relu_;
  const int64_t out_elements_;
  const std::string description_;
  std::array<std::unique_ptr<Executor>, kOperands> reorders_;  // null: used as it lies
  std::array<int64_t, kOperands> offsets_ = {};                // into scratch
  int64_t scratch_bytes_ = 0;
};

// What the library's compiled kernels take to be ordinary, and do faster than ours.
bool Suits(const Convolution& c) {
  constexpr int64_t kMost = int64_t{1} << 30;  // the library has places with 32 bits
  bool in_place = true;
  for (const WindowDim& d : c.window) {
    if (d.before >= d.span() || d.after >= d.span() || d.span() > kMost || d.in > kMost ||
        d.stride > kMost) {
      return false;
    }
    in_place = in_place && d.kernel == 1 && d.stride == 1 && d.before == 0 && d.after == 0;
  }
  // A product of matrices as they lie: reordering them first costs more than it gains. One channel
  // would be computed as the eight of a vector.
  return !in_place && (c.in_channels > 1 || c.groups > 1);
}

// True for the library's plain loops, and for its products of matrices, which ours are on a par
// with.
bool IsSlow(absl::string_view implementation) {
  return implementation.substr(0, 3) == "ref" ||
         implementation.find("gemm") != absl::string_view::npos;
}

}  // namespace

std::optional<Proposal> ProposeConvolution(const dnnl::engine& engine, int slots,
                                           const PrimitiveCall& call) {
  if (call.in.size() != 2 || call.layouts.size() != 2) return std::nullopt;
  for (const TensorType* type : {&call.in[0], &call.in[1], &call.out}) {
    if (type->dtype != DType::kFloat || type->shape.num_elements() == 0) return std::nullopt;
  }
  const absl::StatusOr<Convolution> c = Convolution::Of(call.kind, call.in, call.out, *call.attrs);
  if (!c.ok() || !Suits(*c)) return std::nullopt;
  ConvolutionSpec spec{call.kind, *c, call.has_bias, call.post_op};
  if (call.post_op == PostOp::kRelu) spec.post_op = PostOp::kNone;  // done by ourselves
  const char* name = call.kind == PrimitiveKind::kConv            ? "conv"
                     : call.kind == PrimitiveKind::kConvInputGrad ? "conv input grad"
                                                                  : "conv weight grad";
  TeamSize team(call.threads);
  Proposal proposal;
  const absl::Status status = Guarded([&] {
    BuiltConvolution built = BuildConvolution(engine, spec);
    if (IsSlow(built.primitive.implementation)) return;
    auto kernel = std::make_unique<ConvolutionKernel>(
        engine, std::move(built), slots, call,
        absl::StrCat("onednn ", name, call.has_bias ? "+bias" : "", PostOpName(call.post_op),
                     " f32 ", c->ToString()));
    proposal.scratch_bytes = kernel->scratch_bytes();
    proposal.kernel = std::move(kernel);
  });
  if (!status.ok() || proposal.kernel == nullptr) return std::nullopt;
  for (size_t i = 0; i < call.in.size(); ++i) {
    if (!call.layouts[i].IsDense(call.in[i].shape)) proposal.wants_dense |= 1u << i;
  }
  return proposal;
}

}  // namespace gradwire::onednn
