#include "server/core/gradient_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "google/protobuf/text_format.h"

namespace gradwire::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

std::vector<double> Doubles(const v1::Tensor& tensor) {
  EXPECT_EQ(tensor.data_type(), v1::DOUBLE);
  std::vector<double> out(tensor.data().size() / sizeof(double));
  std::memcpy(out.data(), tensor.data().data(), tensor.data().size());
  return out;
}

constexpr char kSeed[] = R"pb(
  model { expression: "x^2*y + y^3" }
  inputs {
    key: "x"
    value { values: 2 }
  }
  inputs {
    key: "y"
    value { values: 3 }
  }
)pb";

constexpr char kVector[] = R"pb(
  model { expression: "x^3 + 0*y" }
  inputs {
    key: "x"
    value {
      shape: 2
      values: [ 1, 2 ]
    }
  }
  inputs {
    key: "y"
    value {
      shape: 2
      values: [ 5, 6 ]
    }
  }
)pb";

class GradientCoreTest : public ::testing::Test {
 protected:
  static Engine& engine() {
    static Engine& engine =
        *new Engine({.threads = 1, .self_check = EngineOptions::SelfCheck::kNever});
    return engine;
  }

  // Runs one call; `reply` is the response.
  template <typename Request, typename Response>
  absl::Status Run(absl::Status (GradientCore::*method)(const Request&, Response*, Call&),
                   const std::string& request, Response* reply) {
    Call call;
    call.cancel = &cancel_;
    call.workspace = &workspace_;
    call.memory = Reservation(&admission_);
    const Request parsed = FromText<Request>(request);
    core_.IsQuick(parsed, call);
    return (core_.*method)(parsed, reply, call);
  }

  Admission admission_{int64_t{1} << 26};
  Workspace workspace_{&admission_, int64_t{1} << 24};
  GradientCore core_{&engine(), {.max_message_bytes = int64_t{1} << 22}};
  CancelToken cancel_;
};

TEST_F(GradientCoreTest, AnswersValueAndGradient) {
  v1::ComputeGradientResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeGradient, kSeed, &reply), absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(39));
  EXPECT_THAT(Doubles(reply.gradients().at("x")), ElementsAre(12));
  EXPECT_THAT(Doubles(reply.gradients().at("y")), ElementsAre(31));
  EXPECT_EQ(reply.info().engine_version(), Engine::version());
  EXPECT_EQ(reply.info().plan_digest().size(), 32u);
}

TEST_F(GradientCoreTest, TheSecondCallFindsTheProgramAndIsQuick) {
  const auto request =
      FromText<v1::ComputeGradientRequest>(std::string(kSeed) + "options { precision: DOUBLE }");
  Call call;
  EXPECT_FALSE(core_.IsQuick(request, call));
  v1::ComputeGradientResponse first, second;
  const std::string text = std::string(kSeed) + "options { precision: DOUBLE }";
  ASSERT_EQ(Run(&GradientCore::ComputeGradient, text, &first), absl::OkStatus());
  // The first call compiles, which on a slow machine makes it no example of a quick one.
  for (int i = 0; i < 20 && (i == 0 || !core_.IsQuick(request, call)); ++i) {
    ASSERT_EQ(Run(&GradientCore::ComputeGradient, text, &second), absl::OkStatus());
    EXPECT_TRUE(second.info().cache_hit());
  }
  EXPECT_TRUE(core_.IsQuick(request, call));
  EXPECT_EQ(first.info().plan_digest(), second.info().plan_digest());
}

TEST_F(GradientCoreTest, WrtAndReadableAreHonoured) {
  v1::ComputeGradientResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeGradient,
                std::string(kSeed) + "wrt: 'y' wrt: 'y' options { readable: true }", &reply),
            absl::OkStatus());
  ASSERT_EQ(reply.gradients_size(), 1);
  EXPECT_THAT(reply.gradients().at("y").values(), ElementsAre(31));
  EXPECT_TRUE(reply.gradients().at("y").data().empty());
}

TEST_F(GradientCoreTest, PrecisionConvertsInputs) {
  v1::ComputeGradientResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeGradient,
                std::string(kSeed) + "options { precision: FLOAT readable: true }", &reply),
            absl::OkStatus());
  EXPECT_EQ(reply.value().data_type(), v1::FLOAT);
  EXPECT_THAT(reply.value().values(), ElementsAre(39));
}

TEST_F(GradientCoreTest, EvaluateAnswersAnyValueByName) {
  v1::EvaluateResponse reply;
  ASSERT_EQ(Run(&GradientCore::Evaluate, R"pb(
                  model { expression: "u = x*2; u + 1" }
                  inputs {
                    key: "x"
                    value { values: 5 }
                  }
                  outputs: "u"
                  outputs: "f"
                  outputs: "u")pb",
                &reply),
            absl::OkStatus());
  ASSERT_EQ(reply.outputs_size(), 2);
  EXPECT_THAT(Doubles(reply.outputs().at("u")), ElementsAre(10));
  EXPECT_THAT(Doubles(reply.outputs().at("f")), ElementsAre(11));
}

TEST_F(GradientCoreTest, VjpTakesManyCotangentsAndZerosForAbsentOnes) {
  v1::ComputeVjpResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeVjp, std::string(kVector) + R"pb(
                  cotangents {
                    tensors {
                      key: "f"
                      value {
                        shape: 2
                        values: [ 1, 0 ]
                      }
                    }
                  }
                  cotangents {}
                  cotangents {
                    tensors {
                      key: "f"
                      value {
                        shape: 2
                        values: [ 0, 10 ]
                      }
                    }
                  })pb",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.outputs().at("f")), ElementsAre(1, 8));
  ASSERT_EQ(reply.gradients_size(), 3);
  EXPECT_THAT(Doubles(reply.gradients(0).tensors().at("x")), ElementsAre(3, 0));
  EXPECT_THAT(Doubles(reply.gradients(1).tensors().at("x")), ElementsAre(0, 0));
  EXPECT_THAT(Doubles(reply.gradients(2).tensors().at("x")), ElementsAre(0, 120));
  for (int k = 0; k < 3; ++k) {
    EXPECT_THAT(Doubles(reply.gradients(k).tensors().at("y")), ElementsAre(0, 0)) << k;
  }
}

TEST_F(GradientCoreTest, JvpDifferentiatesByTheNamesThatCarryTangents) {
  v1::ComputeJvpResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeJvp, std::string(kSeed) + R"pb(
                  tangents {
                    tensors {
                      key: "x"
                      value { values: 1 }
                    }
                  }
                  tangents {
                    tensors {
                      key: "y"
                      value { values: 2 }
                    }
                  })pb",
                &reply),
            absl::OkStatus());
  ASSERT_EQ(reply.tangents_size(), 2);
  EXPECT_THAT(Doubles(reply.outputs().at("f")), ElementsAre(39));
  EXPECT_THAT(Doubles(reply.tangents(0).tensors().at("f")), ElementsAre(12));
  EXPECT_THAT(Doubles(reply.tangents(1).tensors().at("f")), ElementsAre(62));
}

TEST_F(GradientCoreTest, HvpAnswersEveryVectorOnOneGradient) {
  v1::ComputeHvpResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeHvp, R"pb(
                  model { expression: "(1-x)^2 + 100*(y-x^2)^2" }
                  inputs {
                    key: "x"
                    value { values: 1 }
                  }
                  inputs {
                    key: "y"
                    value { values: 2 }
                  }
                  vectors {
                    tensors {
                      key: "x"
                      value { values: 1 }
                    }
                  }
                  vectors {
                    tensors {
                      key: "y"
                      value { values: 1 }
                    }
                  })pb",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(100));
  EXPECT_THAT(Doubles(reply.gradients().at("x")), ElementsAre(-400));
  EXPECT_THAT(Doubles(reply.products(0).tensors().at("x")), ElementsAre(402));
  EXPECT_THAT(Doubles(reply.products(0).tensors().at("y")), ElementsAre(-400));
  EXPECT_THAT(Doubles(reply.products(1).tensors().at("x")), ElementsAre(-400));
  EXPECT_THAT(Doubles(reply.products(1).tensors().at("y")), ElementsAre(200));
}

TEST_F(GradientCoreTest, HvpOfCotangentsSumsOverTheOutputs) {
  v1::ComputeHvpResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeHvp, R"pb(
                  model { expression: "u = x^2; v = x^3; return u, v" }
                  inputs {
                    key: "x"
                    value { values: 2 }
                  }
                  cotangents {
                    tensors {
                      key: "v"
                      value { values: 10 }
                    }
                  }
                  vectors {
                    tensors {
                      key: "x"
                      value { values: 1 }
                    }
                  })pb",
                &reply),
            absl::OkStatus());
  EXPECT_THAT(Doubles(reply.value()), ElementsAre(80));
  EXPECT_EQ(reply.value().shape_size(), 0);
  EXPECT_THAT(Doubles(reply.gradients().at("x")), ElementsAre(120));
  EXPECT_THAT(Doubles(reply.products(0).tensors().at("x")), ElementsAre(120));
}

TEST_F(GradientCoreTest, CancelledCallsDoNotCompute) {
  cancel_.Cancel();
  v1::ComputeGradientResponse reply;
  EXPECT_TRUE(absl::IsCancelled(Run(&GradientCore::ComputeGradient, kSeed, &reply)));
}

TEST_F(GradientCoreTest, GivesBackWhatItReserved) {
  v1::ComputeGradientResponse reply;
  ASSERT_EQ(Run(&GradientCore::ComputeGradient, kSeed, &reply), absl::OkStatus());
  EXPECT_EQ(admission_.reserved_bytes(), workspace_.reserved_bytes());
}

TEST_F(GradientCoreTest, RefusesFieldsThatItDoesNotKnow) {
  auto request = FromText<v1::EvaluateRequest>(kSeed);
  request.GetReflection()->MutableUnknownFields(request.mutable_options())->AddVarint(99, 1);
  Call call;
  call.workspace = &workspace_;
  call.memory = Reservation(&admission_);
  v1::EvaluateResponse reply;
  const absl::Status status = core_.Evaluate(request, &reply, call);
  EXPECT_TRUE(HasReason(status, Reason::kInvalidSpec)) << status;
}

TEST_F(GradientCoreTest, RefusesRepliesThatCannotBeSent) {
  v1::EvaluateResponse reply;
  const std::string text = R"pb(
    model {
      text: "<ir_version: 8, opset_import: [\"\" : 17]> g (double[N] x) => (double[M] y) { s = Constant<value_ints = [1000000]>() y = Expand(x, s) }"
    }
    inputs {
      key: "x"
      value { shape: 1 values: 1 }
    })pb";
  const absl::Status status = Run(&GradientCore::Evaluate, text, &reply);
  EXPECT_TRUE(HasReason(status, Reason::kResultTooLarge)) << status;
}

// One wrong request each: the rpc's name says which request it is.
struct Refusal {
  std::string name;
  std::string request;
  Reason reason;
  std::string part_of_message;
};

class RefusedTest : public GradientCoreTest {
 protected:
  template <typename Request, typename Response>
  void Expect(absl::Status (GradientCore::*method)(const Request&, Response*, Call&),
              const std::vector<Refusal>& rows) {
    for (const Refusal& row : rows) {
      Response reply;
      const absl::Status status = Run(method, row.request, &reply);
      EXPECT_TRUE(HasReason(status, row.reason)) << row.name << ": " << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(row.part_of_message)) << row.name;
    }
  }
};

TEST_F(RefusedTest, Evaluate) {
  const std::string model = "model { expression: 'x + 1' }";
  const std::string x = "inputs { key: 'x' value { values: 1 } }";
  Expect(
      &GradientCore::Evaluate,
      {{"no source", x, Reason::kInvalidModel, "model"},
       {"syntax", x + "model { expression: 'x +' }", Reason::kInvalidModel, "column"},
       {"bytes", "model { onnx: '\\377\\377\\377' }", Reason::kInvalidModel, ""},
       {"missing input", model, Reason::kMissingInput, "inputs.x"},
       {"unknown input", model + x + "inputs { key: 'z' value { values: 1 } }",
        Reason::kUnknownInput, "inputs.z"},
       {"unknown output", model + x + "outputs: 'nope'", Reason::kUnknownOutput, "nope"},
       {"bytes of a tensor", model + "inputs { key: 'x' value { data_type: FLOAT data: 'abc' } }",
        Reason::kInvalidTensor, "inputs.x"},
       {"mode", model + x + "options { mode: 7 }", Reason::kInvalidSpec, "options.mode"}});
}

TEST_F(RefusedTest, Gradient) {
  const std::string vector =
      "model { expression: 'x + 1' } inputs { key: 'x' value { shape: 2 values: [1, 2] } }";
  Expect(&GradientCore::ComputeGradient,
         {{"vector", vector, Reason::kNotScalar, ""},
          {"wrt", std::string(kSeed) + "wrt: 'nope'", Reason::kUnknownWrt, "nope"},
          {"output", std::string(kSeed) + "output: 'nope'", Reason::kUnknownOutput, "nope"}});
}

TEST_F(RefusedTest, Vectors) {
  const std::string seed = kSeed;
  Expect(
      &GradientCore::ComputeVjp,
      {{"none", seed, Reason::kInvalidSpec, "cotangents"},
       {"name", seed + "cotangents { tensors { key: 'x' value { values: 1 } } }",
        Reason::kUnknownOutput, "cotangents[0].x"},
       {"shape",
        seed + "cotangents {} cotangents { tensors { key: 'f' value { shape: 1 values: 1 } } }",
        Reason::kShapeMismatch, "cotangents[1].f"},
       {"type", seed + "cotangents { tensors { key: 'f' value { data_type: FLOAT values: 1 } } }",
        Reason::kDtypeUnsupported, "cotangents[0].f"}});
  Expect(&GradientCore::ComputeJvp,
         {{"none", seed, Reason::kInvalidSpec, "tangents"},
          {"name", seed + "tangents { tensors { key: 'f' value { values: 1 } } }",
           Reason::kUnknownInput, "tangents[0].f"}});
  const std::string vector = "vectors { tensors { key: 'y' value { values: 1 } } }";
  Expect(&GradientCore::ComputeHvp,
         {{"none", seed, Reason::kInvalidSpec, "vectors"},
          {"name", seed + vector + "wrt: 'x'", Reason::kUnknownWrt, "vectors[0].y"},
          {"both", seed + vector + "output: 'f' cotangents {}", Reason::kInvalidSpec, "both"},
          {"cotangent", seed + vector + "cotangents { tensors { key: 'q' value { values: 1 } } }",
           Reason::kUnknownOutput, "cotangents.q"}});
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

std::string InputX(const std::string& shape, const std::vector<double>& values) {
  std::string text = absl::StrCat("inputs { key: 'x' value { ", shape);
  for (const double v : values) absl::StrAppend(&text, " values: ", v);
  return text + " } }";
}

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

TEST_F(GradientCoreTest, NamesEveryBadTensorAtOnce) {
  v1::EvaluateResponse reply;
  const absl::Status status = Run(&GradientCore::Evaluate, R"pb(
                                    model { expression: "x + y" }
                                    inputs {
                                      key: "x"
                                      value { shape: -1 values: 1 }
                                    }
                                    inputs {
                                      key: "y"
                                      value { shape: 3 values: 1 }
                                    })pb",
                                  &reply);
  std::vector<std::string> places;
  for (const Violation& v : ViolationsOf(status)) places.push_back(v.where);
  EXPECT_THAT(places, ::testing::UnorderedElementsAre("inputs.x", "inputs.y"));
}

}  // namespace
}  // namespace gradwire::server
