// File: blob_store.h
//
// BlobStore: bytes that never change, named by their SHA-256: models, columns of data sets,
// checkpoints. Each is a file, written beside its place and moved there once it is on disk, so a
// blob is there in full or not at all.
//
//   GW_ASSIGN_OR_RETURN(std::unique_ptr<BlobStore> blobs,
//   BlobStore::Open("/var/lib/gradwire/blobs")); GW_ASSIGN_OR_RETURN(std::string digest,
//   blobs->Put(bytes));      // on disk when OK comes back
//   GW_ASSIGN_OR_RETURN(std::shared_ptr<const Blob> blob, blobs->Get(digest));
//   blob->bytes();                                                  // memory-mapped
//
// Layout: DIR/ab/ab34... . An empty DIR keeps the blobs in memory.
// Errors: DISK_FULL; NOT_FOUND; CORRUPT_DATA where a file does not have its digest (looked at when
// a process first reads it); INTERNAL for a failing disk. Thread-safety: every method may be called
// from any thread.
#ifndef GRADWIRE_SERVER_STORE_BLOB_STORE_H_
#define GRADWIRE_SERVER_STORE_BLOB_STORE_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace gradwire::store {

class Store;

// SHA-256, 64 lower-case hex digits.
std::string BlobDigest(absl::string_view bytes);
// True where `text` could be a digest: nothing else ever becomes a path.
bool IsBlobDigest(absl::string_view text);

class Blob {
 public:
  virtual ~Blob() = default;
  // Valid as long as the object, also after the blob is deleted.
  virtual absl::string_view bytes() const = 0;
};

class BlobStore {
 public:
  // Makes the folder where there is none, and removes what an interrupted write has left.
  static absl::StatusOr<std::unique_ptr<BlobStore>> Open(const std::string& dir);

  // The digest. Costs nothing but the hashing where the blob is there already.
  absl::StatusOr<std::string> Put(absl::string_view bytes);
  // Takes over a file on the same file system, which must be complete; it is hashed, synced and
  // moved.
  absl::StatusOr<std::string> Adopt(const std::string& path);
  absl::StatusOr<std::shared_ptr<const Blob>> Get(const std::string& digest);
  // OK where there is none.
  absl::Status Delete(const std::string& digest);
  absl::StatusOr<std::vector<std::string>> List() const;
  bool in_memory() const { return dir_.empty(); }

  // As long as one is held, DeleteUnused waits: for a blob that is put and not yet named.
  class Hold {
   public:
    explicit Hold(BlobStore* blobs) : lock_(&blobs->in_use_) {}

   private:
    absl::ReaderMutexLock lock_;
  };

 private:
  friend absl::Status DeleteUnused(Store& store, BlobStore& blobs, const std::string& digest);
  explicit BlobStore(std::string dir) : dir_(std::move(dir)) {}
  std::string PathOf(const std::string& digest) const;
  absl::StatusOr<bool> Has(const std::string& digest);

  const std::string dir_;
  absl::Mutex in_use_;
  absl::Mutex mutex_;
  std::set<std::string> verified_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<const Blob>> in_memory_ ABSL_GUARDED_BY(mutex_);
};

// Deletes a blob, unless something in the store has it.
absl::Status DeleteUnused(Store& store, BlobStore& blobs, const std::string& digest);

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_BLOB_STORE_H_
