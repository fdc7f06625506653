// Files to the columns of a data set.
#include "client/cli/read_columns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "engine/io/npy.h"

namespace gradwire::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::vector<T> Elements(const Tensor& tensor) {
  EXPECT_EQ(tensor.dtype(), kDTypeOf<T>);
  return std::vector<T>(tensor.data<T>(), tensor.data<T>() + tensor.num_elements());
}

class ReadColumnsTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& bytes) {
    const std::string path = absl::StrCat(testing::TempDir(), "/columns_", getpid(), "_", name);
    std::ofstream(path, std::ios::binary) << bytes;
    paths_.push_back(path);
    return path;
  }
  ~ReadColumnsTest() override {
    for (const std::string& path : paths_) unlink(path.c_str());
  }

  static NamedTensors Read(const FileImport& import) {
    absl::StatusOr<NamedTensors> columns = ReadColumns(import);
    EXPECT_TRUE(columns.ok()) << columns.status();
    return columns.ok() ? *std::move(columns) : NamedTensors();
  }
  static std::string Mistake(const FileImport& import) {
    const absl::Status status = ReadColumns(import).status();
    EXPECT_FALSE(status.ok());
    std::string out(status.message());
    for (const Violation& violation : ViolationsOf(status)) {
      absl::StrAppend(&out, "\n", violation.where, ": ", violation.what);
    }
    return out;
  }

 private:
  std::vector<std::string> paths_;
};

TEST_F(ReadColumnsTest, CsvColumnsAreGroupedAndConverted) {
  FileImport import;
  import.files = {Write("t.csv", "a,b,label\n1,2,0\n3,4,1\n5,6,2\n")};
  EXPECT_EQ(Read(import).size(), 3u);
  EXPECT_THAT(Elements<double>(Read(import).at("b")), ElementsAre(2, 4, 6));
  import.columns = {{"x", { "b", "a" }}, { "t", { "label" } }};
  import.dtypes = {{"x", DType::kFloat}, { "t", DType::kInt64 }};
  const NamedTensors columns = Read(import);
  EXPECT_EQ(columns.size(), 2u);
  EXPECT_EQ(columns.at("x").shape(), (Shape{3, 2}));
  EXPECT_THAT(Elements<float>(columns.at("x")), ElementsAre(2, 1, 4, 3, 6, 5));
  EXPECT_THAT(Elements<int64_t>(columns.at("t")), ElementsAre(0, 1, 2));
}

TEST_F(ReadColumnsTest, FilesWithOneArrayAreCalledAsTheFile) {
  FileImport import;
  const std::string npy = Write("x.npy", *WriteNpy(Tensor::FromVector<double>({2}, {1, 2})));
  const std::string idx =
      Write("labels-idx1-ubyte", std::string("\0\0\x08\x01\0\0\0\x02\x05\x06", 10));
  import.files = {npy, idx};
  const NamedTensors columns = Read(import);
  const std::string prefix = absl::StrCat("columns_", getpid(), "_");
  EXPECT_THAT(Elements<double>(columns.at(prefix + "x")), ElementsAre(1, 2));
  EXPECT_THAT(Elements<uint8_t>(columns.at(prefix + "labels-idx1-ubyte")), ElementsAre(5, 6));
}

TEST_F(ReadColumnsTest, ScalesBeforeItConverts) {
  FileImport import;
  import.files = {Write("i", std::string("\0\0\x08\x02\0\0\0\x02\0\0\0\x02\0\x40\x80\xff", 16))};
  const std::string name = absl::StrCat("columns_", getpid(), "_i");
  import.columns = {{ "x", { name } }};
  EXPECT_THAT(Elements<uint8_t>(Read(import).at("x")), ElementsAre(0, 64, 128, 255));
  import.scales = {{ "x", 1.0 / 128 }};
  EXPECT_THAT(Elements<float>(Read(import).at("x")), ElementsAre(0, 0.5, 1, 255 / 128.0f));
  import.scales = {{ "x", 4 }};
  import.dtypes = {{ "x", DType::kInt64 }};
  import.shapes = {{ "x", { 1, 1, 2 } }};
  const NamedTensors columns = Read(import);
  EXPECT_THAT(Elements<int64_t>(columns.at("x")), ElementsAre(0, 256, 512, 1020));
  EXPECT_EQ(columns.at("x").shape(), (Shape{2, 1, 1, 2}));
}

TEST_F(ReadColumnsTest, TakesAndLeavesOutRows) {
  FileImport import;
  import.files = {Write("r.csv", "v,w\n0,0\n1,1\n2,4\n3,9\n4,16\n5,25\n6,36\n")};
  import.rows = *ParseRowSlice("1::3");
  EXPECT_THAT(Elements<double>(Read(import).at("w")), ElementsAre(1, 16));
  import.rows.reset();
  import.except = *ParseRowSlice("1::3");
  EXPECT_THAT(Elements<double>(Read(import).at("v")), ElementsAre(0, 2, 3, 5, 6));
  import.except = *ParseRowSlice(":");
  EXPECT_EQ(Read(import).at("v").shape(), (Shape{0}));
  import.except = *ParseRowSlice("100:");
  EXPECT_EQ(Read(import).at("v").shape(), (Shape{7}));
  import.except = *ParseRowSlice("2:4");
  EXPECT_THAT(Elements<double>(Read(import).at("v")), ElementsAre(0, 1, 4, 5, 6));
  for (const char* text : {"", "4", "-1:", "::0", "1:2:3:4", "a:b", "::9223372036854775808"}) {
    EXPECT_FALSE(ParseRowSlice(text).ok()) << text;
  }
}

TEST_F(ReadColumnsTest, TellsAllMistakes) {
  FileImport import;
  import.files = {Write("m.csv", "a,b\n1,2.5\n")};
  import.columns = {{"x", { "a", "z" }}, { "y", { "q" } }};
  EXPECT_THAT(Mistake(import), testing::AllOf(HasSubstr("x: the files have no array 'z'"),
                                              HasSubstr("y: the files have no array 'q'"),
                                              HasSubstr("they have: a, b")));
  import.columns = {};
  import.dtypes = {{"b", DType::kInt64}, { "n", DType::kFloat }};
  import.scales = {{ "o", 2 }};
  import.shapes = {{ "a", { 7 } }};
  EXPECT_THAT(Mistake(import), testing::AllOf(HasSubstr("dtype.n: there is no column"),
                                              HasSubstr("scale.o: there is no column"),
                                              HasSubstr("a: got [1]"), HasSubstr("b: ")));
  import = FileImport();
  import.files = {"/nonexistent.npz"};
  EXPECT_THAT(Mistake(import), HasSubstr("/nonexistent.npz"));
  import.files = {Write("text.txt", "hello")};
  EXPECT_THAT(Mistake(import), HasSubstr("text.txt: expected .npz, .npy, .csv, or an IDX file"));
  import.files = {Write("twice.csv", "a\n1\n"), Write("twice2.csv", "a\n1\n")};
  EXPECT_THAT(Mistake(import), HasSubstr("an array called 'a' has come before"));
  import.files = {Write("scalar.npy", *WriteNpy(Tensor::Scalar(1.0)))};
  EXPECT_THAT(Mistake(import), HasSubstr("expected one entry a row"));
  import.files = {Write("p.csv", "p\n1\n"), Write("q.csv", "q\n1\n2\n")};
  EXPECT_THAT(Mistake(import), HasSubstr("q: got 2 rows, expected 1 as in p"));
  import.columns = {{ "x", { "p", "q" } }};
  EXPECT_THAT(Mistake(import), HasSubstr("x: got DOUBLE[2] beside DOUBLE[1]"));
}

}  // namespace
}  // namespace gradwire::cli
