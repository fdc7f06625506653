#include "engine/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <nlohmann/json.hpp>
#include <set>

#include "engine/base/status.h"

namespace gradwire {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

using Json = nlohmann::json;

constexpr size_t kMaxHeaderBytes = 100 << 20;  // the format's own limit

struct SafetensorsType {
  const char* name;
  DType dtype;
};
constexpr SafetensorsType kTypes[] = {
    {"BOOL", DType::kBool},     {"U8", DType::kUint8},   {"I8", DType::kInt8},
    {"U16", DType::kUint16},    {"I16", DType::kInt16},  {"U32", DType::kUint32},
    {"I32", DType::kInt32},     {"U64", DType::kUint64}, {"I64", DType::kInt64},
    {"F16", DType::kFloat16},   {"F32", DType::kFloat},  {"F64", DType::kDouble},
    {"BF16", DType::kBfloat16},
};

struct Entry {
  std::string name;
  TensorType type;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::Status Malformed(absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat("safetensors: ", what));
}

// nlohmann keeps the last of two equal keys; the format forbids them, in every object.
absl::StatusOr<Json> ParseHeader(absl::string_view text) {
  std::vector<std::set<std::string>> keys;
  bool twice = false;
  auto watch = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.empty()) {
      twice |= !keys.back().insert(value.get<std::string>()).second;
    }
    return true;
  };
  Json header = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object())
    return Malformed("the header is no JSON object");
  if (twice) return Malformed("the header has a key twice");
  return header;
}

absl::StatusOr<DType> DTypeOf(const std::string& name, const Json& value) {
  const auto dtype = value.find("dtype");
  if (dtype == value.end() || !dtype->is_string()) {
    return Malformed(absl::StrCat(name, ": no dtype"));
  }
  const auto& text = dtype->get_ref<const std::string&>();
  for (const SafetensorsType& type : kTypes) {
    if (text == type.name) return type.dtype;
  }
  return Error(Reason::kDtypeUnsupported, absl::StrCat("safetensors: ", name, ": element type ",
                                                       text.substr(0, 64), " is not supported"));
}

absl::StatusOr<Entry> ReadEntry(const std::string& name, const Json& value) {
  if (!value.is_object()) return Malformed(absl::StrCat(name, ": is no object"));
  GW_ASSIGN_OR_RETURN(const DType dtype, DTypeOf(name, value));
  const auto shape = value.find("shape");
  const auto offsets = value.find("data_offsets");
  if (shape == value.end() || !shape->is_array() || shape->size() > Shape::kMaxRank) {
    return Malformed(absl::StrCat(name, ": no shape, or too many dimensions"));
  }
  std::vector<int64_t> dims;
  for (const Json& extent : *shape) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > INT64_MAX) {
      return Malformed(absl::StrCat(name, ": invalid extent"));
    }
    dims.push_back(static_cast<int64_t>(extent.get<uint64_t>()));
  }
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return Malformed(absl::StrCat(name, ": invalid data_offsets"));
  }
  absl::StatusOr<Shape> made = Shape::Make(dims);
  if (!made.ok()) return Malformed(absl::StrCat(name, ": ", made.status().message()));
  const Entry entry{name,
                    {dtype, *std::move(made)},
                    (*offsets)[0].get<uint64_t>(),
                    (*offsets)[1].get<uint64_t>()};
  if (entry.end < entry.begin ||
      entry.end - entry.begin != static_cast<uint64_t>(entry.type.bytes())) {
    return Malformed(absl::StrCat(name, ": data_offsets [", entry.begin, ",", entry.end,
                                  "] do not fit ", entry.type.ToString()));
  }
  return entry;
}

absl::Status CheckLayout(std::vector<Entry>* entries, uint64_t data_bytes) {
  std::sort(entries->begin(), entries->end(), [](const Entry& a, const Entry& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  uint64_t at = 0;
  for (const Entry& entry : *entries) {
    if (entry.begin != at) {
      return Malformed(absl::StrCat(entry.name, ": begins at ", entry.begin, ", expected ", at,
                                    entry.begin < at ? ": it overlaps" : ": there is a hole"));
    }
    at = entry.end;
  }
  if (at != data_bytes) {
    return Malformed(
        absl::StrCat("wrong count of bytes after the header: got ", data_bytes, ", expected ", at));
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorView> ViewOf(const Entry& entry, absl::string_view data) {
  const absl::string_view bytes = data.substr(entry.begin, entry.end - entry.begin);
  if (entry.type.dtype == DType::kBool) {
    for (char byte : bytes) {
      if (byte != 0 && byte != 1) return Malformed(absl::StrCat(entry.name, ": a byte is no bool"));
    }
  }
  return TensorView(entry.type, bytes.data());
}

absl::Status ReadMetadata(const Json& value, SafetensorsMetadata* out) {
  if (!value.is_object()) return Malformed("__metadata__ is no object");
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) return Malformed(absl::StrCat("__metadata__: ", key, " is no string"));
    (*out)[key] = text.get<std::string>();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<std::string, TensorView>>> Read(
    absl::string_view bytes, SafetensorsMetadata* metadata) {
  uint64_t header_bytes;
  if (bytes.size() < sizeof(header_bytes)) return Malformed("the file is too short");
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  bytes.remove_prefix(sizeof(header_bytes));
  if (header_bytes > std::min(bytes.size(), kMaxHeaderBytes)) {
    return Malformed("the header is cut off or too long");
  }
  GW_ASSIGN_OR_RETURN(const Json header, ParseHeader(bytes.substr(0, header_bytes)));
  bytes.remove_prefix(header_bytes);
  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      if (metadata != nullptr) GW_RETURN_IF_ERROR(ReadMetadata(value, metadata));
      continue;
    }
    GW_ASSIGN_OR_RETURN(Entry entry, ReadEntry(name, value));
    entries.push_back(std::move(entry));
  }
  GW_RETURN_IF_ERROR(CheckLayout(&entries, bytes.size()));
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  std::vector<std::pair<std::string, TensorView>> views;
  for (const Entry& entry : entries) {
    GW_ASSIGN_OR_RETURN(const TensorView view, ViewOf(entry, bytes));
    views.emplace_back(entry.name, view);
  }
  return views;
}

}  // namespace

absl::StatusOr<std::vector<std::pair<std::string, TensorView>>> ViewSafetensors(
    absl::string_view bytes, SafetensorsMetadata* metadata) {
  try {  // the JSON library throws where a value is not what it was asked for
    return Read(bytes, metadata);
  } catch (const Json::exception& error) {
    return Malformed(error.what());
  } catch (const std::bad_alloc&) {
    return Error(Reason::kMemoryLimit, "safetensors: out of memory");
  }
}

absl::StatusOr<std::vector<std::pair<std::string, Tensor>>> ReadSafetensors(
    absl::string_view bytes, SafetensorsMetadata* metadata) {
  GW_ASSIGN_OR_RETURN(const auto views, ViewSafetensors(bytes, metadata));
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, view] : views) {
    GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(view.type()));
    if (view.bytes() > 0) {
      std::memcpy(tensor.mutable_raw(), view.raw(), static_cast<size_t>(view.bytes()));
    }
    tensors.emplace_back(name, std::move(tensor));
  }
  return tensors;
}

std::string SafetensorsHeader(const std::vector<std::pair<std::string, TensorView>>& tensors,
                              const SafetensorsMetadata& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto* type =
        std::find_if(std::begin(kTypes), std::end(kTypes),
                     [dtype = tensor.dtype()](const auto& t) { return t.dtype == dtype; });
    const int64_t end = at + tensor.bytes();
    header[name] = {
        {"dtype", type->name},
        {"shape", std::vector<int64_t>(tensor.shape().dims().begin(), tensor.shape().dims().end())},
        {"data_offsets", {at, end}}};
    at = end;
  }
  // Names may be any bytes: what is not UTF-8 is replaced, and never thrown over.
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();
  std::string out(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  out += text;
  return out;
}

std::string WriteSafetensors(const std::vector<std::pair<std::string, TensorView>>& tensors,
                             const SafetensorsMetadata& metadata) {
  std::string out = SafetensorsHeader(tensors, metadata);
  size_t bytes = out.size();
  for (const auto& [name, tensor] : tensors) bytes += static_cast<size_t>(tensor.bytes());
  out.reserve(bytes);
  for (const auto& [name, tensor] : tensors) {
    out.append(static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
  }
  return out;
}

}  // namespace gradwire
