// File: datasets.h
//
// Datasets: named columns of equal numbers of rows, uploaded in pieces, sealed, then read in place
// by training jobs. dataset_service.proto says what each call means.
//
//   GW_RETURN_IF_ERROR(datasets.Create(request, &dataset));
//   GW_RETURN_IF_ERROR(datasets.Append(id, chunk));              // ... as often as it takes
//   GW_RETURN_IF_ERROR(datasets.Seal(request, &dataset));
//   GW_ASSIGN_OR_RETURN(std::shared_ptr<const SealedDataset> data, datasets.Open("datasets/3f2c"));
//   data->columns[0].data;  data->rows;
//
// While it is uploaded, a column is a file in the data directory's `uploads`; sealed, it is a blob.
// Without a data directory both are in memory. Thread-safety: every method may be called from any
// thread.
#ifndef GRADWIRE_SERVER_JOBS_DATASETS_H_
#define GRADWIRE_SERVER_JOBS_DATASETS_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/empty.pb.h"
#include "gradwire/v1/dataset_service.pb.h"
#include "server/jobs/batches.h"
#include "server/store/blob_store.h"
#include "server/store/file_system.h"
#include "server/store/store.h"

namespace gradwire::jobs {

// A share of memory, taken before it is allocated and given back with the result.
using ReserveMemory = std::function<absl::StatusOr<std::shared_ptr<void>>(int64_t bytes)>;

struct SealedColumn {
  std::string name;
  ColumnView view;
  std::shared_ptr<const store::Blob> blob;  // holds the view's bytes
};

struct SealedDataset {
  std::string name;
  std::string content_hash;
  int64_t rows = 0;
  std::vector<SealedColumn> columns;
  // Null where there is none.
  const SealedColumn* Find(absl::string_view column) const;
};

class Datasets {
 public:
  // `uploads_dir` empty: in memory, of which every byte is reserved. The others outlive the object.
  Datasets(store::Store* store, store::BlobStore* blobs, std::string uploads_dir,
           ReserveMemory reserve_memory)
      : store_(*store),
        blobs_(*blobs),
        uploads_dir_(std::move(uploads_dir)),
        reserve_memory_(std::move(reserve_memory)) {}

  absl::Status Create(const v1::CreateDatasetRequest& request, v1::Dataset* response);
  absl::Status Append(const std::string& id, const v1::AppendDatasetRequest& chunk);
  // What was appended is on disk when it returns.
  absl::Status Sync(const std::string& id);
  absl::Status Seal(const v1::SealDatasetRequest& request, v1::Dataset* response);
  absl::StatusOr<v1::Dataset> Get(const std::string& id);
  absl::Status List(const v1::ListDatasetsRequest& request, v1::ListDatasetsResponse* response);
  absl::Status Delete(const v1::DeleteDatasetRequest& request, google::protobuf::Empty* response);
  // Those whose time has passed, `now` in Unix seconds, and that no job needs which has not ended.
  absl::Status DeleteExpired(int64_t now);
  // Removes what deleted and sealed data sets have left of their uploads. Before the first call.
  absl::Status DeleteOldUploads();

  // Errors: NOT_FOUND; WRONG_STATE where it is not sealed; CORRUPT_DATA.
  absl::StatusOr<std::shared_ptr<const SealedDataset>> Open(const std::string& name);

 private:
  // The bytes of a column so far.
  class Upload;
  // Uploads of one data set, one call at a time.
  struct Uploads {
    absl::Mutex mutex;
    bool closed ABSL_GUARDED_BY(mutex) = false;  // sealed or deleted
    std::map<std::string, std::unique_ptr<Upload>> columns ABSL_GUARDED_BY(mutex);
    // Of what is in memory: kept until the data set is deleted.
    std::vector<std::shared_ptr<void>> reserved ABSL_GUARDED_BY(mutex);
  };
  std::shared_ptr<Uploads> UploadsOf(const std::string& id);
  absl::StatusOr<Upload*> OpenUpload(const std::string& id, const v1::Dataset& dataset,
                                     const std::string& column, Uploads& uploads)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(uploads.mutex);
  absl::Status FillReceived(const std::string& id, v1::Dataset* dataset);
  absl::Status SealColumns(const std::string& id, v1::Dataset* dataset, Uploads& uploads)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(uploads.mutex);
  absl::Status StoreSealed(const v1::SealDatasetRequest& request, const v1::Dataset& sealed,
                           const std::string& id, v1::Dataset* response);
  std::string UploadPath(const std::string& id, size_t column) const;
  void RemoveUploads(const v1::Dataset& dataset);
  // What a data set that is deleted had. What cannot be removed now is at the next start.
  void Discard(const v1::Dataset& dataset);

  store::Store& store_;
  store::BlobStore& blobs_;
  const std::string uploads_dir_;
  const ReserveMemory reserve_memory_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<Uploads>> uploads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_DATASETS_H_
