#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/own_provider.h"
#include "gtest/gtest.h"
#include "tests/unit/kernels/guarded_run.h"

namespace gradwire {
namespace {

// A matrix product on random values, its operands lying as the layouts say.
template <typename T>
class Product {
 public:
  Product(Shape a, Shape b, Layout a_layout, Layout b_layout, PostOp post = PostOp::kNone,
          bool bias = false) {
    call_.kind = PrimitiveKind::kMatMul;
    call_.attrs = &attrs_;
    call_.in = {{kDTypeOf<T>, a}, {kDTypeOf<T>, b}};
    call_.layouts = {std::move(a_layout), std::move(b_layout)};
    call_.has_bias = bias;
    call_.post_op = post;
    Dims out = OutBatch(a, b);
    out.push_back(a[a.rank() - 2]);
    out.push_back(b[b.rank() - 1]);
    call_.out = {kDTypeOf<T>, Shape(out)};
    for (int i = 0; i < 2; ++i) FillBuffer(i);
    bias_ = Random(b[b.rank() - 1]);
  }
  Product(Shape a, Shape b, PostOp post = PostOp::kNone, bool bias = false)
      : Product(a, b, Layout::RowMajor(a), Layout::RowMajor(b), post, bias) {}

  std::vector<T> Run(int planned_threads, int threads) {
    call_.threads = planned_threads;
    const std::optional<Proposal> proposal = MakeOwnProvider()->Propose(call_);
    EXPECT_TRUE(proposal.has_value());
    if (!proposal) return {};
    describe_ = proposal->kernel->Describe();
    return RunGuarded<T>(
        *proposal, call_,
        {buffers_[0].data() + origin_[0], buffers_[1].data() + origin_[1], bias_.data()}, threads);
  }

  void ExpectRight(const std::vector<T>& got) const {
    const Shape& a = call_.in[0].shape;
    const int64_t m = a[a.rank() - 2], k = a[a.rank() - 1];
    const int64_t n = call_.out.shape[call_.out.shape.rank() - 1];
    for (size_t at = 0; at < got.size(); ++at) {
      const int64_t index = static_cast<int64_t>(at);
      const int64_t j = index % n, i = index / n % m, batch = index / n / m;
      long double sum = 0, magnitude = 1;
      for (int64_t l = 0; l < k; ++l) {
        const long double product =
            static_cast<long double>(Element(0, batch, i, l)) * Element(1, batch, l, j);
        sum += product;
        magnitude += std::fabs(product);
      }
      if (call_.has_bias) sum += bias_[static_cast<size_t>(j)];
      const double expected = Post(static_cast<double>(sum));
      const double tolerance = 4 * std::numeric_limits<T>::epsilon() *
                               static_cast<double>(magnitude) *
                               std::sqrt(static_cast<double>(k + 1));
      ASSERT_NEAR(got[at], expected, tolerance) << describe_ << " element " << at;
    }
  }
  const std::string& describe() const { return describe_; }

 private:
  static Dims OutBatch(const Shape& a, const Shape& b) {
    const Shape left(Dims(a.dims().begin(), a.dims().end() - 2));
    const Shape right(Dims(b.dims().begin(), b.dims().end() - 2));
    Shape out;
    EXPECT_TRUE(BroadcastShapes(left, right, &out));
    return out.dims();
  }
  std::vector<T> Random(int64_t n) {
    std::vector<T> x(static_cast<size_t>(n));
    for (T& v : x) v = std::uniform_real_distribution<T>(-1, 1)(generator_);
    return x;
  }
  // A buffer that spans the layout; negative strides move the origin.
  void FillBuffer(int which) {
    const Shape& shape = call_.in[which].shape;
    int64_t low = 0, high = 0;
    for (int i = 0; i < shape.rank(); ++i) {
      const int64_t reach = std::max<int64_t>(shape[i] - 1, 0) * call_.layouts[which].strides[i];
      (reach < 0 ? low : high) += reach;
    }
    buffers_[which] = Random(high - low + 1);
    origin_[which] = -low;
  }
  T Element(int which, int64_t batch, int64_t row, int64_t column) const {
    const Shape& shape = call_.in[which].shape;
    const Dims& strides = call_.layouts[which].strides;
    const int rank = shape.rank(), out_rank = call_.out.shape.rank();
    int64_t at = origin_[which] + row * strides[rank - 2] + column * strides[rank - 1];
    for (int i = out_rank - 3; i >= 0; --i) {
      const int64_t index = batch % call_.out.shape[i];
      batch /= call_.out.shape[i];
      const int dim = i - out_rank + rank;
      if (dim >= 0 && shape[dim] != 1) at += index * strides[dim];
    }
    return buffers_[which][static_cast<size_t>(at)];
  }
  double Post(double x) const {
    switch (call_.post_op) {
      case PostOp::kRelu:
        return std::max(x, 0.0);
      case PostOp::kTanh:
        return std::tanh(x);
      case PostOp::kSigmoid:
        return 1 / (1 + std::exp(-x));
      default:
        return x;
    }
  }

  Attrs attrs_;
  PrimitiveCall call_;
  std::mt19937 generator_{7};
  std::vector<T> buffers_[2];
  int64_t origin_[2] = {0, 0};
  std::vector<T> bias_;
  std::string describe_;
};

// Right, repeatable, and with the same bits for every team.
template <typename T>
void Check(Product<T> product) {
  const std::vector<T> once = product.Run(1, 1);
  product.ExpectRight(once);
  for (const auto& [planned, threads] : {std::pair{1, 1}, {2, 2}, {3, 2}, {2, 7}, {5, 5}}) {
    const std::vector<T> again = product.Run(planned, threads);
    ASSERT_TRUE(once.empty() || !std::memcmp(once.data(), again.data(), once.size() * sizeof(T)))
        << product.describe() << " with " << threads << " threads";
  }
}

template <typename T>
class MatMulTest : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(MatMulTest, FloatTypes);

TYPED_TEST(MatMulTest, AgreesWithAPlainLoopOnAllSizes) {
  using T = TypeParam;
  const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 13, 16, 17, 33};
  for (int64_t m : sizes) {
    for (int64_t n : sizes) {
      for (int64_t k : {1, 2, 7, 33}) Check(Product<T>({m, k}, {k, n}));
    }
  }
}

TYPED_TEST(MatMulTest, AgreesWithAPlainLoopAcrossBlockBoundaries) {
  using T = TypeParam;
  Check(Product<T>({97, 257}, {257, 61}));
  Check(Product<T>({101, 600}, {600, 53}));
  Check(Product<T>({1, 513}, {513, 1100}));
  Check(Product<T>({2, 300}, {300, 1031}));
  Check(Product<T>({211, 256}, {256, 1}));
  Check(Product<T>({13, 31}, {31, 2053}));
}

TYPED_TEST(MatMulTest, ReadsOperandsThroughAnyStrides) {
  using T = TypeParam;
  for (const auto& [m, k, n] : {std::tuple{5, 7, 3}, {64, 300, 40}, {1, 40, 200}, {200, 40, 1}}) {
    const Shape a = {m, k}, b = {k, n};
    const Layout a_dense = Layout::RowMajor(a), b_dense = Layout::RowMajor(b);
    const Layout a_transposed = {{1, m}, 0}, b_transposed = {{1, k}, 0};
    Check(Product<T>(a, b, a_transposed, b_dense));
    Check(Product<T>(a, b, a_dense, b_transposed));
    Check(Product<T>(a, b, a_transposed, b_transposed));
    Check(Product<T>(a, b, Layout{{2 * k + 3, 2}, 0}, Layout{{3 * n, 3}, 0}));
    Check(Product<T>(a, b, Layout{{-k, 1}, 0}, Layout{{n, -1}, 0}));
    Check(Product<T>(a, b, Layout{{0, 1}, 0}, Layout{{0, 1}, 0}));
    Check(Product<T>(a, b, Layout{{1, 0}, 0}, Layout{{1, 0}, 0}));
  }
}

TYPED_TEST(MatMulTest, BroadcastsBatches) {
  using T = TypeParam;
  Check(Product<T>({3, 4, 5}, {3, 5, 6}));
  Check(Product<T>({3, 4, 5}, {5, 6}));  // folds into one product
  Check(Product<T>({7, 3, 40, 50}, {50, 60}));
  Check(Product<T>({4, 5}, {3, 5, 6}));
  Check(Product<T>({2, 1, 4, 5}, {3, 5, 6}));
  Check(Product<T>({2, 3, 40, 50}, {2, 1, 50, 60}));
  Check(Product<T>({1, 3, 4, 5}, {2, 3, 5, 6}));
  // The batch strided, its rows not evenly spaced.
  Check(Product<T>({3, 4, 5}, {5, 6}, Layout{{100, 5, 1}, 0}, Layout{{6, 1}, 0}));
  Check(Product<T>({3, 4, 5}, {3, 5, 6}, Layout{{5, 15, 1}, 0}, Layout{{-30, 6, 1}, 0}));
}

TYPED_TEST(MatMulTest, HandlesEmptyExtents) {
  using T = TypeParam;
  for (T v : Product<T>({3, 0}, {0, 4}).Run(1, 1)) EXPECT_EQ(v, 0);
  for (T v : Product<T>({2, 3, 0}, {2, 0, 4}).Run(2, 2)) EXPECT_EQ(v, 0);
  Check(Product<T>({3, 0}, {0, 4}, PostOp::kSigmoid, true));
  Check(Product<T>({0, 3}, {3, 4}));
  Check(Product<T>({3, 4}, {4, 0}));
  Check(Product<T>({0, 3, 4}, {4, 5}));
  Check(Product<T>({0, 3, 4}, {0, 4, 5}, PostOp::kRelu, true));
}

TYPED_TEST(MatMulTest, AppliesBiasAndPostOps) {
  using T = TypeParam;
  for (PostOp post : {PostOp::kNone, PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
    for (bool bias : {false, true}) {
      Check(Product<T>({1, 1}, {1, 1}, post, bias));
      Check(Product<T>({5, 7}, {7, 10}, post, bias));
      Check(Product<T>({130, 270}, {270, 1027}, post, bias));
      Check(Product<T>({2, 5, 7}, {2, 7, 11}, post, bias));
    }
  }
}

TEST(OwnProviderTest, NamesWhatItRuns) {
  Product<double> product({128, 784}, {784, 512}, PostOp::kRelu, true);
  product.Run(1, 1);
  EXPECT_EQ(product.describe(), "own matmul+bias+relu f64 128x784x512");
  EXPECT_EQ(MakeOwnProvider()->name(), "own");
  EXPECT_FALSE(MakeOwnProvider()->version().empty());
}

TEST(OwnProviderTest, DeclinesOtherTypes) {
  PrimitiveCall call;
  call.kind = PrimitiveKind::kMatMul;
  call.layouts = {Layout{{2, 1}, 0}, Layout{{2, 1}, 0}};
  for (DType d : {DType::kInt64, DType::kFloat16, DType::kBool}) {
    call.in = {{d, {2, 2}}, {d, {2, 2}}};
    call.out = {d, {2, 2}};
    EXPECT_FALSE(MakeOwnProvider()->Propose(call).has_value());
  }
  call.in = {{DType::kFloat, {2, 2}}, {DType::kDouble, {2, 2}}};
  call.out = {DType::kDouble, {2, 2}};
  EXPECT_FALSE(MakeOwnProvider()->Propose(call).has_value());
}

}  // namespace
}  // namespace gradwire
