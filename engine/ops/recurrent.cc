// RNN, GRU and LSTM: unrolled over time into core ops, so every derivative follows from theirs.
//
// The input projections of all steps are one matrix product before the first step; a step is the
// product by the recurrent weights, and pointwise ops that read their gates as windows of both.
// Equations and names are those of the ONNX operators; X is [T, B, I] and a state [B, H] here.
#include <algorithm>
#include <functional>

#include "absl/strings/match.h"
#include "engine/base/checked.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"
#include "engine/ops/structural.h"

namespace gradwire {
namespace {

using Outputs = std::vector<ValueId>;
using Activation = std::function<ValueId(ValueId)>;

constexpr int kActivationOpset = 22;  // the spellings that activations are looked up in

// What a node may name as an activation, and how many of (alpha, beta) each takes.
struct ActivationName {
  absl::string_view name;
  int arguments;
};
constexpr ActivationName kActivationNames[] = {
    {"Affine", 2},   {"Elu", 1},     {"HardSigmoid", 2},     {"LeakyRelu", 1},
    {"Relu", 0},     {"Sigmoid", 0}, {"ScaledTanh", 2},      {"Softplus", 0},
    {"Softsign", 0}, {"Tanh", 0},    {"ThresholdedRelu", 1},
};

// The op of that name in the table, on one value.
ValueId ApplyOp(NodeImport& n, absl::string_view name, const Attrs& attrs, ValueId x) {
  const OpRegistry::Match match = AllOps().FindOnnx("", name, kActivationOpset);
  if (match.op == nullptr) {
    n.Fail(Reason::kUnsupportedOp, absl::StrCat("activation ", name, " is not supported"));
    return kNoValue;
  }
  if (match.binding->import == nullptr) return n.b.Add(*match.op, {x});
  const ValueId in[] = {x};
  NodeImport inner(n, attrs, in, kActivationOpset);
  const Outputs out = match.binding->import(inner);
  return out.empty() ? kNoValue : out[0];
}

// What the three ops differ in.
struct CellDef {
  int gates;
  int states;
  std::vector<std::string> activations;  // by default, of one direction
  int initial_h = 5;                     // the input; the initial cell and the peepholes follow
};

struct State {
  ValueId h = kNoValue, c = kNoValue;
};

// One direction of a node while it is unrolled.
struct Track {
  std::vector<Activation> f;
  ValueId projected = kNoValue;       // [T B, G H]: X W^T, with the bias that belongs there
  ValueId recurrence = kNoValue;      // [H, G H]: R^T
  ValueId recurrent_bias = kNoValue;  // [G H], where it is not in `projected`
  ValueId peepholes[3] = {kNoValue, kNoValue, kNoValue};  // [H]: i, o, f
};

class Unroller {
 public:
  // One step: the next state from the row of X at `step` and the state before.
  using StepFn = State (*)(Unroller& u, const Track& track, int64_t step, const State& before);

  Unroller(NodeImport& node, CellDef cell, StepFn step)
      : n(node), b(node.b), cell_(std::move(cell)), step_(step) {}

  Outputs Run() {
    if (!ReadShapes() || !ReadSettings() || !CheckTypes()) return {};
    if (batch_first_) x_ = Transpose(b, x_, {1, 0, 2});
    x_ = Reshape(b, x_, {steps_ * batch_, inputs_});
    for (int64_t t = 0; t < steps_ && n.has(4) && b.ok(); ++t) {
      const ValueId runs = Less(b, b.Scalar(DType::kInt32, static_cast<double>(t)), n.in(4));
      runs_.push_back(Reshape(b, runs, {batch_, 1}));
    }
    std::vector<ValueId> sequences, last_h, last_c;
    for (int d = 0; d < directions_ && b.ok(); ++d) {
      std::vector<ValueId> rows;
      const State last = RunDirection(d, &rows);
      sequences.push_back(rows.empty()
                              ? b.Full({dtype_, {0, 1, batch_, hidden_}}, 0)
                              : Reshape(b, Concat(b, rows, 0), {steps_, 1, batch_, hidden_}));
      last_h.push_back(Reshape(b, last.h, {1, batch_, hidden_}));
      if (cell_.states == 2) last_c.push_back(Reshape(b, last.c, {1, batch_, hidden_}));
    }
    if (!b.ok()) return {};
    Outputs out = {Concat(b, sequences, 1), Concat(b, last_h, 0)};
    if (cell_.states == 2) out.push_back(Concat(b, last_c, 0));
    if (batch_first_) {
      out[0] = Transpose(b, out[0], {2, 0, 1, 3});
      for (size_t i = 1; i < out.size(); ++i) out[i] = Transpose(b, out[i], {1, 0, 2});
    }
    return out;
  }

  // ---- For steps
  // Gate k of the input's projection at a step: [B, H].
  ValueId Projected(const Track& track, int64_t step, int k) {
    return Slice(b, track.projected, {step * batch_, k * hidden_}, {1, 1}, {batch_, hidden_});
  }
  // The state's product by the recurrent weights of gates [first, last): [B, (last - first) H].
  ValueId Recurrent(const Track& track, ValueId h, int first, int last) {
    const Shape part = {hidden_, (last - first) * hidden_};
    ValueId product = MatMul(b, h, Slice(b, track.recurrence, {0, first * hidden_}, {1, 1}, part));
    if (track.recurrent_bias == kNoValue) return product;
    return Add(b, product, Slice(b, track.recurrent_bias, {first * hidden_}, {1}, {part[1]}));
  }
  ValueId Gate(ValueId wide, int k) {
    return Slice(b, wide, {0, k * hidden_}, {1, 1}, {batch_, hidden_});
  }
  // An activation of its input, which `clip` bounds.
  ValueId Activate(const Activation& f, ValueId x) {
    if (clip_ > 0) {
      const ValueId low = b.ScalarLike(x, -clip_), high = b.ScalarLike(x, clip_);
      x = Where(b, Less(b, x, low), low, x);
      x = Where(b, Greater(b, x, high), high, x);
    }
    return f(x);
  }
  ValueId OneMinus(ValueId x) { return Sub(b, b.ScalarLike(x, 1), x); }
  bool resets_after_product() const { return resets_after_product_; }
  bool couples_gates() const { return couples_gates_; }

  NodeImport& n;
  GraphBuilder& b;

 private:
  bool Fits(int input, absl::string_view name, const Shape& want, bool required = false) {
    if (!n.has(input)) {
      if (required) n.Fail(Reason::kInvalidModel, absl::StrCat("input ", name, " is left out"));
      return !required;
    }
    if (n.type(input).shape == want) return true;
    n.Fail(Reason::kShapeMismatch, absl::StrCat(name, " is ", n.type(input).shape.ToString(),
                                                ", expected ", want.ToString()));
    return false;
  }

  // Whether sizes may be multiplied below; those of empty tensors are not bounded otherwise.
  bool SizesFit() {
    int64_t size = 2 * 2 * 4;  // directions, biases, gates
    for (const int64_t extent : {steps_, batch_, std::max(hidden_, inputs_)}) {
      if (CheckedMul(size, std::max<int64_t>(extent, 1), &size)) continue;
      n.Fail(Reason::kInvalidModel, "the extents of X and R are too large");
      return false;
    }
    return true;
  }

  bool ReadShapes() {
    if (!TakesInputs(n, 3, cell_.initial_h + (cell_.states == 2 ? 3 : 1))) return false;
    direction_ = StringAttr(n, "direction", "forward");
    batch_first_ = IntAttr(n, "layout", 0) != 0;
    if (direction_ != "forward" && direction_ != "reverse" && direction_ != "bidirectional") {
      n.Fail(Reason::kInvalidModel, absl::StrCat("direction is \"", direction_.substr(0, 40),
                                                 "\", expected forward, reverse, bidirectional"));
    }
    if (!b.ok()) return false;
    directions_ = direction_ == "bidirectional" ? 2 : 1;
    x_ = n.in(0);
    const Shape x = n.type(0).shape, r = n.type(2).shape;
    if (x.rank() != 3 || r.rank() != 3) {
      n.Fail(Reason::kShapeMismatch,
             absl::StrCat("X is ", x.ToString(), " and R ", r.ToString(), ", expected rank 3"));
      return false;
    }
    steps_ = x[batch_first_ ? 1 : 0];
    batch_ = x[batch_first_ ? 0 : 1];
    inputs_ = x[2];
    hidden_ = r[2];
    const int64_t asked = IntAttr(n, "hidden_size", hidden_);
    if (b.ok() && asked != hidden_) {
      n.Fail(Reason::kShapeMismatch, absl::StrCat("hidden_size is ", asked, ", R has ", hidden_));
    }
    if (!b.ok() || !SizesFit()) return false;
    const int64_t wide = cell_.gates * hidden_;
    const Shape state =
        batch_first_ ? Shape{batch_, directions_, hidden_} : Shape{directions_, batch_, hidden_};
    const int h = cell_.initial_h;
    return Fits(1, "W", {directions_, wide, inputs_}, true) &&
           Fits(2, "R", {directions_, wide, hidden_}, true) &&
           Fits(3, "B", {directions_, 2 * wide}) && Fits(4, "sequence_lens", {batch_}) &&
           Fits(h, "initial_h", state) &&
           (cell_.states == 1 ||
            (Fits(h + 1, "initial_c", state) && Fits(h + 2, "P", {directions_, 3 * hidden_})));
  }

  bool CheckTypes() {
    dtype_ = n.type(0).dtype;
    if (dtype_ != DType::kFloat && dtype_ != DType::kDouble) {
      n.Fail(Reason::kDtypeUnsupported,
             absl::StrCat("X is ", DTypeName(dtype_), ", expected FLOAT or DOUBLE"));
      return false;
    }
    for (int i = 1; i < n.num_inputs(); ++i) {
      const DType want = i == 4 ? DType::kInt32 : dtype_;
      if (!n.has(i) || n.type(i).dtype == want) continue;
      n.Fail(Reason::kDtypeUnsupported,
             absl::StrCat("input ", i, " is ", DTypeName(n.type(i).dtype), ", expected ",
                          DTypeName(want)));
      return false;
    }
    return true;
  }

  bool ReadSettings() {
    clip_ = FloatAttr(n, "clip", 0);
    resets_after_product_ = IntAttr(n, "linear_before_reset", 0) != 0;
    couples_gates_ = IntAttr(n, "input_forget", 0) != 0;
    if (b.ok() && !(clip_ >= 0)) {
      n.Fail(Reason::kInvalidModel, absl::StrCat("clip is ", clip_, ", expected 0 or more"));
    }
    return b.ok() && ReadActivations();
  }

  // The names, in the order (f, g, h) of each direction. Values of alpha and beta go to those that
  // take one, in that order; what gets none has the default of the op of its name.
  bool ReadActivations() {
    std::vector<std::string> names;
    for (int d = 0; d < directions_; ++d) {
      names.insert(names.end(), cell_.activations.begin(), cell_.activations.end());
    }
    if (const AttrValue* given = n.attrs.Find("activations")) {
      const auto* strings = std::get_if<std::vector<std::string>>(given);
      if (strings == nullptr || strings->size() != names.size()) {
        n.Fail(Reason::kInvalidModel,
               absl::StrCat("attribute activations is no list of ", names.size(), " names"));
        return false;
      }
      names = *strings;
    }
    const std::vector<double>* values[] = {&n.attrs.Floats("activation_alpha"),
                                           &n.attrs.Floats("activation_beta")};
    size_t taken[] = {0, 0};
    for (const std::string& name : names) {
      const auto* known = std::find_if(
          std::begin(kActivationNames), std::end(kActivationNames),
          [&](const ActivationName& a) { return absl::EqualsIgnoreCase(a.name, name); });
      if (known == std::end(kActivationNames)) {
        n.Fail(Reason::kUnsupportedOp,
               absl::StrCat("activation \"", name.substr(0, 40), "\" is not supported"));
        return false;
      }
      std::vector<Attrs::Entry> arguments;
      for (int i = 0; i < known->arguments; ++i) {
        if (taken[i] == values[i]->size()) continue;
        arguments.emplace_back(i == 0 ? "alpha" : "beta", (*values[i])[taken[i]++]);
      }
      activations_.push_back(ActivationOf(known->name, Attrs(std::move(arguments))));
    }
    // A list with a value for every activation, whether it takes one or not, could mean either.
    if (taken[0] != values[0]->size() || taken[1] != values[1]->size()) {
      n.Fail(Reason::kInvalidModel,
             absl::StrCat("has ", values[0]->size(), " values of activation_alpha and ",
                          values[1]->size(), " of activation_beta; the activations take ", taken[0],
                          " and ", taken[1]));
    }
    return b.ok();
  }

  Activation ActivationOf(absl::string_view name, const Attrs& arguments) {
    // Two that were ONNX operators once and have no row.
    const double alpha = arguments.Float("alpha", 1);
    const double beta = arguments.Float("beta", name == "Affine" ? 0 : 1);
    if (name == "Affine") {
      return [this, alpha, beta](ValueId x) {
        return Add(b, Mul(b, x, b.ScalarLike(x, alpha)), b.ScalarLike(x, beta));
      };
    }
    if (name == "ScaledTanh") {
      return [this, alpha, beta](ValueId x) {
        return Mul(b, Tanh(b, Mul(b, x, b.ScalarLike(x, beta))), b.ScalarLike(x, alpha));
      };
    }
    return [this, name, arguments](ValueId x) { return ApplyOp(n, name, arguments, x); };
  }

  // Row d of an input [D, ...], without that dimension.
  ValueId Row(int input, int d) {
    Dims dims = n.type(input).shape.dims();
    std::vector<int64_t> starts(dims.size(), 0);
    starts[0] = d;
    dims[0] = 1;
    const ValueId row =
        Slice(b, n.in(input), starts, std::vector<int64_t>(dims.size(), 1), Shape(dims));
    dims.erase(dims.begin());
    return Reshape(b, row, Shape(dims));
  }

  // Columns [k, k + count) H of a row vector.
  ValueId Columns(ValueId row, int k, int count) {
    return Slice(b, row, {k * hidden_}, {1}, {count * hidden_});
  }

  Track MakeTrack(int d) {
    Track track;
    const auto per_direction = static_cast<std::ptrdiff_t>(cell_.activations.size());
    track.f.assign(activations_.begin() + d * per_direction,
                   activations_.begin() + (d + 1) * per_direction);
    track.projected = MatMul(b, x_, MatrixTranspose(b, Row(1, d)));
    track.recurrence = MatrixTranspose(b, Row(2, d));
    if (n.has(3)) {
      const ValueId both = Row(3, d);
      ValueId bias = Columns(both, 0, cell_.gates);
      const ValueId recurrent = Columns(both, cell_.gates, cell_.gates);
      if (resets_after_product_) {
        track.recurrent_bias = recurrent;
      } else {
        bias = Add(b, bias, recurrent);
      }
      track.projected = Add(b, track.projected, bias);
    }
    if (cell_.states == 2 && n.has(cell_.initial_h + 2)) {
      const ValueId p = Row(cell_.initial_h + 2, d);
      for (int k = 0; k < 3; ++k) track.peepholes[k] = Columns(p, k, 1);
    }
    return track;
  }

  ValueId Initial(int input, int d) {
    if (!n.has(input)) return b.Full({dtype_, {batch_, hidden_}}, 0);
    if (!batch_first_) return Row(input, d);
    return Reshape(b, Slice(b, n.in(input), {0, d, 0}, {1, 1, 1}, {batch_, 1, hidden_}),
                   {batch_, hidden_});
  }

  // Adds the rows of Y, in the order of time, and gives the last state.
  State RunDirection(int d, std::vector<ValueId>* rows) {
    const Track track = MakeTrack(d);
    State state = {Initial(cell_.initial_h, d),
                   cell_.states == 2 ? Initial(cell_.initial_h + 1, d) : kNoValue};
    const bool backwards = direction_ == "reverse" || d == 1;
    for (int64_t k = 0; k < steps_ && b.ok(); ++k) {
      const int64_t t = backwards ? steps_ - 1 - k : k;
      State next = step_(*this, track, t, state);
      if (!b.ok()) return {};
      ValueId row = next.h;
      if (!runs_.empty()) {  // past its end a sequence keeps its state, and Y is 0
        const ValueId runs = runs_[static_cast<size_t>(t)];
        row = Where(b, runs, next.h, b.ScalarLike(next.h, 0));
        next.h = Where(b, runs, next.h, state.h);
        if (next.c != kNoValue) next.c = Where(b, runs, next.c, state.c);
      }
      rows->push_back(row);
      state = next;
    }
    if (backwards) std::reverse(rows->begin(), rows->end());
    return state;
  }

  const CellDef cell_;
  const StepFn step_;
  std::string direction_;
  bool batch_first_ = false, resets_after_product_ = false, couples_gates_ = false;
  int64_t directions_ = 1, steps_ = 0, batch_ = 0, inputs_ = 0, hidden_ = 0;
  double clip_ = 0;
  DType dtype_ = DType::kFloat;
  ValueId x_ = kNoValue;
  std::vector<Activation> activations_;  // of all directions
  std::vector<ValueId> runs_;            // by step: BOOL [B, 1], which sequences have it
};

// ---- The cells

State RnnStep(Unroller& u, const Track& track, int64_t step, const State& before) {
  const ValueId sum = Add(u.b, u.Projected(track, step, 0), u.Recurrent(track, before.h, 0, 1));
  return {u.Activate(track.f[0], sum)};
}

State GruStep(Unroller& u, const Track& track, int64_t step, const State& before) {
  GraphBuilder& b = u.b;
  const ValueId wide = u.Recurrent(track, before.h, 0, u.resets_after_product() ? 3 : 2);
  const auto gate = [&](int k) {
    return u.Activate(track.f[0], Add(b, u.Projected(track, step, k), u.Gate(wide, k)));
  };
  const ValueId z = gate(0), r = gate(1);
  const ValueId recurrent = u.resets_after_product()
                                ? Mul(b, r, u.Gate(wide, 2))
                                : u.Recurrent(track, Mul(b, r, before.h), 2, 3);
  const ValueId candidate = u.Activate(track.f[1], Add(b, u.Projected(track, step, 2), recurrent));
  return {Add(b, Mul(b, u.OneMinus(z), candidate), Mul(b, z, before.h))};
}

State LstmStep(Unroller& u, const Track& track, int64_t step, const State& before) {
  GraphBuilder& b = u.b;
  enum { kI, kO, kF, kC };  // the order of the gates; the peepholes have the first three
  const ValueId wide = u.Recurrent(track, before.h, 0, 4);
  const auto gate = [&](int k, const Activation& f, ValueId peeped) {
    ValueId sum = Add(b, u.Projected(track, step, k), u.Gate(wide, k));
    if (peeped != kNoValue && track.peepholes[k] != kNoValue) {
      sum = Add(b, sum, Mul(b, track.peepholes[k], peeped));
    }
    return u.Activate(f, sum);
  };
  const ValueId i = gate(kI, track.f[0], before.c);
  const ValueId f = u.couples_gates() ? u.OneMinus(i) : gate(kF, track.f[0], before.c);
  const ValueId candidate = gate(kC, track.f[1], kNoValue);
  const ValueId c = Add(b, Mul(b, f, before.c), Mul(b, i, candidate));
  const ValueId o = gate(kO, track.f[0], c);
  return {Mul(b, o, u.Activate(track.f[2], c)), c};
}

// ---- Rows

SampleInput Lengths(std::vector<double> lengths) {
  const auto count = static_cast<int64_t>(lengths.size());
  return Given({count}, std::move(lengths), DType::kInt32);
}

AttrValue Names(std::vector<std::string> names) { return AttrValue(std::move(names)); }
AttrValue Numbers(std::vector<double> numbers) { return AttrValue(std::move(numbers)); }
AttrValue Text(const char* text) { return AttrValue(std::string(text)); }

// X, W, R and B of `gates` gates: 3 steps of a batch of 2, 3 inputs, 2 hidden.
std::vector<SampleInput> SampleInputs(int64_t gates, int64_t directions, bool batch_first = false) {
  return {Drawn(batch_first ? Dims{2, 3, 3} : Dims{3, 2, 3}, -1, 1),
          Drawn({directions, 2 * gates, 3}, -1, 1), Drawn({directions, 2 * gates, 2}, -1, 1),
          Drawn({directions, 4 * gates}, -1, 1)};
}

std::vector<SampleInput> With(std::vector<SampleInput> inputs, std::vector<SampleInput> more) {
  inputs.insert(inputs.end(), more.begin(), more.end());
  return inputs;
}

const OpDef kRnnOp = {
    .name = "RNN",
    .doc =
        "`H = f(X W^T + H R^T + Wb + Rb)` over time, f = Tanh. One direction or both; sequences"
        " shorter than X keep their last state and have zeros in Y. Unrolled.",
    .min_inputs = 3,
    .max_inputs = 6,
    .onnx = {{.name = "RNN",
              .since = 1,
              .import =
                  [](NodeImport& n) {
                    return Unroller(n, {.gates = 1, .states = 1, .activations = {"Tanh"}}, RnnStep)
                        .Run();
                  }}},
    .domain = {.samples =
                   {
                       {.inputs = SampleInputs(1, 1), .num_outputs = 2},
                       {.inputs = With(SampleInputs(1, 2), {Lengths({3, 1}), Drawn({2, 2, 2})}),
                        .attrs = {{"direction", Text("bidirectional")},
                                  {"hidden_size", int64_t{2}}},
                        .num_outputs = 2},
                       {.inputs = With(SampleInputs(1, 1, true), {Absent(), Drawn({2, 1, 2})}),
                        .attrs = {{"layout", int64_t{1}},
                                  {"activations", Names({"Affine"})},
                                  {"activation_alpha", Numbers({0.5})},
                                  {"activation_beta", Numbers({0.25})}},
                        .num_outputs = 2},
                       {.inputs = SampleInputs(1, 1),
                        .attrs = {{"direction", Text("reverse")},
                                  {"activations", Names({"ScaledTanh"})},
                                  {"activation_alpha", Numbers({1.5})},
                                  {"activation_beta", Numbers({0.75})},
                                  {"clip", 0.9}},
                        .opset = 7,
                        .num_outputs = 2},
                       {.inputs = SampleInputs(1, 1),
                        .attrs = {{"activations", Names({"elu"})}},
                        .opset = 6,
                        .num_outputs = 2},
                       {.inputs = {Drawn({0, 2, 3}), Drawn({1, 2, 3}), Drawn({1, 2, 2})},
                        .num_outputs = 2},
                   }},
};

const OpDef kGruOp =
    {
        .name = "GRU",
        .doc =
            "Gated recurrent unit: `H = (1 - z) h + z H` with the gates z, r = Sigmoid and the"
            " candidate h = Tanh, whose product by R comes before the reset by r where"
            " `linear_before_reset`. Unrolled.",
        .min_inputs = 3,
        .max_inputs = 6,
        .onnx = {{.name = "GRU",
                  .since = 1,
                  .import =
                      [](NodeImport& n) {
                        return Unroller(
                                   n, {.gates = 3, .states = 1, .activations = {"Sigmoid", "Tanh"}},
                                   GruStep)
                            .Run();
                      }}},
        .domain = {.samples =
                       {
                           {.inputs = SampleInputs(3, 1), .num_outputs = 2},
                           {.inputs = With(SampleInputs(3, 1), {Lengths({1, 2}), Drawn({1, 2, 2})}),
                            .attrs = {{"linear_before_reset", int64_t{1}},
                                      {"direction", Text("reverse")}},
                            .num_outputs = 2},
                           {.inputs = SampleInputs(3, 2, true),
                            .attrs = {{"layout", int64_t{1}},
                                      {"direction", Text("bidirectional")},
                                      {"linear_before_reset", int64_t{1}},
                                      {"activations",
                                       Names({"HardSigmoid", "Softsign", "Sigmoid", "LeakyRelu"})},
                                      {"activation_alpha", Numbers({0.15, 0.3})},
                                      {"activation_beta", Numbers({0.4})}},
                            .num_outputs = 2},
                           {.inputs = SampleInputs(3, 1),
                            .attrs = {{"clip", 0.8}},
                            .opset = 7,
                            .num_outputs = 2},
                       }},
};

const OpDef kLstmOp = {
    .name = "LSTM",
    .doc =
        "Long short-term memory: `C = f C + i c`, `H = o h(C)` with the gates i, o, f = Sigmoid"
        " and c, h = Tanh; peepholes P; `f = 1 - i` where `input_forget`. `clip` bounds what every"
        " activation is taken of, h(C) included. Unrolled.",
    .min_inputs = 3,
    .max_inputs = 8,
    .onnx = {{.name = "LSTM",
              .since = 1,
              .import =
                  [](NodeImport& n) {
                    return Unroller(n,
                                    {.gates = 4,
                                     .states = 2,
                                     .activations = {"Sigmoid", "Tanh", "Tanh"}},
                                    LstmStep)
                        .Run();
                  }}},
    .domain = {.samples =
                   {
                       {.inputs = SampleInputs(4, 1), .num_outputs = 3},
                       {.inputs = With(SampleInputs(4, 2), {Lengths({2, 3}), Drawn({2, 2, 2}),
                                                            Drawn({2, 2, 2}), Drawn({2, 6})}),
                        .attrs = {{"direction", Text("bidirectional")}},
                        .num_outputs = 3},
                       {.inputs = With(SampleInputs(4, 1, true),
                                       {Absent(), Drawn({2, 1, 2}), Drawn({2, 1, 2})}),
                        .attrs = {{"layout", int64_t{1}},
                                  {"direction", Text("reverse")},
                                  {"input_forget", int64_t{1}},
                                  {"clip", 0.7}},
                        .num_outputs = 3},
                       {.inputs = {Drawn({2, 2, 3}), Drawn({1, 8, 3}), Drawn({1, 8, 2}), Absent(),
                                   Absent(), Absent(), Drawn({1, 2, 2})},
                        .attrs = {{"activations", Names({"Sigmoid", "Softplus", "Tanh"})}},
                        .opset = 7,
                        .num_outputs = 3},
                   }},
};

}  // namespace

std::vector<const OpDef*> RecurrentOps() { return {&kRnnOp, &kGruOp, &kLstmOp}; }

}  // namespace gradwire
