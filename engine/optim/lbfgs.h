// File: lbfgs.h
//
// L-BFGS over one flat vector, driven by a function that gives value and gradient: the algorithm of
// torch.optim.LBFGS step by step, with its line search by the strong Wolfe conditions or with fixed
// steps. It is no Graph: how often it evaluates depends on what it finds.
//
//   Lbfgs lbfgs({.lr = 1});
//   GW_ASSIGN_OR_RETURN(Lbfgs::Result r, lbfgs.Step(&x, evaluate, 1));  // up to max_iter moves
//
// Vectors are doubles; with round_to_float each is rounded to FLOAT as it is made, so that FLOAT
// parameters move as PyTorch's would. What is remembered between steps is exact, and can be kept.
// Source: Nocedal and Wright, Numerical Optimization, 2nd ed., 7.2 and 3.5. Errors: those of
// `evaluate`; the state is then as before the step. Thread-safety: none.
#ifndef GRADWIRE_ENGINE_OPTIM_LBFGS_H_
#define GRADWIRE_ENGINE_OPTIM_LBFGS_H_

#include <deque>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

namespace gradwire {

struct LbfgsOptions {
  double lr = 1;
  int64_t max_iter = 20;
  int64_t max_eval = 0;  // 0: max_iter * 1.25
  double tolerance_grad = 1e-7;
  double tolerance_change = 1e-9;
  int64_t history_size = 100;
  bool strong_wolfe = true;
  bool round_to_float = false;
};

using Vector = std::vector<double>;

class Lbfgs {
 public:
  // Value at x; fills the gradient.
  using Evaluate = std::function<absl::StatusOr<double>(const Vector& x, Vector* gradient)>;

  explicit Lbfgs(const LbfgsOptions& options) : options_(options) {}

  // Moves x; the value and gradient that the step began with.
  struct Result {
    double value = 0;
    Vector gradient;
  };
  absl::StatusOr<Result> Step(Vector* x, const Evaluate& evaluate, double lr);

  // What is remembered, for checkpoints: empty before the first step.
  struct State {
    int64_t iterations = 0;
    double t = 0;
    double scale = 1;  // of the initial Hessian
    double previous_value = 0;
    Vector direction, previous_gradient;
    std::deque<Vector> gradient_changes, steps;  // the oldest first
    std::deque<double> rho;
  };
  const State& state() const { return state_; }
  void set_state(State state) { state_ = std::move(state); }
  const LbfgsOptions& options() const { return options_; }

 private:
  struct Point {
    double t = 0, value = 0;
    Vector gradient;
    double slope = 0;  // along the direction
  };
  Vector Rounded(Vector v) const;
  void Direct(const Vector& gradient);
  absl::StatusOr<Point> Search(const Vector& x, double t, double value, const Vector& gradient,
                               double slope, const Evaluate& evaluate, int64_t* evaluations);

  const LbfgsOptions options_;
  State state_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_LBFGS_H_
