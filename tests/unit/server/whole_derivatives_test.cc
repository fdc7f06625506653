// Jacobians, Hessians, many points in one call, and checks.
#include "tests/unit/server/gradient_core_testing.h"

namespace gradwire::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string InputX(const std::string& shape, const std::vector<double>& values) {
  std::string text = absl::StrCat("inputs { key: 'x' value { ", shape);
  for (const double v : values) absl::StrAppend(&text, " values: ", v);
  return text + " } }";
}

TEST_F(RefusedTest, JacobianAndHessian) {
  const std::string seed = kSeed;
  Expect(&GradientCore::ComputeJacobian,
         {{"direction", seed + "direction: 7", Reason::kInvalidSpec, "direction"},
          {"wrt", seed + "wrt: 'nope'", Reason::kUnknownWrt, "nope"},
          {"output", seed + "outputs: 'nope'", Reason::kUnknownOutput, "nope"},
          {"forward by a value in between",
           "model { expression: 'u = x^2; u*x' } inputs { key: 'x' value { values: 2 } }"
           "wrt: 'u' direction: FORWARD",
           Reason::kInvalidSpec, "use REVERSE"}});
  Expect(&GradientCore::ComputeHessian,
         {{"scalar", kVector, Reason::kNotScalar, ""},
          {"both", seed + "output: 'f' cotangents {}", Reason::kInvalidSpec, "both"},
          {"cotangent", seed + "cotangents { tensors { key: 'q' value { values: 1 } } }",
           Reason::kUnknownOutput, "cotangents.q"}});
}

// 8 * 2000^2 bytes are above the limit of a reply, though the call's memory would do.
TEST_F(GradientCoreTest, AHessianThatIsTooLargeIsRefusedBeforeItIsComputed) {
  std::string x = "inputs { key: 'x' value { shape: 2000 ";
  for (int i = 0; i < 2000; ++i) x += "values: 1 ";
  v1::ComputeHessianResponse reply;
  const absl::Status status =
      Run(&GradientCore::ComputeHessian, "model { expression: 'sum(x^3)' }" + x + "} }", &reply);
  EXPECT_TRUE(HasReason(status, Reason::kResultTooLarge)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("bytes, the limit is 4194304"));
}

TEST_F(GradientCoreTest, JacobiansHaveABlockForEachPairInBothDirections) {
  for (const char* direction : {"AUTO", "FORWARD", "REVERSE"}) {
    v1::ComputeJacobianResponse reply;
    ASSERT_EQ(Run(&GradientCore::ComputeJacobian,
                  absl::StrCat(R"pb(
                                 model { expression: "u = x^2 * y; v = 3*x; return u, v" }
                                 inputs {
                                   key: "x"
                                   value {
                                     shape: 2
                                     values: [ 1, 2 ]
                                   }
                                 }
                                 inputs {
                                   key: "y"
                                   value { values: 5 }
                                 }
                                 direction:
                               )pb",
                               direction),
                  &reply),
              absl::OkStatus());
    ASSERT_EQ(reply.jacobians_size(), 4) << direction;
    const auto block = [&](int i) {
      return reply.jacobians(i).output() + reply.jacobians(i).wrt();
    };
    EXPECT_EQ(block(0), "ux");
    EXPECT_EQ(block(1), "uy");
    EXPECT_EQ(block(2), "vx");
    EXPECT_EQ(block(3), "vy");
    EXPECT_THAT(Doubles(reply.jacobians(0).jacobian()), ElementsAre(10, 0, 0, 20));
    EXPECT_THAT(reply.jacobians(0).jacobian().shape(), ElementsAre(2, 2));
    EXPECT_THAT(Doubles(reply.jacobians(1).jacobian()), ElementsAre(1, 4));
    EXPECT_THAT(Doubles(reply.jacobians(2).jacobian()), ElementsAre(3, 0, 0, 3));
    EXPECT_THAT(Doubles(reply.jacobians(3).jacobian()), ElementsAre(0, 0));
    EXPECT_THAT(Doubles(reply.outputs().at("u")), ElementsAre(5, 20));
  }
}

TEST_F(GradientCoreTest, TheHessianOfRosenbrockIsExact) {
  v1::ComputeHessianResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeHessian, R"pb(
                  model { expression: "(1-x)^2 + 100*(y-x^2)^2" }
                  inputs {
                    key: "x"
                    value { values: -1.5 }
                  }
                  inputs {
                    key: "y"
                    value { values: 0.25 }
                  })pb",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(406.25));
  EXPECT_THAT(Doubles(reply.gradients().at("x")), ElementsAre(-1205));
  std::vector<std::string> blocks;
  std::vector<double> values;
  for (const v1::Hessian& h : reply.hessians()) {
    blocks.push_back(h.row() + h.column());
    values.push_back(Doubles(h.hessian()).at(0));
  }
  EXPECT_THAT(blocks, ElementsAre("xx", "xy", "yx", "yy"));
  EXPECT_THAT(values, ElementsAre(2602, 600, 600, 200));
}

TEST_F(GradientCoreTest, AHessianOfCotangentsIsThatOfTheirSum) {
  v1::ComputeHessianResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeHessian, std::string(kVector) + R"pb(
                  cotangents {
                    tensors {
                      key: "f"
                      value {
                        shape: 2
                        values: [ 10, 100 ]
                      }
                    }
                  }
                  wrt: "x"
                )pb",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(810));
  EXPECT_THAT(Doubles(reply.gradients().at("x")), ElementsAre(30, 1200));
  ASSERT_EQ(reply.hessians_size(), 1);
  EXPECT_THAT(Doubles(reply.hessians(0).hessian()), ElementsAre(60, 0, 0, 1200));
}

// ---- Many points in one call

constexpr char kPoints[] = R"pb(
  model { expression: "sum(exp(x) * w) + w^2 * sum(x^3)" }
  inputs {
    key: "w"
    value { values: 1.7 }
  }
)pb";

TEST_F(GradientCoreTest, ABatchHasTheBitsOfSingleCalls) {
  const std::vector<double> x = {0.1, 0.2, -1.3, 2.4, 0.5, -0.6};
  v1::ComputeGradientResponse whole;
  ASSERT_EQ(
      Run(&GradientCore::ComputeGradient,
          kPoints + InputX("shape: [3, 2]", x) + "options { batch: 'x' } wrt: ['x', 'w']", &whole),
      absl::OkStatus());
  EXPECT_THAT(whole.value().shape(), ElementsAre(3));
  EXPECT_THAT(whole.gradients().at("x").shape(), ElementsAre(3, 2));
  EXPECT_THAT(whole.gradients().at("w").shape(), ElementsAre(3));
  for (size_t b = 0; b < 3; ++b) {
    v1::ComputeGradientResponse one;
    ASSERT_EQ(Run(&GradientCore::ComputeGradient,
                  kPoints + InputX("shape: 2", {x[2 * b], x[2 * b + 1]}) + "wrt: ['x', 'w']", &one),
              absl::OkStatus());
    EXPECT_EQ(one.value().data(), whole.value().data().substr(8 * b, 8));
    EXPECT_EQ(one.gradients().at("x").data(), whole.gradients().at("x").data().substr(16 * b, 16));
    EXPECT_EQ(one.gradients().at("w").data(), whole.gradients().at("w").data().substr(8 * b, 8));
  }
}

TEST_F(GradientCoreTest, WhatNoPointChangesIsRepeatedForEach) {
  v1::EvaluateResponse reply;
  ASSERT_EQ(Run(&GradientCore::Evaluate,
                "model { expression: 'a = w*2; b = x + w; return a, b' }"
                "inputs { key: 'w' value { values: 5 } }" +
                    InputX("shape: 3", {1, 2, 3}) + "options { batch: 'x' }",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.outputs().at("a")), ElementsAre(10, 10, 10));
  EXPECT_THAT(Doubles(reply.outputs().at("b")), ElementsAre(6, 7, 8));
}

TEST_F(GradientCoreTest, VectorsOfABatchAreSharedOrOneForEachPoint) {
  const std::string call = "model { expression: 'x^3' }" + InputX("shape: 2", {1, 2}) +
                           "options { batch: 'x' }"
                           "tangents { tensors { key: 'x' value { values: 10 } } }"
                           "tangents { tensors { key: 'x' value { shape: 2 values: [1, 100] } } }";
  v1::ComputeJvpResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeJvp, call, &reply), absl::OkStatus());
  ASSERT_EQ(reply.tangents_size(), 2);
  EXPECT_THAT(Doubles(reply.tangents(0).tensors().at("f")), ElementsAre(30, 120));
  EXPECT_THAT(Doubles(reply.tangents(1).tensors().at("f")), ElementsAre(3, 1200));
}

TEST_F(GradientCoreTest, HessiansOfABatchHaveItsAxis) {
  v1::ComputeHessianResponse reply;
  const std::string x = InputX("shape: [2, 2]", {1, 2, 3, 4}) + "options { batch: 'x' }";
  ASSERT_EQ(Run(&GradientCore::ComputeHessian, "model { expression: 'sum(x^3)' }" + x, &reply),
            absl::OkStatus());
  ASSERT_EQ(reply.hessians_size(), 1);
  EXPECT_THAT(reply.hessians(0).hessian().shape(), ElementsAre(2, 2, 2));
  EXPECT_THAT(Doubles(reply.hessians(0).hessian()), ElementsAre(6, 0, 0, 12, 18, 0, 0, 24));
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(9, 91));

  v1::ComputeHessianResponse of_cotangents;
  ASSERT_EQ(Run(&GradientCore::ComputeHessian,
                "model { expression: 'x^3' } cotangents { tensors { key: 'f' value { shape: 2"
                " values: [1, 10] } } }" +
                    x,
                &of_cotangents),
            absl::OkStatus());
  EXPECT_THAT(Doubles(of_cotangents.value()), ElementsAre(81, 667));
  EXPECT_THAT(Doubles(of_cotangents.hessians(0).hessian()),
              ElementsAre(6, 0, 0, 120, 18, 0, 0, 240));
}

TEST_F(GradientCoreTest, JacobiansOfABatchHaveItsAxisInBothDirections) {
  for (const char* direction : {"FORWARD", "REVERSE"}) {
    v1::ComputeJacobianResponse reply;
    ASSERT_EQ(
        Run(&GradientCore::ComputeJacobian,
            absl::StrCat("model { expression: 'x^2' } direction: ", direction, " ",
                         InputX("shape: [3, 2]", {1, 2, 3, 4, 5, 6}), "options { batch: 'x' }"),
            &reply),
        absl::OkStatus());
    EXPECT_THAT(reply.jacobians(0).jacobian().shape(), ElementsAre(3, 2, 2));
    EXPECT_THAT(Doubles(reply.jacobians(0).jacobian()),
                ElementsAre(2, 0, 0, 4, 6, 0, 0, 8, 10, 0, 0, 12));
  }
}

constexpr char kRows[] = R"pb(
  model {
    text: "<ir_version: 8, opset_import: ['' : 17]>"
          "g (double[N, 2] x) => (double[N] y) <double[2] w = {3.0, 4.0}> { y = MatMul(x, w) }"
  }
)pb";

TEST_F(GradientCoreTest, GradientsPerExampleAreThoseOfSingleRows) {
  std::string model = kRows;
  for (size_t i; (i = model.find('\'')) != std::string::npos;) model.replace(i, 1, "\\\"");
  v1::ComputeGradientResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeGradient,
                model + InputX("shape: [3, 2]", {1, 2, 3, 4, 5, 6}) +
                    "inputs { key: 'target' value { shape: 3 values: [10, 24, 40] } }"
                    "loss { named: 'mse' } per_example: true",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(1, 1, 1));
  EXPECT_THAT(reply.gradients().at("w").shape(), ElementsAre(3, 2));
  EXPECT_THAT(Doubles(reply.gradients().at("w")), ElementsAre(2, 4, 6, 8, -10, -12));
}

TEST_F(RefusedTest, Batches) {
  const std::string xy = "model { expression: 'x + y' }" + InputX("shape: 2", {1, 2});
  const auto y = [](const std::string& value) {
    return "inputs { key: 'y' value { " + value + " } }";
  };
  Expect(
      &GradientCore::Evaluate,
      {{"no such input", xy + y("values: 1") + "options { batch: 'z' }", Reason::kMissingInput,
        "options.batch.z"},
       {"scalar", xy + y("values: 1") + "options { batch: 'y' }", Reason::kShapeMismatch, "scalar"},
       {"lengths", xy + y("shape: 3 values: [1, 2, 3]") + "options { batch: ['x', 'y'] }",
        Reason::kShapeMismatch, "has 3 points, others have 2"},
       {"no point", "model { expression: 'x' }" + InputX("shape: 0", {}) + "options { batch: 'x' }",
        Reason::kInvalidSpec, "no point"}});
  Expect(&GradientCore::ComputeGradient,
         {{"rows of a formula", kSeed + std::string("per_example: true"), Reason::kInvalidSpec,
           "options.batch"}});
  Expect(&GradientCore::ComputeJvp,
         {{"vector",
           "model { expression: 'x^3' }" + InputX("shape: 2", {1, 2}) +
               "options { batch: 'x' } tangents { tensors { key: 'x' value { shape: 3 "
               "values: [1, 2, 3] } } }",
           Reason::kShapeMismatch, "tangents[0].x"}});
}

// ---- Checks

TEST_F(GradientCoreTest, ACheckComparesEveryWrtToManyDigits) {
  v1::CheckGradientsResponse reply;
  ASSERT_EQ(Run(&GradientCore::CheckGradients,
                "model { expression: 'sum(exp(x) * w) + w^3' }"
                "inputs { key: 'w' value { values: 2 } }" +
                    InputX("shape: [1, 2]", {0.5, -1}) + "directions: 5",
                &reply),
            absl::OkStatus());
  EXPECT_TRUE(reply.passed());
  ASSERT_EQ(reply.checks_size(), 2);
  EXPECT_EQ(reply.checks(0).wrt(), "w");
  EXPECT_EQ(reply.checks(0).compared(), 6);
  EXPECT_EQ(reply.checks(1).compared(), 7);
  for (const v1::GradientCheck& check : reply.checks()) {
    EXPECT_LT(check.error(), 1e-10);
    EXPECT_NE(check.analytic(), 0);
  }
  EXPECT_LT(reply.adjoint_error(), 1e-14);
  EXPECT_LT(reply.second_order_error(), 1e-9);
}

// Differences of far too large a step stand for a wrong derivative.
TEST_F(GradientCoreTest, ACheckFailsWhereDifferencesDisagree) {
  v1::CheckGradientsResponse reply;
  ASSERT_EQ(Run(&GradientCore::CheckGradients,
                "model { expression: 'exp(20 * x)' } step: 1 " + InputX("", {0}), &reply),
            absl::OkStatus());
  EXPECT_FALSE(reply.passed());
  EXPECT_EQ(reply.checks(0).verdict(), v1::GradientCheck::Verdict::DISAGREES);
  EXPECT_EQ(std::abs(reply.checks(0).analytic()), 20);
}

TEST_F(GradientCoreTest, AJumpIsNoWrongDerivative) {
  v1::CheckGradientsResponse reply;
  ASSERT_EQ(
      Run(&GradientCore::CheckGradients,
          "model { expression: 'where(x > 1, 5 * x, 2 * x)' }" + InputX("", {1.0004}), &reply),
      absl::OkStatus());
  EXPECT_EQ(reply.checks(0).verdict(), v1::GradientCheck::Verdict::KINK);
  EXPECT_EQ(std::abs(reply.checks(0).analytic()), 5);
}

TEST_F(RefusedTest, Checks) {
  const std::string seed = kSeed;
  Expect(&GradientCore::CheckGradients,
         {{"directions", seed + "directions: 5000", Reason::kInvalidSpec, "directions"},
          {"step", seed + "step: -1", Reason::kInvalidSpec, "step"},
          {"batch", seed + "options { batch: 'x' }", Reason::kInvalidSpec, "options.batch"},
          {"between", "model { expression: 'u = x^2; u*x' } wrt: 'u'" + InputX("", {2}),
           Reason::kUnknownInput, "inputs.u"},
          {"output", seed + "output: 'nope'", Reason::kUnknownOutput, "nope"}});
}

}  // namespace
}  // namespace gradwire::server
