// RNN, GRU and LSTM with activations that do nothing, so that the results are short numbers.
#include <gtest/gtest.h>

#include "tests/unit/ops/one_node.h"

namespace gradwire {
namespace {

using Numbers = std::vector<double>;

Tensor Doubles(Shape shape, const Numbers& values) {
  return Tensor::FromVector<double>(std::move(shape), values);
}

AttrValue Lines(int count) {
  return AttrValue(std::vector<std::string>(static_cast<size_t>(count), "Affine"));
}

// H' = x / 2 + H / 4.
struct Rnn : OneNode {
  explicit Rnn(const Tensor& x) : OneNode("RNN", 14, 2) {
    Input(x).Input(Doubles({1, 1, 1}, {0.5})).Input(Doubles({1, 1, 1}, {0.25}));
    With("activations", Lines(1));
  }
};

TEST(RecurrentTest, CarriesTheStateForwards) {
  Rnn node(Doubles({3, 1, 1}, {1, 2, 3}));
  EXPECT_EQ(node.Evaluated(0), "[3,1,1,1]: 0.5 1.125 1.78125");
  EXPECT_EQ(node.Evaluated(1), "[1,1,1]: 1.78125");
}

TEST(RecurrentTest, ReverseBeginsAtTheLastStep) {
  Rnn node(Doubles({3, 1, 1}, {1, 2, 3}));
  node.With("direction", AttrValue(std::string("reverse")));
  EXPECT_EQ(node.Evaluated(0), "[3,1,1,1]: 0.84375 1.375 1.5");
  EXPECT_EQ(node.Evaluated(1), "[1,1,1]: 0.84375");
}

TEST(RecurrentTest, AShorterSequenceKeepsItsLastStateAndHasZerosBehind) {
  const Tensor lengths = Tensor::FromVector<int32_t>({2}, {1, 2});
  Rnn forward(Doubles({2, 2, 1}, {1, 2, 3, 4}));
  forward.Without().Input(lengths);
  EXPECT_EQ(forward.Evaluated(0), "[2,1,2,1]: 0.5 1 0 2.25");
  EXPECT_EQ(forward.Evaluated(1), "[1,2,1]: 0.5 2.25");
  Rnn reverse(Doubles({2, 2, 1}, {1, 2, 3, 4}));
  reverse.Without().Input(lengths).With("direction", AttrValue(std::string("reverse")));
  EXPECT_EQ(reverse.Evaluated(0), "[2,1,2,1]: 0.5 1.5 0 2");
  EXPECT_EQ(reverse.Evaluated(1), "[1,2,1]: 0.5 1.5");
}

TEST(RecurrentTest, BatchFirstMovesTheBatchInEveryTensor) {
  Rnn node(Doubles({2, 3, 1}, {1, 2, 3, 0, 0, 4}));
  node.Without().Without().Input(Doubles({2, 1, 1}, {0, 8})).With("layout", int64_t{1});
  EXPECT_EQ(node.Evaluated(0), "[2,3,1,1]: 0.5 1.125 1.78125 2 0.5 2.125");
  EXPECT_EQ(node.Evaluated(1), "[2,1,1]: 1.78125 2.125");
}

TEST(RecurrentTest, ClipBoundsWhatActivationsAreTakenOf) {
  Rnn node(Doubles({3, 1, 1}, {1, 2, 3}));
  node.With("clip", 0.75);
  EXPECT_EQ(node.Evaluated(0), "[3,1,1,1]: 0.5 0.75 0.75");
}

TEST(RecurrentTest, GruResetsBeforeOrAfterTheProduct) {
  const auto gru = [](int64_t after) {
    OneNode node("GRU", 14, 2);
    node.Input(Doubles({2, 1, 1}, {2, 3})).Input(Doubles({1, 3, 1}, {0, 1, 1}));
    node.Input(Doubles({1, 3, 1}, {0, 0, 0.5})).Input(Doubles({1, 6}, {0, 0, 0.25, 0, 0, 4}));
    node.With("activations", Lines(2)).With("linear_before_reset", after);
    return node.Evaluated(0);
  };
  EXPECT_EQ(gru(0), "[2,1,1,1]: 6.25 16.625");
  EXPECT_EQ(gru(1), "[2,1,1,1]: 10.25 30.625");
}

// Gates of 1 and a candidate of x, so that C is the sum of x and H = o C.
struct Lstm : OneNode {
  Lstm() : OneNode("LSTM", 14, 3) {
    Input(Doubles({2, 1, 1}, {1.5, 1.5})).Input(Doubles({1, 4, 1}, {0, 0, 0, 1}));
    Input(Doubles({1, 4, 1}, {0, 0, 0, 0})).Input(Doubles({1, 8}, {1, 1, 1, 0, 0, 0, 0, 0}));
    With("activations", Lines(3));
  }
};

TEST(RecurrentTest, LstmAddsUpItsCell) {
  Lstm node;
  EXPECT_EQ(node.Evaluated(0), "[2,1,1,1]: 1.5 3");
  EXPECT_EQ(node.Evaluated(2), "[1,1,1]: 3");
}

TEST(RecurrentTest, LstmClipsWhatTheOutputIsTakenOfButNotTheCell) {
  Lstm node;
  node.With("clip", 2.0);
  EXPECT_EQ(node.Evaluated(0), "[2,1,1,1]: 1.5 2");
  EXPECT_EQ(node.Evaluated(2), "[1,1,1]: 3");
}

TEST(RecurrentTest, LstmForgetsWhatItDoesNotTakeInWhereGatesAreCoupled) {
  Lstm node;
  node.With("input_forget", int64_t{1});
  EXPECT_EQ(node.Evaluated(2), "[1,1,1]: 1.5");
}

TEST(RecurrentTest, LstmOutputGatePeepsAtTheNewCell) {
  Lstm node;
  node.Without().Without().Without().Input(Doubles({1, 3}, {0, 1, 0}));
  EXPECT_EQ(node.Evaluated(0), "[2,1,1,1]: 3.75 12");
}

TEST(RecurrentTest, ValuesOfAlphaGoToTheActivationsThatTakeOne) {
  OneNode node("RNN", 14, 2);
  node.Input(Doubles({1, 1, 1}, {-2})).Input(Doubles({2, 1, 1}, {1, 1}));
  node.Input(Doubles({2, 1, 1}, {0, 0}));
  node.With("direction", AttrValue(std::string("bidirectional")));
  node.With("activations", AttrValue(std::vector<std::string>{"Relu", "leakyrelu"}));
  node.With("activation_alpha", AttrValue(Numbers{0.25}));
  EXPECT_EQ(node.Evaluated(1), "[2,1,1]: 0 -0.5");
}

TEST(RecurrentTest, RefusesActivationsThatDoNotFit) {
  const auto with = [](std::vector<std::string> names, Numbers alphas) {
    OneNode node("RNN", 14, 2);
    node.Input(Doubles({1, 1, 1}, {1})).Input(Doubles({1, 1, 1}, {1}));
    node.Input(Doubles({1, 1, 1}, {0}));
    node.With("activations", AttrValue(std::move(names)));
    node.With("activation_alpha", AttrValue(std::move(alphas)));
    return node.Evaluated();
  };
  EXPECT_EQ(with({"Tanh"}, {0.5}), "INVALID_MODEL");
  EXPECT_EQ(with({"Tanh", "Tanh"}, {}), "INVALID_MODEL");
  EXPECT_EQ(with({"Gelu"}, {}), "UNSUPPORTED_OP");
}

TEST(RecurrentTest, RefusesShapesThatDoNotFit) {
  const auto rnn = [](Shape w, Shape r, Shape h) {
    OneNode node("RNN", 14, 2);
    node.Counting({2, 3, 4}).Counting(std::move(w)).Counting(std::move(r));
    return node.Without().Without().Counting(std::move(h)).Evaluated();
  };
  EXPECT_EQ(rnn({1, 5, 4}, {1, 5, 5}, {1, 3, 5}).substr(0, 9), "[2,1,3,5]");
  EXPECT_EQ(rnn({1, 5, 3}, {1, 5, 5}, {1, 3, 5}), "SHAPE_MISMATCH");
  EXPECT_EQ(rnn({1, 5, 4}, {1, 4, 5}, {1, 3, 5}), "SHAPE_MISMATCH");
  EXPECT_EQ(rnn({1, 5, 4}, {1, 5, 5}, {3, 1, 5}), "SHAPE_MISMATCH");
  EXPECT_EQ(rnn({2, 5, 4}, {2, 5, 5}, {2, 3, 5}), "SHAPE_MISMATCH");
}

TEST(RecurrentTest, ExtentsOfEmptyTensorsDoNotOverflow) {
  constexpr int64_t kHuge = int64_t{1} << 30;
  OneNode node("LSTM", 14, 3);
  node.Input(Tensor({DType::kDouble, {kHuge, kHuge, 0}})).Counting({1, 8, 0}).Counting({1, 8, 2});
  EXPECT_EQ(node.Evaluated(), "INVALID_MODEL");
}

}  // namespace
}  // namespace gradwire
