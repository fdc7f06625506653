#include "engine/onnx/onnx_text.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/onnx/onnx_text_types.h"
#include "engine/onnx/text_scanner.h"

namespace gradwire {
namespace {

using onnx::AttributeProto;
using onnx::TensorProto;
using onnx_text::AttributeType;
using onnx_text::AttributeTypeName;
using onnx_text::ElementOf;
using onnx_text::ElementType;
using onnx_text::FindAttributeType;
using onnx_text::FindElementType;
using onnx_text::kNoBound;
using onnx_text::ListOf;
using onnx_text::Storage;

// In parts, as CountPart() takes them: about what the messages take in memory.
constexpr int64_t kAttributeWeight = 4;
constexpr int64_t kValueWeight = 2;

// Types, tensors and values.
class TypeParser : public TextScanner {
 public:
  using TextScanner::TextScanner;

 protected:
  bool NextIsType() {
    const absl::string_view id = PeekIdentifier();
    return FindElementType(id) != nullptr || id == "seq" || id == "map" || id == "optional" ||
           id == "sparse_tensor" || id == "opaque";
  }

  bool ParseType(int depth, onnx::TypeProto* out) {
    const size_t at = NextPosition();
    const absl::string_view id = TakeIdentifier();
    if (const ElementType* type = FindElementType(id)) {
      return ParseTensorType(*type, out->mutable_tensor_type());
    }
    if (depth >= kMaxTextNesting) {
      return Fail(at, "types nested too deep",
                  absl::StrCat("at most ", kMaxTextNesting, " inside each other"));
    }
    if (id == "seq") {
      return Match('(') &&
             ParseType(depth + 1, out->mutable_sequence_type()->mutable_elem_type()) && Match(')');
    }
    if (id == "optional") {
      return Match('(') &&
             ParseType(depth + 1, out->mutable_optional_type()->mutable_elem_type()) && Match(')');
    }
    if (id == "map") {
      auto* map = out->mutable_map_type();
      if (!Match('(')) return false;
      const ElementType* key = TakeElementType("the element type of the map's keys");
      if (key == nullptr) return false;
      map->set_key_type(key->number);
      return Match(',') && ParseType(depth + 1, map->mutable_value_type()) && Match(')');
    }
    if (id == "sparse_tensor") {
      if (!Match('(')) return false;
      const ElementType* type = TakeElementType("an element type");
      return type != nullptr && ParseTensorType(*type, out->mutable_sparse_tensor_type()) &&
             Match(')');
    }
    return id.empty() ? Expected("a type")
                      : Fail(at, absl::StrCat("\"", PrintableText(id), "\""),
                             "a type such as float, double[2,3] or int64[N]");
  }

  // `{1, 2}` or, for external data, `["location": "weights.bin"]`.
  bool ParseTensorValues(size_t type_at, const onnx::TypeProto& type, TensorProto* out) {
    if (!type.has_tensor_type()) return Fail(type_at, "no tensor type", "the type of a tensor");
    const ElementType& element = *FindElementType(type.tensor_type().elem_type());
    out->set_data_type(element.number);
    if (!type.tensor_type().has_shape()) {
      return Fail(type_at, "a type of unknown rank", "a tensor's shape (no brackets: a scalar)");
    }
    int64_t count = element.values == 0 ? 1 : element.values;
    for (const auto& dim : type.tensor_type().shape().dim()) {
      if (!dim.has_dim_value() || dim.dim_value() < 0) {
        return Fail(type_at, "a shape with an open dimension", "sizes only");
      }
      out->add_dims(dim.dim_value());
      count = SaturatingMul(count, dim.dim_value());
    }
    if (Peek() == '[') {
      out->set_data_location(TensorProto::EXTERNAL);
      return ParseStringPairs(out->mutable_external_data());
    }
    const size_t values_at = NextPosition();
    if (!Match('{')) return false;
    int64_t got = 0;
    if (!Take('}')) {
      do {
        if (!ParseTensorValue(element, out)) return false;
        ++got;
      } while (Take(','));
      if (!Match('}')) return false;
    }
    return element.values == 0 || got == count ||
           Fail(values_at, absl::StrCat(got, " values"), absl::StrCat(count, " by the shape"));
  }

  // `["key": "value", ...]`
  template <typename Pairs>
  bool ParseStringPairs(Pairs* out) {
    if (!Match('[')) return false;
    if (Take(']')) return true;
    do {
      auto* pair = out->Add();
      if (!ParseQuoted(pair->mutable_key()) || !Match(':') || !ParseQuoted(pair->mutable_value())) {
        return false;
      }
    } while (Take(','));
    return Match(']');
  }

 private:
  const ElementType* TakeElementType(absl::string_view what) {
    const ElementType* type = FindElementType(PeekIdentifier());
    if (type == nullptr) {
      Expected(what);
    } else {
      TakeIdentifier();
    }
    return type;
  }

  template <typename TensorType>  // TypeProto::Tensor or TypeProto::SparseTensor
  bool ParseTensorType(const ElementType& element, TensorType* out) {
    out->set_elem_type(element.number);
    if (!Take('[')) {
      out->mutable_shape();
      return true;
    }
    return Take(']') || (ParseShape(out->mutable_shape()) && Match(']'));
  }

  bool ParseShape(onnx::TensorShapeProto* out) {
    do {
      auto* dim = out->add_dim();
      if (!CountPart()) return false;
      if (Take('?')) continue;
      if (Peek() == '"' || !PeekIdentifier().empty()) {
        if (!ParseName("a dimension", dim->mutable_dim_param())) return false;
        continue;
      }
      int64_t size = 0;
      if (!ParseInteger("a dimension", &size)) return false;
      dim->set_dim_value(size);
    } while (Take(','));
    return true;
  }

  bool ParseTensorValue(const ElementType& element, TensorProto* out) {
    const size_t at = NextPosition();
    const auto out_of_range = [&] {
      return Fail(at, "a value out of range", absl::StrCat("a value of type ", element.name));
    };
    switch (element.storage) {
      case Storage::kInt32: {
        int64_t value = 0;
        if (!ParseInteger("an integer", &value)) return false;
        if (value < element.lowest || value > element.highest) return out_of_range();
        out->add_int32_data(static_cast<int32_t>(value));
        return true;
      }
      case Storage::kInt64: {
        int64_t value = 0;
        if (!ParseInteger("an integer", &value)) return false;
        out->add_int64_data(value);
        return true;
      }
      case Storage::kUint64: {
        uint64_t value = 0;
        if (!ParseInteger("a non-negative integer", &value)) return false;
        if (element.highest != kNoBound && value > static_cast<uint64_t>(element.highest)) {
          return out_of_range();
        }
        out->add_uint64_data(value);
        return true;
      }
      case Storage::kFloat: {
        float value = 0;
        if (!ParseFloat(&value)) return false;
        out->add_float_data(value);
        return true;
      }
      case Storage::kDouble: {
        double value = 0;
        if (!ParseFloat(&value)) return false;
        out->add_double_data(value);
        return true;
      }
      case Storage::kString:
        return ParseQuoted(out->add_string_data());
    }
    return false;
  }
};

// Attributes, nodes, graphs, functions, the model.
class ModelParser : public TypeParser {
 public:
  using TypeParser::TypeParser;

  bool ParseModel(onnx::ModelProto* out) {
    if (Peek() == '<') {
      if (!ParseModelHeader(out)) return false;
    } else {
      out->set_ir_version(8);
      auto* opset = out->add_opset_import();
      opset->set_domain("");
      opset->set_version(17);
    }
    if (!ParseGraph(0, out->mutable_graph())) return false;
    while (!AtEnd()) {
      if (!ParseFunction(out->add_functions())) return false;
    }
    return true;
  }

 private:
  bool ParseModelHeader(onnx::ModelProto* out) {
    if (!Match('<')) return false;
    do {
      const size_t at = NextPosition();
      const absl::string_view key = TakeIdentifier();
      if (key.empty()) return Expected("a field of the header such as ir_version");
      if (!Match(':')) return false;
      int64_t number = 0;
      bool ok = false;
      if (key == "ir_version") {
        ok = ParseInteger("an integer", &number);
        out->set_ir_version(number);
      } else if (key == "model_version") {
        ok = ParseInteger("an integer", &number);
        out->set_model_version(number);
      } else if (key == "opset_import") {
        ok = ParseOpsets(out->mutable_opset_import());
      } else if (key == "producer_name") {
        ok = ParseQuoted(out->mutable_producer_name());
      } else if (key == "producer_version") {
        ok = ParseQuoted(out->mutable_producer_version());
      } else if (key == "domain") {
        ok = ParseQuoted(out->mutable_domain());
      } else if (key == "doc_string") {
        ok = ParseQuoted(out->mutable_doc_string());
      } else if (key == "metadata_props") {
        ok = ParseStringPairs(out->mutable_metadata_props());
      } else {
        return Fail(at, absl::StrCat("\"", PrintableText(key), "\""),
                    "ir_version, opset_import, producer_name, producer_version, domain, "
                    "model_version, doc_string or metadata_props");
      }
      if (!ok) return false;
    } while (Take(','));
    return Match('>');
  }

  template <typename Opsets>
  bool ParseOpsets(Opsets* out) {
    if (!Match('[')) return false;
    if (Take(']')) return true;
    do {
      auto* opset = out->Add();
      int64_t version = 0;
      if (!ParseQuoted(opset->mutable_domain()) || !Match(':') ||
          !ParseInteger("an opset version", &version)) {
        return false;
      }
      opset->set_version(version);
    } while (Take(','));
    return Match(']');
  }

  bool ParseFunction(onnx::FunctionProto* out) {
    if (Take('<')) {
      do {
        const size_t at = NextPosition();
        const absl::string_view key = TakeIdentifier();
        if (key.empty()) return Expected("a field of the function's header such as domain");
        if (!Match(':')) return false;
        bool ok = false;
        if (key == "opset_import") {
          ok = ParseOpsets(out->mutable_opset_import());
        } else if (key == "domain") {
          ok = ParseQuoted(out->mutable_domain());
        } else if (key == "doc_string") {
          ok = ParseQuoted(out->mutable_doc_string());
        } else {
          return Fail(at, absl::StrCat("\"", PrintableText(key), "\""),
                      "domain, opset_import or doc_string");
        }
        if (!ok) return false;
      } while (Take(','));
      if (!Match('>')) return false;
    }
    if (!ParseName("a function's name", out->mutable_name())) return false;
    if (Take('<')) {
      do {
        if (!ParseName("an attribute's name", out->add_attribute())) return false;
        if (Peek() == ':' || Peek() == '=') return Expected("',' or '>' (no default values here)");
      } while (Take(','));
      if (!Match('>')) return false;
    }
    if (!ParseFunctionValues(out->mutable_input()) || !MatchArrow() ||
        !ParseFunctionValues(out->mutable_output())) {
      return false;
    }
    if (Take('<') && !Take('>')) {
      do {
        onnx::ValueInfoProto unused;
        if (!ParseValueInfo(&unused)) return false;
      } while (Take(','));
      if (!Match('>')) return false;
    }
    return ParseNodes(0, out->mutable_node());
  }

  // `(a, float[N] b)`; the types go nowhere.
  template <typename Names>
  bool ParseFunctionValues(Names* out) {
    if (!Match('(')) return false;
    if (Take(')')) return true;
    do {
      onnx::ValueInfoProto value;
      if (!ParseValueInfo(&value)) return false;
      *out->Add() = std::move(*value.mutable_name());
    } while (Take(','));
    return Match(')');
  }

  bool ParseValueInfo(onnx::ValueInfoProto* out) {
    if (!CountPart(kValueWeight)) return false;
    if (NextIsType() && !ParseType(0, out->mutable_type())) return false;
    return ParseName("a value's name", out->mutable_name());
  }

  // Reads `type name`, and `= values` where it follows, which makes an initialiser.
  bool ParseValueOrInitializer(onnx::GraphProto* graph, onnx::ValueInfoProto* value,
                               bool* is_initializer) {
    const size_t at = NextPosition();
    if (!ParseValueInfo(value)) return false;
    *is_initializer = Take('=');
    if (!*is_initializer) return true;
    TensorProto* tensor = graph->add_initializer();
    tensor->set_name(value->name());
    return ParseTensorValues(at, value->type(), tensor);
  }

  bool ParseGraph(int depth, onnx::GraphProto* out) {
    if (!ParseName("a graph's name", out->mutable_name())) return false;
    bool is_initializer = false;
    if (Take('(') && !Take(')')) {
      do {
        if (!ParseValueOrInitializer(out, out->add_input(), &is_initializer)) return false;
      } while (Take(','));
      if (!Match(')')) return false;
    }
    if (!MatchArrow() || !Match('(')) return false;
    if (!Take(')')) {
      do {
        if (!ParseValueInfo(out->add_output())) return false;
      } while (Take(','));
      if (!Match(')')) return false;
    }
    if (Take('<') && !Take('>')) {
      do {
        onnx::ValueInfoProto value;
        if (!ParseValueOrInitializer(out, &value, &is_initializer)) return false;
        if (!is_initializer) *out->add_value_info() = std::move(value);
      } while (Take(','));
      if (!Match('>')) return false;
    }
    return ParseNodes(depth, out->mutable_node());
  }

  template <typename Nodes>
  bool ParseNodes(int depth, Nodes* out) {
    if (!Match('{')) return false;
    while (!Take('}')) {
      if (!ParseNode(depth, out->Add())) return false;
    }
    return true;
  }

  bool ParseNode(int depth, onnx::NodeProto* out) {
    if (!CountNode()) return false;
    if (Take('[')) {
      if (!ParseName("a node's name", out->mutable_name()) || !Match(']')) return false;
    }
    if (!ParseNames(out->mutable_output())) return false;
    if (out->output().empty() && Peek() != '=') return Expected("a node or '}'");
    if (!Match('=')) return false;
    std::string domain, op_type;
    if (!ParseIdentifier("an operator", &op_type)) return false;
    while (Take('.')) {
      absl::StrAppend(&domain, domain.empty() ? "" : ".", op_type);
      if (!ParseIdentifier("an operator", &op_type)) return false;
    }
    out->set_domain(std::move(domain));
    out->set_op_type(std::move(op_type));
    if (!ParseAttributes(depth, out) || !Match('(') || !ParseNames(out->mutable_input()) ||
        !Match(')')) {
      return false;
    }
    return out->attribute_size() > 0 || ParseAttributes(depth, out);
  }

  // A list of names, perhaps empty. `""`, or nothing before a comma, is an omitted value; a comma
  // at the end is ignored.
  template <typename Names>
  bool ParseNames(Names* out) {
    do {
      const bool named = Peek() == '"' || !PeekIdentifier().empty();
      if (!named && Peek() != ',') return true;
      std::string* name = out->Add();
      if (!CountPart()) return false;
      if (named && !ParseName("a name", name)) return false;
    } while (Take(','));
    return true;
  }

  bool ParseAttributes(int depth, onnx::NodeProto* out) {
    if (!Take('<')) return true;
    do {
      if (!ParseAttribute(depth, out->add_attribute())) return false;
    } while (Take(','));
    return Match('>');
  }

  bool ParseAttribute(int depth, AttributeProto* out) {
    if (!CountPart(kAttributeWeight)) return false;
    if (!ParseIdentifier("an attribute's name", out->mutable_name())) return false;
    AttributeType annotated = AttributeProto::UNDEFINED;
    if (Take(':')) {
      annotated = FindAttributeType(PeekIdentifier());
      if (annotated == AttributeProto::UNDEFINED) {
        return Expected("an attribute type such as int, floats or tensor");
      }
      TakeIdentifier();
    }
    if (!Match('=')) return false;
    const size_t at = NextPosition();
    if (!Take('[')) return ParseSingleValue(depth, annotated, out);
    if (Take(']')) {
      if (ElementOf(annotated) == annotated) {
        return Fail(at, "an empty list", "a list type before it, as in `axes: ints = []`");
      }
      out->set_type(annotated);
      return true;
    }
    AttributeProto element;
    do {
      const size_t element_at = NextPosition();
      element.Clear();
      if (!ParseSingleValue(depth, ElementOf(annotated), &element)) return false;
      if (!AppendElement(element_at, &element, out)) return false;
    } while (Take(','));
    return Match(']');
  }

  // Moves one value into the list `out`, whose type the first element sets.
  bool AppendElement(size_t at, AttributeProto* element, AttributeProto* out) {
    const AttributeType list = ListOf(element->type());
    if (!CountPart(list == AttributeProto::INTS || list == AttributeProto::FLOATS ? 0 : 2))
      return false;
    if (list == AttributeProto::UNDEFINED || !element->ref_attr_name().empty()) {
      return Fail(at, "a reference to an attribute", "a value");
    }
    if (!out->has_type()) out->set_type(list);
    const AttributeType type = out->type();
    if (type == AttributeProto::FLOATS && list == AttributeProto::INTS) {
      out->add_floats(static_cast<float>(element->i()));
      return true;
    }
    if (type == AttributeProto::INTS && list == AttributeProto::FLOATS) {
      out->set_type(AttributeProto::FLOATS);
      for (const int64_t i : out->ints()) out->add_floats(static_cast<float>(i));
      out->clear_ints();
      out->add_floats(element->f());
      return true;
    }
    if (type != list) {
      return Fail(at, absl::StrCat("a value of type ", AttributeTypeName(element->type())),
                  absl::StrCat("a value of type ", AttributeTypeName(ElementOf(type)),
                               " like those before it"));
    }
    switch (list) {
      case AttributeProto::INTS:
        out->add_ints(element->i());
        break;
      case AttributeProto::FLOATS:
        out->add_floats(element->f());
        break;
      case AttributeProto::STRINGS:
        out->add_strings(std::move(*element->mutable_s()));
        break;
      case AttributeProto::TENSORS:
        out->add_tensors()->Swap(element->mutable_t());
        break;
      case AttributeProto::GRAPHS:
        out->add_graphs()->Swap(element->mutable_g());
        break;
      case AttributeProto::TYPE_PROTOS:
        out->add_type_protos()->Swap(element->mutable_tp());
        break;
      default:
        break;
    }
    return true;
  }

  bool ParseSingleValue(int depth, AttributeType annotated, AttributeProto* out) {
    const size_t at = NextPosition();
    if (Take('@')) {
      if (annotated != AttributeProto::UNDEFINED) out->set_type(annotated);
      return ParseName("an attribute's name", out->mutable_ref_attr_name());
    }
    const absl::string_view id = PeekIdentifier();
    bool ok = false;
    if (NextIsType()) {
      ok = ParseTensorOrType(out);
    } else if (!id.empty() && !IsNonFiniteWord(id)) {
      if (depth >= kMaxTextNesting) {
        return Fail(at, "graphs nested too deep",
                    absl::StrCat("at most ", kMaxTextNesting, " inside each other"));
      }
      out->set_type(AttributeProto::GRAPH);
      ok = ParseGraph(depth + 1, out->mutable_g());
    } else {
      ok = ParsePlainValue(annotated, out);
    }
    if (!ok) return false;
    return annotated == AttributeProto::UNDEFINED || annotated == out->type() ||
           Fail(at, absl::StrCat("a value of type ", AttributeTypeName(out->type())),
                absl::StrCat("a value of type ", AttributeTypeName(annotated)));
  }

  // `float[2] name? =? {1, 2}` or a type alone.
  bool ParseTensorOrType(AttributeProto* out) {
    const size_t at = NextPosition();
    onnx::TypeProto type;
    if (!ParseType(0, &type)) return false;
    const char next = Peek();
    if (next != '{' && next != '=' && next != '"' && PeekIdentifier().empty()) {
      out->set_type(AttributeProto::TYPE_PROTO);
      *out->mutable_tp() = std::move(type);
      return true;
    }
    out->set_type(AttributeProto::TENSOR);
    out->mutable_t()->set_name("");
    if (next != '{' && next != '=' && !ParseName("a name", out->mutable_t()->mutable_name())) {
      return false;
    }
    Take('=');
    return ParseTensorValues(at, type, out->mutable_t());
  }

  // An integer, a float or a string.
  bool ParsePlainValue(AttributeType annotated, AttributeProto* out) {
    Literal literal;
    if (!ParseLiteral("an attribute's value", &literal)) return false;
    if (literal.kind == LiteralKind::kString) {
      out->set_type(AttributeProto::STRING);
      out->set_s(std::move(literal.string));
      return true;
    }
    if (literal.kind == LiteralKind::kFloat || annotated == AttributeProto::FLOAT) {
      float value = 0;
      if (!ToFloat(literal, &value)) return false;
      out->set_type(AttributeProto::FLOAT);
      out->set_f(value);
      return true;
    }
    int64_t value = 0;
    if (!ToInteger(literal, &value)) return false;
    out->set_type(AttributeProto::INT);
    out->set_i(value);
    return true;
  }
};

}  // namespace

absl::StatusOr<onnx::ModelProto> ParseOnnxText(absl::string_view text, int64_t max_nodes) {
  ModelParser parser(text, max_nodes);
  onnx::ModelProto model;
  if (!parser.ParseModel(&model)) return parser.status();
  return model;
}

}  // namespace gradwire
