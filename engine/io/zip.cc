#include "engine/io/zip.h"

#include <zlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"

namespace gradwire {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kDirectorySignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kDirectoryBytes = 46;
constexpr size_t kLocalBytes = 30;
constexpr size_t kMaxCommentBytes = 65535;
constexpr uint32_t kInZip64 = 0xFFFFFFFF;
constexpr int kStored = 0;
constexpr int kDeflated = 8;
// Deflate's best: 258 bytes from two bits.
constexpr int64_t kMaxDeflateRatio = 1032;
constexpr size_t kMaxNameBytes = 4096;

absl::Status Malformed(absl::string_view what) {
  return Error(Reason::kInvalidTensor, absl::StrCat("zip: ", what));
}

uint32_t Load(absl::string_view bytes, size_t at, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  }
  return value;
}

struct Entry {
  std::string name;
  int method = 0;
  uint32_t crc = 0;
  int64_t compressed_bytes = 0;
  int64_t bytes = 0;
  size_t local_offset = 0;
  absl::string_view data;  // compressed
};

struct Directory {
  size_t offset = 0;
  size_t bytes = 0;
  size_t entries = 0;
};

absl::StatusOr<Directory> FindDirectory(absl::string_view archive) {
  if (archive.size() < kEndBytes) return Malformed("the archive is too short");
  const size_t last = archive.size() - kEndBytes;
  const size_t first = last - std::min(last, kMaxCommentBytes);
  for (size_t at = last + 1; at-- > first;) {
    if (Load(archive, at, 4) != kEndSignature) continue;
    if (at + kEndBytes + Load(archive, at + 20, 2) != archive.size()) continue;
    if (Load(archive, at + 4, 4) != 0) return Malformed("several disks are not supported");
    const Directory directory{.offset = Load(archive, at + 16, 4),
                              .bytes = Load(archive, at + 12, 4),
                              .entries = Load(archive, at + 10, 2)};
    if (directory.offset == kInZip64 || directory.entries == 0xFFFF) {
      return Malformed("zip64 is not supported");
    }
    if (directory.offset > at || directory.bytes > at - directory.offset) {
      return Malformed("the directory lies outside of the archive");
    }
    return directory;
  }
  return Malformed("no directory found: no zip archive, or cut off");
}

// One entry of the directory, which starts at `*at`.
absl::StatusOr<Entry> ReadEntry(absl::string_view directory, size_t* at) {
  const size_t left = directory.size() - *at;
  if (left < kDirectoryBytes || Load(directory, *at, 4) != kDirectorySignature) {
    return Malformed("the directory is damaged");
  }
  const size_t name_bytes = Load(directory, *at + 28, 2);
  const size_t tail = name_bytes + Load(directory, *at + 30, 2) + Load(directory, *at + 32, 2);
  if (left - kDirectoryBytes < tail || name_bytes > kMaxNameBytes) {
    return Malformed("the directory is damaged");
  }
  Entry entry{.name = std::string(directory.substr(*at + kDirectoryBytes, name_bytes)),
              .method = static_cast<int>(Load(directory, *at + 10, 2)),
              .crc = Load(directory, *at + 16, 4),
              .compressed_bytes = Load(directory, *at + 20, 4),
              .bytes = Load(directory, *at + 24, 4),
              .local_offset = Load(directory, *at + 42, 4),
              .data = {}};
  const uint32_t flags = Load(directory, *at + 8, 2);
  if ((flags & 1) != 0) return Malformed(absl::StrCat(entry.name, " is encrypted"));
  if (entry.compressed_bytes == kInZip64 || entry.bytes == kInZip64 ||
      entry.local_offset == kInZip64) {
    return Malformed("zip64 is not supported");
  }
  *at += kDirectoryBytes + tail;
  return entry;
}

// Finds the entry's data by its local header, of which only the lengths matter.
absl::Status FindData(absl::string_view archive, Entry* entry) {
  const size_t at = entry->local_offset;
  if (at > archive.size() || archive.size() - at < kLocalBytes ||
      Load(archive, at, 4) != kLocalSignature) {
    return Malformed(absl::StrCat(entry->name, ": no local header at its offset"));
  }
  const size_t skip = kLocalBytes + Load(archive, at + 26, 2) + Load(archive, at + 28, 2);
  if (archive.size() - at < skip ||
      archive.size() - at - skip < static_cast<size_t>(entry->compressed_bytes)) {
    return Malformed(absl::StrCat(entry->name, ": its data lies outside of the archive"));
  }
  entry->data = archive.substr(at + skip, static_cast<size_t>(entry->compressed_bytes));
  return absl::OkStatus();
}

absl::Status CheckSizes(const std::vector<Entry>& entries, int64_t max_bytes) {
  int64_t total = 0;
  for (const Entry& entry : entries) {
    if (entry.method == kStored) {
      if (entry.bytes != entry.compressed_bytes) {
        return Malformed(absl::StrCat(entry.name, ": is stored, with two sizes"));
      }
    } else if (entry.method != kDeflated) {
      return Malformed(absl::StrCat(entry.name, ": compression method ", entry.method,
                                    " is not supported, only stored and deflated"));
    } else if (entry.bytes > SaturatingMul(entry.compressed_bytes, kMaxDeflateRatio)) {
      return Malformed(absl::StrCat(entry.name, ": declares ", entry.bytes, " bytes, which ",
                                    entry.compressed_bytes, " compressed bytes cannot hold"));
    }
    total = SaturatingAdd(total, entry.bytes);
  }
  if (total > max_bytes) {
    return Error(Reason::kMemoryLimit,
                 absl::StrCat("zip: ", total, " bytes when unpacked are above ", "the limit of ",
                              max_bytes));
  }
  return absl::OkStatus();
}

// Overlapping members are how small archives become huge ones.
absl::Status CheckOverlaps(const std::vector<Entry>& entries, size_t directory_offset) {
  std::vector<const Entry*> sorted;
  for (const Entry& entry : entries) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const Entry* a, const Entry* b) { return a->local_offset < b->local_offset; });
  for (size_t i = 0; i < sorted.size(); ++i) {
    const Entry& entry = *sorted[i];
    const size_t limit = i + 1 < sorted.size() ? sorted[i + 1]->local_offset : directory_offset;
    // The local header lies between local_offset and the data: at least its fixed part.
    if (limit < entry.local_offset + kLocalBytes ||
        limit - entry.local_offset - kLocalBytes < entry.data.size()) {
      return Malformed(absl::StrCat(entry.name, ": overlaps its successor"));
    }
  }
  return absl::OkStatus();
}

// zlib's own allocator: it has no exceptions to throw.
bool Inflate(absl::string_view data, std::string* out) {
  z_stream stream = {};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return false;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out->data());
  stream.avail_out = static_cast<uInt>(out->size());
  const int result = inflate(&stream, Z_FINISH);
  const bool whole = result == Z_STREAM_END && stream.avail_out == 0 && stream.avail_in == 0;
  inflateEnd(&stream);
  return whole;
}

absl::StatusOr<ZipMember> Unpack(const Entry& entry) {
  ZipMember member{entry.name, {}};
  if (entry.method == kStored) {
    member.bytes = std::string(entry.data);
  } else {
    member.bytes.resize(static_cast<size_t>(entry.bytes));
    if (!Inflate(entry.data, &member.bytes)) {
      return Malformed(absl::StrCat(entry.name, ": its compressed data is damaged"));
    }
  }
  const uLong crc =
      crc32_z(0, reinterpret_cast<const Bytef*>(member.bytes.data()), member.bytes.size());
  if (crc != entry.crc) return Malformed(absl::StrCat(entry.name, ": CRC-32 differs: damaged"));
  return member;
}

}  // namespace

absl::StatusOr<std::vector<ZipMember>> ReadZip(absl::string_view archive, int64_t max_bytes) {
  GW_ASSIGN_OR_RETURN(const Directory directory, FindDirectory(archive));
  const absl::string_view records = archive.substr(directory.offset, directory.bytes);
  if (directory.entries > records.size() / kDirectoryBytes) {
    return Malformed("the directory is too short for its entries");
  }
  std::vector<Entry> entries;
  size_t at = 0;
  for (size_t i = 0; i < directory.entries; ++i) {
    GW_ASSIGN_OR_RETURN(Entry entry, ReadEntry(records, &at));
    GW_RETURN_IF_ERROR(FindData(archive, &entry));
    entries.push_back(std::move(entry));
  }
  GW_RETURN_IF_ERROR(CheckSizes(entries, max_bytes));
  GW_RETURN_IF_ERROR(CheckOverlaps(entries, directory.offset));
  std::vector<ZipMember> members;
  for (const Entry& entry : entries) {
    GW_ASSIGN_OR_RETURN(ZipMember member, Unpack(entry));
    members.push_back(std::move(member));
  }
  return members;
}

}  // namespace gradwire
