#include "tests/unit/server/gradient_core_testing.h"

namespace gradwire::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
