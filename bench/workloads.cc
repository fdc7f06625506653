#include "bench/workloads.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace gradwire::bench {
namespace {

Tensor Normal(Shape shape, double scale, uint32_t seed) {
  Tensor t(TensorType{DType::kFloat, std::move(shape)});
  std::mt19937 rng(seed);
  std::normal_distribution<float> dist(0.0f, static_cast<float>(scale));
  for (int64_t i = 0; i < t.num_elements(); ++i) t.mutable_data<float>()[i] = dist(rng);
  return t;
}

void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

}  // namespace

Workload Seed() {
  return {"seed",
          ModelFormat::kFormula,
          "x^2*y + y^3",
          {{"x", Tensor::Scalar(2.0)}, {"y", Tensor::Scalar(3.0)}},
          {"x", "y"}};
}

Workload MlpSmall() {
  Workload w{"mlp_small",
             ModelFormat::kText,
             R"(<ir_version: 8, opset_import: ["": 17]>
mlp (float[16,64] x, float[16,1] t, float[64,64] w1, float[64] b1, float[64,64] w2, float[64] b2,
     float[64,1] w3, float[1] b3) => (float loss) {
  h1 = Gemm <transB = 1> (x, w1, b1)
  a1 = Tanh (h1)
  h2 = Gemm <transB = 1> (a1, w2, b2)
  a2 = Tanh (h2)
  y = Gemm (a2, w3, b3)
  d = Sub (y, t)
  s = Mul (d, d)
  loss = ReduceMean <keepdims = 0> (s)
})",
             {},
             {"w1", "b1", "w2", "b2", "w3", "b3"}};
  w.inputs = {{"x", Normal({16, 64}, 1, 1)},    {"t", Normal({16, 1}, 1, 2)},
              {"w1", Normal({64, 64}, 0.1, 3)}, {"b1", Normal({64}, 0.1, 4)},
              {"w2", Normal({64, 64}, 0.1, 5)}, {"b2", Normal({64}, 0.1, 6)},
              {"w3", Normal({64, 1}, 0.1, 7)},  {"b3", Normal({1}, 0.1, 8)}};
  return w;
}

Workload MlpGrad() {
  Workload w{"mlp_grad",
             ModelFormat::kText,
             R"(<ir_version: 8, opset_import: ["": 17]>
mlp (float[128,784] x, int64[128] t, float[512,784] w1, float[512] b1, float[256,512] w2,
     float[256] b2, float[10,256] w3, float[10] b3) => (float loss) {
  h1 = Gemm <transB = 1> (x, w1, b1)
  a1 = Relu (h1)
  h2 = Gemm <transB = 1> (a1, w2, b2)
  a2 = Relu (h2)
  y = Gemm <transB = 1> (a2, w3, b3)
  loss = SoftmaxCrossEntropyLoss (y, t)
})",
             {},
             {"w1", "b1", "w2", "b2", "w3", "b3"}};
  Tensor labels(TensorType{DType::kInt64, {128}});
  for (int64_t i = 0; i < 128; ++i) labels.mutable_data<int64_t>()[i] = i * 7 % 10;
  w.inputs = {{"x", Normal({128, 784}, 1, 1)},     {"t", labels},
              {"w1", Normal({512, 784}, 0.05, 3)}, {"b1", Normal({512}, 0.05, 4)},
              {"w2", Normal({256, 512}, 0.05, 5)}, {"b2", Normal({256}, 0.05, 6)},
              {"w3", Normal({10, 256}, 0.05, 7)},  {"b3", Normal({10}, 0.05, 8)}};
  return w;
}

Workload Elementwise(int64_t n) {
  return {"elementwise",
          ModelFormat::kFormula,
          "sum(tanh(x)*sigmoid(x) + exp(-x*x))",
          {{"x", Normal({n}, 1, 1)}},
          {"x"}};
}

Workload Chain(int64_t nodes) {
  std::string text = "<ir_version: 8, opset_import: [\"\": 17]>\nchain (double x) => (double v" +
                     std::to_string(nodes) + ") {\n  v0 = Identity (x)\n";
  for (int64_t i = 0; i < nodes; ++i) {
    text += "  v" + std::to_string(i + 1) + " = " + (i % 2 ? "Sin" : "Tanh") + " (v" +
            std::to_string(i) + ")\n";
  }
  text += "}\n";
  return {"chain", ModelFormat::kText, std::move(text), {{"x", Tensor::Scalar(0.5)}}, {"x"}};
}

Runner::Runner(Engine& engine, const Workload& workload, Computation::Kind kind) {
  NamedViews views;
  for (const auto& [name, tensor] : workload.inputs) views[name] = tensor;
  auto model = engine.LoadModel(workload.format, workload.model, views);
  if (!model.ok()) Die(model.status());
  Computation computation;
  computation.kind = kind;
  computation.wrt = workload.wrt;
  auto prepared = engine.Prepare(**model, computation, views);
  if (!prepared.ok()) Die(prepared.status());
  program_ = prepared->program;
  for (const SignatureEntry& e : program_->signature().inputs) {
    auto it = views.find(e.name);
    inputs_.push_back(it != views.end() ? Tensor::CopyOf(it->second) : Tensor(e.type));
    bindings_.inputs.push_back(inputs_.back().raw());
  }
  for (const SignatureEntry& e : program_->signature().outputs) {
    outputs_.emplace_back(e.type);
    bindings_.outputs.push_back(outputs_.back().mutable_raw());
  }
  Run();
}

void Runner::Run() {
  RunContext context;
  context.arena = &arena_;
  const absl::Status status = program_->Run(bindings_, context);
  if (!status.ok()) Die(status);
}

}  // namespace gradwire::bench
