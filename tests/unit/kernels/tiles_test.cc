#include "engine/kernels/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace gradwire {
namespace {

using Picker = TileFn (*)(tiles::Types, DType);

// What a function should give, in more precision than any element type has.
struct UnaryCase {
  const char* name;
  Picker pick;
  long double (*exact)(long double);
  std::vector<std::pair<double, double>> ranges;
  double ulps = 1;
};
struct BinaryCase {
  const char* name;
  Picker pick;
  long double (*exact)(long double, long double);
  double ulps = 0.5;
};

long double Sigmoid(long double x) { return 1 / (1 + std::exp(-x)); }
long double Softplus(long double x) {
  return std::fmax(x, 0.0L) + std::log1p(std::exp(-std::fabs(x)));
}
long double NanWinsMin(long double a, long double b) {
  return std::isnan(a) || std::isnan(b) ? std::nanl("") : std::fmin(a, b);
}
long double NanWinsMax(long double a, long double b) {
  return std::isnan(a) || std::isnan(b) ? std::nanl("") : std::fmax(a, b);
}

#define MATH(Name, fn, ...)                                                           \
  {                                                                                   \
#Name, &tiles::Name, [](long double x) -> long double { return fn; }, __VA_ARGS__ \
  }
const std::vector<UnaryCase>& UnaryCases() {
  static const auto* cases = new std::vector<UnaryCase>{
      MATH(Neg, -x, {{-10, 10}}, 0.5),
      MATH(Abs, std::fabs(x), {{-10, 10}}, 0.5),
      MATH(Sign, (std::isnan(x) ? x : (x > 0) - (x < 0)), {{-10, 10}}, 0.5),
      MATH(Sqrt, std::sqrt(x), {{0, 10}, {0, 1e30}}, 0.5),
      MATH(Reciprocal, 1 / x, {{-10, 10}}, 0.5),
      MATH(Relu, (x <= 0 ? 0.0L : x), {{-10, 10}}, 0.5),
      MATH(Exp, std::exp(x), {{-1, 1}, {-20, 20}, {-110, 90}, {-750, 715}}),
      MATH(Expm1, std::expm1(x), {{-1e-3, 1e-3}, {-5, 5}, {-80, 90}, {-100, 712}}),
      MATH(Log, std::log(x), {{0, 1e-30}, {0.5, 2}, {0, 100}, {0, 1e30}}),
      MATH(Log1p, std::log1p(x), {{-1e-6, 1e-6}, {-1, 1}, {0, 100}, {0, 1e38}}),
      MATH(Sin, std::sin(x), {{-4, 4}, {-40, 40}, {-2000, 2000}, {-1e15, 1e15}, {-1e30, 1e30}}),
      MATH(Cos, std::cos(x), {{-4, 4}, {-40, 40}, {-2000, 2000}, {-1e15, 1e15}, {-1e30, 1e30}}),
      MATH(Tan, std::tan(x), {{-4, 4}, {-40, 40}, {-2000, 2000}, {-1e15, 1e15}, {-1e30, 1e30}}),
      MATH(Asin, std::asin(x), {{-1, 1}, {-1e-3, 1e-3}}),
      MATH(Acos, std::acos(x), {{-1, 1}, {0.999, 1}}),
      MATH(Atan, std::atan(x), {{-1, 1}, {-20, 20}, {-1e30, 1e30}}),
      MATH(Sinh, std::sinh(x), {{-1e-3, 1e-3}, {-5, 5}, {-90, 90}, {-712, 712}}, 1.25),
      MATH(Cosh, std::cosh(x), {{-1e-3, 1e-3}, {-5, 5}, {-90, 90}, {-712, 712}}, 1.25),
      MATH(Asinh, std::asinh(x), {{-1e-3, 1e-3}, {-5, 5}, {-1e10, 1e10}, {-1e38, 1e38}}),
      MATH(Acosh, std::acosh(x), {{1, 1.001}, {1, 5}, {1, 1e10}, {1, 1e38}}),
      MATH(Atanh, std::atanh(x), {{-1e-3, 1e-3}, {-1, 1}, {0.999, 1}}),
      MATH(Tanh, std::tanh(x), {{-1e-3, 1e-3}, {-0.7, 0.7}, {-4, 4}, {-50, 50}}),
      MATH(Erf, std::erf(x), {{-1e-3, 1e-3}, {-1, 1}, {-7, 7}}),
      MATH(Sigmoid, gradwire::Sigmoid(x), {{-1, 1}, {-10, 10}, {-110, 110}, {-750, 750}}),
      MATH(Softplus, gradwire::Softplus(x), {{-1, 1}, {-10, 10}, {-110, 110}, {-750, 750}}, 1.5),
  };
  return *cases;
}
#undef MATH

const std::vector<BinaryCase>& BinaryCases() {
  static const auto* cases = new std::vector<BinaryCase>{
      {"Add", &tiles::Add, [](long double a, long double b) { return a + b; }},
      {"Sub", &tiles::Sub, [](long double a, long double b) { return a - b; }},
      {"Mul", &tiles::Mul, [](long double a, long double b) { return a * b; }},
      {"Div", &tiles::Div, [](long double a, long double b) { return a / b; }},
      {"Min", &tiles::Min, &NanWinsMin},
      {"Max", &tiles::Max, &NanWinsMax},
      {"Pow", &tiles::Pow, [](long double a, long double b) { return std::pow(a, b); }, 1},
  };
  return *cases;
}

template <typename T>
std::vector<T> RunUnary(Picker pick, const std::vector<T>& x) {
  const DType dtype = kDTypeOf<T>;
  const TileFn fn = pick({dtype}, dtype);
  std::vector<T> y(x.size());
  const void* in[] = {x.data()};
  fn(in, y.data(), static_cast<int64_t>(x.size()));
  return y;
}
template <typename T>
std::vector<T> RunBinary(Picker pick, const std::vector<T>& a, const std::vector<T>& b) {
  const DType dtype = kDTypeOf<T>;
  const TileFn fn = pick({dtype, dtype}, dtype);
  std::vector<T> y(a.size());
  const void* in[] = {a.data(), b.data()};
  fn(in, y.data(), static_cast<int64_t>(a.size()));
  return y;
}

// The distance from `exact` in units of the last place of T at `exact`.
template <typename T>
double Ulps(T got, long double exact) {
  const T nearest = static_cast<T>(exact);
  if (std::isnan(nearest)) return std::isnan(got) ? 0 : INFINITY;
  if (got == nearest) return std::isinf(got) ? 0 : 0.5;
  if (std::isinf(nearest)) return std::fabs(got) == std::numeric_limits<T>::max() ? 1 : INFINITY;
  if (std::isinf(got) || std::isnan(got)) return INFINITY;
  const T magnitude = std::fabs(nearest);
  const T ulp = std::nextafter(magnitude, std::numeric_limits<T>::infinity()) - magnitude;
  return static_cast<double>(std::fabs(static_cast<long double>(got) - exact) / ulp);
}

template <typename T>
std::vector<T> Uniform(double low, double high, size_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<T> x(n);
  for (T& v : x) {
    v = static_cast<T>(std::clamp<double>(uniform(generator), -std::numeric_limits<T>::max(),
                                          std::numeric_limits<T>::max()));
  }
  return x;
}

// Numbers on which functions go wrong.
template <typename T>
std::vector<T> Specials() {
  using L = std::numeric_limits<T>;
  std::vector<T> x = {0,
                      L::denorm_min(),
                      L::min() / 2,
                      L::min(),
                      T(1e-30),
                      T(1e-5),
                      T(0.5),
                      T(0.625),
                      T(0.99999),
                      1,
                      T(1.5),
                      2,
                      3,
                      T(14.999),
                      T(15.001),
                      T(64.5),
                      T(88.5),
                      T(89.3),
                      T(104),
                      T(124.9),
                      T(125.1),
                      T(709.5),
                      T(710.3),
                      T(1000),
                      T(1e9),
                      T(2.5e9),
                      T(9.9e13),
                      T(1.1e14),
                      T(1e16),
                      T(1e30),
                      T(1e38),
                      L::max() / 2,
                      L::max(),
                      L::infinity()};
  const size_t n = x.size();
  for (size_t i = 0; i < n; ++i) x.push_back(-x[i]);
  x.push_back(L::quiet_NaN());
  return x;
}

template <typename T>
void ExpectNear(const char* name, const std::vector<T>& args, T got, long double exact,
                double ulps) {
  const double distance = Ulps(got, exact);
  EXPECT_LE(distance, ulps) << name << " of " << testing::PrintToString(args) << " gave " << got
                            << ", not " << static_cast<double>(exact);
}

template <typename T>
bool SameBits(const std::vector<T>& expected, const T* got) {
  return expected.empty() || !std::memcmp(expected.data(), got, expected.size() * sizeof(T));
}

// Without fused multiplication, or with libm in the place of SLEEF, a unit is lost here and there.
double Limit(double ulps) {
  const bool fma = __builtin_cpu_supports("fma");
  return fma || ulps <= 0.5 ? ulps : 2.5;
}

template <typename T>
class FloatTilesTest : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(FloatTilesTest, FloatTypes);

TYPED_TEST(FloatTilesTest, UnaryIsAccurateOverItsRanges) {
  using T = TypeParam;
  for (const UnaryCase& c : UnaryCases()) {
    double worst = 0;
    T at = 0;
    for (const auto& [low, high] : c.ranges) {
      const std::vector<T> x = Uniform<T>(low, high, 20000, 7);
      const std::vector<T> y = RunUnary(c.pick, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const double ulps = Ulps(y[i], c.exact(x[i]));
        if (!(ulps <= worst)) worst = ulps, at = x[i];
      }
    }
    EXPECT_LE(worst, Limit(c.ulps)) << c.name << " of " << at;
    this->RecordProperty(c.name, std::to_string(worst));
  }
}

TYPED_TEST(FloatTilesTest, UnaryIsRightOnSpecialValues) {
  using T = TypeParam;
  const std::vector<T> x = Specials<T>();
  for (const UnaryCase& c : UnaryCases()) {
    const std::vector<T> y = RunUnary(c.pick, x);
    for (size_t i = 0; i < x.size(); ++i) {
      ExpectNear<T>(c.name, {x[i]}, y[i], c.exact(x[i]), std::max(Limit(c.ulps), 1.0));
      if (x[i] == 0 && y[i] == 0) {
        const bool keeps_sign = std::string(c.name) != "Relu" && std::string(c.name) != "Sign" &&
                                std::string(c.name) != "Abs" && std::string(c.name) != "Neg";
        EXPECT_TRUE(!keeps_sign || std::signbit(y[i]) == std::signbit(x[i])) << c.name;
      }
    }
  }
}

TYPED_TEST(FloatTilesTest, SignedZerosFollowTheirConventions) {
  using T = TypeParam;
  const std::vector<T> zeros = {T(0), -T(0)};
  const std::vector<T> relu = RunUnary<T>(tiles::Relu, zeros);
  const std::vector<T> sign = RunUnary<T>(tiles::Sign, zeros);
  const std::vector<T> neg = RunUnary<T>(tiles::Neg, zeros);
  const std::vector<T> abs = RunUnary<T>(tiles::Abs, zeros);
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(std::signbit(relu[i]));
    EXPECT_FALSE(std::signbit(sign[i]));
    EXPECT_FALSE(std::signbit(abs[i]));
    EXPECT_EQ(std::signbit(neg[i]), i == 0);
  }
}

TYPED_TEST(FloatTilesTest, BinaryIsRightOnSpecialAndRandomPairs) {
  using T = TypeParam;
  const std::vector<T> special = Specials<T>();
  std::vector<T> a, b;
  for (T x : special) {
    for (T y : special) a.push_back(x), b.push_back(y);
  }
  const std::vector<T> left = Uniform<T>(0, 30, 20000, 1), right = Uniform<T>(-25, 25, 20000, 2);
  a.insert(a.end(), left.begin(), left.end());
  b.insert(b.end(), right.begin(), right.end());
  for (const BinaryCase& c : BinaryCases()) {
    const std::vector<T> y = RunBinary(c.pick, a, b);
    for (size_t i = 0; i < a.size(); ++i) {
      ExpectNear<T>(c.name, {a[i], b[i]}, y[i], c.exact(a[i], b[i]), Limit(c.ulps) * 1.0001);
    }
  }
}

TYPED_TEST(FloatTilesTest, SmallIntegerPowersAreExact) {
  using T = TypeParam;
  const std::vector<T> x = {T(-1.5), T(0.25), 3, 7, -2, T(-1.5), T(5)};
  const std::vector<T> y = {2, 2, 3, 4, 3, 3, -1};
  const std::vector<T> expected = {T(2.25), T(0.0625), 27, 2401, -8, T(-3.375), T(1) / T(5)};
  EXPECT_EQ(RunBinary<T>(tiles::Pow, x, y), expected);
}

// Every element's bits, computed alone, must be those it gets anywhere in a run of mixed
// magnitudes.
TYPED_TEST(FloatTilesTest, BitsDoNotDependOnPosition) {
  using T = TypeParam;
  std::vector<T> x = Specials<T>();
  const size_t specials = x.size();
  for (double scale : {1e-3, 1.0, 12.0, 30.0, 200.0, 1e5, 1e15}) {
    const std::vector<T> more = Uniform<T>(-scale, scale, 101, 3);
    x.insert(x.end(), more.begin(), more.end());
  }
  std::shuffle(x.begin(), x.end(), std::mt19937(5));
  std::vector<T> other = x;
  std::shuffle(other.begin(), other.end(), std::mt19937(6));
  ASSERT_GT(x.size(), specials);
  const auto check = [&](const char* name, TileFn fn) {
    std::vector<T> whole(x.size()), part(40);
    const void* in[] = {x.data(), other.data()};
    fn(in, whole.data(), static_cast<int64_t>(x.size()));
    for (size_t n : {1, 2, 3, 5, 7, 8, 9, 15, 17, 33}) {
      for (size_t at = 0; at + n <= x.size(); at += n) {
        const void* shifted[] = {x.data() + at, other.data() + at};
        fn(shifted, part.data(), static_cast<int64_t>(n));
        ASSERT_EQ(std::memcmp(part.data(), whole.data() + at, n * sizeof(T)), 0)
            << name << ", " << n << " elements from " << at;
      }
    }
  };
  const DType d = kDTypeOf<T>;
  for (const UnaryCase& c : UnaryCases()) check(c.name, c.pick({d}, d));
  for (const BinaryCase& c : BinaryCases()) {
    if (std::string(c.name) == "Add" || std::string(c.name) == "Mul")
      continue;  // sign of NaN + NaN
    check(c.name, c.pick({d, d}, d));
  }
}

TYPED_TEST(FloatTilesTest, RunsInPlaceUnalignedAndWritesNoFurther) {
  using T = TypeParam;
  const DType d = kDTypeOf<T>;
  for (const UnaryCase& c : UnaryCases()) {
    for (size_t n : {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 67}) {
      std::vector<T> x = Uniform<T>(0.1, 0.9, n, 11);
      const std::vector<T> expected = RunUnary(c.pick, x);
      std::vector<T> buffer(n + 2, T(123));
      std::copy(x.begin(), x.end(), buffer.begin() + 1);
      const void* in[] = {buffer.data() + 1};
      c.pick({d}, d)(in, buffer.data() + 1, static_cast<int64_t>(n));
      EXPECT_TRUE(SameBits(expected, buffer.data() + 1)) << c.name << n;
      EXPECT_EQ(buffer.front(), T(123)) << c.name << n;
      EXPECT_EQ(buffer.back(), T(123)) << c.name << n;
    }
  }
  for (const BinaryCase& c : BinaryCases()) {
    for (size_t n : {0, 1, 2, 3, 5, 8, 13, 16, 67}) {
      for (int alias : {0, 1}) {
        std::vector<T> args[] = {Uniform<T>(0.1, 5, n + 2, 11), Uniform<T>(0.1, 5, n + 2, 12)};
        const T first = args[alias].front(), last = args[alias].back();
        const void* in[] = {args[0].data() + 1, args[1].data() + 1};
        std::vector<T> expected(n);
        c.pick({d, d}, d)(in, expected.data(), static_cast<int64_t>(n));
        c.pick({d, d}, d)(in, args[alias].data() + 1, static_cast<int64_t>(n));
        EXPECT_TRUE(SameBits(expected, args[alias].data() + 1)) << c.name;
        EXPECT_EQ(args[alias].front(), first);
        EXPECT_EQ(args[alias].back(), last);
      }
    }
  }
}

TYPED_TEST(FloatTilesTest, ComparisonsFollowIeee) {
  using T = TypeParam;
  const DType d = kDTypeOf<T>;
  const std::vector<T> s = Specials<T>();
  std::vector<T> a, b;
  for (T x : s) {
    for (T y : s) a.push_back(x), b.push_back(y);
  }
  std::vector<uint8_t> y(a.size());
  const void* in[] = {a.data(), b.data()};
  const auto run = [&](Picker pick, auto expected) {
    pick({d, d}, DType::kBool)(in, y.data(), static_cast<int64_t>(a.size()));
    for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(y[i], expected(a[i], b[i])) << a[i] << b[i];
  };
  run(tiles::Equal, [](T p, T q) { return p == q; });
  run(tiles::Less, [](T p, T q) { return p < q; });
  run(tiles::LessOrEqual, [](T p, T q) { return p <= q; });
  run(tiles::Greater, [](T p, T q) { return p > q; });
  run(tiles::GreaterOrEqual, [](T p, T q) { return p >= q; });
}

template <typename T>
class IntTilesTest : public testing::Test {};
using IntTypes =
    testing::Types<int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t, int64_t, uint64_t>;
TYPED_TEST_SUITE(IntTilesTest, IntTypes);

TYPED_TEST(IntTilesTest, ArithmeticWraps) {
  using T = TypeParam;
  const T min = std::numeric_limits<T>::min(), max = std::numeric_limits<T>::max();
  const std::vector<T> a = {1, max, min, 7, 100, max}, b = {2, 1, 1, 3, 0, max};
  EXPECT_EQ(RunBinary<T>(tiles::Add, a, b), (std::vector<T>{3, min, T(min + 1), 10, 100, T(-2)}));
  EXPECT_EQ(RunBinary<T>(tiles::Sub, a, b), (std::vector<T>{T(-1), T(max - 1), max, 4, 100, 0}));
  EXPECT_EQ(RunBinary<T>(tiles::Mul, a, b), (std::vector<T>{2, max, min, 21, 0, 1}));
  EXPECT_EQ(RunBinary<T>(tiles::Div, a, b), (std::vector<T>{0, max, min, 2, 0, 1}));
  EXPECT_EQ(RunBinary<T>(tiles::Min, a, b), (std::vector<T>{1, 1, min, 3, 0, max}));
  EXPECT_EQ(RunBinary<T>(tiles::Max, a, b), (std::vector<T>{2, max, 1, 7, 100, max}));
  EXPECT_EQ(RunUnary<T>(tiles::Neg, {1, min, 0}), (std::vector<T>{T(-1), min, 0}));
  EXPECT_EQ(RunUnary<T>(tiles::Relu, {1, T(-1)}), (std::vector<T>{1, T(min == 0 ? T(-1) : 0)}));
}

TYPED_TEST(IntTilesTest, DivisionAndPowersHaveAnAnswerEverywhere) {
  using T = TypeParam;
  const T min = std::numeric_limits<T>::min(), max = std::numeric_limits<T>::max();
  EXPECT_EQ(RunBinary<T>(tiles::Pow, {2, 3, 0, 5, 1}, {5, 3, 0, 0, max}),
            (std::vector<T>{32, 27, 1, 1, 1}));
  if (std::is_signed_v<T>) {
    const T m1 = static_cast<T>(-1);
    EXPECT_EQ(RunBinary<T>(tiles::Div, {min, T(-7), 7}, {m1, 2, T(-2)}),
              (std::vector<T>{min, T(-3), T(-3)}));
    EXPECT_EQ(RunBinary<T>(tiles::Pow, {m1, m1, 1, 2, T(-2)}, {m1, T(-2), min, m1, 3}),
              (std::vector<T>{m1, 1, 1, 0, T(-8)}));
    EXPECT_EQ(RunUnary<T>(tiles::Abs, {m1, min, 3}), (std::vector<T>{1, min, 3}));
    EXPECT_EQ(RunUnary<T>(tiles::Sign, {m1, 0, 3}), (std::vector<T>{m1, 0, 1}));
  }
}

TYPED_TEST(IntTilesTest, CastFromFloatingTruncatesAndSaturates) {
  using T = TypeParam;
  const T min = std::numeric_limits<T>::min(), max = std::numeric_limits<T>::max();
  const std::vector<double> x = {1.9,      0,         -0.9,  NAN,    1e30, -1e30,
                                 INFINITY, -INFINITY, 100.5, -100.5, 2.5};
  const std::vector<T> expected = {
      1, 0, 0, 0, max, min, max, min, 100, std::is_signed_v<T> ? T(-100) : T(0), 2};
  std::vector<T> y(x.size());
  const void* in[] = {x.data()};
  tiles::Cast({DType::kDouble}, kDTypeOf<T>)(in, y.data(), static_cast<int64_t>(x.size()));
  EXPECT_EQ(y, expected);
  const std::vector<float> f(x.begin(), x.end());
  in[0] = f.data();
  tiles::Cast({DType::kFloat}, kDTypeOf<T>)(in, y.data(), static_cast<int64_t>(x.size()));
  EXPECT_EQ(y, expected);
  // The largest floating value below 2^digits, and 2^digits itself.
  const float end = std::ldexp(1.0f, std::numeric_limits<T>::digits);
  const std::vector<float> edges = {end, std::nextafter(end, 0.0f)};
  in[0] = edges.data();
  tiles::Cast({DType::kFloat}, kDTypeOf<T>)(in, y.data(), 2);
  EXPECT_EQ(y[0], max);
  EXPECT_EQ(y[1], static_cast<T>(edges[1]));
}

TEST(TilesTest, CastsBetweenFloatingTypesAndBool) {
  const double x[] = {0.0, -0.0, 2.5, NAN, 1e300};
  const void* in[] = {x};
  float f[5];
  tiles::Cast({DType::kDouble}, DType::kFloat)(in, f, 5);
  EXPECT_EQ(f[2], 2.5f);
  EXPECT_TRUE(std::isnan(f[3]));
  EXPECT_EQ(f[4], std::numeric_limits<float>::infinity());
  uint8_t b[5];
  tiles::Cast({DType::kDouble}, DType::kBool)(in, b, 5);
  EXPECT_EQ(std::vector<uint8_t>(b, b + 5), (std::vector<uint8_t>{0, 0, 1, 1, 1}));
  in[0] = b;
  tiles::Cast({DType::kBool}, DType::kFloat)(in, f, 5);
  EXPECT_EQ(std::vector<float>(f, f + 5), (std::vector<float>{0, 0, 1, 1, 1}));
}

TEST(TilesTest, LogicWorksOnBools) {
  const uint8_t a[] = {0, 0, 1, 1}, b[] = {0, 1, 0, 1};
  uint8_t y[4];
  const void* in[] = {a, b};
  const auto B = DType::kBool;
  const auto result = [&] { return std::vector<uint8_t>(y, y + 4); };
  tiles::And({B, B}, B)(in, y, 4);
  EXPECT_EQ(result(), (std::vector<uint8_t>{0, 0, 0, 1}));
  tiles::Or({B, B}, B)(in, y, 4);
  EXPECT_EQ(result(), (std::vector<uint8_t>{0, 1, 1, 1}));
  tiles::Not({B}, B)(in, y, 4);
  EXPECT_EQ(result(), (std::vector<uint8_t>{1, 1, 0, 0}));
  tiles::Equal({B, B}, B)(in, y, 4);
  EXPECT_EQ(result(), (std::vector<uint8_t>{1, 0, 0, 1}));
}

const DType kEveryDType[] = {DType::kFloat,   DType::kUint8,  DType::kInt8,   DType::kUint16,
                             DType::kInt16,   DType::kInt32,  DType::kInt64,  DType::kBool,
                             DType::kFloat16, DType::kDouble, DType::kUint32, DType::kUint64,
                             DType::kBfloat16};

TEST(TilesTest, WhereIdentityAndSplatMoveBytesOfEveryType) {
  constexpr int64_t kN = 37;
  std::mt19937 generator(1);
  std::vector<uint8_t> condition(kN), a(kN * 8), b(kN * 8), y(kN * 8);
  for (uint8_t& c : condition) c = generator() % 2;
  for (uint8_t& c : a) c = static_cast<uint8_t>(generator());
  for (uint8_t& c : b) c = static_cast<uint8_t>(generator());
  for (DType d : kEveryDType) {
    const size_t bytes = static_cast<size_t>(DTypeBytes(d));
    const void* in[] = {condition.data(), a.data(), b.data()};
    tiles::Where({DType::kBool, d, d}, d)(in, y.data(), kN);
    for (size_t i = 0; i < kN; ++i) {
      const uint8_t* expected = (condition[i] ? a : b).data() + i * bytes;
      ASSERT_EQ(std::memcmp(y.data() + i * bytes, expected, bytes), 0) << DTypeName(d);
    }
    const void* copy_in[] = {a.data()};
    for (int64_t n : {int64_t{0}, int64_t{1}, kN}) {
      std::fill(y.begin(), y.end(), uint8_t{0});
      tiles::Identity({d}, d)(copy_in, y.data(), n);
      EXPECT_TRUE(std::equal(a.begin(), a.begin() + n * DTypeBytes(d), y.begin()));
    }
    tiles::Splat(b.data(), y.data(), kN, DTypeBytes(d));
    for (size_t i = 0; i < kN; ++i) {
      ASSERT_EQ(std::memcmp(y.data() + i * bytes, b.data(), bytes), 0) << DTypeName(d);
    }
  }
}

TEST(TilesTest, PicksNothingForTypesWithoutALoop) {
  const auto F = DType::kFloat, D = DType::kDouble, I = DType::kInt64, B = DType::kBool;
  EXPECT_EQ(tiles::Add({F, D}, D), nullptr);
  EXPECT_EQ(tiles::Add({B, B}, B), nullptr);
  EXPECT_EQ(tiles::Add({DType::kFloat16, DType::kFloat16}, DType::kFloat16), nullptr);
  EXPECT_EQ(tiles::Exp({I}, I), nullptr);
  EXPECT_EQ(tiles::Sqrt({I}, I), nullptr);
  EXPECT_EQ(tiles::Less({B, B}, B), nullptr);
  EXPECT_EQ(tiles::Less({F, F}, F), nullptr);
  EXPECT_EQ(tiles::And({I, I}, B), nullptr);
  EXPECT_EQ(tiles::Where({F, F, F}, F), nullptr);
  EXPECT_EQ(tiles::Identity({F}, D), nullptr);
  EXPECT_EQ(tiles::Cast({DType::kUndefined}, F), nullptr);
}

TEST(TilesTest, CastsEveryPairOfTypesThatHaveArithmetic) {
  for (DType from : kEveryDType) {
    for (DType to : kEveryDType) {
      const bool half = from == DType::kFloat16 || from == DType::kBfloat16 ||
                        to == DType::kFloat16 || to == DType::kBfloat16;
      EXPECT_EQ(tiles::Cast({from}, to) == nullptr, half) << DTypeName(from) << DTypeName(to);
    }
  }
}

}  // namespace
}  // namespace gradwire
