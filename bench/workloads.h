// File: workloads.h
//
// The workloads that benchmarks time and that compare_peers.py writes for PyTorch too: same graphs,
// same sizes, same seeds.
#ifndef GRADWIRE_BENCH_WORKLOADS_H_
#define GRADWIRE_BENCH_WORKLOADS_H_

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace gradwire::bench {

struct Workload {
  std::string name;
  ModelFormat format;
  std::string model;                                   // bytes or text
  std::vector<std::pair<std::string, Tensor>> inputs;  // initialisers too
  std::vector<std::string> wrt;
};

Workload Seed();                  // x^2*y + y^3, f64 scalars
Workload MlpSmall();              // 64-64-64-1, tanh, mean square error, batch 16, f32
Workload MlpGrad();               // 784-512-256-10, relu, softmax cross-entropy, batch 128, f32
Workload Elementwise(int64_t n);  // sum(tanh(x)*sigmoid(x) + exp(-x*x)), f32
Workload Chain(int64_t nodes);    // x -> sin(x)*0.5 -> ... as ONNX text, f64 scalar

// A model that is trained: inputs of `model` that are not its `wrt` are a batch, and become columns
// of a data set that has so many rows.
struct Training {
  Workload model;
  std::string optimizer;  // a row of AllOptimizers()
  Hyperparameters hyper;
  int64_t rows;
};

// examples/digits: 64-32-10, tanh, batch 64, Adam.
Training Digits();
// MlpGrad with 60,000 rows: "sgd" (with momentum) or "adam".
Training MlpTrain(const std::string& optimizer);
// Two convolutions of 3x3 (32, 64 channels) on 28x28, max pool, 9216-128-10, batch 64, SGD with
// momentum.
Training CnnTrain();
// A model in a folder as tests/conformance/export_models.py writes it: model.onnx, whose only
// output is a loss, and inputs.npz, the model's inputs in their order. SGD.
Training FromFolder(Engine& engine, const std::string& folder);
// Perceptrons of so many parameters, for figures about memory and checkpoints.
Training WideMlp(int64_t width);

// A Program with buffers, ready to run again and again.
class Runner {
 public:
  // Aborts with a message where the workload does not compile.
  Runner(Engine& engine, const Workload& workload, Computation::Kind kind,
         Mode mode = Mode::kAsGraph);
  void Run();
  const Program& program() const { return *program_; }
  // In the order of the signature.
  const std::vector<Tensor>& outputs() const { return outputs_; }

 private:
  std::shared_ptr<const Program> program_;
  std::vector<Tensor> inputs_, outputs_;
  Bindings bindings_;
  Arena arena_;
};

// The Program of one training step on one batch, with its state.
class StepRunner {
 public:
  StepRunner(Engine& engine, const Training& training);
  // `step_seconds` as in RunContext.
  void Run(double* step_seconds = nullptr);
  const Program& program() const { return *program_; }

 private:
  std::shared_ptr<const Program> program_;
  std::vector<Tensor> inputs_, outputs_, next_;
  Bindings bindings_;
  Arena arena_;
};

}  // namespace gradwire::bench

#endif  // GRADWIRE_BENCH_WORKLOADS_H_
