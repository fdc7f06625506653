// File: engine.h
//
// Engine: the façade over import, Specialize, autodiff, Compile and the caches. What servers, jobs
// and benchmarks use; transport-free.
//
//   Engine engine({.threads = 2});
//   GW_ASSIGN_OR_RETURN(auto model, engine.LoadModel(ModelFormat::kFormula, "x^2*y + y^3", {}));
//   NamedViews inputs = {{"x", x}, {"y", y}};
//   GW_ASSIGN_OR_RETURN(Prepared p, engine.Prepare(*model, {.kind = Computation::kGradient},
//   inputs)); Bindings bindings;  // p.program->signature() says what goes where
//   ... p.program->Run(bindings, context);
//
// A second identical Prepare finds the Program in a cache (bounded in bytes, least recently used
// goes first): it costs one hash and one lookup. Models are cached likewise by their bytes.
// Thread-safety: every method may be called from any thread.
#ifndef GRADWIRE_ENGINE_ENGINE_H_
#define GRADWIRE_ENGINE_ENGINE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/autodiff/autodiff.h"
#include "engine/exec/compile.h"
#include "engine/exec/specialize.h"
#include "engine/loss/with_loss.h"
#include "engine/onnx/opsets.h"
#include "engine/onnx/summary.h"
#include "engine/ops/all_ops.h"
#include "engine/optim/lbfgs.h"
#include "engine/optim/schedule.h"
#include "engine/optim/training_step.h"

namespace gradwire {

enum class ModelFormat { kOnnx, kText, kFormula };

// A decoded model, kept with what identifies it.
struct LoadedModel {
  Digest digest;  // of format and bytes (and, for a formula, input types)
  std::shared_ptr<const Model> model;
};

// What to compute of a model.
struct Computation {
  // kJacobian is a Jvp or a Vjp, whichever has fewer elements to go through.
  enum Kind { kValue, kGradient, kVjp, kJvp, kHvp, kJacobian };
  Kind kind = kValue;
  // Value names. kGradient, and kHvp without cotangents: exactly one scalar (default: the model's
  // only output). kValue, kVjp, kJvp, kJacobian: default all of the model's outputs.
  std::vector<std::string> outputs = {};
  // kGradient, kVjp, kHvp, kJacobian: differentiate by these (empty: DefaultWrt()); kJvp: these
  // carry tangents.
  std::vector<std::string> wrt = {};
  bool hvp_of_cotangents = false;  // kHvp: of the sum over outputs of <cotangent, output>
  enum Direction { kAuto, kForward, kReverse } direction = kAuto;  // kJacobian
  Mode mode = Mode::kAsGraph;
  Precision precision = Precision::kAsGraph;
};

struct Prepared {
  std::shared_ptr<const Program> program;
  std::vector<std::string> outputs;  // resolved, in order
  std::vector<std::string> wrt;      // resolved, in order
  Digest graph_digest;               // of the derivative graph, without weights
  std::vector<std::string> frozen;   // inputs whose values decided shapes or branches
  bool cache_hit = false;
  absl::Duration compile_time;  // zero on a hit
};

struct SelfCheckReport {
  int64_t checks = 0;
  std::vector<std::string> declined;  // "onednn matmul f32 ...": what disagreed with the reference
};

struct EngineOptions {
  int threads = 1;  // team size of every Program
  int64_t max_nodes = 200'000;
  int64_t cache_bytes = int64_t{256} << 20;
  enum class SelfCheck { kAuto, kAlways, kNever } self_check = SelfCheck::kAuto;
  std::string self_check_dir;  // where kAuto keeps its result; empty: the user's cache dir
};

class Engine {
 public:
  explicit Engine(const EngineOptions& options);
  ~Engine();

  // Decodes (or finds) a model. `inputs` types the free names of a formula.
  // Errors: INVALID_MODEL, UNSUPPORTED_OP, UNSUPPORTED_OPSET, GRAPH_TOO_LARGE: all problems at
  // once.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(ModelFormat format,
                                                               absl::string_view bytes,
                                                               const NamedViews& inputs);

  // A model with a loss on top: see with_loss.h. The loss is `named`, or the model that `bytes`
  // hold; a formula's free names have the types of the model's values of those names, or of
  // `inputs`. Errors: those of WithLoss, of LoadModel for the loss ("loss.graph: ..."), and of
  // Specialize where types are needed.
  struct LossSource {
    LossSpec named = {};
    std::string prediction = {};
    ModelFormat format = ModelFormat::kOnnx;
    absl::string_view bytes = {};
  };
  absl::StatusOr<std::shared_ptr<const LoadedModel>> AttachLoss(const LoadedModel& model,
                                                                const LossSource& loss,
                                                                const NamedViews& inputs);

  // What the model consists of, also where it has ops that are not supported. Not cached.
  // Errors: INVALID_MODEL for what is no model at all; GRAPH_TOO_LARGE.
  absl::StatusOr<ModelSummary> Summarize(ModelFormat format, absl::string_view bytes,
                                         const NamedViews& inputs) const;

  // Specializes, differentiates and compiles (or finds the Program). Checks every input.
  // Errors: those of Specialize and of autodiff.
  absl::StatusOr<Prepared> Prepare(const LoadedModel& model, const Computation& computation,
                                   const NamedViews& inputs);

  // A Graph that the caller has built on its own: a training step, say. Cached by its digest.
  absl::StatusOr<std::shared_ptr<const Program>> CompileGraph(const Graph& graph);

  // The graph that Prepare would compile, as the bytes of an ONNX model: export.h says how names
  // are spelt. The model's initialisers are its initialisers, in the precision asked for; so are,
  // with the values of this call, inputs that decided a shape or a branch. Errors: those of Prepare
  // and ExportOnnx.
  absl::StatusOr<std::string> Export(const LoadedModel& model, const Computation& computation,
                                     const NamedViews& inputs) const;

  // A model with other values for its parameters, as ONNX: see WithInitializers. `inputs` types the
  // free names of a formula.
  absl::StatusOr<std::string> ExportWith(ModelFormat format, absl::string_view bytes,
                                         const NamedViews& inputs, const NamedViews& values) const;

  const EngineOptions& options() const { return options_; }
  const OpRegistry& ops() const { return AllOps(); }
  const SelfCheckReport& self_check() const;
  // "oneDNN 2.6.3", "AVX2": for ComputeInfo and GetCapabilities.
  std::string onednn_version() const;
  std::string isa() const;
  static absl::string_view version();

 private:
  struct State;
  const EngineOptions options_;
  std::unique_ptr<State> state_;
};

// The model that a sample of a row says as text, in an opset: for who tries the rows of the table.
absl::StatusOr<Model> ModelOfSample(const Sample& sample, int opset);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_ENGINE_H_
