#include "engine/exec/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>

namespace gradwire {
namespace {

// What a verdict holds for: kernels of one kind share their code paths.
using KindKey = std::tuple<PrimitiveKind, DType, bool /*transposed lhs*/, bool /*transposed rhs*/,
                           bool /*bias*/, PostOp>;

bool TransposedLast(const Layout& layout) {
  const size_t r = layout.strides.size();
  return r >= 2 && layout.strides[r - 1] != 1 && layout.strides[r - 2] == 1;
}

KindKey KeyOf(const PrimitiveCall& call) {
  return {call.kind,
          call.out.dtype,
          TransposedLast(call.layouts[0]),
          TransposedLast(call.layouts[1]),
          call.has_bias,
          call.post_op};
}

std::string Name(absl::string_view provider, const KindKey& key) {
  static constexpr const char* kPost[] = {"", "+relu", "+tanh", "+sigmoid"};
  return absl::StrCat(provider, " matmul ", DTypeName(std::get<1>(key)),
                      std::get<2>(key) ? " lhs^T" : "", std::get<3>(key) ? " rhs^T" : "",
                      std::get<4>(key) ? "+bias" : "", kPost[static_cast<int>(std::get<5>(key))]);
}

class DecliningProvider : public KernelProvider {
 public:
  DecliningProvider(std::shared_ptr<const KernelProvider> inner, std::set<KindKey> declined)
      : inner_(std::move(inner)), declined_(std::move(declined)) {}
  absl::string_view name() const override { return inner_->name(); }
  std::string version() const override { return inner_->version(); }
  std::optional<Proposal> Propose(const PrimitiveCall& call) const override {
    if (declined_.contains(KeyOf(call))) return std::nullopt;
    return inner_->Propose(call);
  }

 private:
  const std::shared_ptr<const KernelProvider> inner_;
  const std::set<KindKey> declined_;
};

struct Case {
  int64_t m, n, k;
  bool transpose_lhs, transpose_rhs, bias;
  PostOp post;
  DType dtype;
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
bool Agrees(const KernelProvider& provider, const Case& c, int threads, int64_t* checks) {
  const Attrs attrs;
  PrimitiveCall call;
  call.kind = PrimitiveKind::kMatMul;
  call.attrs = &attrs;
  call.in = {{c.dtype, {c.m, c.k}}, {c.dtype, {c.k, c.n}}};
  call.layouts = {c.transpose_lhs ? Layout{{1, c.m}, 0} : Layout{{c.k, 1}, 0},
                  c.transpose_rhs ? Layout{{1, c.k}, 0} : Layout{{c.n, 1}, 0}};
  call.out = {c.dtype, {c.m, c.n}};
  call.has_bias = c.bias;
  call.post_op = c.post;
  call.threads = threads;
  std::optional<Proposal> proposal = provider.Propose(call);
  if (!proposal || proposal->wants_dense != 0)
    return true;  // nothing proposed, nothing to disbelieve
  std::vector<T> lhs(static_cast<size_t>(c.m * c.k)), rhs(static_cast<size_t>(c.k * c.n));
  std::vector<T> bias(static_cast<size_t>(c.n)), out(static_cast<size_t>(c.m * c.n));
  auto at = [](const Layout& l, int64_t i, int64_t j) {
    return static_cast<size_t>(i * l.strides[0] + j * l.strides[1]);
  };
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t k = 0; k < c.k; ++k)
      lhs[at(call.layouts[0], i, k)] = static_cast<T>(Sample(i * c.k + k, 1));
  }
  for (int64_t k = 0; k < c.k; ++k) {
    for (int64_t j = 0; j < c.n; ++j)
      rhs[at(call.layouts[1], k, j)] = static_cast<T>(Sample(k * c.n + j, 2));
  }
  for (int64_t j = 0; j < c.n; ++j) bias[static_cast<size_t>(j)] = static_cast<T>(Sample(j, 3));
  Tensor scratch(TensorType{DType::kUint8, {std::max<int64_t>(proposal->scratch_bytes, 1)}});
  std::vector<T> first;
  for (int run = 0; run < 2; ++run) {
    std::memset(scratch.mutable_raw(), 0xFF, static_cast<size_t>(scratch.bytes()));
    std::memset(out.data(), 0xFF, out.size() * sizeof(T));
    const void* in[] = {lhs.data(), rhs.data(), bias.data()};
    void* outs[] = {out.data()};
    ++*checks;
    if (!proposal->kernel->Run(in, outs, scratch.mutable_raw(), threads).ok()) return false;
    if (run == 0) first = out;
  }
  if (std::memcmp(first.data(), out.data(), out.size() * sizeof(T)) != 0) return false;
  const double tolerance = (sizeof(T) == 4 ? 2e-6 : 1e-14) * static_cast<double>(c.k + 4);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = c.bias ? static_cast<double>(bias[static_cast<size_t>(j)]) : 0.0;
      for (int64_t k = 0; k < c.k; ++k) {
        sum += static_cast<double>(lhs[at(call.layouts[0], i, k)]) *
               static_cast<double>(rhs[at(call.layouts[1], k, j)]);
      }
      const double want = Activate(c.post, sum);
      const double got = static_cast<double>(out[static_cast<size_t>(i * c.n + j)]);
      if (!(std::abs(got - want) <= tolerance * (1 + std::abs(want)))) return false;
    }
  }
  return true;
}

std::set<KindKey> FailedKinds(const KernelProvider& provider, int threads, int64_t* checks) {
  static constexpr int64_t kSizes[][3] = {{1, 1, 1}, {2, 3, 4},    {5, 1, 7},    {1, 9, 16},
                                          {8, 8, 8}, {16, 17, 15}, {33, 10, 64}, {64, 48, 3}};
  std::set<KindKey> failed;
  for (DType dtype : {DType::kFloat, DType::kDouble}) {
    for (int variant = 0; variant < 2 * 2 * 2 * 4; ++variant) {
      for (const auto& size : kSizes) {
        const Case c{size[0],
                     size[1],
                     size[2],
                     (variant & 1) != 0,
                     (variant & 2) != 0,
                     (variant & 4) != 0,
                     static_cast<PostOp>(variant >> 3),
                     dtype};
        const bool ok = dtype == DType::kFloat ? Agrees<float>(provider, c, threads, checks)
                                               : Agrees<double>(provider, c, threads, checks);
        if (ok) continue;
        failed.insert(
            {PrimitiveKind::kMatMul, dtype, c.transpose_lhs, c.transpose_rhs, c.bias, c.post});
      }
    }
  }
  return failed;
}

// ---- Tiles

constexpr int64_t kTileElements = 67;  // whole vectors and a tail

Tensor TileSample(DType dtype, const Domain& domain, int64_t salt) {
  Tensor t(TensorType{dtype, {kTileElements}});
  VisitDType(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < kTileElements; ++i) {
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
    tensors.push_back(TileSample(dtype, op.domain, static_cast<int64_t>(tensors.size())));
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

}  // namespace

CheckedProviders CheckProviders(std::vector<std::shared_ptr<const KernelProvider>> providers,
                                const OpRegistry& ops, int threads, bool skip) {
  CheckedProviders out;
  if (!skip) CheckTiles(ops, &out);
  for (auto& provider : providers) {
    std::set<KindKey> failed;
    if (!skip) failed = FailedKinds(*provider, threads, &out.checks);
    for (const KindKey& key : failed) out.declined.push_back(Name(provider->name(), key));
    out.providers.push_back(failed.empty() ? std::move(provider)
                                           : std::make_shared<DecliningProvider>(
                                                 std::move(provider), std::move(failed)));
  }
  return out;
}

}  // namespace gradwire
