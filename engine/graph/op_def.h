// File: op_def.h
//
// OpDef: one row of the op table, everything Gradwire knows about one op. Import, type rules,
// derivatives, lowering, capability list, documentation, conformance tests and gradient checks are
// all computed from it; there is no other list of ops. docs/adding-an-op.md walks through one.
//
// A row describes a *core* op (it can stand in a Graph: `infer`, `reference`, `derivative`,
// `lowering`), how ONNX spells it (`onnx`), or both. A row with an `onnx` binding and no `infer` is
// a composite: its import builds other ops, and it never stands in a Graph.
//
//   const OpDef kTanh = {
//       .name = "Tanh",
//       .doc = "Hyperbolic tangent.",
//       .infer = InferUnaryFloat,
//       .reference = ...,
//       .derivative = Elementwise{[](GraphBuilder& b, const NodeView& n, int) {
//         return Sub(b, b.Scalar(n.out[0], 1), Mul(b, n.out[0], n.out[0]));
//       }},
//       .lowering = Pointwise{tiles::Tanh},
//       .onnx = {{.name = "Tanh", .since = 6}},
//   };
#ifndef GRADWIRE_ENGINE_GRAPH_OP_DEF_H_
#define GRADWIRE_ENGINE_GRAPH_OP_DEF_H_

#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/graph/attrs.h"
#include "engine/graph/layout.h"

namespace gradwire {

class GraphBuilder;
class NodeExport;
class NodeImport;

using ValueId = int32_t;
inline constexpr ValueId kNoValue = -1;  // "absent" or "zero", as each function says

// ---- Types -------------------------------------------------------------------------------------

// What `infer` sees. Inputs are never absent in a core op.
struct InferArgs {
  absl::Span<const TensorType> in;
  const Attrs& attrs;
};
// The types of the outputs, or an error that says what was got and expected (the builder adds
// where).
using InferFn = absl::StatusOr<std::vector<TensorType>> (*)(const InferArgs&);

// ---- Reference ---------------------------------------------------------------------------------

// A plain loop: the oracle of every test and what runs where no faster kernel takes the node.
// Inputs and outputs are dense, row-major and aligned; `out` has the inferred types. Must not
// throw, allocate more than a few KiB, or read past its inputs. An error (index out of range) names
// the element.
struct ReferenceArgs {
  const Attrs& attrs;
  absl::Span<const TensorView> in;
  absl::Span<const TensorType> out_types;
  absl::Span<void* const> out;
  int threads = 1;
};
using ReferenceFn = absl::Status (*)(const ReferenceArgs&);

// ---- Derivatives -------------------------------------------------------------------------------

// What a derivative rule sees of the node it differentiates.
struct NodeView {
  const Attrs& attrs;
  absl::Span<const ValueId> in;
  absl::Span<const ValueId> out;
};

// The kinds, as in JAX: a rule states the mathematics once and both modes follow. Rules build
// nodes; they never mention broadcasting, zero cotangents or accumulation, and never test a status.

// out = f(in...) element by element with broadcasting. `partial` gives d out / d in[i] (any shape
// that broadcasts to the output), kNoValue for identically zero.
struct Elementwise {
  ValueId (*partial)(GraphBuilder& b, const NodeView& n, int i);
};
// Jointly linear in its floating inputs. `transpose` gives the cotangent of in[i] from that of the
// only output (the walker sums broadcast dimensions away). The jvp is the op itself.
struct Linear {
  ValueId (*transpose)(GraphBuilder& b, const NodeView& n, int i, ValueId g);
};
// Linear in in[0] and in in[1], each with the other held. lhs and rhs give their cotangents.
struct Bilinear {
  ValueId (*lhs)(GraphBuilder& b, const NodeView& n, ValueId g);
  ValueId (*rhs)(GraphBuilder& b, const NodeView& n, ValueId g);
};
// Anything else. g[i] is the cotangent of out[i], t[i] the tangent of in[i]; kNoValue means zero,
// in arguments and results.
struct General {
  std::vector<ValueId> (*vjp)(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> g);
  std::vector<ValueId> (*jvp)(GraphBuilder& b, const NodeView& n, absl::Span<const ValueId> t);
};
struct Zero {};  // piecewise constant: comparisons, Sign, Shape
struct NotDifferentiable {
  const char* why;
};
using Derivative = std::variant<Zero, Elementwise, Linear, Bilinear, General, NotDifferentiable>;

// ---- Lowering ----------------------------------------------------------------------------------

// One pointwise operation over n consecutive elements. in[i] and out may be the same pointer, and
// have the alignment of their element type only.
using TileFn = void (*)(const void* const* in, void* out, int64_t n);

// Activations that a primitive can apply to its result in the same pass.
enum class PostOp { kNone, kRelu, kTanh, kSigmoid };
// Primitives that a provider may have a kernel for. Reference semantics are the op's own.
enum class PrimitiveKind { kMatMul, kConv, kConvInputGrad, kConvWeightGrad };
enum class ReduceKind { kSum, kMax, kMin };

struct NoLowering {};  // runs its reference
// Any number of pointwise ops become one Map cluster. `tile` picks the loop for these element
// types, null where there is none (then the reference runs).
struct Pointwise {
  TileFn (*tile)(absl::Span<const DType> in, DType out);
  PostOp post_op = PostOp::kNone;
};
// Reduces over the attribute "axes" and drops those dimensions.
struct Reduce {
  ReduceKind kind;
};
// Moves no data: the output is in[0] read through another layout. nullopt where that layout cannot
// be expressed with strides (then in[0] is made dense first; a dense input must succeed).
struct View {
  std::optional<Layout> (*layout)(const Attrs& attrs, const TensorType& in, const Layout& in_layout,
                                  const TensorType& out);
};
struct Primitive {
  PrimitiveKind kind;
};
using Lowering = std::variant<NoLowering, Pointwise, Reduce, View, Primitive>;

// ---- ONNX --------------------------------------------------------------------------------------

// How ONNX spells an op. Without `import`, the ONNX node becomes this core op with the same inputs
// and the attributes that the row declares.
struct OnnxBinding {
  absl::string_view name;
  absl::string_view domain = "";  // "" is ai.onnx; "gradwire" is ours
  int since = 1;                  // first opset in which this binding holds
  int until = 1000;               // last one
  // Builds the node's outputs (kNoValue for outputs that are not asked for).
  std::vector<ValueId> (*import)(NodeImport& n) = nullptr;
};

// ---- Tests -------------------------------------------------------------------------------------

// One input of a generated test case. dtype kUndefined means "the dtype under test".
struct SampleInput {
  Dims shape;
  DType dtype = DType::kUndefined;
  double low = -2, high = 2;        // uniform; integers are drawn from [low, high)
  std::vector<double> values = {};  // given instead of drawn: axes, indices, shapes
  bool constant = false;            // integer that decides a shape: passed as an initialiser
  bool absent = false;
};
struct Sample {
  std::vector<SampleInput> inputs;
  Attrs attrs = {};
  int opset = 0;  // 0: the binding's newest up to 18
  int num_outputs = 1;
  // A graph in ONNX's text form around the node, for ops that mean something among others only
  // (bodies, sequences): "g (x0, x1) => (y0) {...}", the inputs being those of the sample.
  absl::string_view text = {};
};
// Where tests sample the op: away from kinks and poles. Rows of pointwise ops give an interval per
// input and get shapes (rank 0 to 4, size 0, broadcasting) by themselves; others list samples.
struct Domain {
  double low = -2, high = 2;
  std::vector<Sample> samples = {};
};

struct AttrDef {
  std::string name;
  AttrValue fallback;  // its type is the attribute's type
  bool required = false;
};

inline constexpr int kVariadic = 1 << 20;

struct OpDef {
  absl::string_view name;
  absl::string_view doc;            // a sentence or two of Markdown: formula, conventions at kinks
  std::vector<AttrDef> attrs = {};  // of the core op
  int min_inputs = 1;
  int max_inputs = 1;
  InferFn infer = nullptr;  // null: composite
  ReferenceFn reference = nullptr;
  // An exactly equal value that is cheaper, or kNoValue. Sees inputs, attributes and the type.
  ValueId (*simplify)(GraphBuilder& b, const NodeView& n, const TensorType& type) = nullptr;
  Derivative derivative = Zero{};
  Lowering lowering = NoLowering{};
  // Arithmetic operations of one run, for estimates of time (saturating). Null: one for each
  // element of the first output.
  int64_t (*flops)(const InferArgs& args, const TensorType& out) = nullptr;
  std::vector<OnnxBinding> onnx = {};
  // Inputs of the ONNX node that are a state and no parameter (running statistics): training
  // updates them (NodeImport::SetState), and nothing differentiates by them unless asked.
  std::vector<int> state_inputs = {};
  // How the op is written as ONNX: node_export.h. Null: as one node of the newest binding.
  void (*export_onnx)(NodeExport& n) = nullptr;
  // Why it cannot be written as ONNX, where it cannot.
  absl::string_view no_onnx_form = "";
  // For an op of our own domain: the text of a function that says what it computes to others.
  absl::string_view onnx_function = "";
  Domain domain = {};
};

// ---- Registry ----------------------------------------------------------------------------------

// An explicit list of rows, searchable by name. AllOps() (engine/ops/all_ops.h) is the product's;
// tests may make another with one more row.
class OpRegistry {
 public:
  explicit OpRegistry(std::vector<const OpDef*> rows);
  absl::Span<const OpDef* const> rows() const { return rows_; }
  const OpDef* Find(absl::string_view name) const;
  // The row and binding for an ONNX node; {nullptr, nullptr} where the op or opset is not
  // supported.
  struct Match {
    const OpDef* op = nullptr;
    const OnnxBinding* binding = nullptr;
  };
  Match FindOnnx(absl::string_view domain, absl::string_view name, int opset) const;
  // True if some opset of (domain, name) is bound.
  bool KnowsOnnx(absl::string_view domain, absl::string_view name) const;

 private:
  struct OnnxEntry {
    const OpDef* op;
    const OnnxBinding* binding;
  };
  std::vector<const OpDef*> rows_;
  std::vector<OnnxEntry> onnx_;  // sorted by domain, name, since
};

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_GRAPH_OP_DEF_H_
