// In-process benchmarks: what a gradient costs without a wire, and how compilation grows with
// nodes.
//
//   build/bench/bin/engine_bench --benchmark_filter=gradient
//   build/bench/bin/engine_bench --benchmark_filter=TrainingStep/cnn/1/ --profile
//   build/bench/bin/engine_bench --model=FOLDER --benchmark_filter=TrainingStep/model/
//
// Besides Google Benchmark's flags: --profile prints what the kernels of a training step take;
// --model=FOLDER adds the training step of a model that tests/conformance/export_models.py has
// written, and --answers then writes its loss and gradients to FOLDER/answers.safetensors.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>

#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "bench/workloads.h"
#include "engine/io/safetensors.h"

namespace gradwire::bench {
namespace {

EngineOptions Options(int threads) {
  EngineOptions options;
  options.threads = threads;
  return options;
}

void BM_Gradient(benchmark::State& state, Workload (*make)()) {
  Engine engine(Options(static_cast<int>(state.range(0))));
  Runner runner(engine, make(), Computation::kGradient);
  for (auto _ : state) runner.Run();
  state.counters["steps"] = static_cast<double>(runner.program().cost().steps);
  state.counters["arena_bytes"] = static_cast<double>(runner.program().cost().arena_bytes);
  state.SetLabel(std::to_string(state.range(0)) + " threads");
}
BENCHMARK_CAPTURE(BM_Gradient, seed, &Seed)->Arg(1)->UseRealTime();
BENCHMARK_CAPTURE(BM_Gradient, mlp_small, &MlpSmall)->Arg(1)->UseRealTime();
BENCHMARK_CAPTURE(BM_Gradient, mlp_grad, &MlpGrad)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(
    BM_Gradient, elementwise, +[] { return Elementwise(4 << 20); })
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();

// Whether to print profiles, and how they came out: of a benchmark's last, longest loop. A step's
// time is the least of all runs: others on the machine can only add to it.
bool profiles = false;
std::map<std::string, std::string> profile_of;

// The kernels of a Program by the time they take.
std::string Profile(const Program& program, const std::vector<double>& step_seconds) {
  struct Row {
    std::string kernel;
    int64_t calls = 0;
    double seconds = 0;
  };
  std::map<std::string, Row> by_kernel;
  double total = 0;
  for (size_t i = 0; i < step_seconds.size(); ++i) {
    Row& row = by_kernel[program.DescribeStep(static_cast<int64_t>(i))];
    ++row.calls;
    row.seconds += step_seconds[i];
    total += step_seconds[i];
  }
  std::vector<Row> rows;
  for (auto& [kernel, row] : by_kernel) rows.push_back({kernel, row.calls, row.seconds});
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  std::string out = "     ms   share  calls  kernel\n";
  for (const Row& row : rows) {
    absl::StrAppendFormat(&out, "%7.3f %6.1f%% %6d  %s\n", row.seconds * 1e3,
                          100 * row.seconds / total, row.calls, row.kernel);
  }
  absl::StrAppendFormat(&out, "%7.3f         %6d  all\n", total * 1e3, step_seconds.size());
  return out;
}

// One training step on one batch: forward, loss, backward, update, and the check that all is
// finite.
void RunTraining(benchmark::State& state, Engine& engine, const Training& training) {
  StepRunner runner(engine, training);
  std::vector<double> seconds(static_cast<size_t>(runner.program().cost().steps));
  std::vector<double> least(seconds.size(), std::numeric_limits<double>::infinity());
  for (auto _ : state) {
    runner.Run(profiles ? seconds.data() : nullptr);
    for (size_t i = 0; profiles && i < least.size(); ++i) least[i] = std::min(least[i], seconds[i]);
  }
  if (profiles) {
    profile_of[absl::StrCat(training.model.name, ", ", state.range(0), " threads")] =
        Profile(runner.program(), least);
  }
  state.counters["steps"] = static_cast<double>(runner.program().cost().steps);
  state.counters["arena_bytes"] = static_cast<double>(runner.program().cost().arena_bytes);
  state.SetLabel(std::to_string(state.range(0)) + " threads");
}
void BM_TrainingStep(benchmark::State& state, Training (*make)()) {
  Engine engine(Options(static_cast<int>(state.range(0))));
  RunTraining(state, engine, make());
}
BENCHMARK_CAPTURE(BM_TrainingStep, digits, &Digits)->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(
    BM_TrainingStep, mlp_train_sgd, +[] { return MlpTrain("sgd"); })
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK_CAPTURE(
    BM_TrainingStep, mlp_train_adam, +[] { return MlpTrain("adam"); })
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_TrainingStep, cnn, &CnnTrain)->Arg(1)->Arg(2)->UseRealTime();

// Import + Specialize + Vjp + Compile of a chain, nothing cached.
void BM_CompileChain(benchmark::State& state) {
  const Workload chain = Chain(state.range(0));
  NamedViews views;
  for (const auto& [name, tensor] : chain.inputs) views[name] = tensor;
  EngineOptions options = Options(1);
  options.cache_bytes = 0;
  options.self_check = EngineOptions::SelfCheck::kNever;
  // As gradwire-server does: memory that was touched once is kept, or page faults are what is
  // timed.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  Engine engine(options);
  for (auto _ : state) {
    auto model = engine.LoadModel(chain.format, chain.model, views);
    Computation gradient;
    gradient.kind = Computation::kGradient;
    auto prepared = engine.Prepare(**model, gradient, views);
    if (!prepared.ok()) state.SkipWithError(prepared.status().ToString().c_str());
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_CompileChain)->Arg(1000)->Arg(10000)->Arg(100000)->Unit(benchmark::kMillisecond);

void AddModel(const std::string& folder) {
  benchmark::RegisterBenchmark("BM_TrainingStep/model",
                               [folder](benchmark::State& state) {
                                 Engine engine(Options(static_cast<int>(state.range(0))));
                                 RunTraining(state, engine, FromFolder(engine, folder));
                               })
      ->Arg(1)
      ->Arg(2)
      ->UseRealTime();
}

// Loss and gradients of a model as it was exported.
bool WriteAnswers(const std::string& folder) {
  Engine engine(Options(1));
  const Runner runner(engine, FromFolder(engine, folder).model, Computation::kGradient,
                      Mode::kTrain);
  std::vector<std::pair<std::string, TensorView>> named;
  for (size_t i = 0; i < runner.outputs().size(); ++i) {
    named.emplace_back(runner.program().signature().outputs[i].name, runner.outputs()[i]);
  }
  std::ofstream file(folder + "/answers.safetensors", std::ios::binary);
  return static_cast<bool>(file << WriteSafetensors(named) << std::flush);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string folder;
  bool answers = false;
  for (int i = 1; i < argc; ++i) {
    absl::string_view flag = argv[i];
    if (absl::ConsumePrefix(&flag, "--model=")) {
      folder = std::string(flag);
    } else if (flag == "--profile") {
      profiles = true;
    } else if (flag == "--answers") {
      answers = true;
    } else {
      std::fprintf(stderr, "engine_bench: unknown flag %s\n", argv[i]);
      return 1;
    }
  }
  if (!folder.empty()) AddModel(folder);
  if (answers && !WriteAnswers(folder)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  for (const auto& [name, table] : profile_of) std::printf("\n%s\n%s", name.c_str(), table.c_str());
  return 0;
}

}  // namespace
}  // namespace gradwire::bench

int main(int argc, char** argv) { return gradwire::bench::Main(argc, argv); }
