// The gamma function's logarithm, what its derivatives are, and the inverse of the error function:
// what likelihoods of counts and of normal variables are made of.
#include <cmath>
#include <limits>
#include <numbers>

#include "engine/base/checked.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/elementwise_rows.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxOrder = 100;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kPi = std::numbers::pi;
constexpr char kNoGammaForm[] = "ONNX has no gamma function";

// Bernoulli's numbers B2, B4, ..., B24.
constexpr double kBernoulli[] = {
    1.0 / 6, -1.0 / 30,     1.0 / 42,      -1.0 / 30,       5.0 / 66,       -691.0 / 2730,
    7.0 / 6, -3617.0 / 510, 43867.0 / 798, -174611.0 / 330, 854513.0 / 138, -236364091.0 / 2730};

// FLOAT is computed in DOUBLE and rounded.
template <double (*kFunction)(double)>
struct InDouble {
  template <typename T>
  T operator()(T x) const {
    return static_cast<T>(kFunction(static_cast<double>(x)));
  }
};

// std::lgamma writes the sign into a global variable, which is a race.
double LogGamma(double x) {
  int sign = 0;
  return lgamma_r(x, &sign);
}

// cot(pi x); the argument is reduced exactly first.
double Cotangent(double x) { return 1 / std::tan(kPi * (x - std::nearbyint(x))); }

// The asymptotic series (DLMF 5.11.2) beyond 10, the recurrence and the reflection before.
double DigammaOf(double x) {
  if (x == 0) return -std::copysign(kInfinity, x);
  if (std::isnan(x) || x == kInfinity) return x;
  if (x < 0 && x == std::floor(x)) return std::nan("");  // -inf too
  double sum = 0;
  if (x < 0) {
    sum = -kPi * Cotangent(x);
    x = 1 - x;
  }
  for (; x < 10; x += 1) sum -= 1 / x;
  const double inverse_square = 1 / x / x;
  double power = 1, series = 0;
  for (int k = 1; k <= static_cast<int>(std::size(kBernoulli)); ++k) {
    power *= inverse_square;
    series += kBernoulli[k - 1] / (2 * k) * power;
  }
  return sum + std::log(x) - 0.5 / x - series;
}

// pi^(n+1) times the derivative of order n of cot, at pi x. With c = cot: P_0 = c, and
// P_{k+1} = -(1 + c^2) P_k', all of whose terms have the same sign, every other one being 0.
double CotangentDerivative(int n, double x) {
  double p[kMaxOrder + 3] = {0, 1};
  for (int k = 1; k <= n; ++k) {  // p is of degree k
    double q[kMaxOrder + 3] = {};
    for (int i = 1; i <= k; ++i) {
      q[i - 1] -= i * p[i];
      q[i + 1] -= i * p[i];
    }
    std::copy(q, q + k + 2, p);
  }
  const double c = Cotangent(x);
  double value = 0;
  for (int i = n + 1; i >= 0; --i) value = value * c + p[i];
  return value * std::pow(kPi, n + 1);
}

// As DigammaOf, from DLMF 5.15.8 and 5.15.5-6; n >= 1.
double PolygammaOf(int n, double x) {
  const bool odd = n % 2 == 1;
  if (std::isnan(x)) return x;
  if (x == kInfinity) return odd ? 0.0 : -0.0;
  if (x <= 0 && x == std::floor(x)) {
    if (x == -kInfinity) return std::nan("");
    if (odd) return kInfinity;
    return x == 0 ? -std::copysign(kInfinity, x) : std::nan("");
  }
  if (x < 0) {
    const double mirrored = PolygammaOf(n, 1 - x);
    return (odd ? -mirrored : mirrored) - CotangentDerivative(n, x);
  }
  double sum = 0;
  for (; x < 10 + n; x += 1) sum += std::pow(x, -(n + 1));
  const double inverse_square = 1 / x / x;
  double term = 1, series = 1 + n / (2 * x);
  for (int k = 1; k <= static_cast<int>(std::size(kBernoulli)); ++k) {
    term *= (2.0 * k + n - 2) / (2 * k - 1) * ((2.0 * k + n - 1) / (2 * k)) * inverse_square;
    series += kBernoulli[k - 1] * term;
  }
  const double factorial = std::tgamma(static_cast<double>(n));  // of n - 1
  const double value = factorial * (n * sum + series * std::pow(x, -n));
  return odd ? value : -value;
}

// Two steps of Halley's method from an approximation that is good to 1/500 (S. Winitzki, 2008).
// Beyond 1/2 the steps work on 1 - y, which is exact there.
double InverseErf(double y) {
  const double magnitude = std::abs(y);
  if (!(magnitude < 1)) return magnitude == 1 ? std::copysign(kInfinity, y) : std::nan("");
  if (magnitude < 1e-8) return y / (2 * std::numbers::inv_sqrtpi);
  constexpr double kA = 0.147;
  const double log = std::log1p(-magnitude) + std::log1p(magnitude);
  const double half = 2 / (kPi * kA) + log / 2;
  double x = std::sqrt(std::sqrt(half * half - log / kA) - half);
  for (int step = 0; step < 2; ++step) {
    const double off = magnitude < 0.5 ? std::erf(x) - magnitude : (1 - magnitude) - std::erfc(x);
    const double newton = off / (2 * std::numbers::inv_sqrtpi * std::exp(-x * x));
    x -= newton / (1 + x * newton);
  }
  return std::copysign(x, y);
}

ValueId Digamma(GraphBuilder& b, ValueId x);
ValueId Polygamma(GraphBuilder& b, ValueId x, int64_t n);

// Between the poles at 0, -1, ...
std::vector<Sample> NegativeSamples(Attrs attrs = {}) {
  return {{.inputs = {{.shape = {2, 3}, .low = -0.7, .high = -0.3}}, .attrs = attrs},
          {.inputs = {{.shape = {3}, .low = -6.7, .high = -6.3}}, .attrs = attrs}};
}

using LogGammaFn = InDouble<LogGamma>;
const OpDef kLgammaOp = PointwiseOp<kFloating, 1>(
    LogGammaFn{}, {
                      .name = "Lgamma",
                      .doc = "`log |gamma(x)|`; inf at 0, -1, -2, ... The derivative is Digamma.",
                      .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
                        return Digamma(b, n.in[0]);
                      }},
                      .lowering = Pointwise{ScalarTile<LogGammaFn, 1>},
                      .onnx = {{.name = "Lgamma", .domain = "gradwire"}},
                      .no_onnx_form = kNoGammaForm,
                      .domain = {.low = 0.4, .high = 6, .samples = NegativeSamples()},
                  });

using DigammaFn = InDouble<DigammaOf>;
const OpDef kDigammaOp = PointwiseOp<kFloating, 1>(
    DigammaFn{},
    {
        .name = "Digamma",
        .doc = "The derivative of `log |gamma(x)|`; -inf at 0, inf at -0, NaN at -1, -2, ..., as in"
               " PyTorch. Near its zeros the error is small against 1, not against the result.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          return Polygamma(b, n.in[0], 1);
        }},
        .lowering = Pointwise{ScalarTile<DigammaFn, 1>},
        .onnx = {{.name = "Digamma", .domain = "gradwire"}},
        .no_onnx_form = kNoGammaForm,
        .domain = {.low = 0.4, .high = 6, .samples = NegativeSamples()},
    });

absl::StatusOr<std::vector<TensorType>> InferPolygamma(const InferArgs& args) {
  const int64_t n = args.attrs.Int("n");
  if (n < 0 || n > kMaxOrder) {
    return Error(Reason::kUnsupportedOp,
                 absl::StrCat("order n is ", n, ", expected 0 to ", kMaxOrder));
  }
  return InferSameType<kFloating>(args);
}

absl::Status ReferencePolygamma(const ReferenceArgs& args) {
  const auto n = static_cast<int>(args.attrs.Int("n"));
  VisitFloating(args.in[0].dtype(), [&]<typename T>(TypeTag<T>) {
    const T* x = args.in[0].data<T>();
    for (int64_t i = 0; i < args.in[0].num_elements(); ++i) {
      const auto value = static_cast<double>(x[i]);
      static_cast<T*>(args.out[0])[i] =
          static_cast<T>(n == 0 ? DigammaOf(value) : PolygammaOf(n, value));
    }
  });
  return absl::OkStatus();
}

std::vector<Sample> PolygammaSamples() {
  std::vector<Sample> out;
  for (int64_t n : {0, 1, 2, 5}) {
    out.push_back({.inputs = {Drawn({2, 3}, 0.8, 6)}, .attrs = {{"n", n}}});
    if (n < 3) {
      for (Sample& s : NegativeSamples({{"n", n}})) out.push_back(std::move(s));
    }
  }
  out.push_back({.inputs = {Drawn({}, 12, 40)}, .attrs = {{"n", int64_t{3}}}});
  out.push_back({.inputs = {Drawn({0, 2})}, .attrs = {{"n", int64_t{1}}}});
  return out;
}

const OpDef kPolygammaOp = {
    .name = "Polygamma",
    .doc =
        "The derivative of order `n` (0 to 100; 1, Trigamma, by default) of Digamma. At the poles "
        "it is inf"
        " for odd `n`; for even ones -inf at 0, inf at -0, NaN at -1, -2, ...",
    .attrs = {{"n", int64_t{1}}},
    .infer = InferPolygamma,
    .reference = ReferencePolygamma,
    .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
      return Polygamma(b, n.in[0], n.attrs.Int("n") + 1);
    }},
    .flops = [](const InferArgs&,
                const TensorType& out) { return SaturatingMul(100, out.shape.num_elements()); },
    .onnx = {{.name = "Polygamma", .domain = "gradwire"}},
    .no_onnx_form = kNoGammaForm,
    .domain = {.samples = PolygammaSamples()},
};

using InverseErfFn = InDouble<InverseErf>;
const OpDef kErfinvOp = PointwiseOp<kFloating, 1>(
    InverseErfFn{},
    {
        .name = "Erfinv",
        .doc =
            "The inverse of Erf: inf at 1, -inf at -1, NaN beyond. `sqrt(2) erfinv(2 p - 1)` is the"
            " normal distribution's quantile.",
        .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
          const ValueId scale = b.ScalarLike(n.in[0], 0.5 / std::numbers::inv_sqrtpi);
          return Mul(b, scale, Exp(b, Mul(b, n.out[0], n.out[0])));
        }},
        .lowering = Pointwise{ScalarTile<InverseErfFn, 1>},
        .onnx = {{.name = "Erfinv", .domain = "gradwire"}},
        .no_onnx_form = "ONNX has no inverse of the error function",
        .domain = {.low = -0.9, .high = 0.9},
    });

ValueId Digamma(GraphBuilder& b, ValueId x) { return b.Add(kDigammaOp, {x}); }
ValueId Polygamma(GraphBuilder& b, ValueId x, int64_t n) {
  return b.Add(kPolygammaOp, {x}, {{"n", n}});
}

}  // namespace

std::vector<const OpDef*> GammaOps() {
  return {&kLgammaOp, &kDigammaOp, &kPolygammaOp, &kErfinvOp};
}

}  // namespace gradwire
