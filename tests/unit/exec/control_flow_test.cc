// Bodies: what they read, what is taken of them, what stops them; sequences.
#include <gtest/gtest.h>

#include "engine/engine.h"
#include "onnx/onnx.pb.h"

namespace gradwire {
namespace {

using Inputs = std::map<std::string, Tensor>;

constexpr char kHeader[] = "<ir_version: 8, opset_import: [\"\" : 18, \"local\" : 1]> ";

// The first output, or the first gradient: "[2]: 1 2". Or the reason and message of the refusal.
class Calls {
 public:
  std::string Value(absl::string_view text, const Inputs& inputs) {
    return Call(absl::StrCat(kHeader, text), {.kind = Computation::kValue}, inputs);
  }
  std::string Gradient(absl::string_view text, const Inputs& inputs, const std::string& wrt) {
    return Call(absl::StrCat(kHeader, text), {.kind = Computation::kGradient, .wrt = {wrt}},
                inputs);
  }
  absl::Status status() const { return status_; }

  std::string Call(absl::string_view model_bytes, const Computation& computation,
                   const Inputs& inputs, ModelFormat format = ModelFormat::kText) {
    const absl::StatusOr<Tensor> result = Run(model_bytes, computation, inputs, format);
    status_ = result.status();
    if (!result.ok()) {
      return absl::StrCat(ReasonNameOf(status_), ": ", std::string(status_.message()));
    }
    std::string out = absl::StrCat(result->shape().ToString(), ":");
    for (int64_t i = 0; i < result->num_elements(); ++i) {
      absl::StrAppend(&out, " ", ElementAsDouble(*result, i));
    }
    return out;
  }

 private:
  absl::StatusOr<Tensor> Run(absl::string_view bytes, const Computation& computation,
                             const Inputs& inputs, ModelFormat format) {
    NamedViews views;
    for (const auto& [name, tensor] : inputs) views[name] = tensor;
    GW_ASSIGN_OR_RETURN(auto model, engine_.LoadModel(format, bytes, views));
    GW_ASSIGN_OR_RETURN(const Prepared prepared, engine_.Prepare(*model, computation, views));
    const Signature& signature = prepared.program->signature();
    static constexpr int64_t kSeed[2] = {1, 1};
    Bindings bindings;
    std::vector<Tensor> results;
    for (const SignatureEntry& e : signature.inputs) {
      const auto given = views.find(e.name);
      bindings.inputs.push_back(given != views.end() ? given->second.raw() : kSeed);
    }
    for (const SignatureEntry& e : signature.outputs) {
      results.emplace_back(e.type);
      bindings.outputs.push_back(results.back().mutable_raw());
    }
    Arena arena;
    RunContext context{.arena = &arena};
    GW_RETURN_IF_ERROR(prepared.program->Run(bindings, context));
    return results[computation.kind == Computation::kGradient ? 1 : 0];
  }

  Engine engine_{{}};
  absl::Status status_;
};

Tensor Number(double x) { return Tensor::Scalar(x); }
Tensor Count(int64_t n) { return Tensor::Scalar(n); }
Tensor Truth(bool b) { return Tensor::Scalar(b); }

testing::AssertionResult Says(const std::string& got, absl::string_view part) {
  if (got.find(std::string(part)) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << got;
}

TEST(IfTest, TakesTheBranchOfEachCallAndDifferentiatesIt) {
  constexpr char kText[] = R"(g (double x) => (double y) {
    one = Constant <value = double {1}> ()
    big = Greater (x, one)
    y = If <then_branch = t () => (a) { a = Mul (x, x) },
            else_branch = e () => (a) { a = Neg (x) }> (big)
  })";
  Calls calls;
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(2)}}, "x"), "[]: 4");
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(0.5)}}, "x"), "[]: -1");
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(3)}}, "x"), "[]: 6");
}

TEST(IfTest, ABranchThatIsNotTakenMayHoldWhatIsNotSupported) {
  constexpr char kText[] = R"(g (bool c, double x) => (double y) {
    y = If <then_branch = t () => (a) { a = Neg (x) },
            else_branch = e () => (a) { a = NoSuchOp (x) }> (c)
  })";
  Calls calls;
  EXPECT_EQ(calls.Value(kText, {{"c", Truth(true)}, {"x", Number(2)}}), "[]: -2");
  const std::string refused = calls.Value(kText, {{"c", Truth(false)}, {"x", Number(2)}});
  EXPECT_TRUE(Says(refused, "UNSUPPORTED_OP: node 0 (If) else_branch node 0 (NoSuchOp)"));
}

TEST(IfTest, ABodyReadsThroughTheGraphsAroundIt) {
  constexpr char kText[] = R"(g (bool c, int64 n, double x) => (double y) {
    k = Neg (x)
    y = If <then_branch = t () => (a) {
              a = Loop <body = l (i, go, s) => (go, next) {
                next = If <then_branch = u () => (q) { q = Mul (s, k) },
                           else_branch = v () => (x) {}> (c)
              }> (n, c, x)
            }, else_branch = e () => (a) { a = Neg (x) }> (c)
  })";
  Calls calls;
  const Inputs inputs = {{"c", Truth(true)}, {"n", Count(3)}, {"x", Number(2)}};
  EXPECT_EQ(calls.Value(kText, inputs), "[]: -16");
  EXPECT_EQ(calls.Gradient(kText, inputs, "x"), "[]: -32");  // of -x^4
}

TEST(IfTest, ABodyThatReadsWhatIsNotThereIsRefused) {
  constexpr char kText[] = R"(g (bool c, double x) => (double y) {
    y = If <then_branch = t () => (a) { a = Mul (x, nowhere) },
            else_branch = e () => (later) { b = Neg (x) }> (c)
  })";
  Calls calls;
  const std::string refused = calls.Value(kText, {{"c", Truth(true)}, {"x", Number(2)}});
  EXPECT_TRUE(Says(refused, "INVALID_MODEL"));
  EXPECT_TRUE(Says(refused, "node 0 (If) then_branch node 0 (Mul): input \"nowhere\""));
  ASSERT_EQ(ViolationsOf(calls.status()).size(), 2);
  EXPECT_EQ(ViolationsOf(calls.status())[1].where, "node 0 (If) else_branch output \"later\"");
}

TEST(IfTest, GraphsThatNestTooDeepAreRefused) {
  for (const int depth : {12, 20, 28}) {
    onnx::GraphProto graph;
    graph.set_name("g");
    graph.add_node()->set_op_type("Identity");
    graph.mutable_node(0)->add_input("x");
    graph.mutable_node(0)->add_output("y0");
    graph.add_output()->set_name("y0");
    for (int i = 1; i <= depth; ++i) {
      onnx::GraphProto outer;
      outer.set_name("g");
      onnx::NodeProto* node = outer.add_node();
      node->set_op_type("If");
      node->add_input("c");
      node->add_output(absl::StrCat("y", i));
      for (const char* name : {"then_branch", "else_branch"}) {
        onnx::AttributeProto* attr = node->add_attribute();
        attr->set_name(name);
        attr->set_type(onnx::AttributeProto::GRAPH);
        if (name[0] == 't') *attr->mutable_g() = graph;
        if (name[0] == 'e') attr->mutable_g()->set_name("empty");
      }
      outer.add_output()->set_name(absl::StrCat("y", i));
      graph = std::move(outer);
    }
    onnx::ModelProto model;
    model.set_ir_version(8);
    model.add_opset_import()->set_version(18);
    *model.mutable_graph() = graph;
    model.mutable_graph()->add_input()->set_name("x");
    model.mutable_graph()->add_input()->set_name("c");
    Calls calls;
    const std::string got = calls.Call(model.SerializeAsString(), {.kind = Computation::kValue},
                                       {{"c", Truth(true)}, {"x", Number(2)}}, ModelFormat::kOnnx);
    if (depth <= 16) {
      EXPECT_EQ(got, "[]: 2");
    } else {
      EXPECT_TRUE(Says(got, "INVALID_MODEL"));
      EXPECT_TRUE(Says(got, "graphs nest deeper than 16"));
    }
  }
}

TEST(LoopTest, RunsWhileAConditionOnFloatingValuesHolds) {
  constexpr char kText[] = R"(g (double x) => (double y) {
    ten = Constant <value = double {10}> ()
    go = Less (x, ten)
    y = Loop <body = l (i, go, s) => (go_on, next) {
      next = Mul (s, x)
      go_on = Less (next, ten)
    }> (, go, x)
  })";
  Calls calls;
  EXPECT_EQ(calls.Value(kText, {{"x", Number(3)}}), "[]: 27");
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(3)}}, "x"), "[]: 27");  // of x^3
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(2)}}, "x"), "[]: 32");  // of x^4
  EXPECT_EQ(calls.Gradient(kText, {{"x", Number(11)}}, "x"), "[]: 1");  // no trip
}

TEST(LoopTest, WithoutAConditionInputTheBodysIsIgnored) {
  constexpr char kText[] = R"(g (int64 n, double x) => (double y) {
    y = Loop <body = l (i, go, s) => (no, next) {
      no = Not (go)
      next = Add (s, x)
    }> (n, , x)
  })";
  Calls calls;
  EXPECT_EQ(calls.Value(kText, {{"n", Count(3)}, {"x", Number(2)}}), "[]: 8");
}

TEST(LoopTest, OneThatNeverEndsIsRefusedByName) {
  // A body that adds nothing to the graph, one that does, one that is not all needed.
  const char* const kBodies[] = {
      "l (i, go, s) => (go, s) {}",
      "l (i, go, s) => (go, next) { next = Sin (s) }",
      "l (i, go, s) => (go, next) { next = Add (s, s) unused = Sin (next) }",
  };
  Calls calls;
  for (const char* body : kBodies) {
    const std::string text = absl::StrCat(
        "g (bool c, double x) => (double y) { [forever] y = Loop "
        "<body = ",
        body, "> (, c, x) }");
    const std::string refused = calls.Value(text, {{"c", Truth(true)}, {"x", Number(2)}});
    EXPECT_TRUE(Says(refused, "GRAPH_TOO_LARGE: node 0 \"forever\" (Loop)"));
  }
  const std::string folds = calls.Value(
      R"(g (bool c) => (int64[1000000] y) {
        n = Constant <value = int64[1] {1000000}> ()
        s0 = ConstantOfShape <value = int64[1] {1}> (n)
        y = Loop <body = l (i, go, s) => (go, next) { next = Add (s, i) }> (, c, s0)
      })",
      {{"c", Truth(true)}});
  EXPECT_TRUE(Says(folds, "GRAPH_TOO_LARGE: node 2 (Loop)"));
  const std::string grows = calls.Value(
      R"(g (bool c) => (int64 y) {
        s0 = SequenceEmpty ()
        q = Loop <body = l (i, go, s) => (go, next) { next = SequenceInsert (s, i) }> (, c, s0)
        y = SequenceLength (q)
      })",
      {{"c", Truth(true)}});
  EXPECT_TRUE(Says(grows, "GRAPH_TOO_LARGE: node 1 (Loop)"));
}

TEST(LoopTest, ABodyOfTheWrongArityIsRefused) {
  Calls calls;
  for (const char* body : {"l (i, go) => (go, i) {}", "l (i, go, s, t) => (go, s) {}",
                           "l (i, go, s) => (go) {}", "l () => () {}"}) {
    const std::string text = absl::StrCat(
        "g (int64 n, double x) => (double y) { y = Loop <body = ", body, "> (n, , x) }");
    const std::string refused = calls.Value(text, {{"n", Count(2)}, {"x", Number(2)}});
    EXPECT_TRUE(Says(refused, "INVALID_MODEL: node 0 (Loop): the body has ")) << body;
  }
  const std::string none = calls.Value("g (int64 n, double x) => (double y) { y = Loop (n, , x) }",
                                       {{"n", Count(2)}, {"x", Number(2)}});
  EXPECT_TRUE(Says(none, "attribute body is no graph"));
}

TEST(LoopTest, RandomOpsDrawAnewInEachTrip) {
  // Rows of what a dropout of ones left, in two trips: equal in 1 of 2^64 runs.
  constexpr char kText[] = R"(g (int64 n, double[64] x) => (double y) {
    yes = Equal (n, n)
    last, all = Loop <body = l (i, go, s) => (go, s, r) { r = Dropout (s, , yes) }> (n, , x)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    first = Gather (all, zero)
    second = Gather (all, one)
    difference = Sub (first, second)
    square = Mul (difference, difference)
    y = ReduceSum <keepdims = 0> (square)
  })";
  const Tensor ones = Tensor::FromVector<double>({64}, std::vector<double>(64, 1));
  Calls calls;
  const std::string got = calls.Value(kText, {{"n", Count(2)}, {"x", ones}});
  EXPECT_TRUE(Says(got, "[]: "));
  EXPECT_NE(got, "[]: 0");
}

TEST(LoopTest, WhatDecidesABranchMayNotTakeLongToEvaluate) {
  constexpr char kText[] = R"(g (double[N,N] x) => (double y) {
    square = MatMul (x, x)
    sum = ReduceSum <keepdims = 0> (square)
    zero = Constant <value = double {0}> ()
    c = Less (sum, zero)
    y = If <then_branch = t () => (a) { a = Neg (sum) },
            else_branch = e () => (a) { a = Identity (sum) }> (c)
  })";
  Calls calls;
  const Tensor wide({DType::kDouble, {1500, 1500}});
  EXPECT_TRUE(Says(calls.Value(kText, {{"x", wide}}), "GRAPH_TOO_LARGE: node 4 (If)"));
}

TEST(ScanTest, AHugeBatchOfNothingIsRefused) {
  const std::string model =
      "<ir_version: 8, opset_import: [\"\" : 8]> g (double[B,0] h, double[B,T,0] x) => (double y) {"
      "y = Scan <num_scan_inputs = 1, body = s (a, b) => (c) { c = Add (a, b) }> (, h, x) }";
  Calls calls;
  constexpr int64_t kHuge = int64_t{1} << 40;
  for (const Shape& shape : {Shape{kHuge, 1, 0}, Shape{1, kHuge, 0}}) {
    const Tensor h({DType::kDouble, {shape[0], 0}}), x({DType::kDouble, shape});
    const std::string refused =
        calls.Call(model, {.kind = Computation::kValue}, {{"h", h}, {"x", x}});
    EXPECT_TRUE(Says(refused, "MEMORY_LIMIT: node 0 (Scan)"));
  }
}

TEST(UnrollTest, ARecurrentLayerThatIsTooLongIsRefused) {
  constexpr char kText[] = R"(g (float[T,1,1] x, float[1,4,1] w) => (float[T,1,1,1] y) {
    [memory] y = LSTM (x, w, w)
  })";
  Calls calls;
  const Tensor x({DType::kFloat, {1'000'000, 1, 1}}), w({DType::kFloat, {1, 4, 1}});
  const std::string refused = calls.Value(kText, {{"x", x}, {"w", w}});
  EXPECT_TRUE(Says(refused, "GRAPH_TOO_LARGE: node 0 \"memory\" (LSTM)"));
}

TEST(SequenceTest, IsNoTensor) {
  Calls calls;
  const Inputs inputs = {{"x", Number(2)}};
  EXPECT_TRUE(Says(calls.Value("g (double x) => (y) { y = SequenceConstruct (x) }", inputs),
                   "UNSUPPORTED_OP"));
  for (const char* use : {"Neg (s)", "Add (x, s)", "Concat <axis = 0> (s, s)", "Shape (s)",
                          "Sum (x, s)", "SequenceAt (x, x)", "Reshape (s, s)"}) {
    const std::string text =
        absl::StrCat("g (double x) => (y) { s = SequenceConstruct (x) y = ", use, " }");
    EXPECT_TRUE(Says(calls.Value(text, inputs), "INVALID_MODEL: node 1 (")) << use;
  }
}

TEST(SequenceTest, PositionsOutsideAreRefused) {
  Calls calls;
  for (const int64_t at : {int64_t{2}, int64_t{-3}, INT64_MIN, INT64_MAX}) {
    const std::string refused = calls.Value(
        "g (double x, int64 i) => (y) { s = SequenceConstruct (x, x) y = SequenceAt (s, i) }",
        {{"x", Number(2)}, {"i", Count(at)}});
    EXPECT_TRUE(Says(refused, "SHAPE_MISMATCH: node 1 (SequenceAt)"));
  }
  const std::string empty = calls.Value(
      "g (double x, int64 i) => (y) { s = SequenceEmpty () t = SequenceErase (s) "
      "y = SequenceLength (t) }",
      {{"x", Number(2)}, {"i", Count(0)}});
  EXPECT_TRUE(Says(empty, "node 1 (SequenceErase)"));
}

TEST(FunctionTest, BodiesInAFunctionSeeItsNamesAndAttributes) {
  constexpr char kText[] = R"(g (bool c, double x) => (double y) {
    v = local.pick <to = 11> (c, x)
    w = local.pick <to = 11> (c, v)
    y = Identity (w)
  }
  <domain: "local", opset_import: ["" : 18]>
  pick <to> (which, in) => (out) {
    k = Neg (in)
    out = If <then_branch = t () => (a) {
                a = If <then_branch = u () => (b) { d = Mul (in, k) b = Cast <to = @to> (d) },
                        else_branch = v () => (b) { b = Identity (k) }> (which)
              }, else_branch = e () => (a) { a = Sin (in) }> (which)
  })";
  Calls calls;
  EXPECT_EQ(calls.Value(kText, {{"c", Truth(true)}, {"x", Number(2)}}), "[]: -16");
}

}  // namespace
}  // namespace gradwire
