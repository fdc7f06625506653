// File: store.h
//
// Store: what a server remembers of graphs, data sets and jobs. Small things only: their bytes
// (models, columns, checkpoints) lie in a BlobStore, and the store holds the digests.
//
//   GW_ASSIGN_OR_RETURN(std::unique_ptr<Store> store,
//   OpenSqliteStore("/var/lib/gradwire/state.db"));
//   GW_RETURN_IF_ERROR(store->Write([&](Store::Transaction& t) -> absl::Status {
//     GW_RETURN_IF_ERROR(t.Put({.kind = Kind::kJob, .id = id, .state = 1, .bytes = bytes}));
//     return t.AppendEvent(id, {.number = 1, .bytes = event});
//   }));  // both or none; on disk when OK comes back
//
// A *resource* is a graph, a data set or a job: an id, a state, bytes that the caller understands
// (a serialized message), and the digests of its blobs. Each has a serial number: the order of
// creation. Events and checkpoints belong to a job and go with it.
//
// Errors: DISK_FULL, INTERNAL (the file is damaged, say). Thread-safety: every method may be called
// from any thread; writes are one after another.
#ifndef GRADWIRE_SERVER_STORE_STORE_H_
#define GRADWIRE_SERVER_STORE_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/store/blob_store.h"

namespace gradwire::store {

enum class Kind { kGraph, kDataset, kJob };

struct Resource {
  Kind kind = Kind::kGraph;
  std::string id;
  int state = 0;
  int64_t expires = 0;  // Unix seconds; 0: never
  std::string bytes;
  std::vector<std::string> blobs;  // digests of what it consists of
  int64_t serial = 0;              // the store's to say
};

struct Event {
  int64_t number = 0;  // from 1, without gaps
  int64_t step = 0;
  int type = 0;  // the caller's own classes; see Events()
  std::string bytes;
};

struct CheckpointRow {
  int64_t step = 0;
  std::string bytes;
  std::string blob;
};

// A mutating call that was answered: what was asked (its digest) and what was said.
struct AnsweredRequest {
  std::string method;
  std::string request;
  std::string response;
};
// How long answers are kept, for calls that are sent again; of the latest calls, where there are
// very many. The .proto files promise this.
inline constexpr absl::Duration kAnswersAreKept = absl::Hours(7 * 24);
inline constexpr int64_t kMaxAnswers = 1'000'000;

class Store {
 public:
  // Looks at one consistent state.
  class Snapshot {
   public:
    virtual ~Snapshot() = default;
    virtual absl::StatusOr<std::optional<Resource>> Get(Kind kind, const std::string& id) = 0;
    // Newest first, of serial numbers below `before` (0: all), in one of `states` (empty: any).
    virtual absl::StatusOr<std::vector<Resource>> List(Kind kind, int64_t before, int limit,
                                                       absl::Span<const int> states) = 0;
    // Those whose time has passed.
    virtual absl::StatusOr<std::vector<Resource>> Expired(Kind kind, int64_t now) = 0;
    // In order, after event `after`.
    virtual absl::StatusOr<std::vector<Event>> Events(const std::string& job, int64_t after,
                                                      int limit) = 0;
    // Of a type, with first_step <= step <= last_step, thinned out evenly to at most `limit`, the
    // last one always among them. `total` is their number before that.
    virtual absl::StatusOr<std::vector<Event>> ThinnedEvents(const std::string& job, int type,
                                                             int64_t first_step, int64_t last_step,
                                                             int limit, int64_t* total) = 0;
    // The last event, or the last of a type where it is not negative.
    virtual absl::StatusOr<std::optional<Event>> LastEvent(const std::string& job, int type) = 0;
    // Newest first.
    virtual absl::StatusOr<std::vector<CheckpointRow>> Checkpoints(const std::string& job) = 0;
    virtual absl::StatusOr<std::optional<AnsweredRequest>> FindRequest(const std::string& id) = 0;
    // True where a resource or a checkpoint has this blob.
    virtual absl::StatusOr<bool> UsesBlob(const std::string& digest) = 0;
    // All digests that a resource or a checkpoint has.
    virtual absl::StatusOr<std::set<std::string>> UsedBlobs() = 0;
  };

  class Transaction : public Snapshot {
   public:
    // Makes or replaces; a resource keeps its serial number.
    virtual absl::Status Put(const Resource& resource) = 0;
    // With events and checkpoints.
    virtual absl::Status Delete(Kind kind, const std::string& id) = 0;
    virtual absl::Status AppendEvent(const std::string& job, const Event& event) = 0;
    virtual absl::Status PutCheckpoint(const std::string& job, const CheckpointRow& row) = 0;
    virtual absl::Status DeleteCheckpoint(const std::string& job, int64_t step) = 0;
    virtual absl::Status PutRequest(const std::string& id, const AnsweredRequest& answered) = 0;
    // All but the newest `count` of those that were answered after `since`, in Unix seconds.
    virtual absl::Status ForgetRequests(int64_t since, int64_t count) = 0;
  };

  virtual ~Store() = default;
  // All that `fn` writes, or nothing where it fails.
  virtual absl::Status Write(absl::FunctionRef<absl::Status(Transaction&)> fn) = 0;
  virtual absl::Status Read(absl::FunctionRef<absl::Status(Snapshot&)> fn) = 0;
};

// Deletes a blob, unless something in the store has it. Not with a BlobStore::Hold.
absl::Status DeleteUnused(Store& store, BlobStore& blobs, const std::string& digest);
// Deletes the blobs that nothing in the store has: left by a process that died, or a disk that
// failed, between writing a blob and writing down whose it is, or between forgetting and deleting
// it. Not with a Hold. Cost: a look at every blob's name; for the start of a server.
absl::Status DeleteOrphans(Store& store, BlobStore& blobs);

// A SQLite database: WAL, synchronous=FULL. An empty path keeps everything in memory.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path);

}  // namespace gradwire::store

#endif  // GRADWIRE_SERVER_STORE_STORE_H_
