#include "client/cli/toml_message.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "client/cli/suggest.h"
#include "engine/tensor/shape.h"
#include "gradwire/v1/tensor.pb.h"

namespace gradwire::cli {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

// Tables that toml++ makes of dotted keys nest as deep as these are long, and it destroys them by
// recursion.
constexpr int kMaxPointsInLine = 5000;

constexpr char kOptionMark[] = "--";

const char* NameOfType(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

std::vector<std::string> FieldNames(const Descriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.field_count(); ++i) names.push_back(type.field(i)->name());
  return names;
}

// Where one value of a field goes.
struct Slot {
  Message* message;
  const FieldDescriptor* field;

  const Reflection& reflection() const { return *message->GetReflection(); }
  Message* MakeMessage() const {
    return field->is_repeated() ? reflection().AddMessage(message, field)
                                : reflection().MutableMessage(message, field);
  }
};

#define GW_PUT(Type)                                                                        \
  (slot.field->is_repeated() ? slot.reflection().Add##Type(slot.message, slot.field, value) \
                             : slot.reflection().Set##Type(slot.message, slot.field, value))

// Depth of recursion: that of our own messages, none of which holds itself, and the largest rank.
class Setter {
 public:
  explicit Setter(Problems* problems) : problems_(problems) {}

  void SetTable(const toml::table& table, const std::string& prefix, Message* message) {
    const Descriptor& type = *message->GetDescriptor();
    for (const auto& [name, node] : table) {
      const std::string key = absl::StrCat(prefix, std::string(name.str()));
      const FieldDescriptor* field = type.FindFieldByName(std::string(name.str()));
      if (field == nullptr) {
        const std::string guess = ClosestTo(std::string(name.str()), FieldNames(type));
        Add(node, key,
            absl::StrCat("there is no such field",
                         guess.empty() ? "" : absl::StrCat("; did you mean '", guess, "'?")));
        continue;
      }
      const OneofDescriptor* choice = field->real_containing_oneof();
      if (choice != nullptr && message->GetReflection()->HasOneof(*message, choice)) {
        Add(node, key,
            absl::StrCat(
                "excludes ", prefix,
                message->GetReflection()->GetOneofFieldDescriptor(*message, choice)->name(),
                ", which is there as well"));
        continue;
      }
      SetField(node, key, {message, field});
    }
  }

 private:
  void Add(const toml::node& node, const std::string& key, const std::string& what) {
    problems_->Add(Reason::kInvalidSpec, PlaceOf(node, key), what);
  }
  void Expected(const toml::node& node, const std::string& key, absl::string_view expected) {
    Add(node, key, absl::StrCat("got ", NameOfType(node), ", expected ", expected));
  }

  void SetField(const toml::node& node, const std::string& key, const Slot& slot) {
    if (slot.field->is_map()) {
      if (node.as_table() == nullptr) return Expected(node, key, "a table");
      for (const auto& [name, value] : *node.as_table()) {
        Message* entry = slot.MakeMessage();
        const Descriptor& type = *entry->GetDescriptor();
        entry->GetReflection()->SetString(entry, type.map_key(), std::string(name.str()));
        SetValue(value, absl::StrCat(key, ".", std::string(name.str())), {entry, type.map_value()});
      }
      return;
    }
    if (!slot.field->is_repeated()) return SetValue(node, key, slot);
    if (node.as_array() == nullptr) return Expected(node, key, "an array");
    int i = 0;
    for (const toml::node& value : *node.as_array()) {
      SetValue(value, absl::StrCat(key, "[", i++, "]"), slot);
    }
  }

  void SetValue(const toml::node& node, const std::string& key, const Slot& slot) {
    switch (slot.field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return SetMessage(node, key, slot);
      case FieldDescriptor::CPPTYPE_ENUM:
        return SetEnum(node, key, slot);
      case FieldDescriptor::CPPTYPE_BOOL: {
        if (!node.is_boolean()) return Expected(node, key, "true or false");
        const bool value = *node.value<bool>();
        return GW_PUT(Bool);
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        if (!node.is_number()) return Expected(node, key, "a number");
        const double value = *node.value<double>();
        return GW_PUT(Double);
      }
      case FieldDescriptor::CPPTYPE_FLOAT: {
        if (!node.is_number()) return Expected(node, key, "a number");
        const auto value = static_cast<float>(*node.value<double>());
        return GW_PUT(Float);
      }
      case FieldDescriptor::CPPTYPE_STRING: {
        if (slot.field->type() == FieldDescriptor::TYPE_BYTES) {
          return Add(node, key, "bytes cannot be written in TOML");
        }
        if (!node.is_string()) return Expected(node, key, "a string in quotes");
        const std::string value = *node.value<std::string>();
        return GW_PUT(String);
      }
      default:
        return SetInteger(node, key, slot);
    }
  }

  template <typename Integer>
  std::optional<Integer> IntegerOf(const toml::node& node, const std::string& key) {
    std::optional<int64_t> number;
    if (node.is_integer()) number = *node.value<int64_t>();
    if (node.is_floating_point()) {  // 1e6
      const double real = *node.value<double>();
      if (std::trunc(real) == real && std::abs(real) <= 1e15) number = static_cast<int64_t>(real);
    }
    if (!number) {
      Expected(node, key, "a whole number");
    } else if (!std::in_range<Integer>(*number)) {
      Add(node, key,
          absl::StrCat("got ", *number, ", expected ", std::numeric_limits<Integer>::min(), " to ",
                       std::numeric_limits<Integer>::max()));
      number.reset();
    }
    if (!number) return std::nullopt;
    return static_cast<Integer>(*number);
  }

  void SetInteger(const toml::node& node, const std::string& key, const Slot& slot) {
    switch (slot.field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        if (const auto number = IntegerOf<int32_t>(node, key)) {
          const int32_t value = *number;
          GW_PUT(Int32);
        }
        return;
      case FieldDescriptor::CPPTYPE_UINT32:
        if (const auto number = IntegerOf<uint32_t>(node, key)) {
          const uint32_t value = *number;
          GW_PUT(UInt32);
        }
        return;
      case FieldDescriptor::CPPTYPE_UINT64:
        if (const auto number = IntegerOf<uint64_t>(node, key)) {
          const uint64_t value = *number;
          GW_PUT(UInt64);
        }
        return;
      default:
        if (const auto number = IntegerOf<int64_t>(node, key)) {
          const int64_t value = *number;
          GW_PUT(Int64);
        }
    }
  }

  void SetEnum(const toml::node& node, const std::string& key, const Slot& slot) {
    const EnumDescriptor& type = *slot.field->enum_type();
    if (!node.is_string()) return Expected(node, key, "a name in quotes");
    const std::string name = absl::AsciiStrToUpper(*node.value<std::string>());
    if (const EnumValueDescriptor* value = type.FindValueByName(name)) return GW_PUT(Enum);
    std::vector<std::string> names;
    for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
    Add(node, key,
        absl::StrCat("got '", *node.value<std::string>(), "', expected one of ",
                     absl::StrJoin(names, ", ")));
  }

  void SetMessage(const toml::node& node, const std::string& key, const Slot& slot) {
    Message* message = slot.MakeMessage();
    if (const toml::table* table = node.as_table()) {
      return SetTable(*table, absl::StrCat(key, "."), message);
    }
    if (auto* duration = dynamic_cast<google::protobuf::Duration*>(message)) {
      return SetDuration(node, key, duration);
    }
    if (auto* tensor = dynamic_cast<v1::Tensor*>(message)) {
      if (!node.is_number() && !node.is_array()) return Expected(node, key, "numbers");
      return SetTensor(node, key, 0, tensor);
    }
    const Descriptor& type = *message->GetDescriptor();
    const bool is_choice = type.oneof_decl_count() == 1 && type.real_oneof_decl_count() == 1 &&
                           type.oneof_decl(0)->field_count() == type.field_count();
    if (!is_choice || !node.is_string()) return Expected(node, key, "a table");
    const std::string name = *node.value<std::string>();
    const FieldDescriptor* member = type.FindFieldByName(name);
    if (member != nullptr && member->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      message->GetReflection()->MutableMessage(message, member);
      return;
    }
    Add(node, key,
        absl::StrCat("got '", name, "', expected one of ", absl::StrJoin(FieldNames(type), ", ")));
  }

  void SetDuration(const toml::node& node, const std::string& key,
                   google::protobuf::Duration* duration) {
    absl::Duration value;
    bool ok = false;
    if (node.is_number()) {
      value = absl::Seconds(*node.value<double>());
      ok = true;
    } else if (node.is_string()) {
      ok = absl::ParseDuration(*node.value<std::string>(), &value);
    }
    // protobuf's own range: 10,000 years.
    if (!ok || absl::AbsDuration(value) > absl::Seconds(int64_t{315576000000})) {
      return Add(node, key,
                 absl::StrCat("got ", NameOfType(node),
                              ", expected seconds, or a duration such as \"30s\" or \"1h30m\""));
    }
    duration->set_seconds(absl::IDivDuration(value, absl::Seconds(1), &value));
    duration->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(value)));
  }

  // The numbers below `node`, which lies `depth` arrays deep.
  void SetTensor(const toml::node& node, const std::string& key, int depth, v1::Tensor* tensor) {
    if (const toml::array* array = node.as_array()) {
      if (depth == Shape::kMaxRank) {
        return Add(node, key, absl::StrCat("arrays nest at most ", Shape::kMaxRank, " deep"));
      }
      const auto extent = static_cast<int64_t>(array->size());
      const bool is_first = depth == tensor->shape_size() && tensor->values().empty();
      if (is_first) tensor->add_shape(extent);
      if (depth >= tensor->shape_size() || tensor->shape(depth) != extent) {
        return Add(node, key, "arrays of one depth have the same length");
      }
      for (const toml::node& element : *array) SetTensor(element, key, depth + 1, tensor);
      return;
    }
    if (!node.is_number()) return Expected(node, key, "a number");
    if (depth != tensor->shape_size()) {
      return Add(node, key, "numbers lie at one depth of the arrays");
    }
    tensor->add_values(*node.value<double>());
  }

  Problems* const problems_;
};

#undef GW_PUT

}  // namespace

absl::StatusOr<toml::table> ParseToml(absl::string_view text, const std::string& source) {
  int line = 1;
  for (absl::string_view content : absl::StrSplit(text, '\n')) {
    if (std::count(content.begin(), content.end(), '.') > kMaxPointsInLine) {
      return Error(Reason::kInvalidSpec,
                   absl::StrCat(source, ":", line, ": more than ", kMaxPointsInLine,
                                " points in a line; keep long arrays in a file: \"@FILE\""));
    }
    ++line;
  }
  try {
    return toml::parse(std::string_view(text.data(), text.size()), std::string(source));
  } catch (const toml::parse_error& error) {
    const toml::source_position& at = error.source().begin;
    return Error(Reason::kInvalidSpec, absl::StrCat(source, ":", at.line, ":", at.column, ": ",
                                                    std::string(error.description())));
  }
}

std::string PlaceOf(const toml::node& node, absl::string_view key) {
  const toml::source_region& region = node.source();
  const std::string source = region.path ? *region.path : "";
  if (source.empty()) return std::string(key);
  if (absl::StartsWith(source, kOptionMark)) return absl::StrCat(source, ": ", key);
  return absl::StrCat(source, ":", region.begin.line, ": ", key);
}

void SetFields(const toml::table& table, const std::string& prefix, Message* message,
               Problems* problems) {
  Setter(problems).SetTable(table, prefix, message);
}

}  // namespace gradwire::cli
