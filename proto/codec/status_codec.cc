#include "proto/codec/status_codec.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/status.h"
#include "google/rpc/error_details.pb.h"

namespace gradwire::codec {
namespace {

constexpr int kRetryDelaySeconds = 1;
constexpr size_t kMaxFieldBytes = 256;
constexpr size_t kMaxDescriptionBytes = 768;

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 where there is none.
size_t Utf8Length(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what lies beyond U+10FFFF show in the second byte.
  if (first == 0xE0 && byte(1) < 0xA0) return 0;
  if (first == 0xED && byte(1) > 0x9F) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;
  if (first == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

// At most `limit` bytes of `text`, as UTF-8, ending in "..." where something was cut.
std::string Clean(absl::string_view text, size_t limit) {
  const bool cut = text.size() > limit;
  const size_t end = cut ? limit - 3 : text.size();
  std::string out;
  out.reserve(std::min(text.size(), limit));
  for (size_t i = 0; i < end;) {
    const size_t length = Utf8Length(text.substr(i));
    if (i + length > end) break;
    if (length == 0) {
      out += '?';
      ++i;
    } else {
      out.append(text.data() + i, length);
      i += length;
    }
  }
  if (cut) out += "...";
  return out;
}

// Bytes of `message` in the trailer grpc-message.
size_t PercentEncodedSize(absl::string_view message) {
  size_t size = 0;
  for (const char c : message) size += c < ' ' || c > '~' || c == '%' ? 3 : 1;
  return size;
}

// The violations, in order, as far as `budget` bytes go.
google::rpc::BadRequest Encode(const std::vector<Violation>& violations, size_t budget) {
  google::rpc::BadRequest out;
  size_t used = 0;
  for (const Violation& v : violations) {
    google::rpc::BadRequest::FieldViolation one;
    one.set_field(Clean(v.where, kMaxFieldBytes));
    one.set_description(Clean(v.what, kMaxDescriptionBytes));
    used += one.ByteSizeLong() + 4;  // and its tag and length
    if (used > budget) break;
    *out.add_field_violations() = std::move(one);
  }
  return out;
}

google::rpc::ErrorInfo InfoOf(const std::string& reason) {
  google::rpc::ErrorInfo info;
  info.set_domain(kErrorDomain);
  info.set_reason(reason);
  return info;
}

}  // namespace

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status out;
  if (status.ok()) return out;
  out.set_code(static_cast<int>(status.code()));
  out.set_message(Clean(status.message(), kMaxMessageBytes));

  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetryDelaySeconds);
  const std::string reason = ReasonNameOf(status);
  google::rpc::ErrorInfo info = InfoOf(reason);
  const std::vector<Violation> violations = ViolationsOf(status);
  google::rpc::BadRequest places;
  if (!violations.empty()) {
    // 256 bytes for everything else in the details: type names, reason, metadata, delay.
    const size_t base64 = kMaxTrailerBytes - PercentEncodedSize(out.message());
    const size_t fixed = out.ByteSizeLong() + 256;
    const size_t details = base64 / 4 * 3;
    places = Encode(violations, details > fixed ? details - fixed : 0);
    const size_t left_out = violations.size() - static_cast<size_t>(places.field_violations_size());
    if (left_out > 0) (*info.mutable_metadata())[kViolationsOmittedKey] = absl::StrCat(left_out);
  }
  if (!reason.empty()) out.add_details()->PackFrom(info);
  if (places.field_violations_size() > 0) out.add_details()->PackFrom(places);
  if (status.code() == absl::StatusCode::kResourceExhausted) out.add_details()->PackFrom(retry);
  return out;
}

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  std::string reason;
  std::vector<Violation> violations;
  for (const google::protobuf::Any& detail : status.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest places;
    if (detail.UnpackTo(&info) && info.domain() == kErrorDomain) {
      reason = info.reason();
    } else if (detail.UnpackTo(&places)) {
      for (const auto& v : places.field_violations()) {
        violations.push_back({v.field(), v.description()});
      }
    }
  }
  const bool known = status.code() > 0 && status.code() <= 16;
  absl::Status out(
      known ? static_cast<absl::StatusCode>(status.code()) : absl::StatusCode::kUnknown,
      status.message());
  if (reason.empty()) return out;
  // How a status carries reason and violations is known to engine/base only: take it from a status
  // made there, and put in the name that was received, which need not be one of ours.
  constexpr Reason kModel = Reason::kInvalidModel;
  Error(kModel, "", violations).ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    out.SetPayload(url, value == ReasonName(kModel) ? absl::Cord(reason) : value);
  });
  return out;
}

}  // namespace gradwire::codec
