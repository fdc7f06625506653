#include "engine/optim/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/base/status.h"

namespace gradwire {
namespace {

constexpr double kSufficientDecrease = 1e-4, kCurvature = 0.9;
constexpr int kMaxLineSearch = 25;

double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double LargestOf(const Vector& v) {
  double out = 0;
  for (double x : v) out = std::isnan(x) ? x : std::max(out, std::abs(x));
  return out;
}
double SumOfMagnitudes(const Vector& v) {
  double out = 0;
  for (double x : v) out += std::abs(x);
  return out;
}

// The minimiser of the cubic through both points and their slopes, within the bounds.
double CubicMinimum(double x1, double f1, double g1, double x2, double f2, double g2, double low,
                    double high) {
  const double d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2);
  const double square = d1 * d1 - g1 * g2;
  if (!(square >= 0)) return (low + high) / 2;
  const double d2 = std::sqrt(square);
  const double at = x1 <= x2 ? x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
                             : x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2 * d2));
  return std::min(std::max(at, low), high);
}

}  // namespace

Vector Lbfgs::Rounded(Vector v) const {
  if (options_.round_to_float) {
    for (double& x : v) x = static_cast<float>(x);
  }
  return v;
}

// The next direction from this gradient, and what is learnt from the change since the last one.
void Lbfgs::Direct(const Vector& gradient) {
  State& s = state_;
  const size_t n = gradient.size();
  ++s.iterations;
  if (s.iterations == 1) {
    s.direction.resize(n);
    for (size_t i = 0; i < n; ++i) s.direction[i] = -gradient[i];
    s.gradient_changes.clear();
    s.steps.clear();
    s.rho.clear();
    s.scale = 1;
  } else {
    Vector change(n), step(n);
    for (size_t i = 0; i < n; ++i) {
      change[i] = gradient[i] - s.previous_gradient[i];
      step[i] = s.direction[i] * s.t;
    }
    change = Rounded(std::move(change));
    step = Rounded(std::move(step));
    const double curvature = Dot(change, step);
    if (curvature > 1e-10) {
      if (static_cast<int64_t>(s.steps.size()) == options_.history_size) {
        s.gradient_changes.pop_front();
        s.steps.pop_front();
        s.rho.pop_front();
      }
      s.scale = curvature / Dot(change, change);
      s.gradient_changes.push_back(std::move(change));
      s.steps.push_back(std::move(step));
      s.rho.push_back(1 / curvature);
    }
    // Two loops over the history give the product with the inverse Hessian.
    Vector q(n);
    for (size_t i = 0; i < n; ++i) q[i] = -gradient[i];
    std::vector<double> alpha(s.steps.size());
    for (size_t k = s.steps.size(); k-- > 0;) {
      alpha[k] = Dot(s.steps[k], q) * s.rho[k];
      for (size_t i = 0; i < n; ++i) q[i] -= alpha[k] * s.gradient_changes[k][i];
      q = Rounded(std::move(q));
    }
    for (double& x : q) x *= s.scale;
    q = Rounded(std::move(q));
    for (size_t k = 0; k < s.steps.size(); ++k) {
      const double beta = Dot(s.gradient_changes[k], q) * s.rho[k];
      for (size_t i = 0; i < n; ++i) q[i] += (alpha[k] - beta) * s.steps[k][i];
      q = Rounded(std::move(q));
    }
    s.direction = std::move(q);
  }
  s.previous_gradient = gradient;
}

absl::StatusOr<Lbfgs::Point> Lbfgs::Search(const Vector& x, double t, double value,
                                           const Vector& gradient, double slope,
                                           const Evaluate& evaluate, int64_t* evaluations) {
  const Vector& d = state_.direction;
  const double d_norm = LargestOf(d);
  const auto at = [&](double where) -> absl::StatusOr<Point> {
    Vector moved(x.size());
    for (size_t i = 0; i < x.size(); ++i) moved[i] = x[i] + where * d[i];
    Point p{.t = where};
    GW_ASSIGN_OR_RETURN(p.value, evaluate(Rounded(std::move(moved)), &p.gradient));
    p.slope = Dot(p.gradient, d);
    ++*evaluations;
    return p;
  };
  const Point start{0, value, gradient, slope};
  GW_ASSIGN_OR_RETURN(Point now, at(t));
  Point before = start;
  std::vector<Point> bracket;
  bool done = false;
  int tries = 0;
  while (tries < kMaxLineSearch) {
    if (now.value > value + kSufficientDecrease * t * slope ||
        (tries > 1 && now.value >= before.value)) {
      bracket = {before, now};
      break;
    }
    if (std::abs(now.slope) <= -kCurvature * slope) {
      bracket = {now};
      done = true;
      break;
    }
    if (now.slope >= 0) {
      bracket = {before, now};
      break;
    }
    const double least = t + 0.01 * (t - before.t), most = t * 10;
    const double next =
        CubicMinimum(before.t, before.value, before.slope, t, now.value, now.slope, least, most);
    before = std::move(now);
    t = next;
    GW_ASSIGN_OR_RETURN(now, at(t));
    ++tries;
  }
  if (tries == kMaxLineSearch) bracket = {start, now};
  if (done) return std::move(bracket[0]);

  // Zoom.
  bool insufficient = false;
  size_t low = bracket[0].value <= bracket[1].value ? 0 : 1;
  while (tries < kMaxLineSearch) {
    const size_t high = 1 - low;
    const double left = std::min(bracket[0].t, bracket[1].t);
    const double right = std::max(bracket[0].t, bracket[1].t);
    if ((right - left) * d_norm < options_.tolerance_change) break;
    t = CubicMinimum(bracket[0].t, bracket[0].value, bracket[0].slope, bracket[1].t,
                     bracket[1].value, bracket[1].slope, left, right);
    const double margin = 0.1 * (right - left);
    if (std::min(right - t, t - left) < margin) {
      if (insufficient || t >= right || t <= left) {
        t = std::abs(t - right) < std::abs(t - left) ? right - margin : left + margin;
        insufficient = false;
      } else {
        insufficient = true;
      }
    } else {
      insufficient = false;
    }
    GW_ASSIGN_OR_RETURN(now, at(t));
    ++tries;
    if (now.value > value + kSufficientDecrease * t * slope || now.value >= bracket[low].value) {
      bracket[high] = std::move(now);
      low = bracket[0].value <= bracket[1].value ? 0 : 1;
    } else {
      if (std::abs(now.slope) <= -kCurvature * slope) {
        done = true;
      } else if (now.slope * (bracket[high].t - bracket[low].t) >= 0) {
        bracket[high] = bracket[low];
      }
      bracket[low] = std::move(now);
    }
    if (done) break;
  }
  return std::move(bracket[low]);
}

absl::StatusOr<Lbfgs::Result> Lbfgs::Step(Vector* x, const Evaluate& evaluate, double lr) {
  const State before = state_;
  const auto failed = [&](const absl::Status& status) {
    state_ = before;
    return status;
  };
  const int64_t max_eval = options_.max_eval > 0 ? options_.max_eval : options_.max_iter * 5 / 4;
  Result result;
  Vector gradient;
  absl::StatusOr<double> first = evaluate(*x, &gradient);
  if (!first.ok()) return failed(first.status());
  double value = *first;
  result.value = value;
  result.gradient = gradient;
  int64_t evaluations = 1;
  if (LargestOf(gradient) <= options_.tolerance_grad) return result;
  Vector at = *x;
  for (int64_t iteration = 1; iteration <= options_.max_iter; ++iteration) {
    Direct(gradient);
    State& s = state_;
    s.previous_value = value;
    s.t = s.iterations == 1 ? std::min(1.0, 1 / SumOfMagnitudes(gradient)) * lr : lr;
    const double slope = Dot(gradient, s.direction);
    if (slope > -options_.tolerance_change) break;
    int64_t spent = 0;
    const double value_before = value;
    if (options_.strong_wolfe) {
      absl::StatusOr<Point> found = Search(at, s.t, value, gradient, slope, evaluate, &spent);
      if (!found.ok()) return failed(found.status());
      s.t = found->t;
      value = found->value;
      gradient = std::move(found->gradient);
    }
    for (size_t i = 0; i < at.size(); ++i) at[i] += s.t * s.direction[i];
    at = Rounded(std::move(at));
    if (!options_.strong_wolfe && iteration != options_.max_iter) {
      absl::StatusOr<double> again = evaluate(at, &gradient);
      if (!again.ok()) return failed(again.status());
      value = *again;
      spent = 1;
    }
    evaluations += spent;
    if (iteration == options_.max_iter || evaluations >= max_eval) break;
    if (LargestOf(gradient) <= options_.tolerance_grad) break;
    if (LargestOf(s.direction) * std::abs(s.t) <= options_.tolerance_change) break;
    if (std::abs(value - value_before) < options_.tolerance_change) break;
  }
  *x = std::move(at);
  return result;
}

}  // namespace gradwire
