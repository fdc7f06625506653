// What the tests of GradientCore share: requests as text, and the core to run them.
#ifndef GRADWIRE_TESTS_UNIT_SERVER_GRADIENT_CORE_TESTING_H_
#define GRADWIRE_TESTS_UNIT_SERVER_GRADIENT_CORE_TESTING_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/text_format.h"
#include "server/core/gradient_core.h"

namespace gradwire::server {
template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

inline std::vector<double> Doubles(const v1::Tensor& tensor) {
  EXPECT_EQ(tensor.data_type(), v1::DOUBLE);
  std::vector<double> out(tensor.data().size() / sizeof(double));
  std::memcpy(out.data(), tensor.data().data(), tensor.data().size());
  return out;
}

inline constexpr char kSeed[] = R"pb(
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

inline constexpr char kVector[] = R"pb(
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
      EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(row.part_of_message))
          << row.name;
    }
  }
};

}  // namespace gradwire::server

#endif  // GRADWIRE_TESTS_UNIT_SERVER_GRADIENT_CORE_TESTING_H_
