// What tests of graphs and Programs share: building, compiling and running in few words.
#ifndef GRADWIRE_TESTS_UNIT_EXEC_RUN_PROGRAM_H_
#define GRADWIRE_TESTS_UNIT_EXEC_RUN_PROGRAM_H_

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/exec/compile.h"
#include "engine/graph/builder.h"
#include "engine/kernels/own_provider.h"
#include "engine/onednn/provider.h"

namespace gradwire {

using NamedTensors = std::map<std::string, Tensor>;

// The value of a StatusOr; the test fails where there is none.
template <typename T>
T Value(absl::StatusOr<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.status();
    return T();
  }
  return *std::move(result);
}

// For engines that live as long as a test: they start without comparing kernels.
inline EngineOptions QuickEngine(int threads = 1) {
  EngineOptions options;
  options.threads = threads;
  options.self_check = EngineOptions::SelfCheck::kNever;
  return options;
}

inline std::shared_ptr<const Program> CompileGraph(const Graph& graph, int threads = 1) {
  static const auto& providers = *new std::vector<std::shared_ptr<const KernelProvider>>{
      MakeOneDnnProvider(), MakeOwnProvider()};
  CompileOptions options;
  options.threads = threads;
  options.providers = providers;
  return Value(Compile(graph, options));
}

inline Tensor Random(const TensorType& type, uint32_t seed) {
  Tensor t(type);
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (int64_t i = 0; i < t.num_elements(); ++i) {
    const double value = uniform(generator);
    if (type.dtype == DType::kFloat) t.mutable_data<float>()[i] = static_cast<float>(value);
    if (type.dtype == DType::kDouble) t.mutable_data<double>()[i] = value;
  }
  return t;
}

inline Tensor Vector(const std::vector<double>& values) {
  return Tensor::FromVector<double>({static_cast<int64_t>(values.size())}, values);
}

inline std::vector<double> ToDoubles(const Tensor& t) {
  std::vector<double> out;
  for (int64_t i = 0; i < t.num_elements(); ++i) out.push_back(ElementAsDouble(t, i));
  return out;
}

// A Program with buffers of its own. Inputs that are not set hold random numbers.
class BoundProgram {
 public:
  explicit BoundProgram(std::shared_ptr<const Program> program, const NamedTensors& inputs = {})
      : program_(std::move(program)) {
    uint32_t seed = 0;
    for (const SignatureEntry& e : program_->signature().inputs) {
      const auto given = inputs.find(e.name);
      inputs_.push_back(given != inputs.end() ? Tensor::CopyOf(given->second)
                                              : Random(e.type, ++seed));
      EXPECT_EQ(inputs_.back().type(), e.type) << e.name;
      bindings_.inputs.push_back(inputs_.back().raw());
    }
    for (const SignatureEntry& e : program_->signature().outputs) {
      outputs_.emplace_back(e.type);
      bindings_.outputs.push_back(outputs_.back().mutable_raw());
    }
    context_.arena = &arena_;
  }

  absl::Status Run(Stage from = Stage::kConstant) {
    return program_->Run(bindings_, context_, from);
  }
  // All outputs, after a run that must be OK.
  std::vector<Tensor> Results(Stage from = Stage::kConstant) {
    const absl::Status status = Run(from);
    EXPECT_TRUE(status.ok()) << status;
    std::vector<Tensor> out;
    for (const Tensor& t : outputs_) out.push_back(Tensor::CopyOf(t));
    return out;
  }
  // Overwrites an input where it lies.
  void Set(absl::string_view name, const Tensor& value) {
    Tensor& input = Input(name);
    ASSERT_EQ(input.type(), value.type()) << name;
    std::memcpy(input.mutable_raw(), value.raw(), static_cast<size_t>(value.bytes()));
  }
  Tensor& Input(absl::string_view name) {
    return inputs_[Find(program_->signature().inputs, name)];
  }
  const Tensor& Output(absl::string_view name) const {
    return outputs_[Find(program_->signature().outputs, name)];
  }
  const Program& program() const { return *program_; }
  Arena& arena() { return arena_; }
  RunContext& context() { return context_; }
  Bindings& bindings() { return bindings_; }

 private:
  static size_t Find(const std::vector<SignatureEntry>& entries, absl::string_view name) {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].name == name) return i;
    }
    ADD_FAILURE() << "no " << name;
    return 0;
  }

  std::shared_ptr<const Program> program_;
  std::vector<Tensor> inputs_, outputs_;
  Bindings bindings_;
  Arena arena_;
  RunContext context_;
};

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_EXEC_RUN_PROGRAM_H_
