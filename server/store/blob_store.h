// File: blob_store.h
//
// BlobStore   bytes that never change, named by their SHA-256: models, columns of data sets,
//             checkpoints. A blob is there in full or not at all, whenever the server dies.
// Sha256      that digest, piece by piece.
//
//   GW_ASSIGN_OR_RETURN(auto blobs, BlobStore::Open("/var/lib/gradwire/blobs"));
//   GW_ASSIGN_OR_RETURN(std::string digest, blobs->Put(bytes));    // on disk when OK comes back
//   GW_ASSIGN_OR_RETURN(std::shared_ptr<const Blob> blob, blobs->Get(digest));
//   blob->bytes();                                                 // memory-mapped
//
// Layout: DIR/ab/ab34..., a file a blob. An empty DIR keeps the blobs in memory.
//
// Errors: NOT_FOUND; CORRUPT_DATA where a file does not have its digest; DISK_FULL; INTERNAL for a
// failing disk. Text that is no digest names no blob, and never becomes part of a path.
// Cost: Put hashes and writes; Get hashes at a process's first look, and again where the file was
// written to since, and maps.
// Thread-safety: every method of BlobStore may be called from any thread.
#ifndef GRADWIRE_SERVER_STORE_BLOB_STORE_H_
#define GRADWIRE_SERVER_STORE_BLOB_STORE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "server/store/file_system.h"

namespace gradwire::store {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(absl::string_view bytes);
  // 64 lower-case hex digits. To be called once, last.
  std::string Finish();

 private:
  void* const context_;
};

// The name of the blob with these bytes.
std::string BlobDigest(absl::string_view bytes);
// True where `text` could be a digest.
bool IsBlobDigest(absl::string_view text);

class Blob {
 public:
  virtual ~Blob() = default;
  // Valid as long as the object, also after the blob was deleted.
  virtual absl::string_view bytes() const = 0;
};

class BlobStore {
 public:
  // Makes the folder where there is none, and removes what interrupted writes have left. One store
  // a folder: see DirectoryLock.
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(const std::string& dir);

  // Keeps the pieces, one after another, as one blob; the digest. A good blob that is there already
  // is not written again, a damaged one is.
  absl::StatusOr<std::string> Put(absl::Span<const absl::string_view> pieces);
  absl::StatusOr<std::string> Put(absl::string_view bytes) {
    return Put(absl::MakeConstSpan(&bytes, 1));
  }
  // Makes a complete file of the same file system, which nobody writes any more, a blob: hashes it,
  // syncs it, and gives it a second name; no byte is copied. The file itself is the caller's to
  // remove, once the digest is written down: a crash in between loses nothing.
  absl::StatusOr<std::string> Adopt(const std::string& path);

  // kOnce: compared with its digest where this process has not done so since the file was last
  // written; kAlways: compared.
  enum class Verify { kOnce, kAlways };
  absl::StatusOr<std::shared_ptr<const Blob>> Get(const std::string& digest,
                                                  Verify verify = Verify::kOnce);
  // True where there is a file of that name, good or not.
  absl::StatusOr<bool> Has(const std::string& digest) const;
  // OK where there is none.
  absl::Status Delete(const std::string& digest);
  // All digests, sorted.
  absl::StatusOr<std::vector<std::string>> List() const;
  bool in_memory() const { return dir_.empty(); }

  // While one is held DeleteUnused waits: for a blob that was put and that nothing refers to yet.
  class Hold {
   public:
    explicit Hold(BlobStore* blobs) : lock_(&blobs->in_use_) {}

   private:
    absl::ReaderMutexLock lock_;
  };
  // Deletes a blob, unless `used` says that something refers to it. Not with a Hold.
  absl::Status DeleteUnused(const std::string& digest,
                            absl::FunctionRef<absl::StatusOr<bool>()> used);

 private:
  explicit BlobStore(std::string dir) : dir_(std::move(dir)) {}
  std::string FolderOf(const std::string& digest) const;
  std::string PathOf(const std::string& digest) const;
  // True where the blob is there, good and safe from a crash.
  absl::StatusOr<bool> IsKept(const std::string& digest);
  absl::Status MakeFolderOf(const std::string& digest);
  absl::Status CheckDigest(const std::string& digest);
  // The file has its digest, as it was when it had this stamp.
  void SetVerified(const std::string& digest, const FileStamp& stamp);
  bool IsVerified(const std::string& digest) const;

  const std::string dir_;
  absl::Mutex in_use_;
  absl::Mutex folders_;
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<std::string, FileStamp> verified_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<const Blob>> in_memory_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_BLOB_STORE_H_
