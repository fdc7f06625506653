#include "engine/engine.h"

#include <algorithm>
#include <bit>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/checked.h"
#include "engine/exec/self_check.h"
#include "engine/kernels/own_provider.h"
#include "engine/lru_cache.h"
#include "engine/onednn/provider.h"
#include "engine/onnx/export.h"
#include "engine/onnx/formula.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_text.h"

namespace gradwire {
namespace {

constexpr char kVersion[] = "0.1.0";

// Of the graphs in its nodes too, which nest a few deep.
int64_t FootprintOf(const Model& model) {
  int64_t bytes = 4096;
  for (const ModelInitializer& init : model.initializers) bytes += init.data.bytes() + 256;
  for (const ModelNode& node : model.nodes) {
    for (const Attrs::Entry& entry : node.attrs.entries()) {
      const auto* body = std::get_if<std::shared_ptr<const Model>>(&entry.second);
      if (body != nullptr) bytes += FootprintOf(**body);
    }
  }
  return bytes + static_cast<int64_t>(model.nodes.size() * 512 + model.value_names.size() * 128);
}

absl::string_view Bytes(const TensorView& view) {
  return {static_cast<const char*>(view.raw()), static_cast<size_t>(view.bytes())};
}

// Inputs in a fixed order: a map has none.
std::vector<const NamedViews::value_type*> Sorted(const NamedViews& inputs) {
  std::vector<const NamedViews::value_type*> out;
  for (const auto& entry : inputs) out.push_back(&entry);
  std::sort(out.begin(), out.end(), [](auto* a, auto* b) { return a->first < b->first; });
  return out;
}

// Of everything that decides the Program but the values of frozen inputs.
Digest CallKey(const LoadedModel& model, const Computation& c, const NamedViews& inputs) {
  DigestBuilder d;
  d.Add(model.digest).Add(c.kind).Add(c.hvp_of_cotangents).Add(c.direction);
  d.Add(static_cast<int64_t>(c.mode)).Add(static_cast<int64_t>(c.precision));
  for (const auto* names : {&c.outputs, &c.wrt}) {
    d.Add(static_cast<int64_t>(names->size()));
    for (const std::string& name : *names) d.Add(name);
  }
  for (const auto* entry : Sorted(inputs)) {
    d.Add(entry->first).Add(static_cast<int64_t>(entry->second.dtype()));
    d.Add(entry->second.shape().rank());
    for (int64_t e : entry->second.shape().dims()) d.Add(e);
  }
  return d.Finish();
}

struct FrozenValue {
  std::string name;
  Digest digest;
};

// What one call key has led to, for each set of frozen values seen.
struct Variant {
  std::vector<FrozenValue> frozen;
  Prepared prepared;
};
using Variants = std::vector<Variant>;
constexpr size_t kMaxVariants = 16;

bool Holds(const Variant& variant, const NamedViews& inputs) {
  return std::all_of(variant.frozen.begin(), variant.frozen.end(), [&](const FrozenValue& f) {
    auto it = inputs.find(f.name);
    // Frozen initialisers that the call does not replace are part of the model's digest.
    return it != inputs.end() && DigestOf(Bytes(it->second)) == f.digest;
  });
}

absl::StatusOr<onnx::ModelProto> Parse(ModelFormat format, absl::string_view bytes,
                                       const NamedViews& inputs, int64_t max_nodes) {
  switch (format) {
    case ModelFormat::kOnnx:
      return ParseOnnx(bytes);
    case ModelFormat::kText:
      return ParseOnnxText(bytes, max_nodes);
    case ModelFormat::kFormula: {
      FormulaTypes types;
      for (const auto& [name, view] : inputs) types.inputs[name] = view.dtype();
      return ParseFormula(bytes, types, max_nodes);
    }
  }
  return absl::InternalError("unknown format of a model");
}

absl::StatusOr<std::string> OnlyOutput(const Model& model, const std::vector<std::string>& asked) {
  if (asked.size() == 1) return asked[0];
  if (asked.empty() && model.outputs.size() == 1) {
    return model.value_names[static_cast<size_t>(model.outputs[0])];
  }
  return Error(Reason::kUnknownOutput,
               absl::StrCat("output: the model has ", model.outputs.size(),
                            " outputs; say which one is to be differentiated"));
}

// Whether a Jacobian takes fewer tangents of `wrt` than cotangents of the outputs.
absl::StatusOr<bool> IsForward(const Graph& graph, Computation::Direction direction,
                               const std::vector<std::string>& wrt) {
  if (direction == Computation::kReverse) return false;
  int64_t tangents = 0, cotangents = 0;
  Problems problems;
  for (const std::string& name : wrt) {
    const ValueId v = graph.FindNamed(name);
    if (v == kNoValue) return false;  // for Vjp to tell
    tangents = SaturatingAdd(tangents, graph.type(v).shape.num_elements());
    if (graph.FindInput(name) != kNoValue) continue;
    // A tangent there would contradict those of the values that it is computed from.
    if (direction == Computation::kAuto) return false;
    problems.Add(Reason::kInvalidSpec, "direction",
                 absl::StrCat("FORWARD by \"", name,
                              "\", which is neither an input nor an initialiser: use REVERSE"));
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  for (const GraphOutput& o : graph.outputs()) {
    const TensorType& type = graph.type(o.value);
    if (IsFloating(type.dtype)) cotangents = SaturatingAdd(cotangents, type.shape.num_elements());
  }
  return direction == Computation::kForward || tangents <= cotangents;
}

absl::StatusOr<Graph> Derive(const Graph& graph, const Computation& c,
                             const std::vector<std::string>& outputs,
                             const std::vector<std::string>& wrt) {
  switch (c.kind) {
    case Computation::kValue:
      return graph;
    case Computation::kGradient:
      return Gradient(graph, outputs[0], wrt);
    case Computation::kVjp:
      return Vjp(graph, wrt);
    case Computation::kJvp:
      return Jvp(graph, wrt);
    case Computation::kHvp:
      return Hvp(graph, c.hvp_of_cotangents ? "" : outputs[0], wrt);
    case Computation::kJacobian: {
      GW_ASSIGN_OR_RETURN(const bool forward, IsForward(graph, c.direction, wrt));
      return forward ? Jvp(graph, wrt) : Vjp(graph, wrt);
    }
  }
  return absl::InternalError("unknown kind of computation");
}

// Of what a model is made of: a formula's free names have the types of the inputs.
Digest DigestOfSource(ModelFormat format, absl::string_view bytes, const NamedViews& inputs) {
  DigestBuilder d;
  d.Add(static_cast<int64_t>(format)).Add(DigestOf(bytes));
  if (format == ModelFormat::kFormula) {
    for (const auto* entry : Sorted(inputs)) {
      d.Add(entry->first).Add(static_cast<int64_t>(entry->second.dtype()));
    }
  }
  return d.Finish();
}

Digest DigestOfLoss(const Engine::LossSource& loss, const NamedViews& inputs) {
  const LossSpec& spec = loss.named;
  if (spec.name.empty()) return DigestOfSource(loss.format, loss.bytes, inputs);
  DigestBuilder d;
  d.Add(spec.name).Add(static_cast<int64_t>(spec.reduction)).Add(loss.prediction);
  for (const auto& [name, value] : spec.settings) d.Add(name).Add(std::bit_cast<int64_t>(value));
  const TensorView weight = spec.weight;
  d.Add(static_cast<int64_t>(weight.dtype()));
  for (int64_t e : weight.shape().dims()) d.Add(e);
  return d.Add(DigestOf(Bytes(weight))).Finish();
}

// `inputs`, and the types of those of the model's values that `graph` has as inputs.
absl::StatusOr<NamedViews> TypesForLoss(const Model& model, const Model& graph,
                                        const NamedViews& inputs) {
  NamedViews types = inputs, known;
  SpecializeRequest request;
  for (const auto& [name, view] : inputs) {
    if (model.FindValue(name) >= 0) known.emplace(name, view);
  }
  request.inputs = &known;
  for (const ModelInput& input : graph.inputs) {
    const std::string& name = graph.value_names[static_cast<size_t>(input.value)];
    if (model.FindValue(name) >= 0) request.outputs.push_back(name);
  }
  if (request.outputs.empty()) return types;
  GW_ASSIGN_OR_RETURN(const Specialized specialized, Specialize(model, request));
  for (const GraphOutput& output : specialized.graph.outputs()) {
    types.insert_or_assign(output.name, TensorView(specialized.graph.type(output.value), nullptr));
  }
  return types;
}

// The graph of a computation, with what was left to defaults.
struct Derived {
  Graph graph;
  std::vector<std::string> outputs;
  std::vector<std::string> wrt;
  std::vector<std::string> frozen;
};

absl::StatusOr<Derived> DeriveFrom(const Model& model, const Computation& computation,
                                   const NamedViews& inputs) {
  Derived out;
  out.outputs = computation.outputs;
  if (computation.kind == Computation::kGradient ||
      (computation.kind == Computation::kHvp && !computation.hvp_of_cotangents)) {
    GW_ASSIGN_OR_RETURN(std::string output, OnlyOutput(model, computation.outputs));
    out.outputs = {std::move(output)};
  }
  if (out.outputs.empty()) {
    for (ModelValue v : model.outputs) {
      out.outputs.push_back(model.value_names[static_cast<size_t>(v)]);
    }
  }
  out.wrt = computation.wrt;
  if (out.wrt.empty() && computation.kind != Computation::kValue &&
      computation.kind != Computation::kJvp) {
    out.wrt = DefaultWrt(model, inputs);
  }
  SpecializeRequest request;
  request.inputs = &inputs;
  request.outputs = out.outputs;
  request.marks = out.wrt;
  request.mode = computation.mode;
  request.precision = computation.precision;
  GW_ASSIGN_OR_RETURN(Specialized specialized, Specialize(model, request));
  GW_ASSIGN_OR_RETURN(out.graph, Derive(specialized.graph, computation, out.outputs, out.wrt));
  out.frozen = std::move(specialized.frozen);
  return out;
}

}  // namespace

struct Engine::State {
  CompileOptions compile;
  SelfCheckReport report;
  LruCache<Digest, std::shared_ptr<const LoadedModel>> models;
  LruCache<Digest, std::shared_ptr<const Variants>> calls;
  LruCache<Digest, std::shared_ptr<const Program>> programs;
  absl::Mutex mutex;  // of the read-modify-write of `calls`

  explicit State(int64_t cache_bytes)
      : models(cache_bytes / 2), calls(cache_bytes / 8), programs(cache_bytes / 2) {}

  absl::StatusOr<std::shared_ptr<const Program>> CompileOnce(const Graph& graph) {
    if (auto known = programs.Find(graph.digest())) return *known;
    GW_ASSIGN_OR_RETURN(std::shared_ptr<const Program> program, Compile(graph, compile));
    programs.Insert(graph.digest(), program, program->footprint_bytes());
    return program;
  }

  void Remember(const Digest& key, Variant variant) {
    absl::MutexLock lock(&mutex);
    auto variants = std::make_shared<Variants>();
    if (auto known = calls.Find(key)) *variants = **known;
    if (variants->size() >= kMaxVariants) variants->erase(variants->begin());
    variants->push_back(std::move(variant));
    int64_t bytes = 256;
    for (const Variant& v : *variants) {
      bytes += 1024 + 64 * static_cast<int64_t>(v.prepared.wrt.size() + v.frozen.size());
    }
    calls.Insert(key, std::move(variants), bytes);
  }
};

Engine::Engine(const EngineOptions& options)
    : options_(options), state_(std::make_unique<State>(options.cache_bytes)) {
  std::vector<std::shared_ptr<const KernelProvider>> providers = {MakeOneDnnProvider(),
                                                                  MakeOwnProvider()};
  CheckedProviders checked = CheckProviders(std::move(providers), AllOps(), options.threads,
                                            options.self_check == EngineOptions::SelfCheck::kNever);
  state_->compile.threads = options.threads;
  state_->compile.providers = std::move(checked.providers);
  state_->compile.declined_tiles = std::move(checked.declined_tiles);
  state_->compile.declined_reductions = std::move(checked.declined_reductions);
  state_->report = {checked.checks, std::move(checked.declined)};
}

absl::StatusOr<Model> ModelOfSample(const Sample& sample, int opset) {
  GW_ASSIGN_OR_RETURN(const onnx::ModelProto proto,
                      ParseOnnxText(absl::StrCat("<ir_version: 8, opset_import: [\"\" : ", opset,
                                                 "]> ", sample.text)));
  return ImportModel(proto, AllOps(), {});
}

Engine::~Engine() = default;

const SelfCheckReport& Engine::self_check() const { return state_->report; }
std::string Engine::onednn_version() const { return OneDnnVersion(); }
std::string Engine::isa() const { return OneDnnIsa(); }
absl::string_view Engine::version() { return kVersion; }

absl::StatusOr<std::shared_ptr<const LoadedModel>> Engine::LoadModel(ModelFormat format,
                                                                     absl::string_view bytes,
                                                                     const NamedViews& inputs) {
  const Digest digest = DigestOfSource(format, bytes, inputs);
  if (auto known = state_->models.Find(digest)) return *known;
  GW_ASSIGN_OR_RETURN(const onnx::ModelProto proto,
                      Parse(format, bytes, inputs, options_.max_nodes));
  GW_ASSIGN_OR_RETURN(Model model, ImportModel(proto, AllOps(), {options_.max_nodes}));
  auto loaded = std::make_shared<LoadedModel>();
  loaded->digest = digest;
  const int64_t footprint = FootprintOf(model);
  loaded->model = std::make_shared<const Model>(std::move(model));
  state_->models.Insert(digest, loaded, footprint);
  return loaded;
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> Engine::AttachLoss(const LoadedModel& model,
                                                                      const LossSource& loss,
                                                                      const NamedViews& inputs) {
  const Digest digest = DigestBuilder().Add(model.digest).Add(DigestOfLoss(loss, inputs)).Finish();
  if (auto known = state_->models.Find(digest)) return *known;
  std::shared_ptr<const LoadedModel> graph;
  if (loss.named.name.empty()) {
    const auto load = [&](const NamedViews& types) -> absl::Status {
      const auto loaded = LoadModel(loss.format, loss.bytes, types);
      if (loaded.ok()) graph = *loaded;
      Problems problems;
      problems.Add(loaded.status(), "loss.graph");
      return problems.ToStatus();
    };
    GW_RETURN_IF_ERROR(load(inputs));
    if (loss.format == ModelFormat::kFormula) {
      GW_ASSIGN_OR_RETURN(const NamedViews types,
                          TypesForLoss(*model.model, *graph->model, inputs));
      GW_RETURN_IF_ERROR(load(types));
    }
  }
  const LossOnModel on_model = {loss.named, graph == nullptr ? nullptr : graph->model.get(),
                                loss.prediction};
  GW_ASSIGN_OR_RETURN(Model both, WithLoss(*model.model, on_model));
  const int64_t footprint = FootprintOf(both);
  auto loaded = std::make_shared<const LoadedModel>(
      LoadedModel{digest, std::make_shared<const Model>(std::move(both))});
  state_->models.Insert(digest, loaded, footprint);
  return loaded;
}

absl::StatusOr<ModelSummary> Engine::Summarize(ModelFormat format, absl::string_view bytes,
                                               const NamedViews& inputs) const {
  GW_ASSIGN_OR_RETURN(const onnx::ModelProto proto,
                      Parse(format, bytes, inputs, options_.max_nodes));
  return SummarizeModel(proto, AllOps(), options_.max_nodes);
}

absl::StatusOr<Prepared> Engine::Prepare(const LoadedModel& loaded, const Computation& computation,
                                         const NamedViews& inputs) {
  const Digest key = CallKey(loaded, computation, inputs);
  if (auto variants = state_->calls.Find(key)) {
    for (const Variant& variant : **variants) {
      if (!Holds(variant, inputs)) continue;
      Prepared prepared = variant.prepared;
      prepared.cache_hit = true;
      prepared.compile_time = absl::ZeroDuration();
      return prepared;
    }
  }
  const absl::Time start = absl::Now();
  GW_ASSIGN_OR_RETURN(Derived derived, DeriveFrom(*loaded.model, computation, inputs));
  Variant variant;
  Prepared& prepared = variant.prepared;
  prepared.outputs = std::move(derived.outputs);
  prepared.wrt = std::move(derived.wrt);
  prepared.graph_digest = derived.graph.digest();
  prepared.frozen = derived.frozen;
  GW_ASSIGN_OR_RETURN(prepared.program, state_->CompileOnce(derived.graph));
  for (const std::string& name : derived.frozen) {
    auto it = inputs.find(name);
    if (it != inputs.end()) variant.frozen.push_back({name, DigestOf(Bytes(it->second))});
  }
  Prepared result = prepared;
  state_->Remember(key, std::move(variant));
  result.compile_time = absl::Now() - start;
  return result;
}

absl::StatusOr<std::string> Engine::ExportWith(ModelFormat format, absl::string_view bytes,
                                               const NamedViews& inputs,
                                               const NamedViews& values) const {
  GW_ASSIGN_OR_RETURN(onnx::ModelProto proto, Parse(format, bytes, inputs, options_.max_nodes));
  return WithInitializers(std::move(proto), values);
}

absl::StatusOr<std::shared_ptr<const Program>> Engine::CompileGraph(const Graph& graph) {
  return state_->CompileOnce(graph);
}

absl::StatusOr<std::string> Engine::Export(const LoadedModel& loaded,
                                           const Computation& computation,
                                           const NamedViews& inputs) const {
  const Model& model = *loaded.model;
  GW_ASSIGN_OR_RETURN(const Derived derived, DeriveFrom(model, computation, inputs));
  NamedViews fixed;
  for (const ModelInitializer& init : model.initializers) {
    fixed.emplace(model.value_names[static_cast<size_t>(init.value)], init.data);
  }
  // Another value of these would need another graph.
  for (const std::string& name : derived.frozen) fixed.try_emplace(name);
  ExportOptions options;
  std::vector<Tensor> converted;
  for (const GraphInput& input : derived.graph.inputs()) {
    const auto known = fixed.find(input.name);
    if (known == fixed.end()) continue;
    const auto given = inputs.find(input.name);
    TensorView value = given != inputs.end() ? given->second : known->second;
    const DType dtype = derived.graph.type(input.value).dtype;
    if (value.dtype() != dtype) value = converted.emplace_back(Converted(value, dtype));
    options.initializers.emplace(input.name, std::move(value));
  }
  return ExportOnnx(derived.graph, options);
}

}  // namespace gradwire
