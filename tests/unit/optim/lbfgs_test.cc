#include "engine/optim/lbfgs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/optim/training_run.h"

namespace gradwire {
namespace {

using nlohmann::json;
using Values = std::vector<double>;

// sum of 100 (x[i+1] - x[i]^2)^2 + (1 - x[i])^2, in the dtype of x; counts its calls.
class Rosenbrock {
 public:
  absl::StatusOr<double> operator()(const Tensor& x, Tensor* gradient) {
    if (++calls_ == fail_at_) return absl::CancelledError("stop");
    EXPECT_EQ(gradient->type(), x.type());
    return x.dtype() == DType::kFloat ? Compute<float>(x, gradient) : Compute<double>(x, gradient);
  }
  int64_t calls() const { return calls_; }
  void FailAt(int64_t call) { fail_at_ = call; }
  Lbfgs::Evaluate Function() { return std::ref(*this); }

 private:
  template <typename T>
  static double Compute(const Tensor& x, Tensor* gradient) {
    const T* v = x.data<T>();
    T* g = gradient->mutable_data<T>();
    for (int64_t i = 0; i < x.num_elements(); ++i) g[i] = 0;
    T sum = 0;
    for (int64_t i = 0; i + 1 < x.num_elements(); ++i) {
      const T miss = v[i + 1] - v[i] * v[i], rest = 1 - v[i];
      sum += 100 * miss * miss + rest * rest;
      g[i] += -400 * miss * v[i] - 2 * rest;
      g[i + 1] += 200 * miss;
    }
    return sum;
  }

  int64_t calls_ = 0, fail_at_ = -1;
};

TEST(LbfgsTest, MovesEqualThoseOfPyTorch) {
  for (const json& c : Golden()["lbfgs"]) {
    Lbfgs lbfgs = Value(Lbfgs::Make(c["settings"].get<Settings>()));
    Tensor x = Vector(c["start"].get<Values>());
    Rosenbrock function;
    for (size_t step = 0; step < c["parameters"].size(); ++step) {
      const std::string where = absl::StrCat(c["settings"].dump(), ", step ", step);
      const double lr = lbfgs.settings().at("lr");
      const Lbfgs::Result result = Value(lbfgs.Step(lr, &x, function.Function()));
      const double loss = c["losses"][step].get<double>();
      ASSERT_NEAR(result.loss, loss, 1e-9 * std::max(1e-3, loss)) << where;
      ExpectNear(ToDoubles(x), c["parameters"][step].get<Values>(), 1e-9, where);
    }
    EXPECT_EQ(lbfgs.state().n_iter, c["n_iter"].get<int64_t>()) << c["settings"];
    EXPECT_EQ(lbfgs.state().func_evals, c["func_evals"].get<int64_t>()) << c["settings"];
    EXPECT_EQ(function.calls(), lbfgs.state().func_evals) << c["settings"];
  }
}

TEST(LbfgsTest, FloatParametersReachTheMinimumInFloat) {
  Lbfgs lbfgs = Value(Lbfgs::Make({{"max_iter", 50}}));
  Tensor x = Tensor::FromVector<float>({3}, {-1.2f, 1.0f, 0.5f});
  Rosenbrock function;
  for (int step = 0; step < 3; ++step) Value(lbfgs.Step(1, &x, function.Function()));
  ExpectNear(ToDoubles(x), {1, 1, 1}, 1e-3, "x");
  EXPECT_EQ(lbfgs.state().d.dtype(), DType::kFloat);
}

TEST(LbfgsTest, AFailedStepChangesNothing) {
  Lbfgs lbfgs = Value(Lbfgs::Make({{"max_iter", 5}}));
  Tensor x = Vector({-1.2, 1});
  Rosenbrock function;
  Value(lbfgs.Step(1, &x, function.Function()));
  const Values before = ToDoubles(x);
  const Lbfgs::State state = lbfgs.state();
  const Values d = ToDoubles(state.d), change = ToDoubles(state.old_dirs.back());
  for (int64_t later = 1; later <= 6; ++later) {
    function.FailAt(function.calls() + later);
    EXPECT_EQ(lbfgs.Step(1, &x, function.Function()).status().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(ToDoubles(x), before);
    EXPECT_EQ(lbfgs.state().n_iter, state.n_iter);
    EXPECT_EQ(lbfgs.state().func_evals, state.func_evals);
    EXPECT_EQ(ToDoubles(lbfgs.state().d), d);
    EXPECT_EQ(ToDoubles(lbfgs.state().old_dirs.back()), change);
  }
}

TEST(LbfgsTest, ResumesFromItsStateBitForBit) {
  const Settings settings = {{"max_iter", 2}, {"history_size", 3}};
  Lbfgs whole = Value(Lbfgs::Make(settings)), first = Value(Lbfgs::Make(settings));
  Tensor x = Vector({-1.2, 1, 0.3}), y = Tensor::CopyOf(x);
  Rosenbrock function;
  for (int step = 0; step < 3; ++step) {
    Value(whole.Step(1, &x, function.Function()));
    Value(first.Step(1, &y, function.Function()));
  }
  Lbfgs resumed = Value(Lbfgs::Make(settings));
  ASSERT_TRUE(resumed.set_state(first.state()).ok());
  for (int step = 0; step < 3; ++step) {
    Value(whole.Step(1, &x, function.Function()));
    Value(resumed.Step(1, &y, function.Function()));
    EXPECT_EQ(x, y) << step;
  }
  EXPECT_EQ(whole.state().ro, resumed.state().ro);
  EXPECT_EQ(whole.state().ro.size(), 3u);
}

TEST(LbfgsTest, AStateOfOtherPartsIsRefused) {
  const auto refused = [](auto change) {
    Lbfgs from = Value(Lbfgs::Make({}));
    Tensor x = Vector({-1.2, 1});
    Rosenbrock function;
    Value(from.Step(1, &x, function.Function()));
    Lbfgs::State state = from.state();
    change(&state);
    Lbfgs to = Value(Lbfgs::Make({}));
    return HasReason(to.set_state(state), Reason::kInvalidTensor);
  };
  EXPECT_FALSE(refused([](Lbfgs::State*) {}));
  EXPECT_TRUE(refused([](Lbfgs::State* s) { s->ro.pop_back(); }));
  EXPECT_TRUE(refused([](Lbfgs::State* s) { s->d = Vector({1, 2, 3}); }));
  EXPECT_TRUE(refused([](Lbfgs::State* s) { s->old_stps[0] = Tensor::Scalar(1.0); }));
  EXPECT_TRUE(refused([](Lbfgs::State* s) { s->n_iter = 0; }));
}

TEST(LbfgsTest, OtherParametersThanBeforeAreRefused) {
  Lbfgs lbfgs = Value(Lbfgs::Make({}));
  Tensor x = Vector({-1.2, 1}), other = Vector({1, 2, 3});
  Tensor matrix = Tensor::FromVector<double>({1, 2}, {1, 2});
  Rosenbrock function;
  Value(lbfgs.Step(1, &x, function.Function()));
  for (Tensor* bad : {&other, &matrix}) {
    EXPECT_TRUE(
        HasReason(lbfgs.Step(1, bad, function.Function()).status(), Reason::kInvalidTensor));
  }
}

TEST(LbfgsTest, NoParametersAreAtTheirMinimum) {
  Lbfgs lbfgs = Value(Lbfgs::Make({}));
  Tensor nothing = Vector({});
  Rosenbrock function;
  EXPECT_EQ(Value(lbfgs.Step(1, &nothing, function.Function())).loss, 0);
  EXPECT_EQ(function.calls(), 1);
}

TEST(LbfgsTest, AFunctionOfNaNsEndsTheStep) {
  Lbfgs lbfgs = Value(Lbfgs::Make({}));
  Tensor x = Vector({1, 2});
  int calls = 0;
  const auto broken = [&](const Tensor&, Tensor* gradient) -> absl::StatusOr<double> {
    ++calls;
    for (int i = 0; i < 2; ++i) gradient->mutable_data<double>()[i] = NAN;
    return NAN;
  };
  EXPECT_TRUE(std::isnan(Value(lbfgs.Step(1, &x, broken)).loss));
  EXPECT_LE(calls, 25 * 27);
}

TEST(LbfgsTest, ALearningRateOfZeroMovesNothingAndSearchesNothing) {
  Lbfgs lbfgs = Value(Lbfgs::Make({}));
  Tensor x = Vector({-1.2, 1});
  Rosenbrock function;
  EXPECT_LE(Value(lbfgs.Step(0, &x, function.Function())).evaluations, 2);
  EXPECT_EQ(ToDoubles(x), (Values{-1.2, 1}));
}

TEST(LbfgsTest, AllProblemsOfASpecificationAreReportedAtOnce) {
  const absl::Status status =
      Lbfgs::Make({{"lr", -1}, {"max_iter", 0}, {"history_size", 2.5}, {"line_search", 1}})
          .status();
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  EXPECT_EQ(ViolationsOf(status).size(), 4u) << status;
}

}  // namespace
}  // namespace gradwire
