// If, Loop and Scan: their bodies are built into the graph around them. What decides a branch or a
// number of trips is evaluated on the data of the call, so the graph holds the branch that was
// taken and the trips that were made, and derivatives are those of just that computation.
#include <algorithm>
#include <limits>

#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;

// False, after a failure, where a body does not have these numbers of inputs and outputs.
bool HasArity(NodeImport& n, const Model& body, int64_t inputs, int64_t min_outputs) {
  const auto in = static_cast<int64_t>(body.inputs.size());
  const auto out = static_cast<int64_t>(body.outputs.size());
  if (in == inputs && out >= min_outputs) return true;
  n.Fail(Reason::kInvalidModel,
         absl::StrCat("the body has ", in, " inputs and ", out, " outputs, expected ", inputs,
                      " and ", min_outputs, " or more"));
  return false;
}

bool AsksForAtMost(NodeImport& n, int64_t outputs) {
  if (n.num_outputs <= outputs) return true;
  n.Fail(Reason::kInvalidModel,
         absl::StrCat("has ", n.num_outputs, " outputs, its body gives ", outputs));
  return false;
}

// ---- If

Outputs ImportIf(NodeImport& n) {
  if (!TakesInputs(n, 1, 1)) return {};
  const std::optional<bool> chosen = n.Decide(n.in(0));
  if (!chosen) return {};
  const Model* branch = n.Body(*chosen ? "then_branch" : "else_branch");
  if (branch == nullptr || !HasArity(n, *branch, 0, 0) ||
      !AsksForAtMost(n, static_cast<int64_t>(branch->outputs.size()))) {
    return {};
  }
  return n.Inline(*branch, {}, 0);
}

const OpDef kIfOp = {
    .name = "If",
    .doc =
        "The outputs of one of two graphs. The condition is evaluated beforehand, and the graph of"
        " the call holds the branch that it chose.",
    .onnx = {{.name = "If", .since = 1, .import = ImportIf}},
    .domain =
        {.samples =
             {
                 {.inputs = {Given({}, {1}, DType::kBool), Drawn({2, 3})},
                  .text = R"(g (x0, x1) => (y0) {
                    y0 = If <then_branch = t () => (a) { a = Mul (x1, x1) },
                             else_branch = e () => (a) { a = Neg (x1) }> (x0)
                  })"},
                 {.inputs = {Given({1}, {0}, DType::kBool), Drawn({2, 3})},
                  .opset = 11,
                  .text = R"(g (x0, x1) => (y0, y1) {
                    y0, y1 = If <then_branch = t () => (a, b) { a = Mul (x1, x1) b = Neg (a) },
                                 else_branch = e () => (c, d) { c = Sin (x1) d = Mul (c, x1) }> (x0)
                  })"},
                 // A condition on floating values: the derivative is that of the branch taken.
                 {.inputs = {Drawn({3}, 0.5, 2)}, .text = R"(g (x0) => (y0) {
                    s = ReduceSum <keepdims = 0> (x0)
                    big = Greater (s, x0)
                    one = ReduceMin <keepdims = 0> (ints)
                    big_int = Cast <to = 7> (big)
                    ints = Identity (big_int)
                    chosen = Cast <to = 9> (one)
                    y0 = If <then_branch = t () => (a) { a = Mul (x0, s) },
                             else_branch = e () => (a) { a = Neg (x0) }> (chosen)
                  })"},
             }},
};

// ---- Loop

// Values of all trips, one behind the other along a new axis of each.
ValueId Stack(GraphBuilder& b, std::vector<ValueId> values, int64_t axis) {
  for (ValueId& v : values) v = Unsqueeze(b, v, {axis});
  return b.ok() ? Concat(b, values, static_cast<int>(axis)) : kNoValue;
}

// What a stack of no values is, by the type that one would have.
ValueId EmptyStack(GraphBuilder& b, ValueId like, int64_t axis) {
  TensorType type = b.type(like);
  Dims dims = type.shape.dims();
  dims.insert(dims.begin() + axis, 0);
  return b.Full({type.dtype, Shape(dims)}, 0);
}

// False, after a failure, where one of these is a sequence.
bool AreTensors(NodeImport& n, absl::Span<const ValueId> values) {
  if (std::all_of(values.begin(), values.end(), [](ValueId v) { return v >= 0; })) return true;
  n.Fail(Reason::kInvalidModel, "a scan output is a sequence, expected a tensor");
  return false;
}

Outputs ImportLoop(NodeImport& n) {
  GraphBuilder& b = n.b;
  const Model* body = n.Body("body");
  const int states = n.num_inputs() - 2;
  if (body == nullptr) return {};
  if (states < 0) {
    n.Fail(Reason::kInvalidModel, "has no inputs for the trip count and the condition");
    return {};
  }
  if (!HasArity(n, *body, 2 + states, 1 + states)) return {};
  const size_t scans = body->outputs.size() - 1 - static_cast<size_t>(states);
  if (!AsksForAtMost(n, states + static_cast<int64_t>(scans))) return {};
  int64_t trips = std::numeric_limits<int64_t>::max();
  if (n.has(0)) {
    const std::optional<std::vector<int64_t>> count = n.FrozenInts(0);
    if (!count) return {};
    if (count->size() != 1) {
      n.Fail(Reason::kShapeMismatch, "the trip count is not one number");
      return {};
    }
    trips = (*count)[0];
  }
  ValueId condition = n.has(1) ? n.in(1) : b.Scalar(DType::kBool, 1);
  Outputs state;
  for (int i = 0; i < states; ++i) {
    state.push_back(n.any(2 + i));
    if (state.back() == kNoValue) n.Fail(Reason::kInvalidModel, "an initial value is left out");
  }
  const auto run = [&](int64_t trip) {
    Outputs in = {b.Constant(Tensor::Scalar<int64_t>(trip)), condition};
    in.insert(in.end(), state.begin(), state.end());
    return n.Inline(*body, in, trip);
  };
  std::vector<Outputs> stacks(scans);
  // Without a condition input, ONNX ignores the one that the body gives.
  const auto goes_on = [&] { return n.has(1) ? n.Decide(condition) : std::optional<bool>(true); };
  for (int64_t trip = 0; trip < trips; ++trip) {
    const std::optional<bool> go = goes_on();
    if (!go) return {};
    if (!*go) break;
    const Outputs out = run(trip);
    if (!b.ok()) return {};
    condition = out[0];
    const auto first_scan = out.begin() + 1 + states;
    state.assign(out.begin() + 1, first_scan);
    if (!AreTensors(n, {out.data() + 1 + states, scans})) return {};
    for (size_t k = 0; k < scans; ++k) stacks[k].push_back(first_scan[static_cast<int64_t>(k)]);
  }
  if (!b.ok() || n.num_outputs <= states) return state;
  const bool empty = stacks[0].empty();
  const Outputs types = empty ? run(0) : Outputs();
  if (!b.ok() || !AreTensors(n, types)) return {};
  for (size_t k = 0; k < scans; ++k) {
    state.push_back(empty ? EmptyStack(b, types[1 + static_cast<size_t>(states) + k], 0)
                          : Stack(b, std::move(stacks[k]), 0));
  }
  return state;
}

const OpDef kLoopOp = {
    .name = "Loop",
    .doc =
        "A graph over and over, up to a trip count or while its condition holds; both are evaluated"
        " beforehand, and the graph of the call holds the trips that were made. Where the condition"
        " input is left out, the body's condition is ignored, as ONNX says.",
    .min_inputs = 2,
    .max_inputs = kVariadic,
    .onnx = {{.name = "Loop", .since = 1, .import = ImportLoop}},
    .domain =
        {.samples =
             {
                 {.inputs = {FrozenScalar(3), Drawn({2, 3}, -1, 1)},
                  .text = R"(g (x0, x1) => (y0, y1) {
                    y0, y1 = Loop <body = l (i, go, s) => (go_on, next, row) {
                      go_on = Identity (go)
                      sine = Sin (s)
                      next = Mul (sine, x1)
                      row = ReduceSum <keepdims = 0> (next)
                    }> (x0, , x1)
                  })"},
                 // While: doubles until the sum of a floating value passes a bound.
                 {.inputs = {Given({}, {1}, DType::kBool), Drawn({2}, 1, 2),
                             Given({}, {9}, DType::kDouble), FrozenScalar(6)},
                  .opset = 11,
                  .text = R"(g (x0, x1, x2, x3) => (y0, y1) {
                    y0, y1 = Loop <body = l (i, go, s) => (go_on, next, seen) {
                      next = Add (s, s)
                      sum = ReduceSum <keepdims = 0> (next)
                      wide = Cast <to = 11> (sum)
                      go_on = Less (wide, x2)
                      seen = Mul (s, x1)
                    }> (x3, x0, x1)
                  })"},
                 // No trips: scan outputs are empty.
                 {.inputs = {FrozenScalar(0), Drawn({3})},
                  .text = R"(g (x0, x1) => (y0, y1) {
                    yes = Equal (x0, x0)
                    y0, y1 = Loop <body = l (i, go, s) => (go, next, next) {
                      next = Mul (s, s)
                    }> (x0, yes, x1)
                  })"},
                 // A sequence that grows from trip to trip, and a loop in the loop.
                 {.inputs = {FrozenScalar(3), Drawn({2}, -1, 1)},
                  .text = R"(g (x0, x1) => (y0) {
                    none = SequenceEmpty ()
                    all, last = Loop <body = l (i, go, s, x) => (go, longer, next) {
                      longer = SequenceInsert (s, x)
                      next = Loop <body = m (j, g, z) => (g, w) { w = Mul (z, x1) }> (i, , x)
                    }> (x0, , none, x1)
                    y0 = ConcatFromSequence <axis = 0> (all)
                  })"},
             }},
};

// ---- Scan

struct ScanAxes {
  std::vector<int64_t> axes;        // normalised
  std::vector<int64_t> directions;  // 1: from the end
};

// Attributes `axes` and `directions` of `count` values; those left out are 0.
ScanAxes ReadAxes(NodeImport& n, absl::string_view axes, absl::string_view directions,
                  size_t count) {
  ScanAxes out{n.attrs.Ints(axes), n.attrs.Ints(directions)};
  for (auto* list : {&out.axes, &out.directions}) {
    if (list->empty()) list->resize(count, 0);
    if (list->size() != count) {
      n.Fail(Reason::kInvalidModel,
             absl::StrCat("attribute ", list == &out.axes ? axes : directions, " has ",
                          list->size(), " values, expected ", count));
    }
  }
  for (int64_t direction : out.directions) {
    if (direction != 0 && direction != 1) {
      n.Fail(Reason::kInvalidModel,
             absl::StrCat("a direction is ", direction, ", expected 0 or 1"));
    }
  }
  return out;
}

// x[..., at, ...] along an axis, without that dimension.
ValueId Pick(GraphBuilder& b, ValueId x, int64_t axis, int64_t at) {
  Dims dims = b.shape(x).dims();
  std::vector<int64_t> starts(dims.size(), 0);
  const std::vector<int64_t> steps(dims.size(), 1);
  starts[static_cast<size_t>(axis)] = at;
  dims[static_cast<size_t>(axis)] = 1;
  const ValueId one = Slice(b, x, starts, steps, Shape(dims));
  dims.erase(dims.begin() + axis);
  return Reshape(b, one, Shape(dims));
}

// One Scan over sequences without a batch dimension.
struct ScanRun {
  NodeImport& n;
  const Model& body;
  size_t states;
  ScanAxes in;
  std::vector<int64_t> out_directions;
  int64_t first_trip = 0;

  // `values`: the states, then the scanned inputs, `length` steps of them. Gives the last states,
  // and of each scan output its values in order; without steps, one of its type in `types`.
  Outputs Run(const Outputs& values, int64_t length, std::vector<Outputs>* rows, Outputs* types) {
    Outputs state(values.begin(), values.begin() + static_cast<int64_t>(states));
    rows->assign(body.outputs.size() - states, {});
    const auto step = [&](int64_t t) {
      Outputs args = state;
      for (size_t k = states; k < values.size(); ++k) {
        const size_t i = k - states;
        const int64_t at = in.directions[i] == 0 ? t : length - 1 - t;
        const int64_t extent = n.b.shape(values[k])[static_cast<int>(in.axes[i])];
        args.push_back(extent > 0 ? Pick(n.b, values[k], in.axes[i], at)
                                  : ZeroRow(values[k], in.axes[i]));
      }
      return n.Inline(body, args, first_trip + t);
    };
    for (int64_t t = 0; t < length && n.b.ok(); ++t) {
      const Outputs out = step(t);
      if (!n.b.ok() || !AreTensors(n, out)) return {};
      state.assign(out.begin(), out.begin() + static_cast<int64_t>(states));
      for (size_t k = 0; k < rows->size(); ++k) (*rows)[k].push_back(out[states + k]);
    }
    if (length == 0) *types = step(0);
    for (size_t k = 0; k < rows->size(); ++k) {
      if (out_directions[k] == 1) std::reverse((*rows)[k].begin(), (*rows)[k].end());
    }
    return state;
  }

  ValueId ZeroRow(ValueId x, int64_t axis) {
    TensorType type = n.b.type(x);
    Dims dims = type.shape.dims();
    dims.erase(dims.begin() + axis);
    return n.b.Full({type.dtype, Shape(dims)}, 0);
  }
};

// The number of scanned inputs; 0 after a failure.
size_t ScannedInputs(NodeImport& n, int given) {
  const int64_t count = IntAttr(n, "num_scan_inputs", 0);
  if (n.b.ok() && (count < 1 || count > given)) {
    n.Fail(Reason::kInvalidModel,
           absl::StrCat("num_scan_inputs is ", count, " of ", given, " inputs"));
  }
  return n.b.ok() ? static_cast<size_t>(count) : 0;
}

// The extent that all scanned inputs have along their axes, which are normalised.
std::optional<int64_t> ScanLength(NodeImport& n, absl::Span<const ValueId> scanned,
                                  std::vector<int64_t>* axes) {
  std::optional<int64_t> length;
  for (size_t i = 0; i < scanned.size(); ++i) {
    const Shape shape = n.b.shape(scanned[i]);
    const int axis = n.Axis((*axes)[i], shape.rank());
    if (!n.b.ok()) return std::nullopt;
    (*axes)[i] = axis;
    if (length && *length != shape[axis]) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("scanned inputs have ", *length, " and ", shape[axis], " elements"));
      return std::nullopt;
    }
    length = shape[axis];
  }
  return length;
}

Outputs ImportScan(NodeImport& n) {
  const Model* body = n.Body("body");
  const size_t scanned = ScannedInputs(n, n.num_inputs());
  if (body == nullptr || scanned == 0 || !TakesInputs(n, n.num_inputs(), kVariadic)) return {};
  const Outputs values(n.inputs().begin(), n.inputs().end());
  const size_t states = values.size() - scanned;
  if (!HasArity(n, *body, n.num_inputs(), static_cast<int64_t>(states)) ||
      !AsksForAtMost(n, static_cast<int64_t>(body->outputs.size()))) {
    return {};
  }
  const size_t outputs = body->outputs.size() - states;
  ScanAxes in = ReadAxes(n, "scan_input_axes", "scan_input_directions", scanned);
  const ScanAxes out = ReadAxes(n, "scan_output_axes", "scan_output_directions", outputs);
  if (!n.b.ok()) return {};
  const auto length = ScanLength(n, absl::MakeConstSpan(values).subspan(states), &in.axes);
  if (!length) return {};
  std::vector<Outputs> rows;
  Outputs types;
  ScanRun run{n, *body, states, std::move(in), out.directions};
  Outputs result = run.Run(values, *length, &rows, &types);
  for (size_t k = 0; k < outputs && n.b.ok(); ++k) {
    const ValueId one = rows[k].empty() ? types[states + k] : rows[k][0];
    const int axis = n.Axis(out.axes[k], n.b.shape(one).rank() + 1);
    if (!n.b.ok()) return {};
    result.push_back(rows[k].empty() ? EmptyStack(n.b, one, axis)
                                     : Stack(n.b, std::move(rows[k]), axis));
  }
  return result;
}

// Opset 8: a batch of sequences, the first dimension of everything, with lengths of their own.
Outputs ImportBatchedScan(NodeImport& n) {
  GraphBuilder& b = n.b;
  const Model* body = n.Body("body");
  const int given = n.num_inputs() - 1;
  const size_t scanned = ScannedInputs(n, given);
  if (body == nullptr || scanned == 0) return {};
  Outputs values;
  for (int i = 1; i <= given; ++i) {
    if (!n.has(i) || n.type(i).shape.rank() < 1) {
      n.Fail(Reason::kInvalidModel, absl::StrCat("input ", i, " has no batch dimension"));
      return {};
    }
    values.push_back(n.in(i));
  }
  const size_t states = values.size() - scanned;
  if (!HasArity(n, *body, given, static_cast<int64_t>(states)) ||
      !AsksForAtMost(n, static_cast<int64_t>(body->outputs.size()))) {
    return {};
  }
  const size_t outputs = body->outputs.size() - states;
  ScanAxes in = ReadAxes(n, "", "directions", scanned);
  std::vector<int64_t> axes(scanned, 1);
  const auto length = ScanLength(n, absl::MakeConstSpan(values).subspan(states), &axes);
  const int64_t batch = b.shape(values[0])[0];
  for (ValueId v : values) {
    if (!b.ok() || b.shape(v)[0] == batch) continue;
    n.Fail(Reason::kShapeMismatch, absl::StrCat("batches of ", batch, " and ", b.shape(v)[0]));
  }
  std::optional<std::vector<int64_t>> lengths = n.FrozenInts(0);
  // Of these many values there is a list, also where the tensors have no elements.
  if (!b.ok() || !length || !IndicesFit(n, batch) || !IndicesFit(n, *length)) return {};
  if (!lengths) lengths.emplace(static_cast<size_t>(batch), *length);
  const bool fit = static_cast<int64_t>(lengths->size()) == batch &&
                   std::all_of(lengths->begin(), lengths->end(),
                               [&](int64_t l) { return l >= 1 && l <= *length; });
  if (!fit || batch == 0) {
    n.Fail(Reason::kShapeMismatch, absl::StrCat("expected ", batch, " sequence_lens in [1, ",
                                                *length, "], and a batch of 1 or more"));
    return {};
  }
  std::vector<Outputs> columns(states + outputs);
  for (int64_t i = 0; i < batch && b.ok(); ++i) {
    Outputs one;
    for (ValueId v : values) one.push_back(Pick(b, v, 0, i));
    std::vector<Outputs> rows;
    Outputs types;
    const int64_t steps = (*lengths)[static_cast<size_t>(i)];
    ScanRun run{n, *body, states, in, std::vector<int64_t>(outputs, 0), i * *length};
    Outputs last = run.Run(one, steps, &rows, &types);
    if (!b.ok()) return {};
    for (size_t k = 0; k < states; ++k) columns[k].push_back(last[k]);
    for (size_t k = 0; k < outputs; ++k) {
      rows[k].resize(static_cast<size_t>(*length), b.Zeros(rows[k][0]));
      columns[states + k].push_back(Stack(b, std::move(rows[k]), 0));
    }
  }
  Outputs result;
  for (Outputs& column : columns) result.push_back(Stack(b, std::move(column), 0));
  return result;
}

const OpDef kScanOp = {
    .name = "Scan",
    .doc =
        "A graph over the elements of sequences, with states carried from step to step; unrolled."
        " In opset 8 over a batch of them, of the lengths that its first input says.",
    .max_inputs = kVariadic,
    .onnx = {{.name = "Scan", .since = 8, .until = 8, .import = ImportBatchedScan},
             {.name = "Scan", .since = 9, .import = ImportScan}},
    .domain =
        {.samples =
             {
                 {.inputs = {Drawn({2}, -1, 1), Drawn({3, 2}, -1, 1)},
                  .text = R"(g (x0, x1) => (y0, y1) {
                    y0, y1 = Scan <num_scan_inputs = 1, body = s (h, x) => (next, row) {
                      sum = Add (h, x)
                      next = Tanh (sum)
                      row = Mul (next, x)
                    }> (x0, x1)
                  })"},
                 {.inputs = {Drawn({2}, -1, 1), Drawn({2, 3}, -1, 1), Drawn({3, 2}, -1, 1)},
                  .opset = 11,
                  .text = R"(g (x0, x1, x2) => (y0, y1, y2) {
                    y0, y1, y2 = Scan <num_scan_inputs = 2, scan_input_axes = [-1, 0],
                        scan_input_directions = [1, 0], scan_output_axes = [1, 0],
                        scan_output_directions = [0, 1], body = s (h, x, z) => (next, a, c) {
                      m = Mul (h, x)
                      next = Add (m, z)
                      a = Mul (next, x0)
                      c = ReduceSum <keepdims = 0> (a)
                    }> (x0, x1, x2)
                  })"},
                 {.inputs = {Given({2}, {3, 1}, DType::kInt64), Drawn({2, 2}, -1, 1),
                             Drawn({2, 3, 2}, -1, 1)},
                  .opset = 8,
                  .text = R"(g (x0, x1, x2) => (y0, y1) {
                    y0, y1 = Scan <num_scan_inputs = 1, directions = [1],
                                   body = s (h, x) => (next, row) {
                      sum = Mul (h, x)
                      next = Sin (sum)
                      row = Add (next, x)
                    }> (x0, x1, x2)
                  })"},
                 {.inputs = {Drawn({2}), Drawn({0, 2})},
                  .text = R"(g (x0, x1) => (y0, y1) {
                    y0, y1 = Scan <num_scan_inputs = 1, body = s (h, x) => (next, next) {
                      next = Mul (h, x)
                    }> (x0, x1)
                  })"},
             }},
};

}  // namespace

std::vector<const OpDef*> ControlFlowOps() { return {&kIfOp, &kLoopOp, &kScanOp}; }

}  // namespace gradwire
