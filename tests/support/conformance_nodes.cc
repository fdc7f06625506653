// What a node's lowering promises about its types, said once more and independently of its type
// rule; and nodes whose attributes are a little wrong.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;

std::vector<TensorType> InputTypes(const Graph& graph, const Node& node) {
  std::vector<TensorType> in;
  for (ValueId v : graph.operands(node)) in.push_back(graph.type(v));
  return in;
}

// NumPy's rule, dimension by dimension.
Shape Broadcast(absl::Span<const TensorType> in) {
  size_t rank = 0;
  for (const TensorType& t : in) rank = std::max(rank, t.shape.dims().size());
  Dims out(rank, 1);
  for (const TensorType& t : in) {
    const Dims& dims = t.shape.dims();
    for (size_t d = 0; d < dims.size(); ++d) {
      int64_t& extent = out[d + rank - dims.size()];
      if (dims[d] != 1) extent = dims[d];
    }
  }
  return Shape(std::move(out));
}

Shape WithoutAxes(const Shape& in, const std::vector<int64_t>& axes) {
  Dims out;
  for (int d = 0; d < in.rank(); ++d) {
    if (std::find(axes.begin(), axes.end(), d) == axes.end()) out.push_back(in[d]);
  }
  return Shape(std::move(out));
}

Shape MatrixProduct(absl::Span<const TensorType> in) {
  std::vector<TensorType> stacks(in.begin(), in.begin() + 2);
  for (TensorType& t : stacks) {
    t.shape = Shape(Dims(t.shape.dims().begin(), t.shape.dims().end() - 2));
  }
  Dims out = Broadcast(stacks).dims();
  out.push_back(in[0].shape[in[0].shape.rank() - 2]);
  out.push_back(in[1].shape[in[1].shape.rank() - 1]);
  return Shape(std::move(out));
}

// The extents of a convolution's output: as many windows as fit, and not one more.
bool CountsWindows(const Attrs& attrs, const Shape& x, const Shape& w, const Shape& y) {
  const auto rank = static_cast<size_t>(x.rank() - 2);
  bool ok = y.rank() == x.rank() && y[0] == x[0] && y[1] == w[0];
  for (size_t i = 0; ok && i < rank; ++i) {
    const int d = static_cast<int>(i) + 2;
    const int64_t stride = attrs.Ints("strides")[i];
    const int64_t last = x[d] + attrs.Ints("pads")[i] + attrs.Ints("pads")[i + rank] -
                         (w[d] - 1) * attrs.Ints("dilations")[i] - 1;
    ok = (y[d] - 1) * stride <= last && y[d] * stride > last;
  }
  return ok;
}

bool CountsWindows(PrimitiveKind kind, const Attrs& attrs, absl::Span<const TensorType> in,
                   const TensorType& out) {
  switch (kind) {
    case PrimitiveKind::kConv:
      return CountsWindows(attrs, in[0].shape, in[1].shape, out.shape);
    case PrimitiveKind::kConvInputGrad:
      return CountsWindows(attrs, out.shape, in[1].shape, in[0].shape);
    case PrimitiveKind::kConvWeightGrad:
      return CountsWindows(attrs, in[0].shape, out.shape, in[1].shape);
    case PrimitiveKind::kMatMul:
      break;
  }
  return true;
}

// True if every element that a view reads is one of its input's.
bool StaysInside(const View& view, const Attrs& attrs, const TensorType& in,
                 const TensorType& out) {
  const std::optional<Layout> layout = view.layout(attrs, in, Layout::RowMajor(in.shape), out);
  if (!layout || layout->strides.size() != out.shape.dims().size()) return false;
  if (out.shape.num_elements() == 0) return true;
  int64_t first = layout->offset, last = layout->offset;
  for (int d = 0; d < out.shape.rank(); ++d) {
    const int64_t reach = (out.shape[d] - 1) * layout->strides[static_cast<size_t>(d)];
    (reach < 0 ? first : last) += reach;
  }
  return first >= 0 && last < in.shape.num_elements();
}

// "" where the types are what the lowering says.
std::string BrokenPromise(const OpDef& op, const Attrs& attrs, absl::Span<const TensorType> in,
                          const TensorType& out) {
  std::optional<Shape> want;
  if (std::holds_alternative<Pointwise>(op.lowering)) want = Broadcast(in);
  if (std::holds_alternative<Reduce>(op.lowering)) {
    want = WithoutAxes(in[0].shape, attrs.Ints("axes"));
  }
  if (const auto* primitive = std::get_if<Primitive>(&op.lowering)) {
    if (primitive->kind == PrimitiveKind::kMatMul) want = MatrixProduct(in);
    if (!CountsWindows(primitive->kind, attrs, in, out)) {
      return absl::StrCat(op.name, " {", attrs.ToString(), "} has other windows");
    }
  }
  if (want && *want != out.shape) {
    return absl::StrCat(op.name, " gives ", out.ToString(), ", its lowering ", want->ToString());
  }
  const auto* view = std::get_if<View>(&op.lowering);
  if (view != nullptr && !StaysInside(*view, attrs, in[0], out)) {
    return absl::StrCat(op.name, " {", attrs.ToString(), "} from ", in[0].ToString(), " to ",
                        out.ToString(), " reads outside its input");
  }
  return "";
}

// The value with one of its numbers a little off.
std::vector<AttrValue> Neighbours(const AttrValue& value) {
  std::vector<AttrValue> out;
  if (const auto* number = std::get_if<int64_t>(&value)) {
    for (int64_t by : {-1, 1}) out.push_back(*number + by);
  }
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(&value)) {
    for (size_t i = 0; i < numbers->size(); ++i) {
      for (int64_t by : {-1, 1}) {
        std::vector<int64_t> bent = *numbers;
        bent[i] += by;
        out.push_back(std::move(bent));
      }
    }
    std::vector<int64_t> longer = *numbers;
    longer.push_back(1);
    out.push_back(std::move(longer));
  }
  return out;
}

Attrs With(const Attrs& attrs, const std::string& name, const AttrValue& value) {
  std::vector<Attrs::Entry> entries(attrs.entries().begin(), attrs.entries().end());
  for (Attrs::Entry& entry : entries) {
    if (entry.first == name) entry.second = value;
  }
  return Attrs(std::move(entries));
}

// A node of its own, with inputs of these types. Refused with a reason, or as good as any other.
void CheckBentNode(const OpDef& op, const Attrs& attrs, absl::Span<const TensorType> types,
                   Recorder& recorder) {
  GraphBuilder b;
  std::vector<ValueId> in;
  std::vector<Tensor> data;
  NamedViews inputs;
  Draw draw(op.name);
  for (const TensorType& type : types) {
    const std::string name = absl::StrCat("x", in.size());
    in.push_back(b.Input(name, type, Stage::kPoint));
    data.push_back(DrawTensor(type, 0, 1, draw));
    inputs[name] = data.back();
  }
  const std::vector<ValueId> out = b.AddMulti(op, in, attrs);
  const auto what = [&] { return absl::StrCat(op.name, " {", attrs.ToString(), "}"); };
  if (!b.ok()) {
    recorder.Check(!ReasonNameOf(b.status()).empty(), "refusal",
                   [&] { return absl::StrCat(what(), ": no reason: ", b.status().ToString()); });
    return;
  }
  for (size_t i = 0; i < out.size(); ++i) b.Output(absl::StrCat("y", i), out[i]);
  absl::StatusOr<Graph> graph = std::move(b).Build();
  if (!recorder.Check(graph.status(), "Build")) return;
  if (!CheckNodes(*graph, recorder)) return;
  for (ValueId v = 0; v < graph->num_values(); ++v) {
    if (graph->type(v).bytes() > kMaxBytes) return;
  }
  const absl::Status status = EvaluateGuarded(*graph, inputs).status();
  recorder.Check(status.ok() || !ReasonNameOf(status).empty(), "reference",
                 [&] { return absl::StrCat(what(), ": ", status.ToString()); });
}

}  // namespace

bool CheckNodes(const Graph& graph, Recorder& recorder) {
  bool ok = true;
  for (const Node& node : graph.nodes()) {
    const std::string broken =
        BrokenPromise(*node.op, node.attrs, InputTypes(graph, node), graph.type(node.first_output));
    ok = recorder.Check(broken.empty(), "type rule", [&] { return broken; }) && ok;
  }
  return ok;
}

void CheckBentNodes(const Graph& graph, Recorder& recorder) {
  for (const Node& node : graph.nodes()) {
    if (node.num_operands == 0) continue;
    for (const Attrs::Entry& entry : node.attrs.entries()) {
      for (const AttrValue& value : Neighbours(entry.second)) {
        CheckBentNode(*node.op, With(node.attrs, entry.first, value), InputTypes(graph, node),
                      recorder);
      }
    }
  }
}

}  // namespace gradwire
