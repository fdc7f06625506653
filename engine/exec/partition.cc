// Phase 1 and 2 of Compile: which nodes run together, and through which layouts they read.
//
// Map clusters are found in one pass by *levels*. Every step has a level; an edge that leaves a
// cluster raises it by one, so two nodes of equal level, iteration space and stage can always share
// a cluster: no path leads out of it and back in. Linear in nodes.
#include <algorithm>
#include <map>
#include <numeric>

#include "absl/container/flat_hash_map.h"
#include "engine/base/checked.h"
#include "engine/exec/lowering.h"
#include "engine/graph/builder.h"
#include "engine/kernels/reduce.h"
#include "engine/kernels/tiles.h"

namespace gradwire {
namespace {

constexpr int64_t kSmallSpace = 4096;     // elements: below it, unrelated work shares a cluster
constexpr size_t kMaxInstructions = 256;  // of a cluster over a large space
constexpr size_t kMaxClusterOperands = 48;

// A cluster that grows while nodes are visited; merged ones point at their heir.
struct Cluster {
  int32_t level;
  Stage stage;
  std::vector<int32_t> nodes;
  absl::flat_hash_map<ValueId, int> external;  // roots read from outside
  int32_t heir = -1;
  int64_t reduce_inner = 0;  // of all its reductions; 0 while there is none
};

struct ClusterKey {
  int32_t level;
  Stage stage;
  Dims dims;
  auto operator<=>(const ClusterKey& o) const {
    if (level != o.level) return level <=> o.level;
    if (stage != o.stage) return stage <=> o.stage;
    if (dims == o.dims) return std::strong_ordering::equal;
    return std::lexicographical_compare(dims.begin(), dims.end(), o.dims.begin(), o.dims.end())
               ? std::strong_ordering::less
               : std::strong_ordering::greater;
  }
  bool operator==(const ClusterKey& o) const = default;
};

class Partitioner {
 public:
  Partitioner(const Graph& graph, const CompileOptions& options)
      : graph_(graph), options_(options) {
    out_.graph = &graph;
    const auto n = static_cast<size_t>(graph.num_values());
    out_.types.reserve(n);
    for (ValueId v = 0; v < graph.num_values(); ++v) out_.types.push_back(graph.type(v));
    out_.stages.assign(n, Stage::kConstant);
    operands_.resize(n);
    levels_.assign(n, 0);
    cluster_of_.assign(n, -1);
    waiting_.assign(n, 0);
    absorbed_.assign(graph.nodes().size(), false);
  }

  absl::StatusOr<Lowered> Run() {
    FindOnlyConsumers();
    for (const GraphInput& in : graph_.inputs()) {
      out_.stages[static_cast<size_t>(in.value)] = in.stage;
      Store(in.value, 0);
    }
    for (const Node& node : graph_.nodes()) {
      const Stage s = StageOf(node);
      for (int32_t k = 0; k < node.num_outputs; ++k) {
        out_.stages[static_cast<size_t>(node.first_output + k)] = s;
      }
    }
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      if (!absorbed_[i]) GW_RETURN_IF_ERROR(Visit(static_cast<int32_t>(i)));
    }
    PlaceOutputs();
    EmitClusters();
    return std::move(out_);
  }

 private:
  // ---- Values
  // A value has an only consumer where one node reads it, once, and nothing else does.
  void FindOnlyConsumers() {
    constexpr int32_t kMany = -2;
    only_consumer_.assign(out_.types.size(), -1);
    auto use = [&](ValueId v, int32_t by) {
      int32_t& slot = only_consumer_[static_cast<size_t>(v)];
      slot = slot == -1 ? by : kMany;
    };
    for (size_t i = 0; i < graph_.nodes().size(); ++i) {
      for (ValueId v : graph_.operands(graph_.nodes()[i])) use(v, static_cast<int32_t>(i));
    }
    for (const GraphOutput& o : graph_.outputs()) use(o.value, kMany);
    for (const StateUpdate& u : graph_.updates()) use(u.next, kMany);
  }

  int32_t OnlyConsumer(ValueId v) const { return only_consumer_[static_cast<size_t>(v)]; }

  const TensorType& type(ValueId v) const { return out_.types[static_cast<size_t>(v)]; }
  Stage stage(ValueId v) const { return out_.stages[static_cast<size_t>(v)]; }

  // v has storage of its own, dense.
  void Store(ValueId v, int32_t level) {
    operands_[static_cast<size_t>(v)] = {v, type(v), Layout::RowMajor(type(v).shape)};
    levels_[static_cast<size_t>(v)] = level;
  }

  ValueId NewRoot(const TensorType& t, Stage s, int32_t level) {
    const auto v = static_cast<ValueId>(out_.types.size());
    out_.types.push_back(t);
    out_.stages.push_back(s);
    operands_.emplace_back();
    levels_.push_back(0);
    cluster_of_.push_back(-1);
    waiting_.push_back(0);
    Store(v, level);
    return v;
  }

  Stage StageOf(const Node& node) const {
    Stage s = Stage::kConstant;
    for (ValueId v : graph_.operands(node)) s = std::max(s, stage(v));
    return s;
  }

  int32_t LevelOf(const Operand& o) const { return levels_[static_cast<size_t>(o.root)]; }

  // The level of a step of its own that reads these.
  int32_t LevelAfter(absl::Span<const Operand> in) const {
    int32_t level = 0;
    for (const Operand& o : in) level = std::max(level, LevelOf(o) + 1);
    return level;
  }

  Operand Dense(const Operand& o) { return o.dense() ? o : Copy(o); }

  // `o` in row-major order in storage of its own, made by a Map step.
  Operand Copy(const Operand& o) {
    const ValueId copy = NewRoot(o.type, stage(o.root), LevelOf(o) + 1);
    LoweredStep step;
    step.kind = LoweredStep::kMap;
    step.stage = stage(o.root);
    step.in = {o};
    step.out = {copy};
    step.space = o.type.shape;
    step.last_node = current_;
    step.instructions = {
        {tiles::Identity({&o.type.dtype, 1}, o.type.dtype), {-1}, o.type.dtype, copy}};
    out_.steps.push_back(std::move(step));
    return operands_[static_cast<size_t>(copy)];
  }

  // ---- Nodes
  absl::Status Visit(int32_t index) {
    current_ = index;
    const Node& node = graph_.nodes()[static_cast<size_t>(index)];
    if (node.op == &kConstantOp) {
      Store(node.first_output, 0);
      return absl::OkStatus();
    }
    if (options_.fast) {
      const Lowering& lowering = node.op->lowering;
      if (const auto* p = std::get_if<Pointwise>(&lowering)) {
        if (TileFn fn = TileOf(node, *p)) return VisitPointwise(index, node, fn);
      } else if (const auto* v = std::get_if<View>(&lowering)) {
        return VisitView(node, *v);
      } else if (const auto* r = std::get_if<Reduce>(&lowering)) {
        if (JoinReduce(index, node, *r) || VisitReduce(index, node, *r)) return absl::OkStatus();
      } else if (const auto* prim = std::get_if<Primitive>(&lowering)) {
        if (VisitPrimitive(index, node, *prim)) return absl::OkStatus();
      }
    }
    VisitReference(index, node);
    return absl::OkStatus();
  }

  TileFn TileOf(const Node& node, const Pointwise& p) const {
    absl::InlinedVector<DType, 3> in;
    for (ValueId v : graph_.operands(node)) in.push_back(type(v).dtype);
    const TileFn tile = in.size() <= 3 ? p.tile(in, type(node.first_output).dtype) : nullptr;
    return options_.declined_tiles.contains(tile) ? nullptr : tile;
  }

  bool Runs(ReduceFn fn) const { return fn && !options_.declined_reductions.contains(fn); }

  absl::Status VisitView(const Node& node, const View& view) {
    Operand in = operands_[static_cast<size_t>(graph_.operands(node)[0])];
    const TensorType out_type = type(node.first_output);  // a copy: Dense() adds types
    std::optional<Layout> layout = view.layout(node.attrs, in.type, in.layout, out_type);
    if (!layout) {
      in = Dense(in);
      layout = view.layout(node.attrs, in.type, in.layout, out_type);
      if (!layout) return absl::InternalError(absl::StrCat(node.op->name, " refuses a dense view"));
    }
    operands_[static_cast<size_t>(node.first_output)] = {in.root, out_type, *layout};
    return absl::OkStatus();
  }

  std::vector<Operand> Inputs(const Node& node) const {
    std::vector<Operand> in;
    for (ValueId v : graph_.operands(node)) in.push_back(operands_[static_cast<size_t>(v)]);
    return in;
  }

  int64_t FlopsOf(const Node& node) const {
    const TensorType& out = type(node.first_output);
    if (node.op->flops == nullptr) return out.shape.num_elements();
    absl::InlinedVector<TensorType, 4> in;
    for (ValueId v : graph_.operands(node)) in.push_back(type(v));
    return node.op->flops({in, node.attrs}, out);
  }

  LoweredStep NewStep(LoweredStep::Kind kind, int32_t index, const Node& node) {
    LoweredStep step;
    step.kind = kind;
    step.last_node = index;
    step.stage = StageOf(node);
    return step;
  }

  void Emit(LoweredStep step, absl::Span<const ValueId> outputs) {
    const int32_t level = LevelAfter(step.in);
    for (ValueId v : outputs) {
      step.out.push_back(v);
      Store(v, level);
    }
    out_.steps.push_back(std::move(step));
  }

  void VisitReference(int32_t index, const Node& node) {
    LoweredStep step = NewStep(LoweredStep::kReference, index, node);
    for (const Operand& o : Inputs(node)) step.in.push_back(Dense(o));
    std::vector<ValueId> outputs(static_cast<size_t>(node.num_outputs));
    std::iota(outputs.begin(), outputs.end(), node.first_output);
    step.flops = FlopsOf(node);
    Emit(std::move(step), outputs);
  }

  // A reduction over trailing dimensions goes along with the cluster that computes its input.
  bool JoinReduce(int32_t index, const Node& node, const Reduce& reduce) {
    const Operand& in = operands_[static_cast<size_t>(graph_.operands(node)[0])];
    const std::vector<int64_t>& axes = node.attrs.Ints("axes");
    const Shape& space = in.type.shape;
    const int32_t from = cluster_of_[static_cast<size_t>(in.root)];
    if (from < 0 || axes.empty() || space.num_elements() == 0 ||
        !InRegister(in, space, StageOf(node)) || axes.back() != space.rank() - 1 ||
        axes.back() - axes.front() + 1 != static_cast<int64_t>(axes.size()) ||
        !Runs(FindReduce(reduce.kind, in.type.dtype))) {
      return false;
    }
    int64_t inner = 1;
    for (int64_t axis : axes) inner *= space[static_cast<int>(axis)];
    Cluster& cluster = clusters_[static_cast<size_t>(Heir(from))];
    if (TooLarge(cluster, space) || (cluster.reduce_inner != 0 && cluster.reduce_inner != inner)) {
      return false;
    }
    cluster.reduce_inner = inner;
    cluster.nodes.push_back(index);
    Store(node.first_output, LevelOf(in) + 1);
    return true;
  }

  bool VisitReduce(int32_t index, const Node& node, const Reduce& reduce) {
    const Operand in = operands_[static_cast<size_t>(graph_.operands(node)[0])];
    const std::vector<int64_t>& axes = node.attrs.Ints("axes");
    if (axes.empty() || !Runs(FindReduce(reduce.kind, in.type.dtype))) return false;
    // Reduced axes that are not adjacent are brought to the end by a copy.
    const bool adjacent = axes.back() - axes.front() + 1 == static_cast<int64_t>(axes.size());
    LoweredStep step = NewStep(LoweredStep::kReduce, index, node);
    step.reduce = reduce.kind;
    step.outer = step.axis = step.inner = 1;
    const Shape& shape = in.type.shape;
    if (adjacent) {
      for (int i = 0; i < shape.rank(); ++i) {
        (i < axes.front() ? step.outer : i > axes.back() ? step.inner : step.axis) *= shape[i];
      }
      step.in = {Dense(in)};
    } else {
      step.in = {Dense(AxesLast(in, axes))};
      for (int i = 0; i < shape.rank(); ++i) {
        const bool reduced = std::find(axes.begin(), axes.end(), i) != axes.end();
        (reduced ? step.axis : step.outer) *= shape[i];
      }
    }
    step.flops = shape.num_elements();
    Emit(std::move(step), {node.first_output});
    return true;
  }

  static Operand AxesLast(const Operand& in, const std::vector<int64_t>& axes) {
    Operand out = in;
    Dims extents, strides;
    for (bool reduced : {false, true}) {
      for (int i = 0; i < in.type.shape.rank(); ++i) {
        if ((std::find(axes.begin(), axes.end(), i) != axes.end()) != reduced) continue;
        extents.push_back(in.type.shape[i]);
        strides.push_back(in.layout.strides[static_cast<size_t>(i)]);
      }
    }
    out.type.shape = Shape(std::move(extents));
    out.layout.strides = std::move(strides);
    return out;
  }

  // ---- Primitives, with what folds into them
  // The bias operand if node `add` is out + bias with a bias over dimension `dim` alone, known
  // before the primitive runs.
  std::optional<Operand> BiasOf(int32_t add, ValueId product, int dim, int32_t at) const {
    const Node& node = graph_.nodes()[static_cast<size_t>(add)];
    const auto* p = std::get_if<Pointwise>(&node.op->lowering);
    if (p == nullptr || p->tile != &tiles::Add) return std::nullopt;
    const auto operands = graph_.operands(node);
    const ValueId other = operands[0] == product ? operands[1] : operands[0];
    if (other >= graph_.nodes()[static_cast<size_t>(at)].first_output ||
        waiting_[static_cast<size_t>(operands_[static_cast<size_t>(other)].root)] > 0) {
      return std::nullopt;
    }
    const Shape& out = type(product).shape;
    if (type(node.first_output) != type(product)) return std::nullopt;
    Operand bias = operands_[static_cast<size_t>(other)];
    const Shape& shape = bias.type.shape;
    const int64_t n = out[dim];
    const int along = dim - out.rank() + shape.rank();
    if (along < 0 || shape.num_elements() != n || shape[along] != n || !bias.dense()) {
      return std::nullopt;
    }
    bias.layout = {{1}, bias.layout.offset};
    bias.type.shape = Shape{n};
    return bias;
  }

  bool VisitPrimitive(int32_t index, const Node& node, const Primitive& primitive) {
    struct Folded {
      std::optional<Operand> bias;
      PostOp post = PostOp::kNone;
      std::vector<int32_t> nodes;
      ValueId result;
    };
    std::vector<Folded> attempts = {{std::nullopt, PostOp::kNone, {}, node.first_output}};
    const int32_t add = OnlyConsumer(node.first_output);
    const int dim = BiasDim(primitive.kind, type(node.first_output).shape);
    if (add >= 0 && dim >= 0) {
      if (std::optional<Operand> bias = BiasOf(add, node.first_output, dim, index)) {
        const ValueId sum = graph_.nodes()[static_cast<size_t>(add)].first_output;
        attempts.push_back({bias, PostOp::kNone, {add}, sum});
        const int32_t act = OnlyConsumer(sum);
        const auto* p =
            act < 0
                ? nullptr
                : std::get_if<Pointwise>(&graph_.nodes()[static_cast<size_t>(act)].op->lowering);
        if (p != nullptr && p->post_op != PostOp::kNone) {
          attempts.push_back({bias,
                              p->post_op,
                              {add, act},
                              graph_.nodes()[static_cast<size_t>(act)].first_output});
        }
      }
    }
    for (auto it = attempts.rbegin(); it != attempts.rend(); ++it) {
      LoweredStep step = NewStep(LoweredStep::kPrimitive, index, node);
      step.in = Inputs(node);
      if (it->bias) step.in.push_back(*it->bias);
      if (!Propose(node, primitive, it->bias.has_value(), it->post, &step)) continue;
      for (int32_t absorbed : it->nodes) {
        absorbed_[static_cast<size_t>(absorbed)] = true;
        step.last_node = absorbed;
        ++step.num_nodes;
      }
      if (it->bias) step.stage = std::max(step.stage, stage(it->bias->root));
      out_.stages[static_cast<size_t>(it->result)] = step.stage;
      step.flops = FlopsOf(node);
      Emit(std::move(step), {it->result});
      return true;
    }
    return false;
  }

  bool Propose(const Node& node, const Primitive& primitive, bool has_bias, PostOp post,
               LoweredStep* step) {
    PrimitiveCall call;
    call.kind = primitive.kind;
    call.attrs = &node.attrs;
    for (const Operand& o : step->in) {
      call.in.push_back(o.type);
      call.layouts.push_back({o.layout.strides, 0});
    }
    if (has_bias) {
      call.in.pop_back();
      call.layouts.pop_back();
    }
    call.out = type(node.first_output);
    call.has_bias = has_bias;
    call.post_op = post;
    call.threads = options_.threads;
    for (const auto& provider : options_.providers) {
      std::optional<Proposal> proposal = provider->Propose(call);
      if (!proposal) continue;
      step->proposal = *std::move(proposal);
      for (size_t i = 0; i < call.in.size(); ++i) {
        if (step->proposal.wants_dense >> i & 1) step->in[i] = Dense(step->in[i]);
      }
      return true;
    }
    return false;
  }

  // ---- Map clusters
  int32_t Heir(int32_t c) {
    while (clusters_[static_cast<size_t>(c)].heir >= 0) c = clusters_[static_cast<size_t>(c)].heir;
    return c;
  }

  // Whether the node can read this operand from a register of a cluster of its own level.
  bool InRegister(const Operand& o, const Shape& space, Stage s) const {
    return cluster_of_[static_cast<size_t>(o.root)] >= 0 && stage(o.root) == s &&
           o.type.shape == space && o.dense() && o.layout.offset == 0 &&
           type(o.root).shape == space;
  }

  bool TooLarge(const Cluster& c, const Shape& space) const {
    return space.num_elements() > kSmallSpace &&
           (c.nodes.size() >= kMaxInstructions || c.external.size() >= kMaxClusterOperands);
  }

  // A node whose operands have storage anyway waits for its only consumer and joins that one's
  // cluster, however much later: its result then needs no memory (the mask of a relu, the 1 - y^2
  // of a tanh, wanted only by the backward pass). How many nodes would then wait for the same
  // cluster; 0 where this one cannot.
  int32_t Waiting(const Node& node, const std::vector<Operand>& in) const {
    constexpr int32_t kMostWaiting = 16;
    const int32_t consumer = OnlyConsumer(node.first_output);
    if (consumer < 0) return 0;
    const Node& next = graph_.nodes()[static_cast<size_t>(consumer)];
    const auto* p = std::get_if<Pointwise>(&next.op->lowering);
    if (p == nullptr || type(next.first_output).shape != type(node.first_output).shape ||
        StageOf(next) != stage(node.first_output) || TileOf(next, *p) == nullptr) {
      return 0;
    }
    const Shape& space = type(node.first_output).shape;
    int32_t waiting = 1;
    for (const Operand& o : in) {
      const auto root = static_cast<size_t>(o.root);
      const bool stored =
          cluster_of_[root] < 0 ||
          (o.type.shape.num_elements() <= 1 && !InRegister(o, space, stage(node.first_output)));
      if (!stored) return 0;
      waiting += waiting_[root];
    }
    return waiting <= kMostWaiting ? waiting : 0;
  }

  absl::Status VisitPointwise(int32_t index, const Node& node, TileFn fn) {
    const ValueId v = node.first_output;
    const Shape& space = type(v).shape;
    const Stage s = stage(v);
    const std::vector<Operand> in = Inputs(node);
    int32_t level = 0;
    for (const Operand& o : in) {
      const bool mapped = cluster_of_[static_cast<size_t>(o.root)] >= 0;
      level = std::max(level, LevelOf(o) + (mapped && !InRegister(o, space, s) ? 1 : 0));
    }
    tile_of_[index] = fn;
    Store(v, level);
    waiting_[static_cast<size_t>(v)] = Waiting(node, in);
    if (waiting_[static_cast<size_t>(v)] > 0) return absl::OkStatus();
    int32_t home = JoinProducers(in, space, s, level);
    if (home == kFull) {
      ++level;
      home = -1;
    }
    if (home < 0) home = FindOpen({level, s, space.dims()}, in, space);
    Place(index, level, home);
    return absl::OkStatus();
  }

  // Puts a node into a cluster, and with it those that waited for it.
  void Place(int32_t index, int32_t level, int32_t home) {
    std::vector<int32_t> nodes = {index};
    Cluster& cluster = clusters_[static_cast<size_t>(home)];
    for (size_t k = 0; k < nodes.size(); ++k) {
      const Node& node = graph_.nodes()[static_cast<size_t>(nodes[k])];
      for (const Operand& o : Inputs(node)) {
        const auto root = static_cast<size_t>(o.root);
        if (waiting_[root] > 0) {
          waiting_[root] = 0;
          nodes.push_back(graph_.producer(o.root));
        } else if (cluster_of_[root] < 0 || Heir(cluster_of_[root]) != home) {
          cluster.external.emplace(o.root, 0);
        }
      }
      cluster.nodes.push_back(nodes[k]);
      Store(node.first_output, level);
      cluster_of_[static_cast<size_t>(node.first_output)] = home;
    }
  }

  static constexpr int32_t kFull = -2;

  // Merges the clusters of this level that hold the operands; -1 where there is none.
  int32_t JoinProducers(const std::vector<Operand>& in, const Shape& space, Stage s,
                        int32_t level) {
    int32_t home = -1;
    for (const Operand& o : in) {
      if (LevelOf(o) != level || !InRegister(o, space, s)) continue;
      const int32_t c = Heir(cluster_of_[static_cast<size_t>(o.root)]);
      if (c == home) continue;
      if (TooLarge(clusters_[static_cast<size_t>(c)], space)) return kFull;
      if (home < 0) {
        home = c;
        continue;
      }
      Cluster& from = clusters_[static_cast<size_t>(c)];
      Cluster& to = clusters_[static_cast<size_t>(home)];
      const bool fits = space.num_elements() <= kSmallSpace ||
                        from.nodes.size() + to.nodes.size() < kMaxInstructions;
      const bool agree =
          from.reduce_inner == 0 || to.reduce_inner == 0 || from.reduce_inner == to.reduce_inner;
      if (!fits || !agree) return kFull;
      // The smaller moves, so that all moves together stay n log n.
      if (from.nodes.size() > to.nodes.size()) {
        MoveInto(home, c);
        home = c;
      } else {
        MoveInto(c, home);
      }
    }
    return home;
  }

  void MoveInto(int32_t from, int32_t to) {
    Cluster& a = clusters_[static_cast<size_t>(from)];
    Cluster& b = clusters_[static_cast<size_t>(to)];
    b.nodes.insert(b.nodes.end(), a.nodes.begin(), a.nodes.end());
    for (const auto& [root, unused] : a.external) b.external.emplace(root, 0);
    b.reduce_inner = std::max(a.reduce_inner, b.reduce_inner);
    a.nodes.clear();
    a.external.clear();
    a.heir = to;
  }

  // An open cluster of this key that the node has something to do with, or a new one.
  int32_t FindOpen(const ClusterKey& key, const std::vector<Operand>& in, const Shape& space) {
    std::vector<int32_t>& open = open_[key];
    const bool small = space.num_elements() <= kSmallSpace;
    // Only the latest few: looking at all of them would not be linear.
    for (size_t k = open.size(), looked = 0; k-- > 0 && looked < 4; ++looked) {
      const int32_t c = Heir(open[k]);
      const Cluster& cluster = clusters_[static_cast<size_t>(c)];
      if (TooLarge(cluster, space)) continue;
      const bool related = std::any_of(in.begin(), in.end(), [&](const Operand& o) {
        return o.type.shape.num_elements() > 1 && cluster.external.contains(o.root);
      });
      if (small || related) return c;
    }
    clusters_.push_back({key.level, key.stage, {}, {}});
    open.push_back(static_cast<int32_t>(clusters_.size()) - 1);
    return open.back();
  }

  // Outputs and updates need dense storage of their own.
  void PlaceOutputs() {
    current_ = static_cast<int32_t>(graph_.nodes().size()) - 1;
    absl::flat_hash_map<ValueId, int> taken;
    for (const GraphOutput& o : graph_.outputs()) {
      Operand value = operands_[static_cast<size_t>(o.value)];
      const bool own = value.dense() && value.layout.offset == 0 &&
                       value.root < graph_.num_values() && graph_.producer(value.root) >= 0 &&
                       !IsConstant(value.root) &&
                       type(value.root).shape.num_elements() == value.type.shape.num_elements() &&
                       taken.emplace(value.root, 0).second;
      out_.outputs.push_back(own ? value : Copy(value));
    }
    for (const StateUpdate& u : graph_.updates()) {
      const Operand value = operands_[static_cast<size_t>(u.next)];
      // The buffer of an input may be that of another update, committed before.
      const bool own = value.dense() && value.layout.offset == 0 &&
                       (value.root >= graph_.num_values() || graph_.producer(value.root) >= 0);
      out_.update_roots.push_back(own ? value.root : Copy(value).root);
    }
  }

  bool IsConstant(ValueId root) const {
    return graph_.nodes()[static_cast<size_t>(graph_.producer(root))].op == &kConstantOp;
  }

  void EmitClusters() {
    std::vector<int32_t> readers = ExternalReaders();
    for (Cluster& cluster : clusters_) {
      if (cluster.nodes.empty()) continue;
      std::sort(cluster.nodes.begin(), cluster.nodes.end());
      LoweredStep step;
      step.kind = LoweredStep::kMap;
      step.stage = cluster.stage;
      step.last_node = cluster.nodes.back();
      step.num_nodes = static_cast<int32_t>(cluster.nodes.size());
      const ValueId first = graph_.nodes()[static_cast<size_t>(cluster.nodes[0])].first_output;
      step.space = type(first).shape;
      FillCluster(cluster, readers, &step);
      step.flops = SaturatingMul(step.space.num_elements(), step.num_nodes);
      out_.steps.push_back(std::move(step));
    }
  }

  // How many reads of each clustered root happen outside its cluster.
  std::vector<int32_t> ExternalReaders() {
    std::vector<int32_t> readers(out_.types.size(), 0);
    for (const LoweredStep& step : out_.steps) {
      for (const Operand& o : step.in) ++readers[static_cast<size_t>(o.root)];
    }
    for (const Operand& o : out_.outputs) ++readers[static_cast<size_t>(o.root)];
    for (ValueId v : out_.update_roots) ++readers[static_cast<size_t>(v)];
    for (size_t c = 0; c < clusters_.size(); ++c) {
      for (int32_t index : clusters_[c].nodes) {
        const Node& node = graph_.nodes()[static_cast<size_t>(index)];
        const bool reduces = std::holds_alternative<Reduce>(node.op->lowering);
        const Shape& space = type(reduces ? graph_.operands(node)[0] : node.first_output).shape;
        for (const Operand& o : Inputs(node)) {
          const int32_t from = cluster_of_[static_cast<size_t>(o.root)];
          const bool inside = from >= 0 && Heir(from) == static_cast<int32_t>(c) &&
                              InRegister(o, space, stage(node.first_output));
          if (!inside) ++readers[static_cast<size_t>(o.root)];
        }
      }
    }
    return readers;
  }

  void FillCluster(const Cluster& cluster, const std::vector<int32_t>& readers, LoweredStep* step) {
    absl::flat_hash_map<ValueId, int32_t> instruction_of;
    struct Seen {
      Layout layout;
      Shape shape;
      int32_t index;
    };
    absl::flat_hash_map<ValueId, absl::InlinedVector<Seen, 1>> input_of;
    for (int32_t index : cluster.nodes) {
      const Node& node = graph_.nodes()[static_cast<size_t>(index)];
      if (const auto* reduce = std::get_if<Reduce>(&node.op->lowering)) {
        const ValueId in = operands_[static_cast<size_t>(graph_.operands(node)[0])].root;
        step->reductions.push_back(
            {reduce->kind, instruction_of.at(in), type(in).dtype, node.first_output});
        continue;
      }
      MapInstruction instruction{
          tile_of_[index], {}, type(node.first_output).dtype, node.first_output};
      for (const Operand& o : Inputs(node)) {
        auto inside = instruction_of.find(o.root);
        if (inside != instruction_of.end() && InRegister(o, step->space, step->stage)) {
          instruction.in.push_back(inside->second);
          continue;
        }
        auto& seen = input_of[o.root];
        auto same = std::find_if(seen.begin(), seen.end(), [&](const Seen& known) {
          return known.layout == o.layout && known.shape == o.type.shape;
        });
        if (same == seen.end()) {
          seen.push_back({o.layout, o.type.shape, static_cast<int32_t>(step->in.size())});
          step->in.push_back(o);
          same = seen.end() - 1;
        }
        instruction.in.push_back(-1 - same->index);
      }
      instruction_of[node.first_output] = static_cast<int32_t>(step->instructions.size());
      step->instructions.push_back(std::move(instruction));
      if (readers[static_cast<size_t>(node.first_output)] > 0) {
        step->out.push_back(node.first_output);
      }
    }
    for (const MapReduction& r : step->reductions) step->out.push_back(r.result);
    step->reduce_inner = cluster.reduce_inner;
  }

  const Graph& graph_;
  const CompileOptions& options_;
  Lowered out_;
  std::vector<Operand> operands_;       // by value: how it is read
  std::vector<int32_t> levels_;         // by root
  std::vector<int32_t> cluster_of_;     // by root
  std::vector<int32_t> only_consumer_;  // by value; negative: none, or several
  std::vector<int32_t> waiting_;  // by root: it and others wait for its only consumer's cluster
  std::vector<bool> absorbed_;    // by node: folded into a primitive
  std::vector<Cluster> clusters_;
  std::map<ClusterKey, std::vector<int32_t>> open_;
  absl::flat_hash_map<int32_t, TileFn> tile_of_;
  int32_t current_ = 0;
};

}  // namespace

absl::StatusOr<Lowered> Partition(const Graph& graph, const CompileOptions& options) {
  return Partitioner(graph, options).Run();
}

}  // namespace gradwire
