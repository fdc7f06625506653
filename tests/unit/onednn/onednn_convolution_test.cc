// Convolutions by oneDNN, against the references of the op table.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "engine/graph/window.h"
#include "engine/onednn/provider.h"
#include "engine/ops/all_ops.h"

namespace gradwire {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

const OpDef* RowOf(PrimitiveKind kind) {
  switch (kind) {
    case PrimitiveKind::kConv:
      return AllOps().Find("Conv");
    case PrimitiveKind::kConvInputGrad:
      return AllOps().Find("ConvInputGrad");
    case PrimitiveKind::kConvWeightGrad:
      return AllOps().Find("ConvWeightGrad");
    case PrimitiveKind::kMatMul:
      break;
  }
  return nullptr;
}

struct Form {
  Shape x, w;
  std::vector<int64_t> strides, pads, dilations;
  int64_t groups = 1;
};

Form Square(int rank, int64_t batch, int64_t in, int64_t out, int64_t extent, int64_t kernel,
            int64_t stride = 1, int64_t pad = 1, int64_t dilation = 1, int64_t groups = 1) {
  const auto r = static_cast<size_t>(rank);
  Dims x = {batch, in * groups}, w = {out * groups, in};
  for (int d = 0; d < rank; ++d) {
    x.push_back(extent + d);
    w.push_back(kernel);
  }
  return {Shape(x),
          Shape(w),
          std::vector<int64_t>(r, stride),
          std::vector<int64_t>(2 * r, pad),
          std::vector<int64_t>(r, dilation),
          groups};
}

struct AlignedFree {
  void operator()(void* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<void, AlignedFree>;
Scratch MakeScratch(int64_t bytes) {
  const auto size = static_cast<size_t>((bytes + 63) / 64 * 64 + 64);
  Scratch p(std::aligned_alloc(64, size));
  std::memset(p.get(), 0xff, size);  // NaN
  return p;
}

class OneDnnConvolutionTest : public testing::Test {
 protected:
  struct Case {
    Attrs attrs;
    PrimitiveCall call;
    std::vector<Tensor> in;  // with the bias
    std::vector<float> want;
  };

  std::unique_ptr<Case> Make(PrimitiveKind kind, const Form& f, PostOp post = PostOp::kNone,
                             bool bias = false, int threads = 1) {
    auto c = std::make_unique<Case>();
    c->attrs = {
        {"strides", f.strides}, {"pads", f.pads}, {"dilations", f.dilations}, {"group", f.groups}};
    const Shape y = Convolution::Make(f.x, f.w, c->attrs)->Output();
    const Shape first = kind == PrimitiveKind::kConvInputGrad ? y : f.x;
    const Shape second = kind == PrimitiveKind::kConvWeightGrad ? y : f.w;
    c->call.kind = kind;
    c->call.attrs = &c->attrs;
    c->call.in = {{DType::kFloat, first}, {DType::kFloat, second}};
    c->call.layouts = {Layout::RowMajor(first), Layout::RowMajor(second)};
    c->call.out = {DType::kFloat, kind == PrimitiveKind::kConv            ? y
                                  : kind == PrimitiveKind::kConvInputGrad ? f.x
                                                                          : f.w};
    c->call.has_bias = bias;
    c->call.post_op = post;
    c->call.threads = threads;
    for (const Shape& shape : {first, second, Shape{y[1]}}) {
      c->in.emplace_back(TensorType{DType::kFloat, shape});
      for (int64_t i = 0; i < shape.num_elements(); ++i) {
        c->in.back().mutable_data<float>()[i] = uniform_(generator_);
      }
    }
    c->want = Expected(*c);
    return c;
  }

  // By the row's reference in DOUBLE.
  static std::vector<float> Expected(const Case& c) {
    const OpDef* row = RowOf(c.call.kind);
    const std::vector<Tensor> wide = {Converted(c.in[0], DType::kDouble),
                                      Converted(c.in[1], DType::kDouble)};
    const std::vector<TensorView> views = {wide[0], wide[1]};
    Tensor out(TensorType{DType::kDouble, c.call.out.shape});
    const TensorType types[] = {out.type()};
    void* outs[] = {out.mutable_raw()};
    EXPECT_TRUE(row->reference({c.attrs, views, types, outs}).ok());
    const auto n = static_cast<size_t>(out.num_elements());
    if (n == 0) return {};
    const size_t channels = static_cast<size_t>(c.in[2].num_elements());
    const size_t points = n / static_cast<size_t>(out.shape()[0] * out.shape()[1]);
    std::vector<float> want(n);
    for (size_t i = 0; i < n; ++i) {
      double v = out.data<double>()[i];
      if (c.call.has_bias) v += c.in[2].data<float>()[i / points % channels];
      if (c.call.post_op == PostOp::kRelu) v = v <= 0 ? 0 : v;
      if (c.call.post_op == PostOp::kTanh) v = std::tanh(v);
      if (c.call.post_op == PostOp::kSigmoid) v = 1 / (1 + std::exp(-v));
      want[i] = static_cast<float>(v);
    }
    return want;
  }

  static std::vector<float> RunOnce(const Case& c, const Proposal& proposal) {
    const auto scratch = MakeScratch(proposal.scratch_bytes);
    std::vector<float> out(c.want.size(), kNaN);
    const void* in[] = {c.in[0].raw(), c.in[1].raw(), c.in[2].raw()};
    void* outs[] = {out.data()};
    const absl::Status status = proposal.kernel->Run(in, outs, scratch.get(), c.call.threads);
    EXPECT_TRUE(status.ok()) << status;
    return out;
  }

  // False where it is declined.
  bool Check(const Case& c) {
    const std::optional<Proposal> proposal = provider_->Propose(c.call);
    if (!proposal) return false;
    const std::vector<float> got = RunOnce(c, *proposal), again = RunOnce(c, *proposal);
    const std::string what = proposal->kernel->Describe();
    EXPECT_EQ(std::memcmp(got.data(), again.data(), got.size() * sizeof(float)), 0) << what;
    float largest = 1;
    for (float v : c.want) largest = std::max(largest, std::abs(v));
    for (size_t i = 0; i < got.size(); ++i) {
      if (!(std::abs(got[i] - c.want[i]) <= 1e-5f * largest)) {
        ADD_FAILURE() << what << " element " << i << " is " << got[i] << ", expected " << c.want[i];
        break;
      }
    }
    return true;
  }

  const std::unique_ptr<KernelProvider> provider_ = MakeOneDnnProvider();
  std::mt19937 generator_{3};
  std::uniform_real_distribution<float> uniform_{-1, 1};
};

constexpr PrimitiveKind kKinds[] = {PrimitiveKind::kConv, PrimitiveKind::kConvInputGrad,
                                    PrimitiveKind::kConvWeightGrad};

TEST_F(OneDnnConvolutionTest, AgreesWithTheReferenceForEveryForm) {
  int taken = 0;
  for (PrimitiveKind kind : kKinds) {
    for (int rank = 1; rank <= 3; ++rank) {
      for (int64_t stride : {1, 2}) {
        for (int64_t dilation : {1, 2}) {
          for (int64_t groups : {1, 2}) {
            for (const auto& [in, out] : {std::pair{2, 3}, {8, 8}, {11, 20}, {16, 8}}) {
              taken +=
                  Check(*Make(kind, Square(rank, 2, in, out, 7, 3, stride, 1, dilation, groups)));
            }
          }
        }
      }
    }
    taken += Check(*Make(kind, Square(2, 2, 1, 1, 9, 3, 1, 1, 1, 16)));  // depthwise
    taken += Check(*Make(kind, {{1, 8, 9, 12}, {8, 8, 5, 3}, {2, 1}, {0, 1, 3, 2}, {1, 2}, 1}));
  }
  EXPECT_GT(taken, 60);
}

TEST_F(OneDnnConvolutionTest, TakesBiasAndPostOpsAlong) {
  for (PostOp post : {PostOp::kNone, PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
    for (bool bias : {false, true}) {
      for (int64_t out : {8, 13}) {
        const auto c = Make(PrimitiveKind::kConv, Square(2, 2, 8, out, 9, 3), post, bias);
        EXPECT_TRUE(Check(*c)) << out;
      }
    }
  }
}

TEST_F(OneDnnConvolutionTest, ReluKeepsNan) {
  auto c = Make(PrimitiveKind::kConv, Square(2, 1, 8, 8, 9, 3), PostOp::kRelu, true);
  c->in[0].mutable_data<float>()[0] = kNaN;
  const std::optional<Proposal> proposal = provider_->Propose(c->call);
  ASSERT_TRUE(proposal.has_value());
  const std::vector<float> got = RunOnce(*c, *proposal);
  EXPECT_TRUE(std::isnan(got[0]));
  EXPECT_FALSE(std::isnan(got.back()));
}

TEST_F(OneDnnConvolutionTest, RunsInATeam) {
  for (PrimitiveKind kind : kKinds) {
    for (int threads : {2, 3}) {
      EXPECT_TRUE(Check(*Make(kind, Square(2, 4, 16, 16, 14, 3), PostOp::kNone, false, threads)));
    }
  }
}

TEST_F(OneDnnConvolutionTest, OneKernelRunsFromSeveralThreadsAtOnce) {
  for (PrimitiveKind kind : kKinds) {
    const auto c = Make(kind, Square(2, 2, 8, 12, 9, 3));
    const std::optional<Proposal> proposal = provider_->Propose(c->call);
    ASSERT_TRUE(proposal.has_value());
    const std::vector<float> want = RunOnce(*c, *proposal);
    std::vector<int> wrong(4, 0);
    std::vector<std::thread> threads;
    for (int& bad : wrong) {
      threads.emplace_back([&] {
        for (int run = 0; run < 50; ++run) bad += RunOnce(*c, *proposal) != want;
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, std::vector<int>(4, 0));
  }
}

TEST_F(OneDnnConvolutionTest, AsksForDenseOperandsAndNamesWhatItRuns) {
  auto c = Make(PrimitiveKind::kConv, Square(2, 2, 8, 8, 9, 3), PostOp::kRelu, true);
  c->call.layouts[0] = {{720, 1, 80, 8}, 0};
  const std::optional<Proposal> proposal = provider_->Propose(c->call);
  ASSERT_TRUE(proposal.has_value());
  EXPECT_EQ(proposal->wants_dense, 1u);
  EXPECT_TRUE(absl::StartsWith(proposal->kernel->Describe(),
                               "onednn conv+bias+relu f32 2x[8,9,10] * 8x[8,3,3]"));
}

TEST_F(OneDnnConvolutionTest, DeclinesWhatOurOwnKernelsDoBetter) {
  for (PrimitiveKind kind : kKinds) {
    EXPECT_FALSE(Check(*Make(kind, Square(2, 2, 1, 8, 9, 3))));        // one input channel
    EXPECT_FALSE(Check(*Make(kind, Square(2, 2, 8, 8, 9, 1, 1, 0))));  // a matrix as it lies
    EXPECT_FALSE(Check(*Make(kind, Square(2, 2, 8, 8, 9, 2, 1, 5))));  // wide padding
    auto wide = Make(kind, Square(2, 2, 8, 8, 9, 3));
    for (TensorType& type : wide->call.in) type.dtype = DType::kDouble;
    wide->call.out.dtype = DType::kDouble;
    EXPECT_FALSE(provider_->Propose(wide->call).has_value());
    EXPECT_FALSE(provider_->Propose(Make(kind, Square(2, 0, 8, 8, 9, 3))->call).has_value());
  }
}

}  // namespace
}  // namespace gradwire
