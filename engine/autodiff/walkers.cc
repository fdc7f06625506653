// The two walkers: cotangents backwards, tangents forwards. All that is common to every rule
// happens here and nowhere else: symbolic zeros, accumulation in a fixed order, un-broadcasting.
#include <algorithm>
#include <optional>

#include "engine/autodiff/autodiff.h"
#include "engine/base/overloaded.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

using Values = std::vector<ValueId>;

// A copy of what a rule needs to see: the builder's arrays grow while rules run.
struct NodeCopy {
  const OpDef* op;
  Attrs attrs;
  absl::InlinedVector<ValueId, 4> in, out;
  int32_t origin;
  NodeView view() const { return {attrs, in, out}; }
};

NodeCopy CopyNode(const GraphBuilder& b, int32_t index) {
  const Graph& graph = b.so_far();
  const Node& node = graph.nodes()[static_cast<size_t>(index)];
  NodeCopy copy{node.op, node.attrs, {}, {}, node.origin};
  for (ValueId v : graph.operands(node)) copy.in.push_back(v);
  for (int32_t k = 0; k < node.num_outputs; ++k) copy.out.push_back(node.first_output + k);
  return copy;
}

bool Floating(const GraphBuilder& b, ValueId v) { return IsFloating(b.dtype(v)); }

// Nodes that have no derivative although one is needed: all of them are named in one error.
class Refusals {
 public:
  void Add(const GraphBuilder& b, const NodeCopy& node, absl::string_view why) {
    const Graph& graph = b.so_far();
    const Origins& origins = graph.origins();
    const bool known = origins != nullptr && node.origin >= 0;
    problems_.Add(Reason::kNotDifferentiable,
                  known ? (*origins)[static_cast<size_t>(node.origin)] : std::string(node.op->name),
                  std::string(why));
  }
  void Report(GraphBuilder& b) {
    b.SetOrigin(-1);
    b.Fail(problems_.ToStatus());
  }

 private:
  Problems problems_;
};

ValueId Accumulate(GraphBuilder& b, ValueId sum, ValueId term) {
  if (term == kNoValue) return sum;
  return sum == kNoValue ? term : Add(b, sum, term);
}

// The cotangent of a value while it is summed up. What comes from a Slice of it waits, for windows
// that complete each other are put together rather than added; and so do thin products.
struct Cotangent {
  ValueId sum = kNoValue;
  Values placed, products;

  void Take(GraphBuilder& b, ValueId term) {
    if (IsPlaced(b, term)) {
      placed.push_back(term);
    } else if (IsThinProduct(b, term)) {
      products.push_back(term);
    } else {
      sum = Accumulate(b, sum, term);
    }
  }
  bool zero() const { return sum == kNoValue && placed.empty() && products.empty(); }
  ValueId Total(GraphBuilder& b) {
    sum = Accumulate(b, sum, SumPlaced(b, placed));
    placed.clear();
    // The walk goes backwards: in the order of the nodes they come from, their factors are put
    // together as placed ones are, and need not be twice.
    std::reverse(products.begin(), products.end());
    sum = Accumulate(b, sum, SumThinProducts(b, products));
    products.clear();
    return sum;
  }
};

// The cotangents of a node's inputs (kNoValue for zero), not yet summed to the inputs' shapes.
Values VjpOf(GraphBuilder& b, const NodeCopy& node, const Values& g,
             const absl::InlinedVector<bool, 4>& wanted, Refusals* refusals) {
  const NodeView n = node.view();
  Values out(node.in.size(), kNoValue);
  std::visit(Overloaded{
                 [](const Zero&) {},
                 [&](const NotDifferentiable& rule) {
                   refusals->Add(b, node, rule.why);
                   // The walk goes on, so that nodes behind this one are named too.
                   for (size_t i = 0; i < out.size(); ++i) {
                     if (wanted[i]) out[i] = node.in[i];
                   }
                 },
                 [&](const Elementwise& rule) {
                   for (size_t i = 0; i < out.size(); ++i) {
                     if (!wanted[i]) continue;
                     const ValueId partial = rule.partial(b, n, static_cast<int>(i));
                     if (partial != kNoValue) out[i] = Mul(b, g[0], partial);
                   }
                 },
                 [&](const Linear& rule) {
                   for (size_t i = 0; i < out.size(); ++i) {
                     if (wanted[i]) out[i] = rule.transpose(b, n, static_cast<int>(i), g[0]);
                   }
                 },
                 [&](const Bilinear& rule) {
                   if (wanted[0]) out[0] = rule.lhs(b, n, g[0]);
                   if (wanted[1]) out[1] = rule.rhs(b, n, g[0]);
                 },
                 [&](const General& rule) {
                   out = rule.vjp(b, n, g);
                   out.resize(node.in.size(), kNoValue);
                 },
             },
             node.op->derivative);
  return out;
}

// The tangents of a node's outputs (kNoValue for zero).
Values JvpOf(GraphBuilder& b, const NodeCopy& node, const Values& t, Refusals* refusals) {
  const NodeView n = node.view();
  Values out(node.out.size(), kNoValue);
  std::visit(Overloaded{
                 [](const Zero&) {},
                 [&](const NotDifferentiable& rule) {
                   refusals->Add(b, node, rule.why);
                   for (size_t k = 0; k < out.size(); ++k) {
                     if (Floating(b, node.out[k])) out[k] = node.out[k];
                   }
                 },
                 [&](const Elementwise& rule) {
                   for (size_t i = 0; i < t.size(); ++i) {
                     if (t[i] == kNoValue) continue;
                     const ValueId partial = rule.partial(b, n, static_cast<int>(i));
                     if (partial != kNoValue) out[0] = Accumulate(b, out[0], Mul(b, t[i], partial));
                   }
                 },
                 [&](const Linear&) {
                   Values in(n.in.begin(), n.in.end());
                   for (size_t i = 0; i < in.size(); ++i) {
                     if (Floating(b, in[i])) in[i] = t[i] != kNoValue ? t[i] : b.Zeros(in[i]);
                   }
                   out[0] = b.Add(*node.op, in, node.attrs);
                 },
                 [&](const Bilinear&) {
                   if (t[0] != kNoValue) out[0] = b.Add(*node.op, {t[0], n.in[1]}, node.attrs);
                   if (t[1] != kNoValue) {
                     out[0] = Accumulate(b, out[0], b.Add(*node.op, {n.in[0], t[1]}, node.attrs));
                   }
                 },
                 [&](const General& rule) {
                   out = rule.jvp(b, n, t);
                   out.resize(node.out.size(), kNoValue);
                 },
             },
             node.op->derivative);
  return out;
}

}  // namespace

std::vector<ValueId> Cotangents(GraphBuilder& b, absl::Span<const ValueId> ys,
                                absl::Span<const ValueId> y_cotangents,
                                absl::Span<const ValueId> wrt) {
  Values result(wrt.size(), kNoValue);
  if (!b.ok()) return result;
  const auto num_nodes = static_cast<int32_t>(b.so_far().nodes().size());
  const auto num_values = static_cast<size_t>(b.num_values());
  std::vector<bool> depends(num_values, false);
  for (ValueId v : wrt) depends[static_cast<size_t>(v)] = true;
  for (int32_t i = 0; i < num_nodes; ++i) {
    const Node& node = b.so_far().nodes()[static_cast<size_t>(i)];
    const auto operands = b.operands(node);
    if (!std::any_of(operands.begin(), operands.end(), [&](ValueId v) {
          return depends[static_cast<size_t>(v)] && Floating(b, v);
        })) {
      continue;
    }
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      if (Floating(b, node.first_output + k)) {
        depends[static_cast<size_t>(node.first_output + k)] = true;
      }
    }
  }
  std::vector<Cotangent> cotangent(num_values);
  for (size_t i = 0; i < ys.size(); ++i) {
    if (depends[static_cast<size_t>(ys[i])] && y_cotangents[i] != kNoValue) {
      cotangent[static_cast<size_t>(ys[i])].Take(b, y_cotangents[i]);
    }
  }
  Refusals refusals;
  const int32_t outer_origin = b.origin();
  for (int32_t i = num_nodes - 1; i >= 0 && b.ok(); --i) {
    const Node& peek = b.so_far().nodes()[static_cast<size_t>(i)];
    bool reached = false;
    for (int32_t k = 0; k < peek.num_outputs; ++k) {
      reached = reached || !cotangent[static_cast<size_t>(peek.first_output + k)].zero();
    }
    if (!reached) continue;
    const NodeCopy node = CopyNode(b, i);
    absl::InlinedVector<bool, 4> wanted;
    bool any = false;
    for (ValueId v : node.in) {
      wanted.push_back(depends[static_cast<size_t>(v)] && Floating(b, v));
      any = any || wanted.back();
    }
    if (!any) continue;
    Values g;
    b.SetOrigin(node.origin);
    for (ValueId v : node.out) g.push_back(cotangent[static_cast<size_t>(v)].Total(b));
    const Values in = VjpOf(b, node, g, wanted, &refusals);
    for (size_t k = 0; k < in.size() && b.ok(); ++k) {
      if (!wanted[k] || in[k] == kNoValue) continue;
      cotangent[static_cast<size_t>(node.in[k])].Take(b,
                                                      SumTo(b, in[k], Shape(b.shape(node.in[k]))));
    }
  }
  b.SetOrigin(outer_origin);
  refusals.Report(b);
  for (size_t i = 0; i < wrt.size(); ++i) {
    result[i] = cotangent[static_cast<size_t>(wrt[i])].Total(b);
  }
  return result;
}

std::vector<ValueId> Tangents(GraphBuilder& b, absl::Span<const ValueId> xs,
                              absl::Span<const ValueId> x_tangents, absl::Span<const ValueId> ys) {
  Values result(ys.size(), kNoValue);
  if (!b.ok()) return result;
  const auto num_nodes = static_cast<int32_t>(b.so_far().nodes().size());
  Values tangent(static_cast<size_t>(b.num_values()), kNoValue);
  for (size_t i = 0; i < xs.size(); ++i) tangent[static_cast<size_t>(xs[i])] = x_tangents[i];
  // Only what some y needs: refusing a node that none needs would be wrong.
  std::vector<bool> needed(tangent.size(), false);
  for (ValueId y : ys) needed[static_cast<size_t>(y)] = true;
  for (int32_t i = num_nodes - 1; i >= 0; --i) {
    const Node& node = b.so_far().nodes()[static_cast<size_t>(i)];
    bool used = false;
    for (int32_t k = 0; k < node.num_outputs; ++k) {
      used = used || needed[static_cast<size_t>(node.first_output + k)];
    }
    if (!used) continue;
    for (ValueId v : b.operands(node)) needed[static_cast<size_t>(v)] = true;
    needed[static_cast<size_t>(node.first_output)] = true;
  }
  Refusals refusals;
  const int32_t outer_origin = b.origin();
  for (int32_t i = 0; i < num_nodes && b.ok(); ++i) {
    const Node& peek = b.so_far().nodes()[static_cast<size_t>(i)];
    if (!needed[static_cast<size_t>(peek.first_output)]) continue;
    const auto operands = b.operands(peek);
    if (!std::any_of(operands.begin(), operands.end(),
                     [&](ValueId v) { return tangent[static_cast<size_t>(v)] != kNoValue; })) {
      continue;
    }
    const NodeCopy node = CopyNode(b, i);
    Values t;
    for (ValueId v : node.in) t.push_back(tangent[static_cast<size_t>(v)]);
    b.SetOrigin(node.origin);
    const Values out = JvpOf(b, node, t, &refusals);
    for (size_t k = 0; k < out.size() && b.ok(); ++k) {
      // A value that already has a tangent of its own (it is an x) keeps it.
      ValueId& slot = tangent[static_cast<size_t>(node.out[k])];
      if (out[k] == kNoValue || slot != kNoValue || !Floating(b, node.out[k])) continue;
      slot = Expand(b, out[k], Shape(b.shape(node.out[k])));
    }
  }
  b.SetOrigin(outer_origin);
  refusals.Report(b);
  for (size_t i = 0; i < ys.size(); ++i) result[i] = tangent[static_cast<size_t>(ys[i])];
  return result;
}

}  // namespace gradwire
