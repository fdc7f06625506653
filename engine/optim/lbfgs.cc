#include "engine/optim/lbfgs.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "engine/base/checked.h"

namespace gradwire {
namespace {

constexpr double kSufficientDecrease = 1e-4, kCurvature = 0.9;  // c1, c2
constexpr double kSmallestCurvature = 1e-10;  // of a pair that is worth remembering
constexpr int kMaxTrials = 25;                // of a line search

// ---- Vectors: rank 1, FLOAT or DOUBLE, all of one type

// fn(T tag) with the element type of t.
template <typename Fn>
auto OfType(const Tensor& t, Fn fn) {
  return t.dtype() == DType::kFloat ? fn(float{}) : fn(double{});
}

// term(i) summed in double over i < n, eight sums side by side: a fixed order that does not wait
// for each addition.
template <typename Term>
double SumOf(int64_t n, Term term) {
  constexpr int kLanes = 8;
  std::array<double, kLanes> sums = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) sums[static_cast<size_t>(k)] += term(i + k);
  }
  for (; i < n; ++i) sums[0] += term(i);
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

double Dot(const Tensor& x, const Tensor& y) {
  return OfType(x, [&](auto tag) {
    using T = decltype(tag);
    const T *a = x.data<T>(), *b = y.data<T>();
    return SumOf(x.num_elements(),
                 [=](int64_t i) { return static_cast<double>(a[i]) * static_cast<double>(b[i]); });
  });
}

double SumOfMagnitudes(const Tensor& x) {
  return OfType(x, [&](auto tag) {
    const auto* a = x.data<decltype(tag)>();
    return SumOf(x.num_elements(), [=](int64_t i) { return std::abs(static_cast<double>(a[i])); });
  });
}

// NaN where an element is.
double LargestMagnitude(const Tensor& x) {
  return OfType(x, [&](auto tag) {
    const auto* a = x.data<decltype(tag)>();
    double largest = 0;
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      const double magnitude = std::abs(static_cast<double>(a[i]));
      if (!(magnitude <= largest)) largest = magnitude;
      if (std::isnan(magnitude)) break;
    }
    return largest;
  });
}

// a * x + b * y, each product rounded to the dtype.
absl::StatusOr<Tensor> Combination(double a, const Tensor& x, double b, const Tensor& y) {
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make(x.type()));
  OfType(x, [&](auto tag) {
    using T = decltype(tag);
    const T *from_x = x.data<T>(), *from_y = y.data<T>();
    T* to = out.mutable_data<T>();
    const T by_x = static_cast<T>(a), by_y = static_cast<T>(b);
    for (int64_t i = 0; i < x.num_elements(); ++i) to[i] = by_x * from_x[i] + by_y * from_y[i];
  });
  return out;
}

// y += a * x
void AddTo(Tensor* y, double a, const Tensor& x) {
  OfType(x, [&](auto tag) {
    using T = decltype(tag);
    const T* from = x.data<T>();
    T* to = y->mutable_data<T>();
    const T by = static_cast<T>(a);
    for (int64_t i = 0; i < x.num_elements(); ++i) to[i] += by * from[i];
  });
}

absl::StatusOr<Tensor> Multiple(double a, const Tensor& x) {
  GW_ASSIGN_OR_RETURN(Tensor out, Tensor::Make(x.type()));
  OfType(x, [&](auto tag) {
    using T = decltype(tag);
    const T* from = x.data<T>();
    T* to = out.mutable_data<T>();
    const T by = static_cast<T>(a);
    for (int64_t i = 0; i < x.num_elements(); ++i) to[i] = by * from[i];
  });
  return out;
}

// ---- Lines

// A point x + t * d of the line that is searched.
struct Trial {
  double t = 0;
  double loss = 0;
  Tensor gradient;
  double slope = 0;  // along d
};

// The minimiser between the bounds of the cubic with these values and slopes.
double CubicMinimum(const Trial& p, const Trial& q, double low, double high) {
  const double d1 = p.slope + q.slope - 3 * (p.loss - q.loss) / (p.t - q.t);
  const double square = d1 * d1 - p.slope * q.slope;
  if (!(square >= 0)) return (low + high) / 2;
  const double d2 = std::sqrt(square);
  const Trial& left = p.t <= q.t ? p : q;
  const Trial& right = p.t <= q.t ? q : p;
  const double at = right.t - (right.t - left.t) *
                                  ((right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2));
  return std::min(std::max(at, low), high);
}

// Keeps a trial between two others away from both, where it has been close to one before.
class ProgressGuard {
 public:
  double Guard(double t, double low, double high) {
    const double margin = 0.1 * (high - low);
    const bool close = std::min(high - t, t - low) < margin;
    if (!close || !(was_close_ || t >= high || t <= low)) {
      was_close_ = close;
      return t;
    }
    was_close_ = false;
    return std::abs(t - high) < std::abs(t - low) ? high - margin : low + margin;
  }

 private:
  bool was_close_ = false;
};

// One step: its state until it is known to succeed.
class Moves {
 public:
  Moves(const Settings& settings, double lr, const Lbfgs::State& state, const Tensor& parameters,
        const Lbfgs::Evaluate& evaluate)
      : settings_(settings), lr_(lr), evaluate_(evaluate), x_(parameters), state_(state) {}

  absl::Status Run() {
    GW_ASSIGN_OR_RETURN(at_, EvaluateAt(x_));
    result_.loss = at_.loss;
    result_.gradient_norm = std::sqrt(Dot(at_.gradient, at_.gradient));
    const double max_iter = settings_.at("max_iter"), max_eval = settings_.at("max_eval");
    const double budget = max_eval > 0 ? max_eval : std::floor(max_iter * 5 / 4);
    for (double moves = 1; moves <= max_iter && !Flat(); ++moves) {
      GW_RETURN_IF_ERROR(Direct());
      const double before = state_.prev_loss = at_.loss;
      state_.t = lr_;
      if (state_.n_iter == 1) state_.t *= std::min(1.0, 1 / SumOfMagnitudes(at_.gradient));
      at_.slope = Dot(at_.gradient, state_.d);
      if (at_.slope > -tolerance()) break;
      const bool last = moves == max_iter;
      // A learning rate of 0 (a schedule has ended) leaves nothing to search.
      const bool search = settings_.at("strong_wolfe") != 0 && state_.t > 0;
      GW_RETURN_IF_ERROR(search ? SearchAndMove() : Move(!last));
      if (last || static_cast<double>(result_.evaluations) >= budget) break;
      if (LargestMagnitude(state_.d) * std::abs(state_.t) <= tolerance()) break;
      if (std::abs(at_.loss - before) < tolerance()) break;
    }
    state_.func_evals += result_.evaluations;
    return absl::OkStatus();
  }

  const Lbfgs::Result& result() const { return result_; }
  const Tensor& parameters() const { return x_; }
  Lbfgs::State TakeState() { return std::move(state_); }

 private:
  double tolerance() const { return settings_.at("tolerance_change"); }
  bool Flat() const { return LargestMagnitude(at_.gradient) <= settings_.at("tolerance_grad"); }

  absl::StatusOr<Trial> EvaluateAt(const Tensor& x) {
    Trial out;
    GW_ASSIGN_OR_RETURN(out.gradient, Tensor::Make(x.type()));
    GW_ASSIGN_OR_RETURN(out.loss, evaluate_(x, &out.gradient));
    ++result_.evaluations;
    return out;
  }

  // The next direction, from this gradient and from how it has changed since the last one.
  absl::Status Direct() {
    if (++state_.n_iter == 1) {
      GW_ASSIGN_OR_RETURN(state_.d, Multiple(-1, at_.gradient));
    } else {
      GW_RETURN_IF_ERROR(Remember());
      GW_ASSIGN_OR_RETURN(state_.d, TwoLoops());
    }
    state_.prev_flat_grad = at_.gradient;
    return absl::OkStatus();
  }

  absl::Status Remember() {
    GW_ASSIGN_OR_RETURN(Tensor change, Combination(1, at_.gradient, -1, state_.prev_flat_grad));
    GW_ASSIGN_OR_RETURN(Tensor step, Multiple(state_.t, state_.d));
    const double curvature = Dot(change, step);
    if (!(curvature > kSmallestCurvature)) return absl::OkStatus();
    if (static_cast<double>(state_.ro.size()) >= settings_.at("history_size")) {
      state_.old_dirs.erase(state_.old_dirs.begin());
      state_.old_stps.erase(state_.old_stps.begin());
      state_.ro.erase(state_.ro.begin());
    }
    state_.h_diag = curvature / Dot(change, change);
    state_.old_dirs.push_back(std::move(change));
    state_.old_stps.push_back(std::move(step));
    state_.ro.push_back(1 / curvature);
    return absl::OkStatus();
  }

  // Minus the inverse Hessian, as remembered, times the gradient.
  absl::StatusOr<Tensor> TwoLoops() const {
    const size_t num_old = state_.ro.size();
    std::vector<double> al(num_old);
    GW_ASSIGN_OR_RETURN(Tensor q, Multiple(-1, at_.gradient));
    for (size_t i = num_old; i-- > 0;) {
      al[i] = Dot(state_.old_stps[i], q) * state_.ro[i];
      AddTo(&q, -al[i], state_.old_dirs[i]);
    }
    GW_ASSIGN_OR_RETURN(Tensor r, Multiple(state_.h_diag, q));
    for (size_t i = 0; i < num_old; ++i) {
      const double be = Dot(state_.old_dirs[i], r) * state_.ro[i];
      AddTo(&r, al[i] - be, state_.old_stps[i]);
    }
    return r;
  }

  absl::Status Move(bool evaluate) {
    GW_ASSIGN_OR_RETURN(x_, Combination(1, x_, state_.t, state_.d));
    if (!evaluate) return absl::OkStatus();
    GW_ASSIGN_OR_RETURN(at_, EvaluateAt(x_));
    return absl::OkStatus();
  }

  // ---- The line search

  absl::Status SearchAndMove() {
    GW_ASSIGN_OR_RETURN(at_, Search());
    state_.t = at_.t;
    return Move(/*evaluate=*/false);
  }

  absl::StatusOr<Trial> Try(double t) {
    GW_ASSIGN_OR_RETURN(const Tensor x, Combination(1, x_, t, state_.d));
    GW_ASSIGN_OR_RETURN(Trial out, EvaluateAt(x));
    out.t = t;
    out.slope = Dot(out.gradient, state_.d);
    return out;
  }
  bool TooHigh(const Trial& p) const {
    return p.loss > at_.loss + kSufficientDecrease * p.t * at_.slope;
  }
  bool FlatEnough(const Trial& p) const { return std::abs(p.slope) <= -kCurvature * at_.slope; }

  // A step length that satisfies the strong Wolfe conditions, or the best of those tried: first
  // ever farther out until two trials enclose one, then in between.
  absl::StatusOr<Trial> Search() {
    at_.t = 0;
    Trial before = at_;
    GW_ASSIGN_OR_RETURN(Trial now, Try(state_.t));
    int trials = 0;
    for (; trials < kMaxTrials; ++trials) {
      if (TooHigh(now) || (trials > 1 && now.loss >= before.loss)) break;
      if (FlatEnough(now)) return now;
      if (now.slope >= 0) break;
      const double t = CubicMinimum(before, now, now.t + 0.01 * (now.t - before.t), now.t * 10);
      before = std::move(now);
      GW_ASSIGN_OR_RETURN(now, Try(t));
    }
    if (trials == kMaxTrials) return at_.loss <= now.loss ? at_ : now;
    return Zoom({std::move(before), std::move(now)}, trials);
  }

  absl::StatusOr<Trial> Zoom(std::array<Trial, 2> bracket, int trials) {
    const double length = LargestMagnitude(state_.d);
    const auto lower = [&] { return bracket[0].loss <= bracket[1].loss ? 0u : 1u; };
    size_t low = lower();
    ProgressGuard guard;
    for (; trials < kMaxTrials; ++trials) {
      const double left = std::min(bracket[0].t, bracket[1].t);
      const double right = std::max(bracket[0].t, bracket[1].t);
      if ((right - left) * length < tolerance()) break;
      const double t = CubicMinimum(bracket[0], bracket[1], left, right);
      GW_ASSIGN_OR_RETURN(Trial now, Try(guard.Guard(t, left, right)));
      const size_t high = 1 - low;
      if (TooHigh(now) || now.loss >= bracket[low].loss) {
        bracket[high] = std::move(now);
        low = lower();
        continue;
      }
      if (FlatEnough(now)) return now;
      if (now.slope * (bracket[high].t - bracket[low].t) >= 0) bracket[high] = bracket[low];
      bracket[low] = std::move(now);
    }
    return std::move(bracket[low]);
  }

  const Settings& settings_;
  const double lr_;
  const Lbfgs::Evaluate& evaluate_;
  Tensor x_;
  Trial at_;  // at x_
  Lbfgs::State state_;
  Lbfgs::Result result_;
};

}  // namespace

absl::Span<const SettingDef> Lbfgs::Defs() {
  static constexpr SettingDef kDefs[] = {
      {"lr", 1, kNonNegative},
      {"max_iter", 20, kPositiveCount},
      {"max_eval", 0, kCount},
      {"tolerance_grad", 1e-7, kNonNegative},
      {"tolerance_change", 1e-9, kNonNegative},
      {"history_size", 100, kPositiveCount},
      {"strong_wolfe", 1, kFlag},
  };
  return kDefs;
}

absl::StatusOr<Lbfgs> Lbfgs::Make(const Settings& given) {
  Lbfgs out;
  Problems problems;
  out.settings_ = Complete(Defs(), given, "optimizer.lbfgs", &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

absl::StatusOr<Lbfgs::Result> Lbfgs::Step(double lr, Tensor* parameters, const Evaluate& evaluate) {
  const TensorType& type = parameters->type();
  if (type.shape.rank() != 1 || !IsFloating(type.dtype)) {
    return Error(Reason::kInvalidTensor, absl::StrCat("L-BFGS: the parameters are ",
                                                      type.ToString(), ", expected a vector"));
  }
  if (state_.n_iter > 0 && state_.d.type() != type) {
    return Error(Reason::kInvalidTensor,
                 absl::StrCat("L-BFGS: the parameters are ", type.ToString(), ", its state is of ",
                              state_.d.type().ToString()));
  }
  // Tensors are shared, and none is written to once it is in a state: a copy costs a few pointers.
  Moves moves(settings_, lr, state_, *parameters, evaluate);
  GW_RETURN_IF_ERROR(moves.Run());
  std::memcpy(parameters->mutable_raw(), moves.parameters().raw(),
              static_cast<size_t>(type.bytes()));
  state_ = moves.TakeState();
  return moves.result();
}

absl::Status Lbfgs::set_state(State state) {
  const size_t num_old = state.ro.size();
  bool fits = state.n_iter >= 0 && state.old_dirs.size() == num_old &&
              state.old_stps.size() == num_old &&
              static_cast<double>(num_old) <= settings_.at("history_size");
  std::vector<const Tensor*> all = {&state.d, &state.prev_flat_grad};
  for (const Tensor& t : state.old_dirs) all.push_back(&t);
  for (const Tensor& t : state.old_stps) all.push_back(&t);
  const TensorType& type = state.d.type();
  if (state.n_iter > 0) {
    fits = fits && type.shape.rank() == 1 && IsFloating(type.dtype);
    for (const Tensor* t : all) fits = fits && t->type() == type;
  } else {
    fits = fits && num_old == 0;
  }
  if (!fits) return Error(Reason::kInvalidTensor, "L-BFGS: the parts of the state do not match");
  state_ = std::move(state);
  return absl::OkStatus();
}

}  // namespace gradwire
