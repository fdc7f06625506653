// Replaces the global operator new of this test executable: it counts what any thread allocates
// while a count is on, apart for code of libdnnl and for everything else.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "tests/unit/exec/run_program.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<int64_t> library_allocations{0};
std::atomic<int64_t> own_allocations{0};

[[maybe_unused]] void CountAllocation(void* caller) {
  if (!counting.load(std::memory_order_relaxed)) return;
  Dl_info info;
  const bool library = dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
                       std::strstr(info.dli_fname, "libdnnl") != nullptr;
  ++(library ? library_allocations : own_allocations);
}
}  // namespace

#if !defined(__SANITIZE_ADDRESS__)
[[gnu::noinline]] void* operator new(size_t bytes) {
  CountAllocation(__builtin_return_address(0));
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t bytes, std::align_val_t alignment) {
  CountAllocation(__builtin_return_address(0));
  const size_t unit = static_cast<size_t>(alignment);
  if (void* p = std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
#endif

namespace gradwire {
namespace {

constexpr int kRuns = 50;

class AllocationTest : public testing::TestWithParam<int> {
 protected:
  // Runs the gradient of a model with respect to `wrt` again and again.
  void ExpectNoneIn(ModelFormat format, absl::string_view model, const NamedTensors& inputs,
                    const std::vector<std::string>& wrt) {
    Engine engine(QuickEngine(GetParam()));
    NamedViews views;
    for (const auto& [name, tensor] : inputs) views[name] = tensor;
    const auto loaded = Value(engine.LoadModel(format, model, views));
    const Prepared prepared =
        Value(engine.Prepare(*loaded, {.kind = Computation::kGradient, .wrt = wrt}, views));
    BoundProgram bound(prepared.program, inputs);
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(bound.Run().ok());
    own_allocations = library_allocations = 0;
    counting = true;
    bool ok = true;
    for (int i = 0; i < kRuns; ++i) ok = bound.Run().ok() && ok;
    counting = false;
    EXPECT_TRUE(ok);
    EXPECT_EQ(own_allocations, 0) << prepared.program->Describe();
    std::printf("%d threads: libdnnl allocates %lld times a run\n", GetParam(),
                static_cast<long long>(library_allocations / kRuns));
  }
};

TEST_P(AllocationTest, CounterCounts) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "the sanitizer has an operator new of its own";
#else
  own_allocations = 0;
  counting = true;
  ::operator delete(::operator new(1));
  counting = false;
  EXPECT_EQ(own_allocations, 1);
#endif
}

TEST_P(AllocationTest, TheSeedGradientAllocatesNothing) {
  ExpectNoneIn(ModelFormat::kFormula, "x^2*y + y^3",
               {{"x", Tensor::Scalar(2.0)}, {"y", Tensor::Scalar(3.0)}}, {"x", "y"});
}

TEST_P(AllocationTest, AnElementwiseGradientAllocatesNothing) {
  ExpectNoneIn(ModelFormat::kFormula, "sum(tanh(x)*sigmoid(x) + exp(-x*x))",
               {{"x", Random({DType::kFloat, {1 << 20}}, 1)}}, {"x"});
}

TEST_P(AllocationTest, APerceptronsGradientAllocatesNothingOfOurs) {
  ExpectNoneIn(ModelFormat::kText, R"(<ir_version: 8, opset_import: ["": 17]>
perceptron (float[64,96] x, int64[64] t, float[128,96] w1, float[128] b1, float[10,128] w2,
            float[10] b2) => (float loss) {
  h = Gemm <transB = 1> (x, w1, b1)
  a = Relu (h)
  y = Gemm <transB = 1> (a, w2, b2)
  loss = SoftmaxCrossEntropyLoss (y, t)
})",
               {{"x", Random({DType::kFloat, {64, 96}}, 1)},
                {"t", Tensor(TensorType{DType::kInt64, {64}})},
                {"w1", Random({DType::kFloat, {128, 96}}, 2)},
                {"b1", Random({DType::kFloat, {128}}, 3)},
                {"w2", Random({DType::kFloat, {10, 128}}, 4)},
                {"b2", Random({DType::kFloat, {10}}, 5)}},
               {"w1", "b1", "w2", "b2"});
}

TEST_P(AllocationTest, AConvolutionalNetworksGradientAllocatesNothingOfOurs) {
  for (DType dtype : {DType::kFloat, DType::kDouble}) {
    const std::string type = dtype == DType::kFloat ? "float" : "double";
    ExpectNoneIn(ModelFormat::kText,
                 absl::StrCat(R"(<ir_version: 8, opset_import: ["": 17]>
network ()",
                              type, "[4,3,12,12] x, ", type, "[16,3,3,3] w1, ", type, "[16] b1, ",
                              type, "[16,1,3,3] w2, ", type, "[4,256] w3) => (", type, R"( loss) {
  c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
  a1 = Relu (c1)
  p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a1)
  c2 = Conv <group = 16> (p1, w2)
  f = Flatten (c2)
  y = Gemm <transB = 1> (f, w3)
  s = Mul (y, y)
  loss = ReduceMean <keepdims = 0> (s)
})"),
                 {{"x", Random({dtype, {4, 3, 12, 12}}, 1)},
                  {"w1", Random({dtype, {16, 3, 3, 3}}, 2)},
                  {"b1", Random({dtype, {16}}, 3)},
                  {"w2", Random({dtype, {16, 1, 3, 3}}, 4)},
                  {"w3", Random({dtype, {4, 256}}, 5)}},
                 {"x", "w1", "b1", "w2", "w3"});
  }
}

TEST_P(AllocationTest, AGradientOfMatricesInDoubleAllocatesNothing) {
  ExpectNoneIn(
      ModelFormat::kFormula, "sum(log_softmax(x @ w)^2)",
      {{"x", Random({DType::kDouble, {64, 96}}, 1)}, {"w", Random({DType::kDouble, {96, 80}}, 2)}},
      {"x", "w"});
}

INSTANTIATE_TEST_SUITE_P(Threads, AllocationTest, testing::Values(1, 2));

}  // namespace
}  // namespace gradwire
