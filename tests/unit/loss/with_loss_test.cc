#include "engine/loss/with_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using testing::HasSubstr;

class WithLossTest : public testing::Test {
 protected:
  std::shared_ptr<const LoadedModel> Load(absl::string_view formula) {
    return Value(engine_.LoadModel(ModelFormat::kFormula, formula, inputs_));
  }
  // The loss's value and gradient by `wrt`.
  std::pair<double, std::vector<double>> Compute(const LoadedModel& model, const char* wrt) {
    const Prepared p = Value(engine_.Prepare(
        model, {.kind = Computation::kGradient, .outputs = {kLossOutput}, .wrt = {wrt}}, inputs_));
    std::map<std::string, Tensor> outputs;
    Bindings bindings;
    for (const SignatureEntry& e : p.program->signature().inputs) {
      bindings.inputs.push_back(inputs_.at(e.name).raw());
    }
    for (const SignatureEntry& e : p.program->signature().outputs) {
      outputs[e.name] = Tensor(e.type);
      bindings.outputs.push_back(outputs[e.name].mutable_raw());
    }
    Arena arena;
    RunContext context{.arena = &arena};
    const absl::Status status = p.program->Run(bindings, context);
    EXPECT_TRUE(status.ok()) << status;
    return {ElementAsDouble(outputs.at(kLossOutput), 0), ToDoubles(outputs.at(GradientName(wrt)))};
  }

  Engine engine_{{.threads = 1, .self_check = EngineOptions::SelfCheck::kNever}};
  Tensor w_ = Tensor::FromVector<double>({2}, {1, -2});
  Tensor target_ = Tensor::FromVector<double>({2}, {3, 1});
  NamedViews inputs_ = {{"w", w_}, {"target", target_}};
};

TEST_F(WithLossTest, ALossByNameIsOfThePredictionAndAnInputCalledTarget) {
  inputs_.erase("target");
  const auto model = Load("y = 2*w; u = y + 1; return y, u");
  const auto both = Value(engine_.AttachLoss(
      *model, {.named = {.name = "mse", .reduction = LossSpec::kSum}, .prediction = "y"}, inputs_));
  inputs_.emplace("target", target_);
  const auto [loss, gradient] = Compute(*both, "w");
  EXPECT_EQ(loss, 1 + 25);
  EXPECT_THAT(gradient, testing::ElementsAre(-4, -20));
}

TEST_F(WithLossTest, AFormulaReadsTheModelsValuesInTheirTypes) {
  const Tensor w = Tensor::FromVector<float>({2}, {1, -2});
  const Tensor scale = Tensor::Scalar<float>(10);
  inputs_ = {{"w", w}};
  const auto model = Load("y = w*w");
  inputs_.emplace("scale", scale);
  const auto both = Value(engine_.AttachLoss(
      *model, {.format = ModelFormat::kFormula, .bytes = "y2 = y*y; sum(scale*y2)"}, inputs_));
  const auto [loss, gradient] = Compute(*both, "w");
  EXPECT_EQ(loss, 170);
  EXPECT_THAT(gradient, testing::ElementsAre(40, -320));
}

TEST_F(WithLossTest, NamesInsideALossAreItsOwn) {
  inputs_.erase("target");
  const auto model = Load("u = w*w; y = sum(u)");
  const auto both = Value(engine_.AttachLoss(
      *model, {.format = ModelFormat::kFormula, .bytes = "v = y + 1; u2 = v*v; u2"}, inputs_));
  const auto again =
      Value(engine_.AttachLoss(*both, {.format = ModelFormat::kFormula, .bytes = "y"}, inputs_));
  EXPECT_NE(both->digest, again->digest);
  EXPECT_EQ(Compute(*both, "w").first, 36);
}

TEST_F(WithLossTest, AnOutputOfTheModelMayBeTheLossAsItIs) {
  inputs_.erase("target");
  const auto model = Load("y = sum(w*w); u = w; return y, u");
  const auto both =
      Value(engine_.AttachLoss(*model, {.format = ModelFormat::kFormula, .bytes = "y"}, inputs_));
  EXPECT_EQ(Compute(*both, "w").first, 5);
}

TEST_F(WithLossTest, InitialisersOfALossAreNotTrained) {
  inputs_.erase("target");
  const auto model = Load("y = sum(w*w)");
  const auto both = Value(engine_.AttachLoss(*model, {.format = ModelFormat::kText, .bytes = R"(
      <ir_version: 8, opset_import: ["" : 17]>
      scaled (double y) => (double loss) <double k = {3.0}> { loss = Mul (y, k) })"},
                                             inputs_));
  EXPECT_THAT(DefaultWrt(*both->model, inputs_), testing::ElementsAre("w"));
  EXPECT_EQ(Compute(*both, "w").first, 15);
}

TEST_F(WithLossTest, WhatDoesNotFitIsRefused) {
  const auto model = Load("y = 2*w; u = y + 1; return y, u");
  const auto refusal = [&](const Engine::LossSource& loss) {
    const auto both = engine_.AttachLoss(*model, loss, inputs_);
    return both.ok()
               ? engine_.Prepare(**both, {.kind = Computation::kGradient, .wrt = {"w"}}, inputs_)
                     .status()
               : both.status();
  };
  absl::Status status = refusal({.named = {.name = "mse"}});
  EXPECT_TRUE(HasReason(status, Reason::kUnknownOutput)) << status;
  status = refusal({.named = {.name = "mse"}, .prediction = "z"});
  EXPECT_TRUE(HasReason(status, Reason::kUnknownOutput)) << status;
  status = refusal({.named = {.name = "mze"}, .prediction = "y"});
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  status = refusal({.named = {.name = "nll"}, .prediction = "y"});
  EXPECT_TRUE(HasReason(status, Reason::kDtypeUnsupported)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("loss \"nll\""));
  status = refusal({.format = ModelFormat::kFormula, .bytes = "a = y; b = u; return a, b"});
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
  status = refusal({.format = ModelFormat::kFormula, .bytes = "y +"});
  EXPECT_TRUE(HasReason(status, Reason::kInvalidModel)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("loss.graph"));
}

}  // namespace
}  // namespace gradwire
