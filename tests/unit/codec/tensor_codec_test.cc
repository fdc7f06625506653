#include "proto/codec/tensor_codec.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "gtest/gtest.h"

namespace gradwire::codec {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

v1::Tensor WithData(v1::DataType type, std::vector<int64_t> shape, std::string data) {
  v1::Tensor t;
  t.set_data_type(type);
  t.mutable_shape()->Add(shape.begin(), shape.end());
  t.set_data(std::move(data));
  return t;
}

v1::Tensor WithValues(v1::DataType type, std::vector<int64_t> shape, std::vector<double> values) {
  v1::Tensor t;
  t.set_data_type(type);
  t.mutable_shape()->Add(shape.begin(), shape.end());
  t.mutable_values()->Add(values.begin(), values.end());
  return t;
}

template <typename T>
std::string Bytes(const std::vector<T>& elements) {
  return std::string(reinterpret_cast<const char*>(elements.data()), elements.size() * sizeof(T));
}

// The tensor is refused with this reason, at "inputs.x", saying `what`.
void ExpectRefused(const v1::Tensor& tensor, Reason reason, absl::string_view what) {
  std::vector<Tensor> owned;
  const auto view = ViewOf(tensor, "inputs.x", &owned);
  ASSERT_FALSE(view.ok()) << tensor.ShortDebugString();
  EXPECT_EQ(ReasonNameOf(view.status()), ReasonName(reason)) << view.status();
  EXPECT_TRUE(absl::StartsWith(view.status().message(), "inputs.x: ")) << view.status();
  EXPECT_TRUE(absl::StrContains(view.status().message(), what)) << view.status();
  EXPECT_TRUE(owned.empty());
}

// The values converted to `type`, and back to double.
std::vector<double> RoundTrip(v1::DataType type, const std::vector<double>& values) {
  std::vector<Tensor> owned;
  const v1::Tensor in = WithValues(type, {static_cast<int64_t>(values.size())}, values);
  const auto view = ViewOf(in, "inputs.x", &owned);
  EXPECT_TRUE(view.ok()) << view.status();
  if (!view.ok()) return {};
  v1::Tensor out = ToProto(*view);
  MakeReadable(&out);
  EXPECT_TRUE(out.data().empty());
  return {out.values().begin(), out.values().end()};
}

TEST(ViewOfTest, ReadsAlignedDataInPlace) {
  const v1::Tensor t = WithData(v1::FLOAT, {2, 3}, Bytes<float>({1, 2, 3, 4, 5, 6}));
  std::vector<Tensor> owned;
  const auto view = ViewOf(t, "inputs.x", &owned);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->raw(), t.data().data());
  EXPECT_TRUE(owned.empty());
  EXPECT_EQ(view->type(), (TensorType{DType::kFloat, Shape({2, 3})}));
  EXPECT_EQ(view->data<float>()[5], 6.0f);
}

TEST(ViewOfTest, ReadsShortDataInPlace) {
  const v1::Tensor t = WithData(v1::DOUBLE, {}, Bytes<double>({2.5}));
  std::vector<Tensor> owned;
  const auto view = ViewOf(t, "inputs.x", &owned);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->raw(), t.data().data());
  EXPECT_TRUE(owned.empty());
  EXPECT_EQ(view->shape().rank(), 0);
  EXPECT_EQ(view->data<double>()[0], 2.5);
}

TEST(ViewOfTest, TakesScalarsAndZeroSizes) {
  std::vector<Tensor> owned;
  for (const v1::Tensor& t : {WithData(v1::INT64, {3, 0, 2}, ""), WithValues(v1::FLOAT, {0}, {})}) {
    const auto view = ViewOf(t, "inputs.x", &owned);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->num_elements(), 0);
  }
  const auto scalar = ViewOf(WithValues(v1::UNDEFINED, {}, {7}), "inputs.x", &owned);
  ASSERT_TRUE(scalar.ok()) << scalar.status();
  EXPECT_EQ(scalar->type(), (TensorType{DType::kDouble, Shape()}));
}

TEST(ViewOfTest, ValuesAreDoubleByDefault) {
  std::vector<Tensor> owned;
  const auto view = ViewOf(WithValues(v1::UNDEFINED, {2}, {0.1, -3}), "inputs.x", &owned);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->dtype(), DType::kDouble);
  EXPECT_EQ(view->data<double>()[0], 0.1);
  EXPECT_EQ(view->data<double>()[1], -3);
}

TEST(ViewOfTest, ViewsOfConvertedValuesSurviveFurtherOnes) {
  std::vector<Tensor> owned;
  const auto first = ViewOf(WithValues(v1::FLOAT, {1}, {42}), "inputs.x", &owned);
  ASSERT_TRUE(first.ok());
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(ViewOf(WithValues(v1::FLOAT, {1}, {1}), "inputs.y", &owned).ok());
  }
  EXPECT_EQ(first->data<float>()[0], 42.0f);
}

TEST(ViewOfTest, ConvertsValuesToTheTypeAsked) {
  EXPECT_EQ(RoundTrip(v1::FLOAT, {0.1, -2}), (std::vector<double>{0.1f, -2}));
  EXPECT_EQ(RoundTrip(v1::INT8, {-128, 127}), (std::vector<double>{-128, 127}));
  EXPECT_EQ(RoundTrip(v1::UINT8, {0, 255}), (std::vector<double>{0, 255}));
  EXPECT_EQ(RoundTrip(v1::INT16, {-32768, 32767}), (std::vector<double>{-32768, 32767}));
  EXPECT_EQ(RoundTrip(v1::UINT16, {65535}), (std::vector<double>{65535}));
  EXPECT_EQ(RoundTrip(v1::INT32, {-2147483648.0}), (std::vector<double>{-2147483648.0}));
  EXPECT_EQ(RoundTrip(v1::UINT32, {4294967295.0}), (std::vector<double>{4294967295.0}));
  EXPECT_EQ(RoundTrip(v1::INT64, {-0x1p63, 0x1p62}), (std::vector<double>{-0x1p63, 0x1p62}));
  EXPECT_EQ(RoundTrip(v1::UINT64, {0x1p63}), (std::vector<double>{0x1p63}));
  EXPECT_EQ(RoundTrip(v1::BOOL, {0, 1}), (std::vector<double>{0, 1}));
}

TEST(ViewOfTest, KeepsSpecialFloatsInValues) {
  for (v1::DataType type : {v1::FLOAT, v1::DOUBLE, v1::FLOAT16, v1::BFLOAT16}) {
    const std::vector<double> back = RoundTrip(type, {kInf, -kInf, kNan, -0.0});
    ASSERT_EQ(back.size(), 4u);
    EXPECT_EQ(back[0], kInf);
    EXPECT_EQ(back[1], -kInf);
    EXPECT_TRUE(std::isnan(back[2]));
    EXPECT_TRUE(back[3] == 0 && std::signbit(back[3]));
  }
}

TEST(ViewOfTest, RoundsToHalfFormatsOnceToNearestEven) {
  // 1 + 2^-11 lies between two FLOAT16: to even. A hair above goes up, which rounding by way of
  // FLOAT would lose.
  EXPECT_EQ(RoundTrip(v1::FLOAT16, {1 + 0x1p-11, 1 + 0x1p-11 + 0x1p-40, 65504, 0x1p-24, 0x1p-26}),
            (std::vector<double>{1, 1 + 0x1p-10, 65504, 0x1p-24, 0}));
  EXPECT_EQ(RoundTrip(v1::FLOAT16, {2 - 0x1p-12, 0x1p-14 - 0x1p-26}),
            (std::vector<double>{2, 0x1p-14}));  // the carry goes into the exponent
  EXPECT_EQ(RoundTrip(v1::BFLOAT16, {1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-40, 0x1p-133, -3}),
            (std::vector<double>{1, 1 + 0x1p-7, 0x1p-133, -3}));
  ExpectRefused(WithValues(v1::FLOAT16, {1}, {65520}), Reason::kInvalidTensor, "65520");
  ExpectRefused(WithValues(v1::BFLOAT16, {1}, {3.4e38 * 2}), Reason::kInvalidTensor, "BFLOAT16");
}

TEST(ViewOfTest, EveryHalfSurvivesTheRoundTrip) {
  for (const auto& [type, infinity] :
       {std::pair{v1::FLOAT16, 0x7C00}, std::pair{v1::BFLOAT16, 0x7F80}}) {
    std::vector<uint16_t> all;
    for (int bits = 0; bits <= infinity; ++bits) all.push_back(static_cast<uint16_t>(bits));
    const auto n = static_cast<int64_t>(all.size());
    v1::Tensor t = WithData(type, {n}, Bytes(all));
    MakeReadable(&t);
    std::vector<Tensor> owned;
    const auto view = ViewOf(t, "inputs.x", &owned);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(std::memcmp(view->raw(), all.data(), all.size() * 2), 0) << v1::DataType_Name(type);
  }
}

TEST(ViewOfTest, RefusesValuesThatDoNotFit) {
  const struct {
    v1::DataType type;
    double value;
  } kRows[] = {
      {v1::INT32, 1.5},    {v1::INT32, 2147483648.0},
      {v1::INT32, kNan},   {v1::INT64, 0x1p63},
      {v1::INT64, kInf},   {v1::UINT64, 0x1p64},
      {v1::UINT64, -1},    {v1::UINT8, 256},
      {v1::INT8, -129},    {v1::BOOL, 2},
      {v1::BOOL, 0.5},     {v1::BOOL, kNan},
      {v1::FLOAT, 1e39},   {v1::FLOAT, 0x1.ffffffp127},
      {v1::FLOAT, -1e300},
  };
  for (const auto& row : kRows) {
    ExpectRefused(WithValues(row.type, {2}, {1, row.value}), Reason::kInvalidTensor,
                  absl::StrCat("value 1 does not fit ", v1::DataType_Name(row.type)));
  }
  EXPECT_EQ(RoundTrip(v1::FLOAT, {0x1.fffffefp127}), (std::vector<double>{0x1.fffffep127}));
}

TEST(ViewOfTest, RefusesWrongCounts) {
  ExpectRefused(WithData(v1::FLOAT, {2, 3}, std::string(23, '\0')), Reason::kInvalidTensor,
                "got 23, expected 24 for FLOAT[2,3]");
  ExpectRefused(WithData(v1::FLOAT, {2, 3}, std::string(28, '\0')), Reason::kInvalidTensor,
                "got 28, expected 24");
  ExpectRefused(WithData(v1::FLOAT, {0}, std::string(4, '\0')), Reason::kInvalidTensor,
                "got 4, expected 0");
  ExpectRefused(WithValues(v1::FLOAT, {3}, {1, 2}), Reason::kInvalidTensor, "got 2, expected 3");
  ExpectRefused(WithValues(v1::FLOAT, {0}, {1}), Reason::kInvalidTensor, "got 1, expected 0");
  ExpectRefused(WithData(v1::DOUBLE, {}, ""), Reason::kInvalidTensor, "neither data nor values");
  ExpectRefused(v1::Tensor(), Reason::kInvalidTensor, "neither data nor values");
}

TEST(ViewOfTest, RefusesDataTogetherWithValues) {
  v1::Tensor t = WithData(v1::DOUBLE, {1}, Bytes<double>({1}));
  t.add_values(1);
  ExpectRefused(t, Reason::kInvalidTensor, "both data and values");
}

TEST(ViewOfTest, RefusesUnknownTypes) {
  for (int number : {8, 14, 15, 17, 99, -1}) {
    ExpectRefused(WithData(static_cast<v1::DataType>(number), {1}, "x"), Reason::kDtypeUnsupported,
                  absl::StrCat("got ", number));
  }
  ExpectRefused(WithData(v1::UNDEFINED, {1}, "x"), Reason::kDtypeUnsupported, "unset");
}

TEST(ViewOfTest, RefusesBadShapes) {
  ExpectRefused(WithData(v1::FLOAT, {2, -3}, "x"), Reason::kInvalidTensor, "negative extent -3");
  ExpectRefused(WithData(v1::UINT8, {int64_t{1} << 40, int64_t{1} << 40}, "x"),
                Reason::kInvalidTensor, "overflow");
  ExpectRefused(WithData(v1::UINT8, {0, int64_t{1} << 40, int64_t{1} << 40}, ""),
                Reason::kInvalidTensor, "overflow");
  ExpectRefused(WithData(v1::UINT8, std::vector<int64_t>(17, 1), "x"), Reason::kInvalidTensor,
                "rank 17");
}

TEST(ViewOfTest, RefusesBoolBytesOtherThanZeroAndOne) {
  std::vector<Tensor> owned;
  const v1::Tensor good = WithData(v1::BOOL, {2}, std::string("\0\1", 2));
  EXPECT_TRUE(ViewOf(good, "inputs.x", &owned).ok());
  ExpectRefused(WithData(v1::BOOL, {3}, std::string("\0\1\xff", 3)), Reason::kInvalidTensor,
                "element 2 is no BOOL: got byte 255");
}

TEST(StartTensorTest, GivesAlignedZeroedDataToWriteInto) {
  v1::Tensor t = WithValues(v1::INT32, {1}, {9});
  StartTensor(TensorType{DType::kDouble, Shape({2, 2})}, &t);
  EXPECT_EQ(t.data_type(), v1::DOUBLE);
  EXPECT_EQ(t.shape_size(), 2);
  EXPECT_EQ(t.values_size(), 0);
  ASSERT_EQ(t.data().size(), 32u);
  EXPECT_EQ(t.data(), std::string(32, '\0'));
  char* to = t.mutable_data()->data();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(to) % sizeof(double), 0u);
  const double element = 1.25;
  std::memcpy(to + 24, &element, sizeof(element));
  std::vector<Tensor> owned;
  const auto view = ViewOf(t, "y", &owned);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->data<double>()[3], 1.25);
}

TEST(MakeReadableTest, KeepsTypeAndShape) {
  v1::Tensor t = ToProto(Tensor::FromVector<int32_t>({2, 1}, {-5, 6}));
  MakeReadable(&t);
  EXPECT_EQ(t.data_type(), v1::INT32);
  EXPECT_EQ(t.shape_size(), 2);
  EXPECT_TRUE(t.data().empty());
  ASSERT_EQ(t.values_size(), 2);
  EXPECT_EQ(t.values(0), -5);
  EXPECT_EQ(t.values(1), 6);
}

TEST(MakeReadableTest, RoundsIntegersBeyondTheMantissaOfADouble) {
  v1::Tensor t = ToProto(Tensor::Scalar<int64_t>((int64_t{1} << 53) + 1));
  MakeReadable(&t);
  EXPECT_EQ(t.values(0), 0x1p53);
}

TEST(MakeReadableTest, LeavesEmptyAndReadableTensorsAlone) {
  v1::Tensor empty = WithData(v1::FLOAT, {0}, "");
  MakeReadable(&empty);
  EXPECT_EQ(empty.values_size(), 0);
  v1::Tensor readable = WithValues(v1::FLOAT, {1}, {3});
  MakeReadable(&readable);
  EXPECT_EQ(readable.values_size(), 1);
}

TEST(ToProtoTest, IsTheInverseOfViewOf) {
  const Tensor in = Tensor::FromVector<float>({3}, {1.5f, -0.0f, 3e38f});
  const v1::Tensor wire = ToProto(in);
  std::vector<Tensor> owned;
  const auto view = ViewOf(wire, "y", &owned);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_TRUE(Tensor::CopyOf(*view) == in);
}

}  // namespace
}  // namespace gradwire::codec
