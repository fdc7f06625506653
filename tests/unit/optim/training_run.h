// What tests of training share: a step that is built, compiled and run, and the golden file.
#ifndef GRADWIRE_TESTS_UNIT_OPTIM_TRAINING_RUN_H_
#define GRADWIRE_TESTS_UNIT_OPTIM_TRAINING_RUN_H_

#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/optim/schedule.h"
#include "engine/optim/training_step.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {

// tests/unit/optim/make_golden.py says what is in it.
inline const nlohmann::json& Golden() {
  static const auto& golden = *new nlohmann::json([] {
    std::ifstream file(GRADWIRE_SOURCE_DIR "/tests/unit/optim/golden.json");
    return nlohmann::json::parse(file);
  }());
  return golden;
}

// |got - want| <= tolerance * max(1e-3, |want|), element by element.
inline void ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                       double tolerance, const std::string& where) {
  ASSERT_EQ(got.size(), want.size()) << where;
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], want[i], tolerance * std::max(1e-3, std::abs(want[i])))
        << where << ", element " << i;
  }
}

// The Programs of a training step over one set of buffers, driven as a job drives them.
class TrainingRun {
 public:
  TrainingRun(const Graph& graph, const TrainingSpec& spec, const NamedTensors& inputs,
              const Schedule& schedule = {})
      : spec_(spec),
        schedule_(schedule),
        graphs_(Value(BuildTrainingStep(graph, spec))),
        memories_(spec.groups.size()) {
    NamedTensors all = inputs;
    for (const SlotTensor& slot : graphs_.slots) {
      all[slot.name] = Converted(Filled(slot.type.shape, slot.initial), slot.type.dtype);
    }
    for (const ScalarInput& s : graphs_.scalars) {
      all[s.name] = Converted(Tensor::Scalar(0.0), s.dtype);
    }
    EXPECT_TRUE(VerifyGraph(graphs_.step).ok()) << VerifyGraph(graphs_.step);
    step_ = std::make_unique<BoundProgram>(CompileGraph(graphs_.step), all);
    if (!graphs_.accumulate.has_value()) return;
    EXPECT_TRUE(VerifyGraph(*graphs_.accumulate).ok()) << VerifyGraph(*graphs_.accumulate);
    accumulate_ = std::make_unique<BoundProgram>(CompileGraph(*graphs_.accumulate), all);
  }

  // Inputs of one batch, then a step.
  absl::Status Step(const NamedTensors& batch) {
    for (const auto& [name, value] : batch) step_->Set(name, value);
    WriteScalars();
    GW_RETURN_IF_ERROR(step_->Run());
    ++steps_done_;
    return absl::OkStatus();
  }
  // The same of several batches.
  absl::Status AccumulatedStep(const std::vector<NamedTensors>& batches) {
    for (const NamedTensors& batch : batches) {
      for (const auto& [name, value] : batch) accumulate_->Set(name, value);
      GW_RETURN_IF_ERROR(accumulate_->Run());
    }
    Share(*accumulate_, *step_);
    GW_RETURN_IF_ERROR(Step({}));
    Share(*step_, *accumulate_);
    return absl::OkStatus();
  }

  BoundProgram& step() { return *step_; }
  BoundProgram& accumulate() { return *accumulate_; }
  const TrainingGraphs& graphs() const { return graphs_; }
  Schedule& schedule() { return schedule_; }
  std::vector<double> State(const std::string& name) { return ToDoubles(step_->Input(name)); }
  double Output(const std::string& name) { return ElementAsDouble(step_->Output(name), 0); }

  static Tensor Filled(const Shape& shape, double value) {
    return Tensor::FromVector<double>(
        shape, std::vector<double>(static_cast<size_t>(shape.num_elements()), value));
  }

 private:
  void WriteScalars() {
    std::vector<Scalars> scalars;
    for (size_t g = 0; g < spec_.groups.size(); ++g) {
      const Optimizer& o = spec_.groups[g];
      const ScheduledRate rate = schedule_.At(o.hyper().at("lr"), steps_done_);
      scalars.push_back(o.ScalarsOf({steps_done_ + 1, o.HyperAt(rate)}, &memories_[g]));
    }
    for (const ScalarInput& s : graphs_.scalars) {
      const double value = scalars[static_cast<size_t>(s.group)].at(s.scalar);
      EXPECT_TRUE(std::isfinite(value)) << s.name;
      step_->Set(s.name, Converted(Tensor::Scalar(value), s.dtype));
    }
  }

  // Copies the state of one Program to the other: a job has one buffer for both.
  static void Share(BoundProgram& from, BoundProgram& to) {
    for (int i : from.program().signature().updated_inputs) {
      const std::string& name = from.program().signature().inputs[static_cast<size_t>(i)].name;
      for (const SignatureEntry& e : to.program().signature().inputs) {
        if (e.name == name) to.Set(name, from.Input(name));
      }
    }
  }

  const TrainingSpec spec_;
  Schedule schedule_;
  const TrainingGraphs graphs_;
  std::vector<OptimizerMemory> memories_;
  std::unique_ptr<BoundProgram> step_, accumulate_;
  int64_t steps_done_ = 0;
};

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_OPTIM_TRAINING_RUN_H_
