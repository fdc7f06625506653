#include "engine/onnx/formula.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "engine/base/status.h"
#include "engine/onnx/formula_functions.h"
#include "engine/onnx/text_scanner.h"

namespace gradwire {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr char kGradwireDomain[] = "gradwire";

enum class TokenKind : uint8_t { kName, kNumber, kSymbol, kEndOfStatement, kEnd };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  size_t at = 0;
  absl::string_view text;  // "\n" or ";" at the end of a statement
};

// The value of an expression.
struct Value {
  std::string name;
  int node = -1;      // the node that gives a value without a name
  int constant = -1;  // index of the number that it is, if it is one
};

class FormulaParser {
 public:
  FormulaParser(absl::string_view text, const FormulaTypes& types, int64_t max_nodes)
      : text_(text), types_(types), max_nodes_(max_nodes) {}

  absl::StatusOr<onnx::ModelProto> Parse() {
    if (!Tokenize() || !ParseStatements() || !FinishModel()) return status_;
    return std::move(model_);
  }

 private:
  // A number that stands in a Constant node; its type is known only after all inputs are.
  struct Constant {
    int node;
    double value;
    size_t at;
  };

  onnx::GraphProto* graph() { return model_.mutable_graph(); }

  // --- Failure: every function that can fail returns false, the first reason stays in status_.

  bool Fail(size_t at, absl::string_view what) {
    if (!status_.ok()) return false;
    const TextPlace place = LocateInText(text_, at);
    const bool several_lines = text_.find('\n') != absl::string_view::npos;
    status_ = Error(
        Reason::kInvalidModel,
        absl::StrCat("formula: ", several_lines ? absl::StrCat("line ", place.line, ", ") : "",
                     "column ", place.column, ": ", what, "\n", place.snippet));
    return false;
  }
  bool Expected(absl::string_view what) {
    const Token& token = Next();
    std::string got = absl::StrCat("'", PrintableText(token.text), "'");
    if (token.kind == TokenKind::kEnd) got = "the end of the formula";
    if (token.text == "\n") got = "the end of the line";
    return Fail(token.at, absl::StrCat("got ", got, ", expected ", what));
  }

  bool FailTooLarge() {
    if (status_.ok()) status_ = TooManyNodes(max_nodes_);
    return false;
  }

  // One more level of nesting, opened at `at`; Leave() must follow.
  bool Enter(size_t at) {
    if (++depth_ <= kMaxFormulaNesting) return true;
    return Fail(at, absl::StrCat("nested more than ", kMaxFormulaNesting, " deep"));
  }
  void Leave() { --depth_; }

  // --- Tokens.

  size_t SkipDigits(size_t i) const {
    while (i < text_.size() && absl::ascii_isdigit(text_[i])) ++i;
    return i;
  }

  // The end of the number at `i`: digits, a fraction, an exponent.
  size_t NumberEnd(size_t i) const {
    i = SkipDigits(i);
    if (i < text_.size() && text_[i] == '.') i = SkipDigits(i + 1);
    if (i < text_.size() && (text_[i] == 'e' || text_[i] == 'E')) {
      size_t exponent = i + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) {
        ++exponent;
      }
      const size_t end = SkipDigits(exponent);
      if (end > exponent) return end;
    }
    return i;
  }

  bool Tokenize() {
    size_t open = 0;  // parentheses and brackets around the place; a line goes on inside them
    for (size_t i = 0; i < text_.size();) {
      const char c = text_[i];
      size_t end = i + 1;
      TokenKind kind = TokenKind::kSymbol;
      if (c == ' ' || c == '\t' || c == '\r' || (c == '\n' && open > 0)) {
        i = end;
        continue;
      }
      if (c == '\n' || c == ';') {
        kind = TokenKind::kEndOfStatement;
      } else if (absl::ascii_isalpha(c) || c == '_') {
        kind = TokenKind::kName;
        while (end < text_.size() && (absl::ascii_isalnum(text_[end]) || text_[end] == '_')) ++end;
        names_.insert(text_.substr(i, end - i));
      } else if (absl::ascii_isdigit(c) || (c == '.' && SkipDigits(end) > end)) {
        kind = TokenKind::kNumber;
        end = NumberEnd(i);
      } else if (end < text_.size() && text_[end] == '=' &&
                 (c == '<' || c == '>' || c == '=' || c == '!')) {
        ++end;
      } else if (absl::string_view("+-*/@^()[],:<>=").find(c) == absl::string_view::npos) {
        while (end < text_.size() && (text_[end] & 0xC0) == 0x80 && end < i + 4) ++end;
        return Fail(
            i, absl::StrCat("unknown character '", PrintableText(text_.substr(i, end - i)), "'"));
      }
      if (c == '(' || c == '[') ++open;
      if ((c == ')' || c == ']') && open > 0) --open;
      tokens_.push_back({kind, i, text_.substr(i, end - i)});
      if (static_cast<int64_t>(tokens_.size()) > MaxParts(max_nodes_)) return FailTooLarge();
      i = end;
    }
    tokens_.push_back({TokenKind::kEnd, text_.size(), ""});
    return true;
  }

  const Token& Next() const { return tokens_[next_]; }
  // The one after; the last token has itself behind it.
  const Token& AfterNext() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  Token Advance() { return tokens_[next_ + 1 < tokens_.size() ? next_++ : next_]; }
  bool NextIs(absl::string_view symbol) const {
    return Next().kind == TokenKind::kSymbol && Next().text == symbol;
  }
  bool Take(absl::string_view symbol) {
    if (!NextIs(symbol)) return false;
    Advance();
    return true;
  }
  bool AtEndOfStatement() const {
    return Next().kind == TokenKind::kEndOfStatement || Next().kind == TokenKind::kEnd;
  }

  // --- Statements.

  void SkipEmptyStatements() {
    while (Next().kind == TokenKind::kEndOfStatement) Advance();
  }

  bool ParseStatements() {
    SkipEmptyStatements();
    if (Next().kind == TokenKind::kEnd) return Fail(0, "the formula is empty");
    std::string last;
    while (true) {
      if (Next().kind == TokenKind::kName && Next().text == "return") return ParseReturn();
      if (!ParseStatement(&last)) return false;
      if (!AtEndOfStatement()) {
        return Expected(Next().kind == TokenKind::kSymbol ? "an operator or ';'"
                                                          : "an operator (products need '*')");
      }
      SkipEmptyStatements();
      if (Next().kind == TokenKind::kEnd) break;
    }
    graph()->add_output()->set_name(last);
    return true;
  }

  // Sets `output` to the name under which the value is to be had.
  bool ParseStatement(std::string* output) {
    const Token name = Next();
    const bool named = name.kind == TokenKind::kName && AfterNext().kind == TokenKind::kSymbol &&
                       AfterNext().text == "=";
    if (named) {
      Advance();
      Advance();
    }
    Value value;
    if (!ParseExpression(&value)) return false;
    if (NextIs("=")) {
      return Fail(Next().at, "'=' names a value at the start of a statement; to compare, use '=='");
    }
    if (!named) {
      // Only the last statement's value is an output.
      size_t i = next_;
      while (tokens_[i].kind == TokenKind::kEndOfStatement) ++i;
      if (tokens_[i].kind != TokenKind::kEnd) return true;
      *output = "f";
      while (names_.contains(*output)) *output += '_';
    } else {
      if (!CheckNewName(name)) return false;
      *output = std::string(name.text);
      defined_.insert(name.text);
    }
    NameValue(value, *output, name.at);
    return true;
  }

  bool CheckNewName(const Token& name) {
    const std::string quoted = absl::StrCat("'", PrintableText(name.text), "'");
    if (name.text == "pi" || name.text == "return" || FindFormulaFunction(name.text) != nullptr) {
      return Fail(name.at, absl::StrCat(quoted, " is taken; choose another name"));
    }
    if (defined_.contains(name.text)) return Fail(name.at, absl::StrCat(quoted, " is named twice"));
    if (inputs_.contains(name.text)) {
      return Fail(name.at, absl::StrCat(quoted, " was used before this as an input"));
    }
    return true;
  }

  // Gives `value` the name `name`: renames what its node gives, or adds an Identity to a value that
  // has a name already.
  void NameValue(const Value& value, const std::string& name, size_t at) {
    const Value& last = value.node >= 0 ? value : Emit("Identity", {value}, at);
    graph()->mutable_node(last.node)->set_output(0, name);
  }

  bool ParseReturn() {
    Advance();
    absl::flat_hash_set<absl::string_view> returned;
    do {
      const Token name = Next();
      if (name.kind != TokenKind::kName) return Expected("the name of a value");
      Advance();
      const std::string quoted = absl::StrCat("'", PrintableText(name.text), "'");
      if (!defined_.contains(name.text)) {
        return Fail(name.at, absl::StrCat(quoted, " is not a value that a statement names"));
      }
      if (!returned.insert(name.text).second) {
        return Fail(name.at, absl::StrCat(quoted, " is returned twice"));
      }
      graph()->add_output()->set_name(std::string(name.text));
    } while (Take(","));
    if (!AtEndOfStatement()) return Expected("',' or the end of the formula");
    SkipEmptyStatements();
    return Next().kind == TokenKind::kEnd || Fail(Next().at, "nothing may follow 'return'");
  }

  // --- Expressions.

  bool ParseExpression(Value* out) {
    if (!ParseSum(out)) return false;
    const char* op = ComparisonOp(Next());
    if (op == nullptr) return true;
    const Token symbol = Advance();
    Value right;
    if (!ParseSum(&right)) return false;
    if (ComparisonOp(Next()) != nullptr) {
      return Fail(Next().at, "comparisons do not chain; multiply two of them or use parentheses");
    }
    *out = Emit(op, {*out, right}, symbol.at);
    if (symbol.text == "!=") *out = Emit("Not", {*out}, symbol.at);
    return true;
  }

  static const char* ComparisonOp(const Token& token) {
    if (token.kind != TokenKind::kSymbol) return nullptr;
    if (token.text == "<") return "Less";
    if (token.text == "<=") return "LessOrEqual";
    if (token.text == ">") return "Greater";
    if (token.text == ">=") return "GreaterOrEqual";
    return token.text == "==" || token.text == "!=" ? "Equal" : nullptr;
  }

  bool ParseSum(Value* out) {
    if (!ParseProduct(out)) return false;
    while (NextIs("+") || NextIs("-")) {
      const Token symbol = Advance();
      Value right;
      if (!ParseProduct(&right)) return false;
      *out = Emit(symbol.text == "+" ? "Add" : "Sub", {*out, right}, symbol.at);
    }
    return true;
  }

  bool ParseProduct(Value* out) {
    if (!ParseSigned(out)) return false;
    while (NextIs("*") || NextIs("/") || NextIs("@")) {
      const Token symbol = Advance();
      if (symbol.text == "*" && NextIs("*")) return Fail(symbol.at, "a power is written '^'");
      Value right;
      if (!ParseSigned(&right)) return false;
      *out = Emit(symbol.text == "*"   ? "Mul"
                  : symbol.text == "/" ? "Div"
                                       : "MatMul",
                  {*out, right}, symbol.at);
    }
    return true;
  }

  bool ParseSigned(Value* out) {
    if (!NextIs("-") && !NextIs("+")) return ParsePower(out);
    const Token sign = Advance();
    if (!Enter(sign.at) || !ParseSigned(out)) return false;
    Leave();
    if (sign.text == "+") return true;
    if (out->constant >= 0) {
      constants_[out->constant].value *= -1;  // -2 is one number, not an operation on 2
    } else {
      *out = Emit("Neg", {*out}, sign.at);
    }
    return true;
  }

  bool ParsePower(Value* out) {
    if (!ParsePostfix(out)) return false;
    if (!NextIs("^")) return true;
    const Token symbol = Advance();
    Value exponent;
    if (!Enter(symbol.at) || !ParseSigned(&exponent)) return false;
    Leave();
    *out = Emit("Pow", {*out, exponent}, symbol.at);
    return true;
  }

  bool ParsePostfix(Value* out) {
    if (!ParsePrimary(out)) return false;
    while (NextIs("[")) {
      if (!ParseIndex(out)) return false;
    }
    return true;
  }

  // x[i] and x[a:b] along the first axis.
  bool ParseIndex(Value* out) {
    if (graph()->node_size() > max_nodes_) return FailTooLarge();
    const size_t at = Advance().at;
    int64_t from = 0;
    int64_t to = std::numeric_limits<int64_t>::max();
    if (!NextIs(":") && !ParseInteger(&from)) return false;
    if (!Take(":")) {
      if (!Take("]")) return Expected("':' or ']'");
      const Value index = EmitInteger("index", from, false, at);
      *out = Emit("Gather", {*out, index}, at);
      AddInteger("axis", 0);
      return true;
    }
    if (!NextIs("]") && !ParseInteger(&to)) return false;
    if (!Take("]")) return Expected("']'");
    const Value starts = EmitInteger("starts", from, true, at);
    const Value ends = EmitInteger("ends", to, true, at);
    const Value axes = EmitInteger("axes", 0, true, at);
    *out = Emit("Slice", {*out, starts, ends, axes}, at);
    return true;
  }

  // An index or an axis: digits, perhaps behind a minus.
  bool ParseInteger(int64_t* out) {
    const bool negative = Take("-");
    const Token digits = Next();
    const bool whole = std::all_of(digits.text.begin(), digits.text.end(), absl::ascii_isdigit);
    if (digits.kind != TokenKind::kNumber || !whole) return Expected("an integer");
    if (!ReadInteger(digits.text, out)) return Fail(digits.at, "integer out of range");
    if (negative) *out = -*out;
    Advance();
    return true;
  }

  bool ParsePrimary(Value* out) {
    if (graph()->node_size() > max_nodes_) return FailTooLarge();
    const Token token = Next();
    if (token.kind == TokenKind::kNumber) {
      double number = 0;
      if (!ReadFloat(token.text, &number)) return Fail(token.at, "number out of range");
      Advance();
      *out = EmitNumber(number, token.at);
      return true;
    }
    if (token.kind == TokenKind::kName) return ParseName(out);
    if (!NextIs("(")) return Expected("a number, a name or '('");
    Advance();
    if (!Enter(token.at) || !ParseExpression(out)) return false;
    Leave();
    return Take(")") || Expected(absl::StrCat("')' for the '(' in column ",
                                              LocateInText(text_, token.at).column));
  }

  bool ParseName(Value* out) {
    const Token name = Advance();
    const std::string quoted = absl::StrCat("'", PrintableText(name.text), "'");
    const FormulaFunction* function = FindFormulaFunction(name.text);
    if (NextIs("(")) {
      if (function != nullptr) return ParseCall(*function, name, out);
      if (defined_.contains(name.text) || inputs_.contains(name.text) || name.text == "pi") {
        return Fail(name.at, absl::StrCat(quoted, " is not a function; products need '*'"));
      }
      return Fail(name.at, absl::StrCat("unknown function ", quoted, DidYouMean(name.text)));
    }
    if (function != nullptr) {
      return Fail(name.at, absl::StrCat(quoted, " is a function: write ", name.text, "(...)"));
    }
    if (name.text == "return") {
      return Fail(name.at, "'return' stands at the start of a statement only");
    }
    if (name.text == "pi") {
      *out = EmitNumber(kPi, name.at);
      return true;
    }
    *out = Value{std::string(name.text)};
    if (!defined_.contains(name.text) && inputs_.insert(name.text).second) {
      input_names_.push_back(name.text);
    }
    return true;
  }

  bool ParseCall(const FormulaFunction& function, const Token& name, Value* out) {
    const Token open = Advance();
    if (!Enter(open.at)) return false;
    const bool takes_axis =
        function.form == FormulaForm::kReduce || function.form == FormulaForm::kAxis;
    std::vector<Value> arguments;
    size_t count = 0;
    int64_t axis = -1;
    if (!NextIs(")")) {
      do {
        if (takes_axis && count == 1) {
          if (!ParseInteger(&axis)) return false;
        } else if (!ParseExpression(&arguments.emplace_back())) {
          return false;
        }
        ++count;
      } while (Take(","));
    }
    if (!Take(")")) return Expected("',' or ')'");
    Leave();
    if (count < static_cast<size_t>(function.min_arguments) ||
        count > static_cast<size_t>(function.max_arguments)) {
      return FailCount(function, name, count);
    }
    *out = EmitCall(function, arguments, count == 2 ? &axis : nullptr, name.at);
    return true;
  }

  bool FailCount(const FormulaFunction& function, const Token& name, size_t count) {
    std::string takes = absl::StrCat(function.min_arguments);
    if (function.max_arguments == kAnyNumberOfArguments) {
      absl::StrAppend(&takes, " or more");
    } else if (function.max_arguments != function.min_arguments) {
      absl::StrAppend(&takes, " or ", function.max_arguments);
    }
    return Fail(name.at, absl::StrCat(function.name, " takes ", takes,
                                      takes == "1" ? " argument" : " arguments", ", got ", count));
  }

  // --- The graph.

  // "_at_5", or "_at_2_5" for column 5 of line 2.
  std::string PlaceSuffix(size_t at) {
    if (line_starts_.empty()) {
      line_starts_.push_back(0);
      for (size_t i = 0; i < text_.size(); ++i) {
        if (text_[i] == '\n') line_starts_.push_back(i + 1);
      }
    }
    const auto line = std::upper_bound(line_starts_.begin(), line_starts_.end(), at) - 1;
    const size_t column = at - *line + 1;
    if (line_starts_.size() == 1) return absl::StrCat("_at_", column);
    return absl::StrCat("_at_", line - line_starts_.begin() + 1, "_", column);
  }

  std::string NewTemporary() {
    std::string name;
    do {
      name = absl::StrCat("_", ++temporaries_);
    } while (names_.contains(name));
    return name;
  }

  // Adds a node with one output that has no name yet.
  Value EmitNode(const char* op, absl::string_view label, size_t at) {
    Value value{NewTemporary(), graph()->node_size()};
    onnx::NodeProto* node = graph()->add_node();
    node->set_name(absl::StrCat(label, PlaceSuffix(at)));
    node->set_op_type(op);
    node->add_output(value.name);
    return value;
  }

  Value Emit(const char* op, absl::Span<const Value> inputs, size_t at) {
    Value value = EmitNode(op, op, at);
    onnx::NodeProto* node = graph()->mutable_node(value.node);
    for (const Value& input : inputs) node->add_input(input.name);
    return value;
  }

  // Sets an attribute of the node added last.
  void AddInteger(const char* name, int64_t value) {
    onnx::AttributeProto* attribute =
        graph()->mutable_node(graph()->node_size() - 1)->add_attribute();
    attribute->set_name(name);
    attribute->set_type(onnx::AttributeProto::INT);
    attribute->set_i(value);
  }

  onnx::TensorProto* AddTensor(int node) {
    onnx::AttributeProto* attribute = graph()->mutable_node(node)->add_attribute();
    attribute->set_name("value");
    attribute->set_type(onnx::AttributeProto::TENSOR);
    return attribute->mutable_t();
  }

  Value EmitNumber(double number, size_t at) {
    Value value = EmitNode("Constant", "Constant", at);
    value.constant = static_cast<int>(constants_.size());
    constants_.push_back({value.node, number, at});
    return value;
  }

  // An int64 constant: of rank 0, or of one element where `vector`.
  Value EmitInteger(absl::string_view label, int64_t number, bool vector, size_t at) {
    Value value = EmitNode("Constant", label, at);
    onnx::TensorProto* tensor = AddTensor(value.node);
    tensor->set_data_type(onnx::TensorProto::INT64);
    if (vector) tensor->add_dims(1);
    tensor->add_int64_data(number);
    return value;
  }

  Value EmitReduce(const char* op, const Value& x, const int64_t* axis, size_t at) {
    std::vector<Value> inputs = {x};
    if (axis != nullptr) inputs.push_back(EmitInteger("axes", *axis, true, at));
    const Value value = Emit(op, inputs, at);
    AddInteger("keepdims", 0);
    return value;
  }

  Value EmitCall(const FormulaFunction& function, const std::vector<Value>& arguments,
                 const int64_t* axis, size_t at) {
    switch (function.form) {
      case FormulaForm::kPlain:
      case FormulaForm::kUpper:
        break;
      case FormulaForm::kReduce:
        return EmitReduce(function.op, arguments[0], axis, at);
      case FormulaForm::kAxis: {
        const Value value = Emit(function.op, arguments, at);
        AddInteger("axis", axis == nullptr ? -1 : *axis);
        return value;
      }
      case FormulaForm::kExtremum:
        if (arguments.size() > 1) break;
        return EmitReduce(function.name == "min" ? "ReduceMin" : "ReduceMax", arguments[0], nullptr,
                          at);
      case FormulaForm::kDot: {
        const Value product = Emit("Mul", arguments, at);
        return EmitReduce("ReduceSum", product, nullptr, at);
      }
    }
    Value value = Emit(function.op, arguments, at);
    if (function.own_domain) {
      graph()->mutable_node(value.node)->set_domain(kGradwireDomain);
      uses_own_domain_ = true;
    }
    if (function.form == FormulaForm::kUpper) AddInteger("lower", 0);
    return value;
  }

  bool FinishModel() {
    if (graph()->node_size() > max_nodes_) return FailTooLarge();
    model_.set_ir_version(8);
    model_.set_producer_name("gradwire");
    onnx::OperatorSetIdProto* opset = model_.add_opset_import();
    opset->set_domain("");
    opset->set_version(18);
    if (uses_own_domain_) {
      opset = model_.add_opset_import();
      opset->set_domain(kGradwireDomain);
      opset->set_version(1);
    }
    graph()->set_name("formula");
    bool any_float = false, any_double = false;
    for (const absl::string_view name : input_names_) {
      const auto it = types_.inputs.find(name);
      const DType dtype = it == types_.inputs.end() ? DType::kDouble : it->second;
      any_float |= dtype == DType::kFloat;
      any_double |= dtype == DType::kDouble;
      onnx::ValueInfoProto* input = graph()->add_input();
      input->set_name(std::string(name));
      input->mutable_type()->mutable_tensor_type()->set_elem_type(static_cast<int>(dtype));
    }
    return FillConstants(any_float && !any_double);
  }

  bool FillConstants(bool in_float) {
    for (const Constant& constant : constants_) {
      onnx::TensorProto* tensor = AddTensor(constant.node);
      if (!in_float) {
        tensor->set_data_type(onnx::TensorProto::DOUBLE);
        tensor->add_double_data(constant.value);
        continue;
      }
      if (std::abs(constant.value) > std::numeric_limits<float>::max()) {
        return Fail(constant.at, "number out of the range of FLOAT, the type of the inputs");
      }
      tensor->set_data_type(onnx::TensorProto::FLOAT);
      tensor->add_float_data(static_cast<float>(constant.value));
    }
    return true;
  }

  const absl::string_view text_;
  const FormulaTypes& types_;
  const int64_t max_nodes_;
  absl::Status status_;
  onnx::ModelProto model_;

  std::vector<Token> tokens_;
  size_t next_ = 0;
  int depth_ = 0;
  std::vector<size_t> line_starts_;

  absl::flat_hash_set<absl::string_view> names_;    // every name in the formula
  absl::flat_hash_set<absl::string_view> defined_;  // by a statement
  absl::flat_hash_set<absl::string_view> inputs_;
  std::vector<absl::string_view> input_names_;  // in order of first appearance
  std::vector<Constant> constants_;
  int64_t temporaries_ = 0;
  bool uses_own_domain_ = false;
};

}  // namespace

absl::StatusOr<onnx::ModelProto> ParseFormula(absl::string_view formula, const FormulaTypes& types,
                                              int64_t max_nodes) {
  return FormulaParser(formula, types, max_nodes).Parse();
}

}  // namespace gradwire
