// In-process benchmarks: what a gradient costs without a wire, and how compilation grows with
// nodes.
//
//   build/bench/bin/engine_bench --benchmark_filter=gradient
#include <benchmark/benchmark.h>
#include <malloc.h>

#include "bench/workloads.h"

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

// One training step on one batch: forward, loss, backward, update, and the check that all is
// finite.
void BM_TrainingStep(benchmark::State& state, Training (*make)()) {
  Engine engine(Options(static_cast<int>(state.range(0))));
  StepRunner runner(engine, make());
  for (auto _ : state) runner.Run();
  state.counters["steps"] = static_cast<double>(runner.program().cost().steps);
  state.counters["arena_bytes"] = static_cast<double>(runner.program().cost().arena_bytes);
  state.SetLabel(std::to_string(state.range(0)) + " threads");
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

}  // namespace
}  // namespace gradwire::bench

BENCHMARK_MAIN();
