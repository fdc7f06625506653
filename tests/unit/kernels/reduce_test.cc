#include "engine/kernels/reduce.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace gradwire {
namespace {

struct Extents {
  int64_t outer, axis, inner;
};

// One block and several; odd, prime and empty extents; every way of sharing work among threads.
const Extents kExtents[] = {
    {1, 1, 1},      {1, 5, 1},    {3, 7, 1},      {4, 16, 1},    {2, 127, 1},
    {2, 128, 1},    {1, 4096, 1}, {1, 4097, 1},   {3, 9001, 1},  {1, 300007, 1},
    {70, 1000, 1},  {1, 3, 2},    {5, 7, 3},      {2, 256, 5},   {2, 257, 9},
    {1, 1021, 255}, {1, 70, 257}, {1, 1000, 600}, {1, 70001, 3}, {1, 10007, 16},
    {3, 700, 100},  {0, 4, 4},    {4, 0, 4},      {4, 4, 0},     {3, 0, 1},
};

template <typename T>
std::vector<T> RandomValues(int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<T> x(static_cast<size_t>(n));
  for (T& v : x) {
    if constexpr (std::is_floating_point_v<T>) {
      v = std::uniform_real_distribution<T>(-1, 1)(generator);
    } else {
      v = static_cast<T>(generator());
    }
  }
  return x;
}

// Starts from a poisoned output.
template <typename T>
std::vector<T> Reduced(ReduceKind kind, const std::vector<T>& x, const Extents& e, int threads) {
  std::vector<T> y(static_cast<size_t>(e.outer * e.inner));
  if (!y.empty()) std::memset(y.data(), 0xff, y.size() * sizeof(T));
  FindReduce(kind, kDTypeOf<T>)(x.data(), y.data(), e.outer, e.axis, e.inner, threads);
  return y;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

template <typename T>
class ReduceTest : public testing::Test {};
using AllTypes = testing::Types<float, double, int8_t, uint8_t, int16_t, uint16_t, int32_t,
                                uint32_t, int64_t, uint64_t>;
TYPED_TEST_SUITE(ReduceTest, AllTypes);

TYPED_TEST(ReduceTest, AgreesWithAPlainLoop) {
  using T = TypeParam;
  using Limits = std::numeric_limits<T>;
  const T highest = Limits::has_infinity ? Limits::infinity() : Limits::max();
  const T lowest = Limits::has_infinity ? -Limits::infinity() : Limits::min();
  for (const Extents& e : kExtents) {
    const std::vector<T> x = RandomValues<T>(e.outer * e.axis * e.inner, 1);
    const std::vector<T> sum = Reduced(ReduceKind::kSum, x, e, 1);
    const std::vector<T> max = Reduced(ReduceKind::kMax, x, e, 1);
    const std::vector<T> min = Reduced(ReduceKind::kMin, x, e, 1);
    for (int64_t o = 0; o < e.outer; ++o) {
      for (int64_t i = 0; i < e.inner; ++i) {
        long double exact = 0, magnitude = 0;
        uint64_t wrapped = 0;
        T largest = lowest, smallest = highest;
        for (int64_t a = 0; a < e.axis; ++a) {
          const T v = x[static_cast<size_t>((o * e.axis + a) * e.inner + i)];
          exact += static_cast<long double>(v);
          magnitude += std::fabs(static_cast<long double>(v));
          if constexpr (std::is_integral_v<T>) wrapped += static_cast<uint64_t>(v);
          largest = std::max(largest, v);
          smallest = std::min(smallest, v);
        }
        const size_t at = static_cast<size_t>(o * e.inner + i);
        if constexpr (std::is_integral_v<T>) {
          ASSERT_EQ(sum[at], static_cast<T>(wrapped));
        } else {
          ASSERT_LE(std::fabs(sum[at] - exact), 16 * Limits::epsilon() * (magnitude / 4 + 1))
              << e.outer << "," << e.axis << "," << e.inner;
        }
        ASSERT_EQ(max[at], largest);
        ASSERT_EQ(min[at], smallest);
      }
    }
  }
}

TYPED_TEST(ReduceTest, BitsDependOnNothingButTheExtents) {
  using T = TypeParam;
  for (const Extents& e : kExtents) {
    // The same values at two alignments.
    const std::vector<T> x = RandomValues<T>(e.outer * e.axis * e.inner, 2);
    std::vector<T> shifted(x.size() + 1);
    std::copy(x.begin(), x.end(), shifted.begin() + 1);
    for (ReduceKind kind : {ReduceKind::kSum, ReduceKind::kMax, ReduceKind::kMin}) {
      const std::vector<T> once = Reduced(kind, x, e, 1);
      EXPECT_TRUE(SameBits(Reduced(kind, x, e, 1), once));
      EXPECT_TRUE(SameBits(Reduced(kind, x, e, 2), once)) << e.outer << "," << e.axis;
      EXPECT_TRUE(SameBits(Reduced(kind, x, e, 5), once)) << e.outer << "," << e.axis;
      std::vector<T> y(once.size());
      FindReduce(kind, kDTypeOf<T>)(shifted.data() + 1, y.data(), e.outer, e.axis, e.inner, 1);
      EXPECT_TRUE(SameBits(y, once));
    }
  }
}

template <typename T>
class FloatReduceTest : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(FloatReduceTest, FloatTypes);

TYPED_TEST(FloatReduceTest, NanWinsWhereverItStands) {
  using T = TypeParam;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const Extents& e :
       {Extents{1, 9, 1}, Extents{1, 40, 1}, Extents{1, 5000, 1}, Extents{1, 300, 3}}) {
    for (int64_t at : {int64_t{0}, e.axis / 2, e.axis - 1}) {
      std::vector<T> x = RandomValues<T>(e.axis * e.inner, 3);
      x[static_cast<size_t>(at * e.inner)] = nan;
      for (ReduceKind kind : {ReduceKind::kSum, ReduceKind::kMax, ReduceKind::kMin}) {
        const std::vector<T> y = Reduced(kind, x, e, 1);
        EXPECT_TRUE(std::isnan(y[0])) << e.axis << " " << at;
        EXPECT_TRUE(e.inner == 1 || !std::isnan(y[1]));
      }
    }
  }
}

TYPED_TEST(FloatReduceTest, InfinitiesAndEmptyAxes) {
  using T = TypeParam;
  const T inf = std::numeric_limits<T>::infinity();
  EXPECT_EQ(Reduced<T>(ReduceKind::kSum, {}, {2, 0, 1}, 1), (std::vector<T>{0, 0}));
  EXPECT_EQ(Reduced<T>(ReduceKind::kMax, {}, {1, 0, 2}, 1), (std::vector<T>{-inf, -inf}));
  EXPECT_EQ(Reduced<T>(ReduceKind::kMin, {}, {1, 0, 1}, 1), (std::vector<T>{inf}));
  EXPECT_EQ(Reduced<T>(ReduceKind::kMax, {-inf, -inf}, {1, 2, 1}, 1), (std::vector<T>{-inf}));
  EXPECT_EQ(Reduced<T>(ReduceKind::kSum, {inf, 1}, {1, 2, 1}, 1), (std::vector<T>{inf}));
  EXPECT_TRUE(std::isnan(Reduced<T>(ReduceKind::kSum, {inf, -inf}, {1, 2, 1}, 1)[0]));
}

// A plain float sum of ten million tenths is off by several per cent.
TEST(ReduceSumTest, ErrorGrowsSlowly) {
  const std::vector<float> x(10'000'000, 0.1f);
  EXPECT_NEAR(Reduced(ReduceKind::kSum, x, {1, 10'000'000, 1}, 1)[0], 1e6, 1);
  EXPECT_NEAR(Reduced(ReduceKind::kSum, x, {1, 5'000'000, 2}, 2)[1], 5e5, 1);
}

TEST(ReduceFindTest, HasNoneForBoolsAndHalves) {
  for (DType d : {DType::kBool, DType::kFloat16, DType::kBfloat16, DType::kUndefined}) {
    EXPECT_EQ(FindReduce(ReduceKind::kSum, d), nullptr);
    EXPECT_EQ(FindReduce(ReduceKind::kMax, d), nullptr);
  }
}

}  // namespace
}  // namespace gradwire
