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
  r.scratchpad_bytes = static_cast<int64_t>(built.scratchpad_desc().get_size());
  if (r.scratchpad_bytes > 0) {
    r.arguments.push_back({DNNL_ARG_SCRATCHPAD, built.scratchpad_desc()});
  }
  r.primitive = dnnl::matmul(built);
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
