// The special rules of ops that change shapes or move elements. Inputs are constants, so that the
// builder folds every result. What the samples of the rows cover is in tests/conformance.
#include <gtest/gtest.h>

#include "engine/ops/builders.h"
#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

constexpr int64_t kMin = INT64_MIN, kMax = INT64_MAX;

std::string Reshaped(Shape from, std::vector<int64_t> to, int64_t allow_zero = 0) {
  return OneNode("Reshape")
      .Counting(std::move(from))
      .Ints(std::move(to))
      .With("allowzero", allow_zero)
      .Result();
}

TEST(ReshapeTest, ZeroCopiesAndMinusOneTakesTheRest) {
  EXPECT_EQ(Reshaped({2, 3}, {-1}), "[6]: 0 1 2 3 4 5");
  EXPECT_EQ(Reshaped({2, 3}, {0, 1, -1}), "[2,1,3]: 0 1 2 3 4 5");
  EXPECT_EQ(Reshaped({1}, {}), "[]: 0");
  EXPECT_EQ(Reshaped({0, 3}, {3, 0}, 1), "[3,0]:");
  EXPECT_EQ(Reshaped({0, 3}, {-1, 3}), "[0,3]:");
}

TEST(ReshapeTest, RefusesWhatIsNotDetermined) {
  for (const std::vector<int64_t>& to :
       {std::vector<int64_t>{-1, -1}, {4, -1}, {-2, 3}, {5}, {2, 3, 0}}) {
    EXPECT_EQ(Reshaped({2, 3}, to), "SHAPE_MISMATCH") << to[0];
  }
  EXPECT_EQ(Reshaped({0, 3}, {0, -1}), "SHAPE_MISMATCH");
  EXPECT_EQ(Reshaped({0, 3}, {-1, 0}, 1), "SHAPE_MISMATCH");
  EXPECT_EQ(Reshaped({2, 3}, {kMax, kMax, -1}), "INVALID_MODEL");
}

TEST(ReshapeTest, NeedsNoCopyWhereStridesAllow) {
  const OpDef* op = AllOps().Find("Reshape");
  const auto layout = std::get<View>(op->lowering).layout;
  auto view = [&](Shape in, Dims strides, Shape out) {
    return layout({}, {DType::kFloat, in}, {strides, 7}, {DType::kFloat, out});
  };
  EXPECT_EQ(view({2, 3}, {3, 1}, {6}), (Layout{{1}, 7}));
  EXPECT_EQ(view({4, 3}, {6, 1}, {2, 2, 3}), (Layout{{12, 6, 1}, 7}));  // every other row
  EXPECT_EQ(view({2, 3}, {0, 0}, {3, 2}), (Layout{{0, 0}, 7}));         // repeated
  EXPECT_EQ(view({3, 2}, {1, 3}, {6}), std::nullopt);                   // transposed
  EXPECT_EQ(view({1, 2, 2}, {9, 8, 2}, {2, 1, 2})->strides[0], 8);
}

TEST(ExpandTest, BroadcastsBothWays) {
  OneNode node("Expand");
  EXPECT_EQ(node.Counting({3, 1}).Ints({2, 1, 2}).Evaluated(), "[2,3,2]: 0 0 1 1 2 2 0 0 1 1 2 2");
  EXPECT_EQ(OneNode("Expand").Counting({2}).Ints({3}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Expand").Counting({1}).Ints({kMax, 8}).Result(), "INVALID_MODEL");
  EXPECT_EQ(OneNode("Expand").Counting({1}).Ints({-1}).Result(), "INVALID_MODEL");
}

TEST(TransposeTest, RefusesWhatIsNoPermutation) {
  EXPECT_EQ(OneNode("Transpose").Counting({2, 3}).Result(), "[3,2]: 0 3 1 4 2 5");
  for (const std::vector<int64_t>& perm : {std::vector<int64_t>{0}, {0, 0}, {0, 2}, {-1, 0}}) {
    EXPECT_EQ(OneNode("Transpose").Counting({2, 3}).With("perm", perm).Result(), "SHAPE_MISMATCH");
  }
}

std::string Sliced(int64_t start, int64_t end, int64_t step) {
  return OneNode("Slice").Counting({5}).Ints({start}).Ints({end}).Ints({0}).Ints({step}).Result();
}

TEST(SliceTest, ClampsStartsAndEnds) {
  EXPECT_EQ(Sliced(1, 4, 2), "[2]: 1 3");
  EXPECT_EQ(Sliced(-2, kMax, 1), "[2]: 3 4");
  EXPECT_EQ(Sliced(kMin, 2, 1), "[2]: 0 1");
  EXPECT_EQ(Sliced(3, 1, 1), "[0]:");
  EXPECT_EQ(Sliced(9, kMax, 1), "[0]:");
  EXPECT_EQ(Sliced(0, kMax, kMax), "[1]: 0");
  EXPECT_EQ(Sliced(kMax, kMin, -1), "[5]: 4 3 2 1 0");
  EXPECT_EQ(Sliced(-1, -6, -2), "[3]: 4 2 0");
  EXPECT_EQ(Sliced(3, 0, -1), "[3]: 3 2 1");
  EXPECT_EQ(Sliced(3, kMin, kMin), "[1]: 3");
  EXPECT_EQ(Sliced(0, 5, 0), "INVALID_MODEL");
}

TEST(SliceTest, ReadsAttributesBelowOpset10) {
  EXPECT_EQ(OneNode("Slice", 9)
                .Counting({2, 3})
                .With("starts", std::vector<int64_t>{1})
                .With("ends", std::vector<int64_t>{99})
                .With("axes", std::vector<int64_t>{1})
                .Result(),
            "[2,2]: 1 2 4 5");
  EXPECT_EQ(OneNode("Slice", 9).Counting({2}).Result(), "INVALID_MODEL");
}

TEST(SliceTest, UndoesUnsliceAndComposes) {
  GraphBuilder b;
  const ValueId x = b.Input("x", {DType::kDouble, {4}}, Stage::kPoint);
  EXPECT_EQ(Slice(b, Unslice(b, x, {7}, {-2}, {9}), {7}, {-2}, {4}), x);
  EXPECT_EQ(Slice(b, Slice(b, x, {3}, {-1}, {4}), {3}, {-1}, {4}), x);
  EXPECT_EQ(Slice(b, x, {1}, {5}, {1}), Slice(b, x, {1}, {-3}, {1}));
  EXPECT_TRUE(b.ok()) << b.status();
}

TEST(SplitTest, LastPieceTakesTheRemainder) {
  OneNode node("Split", 18, 3);
  node.Counting({7}).With("num_outputs", int64_t{3});
  EXPECT_EQ(node.Result(0), "[3]: 0 1 2");
  EXPECT_EQ(node.Result(2), "[1]: 6");
  EXPECT_EQ(OneNode("Split", 18, 4).Counting({5}).With("num_outputs", int64_t{4}).Result(),
            "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Split", 13, 2).Counting({5}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Split", 13, 2).Counting({5}).Ints({1, 3}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Split", 13, 2).Counting({5}).Ints({-1, 6}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Split", 18, 1).Counting({5}).With("num_outputs", kMax).Result(),
            "SHAPE_MISMATCH");
}

TEST(ConcatTest, NeedsItsAxis) {
  EXPECT_EQ(OneNode("Concat").Counting({1, 2}).Counting({1, 2}).With("axis", int64_t{-1}).Result(),
            "[1,4]: 0 1 0 1");
  EXPECT_EQ(OneNode("Concat").Counting({2}).Result(), "INVALID_MODEL");
  EXPECT_EQ(OneNode("Concat").Counting({2}).Counting({2, 1}).With("axis", int64_t{0}).Result(),
            "SHAPE_MISMATCH");
}

TEST(GatherTest, ItsGradientTakesTheDimensionsOfTheIndices) {
  for (const Shape& given : {Shape({3, 2}), Shape({4, 2}), Shape({2, 2})}) {
    GraphBuilder b;
    const ValueId g = b.Full({DType::kDouble, given}, 1);
    const ValueId indices = b.Constant(Tensor::FromVector<int64_t>({3}, {0, 4, 0}));
    const ValueId grad = GatherGrad(b, g, indices, 0, 5);
    if (given == Shape({3, 2})) {
      EXPECT_EQ(b.shape(grad), Shape({5, 2}));
    } else {
      EXPECT_TRUE(HasReason(b.status(), Reason::kShapeMismatch)) << b.status();
    }
  }
}

TEST(GatherTest, NamesTheIndexThatIsOutside) {
  EXPECT_EQ(OneNode("Gather").Counting({3}).Ints({-1, 0}).Result(), "[2]: 2 0");
  OneNode node("Gather");
  EXPECT_EQ(node.Counting({3}).Ints({0, -4}).Result(), "INVALID_TENSOR");
  EXPECT_NE(node.Import().message().find("index -4 at position 1"), absl::string_view::npos);
}

std::string Padded(const char* mode, Shape in, std::vector<int64_t> pads) {
  return OneNode("Pad", 19)
      .Counting(std::move(in))
      .Ints(std::move(pads))
      .With("mode", std::string(mode))
      .Result();
}

TEST(PadTest, Modes) {
  EXPECT_EQ(Padded("constant", {2}, {1, 2}), "[5]: 0 0 1 0 0");
  EXPECT_EQ(Padded("reflect", {3}, {2, 2}), "[7]: 2 1 0 1 2 1 0");
  EXPECT_EQ(Padded("reflect", {3}, {0, 5}), "[8]: 0 1 2 1 0 1 2 1");
  EXPECT_EQ(Padded("edge", {3}, {2, 1}), "[6]: 0 0 0 1 2 2");
  EXPECT_EQ(Padded("wrap", {3}, {2, 1}), "[6]: 1 2 0 1 2 0");
  EXPECT_EQ(Padded("edge", {2, 2}, {0, 1, 1, 0}), "[3,3]: 0 0 1 2 2 3 2 2 3");
  EXPECT_EQ(Padded("sideways", {3}, {2, 1}), "INVALID_MODEL");
  EXPECT_EQ(Padded("edge", {0}, {2, 1}), "SHAPE_MISMATCH");
}

TEST(PadTest, NegativePadsCut) {
  EXPECT_EQ(Padded("constant", {4}, {-1, 1}), "[4]: 1 2 3 0");
  EXPECT_EQ(Padded("reflect", {4}, {-1, 1}), "[4]: 1 2 3 2");
  EXPECT_EQ(Padded("constant", {4}, {-2, -3}), "SHAPE_MISMATCH");
  EXPECT_EQ(Padded("constant", {4}, {kMin, kMax}), "SHAPE_MISMATCH");
}

TEST(PadTest, ReadsValueAndAxes) {
  EXPECT_EQ(
      OneNode("Pad").Counting({1, 2}).Ints({1, 0}).Input(Tensor::Scalar(9.0)).Ints({-1}).Result(),
      "[1,3]: 9 0 1");
  EXPECT_EQ(OneNode("Pad", 6)
                .Counting({2})
                .With("pads", std::vector<int64_t>{0, 1})
                .With("value", 4.0)
                .Result(),
            "[3]: 0 1 4");
  EXPECT_EQ(OneNode("Pad").Counting({2}).Ints({1}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Pad").Counting({2}).Ints({1, 1}).Input(Tensor::Scalar(1.0f)).Result(),
            "SHAPE_MISMATCH");
}

TEST(PadTest, BoundsItsIndexVectors) {
  EXPECT_EQ(Padded("edge", {2}, {0, int64_t{1} << 30}), "MEMORY_LIMIT");
  EXPECT_EQ(Padded("edge", {2}, {kMax, kMax}), "INVALID_MODEL");
}

TEST(RangeTest, CountsWithoutOverflow) {
  auto range = [](int64_t start, int64_t limit, int64_t delta) {
    return OneNode("Range")
        .Input(Tensor::Scalar(start))
        .Input(Tensor::Scalar(limit))
        .Input(Tensor::Scalar(delta))
        .Result();
  };
  EXPECT_EQ(range(1, 8, 3), "[3]: 1 4 7");
  EXPECT_EQ(range(3, 0, -2), "[2]: 3 1");
  EXPECT_EQ(range(3, 0, 1), "[0]:");
  EXPECT_EQ(range(0, 1, 0), "INVALID_MODEL");
  EXPECT_EQ(range(kMin, kMax, 1), "MEMORY_LIMIT");
  EXPECT_EQ(range(kMin, kMax, kMax).substr(0, 4), "[3]:");
}

TEST(ConstantOfShapeTest, AllocatesNothing) {
  EXPECT_EQ(OneNode("ConstantOfShape").Ints({1000000, 1000000}).Result(), "[1000000,1000000]:");
  EXPECT_EQ(OneNode("ConstantOfShape").Ints({kMax, 2}).Result(), "INVALID_MODEL");
  EXPECT_EQ(OneNode("ConstantOfShape").Ints({-1}).Result(), "INVALID_MODEL");
}

TEST(SqueezeTest, RefusesOtherExtents) {
  EXPECT_EQ(OneNode("Squeeze").Counting({1, 2, 1}).Result(), "[2]: 0 1");
  EXPECT_EQ(OneNode("Squeeze").Counting({1, 2, 1}).Ints({-1}).Result(), "[1,2]: 0 1");
  EXPECT_EQ(OneNode("Squeeze").Counting({1, 2}).Ints({1}).Result(), "SHAPE_MISMATCH");
  EXPECT_EQ(OneNode("Unsqueeze").Counting({2}).Ints({0, -1}).Result(), "[1,2,1]: 0 1");
  EXPECT_EQ(OneNode("Unsqueeze").Counting({2}).Ints({5}).Result(), "SHAPE_MISMATCH");
}

}  // namespace
}  // namespace gradwire
