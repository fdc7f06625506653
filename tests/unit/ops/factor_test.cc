// Factorisations and determinants: known values, refusals, singular matrices, equal bits.
#include "engine/kernels/factor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_join.h"
#include "engine/autodiff/autodiff.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_text.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "tests/unit/exec/run_program.h"

namespace gradwire {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Doubles = std::vector<double>;

Tensor Square(const Doubles& values) {
  const auto n = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(values.size()))));
  return Tensor::FromVector<double>({n, n}, values);
}

// A node of one output, "y", on inputs x0, x1, ...
Graph OneNode(const std::string& call, const std::vector<Tensor>& inputs) {
  std::vector<std::string> declared;
  NamedViews views;
  for (size_t i = 0; i < inputs.size(); ++i) {
    declared.push_back(
        absl::StrCat("double[", absl::StrJoin(inputs[i].shape().dims(), ","), "] x", i));
    views[absl::StrCat("x", i)] = inputs[i];
  }
  const auto proto =
      ParseOnnxText(absl::StrCat("<ir_version: 8, opset_import: [\"\" : 18, \"gradwire\" : 1]> g (",
                                 absl::StrJoin(declared, ", "), ") => (y) { y = ", call, " }"));
  const Model model = Value(ImportModel(Value(proto), AllOps(), {}));
  SpecializeRequest request;
  request.inputs = &views;
  return Value(Specialize(model, request)).graph;
}

absl::Status Run(const Graph& graph, const std::vector<Tensor>& inputs, Doubles* out) {
  NamedTensors named;
  for (size_t i = 0; i < inputs.size(); ++i) named[absl::StrCat("x", i)] = inputs[i];
  BoundProgram bound(CompileGraph(graph), named);
  const absl::Status status = bound.Run();
  if (status.ok()) *out = ToDoubles(bound.Output(graph.outputs()[0].name));
  return status;
}

Doubles Result(const std::string& call, const std::vector<Tensor>& inputs) {
  Doubles out;
  const absl::Status status = Run(OneNode(call, inputs), inputs, &out);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

absl::Status Refusal(const std::string& call, const std::vector<Tensor>& inputs) {
  Doubles out;
  return Run(OneNode(call, inputs), inputs, &out);
}

TEST(CholeskyTest, ReadsTheLowerTriangleOnly) {
  EXPECT_THAT(Result("gradwire.Cholesky (x0)", {Square({4, 99, 2, 5})}), ElementsAre(2, 0, 1, 2));
}

TEST(CholeskyTest, WhatIsNotPositiveDefiniteIsRefusedByName) {
  const Tensor stack = Tensor::FromVector<double>({2, 2, 2}, {4, 0, 2, 5, 1, 0, 2, 4});
  const absl::Status status = Refusal("gradwire.Cholesky (x0)", {stack});
  EXPECT_TRUE(HasReason(status, Reason::kInvalidTensor)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("node 0 (Cholesky): matrix 1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("row 1"));
}

TEST(CholeskyTest, NanGivesNanAndNoError) {
  const double nan = std::nan("");
  EXPECT_TRUE(std::isnan(Result("gradwire.Cholesky (x0)", {Square({4, 0, nan, 5})})[2]));
}

TEST(TriangularSolveTest, SolvesForAVectorAndReadsOneTriangle) {
  EXPECT_THAT(Result("gradwire.TriangularSolve (x0, x1)", {Square({2, 99, 1, 4}), Vector({2, 9})}),
              ElementsAre(1, 2));
  EXPECT_THAT(Result("gradwire.TriangularSolve <lower = 0> (x0, x1)",
                     {Square({2, 1, 99, 4}), Vector({4, 8})}),
              ElementsAre(1, 2));
  EXPECT_THAT(Result("gradwire.TriangularSolve <unit_diagonal = 1> (x0, x1)",
                     {Square({0, 99, 1, 0}), Vector({2, 9})}),
              ElementsAre(2, 7));
}

TEST(TriangularSolveTest, AZeroOnTheDiagonalIsRefused) {
  const absl::Status status =
      Refusal("gradwire.TriangularSolve (x0, x1)", {Square({2, 0, 1, 0}), Vector({2, 9})});
  EXPECT_TRUE(HasReason(status, Reason::kInvalidTensor)) << status;
}

TEST(SolveTest, SwapsRowsWhereItMust) {
  EXPECT_THAT(Result("gradwire.Solve (x0, x1)", {Square({0, 2, 1, 1}), Vector({4, 3})}),
              ElementsAre(1, 2));
  EXPECT_THAT(
      Result("gradwire.Solve <transpose = 1> (x0, x1)", {Square({0, 2, 1, 1}), Vector({3, 4})}),
      ElementsAre(0.5, 3));
}

TEST(SolveTest, ASingularMatrixIsRefusedByName) {
  for (const char* call : {"gradwire.Solve (x0, x0)", "gradwire.Inverse (x0)"}) {
    const absl::Status status = Refusal(call, {Square({1, 2, 2, 4})});
    EXPECT_TRUE(HasReason(status, Reason::kInvalidTensor)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is singular"));
  }
}

TEST(LogDetTest, FollowsPyTorchWhereThereIsNoLogarithm) {
  EXPECT_EQ(Result("gradwire.LogDet (x0)", {Square({1, 2, 2, 4})})[0],
            -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(Result("gradwire.LogDet (x0)", {Square({0, 2, 1, 1})})[0]));
  EXPECT_DOUBLE_EQ(Result("gradwire.LogDet (x0)", {Square({1e300, 0, 0, 1e300})})[0],
                   600 * std::log(10.0));
}

// d det[E_ij] is the cofactor of (i, j).
TEST(DetTest, SingularMatricesHaveTheirCofactorsAsGradient) {
  const std::vector<std::pair<Doubles, Doubles>> cases = {
      {{1, 2, 3, 4, 5, 6, 7, 8, 9}, {-3, 6, -3, 6, -12, 6, -3, 6, -3}},
      {{1, 2, 3, 2, 4, 6, 3, 6, 9}, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
      {{0, 0, 0, 0, 2, 0, 0, 0, 3}, {6, 0, 0, 0, 0, 0, 0, 0, 0}},
      {{0, 0, 0, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 0, 0, 0}},
  };
  for (const auto& [a, cofactors] : cases) {
    const Graph gradient = Value(Gradient(OneNode("Det (x0)", {Square(a)}), "y", {"x0"}));
    BoundProgram bound(CompileGraph(gradient), {{"x0", Square(a)}});
    ASSERT_TRUE(bound.Run().ok());
    const Doubles got = ToDoubles(bound.Output(GradientName("x0")));
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], cofactors[i], 1e-13) << i;
  }
}

// Of det = sum of products: at 0, the Hessian of a 2 x 2 determinant is what remains.
TEST(DetTest, TheSecondDerivativeAtZeroIsRight) {
  const Graph hvp = Value(Hvp(OneNode("Det (x0)", {Square({0, 0, 0, 0})}), "y", {"x0"}));
  BoundProgram bound(CompileGraph(hvp),
                     {{"x0", Square({0, 0, 0, 0})}, {TangentName("x0"), Square({1, 2, 3, 4})}});
  ASSERT_TRUE(bound.Run().ok());
  EXPECT_THAT(ToDoubles(bound.Output(ProductName("x0"))), ElementsAre(4, -3, -2, 1));
}

// ---- Kernels

Doubles Numbers(int64_t n, bool positive_definite) {
  const Tensor x = Random({DType::kDouble, {n, n}}, 3);
  Doubles a = ToDoubles(x);
  for (int64_t i = 0; i < n && positive_definite; ++i) {
    a[static_cast<size_t>(i * n + i)] += static_cast<double>(n);
  }
  return a;
}

TEST(FactorTest, BitsDoNotDependOnThreads) {
  for (int64_t n : {5, 33, 150}) {
    const Doubles a = Numbers(n, true), b = Numbers(n, false);
    Doubles chol[2], lu[2], solved[2], diagonal[2];
    std::vector<int64_t> pivots(static_cast<size_t>(n));
    for (int threads : {1, 3}) {
      const size_t k = threads == 1 ? 0 : 1;
      chol[k] = a;
      EXPECT_EQ(factor::Cholesky(chol[k].data(), n, threads), -1);
      lu[k] = b;
      factor::Lu(lu[k].data(), n, pivots.data(), threads);
      solved[k] = b;
      factor::SolveTriangle<double>({a.data(), n, 1, n, false, false}, solved[k].data(), n,
                                    threads);
      diagonal[k] = b;
      Doubles w(a.size()), v(a.size());
      factor::Diagonalize(diagonal[k].data(), w.data(), v.data(), n, threads);
    }
    EXPECT_EQ(chol[0], chol[1]);
    EXPECT_EQ(lu[0], lu[1]);
    EXPECT_EQ(solved[0], solved[1]);
    EXPECT_EQ(diagonal[0], diagonal[1]);
  }
}

TEST(FactorTest, FactorsMultiplyToTheMatrix) {
  const int64_t n = 70;
  const Doubles a = Numbers(n, true);
  Doubles l = a;
  ASSERT_EQ(factor::Cholesky(l.data(), n, 2), -1);
  Doubles w(a.size()), v(a.size()), d = Numbers(n, false);
  const Doubles b = d;
  factor::Diagonalize(d.data(), w.data(), v.data(), n, 2);
  const auto at = [n](const Doubles& m, int64_t i, int64_t j) {
    return m[static_cast<size_t>(i * n + j)];
  };
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double product = 0, between = 0;
      for (int64_t k = 0; k < n; ++k) {
        product += at(l, i, k) * at(l, j, k);
        double right = 0;
        for (int64_t m = 0; m < n; ++m) right += at(b, k, m) * at(v, m, j);
        between += at(w, i, k) * right;
      }
      EXPECT_NEAR(product, at(a, std::max(i, j), std::min(i, j)), 1e-12) << i << " " << j;
      EXPECT_NEAR(between, at(d, i, j), 1e-10) << i << " " << j;
      EXPECT_TRUE(i == j || at(d, i, j) == 0) << i << " " << j;
    }
  }
}

}  // namespace
}  // namespace gradwire
