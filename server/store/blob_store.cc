#include "server/store/blob_store.h"

#include <openssl/sha.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"
#include "server/store/file_system.h"
#include "server/store/store.h"

namespace gradwire::store {
namespace {

class MemoryBlob final : public Blob {
 public:
  explicit MemoryBlob(absl::string_view bytes) : bytes_(bytes) {}
  absl::string_view bytes() const override { return bytes_; }

 private:
  const std::string bytes_;
};

class FileBlob final : public Blob {
 public:
  explicit FileBlob(std::unique_ptr<MappedFile> file) : file_(std::move(file)) {}
  absl::string_view bytes() const override { return file_->bytes(); }

 private:
  const std::unique_ptr<MappedFile> file_;
};

}  // namespace

std::string BlobDigest(absl::string_view bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

bool IsBlobDigest(absl::string_view text) {
  return text.size() == 2 * SHA256_DIGEST_LENGTH &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(const std::string& dir) {
  std::unique_ptr<BlobStore> blobs(new BlobStore(dir));
  if (dir.empty()) return blobs;
  GW_RETURN_IF_ERROR(MakeDirectories(dir));
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> folders, ListDirectory(dir));
  for (const std::string& folder : folders) {
    if (folder.size() != 2) continue;
    const std::string path = absl::StrCat(dir, "/", folder);
    GW_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
    for (const std::string& name : names) {
      if (absl::StartsWith(name, "tmp-")) {
        GW_RETURN_IF_ERROR(RemoveFile(absl::StrCat(path, "/", name)));
      }
    }
  }
  return blobs;
}

std::string BlobStore::PathOf(const std::string& digest) const {
  return absl::StrCat(dir_, "/", digest.substr(0, 2), "/", digest);
}

absl::StatusOr<bool> BlobStore::Has(const std::string& digest) {
  {
    absl::MutexLock lock(&mutex_);
    if (in_memory()) return in_memory_.count(digest) > 0;
  }
  GW_ASSIGN_OR_RETURN(const bool exists, FileExists(PathOf(digest)));
  // A damaged one is replaced.
  return exists && Get(digest).ok();
}

absl::StatusOr<std::string> BlobStore::Put(absl::string_view bytes) {
  const std::string digest = BlobDigest(bytes);
  if (in_memory()) {
    absl::MutexLock lock(&mutex_);
    auto& blob = in_memory_[digest];
    if (blob == nullptr) blob = std::make_shared<MemoryBlob>(bytes);
    return digest;
  }
  GW_ASSIGN_OR_RETURN(const bool known, Has(digest));
  if (known) return digest;
  const std::string path = PathOf(digest);
  GW_RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/'))));
  GW_RETURN_IF_ERROR(WriteFileDurably(path, bytes));
  absl::MutexLock lock(&mutex_);
  verified_.insert(digest);
  return digest;
}

absl::StatusOr<std::string> BlobStore::Adopt(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  const std::string digest = BlobDigest(file->bytes());
  GW_ASSIGN_OR_RETURN(const bool known, Has(digest));
  if (known) {
    GW_RETURN_IF_ERROR(RemoveFile(path));
    return digest;
  }
  const std::string place = PathOf(digest);
  GW_RETURN_IF_ERROR(MakeDirectories(place.substr(0, place.rfind('/'))));
  GW_RETURN_IF_ERROR(MoveFileDurably(path, place));
  absl::MutexLock lock(&mutex_);
  verified_.insert(digest);
  return digest;
}

absl::StatusOr<std::shared_ptr<const Blob>> BlobStore::Get(const std::string& digest) {
  if (!IsBlobDigest(digest)) return Error(Reason::kNotFound, "that is no digest of a blob");
  bool verified;
  {
    absl::MutexLock lock(&mutex_);
    if (in_memory()) {
      const auto found = in_memory_.find(digest);
      if (found != in_memory_.end()) return found->second;
      return Error(Reason::kNotFound, absl::StrCat("there is no blob ", digest));
    }
    verified = verified_.count(digest) > 0;
  }
  GW_ASSIGN_OR_RETURN(auto file, MappedFile::Open(PathOf(digest)));
  if (!verified) {
    const std::string found = BlobDigest(file->bytes());
    if (found != digest) {
      return Error(Reason::kCorruptData, absl::StrCat(PathOf(digest),
                                                      ": the file is damaged: its "
                                                      "SHA-256 is ",
                                                      found, ", expected ", digest));
    }
    absl::MutexLock lock(&mutex_);
    verified_.insert(digest);
  }
  return std::make_shared<FileBlob>(std::move(file));
}

absl::Status BlobStore::Delete(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  in_memory_.erase(digest);
  verified_.erase(digest);
  if (in_memory() || !IsBlobDigest(digest)) return absl::OkStatus();
  return RemoveFile(PathOf(digest));
}

absl::StatusOr<std::vector<std::string>> BlobStore::List() const {
  std::vector<std::string> out;
  if (in_memory()) {
    absl::MutexLock lock(const_cast<absl::Mutex*>(&mutex_));
    for (const auto& [digest, blob] : in_memory_) out.push_back(digest);
    return out;
  }
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> folders, ListDirectory(dir_));
  for (const std::string& folder : folders) {
    if (folder.size() != 2) continue;
    GW_ASSIGN_OR_RETURN(const auto names, ListDirectory(absl::StrCat(dir_, "/", folder)));
    for (const std::string& name : names) {
      if (IsBlobDigest(name)) out.push_back(name);
    }
  }
  return out;
}

absl::Status DeleteUnused(Store& store, BlobStore& blobs, const std::string& digest) {
  absl::WriterMutexLock lock(&blobs.in_use_);
  bool used = true;
  GW_RETURN_IF_ERROR(store.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(used, snapshot.UsesBlob(digest));
    return absl::OkStatus();
  }));
  return used ? absl::OkStatus() : blobs.Delete(digest);
}

}  // namespace gradwire::store
