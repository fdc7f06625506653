// File: model_builder.h
//
// Builds ONNX models from C++ expressions (opset 18).
//
//   ModelBuilder g;
//   Expression x = g.Input("x"), y = g.Input("y");          // DOUBLE scalars
//   client.Gradient(x * x * y + y * y * y, {{"x", 2}, {"y", 3}});
//
//   Expression images = g.Input("images", DType::kFloat, {"N", 64});
//   Expression w = g.Parameter("w", weights), b = g.Parameter("b", biases);
//   Expression loss = g.Output("loss", Mean(Pow(MatMul(images, w) + b - targets, 2)));
//   client.Gradient(g, {{"images", batch}, ...}, {.wrt = {"w", "b"}});
//
// Values: an Expression stands for one value of the model; using it twice computes it once. Shapes
// broadcast as in NumPy, and it is the server that checks them. Element types are not converted:
// both sides of an operator have the same one, except that a plain number takes the type of the
// other side; Cast() converts.
//
// Models: passing an Expression to a Client computes that value alone, as output "f", of a model
// with only the inputs and parameters it depends on. Passing the builder takes everything named by
// Output(), and all inputs.
//
// Errors are sticky, so that expressions need no checks: the first mistake (a name given twice, an
// expression of another builder, two element types in one operator) is what every later use of the
// model fails with, as INVALID_MODEL.
//
// Thread-safety: a builder and its expressions belong to one thread at a time.
#ifndef GRADWIRE_CLIENT_MODEL_BUILDER_H_
#define GRADWIRE_CLIENT_MODEL_BUILDER_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/model_source.h"
#include "engine/tensor/tensor.h"

namespace gradwire {

// A dimension of an input: an extent, or a name for one that every call may choose.
struct InputDim {
  InputDim(int64_t extent) : extent(extent) {}      // NOLINT: implicit, as in {"N", 64}
  InputDim(int extent) : extent(extent) {}          // NOLINT
  InputDim(const char* symbol) : symbol(symbol) {}  // NOLINT

  int64_t extent = 0;
  std::string symbol;
};

// One value of a model under construction. Copies are cheap and mean the same value.
class Expression {
 public:
  // The value's name in the model, which calls may use for `wrt` and `outputs`.
  const std::string& name() const { return name_; }
  DType dtype() const { return dtype_; }

  // The model that computes this value as its only output, "f" (f_, ... where "f" is taken).
  operator ModelSource() const;  // NOLINT: so that calls take expressions

 private:
  friend class ModelBuilder;
  friend struct ExpressionAccess;
  struct Body;

  Expression(std::shared_ptr<Body> body, std::string name, DType dtype)
      : body_(std::move(body)), name_(std::move(name)), dtype_(dtype) {}

  std::shared_ptr<Body> body_;
  std::string name_;
  DType dtype_;
};

class ModelBuilder {
 public:
  ModelBuilder();

  // An input of the model. Without `dims` it is a scalar.
  Expression Input(absl::string_view name, DType dtype = DType::kDouble,
                   std::initializer_list<InputDim> dims = {});
  // An initialiser: a value that the model holds, that calls may override, and by which they
  // differentiate unless told otherwise.
  Expression Parameter(absl::string_view name, const Tensor& value);
  // A value that never changes and is no parameter.
  Expression Constant(const Tensor& value);
  // Makes `value` an output of the model, under this name.
  Expression Output(absl::string_view name, const Expression& value);
  // A node of any ONNX operator without attributes and with one output, which has the element type
  // of the first input: Apply("Softplus", {x}).
  Expression Apply(absl::string_view op, const std::vector<Expression>& inputs);

  // The model: a serialized onnx.ModelProto. Errors: INVALID_MODEL, the first mistake made; also
  // where there is no Output().
  absl::StatusOr<std::string> Build() const;
  operator ModelSource() const;  // NOLINT: so that calls take builders

 private:
  std::shared_ptr<Expression::Body> body_;
};

// ---- Arithmetic, element by element with broadcasting.
Expression operator+(const Expression& a, const Expression& b);
Expression operator-(const Expression& a, const Expression& b);
Expression operator*(const Expression& a, const Expression& b);
Expression operator/(const Expression& a, const Expression& b);
Expression operator+(const Expression& a, double b);
Expression operator-(const Expression& a, double b);
Expression operator*(const Expression& a, double b);
Expression operator/(const Expression& a, double b);
Expression operator+(double a, const Expression& b);
Expression operator-(double a, const Expression& b);
Expression operator*(double a, const Expression& b);
Expression operator/(double a, const Expression& b);
Expression operator-(const Expression& a);
Expression Pow(const Expression& base, const Expression& exponent);
Expression Pow(const Expression& base, double exponent);
Expression Min(const Expression& a, const Expression& b);
Expression Max(const Expression& a, const Expression& b);

// ---- Functions, element by element.
Expression Abs(const Expression& x);
Expression Cos(const Expression& x);
Expression Exp(const Expression& x);
Expression Log(const Expression& x);
Expression Relu(const Expression& x);
Expression Sigmoid(const Expression& x);
Expression Sin(const Expression& x);
Expression Sqrt(const Expression& x);
Expression Tanh(const Expression& x);
Expression Cast(const Expression& x, DType dtype);

// ---- Comparison gives BOOL; Where(c, a, b) is a where c holds, else b.
Expression operator<(const Expression& a, const Expression& b);
Expression operator<=(const Expression& a, const Expression& b);
Expression operator>(const Expression& a, const Expression& b);
Expression operator>=(const Expression& a, const Expression& b);
Expression operator<(const Expression& a, double b);
Expression operator<=(const Expression& a, double b);
Expression operator>(const Expression& a, double b);
Expression operator>=(const Expression& a, double b);
Expression Equal(const Expression& a, const Expression& b);
Expression Where(const Expression& condition, const Expression& a, const Expression& b);
Expression Where(const Expression& condition, const Expression& a, double b);
Expression Where(const Expression& condition, double a, const Expression& b);

// ---- Matrices and axes. Negative axes count from the end.
Expression MatMul(const Expression& a, const Expression& b);
// The axes of a matrix (or all axes of a tensor) in reverse order.
Expression Transpose(const Expression& x);
// Over all axes, giving a scalar, or over some: these stay with extent 1 where keep_dims is set.
Expression Sum(const Expression& x);
Expression Sum(const Expression& x, const std::vector<int64_t>& axes, bool keep_dims = false);
Expression Mean(const Expression& x);
Expression Mean(const Expression& x, const std::vector<int64_t>& axes, bool keep_dims = false);
Expression Softmax(const Expression& x, int64_t axis = -1);
Expression LogSoftmax(const Expression& x, int64_t axis = -1);
// The mean of -log softmax(scores)[label] over the rows: scores [N, C], labels INT64 [N].
Expression SoftmaxCrossEntropy(const Expression& scores, const Expression& labels);

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_MODEL_BUILDER_H_
