// File: lbfgs.h
//
// L-BFGS over one flat vector of parameters, driven by a function that gives loss and gradient:
// torch.optim.LBFGS move by move, with fixed steps or with its line search by the strong Wolfe
// conditions. It is no Graph: how often it evaluates depends on what it finds.
//
//   GW_ASSIGN_OR_RETURN(Lbfgs lbfgs, Lbfgs::Make({{"history_size", 10}}));
//   Tensor x = Tensor::FromVector<double>({2}, {-1.2, 1});
//   const auto evaluate = [&](const Tensor& at, Tensor* gradient) -> absl::StatusOr<double> {...};
//   GW_ASSIGN_OR_RETURN(Lbfgs::Result r, lbfgs.Step(/*lr=*/1, &x, evaluate));  // up to max_iter
//   moves
//
// Numerics: vectors are of the parameters' dtype, FLOAT or DOUBLE, as PyTorch's are; products of
// two vectors are summed in double in a fixed order, and scalars are doubles. Equal calls give
// equal bits. Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 7.4, 3.5
// and 3.6. As in PyTorch up to 2.11 a line search tries at most 25 points; later releases bound it
// by what is left of max_eval.
//
// Cost of a move: one evaluation or more, and 4 * history_size passes over the vector. Memory:
// 2 * history_size vectors, and fewer than 20 in a step. Errors: those of `evaluate`,
// INVALID_TENSOR, MEMORY_LIMIT; parameters and state are then as before the step. Thread-safety: as
// for std::vector.
#ifndef GRADWIRE_ENGINE_OPTIM_LBFGS_H_
#define GRADWIRE_ENGINE_OPTIM_LBFGS_H_

#include <functional>
#include <vector>

#include "engine/base/settings.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

class Lbfgs {
 public:
  static constexpr char kDoc[] =
      "Quasi-Newton directions from the last gradients, with a line search (LBFGS).";

  // The loss at the parameters, and its gradient there. Both tensors are of the type of Step's.
  using Evaluate =
      std::function<absl::StatusOr<double>(const Tensor& parameters, Tensor* gradient)>;

  // lr, max_iter, max_eval (0: max_iter * 5 / 4), tolerance_grad, tolerance_change, history_size,
  // with PyTorch's defaults; strong_wolfe (0: fixed steps, which is PyTorch's default).
  static absl::Span<const SettingDef> Defs();
  // Errors: INVALID_SPEC, all problems at once.
  static absl::StatusOr<Lbfgs> Make(const Settings& given);
  const Settings& settings() const { return settings_; }

  struct Result {
    double loss = 0;           // before the first move
    double gradient_norm = 0;  // the 2-norm, likewise
    int64_t evaluations = 0;
  };
  // Up to max_iter moves of `parameters`, a tensor of rank 1.
  absl::StatusOr<Result> Step(double lr, Tensor* parameters, const Evaluate& evaluate);

  // All that is remembered between steps, under PyTorch's names (its `al` is scratch).
  struct State {
    int64_t n_iter = 0, func_evals = 0;
    double t = 0;       // the last step length
    double h_diag = 1;  // scale of the initial inverse Hessian
    double prev_loss = 0;
    Tensor d, prev_flat_grad;                // empty before the first move
    std::vector<Tensor> old_dirs, old_stps;  // changes of the gradient and of the parameters,
    std::vector<double> ro;                  // 1 / (dir . stp); the oldest first
  };
  const State& state() const { return state_; }
  // INVALID_TENSOR where the parts do not belong together.
  absl::Status set_state(State state);

 private:
  Settings settings_;
  State state_;
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPTIM_LBFGS_H_
