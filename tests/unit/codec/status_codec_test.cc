#include "proto/codec/status_codec.h"

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace gradwire::codec {
namespace {

// The details of type M.
template <typename M>
std::vector<M> DetailsOf(const google::rpc::Status& status) {
  std::vector<M> out;
  for (const auto& any : status.details()) {
    M message;
    if (any.UnpackTo(&message)) out.push_back(message);
  }
  return out;
}

// As the client gets it: through bytes.
absl::Status ThroughTheWire(const absl::Status& status) {
  google::rpc::Status wire;
  EXPECT_TRUE(wire.ParseFromString(ToRpcStatus(status).SerializeAsString()));
  return FromRpcStatus(wire);
}

std::vector<Violation> Many(int count, const std::string& what) {
  std::vector<Violation> out;
  for (int i = 0; i < count; ++i) out.push_back({absl::StrCat("node ", i), what});
  return out;
}

// Trailers as a peer without binary metadata gets them.
size_t TrailerBytes(const google::rpc::Status& status) {
  size_t message = 0;
  for (const char c : status.message()) message += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
  return message + absl::Base64Escape(status.SerializeAsString()).size();
}

TEST(ToRpcStatusTest, OkIsEmpty) {
  EXPECT_EQ(ToRpcStatus(absl::OkStatus()).ByteSizeLong(), 0u);
  EXPECT_TRUE(FromRpcStatus(google::rpc::Status()).ok());
}

TEST(ToRpcStatusTest, CarriesOneErrorInfoForEveryReason) {
  for (const ReasonInfo& reason : AllReasons()) {
    const google::rpc::Status wire = ToRpcStatus(Error(reason.reason, "text"));
    EXPECT_EQ(wire.code(), static_cast<int>(reason.code));
    EXPECT_EQ(wire.message(), "text");
    const auto infos = DetailsOf<google::rpc::ErrorInfo>(wire);
    ASSERT_EQ(infos.size(), 1u) << reason.name;
    EXPECT_EQ(infos[0].domain(), "gradwire");
    EXPECT_EQ(infos[0].reason(), reason.name);
    EXPECT_EQ(infos[0].metadata_size(), 0);
  }
}

TEST(ToRpcStatusTest, CarriesRetryInfoOnlyWhereResourcesAreExhausted) {
  for (const ReasonInfo& reason : AllReasons()) {
    const auto retries = DetailsOf<google::rpc::RetryInfo>(ToRpcStatus(Error(reason.reason, "")));
    ASSERT_EQ(retries.size(), reason.code == absl::StatusCode::kResourceExhausted ? 1u : 0u);
    for (const auto& retry : retries) EXPECT_GT(retry.retry_delay().seconds(), 0);
  }
}

TEST(ToRpcStatusTest, WithoutReasonThereAreNoDetails) {
  for (const absl::Status& status : {absl::CancelledError("gone"), absl::InternalError("oops")}) {
    EXPECT_EQ(ToRpcStatus(status).details_size(), 0);
    EXPECT_EQ(ThroughTheWire(status), status);
  }
}

TEST(ToRpcStatusTest, ListsEveryViolation) {
  const std::vector<Violation> violations = {{"node 7 \"fc1\" (MatMul)", "inner dimensions differ"},
                                             {"inputs.x", "wrong count"}};
  const auto places = DetailsOf<google::rpc::BadRequest>(
      ToRpcStatus(Error(Reason::kShapeMismatch, "2 problems", violations)));
  ASSERT_EQ(places.size(), 1u);
  ASSERT_EQ(places[0].field_violations_size(), 2);
  EXPECT_EQ(places[0].field_violations(0).field(), "node 7 \"fc1\" (MatMul)");
  EXPECT_EQ(places[0].field_violations(0).description(), "inner dimensions differ");
  EXPECT_EQ(places[0].field_violations(1).field(), "inputs.x");
}

TEST(ToRpcStatusTest, LeavesViolationsOutThatTrailersCannotHoldAndCountsThem) {
  for (const std::string& message : {std::string("short"), std::string(5000, 'm'),
                                     std::string(5000, '\n'), std::string(5000, '%')}) {
    for (const size_t length : {1, 30, 100, 700, 5000}) {
      const google::rpc::Status wire =
          ToRpcStatus(Error(Reason::kUnsupportedOp, message, Many(1000, std::string(length, 'v'))));
      EXPECT_LE(TrailerBytes(wire), kMaxTrailerBytes) << length;
      const auto places = DetailsOf<google::rpc::BadRequest>(wire);
      ASSERT_EQ(places.size(), 1u);
      EXPECT_GE(places[0].field_violations_size(), 1);
      const auto infos = DetailsOf<google::rpc::ErrorInfo>(wire);
      ASSERT_EQ(infos.size(), 1u);
      int omitted = 0;
      ASSERT_TRUE(absl::SimpleAtoi(infos[0].metadata().at(kViolationsOmittedKey), &omitted));
      EXPECT_EQ(omitted + places[0].field_violations_size(), 1000);
    }
  }
}

TEST(ToRpcStatusTest, UsesMostOfTheTrailers) {
  const google::rpc::Status wire =
      ToRpcStatus(Error(Reason::kUnsupportedOp, "short", Many(1000, "what is wrong with it")));
  EXPECT_GE(TrailerBytes(wire), kMaxTrailerBytes * 9 / 10);
}

TEST(ToRpcStatusTest, CutsLongMessagesThatCarryNoReason) {
  const google::rpc::Status wire = ToRpcStatus(absl::InternalError(std::string(100000, 'm')));
  EXPECT_EQ(wire.message().size(), kMaxMessageBytes);
  EXPECT_TRUE(absl::EndsWith(wire.message(), "m..."));
}

TEST(ToRpcStatusTest, ReplacesBytesThatAreNotUtf8) {
  const std::string bad = "a\xff\xc0\x80z\xc3\xa9\xe2\x82";  // é is well-formed, the rest is not
  const google::rpc::Status wire = ToRpcStatus(Error(Reason::kInvalidModel, bad, {{bad, bad}}));
  EXPECT_EQ(wire.message(), "a???z\xc3\xa9??");
  const auto places = DetailsOf<google::rpc::BadRequest>(wire);
  ASSERT_EQ(places.size(), 1u);
  EXPECT_EQ(places[0].field_violations(0).field(), "a???z\xc3\xa9??");
  EXPECT_EQ(places[0].field_violations(0).description(), "a???z\xc3\xa9??");
}

TEST(ToRpcStatusTest, RefusesOverlongAndSurrogateUtf8) {
  EXPECT_EQ(ToRpcStatus(absl::InternalError("\xe0\x80\x80")).message(), "???");
  EXPECT_EQ(ToRpcStatus(absl::InternalError("\xed\xa0\x80")).message(), "???");
  EXPECT_EQ(ToRpcStatus(absl::InternalError("\xf4\x90\x80\x80")).message(), "????");
  EXPECT_EQ(ToRpcStatus(absl::InternalError("\xf0\x9f\x98\x80")).message(), "\xf0\x9f\x98\x80");
}

TEST(FromRpcStatusTest, RestoresReasonAndViolations) {
  for (const ReasonInfo& reason : AllReasons()) {
    const absl::Status status =
        Error(reason.reason, "two places", {{"node 1", "wrong"}, {"node 2", "worse"}});
    const absl::Status back = ThroughTheWire(status);
    EXPECT_EQ(back, status);  // compares payloads too
    EXPECT_TRUE(HasReason(back, reason.reason));
    EXPECT_EQ(ViolationsOf(back), ViolationsOf(status));
  }
}

TEST(FromRpcStatusTest, KeepsReasonsOfANewerServer) {
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(absl::StatusCode::kAborted));
  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason("STALE_STEP");
  wire.add_details()->PackFrom(info);
  const absl::Status status = FromRpcStatus(wire);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ReasonNameOf(status), "STALE_STEP");
  EXPECT_TRUE(ViolationsOf(status).empty());
}

TEST(FromRpcStatusTest, IgnoresDetailsOfOthers) {
  google::rpc::Status wire;
  wire.set_code(14);
  wire.set_message("proxy");
  google::rpc::ErrorInfo info;
  info.set_domain("example.com");
  info.set_reason("DRAINING");
  wire.add_details()->PackFrom(info);
  auto* unknown = wire.add_details();
  unknown->set_type_url("type.googleapis.com/example.Unknown");
  unknown->set_value("\xff\xff");
  auto* broken = wire.add_details();
  broken->set_type_url("type.googleapis.com/google.rpc.BadRequest");
  broken->set_value("\xff\xff");
  EXPECT_EQ(FromRpcStatus(wire), absl::UnavailableError("proxy"));
}

TEST(FromRpcStatusTest, CodesThatNobodyKnowsAreUnknown) {
  for (int code : {-1, 17, 1000}) {
    google::rpc::Status wire;
    wire.set_code(code);
    EXPECT_EQ(FromRpcStatus(wire).code(), absl::StatusCode::kUnknown);
  }
}

}  // namespace
}  // namespace gradwire::codec
