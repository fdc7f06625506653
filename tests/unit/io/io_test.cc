#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "engine/io/csv.h"
#include "engine/io/file.h"
#include "engine/io/idx.h"
#include "engine/io/new_file.h"
#include "engine/io/npy.h"
#include "engine/io/npz.h"
#include "engine/io/safetensors.h"
#include "engine/io/zip.h"

namespace gradwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
std::vector<T> Elements(const Tensor& tensor) {
  return std::vector<T>(tensor.data<T>(), tensor.data<T>() + tensor.num_elements());
}

std::string Raw(const void* data, size_t bytes) {
  return std::string(static_cast<const char*>(data), bytes);
}

std::string NpyWithHeader(const std::string& header, const std::string& data) {
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(header.size() & 0xFF);
  out += static_cast<char>(header.size() >> 8);
  return out + header + data;
}

std::string NpyOf(const std::string& descr, const std::string& order, const std::string& shape,
                  const std::string& data) {
  return NpyWithHeader(
      "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n",
      data);
}

// ---- A zip writer that can also lie.

struct Member {
  std::string name;
  std::string content;
  bool deflate = false;
  int64_t declared_bytes = -1;
  int64_t local_offset = -1;
  uint32_t crc_change = 0;
  int flags = 0;
};

void Append(std::string* out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) *out += static_cast<char>(value >> (8 * i));
}

std::string Deflate(const std::string& in) {
  z_stream stream = {};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, in.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string Zip(const std::vector<Member>& members) {
  std::string out;
  std::string directory;
  for (const Member& m : members) {
    const std::string data = m.deflate ? Deflate(m.content) : m.content;
    const auto offset = static_cast<uint32_t>(m.local_offset >= 0 ? m.local_offset : out.size());
    std::string fields;
    Append(&fields, 20, 2);
    Append(&fields, m.flags, 2);
    Append(&fields, m.deflate ? 8 : 0, 2);
    Append(&fields, 0, 4);
    Append(&fields,
           crc32_z(0, reinterpret_cast<const Bytef*>(m.content.data()), m.content.size()) +
               m.crc_change,
           4);
    Append(&fields, data.size(), 4);
    Append(&fields, m.declared_bytes >= 0 ? m.declared_bytes : m.content.size(), 4);
    Append(&fields, m.name.size(), 2);
    Append(&fields, 0, 2);
    out += "PK\x03\x04" + fields + m.name + data;
    directory += "PK\x01\x02";
    Append(&directory, 20, 2);
    directory += fields;
    directory += std::string(10, '\0');
    Append(&directory, offset, 4);
    directory += m.name;
  }
  const size_t start = out.size();
  out += directory + std::string("PK\x05\x06\0\0\0\0", 8);
  Append(&out, members.size(), 2);
  Append(&out, members.size(), 2);
  Append(&out, directory.size(), 4);
  Append(&out, start, 4);
  Append(&out, 0, 2);
  return out;
}

std::string Safetensors(const std::string& header, const std::string& data) {
  std::string out;
  Append(&out, header.size(), 4);
  Append(&out, 0, 4);
  return out + header + data;
}

std::string BigEndian(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
  return out;
}

std::string Idx(char code, const std::vector<uint32_t>& extents, const std::string& data) {
  std::string out{0, 0, code, static_cast<char>(extents.size())};
  for (uint32_t extent : extents) out += BigEndian(extent);
  return out + data;
}

std::string SmallIdx() { return Idx(0x08, {2, 3}, std::string("\1\2\3\4\5\6", 6)); }
std::string SmallNpy() { return *WriteNpy(Tensor::FromVector<double>({2, 2}, {1, 2, 3, 4})); }
std::string SmallNpz() { return Zip({{"a.npy", SmallNpy()}, {"b.npy", SmallNpy(), true}}); }
std::string SmallSafetensors() {
  const float data[] = {1, 2, 3, 4};
  return Safetensors(R"({"__metadata__": {"format": "pt"},
                         "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                         "b": {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]}})",
                     Raw(data, sizeof(data)));
}

// ---- npy

TEST(NpyTest, GivesBackWhatItWrote) {
  for (const Tensor& tensor :
       {Tensor::FromVector<double>({2, 3}, {1, 2, 3, 4, 5, 6}), Tensor::Scalar<float>(1.5f),
        Tensor::FromVector<int64_t>({1}, {int64_t{1} << 62}),
        Tensor::FromVector<bool>({3}, {true, false, true}),
        Tensor::FromVector<uint8_t>({0, 2}, {})}) {
    absl::StatusOr<std::string> bytes = WriteNpy(tensor);
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ((bytes->size() - tensor.bytes()) % 64, 0u);
    absl::StatusOr<Tensor> again = ReadNpy(*bytes);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(*again == tensor);
  }
}

TEST(NpyTest, MakesColumnMajorRowMajor) {
  const double columns[] = {1, 4, 2, 5, 3, 6};
  absl::StatusOr<Tensor> tensor =
      ReadNpy(NpyOf("<f8", "True", "(2, 3)", Raw(columns, sizeof(columns))));
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->shape(), (Shape{2, 3}));
  EXPECT_THAT(Elements<double>(*tensor), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(NpyTest, SwapsBigEndian) {
  absl::StatusOr<Tensor> tensor =
      ReadNpy(NpyOf(">i4", "False", "(2,)", std::string("\0\0\0\1\0\0\1\0", 8)));
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_THAT(Elements<int32_t>(*tensor), ElementsAre(1, 256));
}

TEST(NpyTest, RefusesWhatItCannotHold) {
  for (const char* descr : {"<c16", "|O", "<U3", "|S4", "<f16", "f8", ""}) {
    EXPECT_EQ(ReasonNameOf(ReadNpy(NpyOf(descr, "False", "(1,)", std::string(16, '\0'))).status()),
              "DTYPE_UNSUPPORTED")
        << descr;
  }
  const std::string records = "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': ()}";
  EXPECT_EQ(ReasonNameOf(ReadNpy(NpyWithHeader(records, std::string(8, 0))).status()),
            "DTYPE_UNSUPPORTED");
}

TEST(NpyTest, RefusesMalformedHeaders) {
  const std::string eight(8, '\0');
  for (const std::string& bytes :
       {NpyOf("<f8", "Maybe", "()", eight), NpyOf("<f8", "False", "(-1,)", eight),
        NpyOf("<f8", "False", "(9223372036854775808,)", eight),
        NpyOf("<f8", "False", "(4294967296, 4294967296, 4294967296)", eight),
        NpyOf("<f8", "False", "(2,)", eight), NpyOf("<f8", "False", "()", eight + "x"),
        NpyOf("<f8", "False", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)", eight),
        NpyOf("|b1", "False", "(1,)", "\x02"), NpyWithHeader("", eight),
        NpyWithHeader("{'descr': '<f8'}", eight),
        NpyWithHeader("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': ()}",
                      eight),
        NpyWithHeader("{'x': 1, 'descr': '<f8', 'fortran_order': False, 'shape': ()}", eight)}) {
    EXPECT_EQ(ReasonNameOf(ReadNpy(bytes).status()), "INVALID_TENSOR") << bytes;
  }
}

// ---- zip and npz

TEST(NpzTest, ReadsStoredAndDeflatedMembers) {
  auto arrays = ReadNpz(SmallNpz());
  ASSERT_TRUE(arrays.ok()) << arrays.status();
  ASSERT_EQ(arrays->size(), 2u);
  EXPECT_EQ((*arrays)[0].first, "a");
  EXPECT_EQ((*arrays)[1].first, "b");
  EXPECT_THAT(Elements<double>((*arrays)[1].second), ElementsAre(1, 2, 3, 4));
}

TEST(NpzTest, RefusesDuplicatesAndOtherMembers) {
  EXPECT_FALSE(ReadNpz(Zip({{"a.npy", SmallNpy()}, {"a.npy", SmallNpy()}})).ok());
  EXPECT_FALSE(ReadNpz(Zip({{"a.txt", "hello"}})).ok());
}

TEST(ZipTest, RefusesArchivesThatLie) {
  const std::string text = "some text, some text, some text";
  EXPECT_TRUE(ReadZip(Zip({{"a", text, true}}), 1 << 20).ok());
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true, 30}}), 1 << 20).ok()) << "longer than declared";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true, 32}}), 1 << 20).ok()) << "shorter than declared";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, false, 32}}), 1 << 20).ok()) << "stored with two sizes";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true, -1, -1, 1}}), 1 << 20).ok()) << "CRC";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true, -1, -1, 0, 1}}), 1 << 20).ok()) << "encrypted";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true, -1, 7}}), 1 << 20).ok()) << "wrong offset";
  EXPECT_FALSE(ReadZip(Zip({{"a", text, true}, {"b", text, true, -1, 0}}), 1 << 20).ok())
      << "two members in one place";
}

TEST(ZipTest, BoundsWhatItUnpacks) {
  const std::string zeros(1 << 20, '\0');
  const std::string archive = Zip({{"a", zeros, true}, {"b", zeros, true}});
  EXPECT_LT(archive.size(), 8192u);
  EXPECT_TRUE(ReadZip(archive, 2 << 20).ok());
  EXPECT_EQ(ReasonNameOf(ReadZip(archive, (2 << 20) - 1).status()), "MEMORY_LIMIT");
  // A declared size that the compressed bytes cannot reach is refused before anything is allocated.
  absl::Status bomb = ReadZip(Zip({{"a", "x", true, 0x7FFFFFFF}}), INT64_MAX).status();
  EXPECT_THAT(std::string(bomb.message()), HasSubstr("cannot hold"));
}

// ---- safetensors

TEST(SafetensorsTest, ReadsTensorsAndLeavesOutMetadata) {
  auto tensors = ReadSafetensors(SmallSafetensors());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[1].first, "b");
  EXPECT_EQ((*tensors)[1].second.shape(), (Shape{2, 1}));
  EXPECT_THAT(Elements<float>((*tensors)[1].second), ElementsAre(3, 4));
}

TEST(SafetensorsTest, RefusesMalformedHeaders) {
  const std::string data(16, '\0');
  const auto one = [](const std::string& fields) { return "{\"a\": {" + fields + "}}"; };
  for (const std::string& header :
       {std::string("[]"), std::string("{"), std::string("{}"), one(""),
        one(R"("dtype": "F32", "shape": [4])"),
        one(R"("dtype": 1, "shape": [4], "data_offsets": [0, 16])"),
        one(R"("dtype": "F32", "shape": [3], "data_offsets": [0, 16])"),
        one(R"("dtype": "F32", "shape": [-4], "data_offsets": [0, 16])"),
        one(R"("dtype": "F32", "shape": [4.0], "data_offsets": [0, 16])"),
        one(R"("dtype": "F32", "shape": [4], "data_offsets": [16, 0])"),
        one(R"("dtype": "F32", "shape": [4], "data_offsets": [4, 20])"),
        one(R"("dtype": "F32", "shape": [1073741824, 1073741824, 1073741824, 4],
              "data_offsets": [0, 16])"),
        one(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 8])"),
        one(R"("dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16])"),
        std::string(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                        "b": {"dtype": "F32", "shape": [3], "data_offsets": [4, 16]}})"),
        std::string(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}})"),
        std::string(R"({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
                        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})")}) {
    EXPECT_EQ(ReasonNameOf(ReadSafetensors(Safetensors(header, data)).status()), "INVALID_TENSOR")
        << header;
  }
  EXPECT_EQ(ReasonNameOf(
                ReadSafetensors(
                    Safetensors(
                        one(R"("dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16])"), data))
                    .status()),
            "DTYPE_UNSUPPORTED");
}

TEST(SafetensorsTest, SurvivesDeepNesting) {
  EXPECT_FALSE(ReadSafetensors(Safetensors(std::string(1 << 20, '['), "")).ok());
  EXPECT_FALSE(ReadSafetensors(std::string(8, '\xFF') + "{}").ok());
}

// ---- csv

TEST(CsvTest, ReadsTables) {
  absl::StatusOr<Tensor> table = ReadCsv("\xEF\xBB\xBFx, y\r\n1, -2.5\r\n\r\n3e1, nan\r\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->shape(), (Shape{2, 2}));
  EXPECT_EQ(table->data<double>()[1], -2.5);
  EXPECT_EQ(ReadCsv("1\n2\n3")->shape(), (Shape{3}));
  EXPECT_EQ(ReadCsv("1;2")->shape(), (Shape{1, 2}));
  EXPECT_EQ(ReadCsv("label\n1\n")->shape(), (Shape{1}));
}

TEST(CsvTest, NamesTheLineOfAMistake) {
  EXPECT_THAT(std::string(ReadCsv("1,2\n3\n").status().message()), HasSubstr("line 2"));
  EXPECT_THAT(std::string(ReadCsv("a,b\n1,2\n3,x\n").status().message()), HasSubstr("line 3: 'x'"));
  EXPECT_FALSE(ReadCsv("").ok());
  EXPECT_FALSE(ReadCsv("a,b\n").ok());
  EXPECT_FALSE(ReadCsv("1,2\n1,\n").ok());
}

TEST(CsvTest, NamesColumns) {
  absl::StatusOr<CsvTable> table = ReadCsvTable("\"a b\"; c\n1; 2\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_THAT(table->names, ElementsAre("a b", "c"));
  EXPECT_THAT(Elements<double>(table->numbers), ElementsAre(1, 2));
  EXPECT_THAT(ReadCsvTable("1,2\n3,4")->names, ElementsAre("0", "1"));
  EXPECT_EQ(ReadCsvTable("label\n1\n2")->numbers.shape(), (Shape{2, 1}));
  EXPECT_THAT(std::string(ReadCsvTable("a,b,c\n1,2\n").status().message()),
              HasSubstr("header has 3 fields, the rows have 2"));
}

// ---- idx

TEST(IdxTest, ReadsBigEndianElements) {
  absl::StatusOr<Tensor> bytes = ReadIdx(SmallIdx());
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(bytes->shape(), (Shape{2, 3}));
  EXPECT_THAT(Elements<uint8_t>(*bytes), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(Elements<int16_t>(*ReadIdx(Idx(0x0B, {2}, std::string("\x01\x02\xff\xfe", 4)))),
              ElementsAre(258, -2));
  EXPECT_THAT(Elements<int32_t>(*ReadIdx(Idx(0x0C, {1}, BigEndian(70000)))), ElementsAre(70000));
  EXPECT_THAT(Elements<float>(*ReadIdx(Idx(0x0D, {1}, BigEndian(0xC0200000)))), ElementsAre(-2.5f));
  EXPECT_THAT(
      Elements<double>(*ReadIdx(Idx(0x0E, {1}, BigEndian(0x40290000) + std::string(4, '\0')))),
      ElementsAre(12.5));
  EXPECT_EQ(ReadIdx(Idx(0x09, {}, "x"))->shape(), Shape());
  EXPECT_EQ(ReadIdx(Idx(0x09, {0, 5}, ""))->shape(), (Shape{0, 5}));
  EXPECT_TRUE(LooksLikeIdx(SmallIdx()));
  EXPECT_FALSE(LooksLikeIdx(SmallNpy()));
  EXPECT_FALSE(LooksLikeIdx(""));
}

TEST(IdxTest, RefusesWhatIsNoArray) {
  EXPECT_EQ(ReasonNameOf(ReadIdx(Idx(0x0A, {1}, "x")).status()), "DTYPE_UNSUPPORTED");
  for (const std::string& bytes :
       {std::string(), std::string(3, '\0'), "x" + SmallIdx(), SmallIdx() + "x",
        Idx(0x08, {2}, "x"), Idx(0x0E, {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "x"),
        Idx(0x08, std::vector<uint32_t>(17, 1), "x"), Idx(0x08, std::vector<uint32_t>(200, 1), "x"),
        std::string("\0\0\x08\x02\0\0\0", 7)}) {
    EXPECT_EQ(ReasonNameOf(ReadIdx(bytes).status()), "INVALID_TENSOR") << bytes.size();
  }
}

// ---- new files

TEST(NewFileTest, AppearsWhenItIsWhole) {
  const std::string path = testing::TempDir() + "/gradwire_new_file_test.bin";
  std::remove(path.c_str());
  {
    absl::StatusOr<NewFile> file = NewFile::Create(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->Write("not committed").ok());
    EXPECT_EQ(ReadFile(path).status().code(), absl::StatusCode::kNotFound);
  }
  EXPECT_EQ(ReadFile(path).status().code(), absl::StatusCode::kNotFound);
  absl::StatusOr<NewFile> file = NewFile::Create(path);
  EXPECT_TRUE(file->Write("thrown away").ok());
  EXPECT_TRUE(file->Clear().ok());
  EXPECT_TRUE(file->Write("whole").ok());
  EXPECT_TRUE(file->Commit().ok());
  EXPECT_EQ(*ReadFile(path), "whole");
  EXPECT_TRUE(WriteNewFile(path, "another").ok());
  EXPECT_EQ(*ReadFile(path), "another");
  EXPECT_EQ(WriteNewFile("/nonexistent/file", "").code(), absl::StatusCode::kNotFound);
  std::remove(path.c_str());
}

// ---- file

TEST(FileTest, ReadsRegularFilesWithinBounds) {
  const std::string path = testing::TempDir() + "/gradwire_io_test.bin";
  std::ofstream(path) << "0123456789";
  EXPECT_EQ(*ReadFile(path), "0123456789");
  EXPECT_EQ(*ReadFilePart(path, 2, 3), "234");
  EXPECT_EQ(*FileBytes(path), 10);
  EXPECT_EQ(ReasonNameOf(ReadFile(path, 9).status()), "MEMORY_LIMIT");
  EXPECT_EQ(ReadFilePart(path, 8, 3).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReadFilePart(path, INT64_MAX, INT64_MAX).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(ReadFile(path + ".missing").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
}

// ---- Damage: every reader survives it.

struct Format {
  const char* name;
  std::string bytes;
  std::function<bool(const std::string&)> reads;
};

std::vector<Format> Formats() {
  return {{"npy", SmallNpy(), [](const std::string& b) { return ReadNpy(b).ok(); }},
          {"npz", SmallNpz(), [](const std::string& b) { return ReadNpz(b, 1 << 20).ok(); }},
          {"idx", SmallIdx(), [](const std::string& b) { return ReadIdx(b).ok(); }},
          {"safetensors", SmallSafetensors(),
           [](const std::string& b) { return ReadSafetensors(b).ok(); }}};
}

TEST(DamageTest, EveryTruncationIsRefused) {
  for (const Format& format : Formats()) {
    ASSERT_TRUE(format.reads(format.bytes)) << format.name;
    for (size_t n = 0; n < format.bytes.size(); ++n) {
      // A copy of its own size, so that a sanitizer sees reads beyond it.
      EXPECT_FALSE(format.reads(format.bytes.substr(0, n))) << format.name << " cut at " << n;
    }
  }
}

TEST(DamageTest, RandomFlipsDoNotCrash) {
  std::mt19937 random(1);
  for (const Format& format : Formats()) {
    for (int i = 0; i < 20000; ++i) {
      std::string bytes = format.bytes;
      for (int flips = 1 + static_cast<int>(random() % 4); flips > 0; --flips) {
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
      }
      format.reads(bytes);
    }
  }
  for (int i = 0; i < 20000; ++i) {
    std::string bytes(random() % 64, '\0');
    for (char& c : bytes) c = "0123456789,;.\ne-+ nax"[random() % 21];
    ReadCsv(bytes).ok();
  }
}

}  // namespace
}  // namespace gradwire
