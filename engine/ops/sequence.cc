// Sequences and optionals. Both exist while a graph is built only: a sequence is a list of values
// (NodeImport::List), an optional is its value or kNothing. No op of a graph knows of them.
#include <algorithm>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

// A position that input i gives, in [-size, last] and made non-negative; nullopt after a failure.
std::optional<size_t> Position(NodeImport& n, int i, size_t size, size_t last) {
  const std::optional<std::vector<int64_t>> given = n.FrozenInts(i);
  if (!n.b.ok()) return std::nullopt;
  if (!given || given->size() != 1) {
    n.Fail(Reason::kInvalidModel, absl::StrCat("input ", i, " is not one position"));
    return std::nullopt;
  }
  const auto count = static_cast<int64_t>(size);
  const int64_t at = (*given)[0];
  if (at < -count || at > static_cast<int64_t>(last)) {
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("position ", at, " is outside a sequence of ", size));
    return std::nullopt;
  }
  return static_cast<size_t>(at < 0 ? at + count : at);
}

// False, after a failure, where one of these has another element type than the first.
bool OneType(NodeImport& n, const Outputs& members) {
  for (ValueId v : members) {
    if (n.b.dtype(v) == n.b.dtype(members[0])) continue;
    n.Fail(Reason::kDtypeUnsupported,
           absl::StrCat("a sequence of ", DTypeName(n.b.dtype(members[0])), " with a member of ",
                        DTypeName(n.b.dtype(v))));
    return false;
  }
  return n.b.ok();
}

Outputs ImportConstruct(NodeImport& n) {
  if (!TakesInputs(n, std::max(n.num_inputs(), 1), kVariadic)) return {};
  const Outputs members(n.inputs().begin(), n.inputs().end());
  if (!OneType(n, members)) return {};
  return {n.MakeList(members)};
}

Outputs ImportInsert(NodeImport& n) {
  const Outputs* list = n.List(0);
  if (list == nullptr || n.num_inputs() > 3) return {};
  Outputs members = *list;
  size_t at = members.size();
  if (n.has(2)) {
    const std::optional<size_t> given = Position(n, 2, at, at);
    if (!given) return {};
    at = *given;
  }
  const ValueId member = n.in(1);
  if (member == kNoValue) {
    n.Fail(Reason::kInvalidModel, "input 1 is left out");
    return {};
  }
  members.insert(members.begin() + static_cast<std::ptrdiff_t>(at), member);
  if (!OneType(n, members)) return {};
  return {n.MakeList(std::move(members))};
}

Outputs ImportErase(NodeImport& n) {
  const Outputs* list = n.List(0);
  if (list == nullptr) return {};
  Outputs members = *list;
  size_t at = members.size() - 1;
  if (n.has(1) || members.empty()) {
    const std::optional<size_t> given = Position(n, 1, members.size(), members.size() - 1);
    if (!given) return {};
    at = *given;
  }
  members.erase(members.begin() + static_cast<std::ptrdiff_t>(at));
  return {n.MakeList(std::move(members))};
}

Outputs ImportAt(NodeImport& n) {
  const Outputs* list = n.List(0);
  if (list == nullptr) return {};
  if (list->empty()) {
    n.Fail(Reason::kShapeMismatch, "the sequence is empty");
    return {};
  }
  const Outputs members = *list;
  const std::optional<size_t> at = Position(n, 1, members.size(), members.size() - 1);
  if (!at) return {};
  return {members[*at]};
}

Outputs ImportLength(NodeImport& n) {
  const Outputs* list = n.List(0);
  if (list == nullptr) return {};
  return {n.b.Constant(Tensor::Scalar<int64_t>(static_cast<int64_t>(list->size())))};
}

// The extents of the pieces: as given, or of `split` each, or of 1; nullopt after a failure.
std::optional<std::vector<int64_t>> PieceExtents(NodeImport& n, int64_t extent) {
  const std::optional<std::vector<int64_t>> split = n.FrozenInts(1);
  if (!n.b.ok()) return std::nullopt;
  if (split && n.type(1).shape.rank() > 0) {
    int64_t left = extent;
    for (int64_t piece : *split) left = piece < 0 || piece > left ? -1 : left - piece;
    if (left == 0) return split;
    n.Fail(Reason::kShapeMismatch, absl::StrCat("pieces do not add up to the extent of ", extent));
    return std::nullopt;
  }
  const int64_t each = split ? (*split)[0] : 1;
  if (each < 1 || !IndicesFit(n, extent / each + 1)) {
    if (each < 1) n.Fail(Reason::kShapeMismatch, absl::StrCat("split is ", each));
    return std::nullopt;
  }
  std::vector<int64_t> out;
  for (int64_t at = 0; at < extent; at += each) out.push_back(std::min(each, extent - at));
  return out;
}

Outputs ImportSplit(NodeImport& n) {
  if (!TakesInputs(n, 1, 2)) return {};
  const Shape shape = n.type(0).shape;
  const int axis = n.Axis(IntAttr(n, "axis", 0), shape.rank());
  const bool keeps = n.has(1) || IntAttr(n, "keepdims", 1) != 0;
  if (!n.b.ok()) return {};
  const auto pieces = PieceExtents(n, shape[axis]);
  if (!pieces) return {};
  std::vector<int64_t> starts(static_cast<size_t>(shape.rank()), 0);
  const std::vector<int64_t> steps(starts.size(), 1);
  Outputs members;
  for (const int64_t extent : *pieces) {
    Dims dims = shape.dims();
    dims[static_cast<size_t>(axis)] = extent;
    ValueId piece = Slice(n.b, n.in(0), starts, steps, Shape(dims));
    if (!keeps) {
      dims.erase(dims.begin() + axis);
      piece = Reshape(n.b, piece, Shape(dims));
    }
    if (!n.b.ok()) return {};
    members.push_back(piece);
    starts[static_cast<size_t>(axis)] += extent;
  }
  return {n.MakeList(std::move(members))};
}

Outputs ImportConcat(NodeImport& n) {
  const Outputs* list = n.List(0);
  if (list == nullptr) return {};
  Outputs members = *list;
  if (members.empty() || !n.attrs.Has("axis")) {
    n.Fail(Reason::kInvalidModel,
           members.empty() ? "the sequence is empty" : "attribute axis is missing");
    return {};
  }
  const bool stacks = IntAttr(n, "new_axis", 0) != 0;
  const int axis = n.Axis(IntAttr(n, "axis", 0), n.b.shape(members[0]).rank() + (stacks ? 1 : 0));
  if (!n.b.ok()) return {};
  for (ValueId& v : members) {
    if (stacks) v = Unsqueeze(n.b, v, {axis});
  }
  return {n.b.ok() ? Concat(n.b, members, axis) : kNoValue};
}

Outputs ImportMap(NodeImport& n) {
  const Outputs* list = n.List(0);
  const Model* body = n.Body("body");
  if (list == nullptr || body == nullptr) return {};
  const size_t length = list->size();
  std::vector<Outputs> columns;  // of each input, its member or itself for each trip
  for (int i = 0; i < n.num_inputs(); ++i) {
    const bool is_list = n.any(i) < kNothing;
    columns.push_back(is_list ? *n.List(i) : Outputs(length, n.in(i)));
    if (!n.b.ok() || columns.back().size() == length) continue;
    n.Fail(Reason::kShapeMismatch,
           absl::StrCat("sequences of ", length, " and ", columns.back().size(), " members"));
  }
  std::vector<Outputs> results(body->outputs.size());
  for (size_t t = 0; t < length && n.b.ok(); ++t) {
    Outputs in;
    for (const Outputs& column : columns) in.push_back(column[t]);
    const Outputs out = n.Inline(*body, in, static_cast<int64_t>(t));
    for (size_t k = 0; k < out.size(); ++k) results[k].push_back(out[k]);
  }
  Outputs lists;
  for (Outputs& members : results) {
    if (n.b.ok()) lists.push_back(n.MakeList(std::move(members)));
  }
  return lists;
}

const OpDef kSequenceConstructOp = {
    .name = "SequenceConstruct",
    .doc = "A sequence of its inputs. Sequences are lists that are known before the graph runs.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "SequenceConstruct", .since = 11, .import = ImportConstruct}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}), Drawn({1, 3})},
                            .text = R"(g (x0, x1) => (y0) {
                              s = SequenceConstruct (x0, x1, x0)
                              y0 = ConcatFromSequence <axis = 0> (s)
                            })"}}},
};

const OpDef kSequenceEmptyOp = {
    .name = "SequenceEmpty",
    .doc = "A sequence without members.",
    .min_inputs = 0,
    .max_inputs = 0,
    .onnx = {{.name = "SequenceEmpty",
              .since = 11,
              .import = [](NodeImport& n) -> Outputs {
                if (!TakesInputs(n, 0, 0)) return {};
                return {n.MakeList({})};
              }}},
    .domain = {.samples = {{.inputs = {}, .text = R"(g () => (y0) {
                              s = SequenceEmpty <dtype = 11> ()
                              y0 = SequenceLength (s)
                            })"}}},
};

const OpDef kSequenceInsertOp = {
    .name = "SequenceInsert",
    .doc = "A sequence with one more member, before a position or at the end.",
    .min_inputs = 2,
    .max_inputs = 3,
    .onnx = {{.name = "SequenceInsert", .since = 11, .import = ImportInsert}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}), Drawn({2, 2}), FrozenScalar(-1)},
                            .text = R"(g (x0, x1, x2) => (y0) {
                              s = SequenceConstruct (x0, x0)
                              t = SequenceInsert (s, x1)
                              u = SequenceInsert (t, x1, x2)
                              y0 = ConcatFromSequence <axis = -1> (u)
                            })"}}},
};

const OpDef kSequenceEraseOp = {
    .name = "SequenceErase",
    .doc = "A sequence without the member at a position, the last one where it is left out.",
    .max_inputs = 2,
    .onnx = {{.name = "SequenceErase", .since = 11, .import = ImportErase}},
    .domain = {.samples = {{.inputs = {Drawn({2}), Drawn({3}), FrozenScalar(0)},
                            .text = R"(g (x0, x1, x2) => (y0) {
                              s = SequenceConstruct (x0, x1, x1, x0)
                              t = SequenceErase (s)
                              u = SequenceErase (t, x2)
                              y0 = ConcatFromSequence <axis = 0> (u)
                            })"}}},
};

const OpDef kSequenceAtOp = {
    .name = "SequenceAt",
    .doc = "The member at a position, which counts from the end where it is negative.",
    .min_inputs = 2,
    .max_inputs = 2,
    .onnx = {{.name = "SequenceAt", .since = 11, .import = ImportAt}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}), Drawn({4}), FrozenScalar(-2)},
                            .text = R"(g (x0, x1, x2) => (y0) {
                              s = SequenceConstruct (x0, x1)
                              a = SequenceAt (s, x2)
                              y0 = Sin (a)
                            })"}}},
};

const OpDef kSequenceLengthOp = {
    .name = "SequenceLength",
    .doc = "The number of members, as INT64.",
    .onnx = {{.name = "SequenceLength", .since = 11, .import = ImportLength}},
    .domain = {.samples = {{.inputs = {Drawn({3, 2})}, .text = R"(g (x0) => (y0) {
                              s = SplitToSequence (x0)
                              y0 = SequenceLength (s)
                            })"}}},
};

const OpDef kSplitToSequenceOp = {
    .name = "SplitToSequence",
    .doc =
        "Consecutive slices along `axis`: of the extents `split`, of one extent (the last may be"
        " smaller), or single ones, without that dimension where `keepdims` is 0.",
    .max_inputs = 2,
    .onnx = {{.name = "SplitToSequence", .since = 11, .import = ImportSplit}},
    .domain = {.samples = {{.inputs = {Drawn({5, 2}), FrozenScalar(2)},
                            .text = R"(g (x0, x1) => (y0, y1) {
                              s = SplitToSequence (x0, x1)
                              one = Constant <value_int = 1> ()
                              y0 = SequenceAt (s, one)
                              two = Constant <value_int = 2> ()
                              y1 = SequenceAt (s, two)
                            })"},
                           {.inputs = {Drawn({2, 5}), FrozenVector({1, 4})},
                            .text = R"(g (x0, x1) => (y0) {
                              s = SplitToSequence <axis = -1> (x0, x1)
                              one = Constant <value_int = 1> ()
                              y0 = SequenceAt (s, one)
                            })"},
                           {.inputs = {Drawn({3, 2})}, .text = R"(g (x0) => (y0) {
                              s = SplitToSequence <keepdims = 0> (x0)
                              one = Constant <value_int = 1> ()
                              y0 = SequenceAt (s, one)
                            })"}}},
};

const OpDef kConcatFromSequenceOp = {
    .name = "ConcatFromSequence",
    .doc = "The members one after the other along `axis`, a new one where `new_axis` is 1.",
    .onnx = {{.name = "ConcatFromSequence", .since = 11, .import = ImportConcat}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}), Drawn({2, 3})},
                            .text = R"(g (x0, x1) => (y0) {
                              s = SequenceConstruct (x0, x1)
                              y0 = ConcatFromSequence <axis = -1, new_axis = 1> (s)
                            })"}}},
};

const OpDef kSequenceMapOp = {
    .name = "SequenceMap",
    .doc = "A graph applied to each member; further sequences are walked along, tensors repeated.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "SequenceMap", .since = 17, .import = ImportMap}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3}), Drawn({3})}, .text = R"(g (x0, x1) => (y0) {
                              s = SequenceConstruct (x0, x0)
                              t = SequenceMap <body = m (a, c, z) => (p) {
                                q = Mul (a, c)
                                p = Mul (q, z)
                              }> (s, x1, s)
                              y0 = ConcatFromSequence <axis = 0> (t)
                            })"}}},
};

// ---- Optionals

const OpDef kOptionalOp = {
    .name = "Optional",
    .doc = "An optional that holds its input, or nothing.",
    .min_inputs = 0,
    .onnx = {{.name = "Optional",
              .since = 15,
              .import = [](NodeImport& n) -> Outputs {
                return {n.any(0) == kNoValue ? kNothing : n.any(0)};
              }}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3})}, .text = R"(g (x0) => (y0) {
                              o = Optional (x0)
                              y0 = OptionalGetElement (o)
                            })"}}},
};

const OpDef kOptionalHasElementOp = {
    .name = "OptionalHasElement",
    .doc = "Whether an optional holds something.",
    .min_inputs = 0,
    .onnx = {{.name = "OptionalHasElement",
              .since = 15,
              .import = [](NodeImport& n) -> Outputs {
                const bool holds = n.any(0) != kNoValue && n.any(0) != kNothing;
                return {n.b.Scalar(DType::kBool, holds ? 1 : 0)};
              }}},
    .domain = {.samples = {{.inputs = {}, .text = R"(g () => (y0) {
                              o = Optional <type = float[2]> ()
                              y0 = OptionalHasElement (o)
                            })"},
                           {.inputs = {Drawn({2})}, .text = R"(g (x0) => (y0) {
                              o = Optional (x0)
                              y0 = OptionalHasElement (o)
                            })"}}},
};

const OpDef kOptionalGetElementOp = {
    .name = "OptionalGetElement",
    .doc = "What an optional holds.",
    .onnx = {{.name = "OptionalGetElement",
              .since = 15,
              .import = [](NodeImport& n) -> Outputs {
                if (n.any(0) == kNoValue || n.any(0) == kNothing) {
                  n.Fail(Reason::kInvalidModel, "the optional holds nothing");
                  return {};
                }
                return {n.any(0)};
              }}},
    .domain = {.samples = {{.inputs = {Drawn({2, 3})}, .text = R"(g (x0) => (y0) {
                              s = SequenceConstruct (x0, x0)
                              o = Optional (s)
                              t = OptionalGetElement (o)
                              y0 = ConcatFromSequence <axis = 0> (t)
                            })"}}},
};

}  // namespace

std::vector<const OpDef*> SequenceOps() {
  return {&kSequenceConstructOp, &kSequenceEmptyOp,      &kSequenceInsertOp,
          &kSequenceEraseOp,     &kSequenceAtOp,         &kSequenceLengthOp,
          &kSplitToSequenceOp,   &kConcatFromSequenceOp, &kSequenceMapOp,
          &kOptionalOp,          &kOptionalHasElementOp, &kOptionalGetElementOp};
}

}  // namespace gradwire
