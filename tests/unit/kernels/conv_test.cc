#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/graph/window.h"
#include "engine/kernels/own_provider.h"
#include "gtest/gtest.h"
#include "tests/unit/kernels/guarded_run.h"

namespace gradwire {
namespace {

struct Form {
  Dims x, w;
  std::vector<int64_t> strides, pads, dilations;
  int64_t groups = 1;
};

// One dimension of everything, `rank` times.
Form Square(int rank, int64_t batch, int64_t in, int64_t out, int64_t extent, int64_t kernel,
            int64_t stride = 1, int64_t pad = 0, int64_t dilation = 1, int64_t groups = 1) {
  const auto r = static_cast<size_t>(rank);
  Form f = {{batch, in * groups},
            {out * groups, in},
            std::vector<int64_t>(r, stride),
            std::vector<int64_t>(2 * r, pad),
            std::vector<int64_t>(r, dilation),
            groups};
  for (size_t d = 0; d < r; ++d) {
    f.x.push_back(extent + static_cast<int64_t>(d));  // none like the other
    f.w.push_back(kernel);
  }
  return f;
}

// A convolution or a gradient of one on random values, against sums over every element of y, tap
// and input channel taken straight from the definition.
template <typename T>
class Case {
 public:
  Case(PrimitiveKind kind, const Form& f, PostOp post = PostOp::kNone, bool bias = false)
      : attrs_({{"strides", f.strides},
                {"pads", f.pads},
                {"dilations", f.dilations},
                {"group", f.groups}}) {
    const auto made = Convolution::Make(Shape(f.x), Shape(f.w), attrs_);
    EXPECT_TRUE(made.ok()) << made.status();
    c_ = *made;
    const Shape x(f.x), w(f.w), y = c_.Output();
    const Shape first = kind == PrimitiveKind::kConvInputGrad ? y : x;
    const Shape second = kind == PrimitiveKind::kConvWeightGrad ? y : w;
    const Shape out = kind == PrimitiveKind::kConv            ? y
                      : kind == PrimitiveKind::kConvInputGrad ? x
                                                              : w;
    call_.kind = kind;
    call_.attrs = &attrs_;
    call_.in = {{kDTypeOf<T>, first}, {kDTypeOf<T>, second}};
    call_.layouts = {Layout::RowMajor(first), Layout::RowMajor(second)};
    call_.out = {kDTypeOf<T>, out};
    call_.has_bias = bias;
    call_.post_op = post;
    for (int i = 0; i < 2; ++i) values_[i] = Random(call_.in[i].shape.num_elements());
    bias_ = Random(y[1]);
  }

  std::vector<T>& values(int i) { return values_[i]; }
  const PrimitiveCall& call() const { return call_; }
  const std::string& describe() const { return describe_; }

  std::vector<T> Run(int planned_threads, int threads) {
    call_.threads = planned_threads;
    const std::optional<Proposal> proposal = MakeOwnProvider()->Propose(call_);
    EXPECT_TRUE(proposal.has_value());
    if (!proposal) return {};
    describe_ = proposal->kernel->Describe();
    return RunGuarded<T>(*proposal, call_, {values_[0].data(), values_[1].data(), bias_.data()},
                         threads);
  }

  void ExpectRight(const std::vector<T>& got) const {
    std::vector<double> sum(got.size()), magnitude(got.size(), 1);
    const int64_t points = c_.out_points();
    for (int64_t y = 0; y < c_.Output().num_elements(); ++y) {
      const int64_t point = y % points, channel = y / points % (c_.groups * c_.out_channels);
      const int64_t batch = y / points / (c_.groups * c_.out_channels);
      for (int64_t in = 0; in < c_.in_channels; ++in) {
        for (int64_t tap = 0; tap < c_.taps(); ++tap) {
          const int64_t at = InPoint(point, tap);
          if (at < 0) continue;
          const int64_t group = channel / c_.out_channels;
          const int64_t x =
              ((batch * c_.groups + group) * c_.in_channels + in) * c_.in_points() + at;
          const int64_t w = (channel * c_.in_channels + in) * c_.taps() + tap;
          const auto [a, b, out] = call_.kind == PrimitiveKind::kConv ? std::tuple(x, w, y)
                                   : call_.kind == PrimitiveKind::kConvInputGrad
                                       ? std::tuple(y, w, x)
                                       : std::tuple(x, y, w);
          const double product = static_cast<double>(values_[0][static_cast<size_t>(a)]) *
                                 static_cast<double>(values_[1][static_cast<size_t>(b)]);
          sum[static_cast<size_t>(out)] += product;
          magnitude[static_cast<size_t>(out)] += std::fabs(product);
        }
      }
    }
    for (size_t i = 0; i < got.size(); ++i) {
      double expected = sum[i];
      if (call_.has_bias) {
        expected += static_cast<double>(bias_[i / static_cast<size_t>(points) % bias_.size()]);
      }
      const double tolerance = 8 * std::numeric_limits<T>::epsilon() * magnitude[i];
      ASSERT_NEAR(got[i], Post(expected), tolerance) << describe_ << " element " << i;
    }
  }

 private:
  std::vector<T> Random(int64_t n) {
    std::vector<T> x(static_cast<size_t>(n));
    for (T& v : x) v = std::uniform_real_distribution<T>(-1, 1)(generator_);
    return x;
  }
  // The element of a channel that a window meets at a tap; -1 for padding.
  int64_t InPoint(int64_t point, int64_t tap) const {
    int64_t at = 0, step = 1;
    for (size_t d = 3; d-- > 0;) {
      const WindowDim& w = c_.window[d];
      const int64_t i = point % w.out * w.stride + tap % w.kernel * w.dilation - w.before;
      if (i < 0 || i >= w.in) return -1;
      at += i * step;
      step *= w.in;
      point /= w.out;
      tap /= w.kernel;
    }
    return at;
  }
  double Post(double x) const {
    switch (call_.post_op) {
      case PostOp::kRelu:
        return std::max(x, 0.0);
      case PostOp::kTanh:
        return std::tanh(x);
      case PostOp::kSigmoid:
        return 1 / (1 + std::exp(-x));
      default:
        return x;
    }
  }

  const Attrs attrs_;
  Convolution c_;
  PrimitiveCall call_;
  std::mt19937 generator_{7};
  std::vector<T> values_[2];
  std::vector<T> bias_;
  std::string describe_;
};

// Right, repeatable, and with the same bits for every team.
template <typename T>
void Check(Case<T> c) {
  const std::vector<T> once = c.Run(1, 1);
  c.ExpectRight(once);
  for (const auto& [planned, threads] : {std::pair{1, 1}, {2, 2}, {3, 2}, {2, 7}, {5, 5}}) {
    const std::vector<T> again = c.Run(planned, threads);
    ASSERT_EQ(std::memcmp(once.data(), again.data(), once.size() * sizeof(T)), 0)
        << c.describe() << " with " << threads << " threads";
  }
}

constexpr PrimitiveKind kKinds[] = {PrimitiveKind::kConv, PrimitiveKind::kConvInputGrad,
                                    PrimitiveKind::kConvWeightGrad};

template <typename T>
void CheckAll(const Form& form) {
  for (PrimitiveKind kind : kKinds) Check(Case<T>(kind, form));
}

template <class T>
class ConvTest : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(ConvTest, FloatTypes);

TYPED_TEST(ConvTest, AgreesWithTheDefinitionForEveryFormOfWindow) {
  for (int rank = 1; rank <= 3; ++rank) {
    for (int64_t stride : {1, 2, 3}) {
      for (int64_t dilation : {1, 2}) {
        for (int64_t pad : {0, 1, 3}) {
          for (int64_t groups : {1, 2}) {
            CheckAll<TypeParam>(Square(rank, 2, 2, 5, 5, 2, stride, pad, dilation, groups));
          }
        }
      }
    }
  }
}

TYPED_TEST(ConvTest, AgreesWithTheDefinitionForEveryWidth) {
  for (int64_t in : {1, 3, 8, 17}) {
    for (int64_t out : {1, 2, 3, 4, 7, 16, 33}) {
      CheckAll<TypeParam>(Square(2, 2, in, out, 9, 3, 1, 1));
    }
  }
  for (int64_t groups : {2, 5, 16}) {
    CheckAll<TypeParam>(Square(2, 1, 1, 1, 20, 3, 1, 1, 1, groups));  // depthwise
    CheckAll<TypeParam>(Square(1, 3, 1, 2, 33, 5, 2, 2, 1, groups));
  }
}

TYPED_TEST(ConvTest, TakesMatricesInPlace) {
  for (int64_t batch : {1, 3}) {
    for (int64_t out : {2, 9}) CheckAll<TypeParam>(Square(2, batch, 11, out, 5, 1));
  }
  CheckAll<TypeParam>(Square(3, 2, 4, 6, 3, 1, 1, 0, 1, 3));
  CheckAll<TypeParam>(Square(2, 2, 4, 6, 7, 1, 2));  // a stride: not in place
}

TYPED_TEST(ConvTest, AgreesWithTheDefinitionAcrossBlockBoundaries) {
  CheckAll<TypeParam>(Square(1, 1, 3, 4, 5000, 3, 1, 1));     // several blocks of points
  CheckAll<TypeParam>(Square(2, 1, 30, 5, 9, 7, 1, 3));       // 1470 rows
  CheckAll<TypeParam>(Square(1, 1, 2, 4, 1400, 1300, 1, 9));  // more taps than a block has rows
  CheckAll<TypeParam>(Square(2, 2, 70, 20, 13, 3, 2, 1));
}

// Members of the batch whose outputs are small share a product in gradients by the weights.
TYPED_TEST(ConvTest, AgreesWithTheDefinitionForManyMembersOfFewPoints) {
  CheckAll<TypeParam>(Square(1, 300, 3, 5, 1, 3, 1, 1));        // one point
  CheckAll<TypeParam>(Square(2, 37, 20, 6, 2, 3, 1, 1, 1, 2));  // six points, 180 rows, groups
  CheckAll<TypeParam>(Square(2, 11, 4, 4, 4, 1));               // as they lie
}

TYPED_TEST(ConvTest, PaddingMayBeWiderThanTheKernel) {
  CheckAll<TypeParam>(Square(2, 1, 2, 4, 4, 2, 3, 7));
  CheckAll<TypeParam>(Square(1, 1, 2, 2, 3, 3, 2, 9, 2));
  CheckAll<TypeParam>({{1, 1, 1, 7}, {4, 1, 1, 3}, {1, 1}, {2, 0, 0, 5}, {1, 3}, 1});
}

TYPED_TEST(ConvTest, AppliesBiasAndPostOps) {
  for (PostOp post : {PostOp::kNone, PostOp::kRelu, PostOp::kTanh, PostOp::kSigmoid}) {
    for (bool bias : {false, true}) {
      Check(Case<TypeParam>(PrimitiveKind::kConv, Square(2, 2, 3, 8, 9, 3, 1, 1), post, bias));
      Check(Case<TypeParam>(PrimitiveKind::kConv, Square(2, 2, 2, 2, 9, 3, 1, 1), post, bias));
      Check(Case<TypeParam>(PrimitiveKind::kConv, Square(1, 1, 2, 4, 1400, 1300), post, bias));
    }
  }
}

TYPED_TEST(ConvTest, NanReachesWhatItIsAddedToAndNothingElse) {
  for (int64_t out : {2, 6}) {  // in place, and by columns
    for (PrimitiveKind kind : kKinds) {
      Case<TypeParam> c(kind, Square(1, 1, 1, out, 9, 3));
      const std::vector<TypeParam> before = c.Run(1, 1);
      c.values(0)[4] = std::numeric_limits<TypeParam>::quiet_NaN();
      const std::vector<TypeParam> after = c.Run(1, 1);
      size_t changed = 0;
      for (size_t i = 0; i < after.size(); ++i) {
        if (std::isnan(after[i])) {
          ++changed;
        } else {
          EXPECT_EQ(after[i], before[i]);
        }
      }
      const size_t met = static_cast<size_t>(out) * 3;  // taps, of every output channel
      EXPECT_EQ(changed, kind == PrimitiveKind::kConvInputGrad ? 3 : met) << c.describe();
    }
  }
}

TEST(OwnProviderTest, NamesTheConvolutionsItRuns) {
  Case<float> conv(PrimitiveKind::kConv, Square(2, 2, 3, 8, 9, 3, 2, 1), PostOp::kRelu, true);
  conv.Run(1, 1);
  EXPECT_EQ(conv.describe(),
            "own conv+bias+relu f32 2x[3,9,10] * 8x[3,3,3] strides 2,2 pads 1,1,1,1 dilations 1,1"
            " groups 1");
  Case<double> grad(PrimitiveKind::kConvWeightGrad, Square(1, 2, 1, 1, 9, 3, 1, 0, 1, 4));
  grad.Run(1, 1);
  EXPECT_EQ(grad.describe(),
            "own direct conv weight grad f64 2x[4,9] * 4x[1,3] strides 1 pads 0,0 dilations 1"
            " groups 4");
}

TEST(OwnProviderTest, AsksForDenseOperands) {
  Case<float> c(PrimitiveKind::kConv, Square(2, 2, 3, 8, 9, 3));
  PrimitiveCall call = c.call();
  call.layouts[1].strides = {1, 8, 24, 72};
  const std::optional<Proposal> proposal = MakeOwnProvider()->Propose(call);
  ASSERT_TRUE(proposal.has_value());
  EXPECT_EQ(proposal->wants_dense, 2u);
}

TEST(OwnProviderTest, DeclinesConvolutionsOfNothingAndOfOtherTypes) {
  for (const Form& form : {Square(1, 0, 3, 8, 9, 3), Square(1, 2, 0, 8, 9, 3)}) {
    Case<float> c(PrimitiveKind::kConv, form);
    EXPECT_FALSE(MakeOwnProvider()->Propose(c.call()).has_value());
  }
  Case<float> c(PrimitiveKind::kConv, Square(1, 2, 3, 8, 9, 3));
  PrimitiveCall call = c.call();
  call.in[1].dtype = DType::kDouble;
  EXPECT_FALSE(MakeOwnProvider()->Propose(call).has_value());
  for (TensorType& type : call.in) type.dtype = DType::kInt64;
  call.out.dtype = DType::kInt64;
  EXPECT_FALSE(MakeOwnProvider()->Propose(call).has_value());
}

}  // namespace
}  // namespace gradwire
