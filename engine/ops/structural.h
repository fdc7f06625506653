// What the families that move, reduce or contract elements share: checks of ONNX arguments, walks
// over strided elements for reference loops, and short spellings for the samples of their rows.
#ifndef GRADWIRE_ENGINE_OPS_STRUCTURAL_H_
#define GRADWIRE_ENGINE_OPS_STRUCTURAL_H_

#include <optional>
#include <vector>

#include "engine/graph/node_export.h"
#include "engine/graph/node_import.h"

namespace gradwire {

// ---- Shapes
std::vector<int64_t> ToVector(absl::Span<const int64_t> values);
// [first, last)
std::vector<int64_t> Iota(int64_t first, int64_t last);
// Shape::Make for shapes that the model asks for: INVALID_MODEL where one overflows.
absl::StatusOr<Shape> ResultShape(absl::Span<const int64_t> dims);
// The same with the error kept by the builder.
std::optional<Shape> ResultShape(GraphBuilder& b, absl::Span<const int64_t> dims);
// The rank 0 value that v repeats, kNoValue where v is anything else.
ValueId RepeatedScalar(const GraphBuilder& b, ValueId v);

// ---- Arguments of ONNX nodes. Each reports what is wrong through n.Fail().
// True if the node has at most `max` inputs and the first `min` are there.
bool TakesInputs(NodeImport& n, int min, int max);
// The attribute, or `otherwise` where it is left out; fails where it has another type.
int64_t IntAttr(NodeImport& n, absl::string_view name, int64_t otherwise);
double FloatAttr(NodeImport& n, absl::string_view name, double otherwise);
std::string StringAttr(NodeImport& n, absl::string_view name, absl::string_view otherwise);
// IntsFromAttrOrInput where leaving both out is an error.
std::optional<std::vector<int64_t>> RequiredInts(NodeImport& n, absl::string_view name, int input);
// Import allocates in proportion to an extent only for vectors of indices, and those are bounded.
inline constexpr int64_t kMaxIndexElements = int64_t{1} << 24;
bool IndicesFit(NodeImport& n, int64_t count);

// ---- Reference loops
// Walks the elements of `extents` in row-major order; offset() counts elements by `strides`. After
// the last element it is back at the first.
class StridedWalk {
 public:
  StridedWalk(Dims extents, Dims strides)
      : extents_(std::move(extents)), strides_(std::move(strides)), index_(extents_.size(), 0) {}
  int64_t offset() const { return offset_; }
  void Next() {
    for (size_t d = extents_.size(); d-- > 0;) {
      offset_ += strides_[d];
      if (++index_[d] < extents_[d]) return;
      offset_ -= strides_[d] * extents_[d];
      index_[d] = 0;
    }
  }

 private:
  Dims extents_, strides_, index_;
  int64_t offset_ = 0;
};

// dst[i . dst_strides] = src[i . src_strides] for every index i of `extents`. Pointers are those of
// element [0, 0, ...]; strides count elements of `element_bytes`.
void CopyStrided(int64_t element_bytes, const Dims& extents, const void* src,
                 const Dims& src_strides, void* dst, const Dims& dst_strides);

// A reference made from a view: reads the dense input through the view's layout.
template <std::optional<Layout> (*kLayout)(const Attrs&, const TensorType&, const Layout&,
                                           const TensorType&)>
absl::Status ReadView(const ReferenceArgs& args) {
  const TensorType &in = args.in[0].type(), &out = args.out_types[0];
  const std::optional<Layout> layout = kLayout(args.attrs, in, Layout::RowMajor(in.shape), out);
  if (!layout) return absl::InternalError("a dense input has no view");
  if (out.shape.num_elements() == 0) return absl::OkStatus();
  const int64_t bytes = DTypeBytes(in.dtype);
  CopyStrided(bytes, out.shape.dims(), args.in[0].data<char>() + layout->offset * bytes,
              layout->strides, args.out[0], out.shape.Strides());
  return absl::OkStatus();
}

// The sum of two numbers; integers wrap.
template <typename T>
T WrappingAdd(T x, T y) {
  if constexpr (std::is_floating_point_v<T>) {
    return x + y;
  } else {
    return static_cast<T>(static_cast<uint64_t>(x) + static_cast<uint64_t>(y));
  }
}

// ---- Samples
// Drawn uniformly, of the dtype under test.
SampleInput Drawn(Dims shape, double low = -2, double high = 2);
SampleInput Given(Dims shape, std::vector<double> values, DType dtype = DType::kUndefined);
// An INT64 vector that decides a shape: axes, extents.
SampleInput FrozenVector(std::vector<double> values);
SampleInput FrozenScalar(double value, DType dtype = DType::kInt64);
SampleInput Absent();
AttrValue Ints(std::initializer_list<int64_t> values);

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_OPS_STRUCTURAL_H_
