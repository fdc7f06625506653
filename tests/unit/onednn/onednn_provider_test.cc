#include <dlfcn.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <thread>

#include "engine/onednn/provider.h"

// Counts what this thread allocates, apart for code of libdnnl and for everything else.
namespace {
thread_local bool counting = false;
thread_local int64_t library_allocations = 0;
thread_local int64_t own_allocations = 0;

[[maybe_unused]] void CountAllocation(void* caller) {
  if (!counting) return;
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

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// n floats that end where an inaccessible page begins, so that a kernel that touches one more dies.
class GuardedFloats {
 public:
  explicit GuardedFloats(int64_t n, float fill = 0) : n_(n) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(n) * sizeof(float);
    mapped_bytes_ = (bytes + page - 1) / page * page + page;
    base_ = static_cast<char*>(
        mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
    mprotect(base_ + mapped_bytes_ - page, page, PROT_NONE);
    data_ = reinterpret_cast<float*>(base_ + mapped_bytes_ - page - bytes);
    std::fill_n(data_, n, fill);
  }
  ~GuardedFloats() { munmap(base_, mapped_bytes_); }
  GuardedFloats(const GuardedFloats&) = delete;
  GuardedFloats& operator=(const GuardedFloats&) = delete;

  float* data() { return data_; }
  const float* data() const { return data_; }
  int64_t size() const { return n_; }
  void Poison() { std::memset(data_, 0xff, static_cast<size_t>(n_) * sizeof(float)); }

 private:
  int64_t n_;
  size_t mapped_bytes_;
  char* base_;
  float* data_;
};

struct AlignedFree {
  void operator()(void* p) const { std::free(p); }
};
// 64-byte aligned, as the interface promises, and poisoned.
std::unique_ptr<void, AlignedFree> MakeScratch(int64_t bytes) {
  const size_t size = static_cast<size_t>((bytes + 63) / 64 * 64 + 64);
  std::unique_ptr<void, AlignedFree> p(std::aligned_alloc(64, size));
  std::memset(p.get(), 0xff, size);
  return p;
}

Layout Dense(const Shape& shape) { return Layout::RowMajor(shape); }

// The layout of `shape` when dimension order[rank - 1] is innermost and each line of the innermost
// dimension is followed by `pad` elements of something else.
Layout Ordered(const Shape& shape, std::vector<int> order, int64_t pad = 0) {
  Layout layout{Dims(shape.rank()), 0};
  int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    layout.strides[order[i]] = step;
    step *= shape[order[i]];
    if (i == shape.rank() - 1) step += pad;
  }
  return layout;
}

Layout Transposed(const Shape& shape, int64_t pad = 0) {
  std::vector<int> order(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) order[i] = i;
  std::swap(order[shape.rank() - 2], order[shape.rank() - 1]);
  return Ordered(shape, order, pad);
}

Layout Padded(const Shape& shape, int64_t pad) {
  std::vector<int> order(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) order[i] = i;
  return Ordered(shape, order, pad);
}

// Where element number `index` (row-major) of a value lies.
int64_t OffsetOf(const Shape& shape, const Dims& strides, int64_t index) {
  int64_t offset = 0;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    offset += index % shape[i] * strides[i];
    index /= shape[i];
  }
  return offset;
}

// One input: values in row-major order, and the buffer that holds them under a layout, NaN between.
struct Input {
  Shape shape;
  std::vector<float> values;
  std::unique_ptr<GuardedFloats> buffer;

  Input(const Shape& s, const Layout& layout, std::vector<float> v)
      : shape(s), values(std::move(v)) {
    int64_t last = 0;
    for (int i = 0; i < s.rank(); ++i) last += (s[i] - 1) * std::max<int64_t>(layout.strides[i], 0);
    buffer = std::make_unique<GuardedFloats>(last + 1, kNaN);
    for (int64_t i = 0; i < s.num_elements(); ++i) {
      buffer->data()[OffsetOf(s, layout.strides, i)] = values[static_cast<size_t>(i)];
    }
  }
};

std::vector<float> Random(int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = uniform(generator);
  return v;
}

double Apply(PostOp post_op, double x) {
  switch (post_op) {
    case PostOp::kNone:
      return x;
    case PostOp::kRelu:
      return x <= 0 ? 0 : x;
    case PostOp::kTanh:
      return std::tanh(x);
    case PostOp::kSigmoid:
      return 1 / (1 + std::exp(-x));
  }
  return kNaN;
}

PrimitiveCall MakeCall(const Shape& lhs, const Layout& lhs_layout, const Shape& rhs,
                       const Layout& rhs_layout, DType dtype = DType::kFloat) {
  static const Attrs* const attrs = new Attrs();
  Shape batch;
  const auto leading = [](const Shape& s) {
    return Shape(Dims(s.dims().begin(), s.dims().end() - 2));
  };
  if (!BroadcastShapes(leading(lhs), leading(rhs), &batch)) std::abort();
  Dims out = batch.dims();
  out.insert(out.end(), {lhs[lhs.rank() - 2], rhs[rhs.rank() - 1]});
  PrimitiveCall call;
  call.kind = PrimitiveKind::kMatMul;
  call.attrs = attrs;
  call.in = {{dtype, lhs}, {dtype, rhs}};
  call.layouts = {lhs_layout, rhs_layout};
  call.out = {dtype, Shape(out)};
  return call;
}

PrimitiveCall DenseCall(const Shape& lhs, const Shape& rhs) {
  return MakeCall(lhs, Dense(lhs), rhs, Dense(rhs));
}

void AddBias(PrimitiveCall* call) {
  const Shape shape{call->out.shape[call->out.shape.rank() - 1]};
  call->has_bias = true;
  call->in.push_back({call->out.dtype, shape});
  call->layouts.push_back(Dense(shape));
}

class OneDnnProviderTest : public testing::Test {
 protected:
  // [row, col] of the matrix that batch entry number `batch` of `out` takes from `in`.
  static double At(const Input& in, const Shape& out, int64_t batch, int64_t row, int64_t col) {
    const int rank = in.shape.rank();
    int64_t offset = row * in.shape[rank - 1] + col;
    int64_t step = in.shape[rank - 2] * in.shape[rank - 1];
    for (int i = out.rank() - 3, j = rank - 3; i >= 0; --i, --j) {
      const int64_t at = batch % out[i];
      batch /= out[i];
      if (j < 0) continue;
      if (in.shape[j] != 1) offset += at * step;
      step *= in.shape[j];
    }
    return in.values[static_cast<size_t>(offset)];
  }

  static void ExpectNear(const PrimitiveCall& call, const std::vector<Input>& in,
                         const float* got) {
    const Shape& out = call.out.shape;
    const int64_t m = out[out.rank() - 2], n = out[out.rank() - 1];
    const int64_t k = in[0].shape[in[0].shape.rank() - 1];
    for (int64_t i = 0; i < out.num_elements(); ++i) {
      const int64_t col = i % n, row = i / n % m, batch = i / n / m;
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < k; ++j) {
        const double term = At(in[0], out, batch, row, j) * At(in[1], out, batch, j, col);
        sum += term;
        magnitude += std::fabs(term);
      }
      if (call.has_bias) {
        const double bias = in[2].values[static_cast<size_t>(col)];
        sum += bias;
        magnitude += std::fabs(bias);
      }
      const double want = Apply(call.post_op, sum);
      const double tolerance = 1e-6 + 6e-8 * std::sqrt(static_cast<double>(k)) * 4 * magnitude;
      ASSERT_NEAR(got[i], want, tolerance)
          << "element " << i << " of " << call.out.ToString() << " = " << call.in[0].ToString()
          << " x " << call.in[1].ToString();
    }
  }

  // Proposes and runs the call on random values, twice on poisoned memory. False if declined.
  bool Check(const PrimitiveCall& call) {
    std::optional<Proposal> proposal = provider_->Propose(call);
    if (!proposal.has_value()) return false;
    std::vector<Input> in;
    std::vector<const void*> pointers;
    for (size_t i = 0; i < call.in.size(); ++i) {
      const Shape& shape = call.in[i].shape;
      const bool dense = (proposal->wants_dense >> i & 1) != 0;
      in.emplace_back(shape, dense ? Dense(shape) : call.layouts[i],
                      Random(shape.num_elements(), static_cast<unsigned>(i + 1)));
    }
    for (Input& input : in) pointers.push_back(input.buffer->data());
    GuardedFloats first(call.out.shape.num_elements()), second(call.out.shape.num_elements());
    for (GuardedFloats* out : {&first, &second}) {
      const auto scratch = MakeScratch(proposal->scratch_bytes);
      out->Poison();
      void* const outs[] = {out->data()};
      const absl::Status status =
          proposal->kernel->Run(pointers.data(), outs, scratch.get(), call.threads);
      EXPECT_TRUE(status.ok()) << status;
    }
    ExpectNear(call, in, first.data());
    EXPECT_EQ(0, std::memcmp(first.data(), second.data(), first.size() * sizeof(float)))
        << proposal->kernel->Describe() << ": two runs differ";
    return true;
  }

  // Runs a dense call on given values.
  std::vector<float> Run(const PrimitiveCall& call, const std::vector<std::vector<float>>& values) {
    std::optional<Proposal> proposal = provider_->Propose(call);
    if (!proposal.has_value()) {
      ADD_FAILURE() << "declined";
      return {};
    }
    std::vector<const void*> in;
    for (const std::vector<float>& v : values) in.push_back(v.data());
    std::vector<float> out(static_cast<size_t>(call.out.shape.num_elements()), kNaN);
    void* const outs[] = {out.data()};
    const auto scratch = MakeScratch(proposal->scratch_bytes);
    const absl::Status status = proposal->kernel->Run(in.data(), outs, scratch.get(), call.threads);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  // One kernel, each thread with data of its own, against what one thread alone computes.
  void RunConcurrently(const PrimitiveCall& call, unsigned num_threads, int runs) {
    const std::optional<Proposal> proposal = provider_->Propose(call);
    ASSERT_TRUE(proposal.has_value());
    std::vector<int> wrong(num_threads, -1);
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < num_threads; ++t) {
      std::vector<std::vector<float>> values;
      for (const TensorType& type : call.in) {
        values.push_back(
            Random(type.shape.num_elements(), 10 * t + static_cast<unsigned>(values.size())));
      }
      threads.emplace_back([&proposal, &wrong, t, runs, values, want = Run(call, values)] {
        const auto scratch = MakeScratch(proposal->scratch_bytes);
        std::vector<float> got(want.size());
        std::vector<const void*> in;
        for (const std::vector<float>& v : values) in.push_back(v.data());
        void* const out[] = {got.data()};
        int bad = 0;
        for (int i = 0; i < runs; ++i) {
          std::memset(got.data(), 0xff, got.size() * sizeof(float));
          const bool ok = proposal->kernel->Run(in.data(), out, scratch.get(), 1).ok();
          bad += !ok || std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) != 0;
        }
        wrong[t] = bad;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(num_threads, 0));
  }

  uint32_t WantsDense(const PrimitiveCall& call) {
    const std::optional<Proposal> proposal = provider_->Propose(call);
    return proposal.has_value() ? proposal->wants_dense : ~0u;
  }

  std::string Describe(const PrimitiveCall& call) {
    const std::optional<Proposal> proposal = provider_->Propose(call);
    return proposal.has_value() ? proposal->kernel->Describe() : "declined";
  }

  const std::unique_ptr<KernelProvider> provider_ = MakeOneDnnProvider();
};

// ---- Values ------------------------------------------------------------------------------------

TEST_F(OneDnnProviderTest, MultipliesEverySizeInEveryOrientation) {
  int checked = 0;
  const int64_t sizes[] = {1, 2, 3, 5, 8, 16, 17, 33, 64};
  for (int64_t m : sizes) {
    for (int64_t n : sizes) {
      for (int64_t k : sizes) {
        const Shape lhs{m, k}, rhs{k, n};
        for (const Layout& l : {Dense(lhs), Transposed(lhs), Padded(lhs, 3)}) {
          for (const Layout& r : {Dense(rhs), Transposed(rhs, 5)}) {
            const PrimitiveCall call = MakeCall(lhs, l, rhs, r);
            const bool done = Check(call);
            ASSERT_EQ(done, m * n * k > 512) << m << "x" << k << "x" << n;
            checked += done;
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
  EXPECT_GT(checked, 2000);
}

TEST_F(OneDnnProviderTest, BroadcastsBatchesLikeNumPy) {
  const std::pair<Shape, Shape> cases[] = {
      {{4, 17, 16}, {4, 16, 5}},      {{4, 17, 16}, {16, 5}},
      {{17, 16}, {4, 16, 5}},         {{1, 17, 16}, {4, 16, 5}},
      {{2, 1, 9, 16}, {3, 16, 8}},    {{2, 3, 9, 16}, {3, 16, 8}},
      {{2, 1, 9, 16}, {1, 3, 16, 8}}, {{2, 1, 2, 9, 16}, {3, 1, 16, 8}},
      {{5, 1, 64}, {64, 33}},         {{4, 2, 64}, {64, 9}},
      {{1, 1, 33, 17}, {17, 3}},      {{2, 3, 1, 4, 9, 16}, {5, 1, 16, 8}},
  };
  for (const auto& [lhs, rhs] : cases) {
    for (const Layout& l : {Dense(lhs), Transposed(lhs)}) {
      for (const Layout& r : {Dense(rhs), Transposed(rhs)}) {
        for (int threads : {1, 2}) {
          PrimitiveCall call = MakeCall(lhs, l, rhs, r);
          call.threads = threads;
          AddBias(&call);
          EXPECT_TRUE(Check(call)) << lhs.ToString() << " x " << rhs.ToString();
        }
      }
    }
  }
}

TEST_F(OneDnnProviderTest, ReadsAttentionHeadsInPlace) {
  // [B,T,H,D] seen as [B,H,T,D]; the right side as [B,H,D,T].
  const Shape lhs{2, 4, 9, 16}, rhs{2, 4, 16, 9};
  const Layout heads = Ordered(lhs, {0, 2, 1, 3}), keys = Ordered(rhs, {0, 3, 1, 2});
  const PrimitiveCall call = MakeCall(lhs, heads, rhs, keys);
  EXPECT_EQ(WantsDense(call), 0u);
  EXPECT_TRUE(Check(call));
}

TEST_F(OneDnnProviderTest, FusesBiasAndPostOps) {
  for (PostOp post_op : {PostOp::kNone, PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
    for (bool bias : {false, true}) {
      for (const Shape& lhs : {Shape{5, 17}, Shape{16, 64}, Shape{3, 8, 33}, Shape{128, 256}}) {
        for (int64_t n : {7, 16, 65, 300}) {
          const Shape rhs{lhs[lhs.rank() - 1], n};
          PrimitiveCall call = DenseCall(lhs, rhs);
          if (bias) AddBias(&call);
          call.post_op = post_op;
          EXPECT_TRUE(Check(call)) << lhs.ToString() << " x " << n;
        }
      }
    }
  }
}

TEST_F(OneDnnProviderTest, MultipliesAcrossStridesThatSuitTheCacheBadly) {
  for (int threads : {1, 2}) {
    for (const auto& [m, k, n] : std::vector<std::array<int64_t, 3>>{
             {64, 40, 512}, {17, 33, 1024}, {512, 40, 64}, {512, 33, 512}, {512, 1, 64}}) {
      const Shape lhs{m, k}, rhs{k, n};
      for (const Layout& l : {Dense(lhs), Transposed(lhs)}) {
        PrimitiveCall call = MakeCall(lhs, l, rhs, Dense(rhs));
        call.threads = threads;
        AddBias(&call);
        EXPECT_TRUE(Check(call)) << m << "x" << k << "x" << n;
      }
    }
  }
}

TEST_F(OneDnnProviderTest, PostOpsAreAccurateFarFromZero) {
  const int64_t n = 4096;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    const double magnitude = std::pow(10.0, -6 + 7.9 * static_cast<double>(i) / n);
    x[static_cast<size_t>(i)] = static_cast<float>(i % 2 == 0 ? magnitude : -magnitude);
  }
  const bool fused_multiply_add = OneDnnIsa() != "sse41" && OneDnnIsa() != "avx";
  const double relative = fused_multiply_add ? 1e-6 : 5e-6;
  for (PostOp post_op : {PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
    PrimitiveCall call = DenseCall({n, 1}, {1, 1});
    call.post_op = post_op;
    const std::vector<float> y = Run(call, {x, {1.f}});
    ASSERT_EQ(y.size(), x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = Apply(post_op, x[i]);
      ASSERT_NEAR(y[i], want, relative * std::fabs(want)) << "at " << x[i];
    }
  }
}

// ---- NaN and infinities ------------------------------------------------------------------------

TEST_F(OneDnnProviderTest, PropagatesNaNAndInfinity) {
  const int64_t m = 17, k = 33, n = 19;
  std::vector<float> a = Random(m * k, 1), b = Random(k * n, 2);
  a[2 * k + 5] = kNaN;  // row 2 becomes NaN
  b[7 * n + 3] = kInf;  // column 3 becomes infinite ...
  a[4 * k + 7] = 0;     // ... except in row 4, where 0 * Inf is NaN
  const std::vector<float> c = Run(DenseCall({m, k}, {k, n}), {a, b});
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const float got = c[static_cast<size_t>(i * n + j)];
      if (i == 2 || (i == 4 && j == 3)) {
        EXPECT_TRUE(std::isnan(got)) << i << "," << j;
      } else if (j == 3) {
        EXPECT_EQ(got, std::copysign(kInf, a[static_cast<size_t>(i * k + 7)])) << i;
      } else {
        EXPECT_TRUE(std::isfinite(got)) << i << "," << j;
      }
    }
  }
}

TEST_F(OneDnnProviderTest, PostOpsKeepNaNAndKnowInfinity) {
  std::vector<float> x(1024, 1.f);
  x[0] = kNaN;
  x[1] = kInf;
  x[2] = -kInf;
  x[1023] = kNaN;
  const struct {
    PostOp post_op;
    float at_inf, at_minus_inf;
  } cases[] = {{PostOp::kRelu, kInf, 0}, {PostOp::kTanh, 1, -1}, {PostOp::kSigmoid, 1, 0}};
  for (const auto& c : cases) {
    PrimitiveCall call = DenseCall({1024, 1}, {1, 1});
    call.post_op = c.post_op;
    const std::vector<float> y = Run(call, {x, {1.f}});
    ASSERT_EQ(y.size(), x.size());
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_EQ(y[1], c.at_inf);
    EXPECT_EQ(y[2], c.at_minus_inf);
    EXPECT_TRUE(std::isnan(y[1023]));
  }
}

TEST_F(OneDnnProviderTest, ReluOfMinusZeroIsPlusZero) {
  PrimitiveCall call = DenseCall({1024, 1}, {1, 1});
  call.post_op = PostOp::kRelu;
  for (float y : Run(call, {std::vector<float>(1024, -0.f), {1.f}})) {
    ASSERT_EQ(y, 0.f);
    ASSERT_FALSE(std::signbit(y));
  }
}

// ---- Layouts -----------------------------------------------------------------------------------

TEST_F(OneDnnProviderTest, AsksForDenseInputsWhereStridesAreScattered) {
  const Shape lhs{16, 17}, rhs{17, 18};
  EXPECT_EQ(WantsDense(MakeCall(lhs, {{34, 2}, 0}, rhs, Dense(rhs))), 1u);
  EXPECT_EQ(WantsDense(MakeCall(lhs, Dense(lhs), rhs, {{-18, 1}, 0})), 2u);
  EXPECT_EQ(WantsDense(MakeCall(lhs, {{0, 1}, 0}, rhs, {{1, 0}, 0})), 3u);
  EXPECT_EQ(WantsDense(MakeCall(lhs, {{8, 1}, 0}, rhs, Dense(rhs))), 1u);  // overlapping rows
  EXPECT_EQ(WantsDense(MakeCall(lhs, Transposed(lhs, 3), rhs, Transposed(rhs))), 0u);
  EXPECT_TRUE(Check(MakeCall(lhs, {{34, 2}, 0}, rhs, Dense(rhs))));
  EXPECT_TRUE(Check(MakeCall(lhs, {{34, 2}, 0}, rhs, {{1, 51}, 0})));
}

TEST_F(OneDnnProviderTest, ReadsBatchesRepeatedByStrideZero) {
  const Shape lhs{6, 17, 16}, rhs{6, 16, 9};
  const PrimitiveCall once = MakeCall(lhs, {{0, 16, 1}, 0}, rhs, Dense(rhs));
  EXPECT_EQ(WantsDense(once), 0u);
  // Both repeated: no product of oneDNN's repeats itself, so something is made dense.
  const PrimitiveCall both = MakeCall(lhs, {{0, 16, 1}, 0}, rhs, {{0, 9, 1}, 0});
  EXPECT_NE(WantsDense(both), ~0u);
}

TEST_F(OneDnnProviderTest, CollapsesBatchDimensions) {
  EXPECT_EQ(Describe(DenseCall({4, 8, 16}, {16, 32})), "onednn matmul f32 32x16x32");
  EXPECT_EQ(Describe(DenseCall({2, 3, 8, 16}, {2, 3, 16, 9})),
            "onednn matmul f32 8x16x9 batch [6]");
  EXPECT_EQ(Describe(DenseCall({2, 3, 8, 16}, {2, 1, 16, 9})),
            "onednn matmul f32 24x16x9 batch [2]");
  EXPECT_EQ(Describe(DenseCall({7, 1, 16}, {16, 9})), "onednn matmul f32 7x16x9");
}

// ---- Threads -----------------------------------------------------------------------------------

TEST_F(OneDnnProviderTest, RunsOneKernelFromFourThreads) {
  PrimitiveCall call = DenseCall({64, 40}, {40, 512});
  AddBias(&call);
  call.post_op = PostOp::kRelu;
  RunConcurrently(call, 4, 300);
}

TEST_F(OneDnnProviderTest, RunsOneKernelFromMoreThreadsThanItPreparedFor) {
  PrimitiveCall call = DenseCall({4, 16}, {16, 16});
  AddBias(&call);
  RunConcurrently(call, 40, 3000);
}

TEST_F(OneDnnProviderTest, LeavesTheTeamSizeAsItWas) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(3);
  PrimitiveCall call = DenseCall({64, 64}, {64, 64});
  call.threads = 2;
  EXPECT_TRUE(Check(call));
  EXPECT_EQ(omp_get_max_threads(), 3);
  omp_set_num_threads(before);
}

TEST_F(OneDnnProviderTest, AllocatesNothingOfOursInTheSteadyState) {
  PrimitiveCall call = DenseCall({64, 40}, {40, 512});
  AddBias(&call);
  call.post_op = PostOp::kRelu;
  const std::optional<Proposal> proposal = provider_->Propose(call);
  ASSERT_TRUE(proposal.has_value());
  const std::vector<float> a = Random(64 * 40, 1), b = Random(40 * 512, 2), bias = Random(512, 3);
  std::vector<float> c(64 * 512);
  const void* const in[] = {a.data(), b.data(), bias.data()};
  void* const out[] = {c.data()};
  const auto scratch = MakeScratch(proposal->scratch_bytes);
  ASSERT_TRUE(proposal->kernel->Run(in, out, scratch.get(), 1).ok());
  own_allocations = library_allocations = 0;
  counting = true;
  bool ok = true;
  for (int i = 0; i < 100; ++i) ok = proposal->kernel->Run(in, out, scratch.get(), 1).ok() && ok;
  counting = false;
  EXPECT_TRUE(ok);
  EXPECT_EQ(own_allocations, 0);
#if !defined(__SANITIZE_ADDRESS__)
  counting = true;
  ::operator delete(::operator new(1));
  counting = false;
  EXPECT_EQ(own_allocations, 1) << "the counter does not count";
#endif
  RecordProperty("libdnnl_allocations_per_run", static_cast<int>(library_allocations / 100));
}

// ---- What it declines --------------------------------------------------------------------------

TEST_F(OneDnnProviderTest, DeclinesOtherTypesThanFloat) {
  const Shape shape{64, 64};
  for (DType dtype : {DType::kDouble, DType::kInt32, DType::kFloat16, DType::kBfloat16}) {
    EXPECT_FALSE(
        provider_->Propose(MakeCall(shape, Dense(shape), shape, Dense(shape), dtype)).has_value());
  }
}

TEST_F(OneDnnProviderTest, DeclinesEmptyProducts) {
  EXPECT_FALSE(provider_->Propose(DenseCall({0, 64}, {64, 64})).has_value());
  EXPECT_FALSE(provider_->Propose(DenseCall({64, 0}, {0, 64})).has_value());
  EXPECT_FALSE(provider_->Propose(DenseCall({64, 64}, {64, 0})).has_value());
  EXPECT_FALSE(provider_->Propose(DenseCall({0, 64, 64}, {64, 64})).has_value());
}

TEST_F(OneDnnProviderTest, DeclinesWhatIsNoProduct) {
  PrimitiveCall call = DenseCall({64, 64}, {64, 64});
  call.out.shape = Shape{64, 63};
  EXPECT_FALSE(provider_->Propose(call).has_value());
  call = DenseCall({64, 64}, {64, 64});
  call.in[1].shape = Shape{63, 64};
  EXPECT_FALSE(provider_->Propose(call).has_value());
  call = DenseCall({64, 64}, {64, 64});
  AddBias(&call);
  call.in[2].shape = Shape{63};
  EXPECT_FALSE(provider_->Propose(call).has_value());
}

TEST_F(OneDnnProviderTest, NamesItselfAndItsKernels) {
  EXPECT_EQ(provider_->name(), "onednn");
  EXPECT_EQ(provider_->version(), OneDnnVersion());
  EXPECT_FALSE(OneDnnIsa().empty());
  PrimitiveCall call = DenseCall({128, 784}, {784, 512});
  AddBias(&call);
  call.post_op = PostOp::kRelu;
  EXPECT_EQ(Describe(call), "onednn matmul+bias+relu f32 128x784x512");
}

}  // namespace
}  // namespace gradwire
