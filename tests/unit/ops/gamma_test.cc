// Values of the gamma functions and of Erfinv, from mpmath with 40 digits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/graph/builder.h"
#include "engine/ops/all_ops.h"

namespace gradwire {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <typename T = double>
T Compute(const char* op, T x, Attrs attrs = {}) {
  GraphBuilder b;
  const ValueId y = b.Add(*AllOps().Find(op), {b.Constant(Tensor::Scalar<T>(x))}, std::move(attrs));
  EXPECT_TRUE(b.ok()) << b.status();
  return b.ConstantValue(y)->data<T>()[0];
}

double Polygamma(int64_t n, double x) { return Compute("Polygamma", x, {{"n", n}}); }

void ExpectRelative(double got, double want, double x) {
  EXPECT_NEAR(got, want, 4e-15 * std::fabs(want)) << "at " << x;
}

TEST(GammaTest, LgammaHasTheKnownValues) {
  for (const auto& [x, y] : {std::pair{0.1, 2.2527126517342059599},
                             {0.5, 0.57236494292470008707},
                             {2.5, 0.28468287047291915963},
                             {10, 12.801827480081469611},
                             {-0.5, 1.2655121234846453965},
                             {-3.25, -0.62315345132099864663},
                             {171.5, 709.14316303092824227}}) {
    ExpectRelative(Compute("Lgamma", x), y, x);
  }
  EXPECT_EQ(Compute("Lgamma", 0.0), kInfinity);
  EXPECT_EQ(Compute("Lgamma", -2.0), kInfinity);
  EXPECT_FLOAT_EQ(Compute("Lgamma", 2.5f), 0.28468287f);
}

TEST(GammaTest, DigammaHasTheKnownValues) {
  for (const auto& [x, y] : {std::pair{0.1, -10.423754940411076795},
                             {0.5, -1.9635100260214234794},
                             {1, -0.57721566490153286061},
                             {2.5, 0.70315664064524318723},
                             {10, 2.2517525890667211076},
                             {-3.25, 4.4662758723502799671},
                             {171.5, 5.1416649814339996289}}) {
    ExpectRelative(Compute("Digamma", x), y, x);
  }
  EXPECT_NEAR(Compute("Digamma", -0.5), 0.036489973978576520559, 1e-15);
  EXPECT_EQ(Compute("Digamma", 0.0), -kInfinity);
  EXPECT_EQ(Compute("Digamma", -0.0), kInfinity);
  EXPECT_TRUE(std::isnan(Compute("Digamma", -3.0)));
  EXPECT_EQ(Compute("Digamma", kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(Compute("Digamma", -kInfinity)));
}

TEST(GammaTest, PolygammaHasTheKnownValues) {
  struct Known {
    int64_t n;
    double x, y;
  };
  for (const Known& k : {Known{1, 0.1, 101.43329915079275882},
                         {1, 0.5, 4.9348022005446793094},
                         {1, 1, 1.6449340668482264365},
                         {1, 10, 0.10516633568168574612},
                         {1, -0.5, 8.9348022005446793094},
                         {1, -3.25, 19.474085068082155114},
                         {1, 171.5, 0.0058479365506103837617},
                         {2, 0.1, -2001.8614573783440063},
                         {2, 1, -2.4041138063191885708},
                         {2, 10, -0.011049834970802067462},
                         {2, -0.25, 122.69736678366236037},
                         {2, -3.25, 123.95521103942202266},
                         {5, 0.1, 120000069.30751096897},
                         {5, 1, 122.08116743813389677},
                         {5, 10, 0.00030594516211726820905},
                         {5, -3.25, 492231.23733572133773}}) {
    ExpectRelative(Polygamma(k.n, k.x), k.y, k.x);
  }
  EXPECT_EQ(Polygamma(0, 2.5), Compute("Digamma", 2.5));
  EXPECT_EQ(Polygamma(1, -2), kInfinity);
  EXPECT_EQ(Polygamma(2, 0.0), -kInfinity);
  EXPECT_TRUE(std::isnan(Polygamma(2, -2)));
}

// Bug that it would be: a loop from -1e300 to 0.
TEST(GammaTest, FarFromZeroTakesNoTime) {
  EXPECT_TRUE(std::isnan(Compute("Digamma", -1e300)));
  EXPECT_EQ(Polygamma(1, -1e300), kInfinity);
  EXPECT_TRUE(std::isfinite(Compute("Digamma", -1e9 - 0.25)));
  EXPECT_EQ(Polygamma(3, 1e300), 0);
}

TEST(GammaTest, PolygammaOfAnOrderBeyondTheLimitIsRefused) {
  GraphBuilder b;
  b.Add(*AllOps().Find("Polygamma"), {b.Constant(Tensor::Scalar(1.0))}, {{"n", int64_t{101}}});
  EXPECT_TRUE(HasReason(b.status(), Reason::kUnsupportedOp)) << b.status();
}

TEST(ErfinvTest, HasTheKnownValuesUpToTheEnds) {
  for (const auto& [x, y] : {std::pair{1e-10, 8.8622692545275801365e-11},
                             {0.1, 0.088855990494257691974},
                             {0.5, 0.47693627620446987338},
                             {-0.9, -1.1630871536766741628},
                             {0.999999, 3.4589107372754987775},
                             {-0.999999999999, -5.0420318985726961301}}) {
    ExpectRelative(Compute("Erfinv", x), y, x);
  }
  EXPECT_EQ(Compute("Erfinv", 1.0), kInfinity);
  EXPECT_EQ(Compute("Erfinv", -1.0), -kInfinity);
  EXPECT_TRUE(std::isnan(Compute("Erfinv", 1.5)));
  EXPECT_EQ(Compute("Erfinv", 0.0), 0);
}

}  // namespace
}  // namespace gradwire
