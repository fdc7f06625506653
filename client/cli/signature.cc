#include "client/cli/signature.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "onnx/onnx.pb.h"

namespace gradwire::cli {
namespace {

constexpr std::pair<absl::string_view, DType> kTypeWords[] = {
    {"float", DType::kFloat},       {"uint8", DType::kUint8},   {"int8", DType::kInt8},
    {"uint16", DType::kUint16},     {"int16", DType::kInt16},   {"int32", DType::kInt32},
    {"int64", DType::kInt64},       {"bool", DType::kBool},     {"float16", DType::kFloat16},
    {"double", DType::kDouble},     {"uint32", DType::kUint32}, {"uint64", DType::kUint64},
    {"bfloat16", DType::kBfloat16},
};

bool IsWordCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

// Words and single other characters; comments, blanks and strings are left out, except that line
// ends of a formula, where statements end, are kept.
std::vector<absl::string_view> Tokens(absl::string_view text, bool keep_line_ends) {
  std::vector<absl::string_view> tokens;
  size_t i = 0;
  while (i < text.size()) {
    const size_t start = i;
    const char c = text[i++];
    if (IsWordCharacter(c)) {
      // ONNX's text has names with points and dashes in them: value.1
      while (i < text.size() && (IsWordCharacter(text[i]) || (!keep_line_ends && text[i] == '.')))
        ++i;
      tokens.push_back(text.substr(start, i - start));
    } else if (c == '#') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '"' && !keep_line_ends) {
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      ++i;
    } else if (!absl::ascii_isspace(static_cast<unsigned char>(c)) ||
               (keep_line_ends && c == '\n')) {
      tokens.push_back(text.substr(start, 1));
    }
  }
  return tokens;
}

bool IsName(absl::string_view token) {
  return IsWordCharacter(token.front()) &&
         !absl::ascii_isdigit(static_cast<unsigned char>(token.front()));
}

DType TypeWord(absl::string_view token) {
  for (const auto& [word, dtype] : kTypeWords) {
    if (token == word) return dtype;
  }
  return DType::kUndefined;
}

void SetDefaultType(ModelSignature* signature) {
  bool has_float = false;
  bool has_double = false;
  for (const auto& [name, dtype] : signature->types) {
    has_float |= dtype == DType::kFloat;
    has_double |= dtype == DType::kDouble;
  }
  if (has_float && !has_double) signature->default_type = DType::kFloat;
}

ModelSignature OfOnnx(const std::string& bytes) {
  ModelSignature signature;
  onnx::ModelProto model;
  if (!model.ParseFromString(bytes)) return signature;
  auto add = [&signature](const onnx::ValueInfoProto& value) {
    const DType dtype = DTypeFromOnnx(value.type().tensor_type().elem_type());
    if (dtype != DType::kUndefined) signature.types.emplace(value.name(), dtype);
  };
  for (const onnx::ValueInfoProto& value : model.graph().input()) add(value);
  for (const onnx::TensorProto& value : model.graph().initializer()) {
    signature.types.emplace(value.name(), DTypeFromOnnx(value.data_type()));
  }
  for (const onnx::ValueInfoProto& value : model.graph().output()) {
    add(value);
    signature.outputs.push_back(value.name());
  }
  for (const onnx::ValueInfoProto& value : model.graph().value_info()) add(value);
  SetDefaultType(&signature);
  return signature;
}

// In ONNX's text a value is declared by a type word, brackets perhaps, and its name.
ModelSignature OfText(absl::string_view text) {
  ModelSignature signature;
  const std::vector<absl::string_view> tokens = Tokens(text, /*keep_line_ends=*/false);
  bool in_outputs = false;
  bool outputs_seen = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] == ">" && i > 0 && tokens[i - 1] == "=" && !outputs_seen) {
      in_outputs = outputs_seen = true;
    }
    if (tokens[i] == ")") in_outputs = false;
    const DType dtype = TypeWord(tokens[i]);
    if (dtype == DType::kUndefined) continue;
    size_t name = i + 1;
    if (name < tokens.size() && tokens[name] == "[") {
      while (name < tokens.size() && tokens[name] != "]") ++name;
      ++name;
    }
    if (name >= tokens.size() || !IsName(tokens[name])) continue;
    signature.types.emplace(std::string(tokens[name]), dtype);
    if (in_outputs) signature.outputs.emplace_back(tokens[name]);
  }
  SetDefaultType(&signature);
  return signature;
}

// The last statement of a formula: the tokens after the last end of a statement that has any after
// it. Inside brackets a line goes on.
std::vector<absl::string_view> LastStatement(const std::vector<absl::string_view>& tokens) {
  std::vector<absl::string_view> statement;
  bool ended = false;
  int depth = 0;
  for (absl::string_view token : tokens) {
    if (token == "(" || token == "[") ++depth;
    if (token == ")" || token == "]") --depth;
    if (token == ";" || (token == "\n" && depth <= 0)) {
      ended = true;
    } else if (token != "\n") {
      if (ended) statement.clear();
      ended = false;
      statement.push_back(token);
    }
  }
  return statement;
}

ModelSignature OfFormula(absl::string_view formula) {
  ModelSignature signature;
  const std::vector<absl::string_view> tokens = Tokens(formula, /*keep_line_ends=*/true);
  const std::vector<absl::string_view> last = LastStatement(tokens);
  if (!last.empty() && last.front() == "return") {
    for (absl::string_view token : absl::MakeConstSpan(last).subspan(1)) {
      if (token != ",") signature.outputs.emplace_back(token);
    }
  } else if (last.size() > 2 && IsName(last[0]) && last[1] == "=" && last[2] != "=") {
    signature.outputs.emplace_back(last[0]);
  } else {
    // "f", unless the formula itself uses it.
    std::string name = "f";
    bool taken = true;
    while (taken) {
      taken = false;
      for (absl::string_view token : tokens) taken |= token == name;
      if (taken) name += '_';
    }
    signature.outputs.push_back(std::move(name));
  }
  return signature;
}

}  // namespace

DType ModelSignature::TypeOf(const std::string& name) const {
  const auto type = types.find(name);
  return type == types.end() ? default_type : type->second;
}

ModelSignature SignatureOf(const ModelSource& model) {
  switch (model.form()) {
    case ModelSource::Form::kOnnx:
      return OfOnnx(model.content());
    case ModelSource::Form::kText:
      return OfText(model.content());
    case ModelSource::Form::kFormula:
      break;
  }
  return OfFormula(model.content());
}

}  // namespace gradwire::cli
