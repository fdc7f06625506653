#include "server/store/blob_store.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire::store {
namespace {

constexpr size_t kDigestBytes = 32;
constexpr size_t kFolderDigits = 2;

EVP_MD_CTX* AsEvp(void* context) { return static_cast<EVP_MD_CTX*>(context); }

// OpenSSL fails here only where it has no memory, or was built without SHA-256.
void Require(int ok) {
  if (ok != 1) std::abort();
}

class MemoryBlob final : public Blob {
 public:
  explicit MemoryBlob(std::string bytes) : bytes_(std::move(bytes)) {}
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

absl::Status NoBlob(const std::string& digest) {
  return Error(Reason::kNotFound, absl::StrCat("there is no blob ", digest.substr(0, 64)));
}

// By reading: a bad sector is then an error, where touching a mapping would be a signal.
absl::StatusOr<std::string> DigestOfFile(const std::string& path) {
  Sha256 sha;
  GW_RETURN_IF_ERROR(ReadFile(path, [&sha](absl::string_view piece) { sha.Update(piece); }));
  return sha.Finish();
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  Require(context_ != nullptr && EVP_DigestInit_ex(AsEvp(context_), EVP_sha256(), nullptr));
}

Sha256::~Sha256() { EVP_MD_CTX_free(AsEvp(context_)); }

void Sha256::Update(absl::string_view bytes) {
  Require(EVP_DigestUpdate(AsEvp(context_), bytes.data(), bytes.size()));
}

std::string Sha256::Finish() {
  unsigned char digest[kDigestBytes];
  Require(EVP_DigestFinal_ex(AsEvp(context_), digest, nullptr));
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), sizeof(digest)});
}

std::string BlobDigest(absl::string_view bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.Finish();
}

bool IsBlobDigest(absl::string_view text) {
  return text.size() == 2 * kDigestBytes && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::StatusOr<std::unique_ptr<BlobStore>> BlobStore::Open(const std::string& dir) {
  std::unique_ptr<BlobStore> blobs(new BlobStore(dir));
  if (dir.empty()) return blobs;
  GW_RETURN_IF_ERROR(MakeDirectories(dir));
  // Whoever made a folder in it may have died before this.
  GW_RETURN_IF_ERROR(SyncDirectory(dir));
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> folders, ListDirectory(dir));
  for (const std::string& folder : folders) {
    if (folder.size() != kFolderDigits) continue;
    GW_RETURN_IF_ERROR(RemoveUnfinishedWrites(absl::StrCat(dir, "/", folder)));
  }
  return blobs;
}

std::string BlobStore::FolderOf(const std::string& digest) const {
  return absl::StrCat(dir_, "/", digest.substr(0, kFolderDigits));
}

std::string BlobStore::PathOf(const std::string& digest) const {
  return absl::StrCat(FolderOf(digest), "/", digest);
}

// One at a time: a folder that another thread makes is there before it is safe from a crash.
absl::Status BlobStore::MakeFolderOf(const std::string& digest) {
  absl::MutexLock lock(&folders_);
  return MakeDirectories(FolderOf(digest));
}

void BlobStore::SetVerified(const std::string& digest, const FileStamp& stamp) {
  absl::MutexLock lock(&mutex_);
  verified_.insert_or_assign(digest, stamp);
}

bool BlobStore::IsVerified(const std::string& digest) const {
  FileStamp stamp;
  {
    absl::MutexLock lock(&mutex_);
    const auto known = verified_.find(digest);
    if (known == verified_.end()) return false;
    stamp = known->second;
  }
  const absl::StatusOr<FileStamp> now = StampOf(PathOf(digest));
  return now.ok() && *now == stamp;
}

absl::StatusOr<bool> BlobStore::IsKept(const std::string& digest) {
  GW_ASSIGN_OR_RETURN(const bool exists, Has(digest));
  if (!exists) return false;
  const absl::Status status = Get(digest).status();
  if (HasReason(status, Reason::kCorruptData) || HasReason(status, Reason::kNotFound)) return false;
  GW_RETURN_IF_ERROR(status);
  // Another thread may have moved it here just now, or failed to sync the folder.
  GW_RETURN_IF_ERROR(SyncDirectory(FolderOf(digest)));
  return true;
}

absl::StatusOr<std::string> BlobStore::Put(absl::Span<const absl::string_view> pieces) {
  Sha256 sha;
  for (const absl::string_view piece : pieces) sha.Update(piece);
  const std::string digest = sha.Finish();
  if (in_memory()) {
    std::string bytes;
    for (const absl::string_view piece : pieces) bytes.append(piece.data(), piece.size());
    absl::MutexLock lock(&mutex_);
    auto& blob = in_memory_[digest];
    if (blob == nullptr) blob = std::make_shared<MemoryBlob>(std::move(bytes));
    return digest;
  }
  GW_ASSIGN_OR_RETURN(const bool kept, IsKept(digest));
  if (kept) return digest;
  GW_RETURN_IF_ERROR(MakeFolderOf(digest));
  GW_RETURN_IF_ERROR(WriteFileDurably(PathOf(digest), pieces));
  GW_ASSIGN_OR_RETURN(const FileStamp stamp, StampOf(PathOf(digest)));
  SetVerified(digest, stamp);
  return digest;
}

absl::StatusOr<std::string> BlobStore::Adopt(const std::string& path) {
  if (in_memory()) {
    std::string bytes;
    GW_RETURN_IF_ERROR(ReadFile(
        path, [&bytes](absl::string_view piece) { bytes.append(piece.data(), piece.size()); }));
    return Put(bytes);
  }
  GW_ASSIGN_OR_RETURN(const FileStamp stamp, StampOf(path));
  GW_ASSIGN_OR_RETURN(const std::string digest, DigestOfFile(path));
  GW_ASSIGN_OR_RETURN(const bool kept, IsKept(digest));
  if (kept) return digest;
  GW_RETURN_IF_ERROR(MakeFolderOf(digest));
  GW_RETURN_IF_ERROR(LinkFileDurably(path, PathOf(digest)));
  SetVerified(digest, stamp);
  return digest;
}

absl::Status BlobStore::CheckDigest(const std::string& digest) {
  const absl::StatusOr<FileStamp> stamp = StampOf(PathOf(digest));
  if (HasReason(stamp.status(), Reason::kNotFound)) return NoBlob(digest);
  GW_RETURN_IF_ERROR(stamp.status());
  GW_ASSIGN_OR_RETURN(const std::string found, DigestOfFile(PathOf(digest)));
  if (found == digest) {
    SetVerified(digest, *stamp);
    return absl::OkStatus();
  }
  {
    absl::MutexLock lock(&mutex_);
    verified_.erase(digest);
  }
  return Error(Reason::kCorruptData,
               absl::StrCat(PathOf(digest), ": the file is damaged: its SHA-256 is ", found,
                            ", expected ", digest));
}

absl::StatusOr<std::shared_ptr<const Blob>> BlobStore::Get(const std::string& digest,
                                                           Verify verify) {
  if (!IsBlobDigest(digest)) return NoBlob(digest);
  if (in_memory()) {
    absl::MutexLock lock(&mutex_);
    const auto found = in_memory_.find(digest);
    if (found == in_memory_.end()) return NoBlob(digest);
    return found->second;
  }
  if (verify == Verify::kAlways || !IsVerified(digest)) GW_RETURN_IF_ERROR(CheckDigest(digest));
  auto file = MappedFile::Open(PathOf(digest));
  if (HasReason(file.status(), Reason::kNotFound)) return NoBlob(digest);
  GW_RETURN_IF_ERROR(file.status());
  return std::make_shared<FileBlob>(*std::move(file));
}

absl::StatusOr<bool> BlobStore::Has(const std::string& digest) const {
  if (!IsBlobDigest(digest)) return false;
  if (!in_memory()) return FileExists(PathOf(digest));
  absl::MutexLock lock(&mutex_);
  return in_memory_.count(digest) > 0;
}

absl::Status BlobStore::Delete(const std::string& digest) {
  GW_ASSIGN_OR_RETURN(const bool exists, Has(digest));
  if (!exists) return absl::OkStatus();
  {
    absl::MutexLock lock(&mutex_);
    verified_.erase(digest);
    if (in_memory()) in_memory_.erase(digest);
  }
  return in_memory() ? absl::OkStatus() : RemoveFile(PathOf(digest));
}

absl::Status BlobStore::DeleteUnused(const std::string& digest,
                                     absl::FunctionRef<absl::StatusOr<bool>()> used) {
  absl::WriterMutexLock lock(&in_use_);
  GW_ASSIGN_OR_RETURN(const bool is_used, used());
  return is_used ? absl::OkStatus() : Delete(digest);
}

absl::StatusOr<std::vector<std::string>> BlobStore::List() const {
  std::vector<std::string> out;
  if (in_memory()) {
    absl::MutexLock lock(&mutex_);
    for (const auto& [digest, blob] : in_memory_) out.push_back(digest);
    return out;
  }
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> folders, ListDirectory(dir_));
  for (const std::string& folder : folders) {
    if (folder.size() != kFolderDigits) continue;
    GW_ASSIGN_OR_RETURN(const auto names, ListDirectory(absl::StrCat(dir_, "/", folder)));
    std::copy_if(names.begin(), names.end(), std::back_inserter(out),
                 [](const std::string& name) { return IsBlobDigest(name); });
  }
  return out;
}

}  // namespace gradwire::store
