// Any bytes as a model, all the way: decode, specialize, differentiate, compile, run. The first
// byte chooses the format and what is computed. Nothing may crash, hang or take more memory than
// its plan says.
#include <cstdint>

#include "engine/engine.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxArenaBytes = 16 << 20;
constexpr int64_t kMaxElements = 1 << 16;

// A value for each declared input: symbolic extents are 2, a rank that is not known is 0.
std::vector<std::pair<std::string, Tensor>> MakeInputs(const Model& model) {
  std::vector<std::pair<std::string, Tensor>> out;
  for (const ModelInput& input : model.inputs) {
    Dims dims;
    for (const ModelDim& d : input.dims.value_or(std::vector<ModelDim>())) {
      dims.push_back(d.extent >= 0 ? d.extent : 2);
    }
    const DType dtype = input.dtype == DType::kUndefined ? DType::kDouble : input.dtype;
    absl::StatusOr<Shape> shape = Shape::Make(dims);
    if (!shape.ok() || shape->num_elements() > kMaxElements) continue;
    out.emplace_back(model.value_names[static_cast<size_t>(input.value)],
                     Tensor(TensorType{dtype, *shape}));
  }
  return out;
}

void Run(const LoadedModel& loaded, const Program& program, const NamedViews& inputs) {
  const Cost& cost = program.cost();
  if (cost.arena_bytes + cost.output_bytes + cost.input_bytes > kMaxArenaBytes) return;
  Bindings bindings;
  std::vector<Tensor> tensors;
  for (const SignatureEntry& e : program.signature().inputs) {
    auto given = inputs.find(e.name);
    if (given != inputs.end() && given->second.type() == e.type) {
      bindings.inputs.push_back(given->second.raw());
      continue;
    }
    tensors.emplace_back(e.type);
    for (const ModelInitializer& init : loaded.model->initializers) {
      if (loaded.model->value_names[static_cast<size_t>(init.value)] == e.name) {
        tensors.back() = init.data;
      }
    }
    bindings.inputs.push_back(tensors.back().raw());
  }
  for (const SignatureEntry& e : program.signature().outputs) {
    tensors.emplace_back(e.type);
    bindings.outputs.push_back(tensors.back().mutable_raw());
  }
  static Arena& arena = *new Arena();
  const CancelToken cancel(absl::Now() + absl::Seconds(5));
  RunContext context{.arena = &arena, .cancel = &cancel};
  program.Run(bindings, context).IgnoreError();
}

}  // namespace
}  // namespace gradwire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace gradwire;  // NOLINT: a single function
  static Engine& engine = *new Engine({.threads = 1,
                                       .max_nodes = 2000,
                                       .cache_bytes = 1 << 20,
                                       .self_check = EngineOptions::SelfCheck::kNever});
  if (size < 1) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const NamedViews none;
  auto loaded = engine.LoadModel(static_cast<ModelFormat>(data[0] % 3), bytes, none);
  if (!loaded.ok()) return 0;
  const auto tensors = MakeInputs(*(*loaded)->model);
  NamedViews inputs;
  for (const auto& [name, tensor] : tensors) inputs.emplace(name, tensor);
  Computation computation;
  computation.kind = static_cast<Computation::Kind>(data[0] / 3 % 5);
  computation.mode = static_cast<Mode>(data[0] / 15 % 3);
  if (computation.kind == Computation::kJvp) {
    computation.wrt = DefaultWrt(*(*loaded)->model, inputs);
  }
  auto prepared = engine.Prepare(**loaded, computation, inputs);
  if (prepared.ok()) Run(**loaded, *prepared->program, inputs);
  return 0;
}
