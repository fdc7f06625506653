#include "engine/exec/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "engine/graph/window.h"

namespace gradwire {
namespace {

bool TransposedLast(const Layout& layout) {
  const size_t r = layout.strides.size();
  return r >= 2 && layout.strides[r - 1] != 1 && layout.strides[r - 2] == 1;
}

std::string ConvolutionKind(const PrimitiveCall& call) {
  const absl::StatusOr<Convolution> c = Convolution::Of(call.kind, call.in, call.out, *call.attrs);
  if (!c.ok()) return "conv";
  const char* name = call.kind == PrimitiveKind::kConv            ? "conv "
                     : call.kind == PrimitiveKind::kConvInputGrad ? "conv input grad "
                                                                  : "conv weight grad ";
  bool strided = false, dilated = false;
  for (const WindowDim& d : c->window) {
    strided = strided || d.stride > 1;
    dilated = dilated || d.dilation > 1;
  }
  return absl::StrCat(name, c->rank, "d", c->groups > 1 ? " grouped" : "",
                      strided ? " strided" : "", dilated ? " dilated" : "");
}

// What a verdict holds for: kernels of one kind share their code paths. "matmul FLOAT lhs^T+bias".
std::string KindOf(const PrimitiveCall& call) {
  const std::string kind = IsConvolution(call.kind)
                               ? absl::StrCat(ConvolutionKind(call), " ", DTypeName(call.out.dtype))
                               : absl::StrCat("matmul ", DTypeName(call.out.dtype),
                                              TransposedLast(call.layouts[0]) ? " lhs^T" : "",
                                              TransposedLast(call.layouts[1]) ? " rhs^T" : "");
  return absl::StrCat(kind, call.has_bias ? "+bias" : "", PostOpName(call.post_op));
}

class DecliningProvider : public KernelProvider {
 public:
  DecliningProvider(std::shared_ptr<const KernelProvider> inner, std::set<std::string> declined)
      : inner_(std::move(inner)), declined_(std::move(declined)) {}
  absl::string_view name() const override { return inner_->name(); }
  std::string version() const override { return inner_->version(); }
  std::optional<Proposal> Propose(const PrimitiveCall& call) const override {
    if (declined_.contains(KindOf(call))) return std::nullopt;
    return inner_->Propose(call);
  }

 private:
  const std::shared_ptr<const KernelProvider> inner_;
  const std::set<std::string> declined_;
};

double Activate(PostOp post, double x) {
  switch (post) {
    case PostOp::kRelu:
      return x > 0 || std::isnan(x) ? x : 0.0;
    case PostOp::kTanh:
      return std::tanh(x);
    case PostOp::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case PostOp::kNone:
      break;
  }
  return x;
}

// Small values that differ from element to element and sum without cancelling to nothing.
double Sample(int64_t i, int64_t salt) {
  return static_cast<double>((i * 37 + salt * 11) % 23 - 9) / 8.0;
}

template <typename T>
std::vector<T> Samples(int64_t n, int64_t salt) {
  std::vector<T> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(i)] = static_cast<T>(Sample(i, salt));
  return out;
}

// Checks the kernels of one provider, and remembers which kinds were wrong.
class PrimitiveChecker {
 public:
  PrimitiveChecker(const KernelProvider& provider, const OpRegistry& ops, int threads)
      : provider_(provider), ops_(ops), threads_(threads) {}

  void Run() {
    for (DType dtype : {DType::kFloat, DType::kDouble}) {
      CheckProducts(dtype);
      CheckConvolutions(dtype);
    }
  }
  const std::set<std::string>& failed() const { return failed_; }
  int64_t checks() const { return checks_; }

 private:
  // Runs a kernel twice on poisoned memory. `terms` products are summed for each element of `want`.
  template <typename T>
  bool Agrees(const Proposal& proposal, const void* const* in, const std::vector<double>& want,
              int64_t terms) {
    std::vector<T> out(want.size()), first;
    Tensor scratch(TensorType{DType::kUint8, {std::max<int64_t>(proposal.scratch_bytes, 1)}});
    for (int run = 0; run < 2; ++run) {
      std::memset(scratch.mutable_raw(), 0xFF, static_cast<size_t>(scratch.bytes()));
      std::memset(out.data(), 0xFF, out.size() * sizeof(T));
      void* outs[] = {out.data()};
      ++checks_;
      if (!proposal.kernel->Run(in, outs, scratch.mutable_raw(), threads_).ok()) return false;
      if (run == 0) first = out;
    }
    if (std::memcmp(first.data(), out.data(), out.size() * sizeof(T)) != 0) return false;
    const double tolerance = (sizeof(T) == 4 ? 2e-6 : 1e-14) * static_cast<double>(terms + 4);
    for (size_t i = 0; i < want.size(); ++i) {
      const double got = static_cast<double>(out[i]);
      if (!(std::abs(got - want[i]) <= tolerance * (1 + std::abs(want[i])))) return false;
    }
    return true;
  }

  // ---- Products
  struct Product {
    int64_t m, n, k;
    bool transpose_lhs, transpose_rhs, bias;
    PostOp post;
  };

  void CheckProducts(DType dtype) {
    static constexpr int64_t kSizes[][3] = {{1, 1, 1}, {2, 3, 4},    {5, 1, 7},    {1, 9, 16},
                                            {8, 8, 8}, {16, 17, 15}, {33, 10, 64}, {64, 48, 3}};
    for (int variant = 0; variant < 2 * 2 * 2 * 4; ++variant) {
      for (const auto& size : kSizes) {
        const Product p{size[0],
                        size[1],
                        size[2],
                        (variant & 1) != 0,
                        (variant & 2) != 0,
                        (variant & 4) != 0,
                        static_cast<PostOp>(variant >> 3)};
        dtype == DType::kFloat ? CheckProduct<float>(p) : CheckProduct<double>(p);
      }
    }
  }

  template <typename T>
  void CheckProduct(const Product& p) {
    constexpr DType kDType = kDTypeOf<T>;
    const Attrs attrs;
    PrimitiveCall call;
    call.kind = PrimitiveKind::kMatMul;
    call.attrs = &attrs;
    call.in = {{kDType, {p.m, p.k}}, {kDType, {p.k, p.n}}};
    call.layouts = {p.transpose_lhs ? Layout{{1, p.m}, 0} : Layout{{p.k, 1}, 0},
                    p.transpose_rhs ? Layout{{1, p.k}, 0} : Layout{{p.n, 1}, 0}};
    call.out = {kDType, {p.m, p.n}};
    call.has_bias = p.bias;
    call.post_op = p.post;
    call.threads = threads_;
    const std::optional<Proposal> proposal = provider_.Propose(call);
    // Nothing proposed, nothing to disbelieve.
    if (!proposal || proposal->wants_dense != 0) return;
    const std::vector<T> lhs = Samples<T>(p.m * p.k, 1), rhs = Samples<T>(p.k * p.n, 2),
                         bias = Samples<T>(p.n, 3);
    auto at = [](const std::vector<T>& v, const Layout& l, int64_t i, int64_t j) {
      return static_cast<double>(v[static_cast<size_t>(i * l.strides[0] + j * l.strides[1])]);
    };
    std::vector<double> want;
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = p.bias ? static_cast<double>(bias[static_cast<size_t>(j)]) : 0.0;
        for (int64_t k = 0; k < p.k; ++k) {
          sum += at(lhs, call.layouts[0], i, k) * at(rhs, call.layouts[1], k, j);
        }
        want.push_back(Activate(p.post, sum));
      }
    }
    const void* in[] = {lhs.data(), rhs.data(), bias.data()};
    if (!Agrees<T>(*proposal, in, want, p.k)) failed_.insert(KindOf(call));
  }

  // ---- Convolutions
  struct Windows {
    int rank = 2;
    int64_t groups = 1, in_channels = 1, out_channels = 1;  // channels of one group
    int64_t stride = 1, dilation = 1, pad = 0;
  };

  // Widths around the eight channels of a vector, then every form of window, in two dimensions;
  // in one and three the latter with one width.
  void CheckConvolutions(DType dtype) {
    for (const auto& [in, out] : {std::pair{1, 1}, {1, 8}, {2, 3}, {8, 8}, {11, 4}, {16, 24}}) {
      for (int64_t groups : {1, 2}) CheckConvolution(dtype, {2, groups, in, out, 1, 1, 1});
    }
    CheckConvolution(dtype, {2, 8, 1, 1, 1, 1, 1});
    for (int rank = 1; rank <= kMaxWindowRank; ++rank) {
      for (int form = 0; form < 2 * 2 * 2 * 2; ++form) {
        CheckConvolution(dtype, {rank, 1 + (form & 1), 3, 8, 1 + (form >> 1 & 1),
                                 1 + (form >> 2 & 1), form >> 3});
      }
    }
  }

  void CheckConvolution(DType dtype, const Windows& w) {
    for (PrimitiveKind kind :
         {PrimitiveKind::kConv, PrimitiveKind::kConvInputGrad, PrimitiveKind::kConvWeightGrad}) {
      dtype == DType::kFloat ? CheckConvolution<float>(kind, w) : CheckConvolution<double>(kind, w);
    }
  }

  template <typename T>
  void CheckConvolution(PrimitiveKind kind, const Windows& w) {
    const auto row = std::find_if(ops_.rows().begin(), ops_.rows().end(), [&](const OpDef* op) {
      const auto* primitive = std::get_if<Primitive>(&op->lowering);
      return primitive != nullptr && primitive->kind == kind;
    });
    if (row == ops_.rows().end()) return;
    Dims x = {2, w.groups * w.in_channels}, kernel = {w.groups * w.out_channels, w.in_channels};
    std::vector<int64_t> pads;
    for (int d = 0; d < w.rank; ++d) {
      x.push_back(w.rank == 3 ? 5 + d : 9 + d);
      kernel.push_back(d == 1 ? 2 : 3);
    }
    const auto rank = static_cast<size_t>(w.rank);
    const Attrs attrs = {{"strides", std::vector<int64_t>(rank, w.stride)},
                         {"dilations", std::vector<int64_t>(rank, w.dilation)},
                         {"pads", std::vector<int64_t>(2 * rank, w.pad)},
                         {"group", w.groups}};
    const absl::StatusOr<Convolution> c = Convolution::Make(Shape(x), Shape(kernel), attrs);
    if (!c.ok()) return;
    const Shape y = c->Output();
    PrimitiveCall call;
    call.kind = kind;
    call.attrs = &attrs;
    call.threads = threads_;
    for (const Shape& shape : {kind == PrimitiveKind::kConvInputGrad ? y : Shape(x),
                               kind == PrimitiveKind::kConvWeightGrad ? y : Shape(kernel)}) {
      call.in.push_back({kDTypeOf<T>, shape});
      call.layouts.push_back(Layout::RowMajor(shape));
    }
    call.out = {kDTypeOf<T>, kind == PrimitiveKind::kConv            ? y
                             : kind == PrimitiveKind::kConvInputGrad ? Shape(x)
                                                                     : Shape(kernel)};
    const int64_t elements = call.out.shape.num_elements();
    const std::vector<double> sums = ReferenceOf(**row, call);
    const int64_t terms = c->flops() / 2 / elements;
    const std::vector<T> first = Samples<T>(call.in[0].shape.num_elements(), 1),
                         second = Samples<T>(call.in[1].shape.num_elements(), 2),
                         bias = Samples<T>(call.out.shape[1], 3);
    const void* in[] = {first.data(), second.data(), bias.data()};
    const int64_t points = c->out_points();
    for (PostOp post : {PostOp::kNone, PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
      for (bool has_bias : {false, true}) {
        // As Compile folds: gradients take nothing along, activations only come with a bias.
        if (has_bias ? kind != PrimitiveKind::kConv : post != PostOp::kNone) continue;
        call.has_bias = has_bias;
        call.post_op = post;
        const std::optional<Proposal> proposal = provider_.Propose(call);
        if (!proposal) continue;
        std::vector<double> want = sums;
        for (size_t i = 0; has_bias && i < want.size(); ++i) {
          const size_t channel = i / static_cast<size_t>(points) % bias.size();
          want[i] = Activate(post, want[i] + static_cast<double>(bias[channel]));
        }
        if (!Agrees<T>(*proposal, in, want, terms)) failed_.insert(KindOf(call));
      }
    }
  }

  // The row's reference on the call's samples, in DOUBLE.
  static std::vector<double> ReferenceOf(const OpDef& op, const PrimitiveCall& call) {
    std::vector<double> data[2], out(static_cast<size_t>(call.out.shape.num_elements()));
    std::vector<TensorView> views;
    for (size_t i = 0; i < 2; ++i) {
      data[i] = Samples<double>(call.in[i].shape.num_elements(), static_cast<int64_t>(i) + 1);
      views.emplace_back(TensorType{DType::kDouble, call.in[i].shape}, data[i].data());
    }
    const TensorType types[] = {{DType::kDouble, call.out.shape}};
    void* outs[] = {out.data()};
    if (!op.reference({*call.attrs, views, types, outs}).ok()) out.assign(out.size(), std::nan(""));
    return out;
  }

  const KernelProvider& provider_;
  const OpRegistry& ops_;
  const int threads_;
  std::set<std::string> failed_;
  int64_t checks_ = 0;
};

// ---- Loops

constexpr int64_t kTileElements = 67;  // whole vectors and a tail

// Numbers of a row's domain that differ from element to element.
Tensor DomainSample(const TensorType& type, const Domain& domain, int64_t salt) {
  Tensor t(type);
  VisitDType(type.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < t.num_elements(); ++i) {
      const double unit = static_cast<double>((i * 37 + salt * 11) % 101) / 101.0;
      const double value = domain.low + unit * (domain.high - domain.low);
      t.mutable_data<T>()[i] = std::is_same_v<T, bool> ? i % 3 == salt : static_cast<T>(value);
    }
  });
  return t;
}

bool Close(const Tensor& got, const Tensor& want) {
  const double tolerance = want.dtype() == DType::kFloat ? 4e-6 : 1e-13;
  for (int64_t i = 0; i < want.num_elements(); ++i) {
    const double g = ElementAsDouble(got, i), w = ElementAsDouble(want, i);
    if (g == w || (std::isnan(g) && std::isnan(w))) continue;
    if (!IsFloating(want.dtype()) || !(std::abs(g - w) <= tolerance * (1e-3 + std::abs(w)))) {
      return false;
    }
  }
  return true;
}

// Whether a row's loop for these input types, if it has one, agrees with the reference.
bool TileAgrees(const OpDef& op, absl::Span<const DType> in, TileFn* tile, int64_t* checks) {
  const auto& pointwise = std::get<Pointwise>(op.lowering);
  std::vector<TensorType> types;
  std::vector<Tensor> tensors;
  std::vector<TensorView> views;
  std::vector<const void*> raw;
  for (DType dtype : in) {
    tensors.push_back(
        DomainSample({dtype, {kTileElements}}, op.domain, static_cast<int64_t>(tensors.size())));
    types.push_back(tensors.back().type());
  }
  for (const Tensor& t : tensors) {
    views.push_back(t);
    raw.push_back(t.raw());
  }
  const Attrs attrs;
  const auto out_types = op.infer({types, attrs});
  if (!out_types.ok()) return true;  // the op does not take these types
  *tile = pointwise.tile(in, (*out_types)[0].dtype);
  if (*tile == nullptr) return true;
  Tensor want((*out_types)[0]), got((*out_types)[0]), again((*out_types)[0]);
  void* out[] = {want.mutable_raw()};
  if (!op.reference({attrs, views, *out_types, out}).ok()) return true;
  for (Tensor* t : {&got, &again}) {
    ++*checks;
    std::memset(t->mutable_raw(), 0xFF, static_cast<size_t>(t->bytes()));
    (*tile)(raw.data(), t->mutable_raw(), kTileElements);
  }
  return got == again && Close(got, want);
}

void CheckTiles(const OpRegistry& ops, CheckedProviders* out) {
  for (const OpDef* op : ops.rows()) {
    if (op->infer == nullptr || !std::holds_alternative<Pointwise>(op->lowering)) continue;
    for (DType dtype :
         {DType::kFloat, DType::kDouble, DType::kInt64, DType::kInt32, DType::kBool}) {
      for (bool mask : {false, true}) {
        std::vector<DType> in(static_cast<size_t>(std::min(op->max_inputs, 3)), dtype);
        if (mask) in[0] = DType::kBool;
        TileFn tile = nullptr;
        if (TileAgrees(*op, in, &tile, &out->checks)) continue;
        out->declined_tiles.insert(tile);
        out->declined.push_back(absl::StrCat("own tile ", op->name, " ", DTypeName(dtype)));
      }
    }
  }
}

// Whether a row's loop over the middle of `shape` agrees with the reference.
bool ReductionAgrees(const OpDef& op, ReduceFn fn, const TensorType& in, int threads,
                     int64_t* checks) {
  const Attrs attrs = {{"axes", std::vector<int64_t>{1}}};
  const auto out_types = op.infer({{&in, 1}, attrs});
  if (!out_types.ok()) return true;
  // Sums of positive numbers, which do not cancel; a NaN where there are several columns.
  Tensor x = DomainSample(in, {.low = 0.5, .high = 90, .samples = {}}, 1);
  const int64_t some = in.shape.num_elements() / 2;
  if (in.dtype == DType::kFloat && in.shape[2] > 1) x.mutable_data<float>()[some] = std::nanf("");
  if (in.dtype == DType::kDouble && in.shape[2] > 1) x.mutable_data<double>()[some] = std::nan("");
  Tensor want((*out_types)[0]), got((*out_types)[0]), again((*out_types)[0]);
  const TensorView view = x;
  void* out[] = {want.mutable_raw()};
  if (!op.reference({attrs, {&view, 1}, *out_types, out}).ok()) return true;
  for (Tensor* t : {&got, &again}) {
    ++*checks;
    std::memset(t->mutable_raw(), 0xFF, static_cast<size_t>(t->bytes()));
    fn(x.raw(), t->mutable_raw(), in.shape[0], in.shape[1], in.shape[2], threads);
  }
  const auto bytes = static_cast<size_t>(got.bytes());
  return std::memcmp(got.raw(), again.raw(), bytes) == 0 && Close(got, want);
}

void CheckReductions(const OpRegistry& ops, int threads, CheckedProviders* out) {
  // Around the width of vectors and of the blocks that are combined pairwise.
  static constexpr int64_t kShapes[][3] = {{1, 1, 1},    {3, 5, 1},    {2, 67, 1},
                                           {1, 4099, 1}, {1, 3, 2},    {2, 7, 9},
                                           {2, 64, 33},  {1, 130, 17}, {2, 3, 300}};
  for (const OpDef* op : ops.rows()) {
    const auto* reduce = std::get_if<Reduce>(&op->lowering);
    if (reduce == nullptr) continue;
    for (DType dtype : {DType::kFloat, DType::kDouble, DType::kInt64, DType::kInt32}) {
      const ReduceFn fn = FindReduce(reduce->kind, dtype);
      bool agrees = true;
      for (const auto& s : kShapes) {
        agrees = agrees && (fn == nullptr || ReductionAgrees(*op, fn, {dtype, {s[0], s[1], s[2]}},
                                                             threads, &out->checks));
      }
      if (agrees) continue;
      out->declined_reductions.insert(fn);
      out->declined.push_back(absl::StrCat("own reduction ", op->name, " ", DTypeName(dtype)));
    }
  }
}

}  // namespace

CheckedProviders CheckProviders(std::vector<std::shared_ptr<const KernelProvider>> providers,
                                const OpRegistry& ops, int threads, bool skip) {
  CheckedProviders out;
  if (!skip) {
    CheckTiles(ops, &out);
    CheckReductions(ops, threads, &out);
  }
  for (auto& provider : providers) {
    PrimitiveChecker checker(*provider, ops, threads);
    if (!skip) checker.Run();
    out.checks += checker.checks();
    for (const std::string& kind : checker.failed()) {
      out.declined.push_back(absl::StrCat(provider->name(), " ", kind));
    }
    out.providers.push_back(checker.failed().empty() ? std::move(provider)
                                                     : std::make_shared<DecliningProvider>(
                                                           std::move(provider), checker.failed()));
  }
  return out;
}

}  // namespace gradwire
