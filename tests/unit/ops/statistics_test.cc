// Likelihoods, as statisticians write them, against closed forms and against other libraries.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/autodiff/autodiff.h"
#include "engine/engine.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using Doubles = std::vector<double>;
using Matrix = std::vector<std::vector<long double>>;

struct Answer {
  double value = 0;
  std::map<std::string, Doubles> gradient, product;  // by input; the latter where asked for
};

// A formula's value, gradient and Hessian-vector product.
Answer Differentiate(const std::string& formula, const NamedTensors& inputs,
                     const NamedTensors& vector) {
  Engine engine(QuickEngine());
  NamedViews views;
  for (const auto& [name, tensor] : inputs) views[name] = tensor;
  const auto model = Value(engine.LoadModel(ModelFormat::kFormula, formula, views));
  std::vector<std::string> wrt;
  NamedTensors all = inputs;
  for (const auto& [name, tensor] : vector) {
    wrt.push_back(name);
    all[TangentName(name)] = tensor;
  }
  const Prepared prepared =
      Value(engine.Prepare(*model, {.kind = Computation::kHvp, .wrt = wrt}, views));
  BoundProgram bound(prepared.program, all);
  const absl::Status status = bound.Run();
  EXPECT_TRUE(status.ok()) << status;
  Answer out;
  out.value = ToDoubles(bound.Output("f"))[0];
  for (const std::string& name : wrt) {
    out.gradient[name] = ToDoubles(bound.Output(GradientName(name)));
    out.product[name] = ToDoubles(bound.Output(ProductName(name)));
  }
  return out;
}

void ExpectClose(const Doubles& got, const std::vector<long double>& want,
                 const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], static_cast<double>(want[i]),
                1e-12 * std::max(1.0, std::fabs(static_cast<double>(want[i]))))
        << what << "[" << i << "]";
  }
}

// ---- Gaussian processes

const Doubles kPlaces = {0, 0.7, 1.1, 2, 3.2}, kValues = {0.3, -1.2, 0.5, 2, -0.4};
constexpr size_t kCount = 5;

Matrix Product(const Matrix& a, const Matrix& b) {
  Matrix out(kCount, std::vector<long double>(kCount, 0));
  for (size_t i = 0; i < kCount; ++i) {
    for (size_t j = 0; j < kCount; ++j) {
      for (size_t k = 0; k < kCount; ++k) out[i][j] += a[i][k] * b[k][j];
    }
  }
  return out;
}

std::vector<long double> Times(const Matrix& a, const std::vector<long double>& x) {
  std::vector<long double> out(kCount, 0);
  for (size_t i = 0; i < kCount; ++i) {
    for (size_t k = 0; k < kCount; ++k) out[i] += a[i][k] * x[k];
  }
  return out;
}

long double Dot(const std::vector<long double>& x, const std::vector<long double>& y) {
  long double sum = 0;
  for (size_t i = 0; i < kCount; ++i) sum += x[i] * y[i];
  return sum;
}

long double Trace(const Matrix& a) {
  long double sum = 0;
  for (size_t i = 0; i < kCount; ++i) sum += a[i][i];
  return sum;
}

// By Gauss and Jordan, without pivoting: a is positive definite. Gives the determinant too.
Matrix InverseOf(Matrix a, long double* determinant) {
  Matrix out(kCount, std::vector<long double>(kCount, 0));
  *determinant = 1;
  for (size_t i = 0; i < kCount; ++i) out[i][i] = 1;
  for (size_t k = 0; k < kCount; ++k) {
    const long double pivot = a[k][k];
    *determinant *= pivot;
    for (size_t j = 0; j < kCount; ++j) a[k][j] /= pivot, out[k][j] /= pivot;
    for (size_t i = 0; i < kCount; ++i) {
      const long double factor = a[i][k];
      for (size_t j = 0; j < kCount && i != k; ++j) {
        a[i][j] -= factor * a[k][j];
        out[i][j] -= factor * out[k][j];
      }
    }
  }
  return out;
}

// log p(y) = -y' K^-1 y / 2 - log det K / 2 for K = s exp(-d / (2 l^2)) + e I, with d the squared
// distances; without the constant. With a = K^-1 y and t, u any of l, s, e:
//   L_t  = a' K_t a / 2 - tr(K^-1 K_t) / 2          L_y = -a
//   L_tu = a' K_tu a / 2 - a' K_t K^-1 K_u a - tr(K^-1 K_tu) / 2 + tr(K^-1 K_t K^-1 K_u) / 2
//   L_ty = K^-1 K_t a                               L_yy = -K^-1
// (C. E. Rasmussen and C. Williams, "Gaussian Processes for Machine Learning", equation 5.9, and
// its derivative).
class GaussianProcess {
 public:
  GaussianProcess(long double l, long double s, long double e) {
    const Matrix zero(kCount, std::vector<long double>(kCount, 0));
    Matrix k = zero;
    first_.assign(3, zero);
    second_.assign(3, std::vector<Matrix>(3, zero));
    for (size_t i = 0; i < kCount; ++i) {
      for (size_t j = 0; j < kCount; ++j) {
        const long double step = static_cast<long double>(kPlaces[i]) - kPlaces[j];
        const long double d = step * step, r = std::exp(-d / (2 * l * l)), by_l = d / (l * l * l);
        k[i][j] = s * r + (i == j ? e : 0);
        first_[0][i][j] = s * r * by_l;
        first_[1][i][j] = r;
        first_[2][i][j] = i == j ? 1 : 0;
        second_[0][0][i][j] = s * r * (by_l * by_l - 3 * by_l / l);
        second_[0][1][i][j] = second_[1][0][i][j] = r * by_l;
      }
    }
    inverse_ = InverseOf(k, &determinant_);
    y_.assign(kValues.begin(), kValues.end());
    a_ = Times(inverse_, y_);
  }

  long double value() const { return -Dot(y_, a_) / 2 - std::log(determinant_) / 2; }
  long double Gradient(size_t t) const {
    return Dot(a_, Times(first_[t], a_)) / 2 - Trace(Product(inverse_, first_[t])) / 2;
  }
  long double Hessian(size_t t, size_t u) const {
    const Matrix x = Product(inverse_, first_[t]), y = Product(inverse_, first_[u]);
    return Dot(a_, Times(second_[t][u], a_)) / 2 -
           Dot(Times(first_[t], a_), Times(inverse_, Times(first_[u], a_))) -
           Trace(Product(inverse_, second_[t][u])) / 2 + Trace(Product(x, y)) / 2;
  }
  // The gradient by y, its derivative by t, and the Hessian by y times v.
  std::vector<long double> GradientByData() const { return Negative(a_); }
  std::vector<long double> Mixed(size_t t) const { return Times(inverse_, Times(first_[t], a_)); }
  std::vector<long double> HessianByData(const std::vector<long double>& v) const {
    return Negative(Times(inverse_, v));
  }

 private:
  static std::vector<long double> Negative(std::vector<long double> x) {
    for (long double& v : x) v = -v;
    return x;
  }
  Matrix inverse_;
  long double determinant_ = 0;
  std::vector<Matrix> first_;
  std::vector<std::vector<Matrix>> second_;
  std::vector<long double> y_, a_;
};

Tensor SquaredDistances() {
  Doubles d;
  for (double x : kPlaces) {
    for (double y : kPlaces) d.push_back((x - y) * (x - y));
  }
  return Tensor::FromVector<double>({kCount, kCount}, d);
}

Tensor Identity() {
  Doubles eye(kCount * kCount, 0);
  for (size_t i = 0; i < kCount; ++i) eye[i * kCount + i] = 1;
  return Tensor::FromVector<double>({kCount, kCount}, eye);
}

// The same likelihood by a Cholesky factor, by a solution, and by an inverse.
class GaussianProcessTest : public testing::TestWithParam<const char*> {};

TEST_P(GaussianProcessTest, GradientAndHessianVectorProductAreTheClosedForms) {
  const double theta[] = {0.9, 1.3, 0.2}, v[] = {0.4, -0.7, 1.1};
  const Doubles v_y = {1, -0.5, 0.25, 0, 2};
  const std::string names[] = {"l", "s", "e"};
  NamedTensors inputs = {{"d", SquaredDistances()}, {"eye", Identity()}, {"y", Vector(kValues)}};
  NamedTensors vector = {{"y", Vector(v_y)}};
  for (size_t t = 0; t < 3; ++t) {
    inputs[names[t]] = Tensor::Scalar(theta[t]);
    vector[names[t]] = Tensor::Scalar(v[t]);
  }
  const Answer got = Differentiate(
      absl::StrCat("k = s * exp(-d / (2 * l^2)) + e * eye; ", GetParam()), inputs, vector);

  const GaussianProcess want(theta[0], theta[1], theta[2]);
  ExpectClose({got.value}, {want.value()}, "value");
  ExpectClose(got.gradient.at("y"), want.GradientByData(), "gradient y");
  std::vector<long double> by_data =
      want.HessianByData(std::vector<long double>(v_y.begin(), v_y.end()));
  for (size_t t = 0; t < 3; ++t) {
    ExpectClose(got.gradient.at(names[t]), {want.Gradient(t)}, "gradient " + names[t]);
    const std::vector<long double> mixed = want.Mixed(t);
    long double product = 0;
    for (size_t u = 0; u < 3; ++u) product += want.Hessian(t, u) * v[u];
    for (size_t i = 0; i < kCount; ++i) {
      product += mixed[i] * v_y[i];
      by_data[i] += mixed[i] * v[t];
    }
    ExpectClose(got.product.at(names[t]), {product}, "product " + names[t]);
  }
  ExpectClose(got.product.at("y"), by_data, "product y");
}

INSTANTIATE_TEST_SUITE_P(
    Formulas, GaussianProcessTest,
    testing::Values("a = solve_lower(cholesky(k), y); -dot(a, a) / 2 - logdet(k) / 2",
                    "c = cholesky(k); a = solve_upper(transpose(c), solve_lower(c, y)); "
                    "-dot(y, a) / 2 - logdet(c)",
                    "-dot(y, solve(k, y)) / 2 - log(det(k)) / 2",
                    "-dot(y, inv(k) @ y) / 2 - logdet(k) / 2"));

// ---- Counts: 0, 1, 3, 2, 7, 4

// sum(k log(m) - m - lgamma(k + 1)) with m = exp(a + b x). The value is SciPy's
// poisson.logpmf(k, m).sum(), derivatives are mpmath's.
TEST(LikelihoodTest, Poisson) {
  const Answer got = Differentiate("m = exp(a + b*x); sum(k * log(m) - m - lgamma(k + 1))",
                                   {{"k", Vector({0, 1, 3, 2, 7, 4})},
                                    {"x", Vector({-1, -0.5, 0, 0.5, 1, 1.5})},
                                    {"a", Tensor::Scalar(0.25)},
                                    {"b", Tensor::Scalar(0.75)}},
                                   {{"a", Tensor::Scalar(2.0)}, {"b", Tensor::Scalar(-1.0)}});
  ExpectClose({got.value}, {-11.127779328998175309L}, "value");
  ExpectClose(got.gradient.at("a"), {5.6853425122031849214L}, "gradient a");
  ExpectClose(got.gradient.at("b"), {4.9627592194489089971L}, "gradient b");
  const long double aa = -11.314657487796815079L, ab = -8.5372407805510910029L,
                    bb = -12.911420829747181645L;
  ExpectClose(got.product.at("a"), {2 * aa - ab}, "product a");
  ExpectClose(got.product.at("b"), {2 * ab - bb}, "product b");
}

// Of mean m and dispersion r; SciPy's nbinom.logpmf(k, r, r / (r + m)).sum().
TEST(LikelihoodTest, NegativeBinomial) {
  const Answer got = Differentiate(
      "sum(lgamma(k + r) - lgamma(r) - lgamma(k + 1) + r * log(r / (r + m)) + k * log(m / (r + "
      "m)))",
      {{"k", Vector({0, 1, 3, 2, 7, 4})}, {"r", Tensor::Scalar(1.5)}, {"m", Tensor::Scalar(2.5)}},
      {{"r", Tensor::Scalar(2.0)}, {"m", Tensor::Scalar(-1.0)}});
  ExpectClose({got.value}, {-12.955261358726025052L}, "value");
  ExpectClose(got.gradient.at("r"), {0.31894278584794649717L}, "gradient r");
  ExpectClose(got.gradient.at("m"), {0.3L}, "gradient m");
  ExpectClose(got.product.at("r"), {2 * -0.65538988157536276084L - 0.125L}, "product r");
  ExpectClose(got.product.at("m"), {2 * 0.125L + 1.095L}, "product m");
}

}  // namespace
}  // namespace gradwire
