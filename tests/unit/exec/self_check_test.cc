#include "engine/exec/self_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "engine/exec/compile.h"
#include "engine/graph/window.h"
#include "engine/kernels/own_provider.h"
#include "engine/ops/all_ops.h"
#include "engine/ops/builders.h"

namespace gradwire {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using Predicate = std::function<bool(const PrimitiveCall&)>;

// A kernel whose last element is off by `by(run)`.
class SpoiltKernel : public Kernel {
 public:
  SpoiltKernel(std::unique_ptr<Kernel> inner, const TensorType& out, double (*by)(int run))
      : inner_(std::move(inner)), out_(out), by_(by) {}
  absl::Status Run(const void* const* in, void* const* out, void* scratch,
                   int threads) const override {
    GW_RETURN_IF_ERROR(inner_->Run(in, out, scratch, threads));
    const double by = by_(runs_++);
    const int64_t last = out_.shape.num_elements() - 1;
    if (out_.dtype == DType::kFloat) static_cast<float*>(out[0])[last] += static_cast<float>(by);
    if (out_.dtype == DType::kDouble) static_cast<double*>(out[0])[last] += by;
    return absl::OkStatus();
  }
  std::string Describe() const override { return "spoilt"; }

 private:
  const std::unique_ptr<Kernel> inner_;
  const TensorType out_;
  double (*const by_)(int run);
  mutable std::atomic<int> runs_{0};
};

// Our own kernels, some of them spoilt.
class SpoiltProvider : public KernelProvider {
 public:
  SpoiltProvider(Predicate spoilt, double (*by)(int run)) : spoilt_(std::move(spoilt)), by_(by) {}
  absl::string_view name() const override { return "spoilt"; }
  std::string version() const override { return "1"; }
  std::optional<Proposal> Propose(const PrimitiveCall& call) const override {
    std::optional<Proposal> proposal = own_->Propose(call);
    if (proposal && spoilt_(call)) {
      proposal->kernel = std::make_unique<SpoiltKernel>(std::move(proposal->kernel), call.out, by_);
    }
    return proposal;
  }

 private:
  const std::unique_ptr<KernelProvider> own_ = MakeOwnProvider();
  const Predicate spoilt_;
  double (*const by_)(int run);
};

CheckedProviders Checked(Predicate spoilt, double (*by)(int run)) {
  return CheckProviders({std::make_shared<SpoiltProvider>(std::move(spoilt), by)}, AllOps(), 1,
                        false);
}

double Constantly(int) { return 1e-3; }
double EveryOtherTime(int run) { return run % 2 == 0 ? 0 : 1e-6; }  // within the tolerance

bool IsStrided(const PrimitiveCall& call) {
  return IsConvolution(call.kind) && call.attrs->Ints("strides")[0] > 1;
}

// A larger call than those of the check.
class LargeConvolution {
 public:
  LargeConvolution(PrimitiveKind kind, DType dtype, int64_t stride)
      : attrs_({{"strides", std::vector<int64_t>{stride, stride}},
                {"dilations", std::vector<int64_t>{1, 1}},
                {"pads", std::vector<int64_t>{0, 0, 0, 0}},
                {"group", int64_t{1}}}) {
    const Shape x = {3, 5, 21, 21}, w = {7, 5, 3, 3};
    const Shape y = Convolution::Make(x, w, attrs_)->Output();
    call_.kind = kind;
    call_.attrs = &attrs_;
    call_.in = {{dtype, x}, {dtype, kind == PrimitiveKind::kConv ? w : y}};
    call_.layouts = {Layout::RowMajor(call_.in[0].shape), Layout::RowMajor(call_.in[1].shape)};
    call_.out = {dtype, kind == PrimitiveKind::kConv ? y : w};
  }
  bool ProposedBy(const KernelProvider& provider) const {
    return provider.Propose(call_).has_value();
  }

 private:
  const Attrs attrs_;
  PrimitiveCall call_;
};

TEST(SelfCheckTest, BelievesOurOwnKernels) {
  const CheckedProviders checked = Checked([](const PrimitiveCall&) { return false; }, Constantly);
  EXPECT_THAT(checked.declined, IsEmpty());
  EXPECT_GT(checked.checks, 1000);
}

TEST(SelfCheckTest, DeclinesTheKindsThatAreWrongAndNoOthers) {
  const CheckedProviders checked = Checked(
      [](const PrimitiveCall& call) {
        return IsStrided(call) && call.kind == PrimitiveKind::kConvWeightGrad &&
               call.out.dtype == DType::kFloat;
      },
      Constantly);
  ASSERT_THAT(checked.declined, Not(IsEmpty()));
  EXPECT_THAT(checked.declined, Each(AllOf(HasSubstr("spoilt conv weight grad "),
                                           HasSubstr(" strided"), HasSubstr("FLOAT"))));
  EXPECT_THAT(checked.declined, testing::Contains("spoilt conv weight grad 2d strided FLOAT"));
  const KernelProvider& provider = *checked.providers[0];
  const auto kGrad = PrimitiveKind::kConvWeightGrad;
  EXPECT_FALSE(LargeConvolution(kGrad, DType::kFloat, 2).ProposedBy(provider));
  EXPECT_TRUE(LargeConvolution(kGrad, DType::kFloat, 1).ProposedBy(provider));
  EXPECT_TRUE(LargeConvolution(kGrad, DType::kDouble, 2).ProposedBy(provider));
  EXPECT_TRUE(LargeConvolution(PrimitiveKind::kConv, DType::kFloat, 2).ProposedBy(provider));
}

TEST(SelfCheckTest, DeclinesWhatGivesOtherBitsTheSecondTime) {
  const CheckedProviders convolutions = Checked(IsStrided, EveryOtherTime);
  EXPECT_THAT(convolutions.declined, testing::Contains("spoilt conv 1d strided FLOAT"));
  EXPECT_THAT(convolutions.declined, Each(HasSubstr(" strided")));
  const CheckedProviders products = Checked(
      [](const PrimitiveCall& call) {
        return call.kind == PrimitiveKind::kMatMul && call.post_op == PostOp::kSigmoid;
      },
      EveryOtherTime);
  EXPECT_THAT(products.declined, testing::Contains("spoilt matmul FLOAT lhs^T+bias+sigmoid"));
  EXPECT_THAT(products.declined, Each(HasSubstr("+sigmoid")));
}

// A row whose reference disagrees with its loop stands for a loop that is wrong.
TEST(SelfCheckTest, DeclinesReductionsThatAreWrong) {
  OpDef wrong = *AllOps().Find("ReduceMax");
  wrong.reference = AllOps().Find("ReduceMin")->reference;
  const CheckedProviders checked = CheckProviders({}, OpRegistry({&wrong}), 1, false);
  EXPECT_THAT(checked.declined, testing::Contains("own reduction ReduceMax FLOAT"));
  EXPECT_THAT(checked.declined_reductions, testing::SizeIs(4));
  CompileOptions options;
  options.declined_reductions = checked.declined_reductions;
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {2, 3}}, Stage::kPoint);
  b.Output("y", ReduceMax(b, x, {1}));
  const Graph graph = *std::move(b).Build();
  const auto steps = [&](const CompileOptions& o) { return (*Compile(graph, o))->plan_digest(); };
  EXPECT_NE(steps(options), steps({})) << "its nodes run the reference";
}

TEST(SelfCheckTest, SkippingRunsNothingAndBelievesEverything) {
  const CheckedProviders checked =
      CheckProviders({std::make_shared<SpoiltProvider>(IsStrided, Constantly)}, AllOps(), 1, true);
  EXPECT_THAT(checked.declined, IsEmpty());
  EXPECT_EQ(checked.checks, 0);
}

}  // namespace
}  // namespace gradwire
