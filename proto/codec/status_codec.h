// File: status_codec.h
//
// Gradwire's absl::Status, with its reason and violations, <-> google.rpc.Status, which travels in
// the trailer grpc-status-details-bin. The server encodes, the client decodes; no gRPC is in here.
//
//   google::rpc::Status wire = codec::ToRpcStatus(status);
//   grpc::Status(static_cast<grpc::StatusCode>(wire.code()), wire.message(),
//                wire.SerializeAsString());
//
//   google::rpc::Status wire;                       // at the client
//   if (wire.ParseFromString(grpc_status.error_details())) status = codec::FromRpcStatus(wire);
//
// Thread-safety: both functions are pure.
#ifndef GRADWIRE_PROTO_CODEC_STATUS_CODEC_H_
#define GRADWIRE_PROTO_CODEC_STATUS_CODEC_H_

#include <cstddef>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace gradwire::codec {

// ErrorInfo.domain of all our errors.
inline constexpr char kErrorDomain[] = "gradwire";

// ErrorInfo.metadata key: how many violations were left out for size, in decimal.
inline constexpr char kViolationsOmittedKey[] = "violations_omitted";

// What an error may take in the trailers: the message, percent-encoded, and the serialized details,
// which peers other than gRPC's C core receive in base64. gRPC drops calls whose trailers grow past
// 8 KiB; the rest is left to gRPC and proxies. Of the details at most about 5 KiB remain.
inline constexpr size_t kMaxTrailerBytes = 7 * 1024;

// Code and message of `status`, and as details
// - one ErrorInfo {domain "gradwire", reason} where the status carries a reason;
// - one BadRequest with a FieldViolation {field: where, description: what} per violation, in order,
//   as many as fit kMaxTrailerBytes; a single one is cut at 1 KiB;
// - one RetryInfo where the code is RESOURCE_EXHAUSTED.
// The message is cut at kMaxMessageBytes. Bytes that are not UTF-8 (names of a crafted model)
// become '?', since protobuf strings cannot hold them. OK gives an empty google.rpc.Status.
google::rpc::Status ToRpcStatus(const absl::Status& status);

// The inverse: code, message, reason (of any name: a newer server may know more of them) and
// violations, to be read with ReasonNameOf() and ViolationsOf(). Details of other domains and types
// are ignored; a code that is none of absl's becomes UNKNOWN.
absl::Status FromRpcStatus(const google::rpc::Status& status);

}  // namespace gradwire::codec

#endif  // GRADWIRE_PROTO_CODEC_STATUS_CODEC_H_
