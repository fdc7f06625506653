#include "client/model_builder.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "onnx/onnx.pb.h"
#include "proto/codec/tensor_codec.h"

namespace gradwire {

// The model so far. Nodes stand in the order in which they were made: inputs before users.
struct Expression::Body {
  onnx::ModelProto model;
  std::set<std::string> names;
  int64_t next_value = 1;
  absl::Status status;

  onnx::GraphProto& graph() { return *model.mutable_graph(); }

  void Fail(absl::string_view message) {
    if (status.ok())
      status = Error(Reason::kInvalidModel, absl::StrCat("model builder: ", message));
  }

  void TakeName(const std::string& name) {
    if (name.empty()) return Fail("a value needs a name");
    if (!names.insert(name).second) Fail(absl::StrCat("the name '", name, "' is given twice"));
  }

  std::string NewName() {
    std::string name;
    do {
      name = absl::StrCat("_", next_value++);
    } while (!names.insert(name).second);
    return name;
  }
};

namespace {

constexpr int64_t kIrVersion = 8;
constexpr int64_t kOpset = 18;

void SetElements(const Tensor& value, onnx::TensorProto* out) {
  out->set_data_type(static_cast<int32_t>(value.dtype()));
  for (int64_t extent : value.shape().dims()) out->add_dims(extent);
  out->set_raw_data(value.raw(), static_cast<size_t>(value.bytes()));
}

void SetAttribute(absl::string_view name, int64_t value, onnx::NodeProto* node) {
  onnx::AttributeProto* attribute = node->add_attribute();
  attribute->set_name(std::string(name));
  attribute->set_type(onnx::AttributeProto::INT);
  attribute->set_i(value);
}

// Drops what `output` does not depend on. One walk from the last node to the first suffices: they
// are in topological order.
void KeepOnly(const std::string& output, onnx::GraphProto* graph) {
  std::set<std::string> needed = {output};
  std::vector<onnx::NodeProto> kept;
  for (int i = graph->node_size() - 1; i >= 0; --i) {
    onnx::NodeProto* node = graph->mutable_node(i);
    if (needed.count(node->output(0)) == 0) continue;
    needed.insert(node->input().begin(), node->input().end());
    kept.push_back(std::move(*node));
  }
  graph->clear_node();
  for (auto node = kept.rbegin(); node != kept.rend(); ++node) {
    *graph->add_node() = std::move(*node);
  }
  auto drop = [&needed](auto* values) {
    int next = 0;
    for (int i = 0; i < values->size(); ++i) {
      if (needed.count(values->Get(i).name()) > 0) values->SwapElements(i, next++);
    }
    values->DeleteSubrange(next, values->size() - next);
  };
  drop(graph->mutable_input());
  drop(graph->mutable_initializer());
}

void AddOutput(const std::string& name, DType dtype, onnx::GraphProto* graph) {
  onnx::ValueInfoProto* output = graph->add_output();
  output->set_name(name);
  output->mutable_type()->mutable_tensor_type()->set_elem_type(static_cast<int32_t>(dtype));
}

void AddNode(absl::string_view op, const std::string& input, const std::string& output,
             onnx::GraphProto* graph) {
  onnx::NodeProto* node = graph->add_node();
  node->set_op_type(std::string(op));
  node->add_input(input);
  node->add_output(output);
}

ModelSource SourceOf(const onnx::ModelProto& model) {
  std::string bytes;
  if (!model.SerializeToString(&bytes)) {
    return ModelSource::Failed(
        Error(Reason::kGraphTooLarge, "model builder: the model is above 2 GiB"));
  }
  return ModelSource::Onnx(std::move(bytes));
}

}  // namespace

// What the functions below need of an Expression.
struct ExpressionAccess {
  using Body = Expression::Body;

  static Expression Make(const std::shared_ptr<Body>& body, std::string name, DType dtype) {
    return Expression(body, std::move(name), dtype);
  }

  static void CheckOwner(const std::shared_ptr<Body>& body, const Expression& value) {
    if (value.body_ != body) {
      body->Fail(absl::StrCat("'", value.name_, "' belongs to another builder"));
    }
  }

  // A node whose result has this element type. `*node` takes attributes.
  static Expression Node(const std::shared_ptr<Body>& body, absl::string_view op,
                         const std::vector<Expression>& inputs, DType dtype,
                         onnx::NodeProto** node_out = nullptr) {
    onnx::NodeProto* node = body->graph().add_node();
    node->set_op_type(std::string(op));
    for (const Expression& input : inputs) {
      CheckOwner(body, input);
      node->add_input(input.name_);
    }
    node->add_output(body->NewName());
    if (node_out != nullptr) *node_out = node;
    return Make(body, node->output(0), dtype);
  }

  static Expression Constant(const std::shared_ptr<Body>& body, const Tensor& value) {
    onnx::NodeProto* node;
    Expression result = Node(body, "Constant", {}, value.dtype(), &node);
    onnx::AttributeProto* attribute = node->add_attribute();
    attribute->set_name("value");
    attribute->set_type(onnx::AttributeProto::TENSOR);
    SetElements(value, attribute->mutable_t());
    return result;
  }

  // A number in the element type of `like`.
  static Expression Number(double number, const Expression& like) {
    v1::Tensor wire;
    wire.set_data_type(static_cast<v1::DataType>(like.dtype_));
    wire.add_values(number);
    std::vector<Tensor> owned;
    absl::StatusOr<TensorView> view =
        codec::ViewOf(wire, absl::StrCat("the number ", number), &owned);
    if (!view.ok()) {
      like.body_->Fail(view.status().message());
      return like;
    }
    return Constant(like.body_, owned.front());
  }

  static Expression Join(absl::string_view op, const std::vector<Expression>& inputs, DType dtype) {
    return Node(inputs.front().body_, op, inputs, dtype);
  }

  static Expression Unary(absl::string_view op, const Expression& x) {
    return Node(x.body_, op, {x}, x.dtype_);
  }

  static void CheckSameType(absl::string_view op, const Expression& a, const Expression& b) {
    if (a.dtype_ == b.dtype_) return;
    a.body_->Fail(absl::StrCat(op, " of '", a.name_, "' and '", b.name_,
                               "': element types differ: ", DTypeName(a.dtype_), " and ",
                               DTypeName(b.dtype_)));
  }

  static Expression Binary(absl::string_view op, const Expression& a, const Expression& b) {
    CheckSameType(op, a, b);
    return Node(a.body_, op, {a, b}, a.dtype_);
  }

  static Expression Compare(absl::string_view op, const Expression& a, const Expression& b) {
    CheckSameType(op, a, b);
    return Node(a.body_, op, {a, b}, DType::kBool);
  }

  static Expression Reduce(absl::string_view op, const Expression& x,
                           const std::vector<int64_t>* axes, bool keep_dims) {
    std::vector<Expression> inputs = {x};
    if (axes != nullptr) {
      inputs.push_back(Constant(
          x.body_, Tensor::FromVector<int64_t>({static_cast<int64_t>(axes->size())}, *axes)));
    }
    onnx::NodeProto* node;
    Expression result = Node(x.body_, op, inputs, x.dtype_, &node);
    SetAttribute("keepdims", keep_dims ? 1 : 0, node);
    return result;
  }

  static Expression WithAttribute(absl::string_view op, const Expression& x,
                                  absl::string_view attribute, int64_t value, DType dtype) {
    onnx::NodeProto* node;
    Expression result = Node(x.body_, op, {x}, dtype, &node);
    SetAttribute(attribute, value, node);
    return result;
  }
};

using Access = ExpressionAccess;

Expression::operator ModelSource() const {
  if (!body_->status.ok()) return ModelSource::Failed(body_->status);
  onnx::ModelProto model = body_->model;
  onnx::GraphProto* graph = model.mutable_graph();
  KeepOnly(name_, graph);
  std::string output = "f";
  while (body_->names.count(output) > 0) output += '_';
  AddNode("Identity", name_, output, graph);
  graph->clear_output();
  AddOutput(output, dtype_, graph);
  return SourceOf(model);
}

ModelBuilder::ModelBuilder() : body_(std::make_shared<Expression::Body>()) {
  body_->model.set_ir_version(kIrVersion);
  body_->model.set_producer_name("gradwire");
  body_->model.add_opset_import()->set_version(kOpset);
  body_->graph().set_name("graph");
}

Expression ModelBuilder::Input(absl::string_view name, DType dtype,
                               std::initializer_list<InputDim> dims) {
  body_->TakeName(std::string(name));
  onnx::ValueInfoProto* input = body_->graph().add_input();
  input->set_name(std::string(name));
  onnx::TypeProto::Tensor* type = input->mutable_type()->mutable_tensor_type();
  type->set_elem_type(static_cast<int32_t>(dtype));
  onnx::TensorShapeProto* shape = type->mutable_shape();
  for (const InputDim& dim : dims) {
    if (dim.symbol.empty()) {
      shape->add_dim()->set_dim_value(dim.extent);
    } else {
      shape->add_dim()->set_dim_param(dim.symbol);
    }
  }
  return Access::Make(body_, std::string(name), dtype);
}

Expression ModelBuilder::Parameter(absl::string_view name, const Tensor& value) {
  body_->TakeName(std::string(name));
  onnx::TensorProto* initializer = body_->graph().add_initializer();
  initializer->set_name(std::string(name));
  SetElements(value, initializer);
  return Access::Make(body_, std::string(name), value.dtype());
}

Expression ModelBuilder::Constant(const Tensor& value) { return Access::Constant(body_, value); }

Expression ModelBuilder::Output(absl::string_view name, const Expression& value) {
  Access::CheckOwner(body_, value);
  body_->TakeName(std::string(name));
  AddNode("Identity", value.name(), std::string(name), &body_->graph());
  AddOutput(std::string(name), value.dtype(), &body_->graph());
  return Access::Make(body_, std::string(name), value.dtype());
}

Expression ModelBuilder::Apply(absl::string_view op, const std::vector<Expression>& inputs) {
  if (inputs.empty()) body_->Fail(absl::StrCat(op, " without inputs has no element type"));
  return Access::Node(body_, op, inputs,
                      inputs.empty() ? DType::kUndefined : inputs.front().dtype());
}

absl::StatusOr<std::string> ModelBuilder::Build() const {
  const ModelSource source = *this;
  GW_RETURN_IF_ERROR(source.status());
  return source.content();
}

ModelBuilder::operator ModelSource() const {
  if (body_->status.ok() && body_->graph().output_size() == 0) {
    return ModelSource::Failed(
        Error(Reason::kInvalidModel, "model builder: the model has no Output()"));
  }
  if (!body_->status.ok()) return ModelSource::Failed(body_->status);
  return SourceOf(body_->model);
}

Expression operator+(const Expression& a, const Expression& b) {
  return Access::Binary("Add", a, b);
}
Expression operator-(const Expression& a, const Expression& b) {
  return Access::Binary("Sub", a, b);
}
Expression operator*(const Expression& a, const Expression& b) {
  return Access::Binary("Mul", a, b);
}
Expression operator/(const Expression& a, const Expression& b) {
  return Access::Binary("Div", a, b);
}
Expression operator+(const Expression& a, double b) { return a + Access::Number(b, a); }
Expression operator-(const Expression& a, double b) { return a - Access::Number(b, a); }
Expression operator*(const Expression& a, double b) { return a * Access::Number(b, a); }
Expression operator/(const Expression& a, double b) { return a / Access::Number(b, a); }
Expression operator+(double a, const Expression& b) { return Access::Number(a, b) + b; }
Expression operator-(double a, const Expression& b) { return Access::Number(a, b) - b; }
Expression operator*(double a, const Expression& b) { return Access::Number(a, b) * b; }
Expression operator/(double a, const Expression& b) { return Access::Number(a, b) / b; }
Expression operator-(const Expression& a) { return Access::Unary("Neg", a); }
Expression Pow(const Expression& base, const Expression& exponent) {
  return Access::Binary("Pow", base, exponent);
}
Expression Pow(const Expression& base, double exponent) {
  return Pow(base, Access::Number(exponent, base));
}
Expression Min(const Expression& a, const Expression& b) { return Access::Binary("Min", a, b); }
Expression Max(const Expression& a, const Expression& b) { return Access::Binary("Max", a, b); }

Expression Abs(const Expression& x) { return Access::Unary("Abs", x); }
Expression Cos(const Expression& x) { return Access::Unary("Cos", x); }
Expression Exp(const Expression& x) { return Access::Unary("Exp", x); }
Expression Log(const Expression& x) { return Access::Unary("Log", x); }
Expression Relu(const Expression& x) { return Access::Unary("Relu", x); }
Expression Sigmoid(const Expression& x) { return Access::Unary("Sigmoid", x); }
Expression Sin(const Expression& x) { return Access::Unary("Sin", x); }
Expression Sqrt(const Expression& x) { return Access::Unary("Sqrt", x); }
Expression Tanh(const Expression& x) { return Access::Unary("Tanh", x); }
Expression Cast(const Expression& x, DType dtype) {
  return Access::WithAttribute("Cast", x, "to", static_cast<int64_t>(dtype), dtype);
}

Expression operator<(const Expression& a, const Expression& b) {
  return Access::Compare("Less", a, b);
}
Expression operator<=(const Expression& a, const Expression& b) {
  return Access::Compare("LessOrEqual", a, b);
}
Expression operator>(const Expression& a, const Expression& b) {
  return Access::Compare("Greater", a, b);
}
Expression operator>=(const Expression& a, const Expression& b) {
  return Access::Compare("GreaterOrEqual", a, b);
}
Expression operator<(const Expression& a, double b) { return a < Access::Number(b, a); }
Expression operator<=(const Expression& a, double b) { return a <= Access::Number(b, a); }
Expression operator>(const Expression& a, double b) { return a > Access::Number(b, a); }
Expression operator>=(const Expression& a, double b) { return a >= Access::Number(b, a); }
Expression Equal(const Expression& a, const Expression& b) {
  return Access::Compare("Equal", a, b);
}
Expression Where(const Expression& condition, const Expression& a, const Expression& b) {
  Access::CheckSameType("Where", a, b);
  return Access::Join("Where", {condition, a, b}, a.dtype());
}
Expression Where(const Expression& condition, const Expression& a, double b) {
  return Where(condition, a, Access::Number(b, a));
}
Expression Where(const Expression& condition, double a, const Expression& b) {
  return Where(condition, Access::Number(a, b), b);
}

Expression MatMul(const Expression& a, const Expression& b) {
  return Access::Binary("MatMul", a, b);
}
Expression Transpose(const Expression& x) { return Access::Unary("Transpose", x); }
Expression Sum(const Expression& x) { return Access::Reduce("ReduceSum", x, nullptr, false); }
Expression Sum(const Expression& x, const std::vector<int64_t>& axes, bool keep_dims) {
  return Access::Reduce("ReduceSum", x, &axes, keep_dims);
}
Expression Mean(const Expression& x) { return Access::Reduce("ReduceMean", x, nullptr, false); }
Expression Mean(const Expression& x, const std::vector<int64_t>& axes, bool keep_dims) {
  return Access::Reduce("ReduceMean", x, &axes, keep_dims);
}
Expression Softmax(const Expression& x, int64_t axis) {
  return Access::WithAttribute("Softmax", x, "axis", axis, x.dtype());
}
Expression LogSoftmax(const Expression& x, int64_t axis) {
  return Access::WithAttribute("LogSoftmax", x, "axis", axis, x.dtype());
}
Expression SoftmaxCrossEntropy(const Expression& scores, const Expression& labels) {
  return Access::Join("SoftmaxCrossEntropyLoss", {scores, labels}, scores.dtype());
}

}  // namespace gradwire
