#include "bench/workloads.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "engine/base/status.h"
#include "engine/io/file.h"
#include "engine/io/npz.h"

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

Tensor Labels(int64_t rows) {
  Tensor labels(TensorType{DType::kInt64, {rows}});
  for (int64_t i = 0; i < rows; ++i) labels.mutable_data<int64_t>()[i] = i * 7 % 10;
  return labels;
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
  w.inputs = {{"x", Normal({128, 784}, 1, 1)},     {"t", Labels(128)},
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

Training Digits() {
  Workload w{"digits",
             ModelFormat::kText,
             R"(<ir_version: 8, opset_import: ["": 17]>
digits (float[64,64] x, int64[64] t, float[32,64] w1, float[32] b1, float[10,32] w2, float[10] b2)
    => (float loss) {
  h = Gemm <transB = 1> (x, w1, b1)
  a = Tanh (h)
  y = Gemm <transB = 1> (a, w2, b2)
  loss = SoftmaxCrossEntropyLoss (y, t)
})",
             {},
             {"w1", "b1", "w2", "b2"}};
  w.inputs = {{"x", Normal({64, 64}, 1, 1)},     {"t", Labels(64)},
              {"w1", Normal({32, 64}, 0.1, 3)},  {"b1", Normal({32}, 0.1, 4)},
              {"w2", Normal({10, 32}, 0.15, 5)}, {"b2", Normal({10}, 0.15, 6)}};
  return {std::move(w), "adam", {{"lr", 1e-2}}, 1408};
}

Training MlpTrain(const std::string& optimizer) {
  if (optimizer == "adam") return {MlpGrad(), optimizer, {{"lr", 1e-3}}, 60000};
  return {MlpGrad(), optimizer, {{"lr", 1e-2}, {"momentum", 0.9}}, 60000};
}

Training CnnTrain() {
  Workload w{"cnn",
             ModelFormat::kText,
             R"(<ir_version: 8, opset_import: ["": 17]>
cnn (float[64,1,28,28] x, int64[64] t, float[32,1,3,3] k1, float[32] c1, float[64,32,3,3] k2,
     float[64] c2, float[128,9216] w1, float[128] b1, float[10,128] w2, float[10] b2)
    => (float loss) {
  h1 = Conv (x, k1, c1)
  a1 = Relu (h1)
  h2 = Conv (a1, k2, c2)
  a2 = Relu (h2)
  p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a2)
  f = Flatten (p)
  h3 = Gemm <transB = 1> (f, w1, b1)
  a3 = Relu (h3)
  y = Gemm <transB = 1> (a3, w2, b2)
  loss = SoftmaxCrossEntropyLoss (y, t)
})",
             {},
             {"k1", "c1", "k2", "c2", "w1", "b1", "w2", "b2"}};
  w.inputs = {{"x", Normal({64, 1, 28, 28}, 1, 1)},    {"t", Labels(64)},
              {"k1", Normal({32, 1, 3, 3}, 0.05, 3)},  {"c1", Normal({32}, 0.05, 4)},
              {"k2", Normal({64, 32, 3, 3}, 0.05, 5)}, {"c2", Normal({64}, 0.05, 6)},
              {"w1", Normal({128, 9216}, 0.01, 7)},    {"b1", Normal({128}, 0.05, 8)},
              {"w2", Normal({10, 128}, 0.05, 9)},      {"b2", Normal({10}, 0.05, 10)}};
  return {std::move(w), "sgd", {{"lr", 1e-2}, {"momentum", 0.9}}, 6400};
}

Training WideMlp(int64_t width) {
  const std::string n = std::to_string(width);
  Workload w{"wide_mlp",
             ModelFormat::kText,
             R"(<ir_version: 8, opset_import: ["": 17]>
wide (float[16,64] x, int64[16] t, float[64,)" +
                 n + "] w1, float[" + n + "," + n + "] w2, float[" + n +
                 R"(,10] w3) => (float loss) {
  h1 = MatMul (x, w1)
  a1 = Tanh (h1)
  h2 = MatMul (a1, w2)
  a2 = Tanh (h2)
  y = MatMul (a2, w3)
  loss = SoftmaxCrossEntropyLoss (y, t)
})",
             {},
             {"w1", "w2", "w3"}};
  w.inputs = {{"x", Normal({16, 64}, 1, 1)},
              {"t", Labels(16)},
              {"w1", Normal({64, width}, 0.1, 3)},
              {"w2", Normal({width, width}, 0.01, 4)},
              {"w3", Normal({width, 10}, 0.1, 5)}};
  return {std::move(w), "adam", {{"lr", 1e-4}}, 1600};
}

Training FromFolder(Engine& engine, const std::string& folder) {
  Training training{{folder, ModelFormat::kOnnx, {}, {}, {}}, "sgd", {{"lr", 1e-2}}, 0};
  const absl::Status read = [&]() -> absl::Status {
    GW_ASSIGN_OR_RETURN(training.model.model, ReadFile(folder + "/model.onnx"));
    GW_ASSIGN_OR_RETURN(const auto loaded,
                        engine.LoadModel(ModelFormat::kOnnx, training.model.model, {}));
    GW_ASSIGN_OR_RETURN(const std::string npz, ReadFile(folder + "/inputs.npz"));
    GW_ASSIGN_OR_RETURN(auto arrays, ReadNpz(npz));
    const Model& model = *loaded->model;
    if (arrays.size() != model.inputs.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "inputs.npz has ", arrays.size(), " arrays, the model ", model.inputs.size(), " inputs"));
    }
    const auto name = [&](ModelValue v) { return model.value_names[static_cast<size_t>(v)]; };
    for (size_t i = 0; i < arrays.size(); ++i) {
      training.model.inputs.emplace_back(name(model.inputs[i].value), std::move(arrays[i].second));
    }
    for (const ModelInitializer& init : model.initializers) {
      training.model.inputs.emplace_back(name(init.value), Tensor::CopyOf(init.data));
    }
    training.model.wrt = TrainableInitializers(model);
    return absl::OkStatus();
  }();
  if (!read.ok()) Die(read);
  return training;
}

Runner::Runner(Engine& engine, const Workload& workload, Computation::Kind kind, Mode mode) {
  NamedViews views;
  for (const auto& [name, tensor] : workload.inputs) views[name] = tensor;
  auto model = engine.LoadModel(workload.format, workload.model, views);
  if (!model.ok()) Die(model.status());
  Computation computation;
  computation.kind = kind;
  computation.mode = mode;
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

StepRunner::StepRunner(Engine& engine, const Training& training) {
  const auto built = [&]() -> absl::Status {
    NamedViews views;
    for (const auto& [name, tensor] : training.model.inputs) views[name] = tensor;
    GW_ASSIGN_OR_RETURN(const auto model,
                        engine.LoadModel(training.model.format, training.model.model, views));
    SpecializeRequest request;
    request.inputs = &views;
    request.outputs = {"loss"};
    request.mode = Mode::kTrain;
    request.update_states = true;
    GW_ASSIGN_OR_RETURN(const Specialized specialized, Specialize(*model->model, request));
    GW_ASSIGN_OR_RETURN(const Optimizer optimizer,
                        Optimizer::Make(training.optimizer, training.hyper));
    TrainingSpec spec;
    spec.loss = "loss";
    for (const std::string& name : training.model.wrt) spec.parameters.push_back({name});
    spec.groups = {optimizer};
    GW_ASSIGN_OR_RETURN(const TrainingGraphs graphs, BuildTrainingStep(specialized.graph, spec));
    GW_ASSIGN_OR_RETURN(program_, engine.CompileGraph(graphs.step));
    OptimizerMemory memory;
    const Scalars scalars = optimizer.ScalarsOf({1, optimizer.hyper()}, &memory);
    for (const SignatureEntry& e : program_->signature().inputs) {
      const auto given = views.find(e.name);
      inputs_.push_back(given != views.end() ? Tensor::CopyOf(given->second) : Tensor(e.type));
      for (const ScalarInput& s : graphs.scalars) {
        if (s.name != e.name) continue;
        inputs_.back().mutable_data<float>()[0] = static_cast<float>(scalars.at(s.scalar));
      }
    }
    return absl::OkStatus();
  }();
  if (!built.ok()) Die(built);
  for (Tensor& input : inputs_) bindings_.inputs.push_back(input.mutable_raw());
  for (const SignatureEntry& e : program_->signature().outputs) {
    outputs_.emplace_back(e.type);
    bindings_.outputs.push_back(outputs_.back().mutable_raw());
  }
  for (int i : program_->signature().updated_inputs) {
    next_.emplace_back(program_->signature().inputs[static_cast<size_t>(i)].type);
    bindings_.updates.push_back(next_.back().mutable_raw());
  }
  Run();
}

void StepRunner::Run(double* step_seconds) {
  RunContext context;
  context.arena = &arena_;
  context.step_seconds = step_seconds;
  context.check_finite = true;
  const absl::Status status = program_->Run(bindings_, context);
  if (!status.ok()) Die(status);
  const std::vector<int>& updated = program_->signature().updated_inputs;
  for (size_t k = 0; k < updated.size(); ++k) {
    const void*& now = bindings_.inputs[static_cast<size_t>(updated[k])];
    void* const old = const_cast<void*>(now);
    now = std::exchange(bindings_.updates[k], old);
  }
}

}  // namespace gradwire::bench
