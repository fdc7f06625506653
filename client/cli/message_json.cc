#include "client/cli/message_json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>

#include <cstdlib>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/render_json.h"
#include "gradwire/v1/tensor.pb.h"
#include "proto/codec/tensor_codec.h"

namespace gradwire::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void AppendMessage(const Message& message, std::string* out);

// The value of a field, or of its entry `index` where it is repeated.
void AppendValue(const Message& message, const FieldDescriptor* field, int index,
                 std::string* out) {
  const Reflection& r = *message.GetReflection();
  const bool is_entry = index >= 0;
#define GW_GET(Type) \
  (is_entry ? r.GetRepeated##Type(message, field, index) : r.Get##Type(message, field))
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return absl::StrAppend(out, GW_GET(Int32));
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrAppend(out, GW_GET(Int64));
    case FieldDescriptor::CPPTYPE_UINT32:
      return absl::StrAppend(out, GW_GET(UInt32));
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrAppend(out, GW_GET(UInt64));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return absl::StrAppend(out, NumberAsJson(GW_GET(Double)));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return absl::StrAppend(out, NumberAsJson(GW_GET(Float)));
    case FieldDescriptor::CPPTYPE_BOOL:
      return absl::StrAppend(out, GW_GET(Bool) ? "true" : "false");
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrAppend(out, StringAsJson(GW_GET(Enum)->name()));
    case FieldDescriptor::CPPTYPE_STRING:
      return absl::StrAppend(out, StringAsJson(GW_GET(String)));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return AppendMessage(GW_GET(Message), out);
  }
#undef GW_GET
}

// Entries of a map, by their keys.
void AppendMap(const Message& message, const FieldDescriptor* field, std::string* out) {
  const Reflection& r = *message.GetReflection();
  std::map<std::string, const Message*> entries;
  const FieldDescriptor* key = field->message_type()->map_key();
  for (int i = 0; i < r.FieldSize(message, field); ++i) {
    const Message& entry = r.GetRepeatedMessage(message, field, i);
    entries[entry.GetReflection()->GetString(entry, key)] = &entry;
  }
  const char* separator = "{";
  for (const auto& [name, entry] : entries) {
    absl::StrAppend(out, separator, StringAsJson(name), ": ");
    AppendValue(*entry, field->message_type()->map_value(), -1, out);
    separator = ", ";
  }
  out->append("}");
}

void AppendField(const Message& message, const FieldDescriptor* field, std::string* out) {
  if (field->is_map()) return AppendMap(message, field, out);
  if (!field->is_repeated()) return AppendValue(message, field, -1, out);
  out->append("[");
  for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
    if (i > 0) out->append(", ");
    AppendValue(message, field, i, out);
  }
  out->append("]");
}

bool IsShown(const Message& message, const FieldDescriptor* field) {
  if (field->type() == FieldDescriptor::TYPE_BYTES) return false;
  if (field->is_repeated()) return message.GetReflection()->FieldSize(message, field) > 0;
  return !field->has_presence() || message.GetReflection()->HasField(message, field);
}

// True where the message has a form of its own.
bool AppendSpecial(const Message& message, std::string* out) {
  if (const auto* duration = dynamic_cast<const google::protobuf::Duration*>(&message)) {
    const bool negative = duration->seconds() < 0 || duration->nanos() < 0;
    absl::StrAppendFormat(out, "\"%s%d.%09ds\"", negative ? "-" : "", std::abs(duration->seconds()),
                          std::abs(duration->nanos()));
    return true;
  }
  if (const auto* time = dynamic_cast<const google::protobuf::Timestamp*>(&message)) {
    const absl::Time at = absl::FromUnixSeconds(time->seconds()) + absl::Nanoseconds(time->nanos());
    absl::StrAppend(out, "\"", absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", at, absl::UTCTimeZone()),
                    "\"");
    return true;
  }
  if (const auto* tensor = dynamic_cast<const v1::Tensor*>(&message)) {
    std::vector<Tensor> owned;
    const absl::StatusOr<TensorView> view = codec::ViewOf(*tensor, "", &owned);
    out->append(view.ok() ? TensorAsJson(*view) : "null");
    return true;
  }
  return false;
}

// Depth of recursion: that of our own messages.
void AppendMessage(const Message& message, std::string* out) {
  if (AppendSpecial(message, out)) return;
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  const char* separator = "";
  out->append("{");
  for (int i = 0; i < type.field_count(); ++i) {
    if (!IsShown(message, type.field(i))) continue;
    absl::StrAppend(out, separator, "\"", type.field(i)->name(), "\": ");
    AppendField(message, type.field(i), out);
    separator = ", ";
  }
  out->append("}");
}

}  // namespace

std::string MessageAsJson(const Message& message) {
  std::string out;
  AppendMessage(message, &out);
  return out;
}

}  // namespace gradwire::cli
