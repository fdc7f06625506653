// File: bridge.h
//
// The only place that knows which oneDNN is compiled against: descriptors of version 2 (operation
// descriptor, then primitive descriptor) and of version 3 (primitive descriptor only). Private to
// engine/onednn; nothing else includes it. Functions here throw dnnl::error, as the library does;
// the caller guards.
#ifndef GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_
#define GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_

#include <dnnl.hpp>
#include <string>
#include <vector>

#include "engine/graph/op_def.h"

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

// Name of the instruction set that code is generated for.
std::string EffectiveIsa();

}  // namespace gradwire::onednn

#endif  // GRADWIRE_ENGINE_ONEDNN_BRIDGE_H_
