#include <gtest/gtest.h>

#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

std::string Einsum(const char* equation, const std::vector<Shape>& inputs) {
  OneNode node("Einsum", 12);
  for (const Shape& shape : inputs) node.Counting(shape);
  return node.With("equation", std::string(equation)).Evaluated();
}

TEST(EinsumTest, ALetterTwiceInATermIsADiagonal) {
  EXPECT_EQ(Einsum("ii->i", {{2, 2}}), "[2]: 0 3");
  EXPECT_EQ(Einsum("ii", {{3, 3}}), "[]: 12");
}

TEST(EinsumTest, ADiagonalIsOfASquare) {
  for (const Shape& shape : {Shape({2, 3}), Shape({1, 3}), Shape({3, 1})}) {
    EXPECT_EQ(Einsum("ii->i", {shape}), "SHAPE_MISMATCH") << shape.ToString();
  }
}

TEST(EinsumTest, AnExtentOfOneIsRepeatedForAnotherTerm) {
  EXPECT_EQ(Einsum("i,i->i", {{1}, {3}}), "[3]: 0 0 0");
  EXPECT_EQ(Einsum("i,i->i", {{2}, {3}}), "SHAPE_MISMATCH");
}

}  // namespace
}  // namespace gradwire
