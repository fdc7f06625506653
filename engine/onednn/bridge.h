// File: bridge.h
//
// The only place that knows which oneDNN is compiled against: descriptors of version 2 (operation
// descriptor, then primitive descriptor) and of version 3 (primitive descriptor only). Private to
// engine/onednn; nothing else includes it. Functions here throw dnnl::error, as the library does;
// the caller guards.
#ifndef GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_
#define GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_

#include <array>
#include <dnnl.hpp>
#include <string>
#include <vector>

#include "engine/graph/window.h"

namespace gradwire::onednn {

// One FLOAT operand: extents and strides in elements. An extent of 1 against a larger one of the
// output broadcasts.
struct Operand {
  Dims dims;
  Dims strides;
};

// out = post_op(lhs x rhs + bias); all ranks are equal.
struct MatMulSpec {
  Operand lhs;
  Operand rhs;
  Operand out;
  bool has_bias = false;           // [N], broadcast to the output
  PostOp post_op = PostOp::kNone;  // kRelu: oneDNN's own, which maps NaN to 0
};

// A primitive ready to run, with its arguments in the order of `Executor::Execute`'s pointers:
// inputs, bias, output, and the scratchpad where it is not empty.
struct BuiltPrimitive {
  struct Argument {
    int id;  // DNNL_ARG_*
    dnnl::memory::desc desc;
  };
  dnnl::primitive primitive;
  std::vector<Argument> arguments;
  int64_t scratchpad_bytes = 0;
  std::string implementation;  // oneDNN's name of it: "gemm:jit"
};

BuiltPrimitive BuildMatMul(const dnnl::engine& engine, const MatMulSpec& spec);

// A convolution or one of its gradients; operands are dense and of FLOAT.
struct ConvolutionSpec {
  PrimitiveKind kind = PrimitiveKind::kConv;
  Convolution convolution;
  bool has_bias = false;           // kConv: [M]
  PostOp post_op = PostOp::kNone;  // kConv; kRelu as above
};

// A primitive over operands in formats of its own choice, and how they get there and back.
struct BuiltConvolution {
  static constexpr int kOperands = 3;  // the two inputs, then the output
  BuiltPrimitive primitive;
  // By operand: what brings an input into the primitive's format, or the output out of it. No
  // arguments: it is used as it lies.
  std::array<BuiltPrimitive, kOperands> reorders;
  std::array<int64_t, kOperands> bytes = {};  // in the primitive's format
};

BuiltConvolution BuildConvolution(const dnnl::engine& engine, const ConvolutionSpec& spec);

// Name of the instruction set that code is generated for.
std::string EffectiveIsa();

}  // namespace gradwire::onednn

#endif  // GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_
