#include "engine/exec/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "engine/engine.h"
#include "engine/ops/builders.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using testing::Each;
using testing::EndsWith;
using testing::HasSubstr;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// Steps of the gradients of PerceptronText().
constexpr int64_t kGeluSteps = 11;
constexpr int64_t kReluSteps = 10;

// The gradient of a model's loss with respect to `wrt`, compiled by an engine of its own.
std::shared_ptr<const Program> CompileGradient(absl::string_view text, const NamedTensors& tensors,
                                               const std::vector<std::string>& wrt, int threads = 1,
                                               ModelFormat format = ModelFormat::kText) {
  Engine engine(QuickEngine(threads));
  NamedViews views;
  for (const auto& [name, tensor] : tensors) views[name] = tensor;
  const auto model = Value(engine.LoadModel(format, text, views));
  return Value(engine.Prepare(*model, {.kind = Computation::kGradient, .wrt = wrt}, views)).program;
}

// Mean square error of a perceptron with one hidden layer of 64.
NamedTensors PerceptronInputs() {
  return {{"x", Random({DType::kFloat, {32, 48}}, 1)},  {"t", Random({DType::kFloat, {32, 8}}, 2)},
          {"w1", Random({DType::kFloat, {48, 64}}, 3)}, {"b1", Random({DType::kFloat, {64}}, 4)},
          {"w2", Random({DType::kFloat, {64, 8}}, 5)},  {"b2", Random({DType::kFloat, {8}}, 6)}};
}
std::string PerceptronText(absl::string_view activation) {
  return absl::StrCat(R"(<ir_version: 8, opset_import: ["": 20]>
perceptron (float[32,48] x, float[32,8] t, float[48,64] w1, float[64] b1, float[64,8] w2,
            float[8] b2) => (float loss) {
  h = Gemm (x, w1, b1)
  a = )",
                      activation, R"( (h)
  y = Gemm (a, w2, b2)
  d = Sub (y, t)
  s = Mul (d, d)
  loss = ReduceMean <keepdims = 0> (s)
})");
}
std::shared_ptr<const Program> PerceptronGradient(absl::string_view activation, int threads = 1) {
  return CompileGradient(PerceptronText(activation), PerceptronInputs(), {"w1", "b1", "w2", "b2"},
                         threads);
}

std::vector<std::string> StepsOf(const Program& program) {
  return absl::StrSplit(program.Describe(), '\n', absl::SkipEmpty());
}

// ---- State -------------------------------------------------------------------------------------

constexpr double kRate = 0.1;
const std::vector<double> kStart = {0.3, -1.7, 2.9, 1e-3};
const std::vector<double> kTarget = {1.0, 0.7, -0.1, 3.3};

// theta <- theta - rate * gradient of mean((theta - target)^2), as one Program.
std::shared_ptr<const Program> DescentStep() {
  GraphBuilder f;
  const TensorType type{DType::kDouble, {4}};
  const ValueId theta = f.Input("theta", type, Stage::kParameter);
  const ValueId target = f.Input("target", type, Stage::kPoint);
  f.Input("rate", {DType::kDouble, {}}, Stage::kPoint);
  const ValueId d = Sub(f, theta, target);
  f.Output("loss", ReduceMean(f, Mul(f, d, d), {}));
  const Graph loss = Value(std::move(f).Build());
  const Graph gradient = Value(Gradient(loss, "loss", {"theta"}));
  GraphBuilder b(gradient);
  b.Output("loss", gradient.FindOutput("loss"));
  const ValueId step =
      Mul(b, gradient.FindInput("rate"), gradient.FindOutput(GradientName("theta")));
  b.Update("theta", Sub(b, gradient.FindInput("theta"), step));
  const Graph graph = Value(std::move(b).Build());
  EXPECT_TRUE(VerifyGraph(graph).ok()) << VerifyGraph(graph);
  return CompileGraph(graph);
}

NamedTensors DescentInputs(const std::vector<double>& target = kTarget) {
  return {{"theta", Vector(kStart)}, {"target", Vector(target)}, {"rate", Tensor::Scalar(kRate)}};
}

TEST(StateUpdateTest, StepsOfGradientDescentEqualThoseByHandBitForBit) {
  BoundProgram descent(DescentStep(), DescentInputs());
  EXPECT_EQ(descent.program().signature().updated_inputs.size(), 1u);
  std::vector<double> theta = kStart;
  for (int step = 0; step < 20; ++step) {
    double loss = 0;
    for (size_t i = 0; i < theta.size(); ++i) {
      const double d = theta[i] - kTarget[i];
      loss += d * d;
      const double gradient = (d + d) * 0.25;
      theta[i] -= kRate * gradient;
    }
    ASSERT_TRUE(descent.Run().ok());
    ASSERT_EQ(ToDoubles(descent.Input("theta")), theta) << "step " << step;
    EXPECT_DOUBLE_EQ(ElementAsDouble(descent.Output("loss"), 0), loss / 4);
  }
}

TEST(StateUpdateTest, NothingChangesWhereTheRunIsCancelledBefore) {
  BoundProgram descent(DescentStep(), DescentInputs());
  CancelToken token;
  token.Cancel();
  descent.context().cancel = &token;
  EXPECT_EQ(descent.Run().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ToDoubles(descent.Input("theta")), kStart);
}

TEST(StateUpdateTest, NothingChangesWhereTheDeadlineHasPassed) {
  BoundProgram descent(DescentStep(), DescentInputs());
  CancelToken token(absl::Now() - absl::Seconds(1));
  descent.context().cancel = &token;
  EXPECT_EQ(descent.Run().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ToDoubles(descent.Input("theta")), kStart);
}

TEST(StateUpdateTest, NothingChangesWhereANonFiniteValueIsFound) {
  BoundProgram descent(DescentStep(), DescentInputs({1.0, 0.7, kNaN, 3.3}));
  descent.context().check_finite = true;
  const absl::Status status = descent.Run();
  EXPECT_TRUE(HasReason(status, Reason::kNonFiniteValue)) << status;
  EXPECT_EQ(ToDoubles(descent.Input("theta")), kStart);
}

TEST(StateUpdateTest, ANonFiniteNewStateIsRefusedAlsoWhereTheOutputsAreFinite) {
  NamedTensors inputs = DescentInputs();
  inputs["rate"] = Tensor::Scalar(std::numeric_limits<double>::infinity());
  BoundProgram descent(DescentStep(), inputs);
  descent.context().check_finite = true;
  const absl::Status status = descent.Run();
  EXPECT_TRUE(HasReason(status, Reason::kNonFiniteValue)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("theta"));
  EXPECT_EQ(ToDoubles(descent.Input("theta")), kStart);
}

TEST(StateUpdateTest, StatesThatSwapBothReadTheOldValues) {
  GraphBuilder b;
  const TensorType type{DType::kDouble, {2}};
  const ValueId p = b.Input("p", type, Stage::kParameter);
  const ValueId q = b.Input("q", type, Stage::kParameter);
  b.Update("p", q);
  b.Update("q", p);
  BoundProgram swap(CompileGraph(Value(std::move(b).Build())),
                    {{"p", Vector({1, 2})}, {"q", Vector({3, 4})}});
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = swap.Run();
    ASSERT_TRUE(status.ok()) << status;
  }
  EXPECT_EQ(ToDoubles(swap.Input("p")), (std::vector<double>{3, 4}));
  EXPECT_EQ(ToDoubles(swap.Input("q")), (std::vector<double>{1, 2}));
}

// Every way in which an update's value can lie: made for it alone, an input, an output as well,
// shared with another update, a constant.
TEST(StateUpdateTest, BuffersForNewValuesGetWhatTheInputsWouldHaveGot) {
  GraphBuilder b;
  const TensorType type{DType::kDouble, {2}};
  const ValueId p = b.Input("p", type, Stage::kParameter);
  const ValueId q = b.Input("q", type, Stage::kParameter);
  for (const char* name : {"r", "s", "t", "u"}) b.Input(name, type, Stage::kParameter);
  const ValueId sum = Add(b, p, q), product = Mul(b, p, q);
  b.Output("sum", sum);
  b.Update("p", q);
  b.Update("q", Sub(b, p, q));
  b.Update("r", sum);
  b.Update("s", product);
  b.Update("t", product);
  b.Update("u", b.Zeros(p));
  const auto program = CompileGraph(Value(std::move(b).Build()));
  BoundProgram copied(program), swapped(program);
  std::vector<Tensor> before, next;
  for (int i : program->signature().updated_inputs) {
    const SignatureEntry& e = program->signature().inputs[static_cast<size_t>(i)];
    before.push_back(Tensor::CopyOf(swapped.Input(e.name)));
    next.emplace_back(e.type);
    swapped.bindings().updates.push_back(next.back().mutable_raw());
  }
  ASSERT_EQ(next.size(), 6u);
  ASSERT_TRUE(copied.Run().ok());
  ASSERT_TRUE(swapped.Run().ok());
  for (size_t k = 0; k < next.size(); ++k) {
    const int i = program->signature().updated_inputs[k];
    const std::string& name = program->signature().inputs[static_cast<size_t>(i)].name;
    EXPECT_EQ(next[k], copied.Input(name)) << name;
    EXPECT_EQ(swapped.Input(name), before[k]) << name;
  }
  EXPECT_EQ(swapped.Output("sum"), copied.Output("sum"));
}

template <typename T>
class FiniteTest : public testing::Test {};
using Floats = testing::Types<float, double>;
TYPED_TEST_SUITE(FiniteTest, Floats);

TYPED_TEST(FiniteTest, TheFirstElementThatIsNotFiniteIsNamed) {
  using T = TypeParam;
  using Limits = std::numeric_limits<T>;
  constexpr int64_t kLength = (3 << 16) + 5;  // of several blocks
  GraphBuilder b;
  b.Output("y", Neg(b, b.Input("x", {kDTypeOf<T>, {kLength}}, Stage::kPoint)));
  BoundProgram run(CompileGraph(Value(std::move(b).Build())));
  run.context().check_finite = true;
  T* const x = run.Input("x").template mutable_data<T>();
  const std::vector<T> finite = {0, -Limits::max(), Limits::max(), Limits::denorm_min(), -T{0}};
  std::copy(finite.begin(), finite.end(), x);
  ASSERT_TRUE(run.Run().ok());
  for (const T bad : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(),
                      -Limits::quiet_NaN(), Limits::signaling_NaN()}) {
    for (const int64_t at : {kLength - 1, int64_t{2} << 16, int64_t{77}, int64_t{0}}) {
      const T good = std::exchange(x[at], bad);
      const absl::Status status = run.Run();
      EXPECT_TRUE(HasReason(status, Reason::kNonFiniteValue)) << bad;
      EXPECT_THAT(std::string(status.message()), EndsWith(absl::StrCat("at element ", at)));
      x[at] = good;
    }
  }
}

// ---- Stages ------------------------------------------------------------------------------------

// y = tanh(x w): its vjp with respect to both.
std::shared_ptr<const Program> LayerVjp() {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kFloat, {16, 32}}, Stage::kPoint);
  const ValueId w = b.Input("w", {DType::kFloat, {32, 24}}, Stage::kParameter);
  b.Output("y", Tanh(b, MatMul(b, x, w)));
  return CompileGraph(Value(Vjp(Value(std::move(b).Build()), {"x", "w"})));
}

TEST(StageTest, DirectionsRunAgainGiveTheBitsOfProgramsOfTheirOwn) {
  BoundProgram shared(LayerVjp());
  ASSERT_TRUE(shared.Run().ok());
  for (uint32_t k = 0; k < 5; ++k) {
    const Tensor cotangent = Random({DType::kFloat, {16, 24}}, 100 + k);
    shared.Set(CotangentName("y"), cotangent);
    BoundProgram alone(
        LayerVjp(),
        {{CotangentName("y"), cotangent}, {"x", shared.Input("x")}, {"w", shared.Input("w")}});
    EXPECT_EQ(shared.Results(Stage::kDirection), alone.Results()) << "direction " << k;
  }
}

// y = exp(w) * x, where exp(w) is of the parameter stage.
std::shared_ptr<const Program> ScaledByExp() {
  GraphBuilder b;
  const TensorType type{DType::kDouble, {100}};
  const ValueId w = b.Input("w", type, Stage::kParameter);
  const ValueId x = b.Input("x", type, Stage::kPoint);
  b.Output("y", Mul(b, Exp(b, w), x));
  return CompileGraph(Value(std::move(b).Build()));
}

TEST(StageTest, APointRunAgainKeepsWhatDependsOnParametersOnly) {
  BoundProgram scaled(ScaledByExp());
  ASSERT_TRUE(scaled.Run().ok());
  const Tensor w = Tensor::CopyOf(scaled.Input("w"));
  const Tensor x = Random({DType::kDouble, {100}}, 77);
  scaled.Set("x", x);
  scaled.Set("w", Random({DType::kDouble, {100}}, 78));  // not read: exp(w) is kept
  const std::vector<Tensor> again = scaled.Results(Stage::kPoint);
  EXPECT_EQ(again, BoundProgram(ScaledByExp(), {{"w", w}, {"x", x}}).Results());
  EXPECT_NE(again, scaled.Results(Stage::kParameter));
}

TEST(StageTest, AParameterRunAgainComputesEverythingOfIt) {
  BoundProgram scaled(ScaledByExp());
  ASSERT_TRUE(scaled.Run().ok());
  const Tensor w = Random({DType::kDouble, {100}}, 78);
  scaled.Set("w", w);
  EXPECT_EQ(scaled.Results(Stage::kParameter),
            BoundProgram(ScaledByExp(), {{"w", w}, {"x", scaled.Input("x")}}).Results());
}

TEST(StageTest, CheckedDirectionsRunAgainAreIndependentOfTheirOrder) {
  BoundProgram shared(LayerVjp());
  const Tensor first = Random({DType::kFloat, {16, 24}}, 1);
  shared.Set(CotangentName("y"), first);
  const std::vector<Tensor> fresh = shared.Results();
  shared.Set(CotangentName("y"), Random({DType::kFloat, {16, 24}}, 2));
  EXPECT_NE(shared.Results(Stage::kDirection), fresh);
  shared.Set(CotangentName("y"), first);
  EXPECT_EQ(shared.Results(Stage::kDirection), fresh);
}

TEST(ProfileTest, EachStepThatRunsGetsItsTimeAndNoOther) {
  BoundProgram scaled(ScaledByExp());  // exp at the parameter stage, the product at the point's
  ASSERT_EQ(scaled.program().cost().steps, 2) << scaled.program().Describe();
  std::vector<double> seconds(2, -1);
  scaled.context().step_seconds = seconds.data();
  const std::vector<Tensor> timed = scaled.Results();
  EXPECT_THAT(seconds, Each(testing::AllOf(testing::Ge(0), testing::Lt(60))));
  seconds = {-1, -1};
  EXPECT_EQ(scaled.Results(Stage::kPoint), timed);
  EXPECT_EQ(seconds[0], -1);
  EXPECT_GE(seconds[1], 0);
  scaled.context().step_seconds = nullptr;
  EXPECT_EQ(scaled.Results(), timed);
}

// ---- Determinism -------------------------------------------------------------------------------

TEST(DeterminismTest, EqualPlansGiveEqualBitsWhateverTheArenaHolds) {
  for (const int threads : {1, 2}) {
    const auto program = PerceptronGradient("Tanh", threads);
    const std::vector<Tensor> first = BoundProgram(program, PerceptronInputs()).Results();
    for (int run = 0; run < 10; ++run) {
      BoundProgram again(program, PerceptronInputs());
      const auto bytes = static_cast<size_t>(program->cost().arena_bytes);
      std::memset(again.arena().Reserve(program->cost().arena_bytes), 0xff - 17 * run, bytes);
      ASSERT_EQ(again.Results(), first) << threads << " threads, run " << run;
      ASSERT_EQ(again.Results(), first) << "the arena as the last run left it";
    }
  }
}

TEST(DeterminismTest, PlansAreEqualWhereNothingDiffersAndNotWhereThreadsDo) {
  const auto one = PerceptronGradient("Tanh", 1), two = PerceptronGradient("Tanh", 2);
  EXPECT_EQ(one->plan_digest(), PerceptronGradient("Tanh", 1)->plan_digest());
  EXPECT_EQ(two->plan_digest(), PerceptronGradient("Tanh", 2)->plan_digest());
  EXPECT_NE(one->plan_digest(), two->plan_digest());
  EXPECT_EQ(one->threads(), 1);
  EXPECT_EQ(two->threads(), 2);
}

// ---- Memory ------------------------------------------------------------------------------------

TEST(MemoryTest, NothingBeyondThePeakIsTouchedAndItsEndIs) {
  constexpr int64_t kBeyond = 1 << 20;
  for (const char* activation : {"Tanh", "Relu", "Gelu", "Softplus"}) {
    for (const int threads : {1, 2}) {
      const auto program = PerceptronGradient(activation, threads);
      const int64_t peak = program->cost().arena_bytes;
      BoundProgram bound(program, PerceptronInputs());
      auto* const arena = static_cast<unsigned char*>(bound.arena().Reserve(peak + kBeyond));
      std::memset(arena, 0xa5, static_cast<size_t>(peak + kBeyond));
      ASSERT_TRUE(bound.Run().ok());
      EXPECT_THAT(absl::MakeSpan(arena + peak, kBeyond), Each(0xa5)) << activation;
      EXPECT_THAT(absl::MakeSpan(arena + peak - 64, 64), testing::Contains(testing::Ne(0xa5)))
          << activation << ": the last line of the peak is never used";
    }
  }
}

TEST(MemoryTest, AnInputIsReadInPlace) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {1 << 20}}, Stage::kPoint);
  b.Output("y", ReduceSum(b, x, {}));
  const auto program = CompileGraph(Value(std::move(b).Build()));
  EXPECT_EQ(program->cost().input_bytes, 8 << 20);
  EXPECT_LT(program->cost().arena_bytes, 64 << 10);
}

TEST(MemoryTest, BuffersNeedTheAlignmentOfTheirElementsOnly) {
  const auto run = [](std::shared_ptr<const Program> program, const NamedTensors& inputs) {
    BoundProgram aligned(program, inputs);
    const std::vector<Tensor> expected = aligned.Results();
    BoundProgram shifted(program, inputs);
    std::vector<Tensor> storage;
    const auto place = [&](const TensorType& type, const void* data) -> void* {
      storage.emplace_back(TensorType{DType::kUint8, {type.bytes() + 64}});
      char* const to = static_cast<char*>(storage.back().mutable_raw()) + DTypeBytes(type.dtype);
      if (data != nullptr) std::memcpy(to, data, static_cast<size_t>(type.bytes()));
      return to;
    };
    const Signature& signature = program->signature();
    for (size_t i = 0; i < signature.inputs.size(); ++i) {
      const void*& at = shifted.bindings().inputs[i];
      at = place(signature.inputs[i].type, at);
    }
    for (size_t i = 0; i < signature.outputs.size(); ++i) {
      shifted.bindings().outputs[i] = place(signature.outputs[i].type, nullptr);
    }
    ASSERT_TRUE(shifted.Run().ok());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(0, std::memcmp(shifted.bindings().outputs[i], expected[i].raw(),
                               static_cast<size_t>(expected[i].bytes())))
          << signature.outputs[i].name;
    }
  };
  run(PerceptronGradient("Tanh"), PerceptronInputs());
  run(LayerVjp(), {});
  const NamedTensors x = {{"x", Random({DType::kDouble, {1003}}, 9)}};
  run(CompileGradient("sum(tanh(x)*sigmoid(x) + exp(-x*x))", x, {"x"}, 1, ModelFormat::kFormula),
      x);
}

// ---- Partition ---------------------------------------------------------------------------------

TEST(PartitionTest, AGeluPerceptronsGradientCompilesToFewSteps) {
  const auto program = PerceptronGradient("Gelu");
  std::printf("%s", program->Describe().c_str());
  EXPECT_EQ(program->cost().steps, kGeluSteps);
  EXPECT_EQ(StepsOf(*program).size(), static_cast<size_t>(kGeluSteps));
}

TEST(PartitionTest, AReluPerceptronsGradientHasNoStandaloneActivation) {
  const auto program = PerceptronGradient("Relu");
  std::printf("%s", program->Describe().c_str());
  EXPECT_EQ(program->cost().steps, kReluSteps);
  EXPECT_THAT(StepsOf(*program)[0], HasSubstr("matmul+bias+relu"));
  EXPECT_THAT(StepsOf(*program)[1], HasSubstr("matmul+bias"));
}

TEST(PartitionTest, PointwiseWorkOverOneSpaceIsOneStep) {
  const NamedTensors x = {{"x", Random({DType::kFloat, {100'000}}, 9)}};
  const auto program =
      CompileGradient("sum(tanh(x)*sigmoid(x) + exp(-x*x))", x, {"x"}, 1, ModelFormat::kFormula);
  std::printf("%s", program->Describe().c_str());
  EXPECT_LE(program->cost().steps, 2);
  EXPECT_LT(program->cost().arena_bytes, 1 << 20) << "no intermediate of the whole size";
}

// ---- Depth -------------------------------------------------------------------------------------

constexpr int kLongChain = 100'000;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kSmallStack = 2 << 20;
#else
constexpr size_t kSmallStack = 256 << 10;
#endif

// Runs `work` in a thread with a stack that a recursion over nodes would overflow.
void WithSmallStack(std::function<void()> work) {
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, kSmallStack), 0);
  pthread_t thread;
  const auto start = [](void* f) -> void* {
    (*static_cast<std::function<void()>*>(f))();
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, start, &work), 0);
  pthread_attr_destroy(&attributes);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
}

// sin of sin of ..., and the derivative by hand.
std::pair<double, double> SineChain(double x) {
  double slope = 1;
  for (int i = 0; i < kLongChain; ++i) {
    slope *= std::cos(x);
    x = std::sin(x);
  }
  return {x, slope};
}

void ExpectSineChain(const std::shared_ptr<const Program>& program) {
  BoundProgram chain(program, {{"x", Tensor::Scalar(0.5)}});
  const std::vector<Tensor> results = chain.Results();
  const auto [value, slope] = SineChain(0.5);
  EXPECT_NEAR(ElementAsDouble(results[0], 0), value, 1e-9 * value);
  EXPECT_NEAR(ElementAsDouble(results[1], 0), slope, 1e-9 * slope);
}

TEST(DepthTest, AChainOf100000NodesIsDifferentiatedCompiledRunAndDestroyedOnASmallStack) {
  WithSmallStack([] {
    GraphBuilder b;
    ValueId v = b.Input("x", {DType::kDouble, {}}, Stage::kPoint);
    for (int i = 0; i < kLongChain; ++i) v = Sin(b, v);
    b.Output("y", v);
    const Graph graph = Value(std::move(b).Build());
    ASSERT_EQ(graph.nodes().size(), static_cast<size_t>(kLongChain));
    ExpectSineChain(CompileGraph(Value(Gradient(graph, "y", {"x"}))));
  });
}

TEST(DepthTest, ATextOf100000NodesIsReadAndCompiledOnASmallStack) {
  std::string text = "<ir_version: 8, opset_import: [\"\": 17]>\nchain (double x) => (double v" +
                     std::to_string(kLongChain) + ") {\n  v0 = Identity (x)\n";
  for (int i = 0; i < kLongChain; ++i) {
    absl::StrAppend(&text, "  v", i + 1, " = Sin (v", i, ")\n");
  }
  text += "}\n";
  WithSmallStack([&text] {
    ExpectSineChain(CompileGradient(text, {{"x", Tensor::Scalar(0.5)}}, {"x"}));
  });
}

TEST(DepthTest, AForwardModeChainOf100000NodesCompilesOnASmallStack) {
  WithSmallStack([] {
    GraphBuilder b;
    ValueId v = b.Input("x", {DType::kDouble, {}}, Stage::kPoint);
    for (int i = 0; i < kLongChain; ++i) v = Sin(b, v);
    b.Output("y", v);
    const auto program = CompileGraph(Value(Jvp(Value(std::move(b).Build()), {"x"})));
    BoundProgram chain(program,
                       {{"x", Tensor::Scalar(0.5)}, {TangentName("x"), Tensor::Scalar(1.0)}});
    const double slope = SineChain(0.5).second;
    EXPECT_NEAR(ElementAsDouble(chain.Results()[1], 0), slope, 1e-9 * slope);
  });
}

}  // namespace
}  // namespace gradwire
