#include "engine/onednn/bridge.h"

namespace gradwire::onednn {
namespace {

using dnnl::algorithm;
using dnnl::memory;

memory::desc Describe(const Operand& o) {
  return memory::desc(memory::dims(o.dims.begin(), o.dims.end()), memory::data_type::f32,
                      memory::dims(o.strides.begin(), o.strides.end()));
}

void Append(dnnl::post_ops* ops, algorithm kind) {
#if DNNL_VERSION_MAJOR >= 3
  ops->append_eltwise(kind, 0.f, 0.f);
#else
  ops->append_eltwise(1.f, kind, 0.f, 0.f);
#endif
}

dnnl::primitive_attr Attributes(PostOp post_op) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::post_ops ops;
  switch (post_op) {
    case PostOp::kNone:
      return attributes;
    case PostOp::kRelu:
      Append(&ops, algorithm::eltwise_relu);
      break;
    case PostOp::kTanh:
      Append(&ops, algorithm::eltwise_tanh);
      break;
    case PostOp::kSigmoid:
      Append(&ops, algorithm::eltwise_logistic);
      break;
  }
  attributes.set_post_ops(ops);
  return attributes;
}

dnnl::matmul::primitive_desc DescribeMatMul(const dnnl::engine& engine, const memory::desc& lhs,
                                            const memory::desc& rhs, const memory::desc* bias,
                                            const memory::desc& out,
                                            const dnnl::primitive_attr& attributes) {
  using dnnl::matmul;
#if DNNL_VERSION_MAJOR >= 3
  return bias ? matmul::primitive_desc(engine, lhs, rhs, *bias, out, attributes)
              : matmul::primitive_desc(engine, lhs, rhs, out, attributes);
#else
  const matmul::desc op = bias ? matmul::desc(lhs, rhs, *bias, out) : matmul::desc(lhs, rhs, out);
  return matmul::primitive_desc(op, attributes, engine);
#endif
}

// ---- Convolutions

struct ConvolutionDims {
  memory::dims x, w, y, bias;
  memory::dims strides, dilations, before, after;
};

ConvolutionDims DimsOf(const Convolution& c) {
  ConvolutionDims d;
  d.x = {c.batch, c.groups * c.in_channels};
  d.y = {c.batch, c.groups * c.out_channels};
  d.bias = {c.groups * c.out_channels};
  if (c.groups > 1) d.w.push_back(c.groups);
  d.w.insert(d.w.end(), {c.out_channels, c.in_channels});
  for (size_t i = c.window.size() - static_cast<size_t>(c.rank); i < c.window.size(); ++i) {
    const WindowDim& w = c.window[i];
    d.x.push_back(w.in);
    d.y.push_back(w.out);
    d.w.push_back(w.kernel);
    d.strides.push_back(w.stride);
    d.dilations.push_back(w.dilation - 1);  // oneDNN counts what lies between
    d.before.push_back(w.before);
    d.after.push_back(w.after);
  }
  return d;
}

memory::desc AnyFormat(const memory::dims& dims) {
  return memory::desc(dims, memory::data_type::f32, memory::format_tag::any);
}

memory::desc RowMajor(const memory::dims& dims) {
  memory::dims strides(dims.size());
  int64_t step = 1;
  for (size_t i = dims.size(); i-- > 0;) {
    strides[i] = step;
    step *= dims[i];
  }
  return memory::desc(dims, memory::data_type::f32, strides);
}

dnnl::convolution_forward::primitive_desc DescribeForward(const dnnl::engine& engine,
                                                          const ConvolutionDims& d, bool has_bias,
                                                          const dnnl::primitive_attr& attributes) {
  using dnnl::convolution_forward;
  const memory::desc x = AnyFormat(d.x), w = AnyFormat(d.w), y = AnyFormat(d.y),
                     bias = has_bias ? RowMajor(d.bias) : memory::desc();
  const auto kind = dnnl::prop_kind::forward_training;
  const algorithm direct = algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
  return convolution_forward::primitive_desc(engine, kind, direct, x, w, bias, y, d.strides,
                                             d.dilations, d.before, d.after, attributes);
#else
  const convolution_forward::desc op(kind, direct, x, w, bias, y, d.strides, d.dilations, d.before,
                                     d.after);
  return convolution_forward::primitive_desc(op, attributes, engine);
#endif
}

dnnl::convolution_backward_data::primitive_desc DescribeBackwardData(
    const dnnl::engine& engine, const ConvolutionDims& d,
    const dnnl::convolution_forward::primitive_desc& forward,
    const dnnl::primitive_attr& attributes) {
  using dnnl::convolution_backward_data;
  const memory::desc x = AnyFormat(d.x), w = AnyFormat(d.w), y = AnyFormat(d.y);
  const algorithm direct = algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
  return convolution_backward_data::primitive_desc(engine, direct, x, w, y, d.strides, d.dilations,
                                                   d.before, d.after, forward, attributes);
#else
  const convolution_backward_data::desc op(direct, x, w, y, d.strides, d.dilations, d.before,
                                           d.after);
  return convolution_backward_data::primitive_desc(op, attributes, engine, forward);
#endif
}

dnnl::convolution_backward_weights::primitive_desc DescribeBackwardWeights(
    const dnnl::engine& engine, const ConvolutionDims& d,
    const dnnl::convolution_forward::primitive_desc& forward,
    const dnnl::primitive_attr& attributes) {
  using dnnl::convolution_backward_weights;
  const memory::desc x = AnyFormat(d.x), w = AnyFormat(d.w), y = AnyFormat(d.y);
  const algorithm direct = algorithm::convolution_direct;
#if DNNL_VERSION_MAJOR >= 3
  return convolution_backward_weights::primitive_desc(
      engine, direct, x, w, y, d.strides, d.dilations, d.before, d.after, forward, attributes);
#else
  const convolution_backward_weights::desc op(direct, x, w, y, d.strides, d.dilations, d.before,
                                              d.after);
  return convolution_backward_weights::primitive_desc(op, attributes, engine, forward);
#endif
}

void AddScratchpad(const dnnl::primitive_desc_base& built, BuiltPrimitive* r) {
  r->scratchpad_bytes = static_cast<int64_t>(built.scratchpad_desc().get_size());
  if (r->scratchpad_bytes > 0) {
    r->arguments.push_back({DNNL_ARG_SCRATCHPAD, built.scratchpad_desc()});
  }
}

// Empty where both are the same.
BuiltPrimitive BuildReorder(const dnnl::engine& engine, const memory::desc& from,
                            const memory::desc& to) {
  BuiltPrimitive r;
  if (from == to) return r;
  const dnnl::reorder::primitive_desc built(engine, from, engine, to, Attributes(PostOp::kNone));
  r.implementation = built.impl_info_str();
  r.arguments = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
  AddScratchpad(built, &r);
  r.primitive = dnnl::reorder(built);
  return r;
}

}  // namespace

BuiltPrimitive BuildMatMul(const dnnl::engine& engine, const MatMulSpec& spec) {
  const memory::desc lhs = Describe(spec.lhs), rhs = Describe(spec.rhs), out = Describe(spec.out);
  Operand bias_operand{Dims(spec.out.dims.size(), 1), Dims(spec.out.dims.size(), 0)};
  bias_operand.dims.back() = spec.out.dims.back();
  for (int64_t& stride : bias_operand.strides) stride = spec.out.dims.back();
  bias_operand.strides.back() = 1;
  const memory::desc bias = Describe(bias_operand);

  const dnnl::matmul::primitive_desc built = DescribeMatMul(
      engine, lhs, rhs, spec.has_bias ? &bias : nullptr, out, Attributes(spec.post_op));
  BuiltPrimitive r;
  r.implementation = built.impl_info_str();
  r.arguments = {{DNNL_ARG_SRC, lhs}, {DNNL_ARG_WEIGHTS, rhs}};
  if (spec.has_bias) r.arguments.push_back({DNNL_ARG_BIAS, bias});
  r.arguments.push_back({DNNL_ARG_DST, out});
  AddScratchpad(built, &r);
  r.primitive = dnnl::matmul(built);
  return r;
}

BuiltConvolution BuildConvolution(const dnnl::engine& engine, const ConvolutionSpec& spec) {
  struct Side {
    int id;
    memory::desc chosen, plain;
  };
  const ConvolutionDims d = DimsOf(spec.convolution);
  const memory::desc x = RowMajor(d.x), w = RowMajor(d.w), y = RowMajor(d.y);
  const bool is_forward = spec.kind == PrimitiveKind::kConv;
  const dnnl::primitive_attr attributes = Attributes(spec.post_op);
  const auto forward = DescribeForward(engine, d, spec.has_bias, attributes);
  std::array<Side, BuiltConvolution::kOperands> sides;
  BuiltConvolution r;
  dnnl::primitive_desc built;
  if (is_forward) {
    built = forward;
    r.primitive.primitive = dnnl::convolution_forward(forward);
    sides = {{{DNNL_ARG_SRC, forward.src_desc(), x},
              {DNNL_ARG_WEIGHTS, forward.weights_desc(), w},
              {DNNL_ARG_DST, forward.dst_desc(), y}}};
  } else if (spec.kind == PrimitiveKind::kConvInputGrad) {
    const auto backward = DescribeBackwardData(engine, d, forward, attributes);
    built = backward;
    r.primitive.primitive = dnnl::convolution_backward_data(backward);
    sides = {{{DNNL_ARG_DIFF_DST, backward.diff_dst_desc(), y},
              {DNNL_ARG_WEIGHTS, backward.weights_desc(), w},
              {DNNL_ARG_DIFF_SRC, backward.diff_src_desc(), x}}};
  } else {
    const auto backward = DescribeBackwardWeights(engine, d, forward, attributes);
    built = backward;
    r.primitive.primitive = dnnl::convolution_backward_weights(backward);
    sides = {{{DNNL_ARG_SRC, backward.src_desc(), x},
              {DNNL_ARG_DIFF_DST, backward.diff_dst_desc(), y},
              {DNNL_ARG_DIFF_WEIGHTS, backward.diff_weights_desc(), w}}};
  }
  r.primitive.implementation = built.impl_info_str();
  for (size_t i = 0; i < sides.size(); ++i) {
    const Side& side = sides[i];
    const bool is_output = i + 1 == sides.size();
    if (is_output && spec.has_bias) {
      r.primitive.arguments.push_back({DNNL_ARG_BIAS, RowMajor(d.bias)});
    }
    r.primitive.arguments.push_back({side.id, side.chosen});
    r.reorders[i] = is_output ? BuildReorder(engine, side.chosen, side.plain)
                              : BuildReorder(engine, side.plain, side.chosen);
    r.bytes[i] = static_cast<int64_t>(side.chosen.get_size());
  }
  AddScratchpad(built, &r.primitive);
  return r;
}

std::string EffectiveIsa() {
  switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
      return "sse41";
    case dnnl_cpu_isa_avx:
      return "avx";
    case dnnl_cpu_isa_avx2:
      return "avx2";
    case dnnl_cpu_isa_avx2_vnni:
      return "avx2_vnni";
    case dnnl_cpu_isa_avx512_core:
      return "avx512_core";
    case dnnl_cpu_isa_avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl_cpu_isa_avx512_core_bf16:
      return "avx512_core_bf16";
    case dnnl_cpu_isa_avx512_core_amx:
      return "avx512_core_amx";
#if DNNL_VERSION_MAJOR >= 3
    case dnnl_cpu_isa_avx512_core_fp16:
      return "avx512_core_fp16";
    case dnnl_cpu_isa_avx512_core_amx_fp16:
      return "avx512_core_amx_fp16";
    case dnnl_cpu_isa_avx2_vnni_2:
      return "avx2_vnni_2";
#endif
    default:
      return absl::StrCat("isa_", static_cast<int>(dnnl_get_effective_cpu_isa()));
  }
}

}  // namespace gradwire::onednn
