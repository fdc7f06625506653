// File: kernel.h
//
// Kernel          the code of one step of a Program, bound to concrete types and layouts.
// KernelProvider  proposes kernels for primitives; Compile asks oneDNN, then our own kernels, then
//                 the reference, and takes the first that accepts.
//
// A Kernel is immutable and is run by several threads at once, each with its own buffers.
#ifndef GRADWIRE_ENGINE_EXEC_KERNEL_H_
#define GRADWIRE_ENGINE_EXEC_KERNEL_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/graph/op_def.h"

namespace gradwire {

class Kernel {
 public:
  virtual ~Kernel() = default;
  // in[i] points at element 0 of input i's buffer *including* its layout's offset; out at a dense
  // output; scratch at the bytes asked for (64-byte aligned). Allocates nothing of ours.
  virtual absl::Status Run(const void* const* in, void* const* out, void* scratch,
                           int threads) const = 0;
  // For profiles and tests: "onednn matmul+bias+relu f32 128x784x512".
  virtual std::string Describe() const = 0;
};

// "+relu", "" for none: as kernels describe themselves.
inline const char* PostOpName(PostOp post_op) {
  static constexpr const char* kNames[] = {"", "+relu", "+tanh", "+sigmoid"};
  return kNames[static_cast<int>(post_op)];
}

// The dimension of its output along which a primitive adds a bias; -1: it adds none.
inline int BiasDim(PrimitiveKind kind, const Shape& out) {
  switch (kind) {
    case PrimitiveKind::kMatMul:
      return out.rank() - 1;
    case PrimitiveKind::kConv:
      return 1;
    case PrimitiveKind::kConvInputGrad:
    case PrimitiveKind::kConvWeightGrad:
      break;
  }
  return -1;
}

// A primitive with what was folded into it: out = post_op(op(in...) + bias).
struct PrimitiveCall {
  PrimitiveKind kind;
  const Attrs* attrs;
  std::vector<TensorType> in;   // the op's inputs
  std::vector<Layout> layouts;  // how each lies in its buffer (offset already applied: 0)
  TensorType out;
  // A last input, a dense vector along dimension BiasDim() of the output.
  bool has_bias = false;
  PostOp post_op = PostOp::kNone;
  int threads = 1;
};

struct Proposal {
  std::unique_ptr<Kernel> kernel;
  int64_t scratch_bytes = 0;
  // Inputs that must be made dense first (bit i), although they arrived in another layout.
  uint32_t wants_dense = 0;
};

class KernelProvider {
 public:
  virtual ~KernelProvider() = default;
  virtual absl::string_view name() const = 0;  // "onednn"
  virtual std::string version() const = 0;     // "2.6.3"
  // nullopt where it has no kernel for this call. Never fails otherwise.
  virtual std::optional<Proposal> Propose(const PrimitiveCall& call) const = 0;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_EXEC_KERNEL_H_
