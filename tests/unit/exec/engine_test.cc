#include "engine/engine.h"

#include <gtest/gtest.h>

namespace gradwire {
namespace {

// Runs a computation on scalars and returns output name -> first element.
std::map<std::string, double> RunScalars(Engine& engine, ModelFormat format,
                                         absl::string_view model_bytes, Computation computation,
                                         const std::map<std::string, double>& values) {
  std::vector<Tensor> storage;
  NamedViews inputs;
  for (const auto& [name, value] : values) {
    storage.push_back(Tensor::Scalar(value));
    if (absl::string_view(name).substr(0, 9) != "gradwire.") inputs[name] = storage.back();
  }
  auto model = engine.LoadModel(format, model_bytes, inputs);
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  auto prepared = engine.Prepare(**model, computation, inputs);
  EXPECT_TRUE(prepared.ok()) << prepared.status();
  if (!prepared.ok()) return {};
  const Signature& signature = prepared->program->signature();
  Bindings bindings;
  std::vector<Tensor> given, results;
  for (const SignatureEntry& e : signature.inputs) {
    given.push_back(Tensor::Scalar(values.at(e.name)));
    bindings.inputs.push_back(given.back().raw());
  }
  for (const SignatureEntry& e : signature.outputs) {
    results.emplace_back(e.type);
    bindings.outputs.push_back(results.back().mutable_raw());
  }
  Arena arena;
  RunContext context{.arena = &arena};
  const absl::Status status = prepared->program->Run(bindings, context);
  EXPECT_TRUE(status.ok()) << status;
  std::map<std::string, double> out;
  for (size_t i = 0; i < results.size(); ++i) {
    out[signature.outputs[i].name] = ElementAsDouble(results[i], 0);
  }
  return out;
}

TEST(EngineTest, GradientOfTheSeedExpressionIsExact) {
  Engine engine({});
  auto out = RunScalars(engine, ModelFormat::kFormula, "x^2*y + y^3",
                        {.kind = Computation::kGradient}, {{"x", 2}, {"y", 3}});
  EXPECT_EQ(out["f"], 39);
  EXPECT_EQ(out[GradientName("x")], 12);
  EXPECT_EQ(out[GradientName("y")], 31);
}

TEST(EngineTest, HessianVectorProductOfRosenbrockIsExact) {
  Engine engine({});
  auto out = RunScalars(engine, ModelFormat::kFormula, "(1-x)^2 + 100*(y-x^2)^2",
                        {.kind = Computation::kHvp},
                        {{"x", 1}, {"y", 2}, {TangentName("x"), 1}, {TangentName("y"), 0}});
  EXPECT_EQ(out[ProductName("x")], 402);
  EXPECT_EQ(out[ProductName("y")], -400);
}

TEST(EngineTest, SecondIdenticalCallHitsTheCache) {
  Engine engine({});
  NamedViews inputs;
  const Tensor x = Tensor::Scalar(2.0);
  inputs["x"] = x;
  auto model = engine.LoadModel(ModelFormat::kFormula, "x*x", inputs);
  ASSERT_TRUE(model.ok()) << model.status();
  auto first = engine.Prepare(**model, {.kind = Computation::kGradient}, inputs);
  auto second = engine.Prepare(**model, {.kind = Computation::kGradient}, inputs);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_FALSE(first->cache_hit);
  EXPECT_TRUE(second->cache_hit);
  EXPECT_EQ(first->program, second->program);
}

}  // namespace
}  // namespace gradwire
