#include "server/rpc/wire.h"

#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "google/protobuf/arena.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"

namespace gradwire::rpc {
namespace {

using google::protobuf::Message;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;
using google::protobuf::io::StringOutputStream;
using Wire = google::protobuf::internal::WireFormatLite;

absl::Status NotA(const Message& request) {
  return Error(Reason::kInvalidSpec,
               absl::StrCat("the bytes of the request are no ", request.GetTypeName()));
}

// Reads the fields of one message up to the limit of `in`: `take` reads those it knows and sets
// *taken; the rest is left to protobuf.
template <typename Take>
bool ReadFields(CodedInputStream* in, Message* message, const Take& take) {
  std::string rest;
  {
    StringOutputStream to(&rest);
    CodedOutputStream out(&to);
    while (const uint32_t tag = in->ReadTag()) {
      bool taken = false;
      if (Wire::GetTagWireType(tag) == Wire::WIRETYPE_LENGTH_DELIMITED &&
          !take(Wire::GetTagFieldNumber(tag), &taken)) {
        return false;
      }
      if (!taken && !Wire::SkipField(in, tag, &out)) return false;
    }
    if (!in->ConsumedEntireMessage() && in->BytesUntilLimit() != 0) return false;
  }
  return message->MergeFromString(rest);
}

// Reads a length, then that many bytes through `read`.
template <typename Read>
bool ReadSized(CodedInputStream* in, const Read& read) {
  uint32_t size;
  if (!in->ReadVarint32(&size) || size > INT32_MAX) return false;
  const CodedInputStream::Limit limit = in->PushLimit(static_cast<int>(size));
  if (in->BytesUntilLimit() != static_cast<int>(size) || !read()) return false;
  const bool all = in->BytesUntilLimit() == 0;
  in->PopLimit(limit);
  return all;
}

bool ReadBytes(CodedInputStream* in, std::string* to) {
  uint32_t size;
  return in->ReadVarint32(&size) && size <= INT32_MAX && in->ReadString(to, static_cast<int>(size));
}

bool ReadTensor(CodedInputStream* in, v1::Tensor* tensor) {
  return ReadFields(in, tensor, [&](int field, bool* taken) {
    *taken = field == v1::Tensor::kDataFieldNumber;
    return !*taken || ReadBytes(in, tensor->mutable_data());
  });
}

bool ReadModel(CodedInputStream* in, v1::Model* model) {
  return ReadFields(in, model, [&](int field, bool* taken) {
    *taken = field == v1::Model::kOnnxFieldNumber;
    return !*taken || ReadBytes(in, model->mutable_onnx());
  });
}

// An entry {key = 1, value = 2} of the map.
bool ReadEntry(CodedInputStream* in, google::protobuf::Arena* arena, TensorProtos* inputs) {
  // On the map's own arena: from anywhere else a move would copy.
  v1::Tensor local;
  v1::Tensor& value =
      arena == nullptr ? local : *google::protobuf::Arena::CreateMessage<v1::Tensor>(arena);
  std::string name;
  while (const uint32_t tag = in->ReadTag()) {
    const int field = Wire::GetTagFieldNumber(tag);
    const bool sized = Wire::GetTagWireType(tag) == Wire::WIRETYPE_LENGTH_DELIMITED;
    if (sized && field == 1) {
      if (!ReadBytes(in, &name)) return false;
    } else if (sized && field == 2) {
      if (!ReadSized(in, [&] { return ReadTensor(in, &value); })) return false;
    } else if (!Wire::SkipField(in, tag)) {
      return false;
    }
  }
  if (!Wire::VerifyUtf8String(name.data(), static_cast<int>(name.size()), Wire::PARSE, "inputs")) {
    return false;
  }
  (*inputs)[name] = std::move(value);
  return true;
}

}  // namespace

absl::Status Parse(grpc::ByteBuffer* buffer, Message* request) {
  const bool ok = grpc::SerializationTraits<Message>::Deserialize(buffer, request).ok();
  return ok ? absl::OkStatus() : NotA(*request);
}

absl::Status ParseLarge(grpc::ByteBuffer* buffer, Message* request, v1::Model* model,
                        TensorProtos* inputs) {
  const auto* type = request->GetDescriptor();
  const int model_field = type->FindFieldByName("model")->number();
  const int inputs_field = type->FindFieldByName("inputs")->number();
  bool ok;
  {
    grpc::ProtoBufferReader reader(buffer);
    CodedInputStream in(&reader);
    ok = reader.status().ok() && ReadFields(&in, request, [&](int field, bool* taken) {
           *taken = field == model_field || field == inputs_field;
           if (field == model_field) return ReadSized(&in, [&] { return ReadModel(&in, model); });
           if (field == inputs_field)
             return ReadSized(&in, [&] { return ReadEntry(&in, request->GetArena(), inputs); });
           return true;
         });
  }
  buffer->Clear();
  return ok ? absl::OkStatus() : NotA(*request);
}

absl::Status Serialize(const Message& response, grpc::ByteBuffer* buffer) {
  bool own;
  const grpc::Status status = grpc::SerializationTraits<Message>::Serialize(response, buffer, &own);
  return status.ok() ? absl::OkStatus() : absl::InternalError(status.error_message());
}

}  // namespace gradwire::rpc
