// Messages in and out of gRPC's byte buffers, on whatever thread is free, with no copy beyond the
// one that protobuf makes.
#ifndef GRADWIRE_SERVER_RPC_WIRE_H_
#define GRADWIRE_SERVER_RPC_WIRE_H_

#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/map.h"
#include "google/protobuf/message.h"
#include "gradwire/v1/gradient_service.pb.h"

namespace gradwire::rpc {

using TensorProtos = google::protobuf::Map<std::string, v1::Tensor>;

// Above this many bytes protobuf no longer trusts a length it reads: it grows a string step by
// step, and so holds a large one twice. Larger requests are read by ParseLarge.
inline constexpr size_t kLargeRequestBytes = 50'000'000;

// Parses a request and frees the buffer. INVALID_SPEC where the bytes are no such message.
absl::Status Parse(grpc::ByteBuffer* buffer, google::protobuf::Message* request);

// The same for a request with the fields `model` and `inputs`, whose tensors and model bytes are
// reserved at once. Whatever the sizes, the result is that of Parse.
absl::Status ParseLarge(grpc::ByteBuffer* buffer, google::protobuf::Message* request,
                        v1::Model* model, TensorProtos* inputs);

// Serializes a reply.
absl::Status Serialize(const google::protobuf::Message& response, grpc::ByteBuffer* buffer);

}  // namespace gradwire::rpc

#endif  // GRADWIRE_SERVER_RPC_WIRE_H_
