// File: datasets.h
//
// DatasetClient: data sets on a server, to train on (training.h).
//
//   DatasetClient datasets(client);
//   absl::StatusOr<v1::Dataset> data = datasets.Import({{"x", images}, {"t", labels}});
//   if (!data.ok()) return data.status();
//   job.set_dataset(data->name());
//
// A data set is a few named columns. A column is a tensor whose first dimension counts the rows;
// all columns of one data set have the same number of them. v1.Dataset, in dataset_service.proto,
// is the message that all calls give.
//
// Uploads ride over restarts of the server: a broken one goes on from the bytes that the server
// has. What went up is compared by SHA-256 at the end.
//
// Errors: the server's, as in client.h; of local mistakes, SHAPE_MISMATCH and the like. Calls that
// change something carry a request_id of their own and are tried again while UNAVAILABLE.
//
// Thread-safety: all methods may be called from any thread. Copies share one connection.
#ifndef GRADWIRE_CLIENT_DATASETS_H_
#define GRADWIRE_CLIENT_DATASETS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "client/named_tensors.h"
#include "client/patience.h"
#include "gradwire/v1/dataset_service.pb.h"

namespace gradwire {

// Told how far an upload or a download is. After a broken connection `bytes_done` may go back.
using TransferProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

struct UploadOptions {
  Patience patience;
  TransferProgress progress;
};

struct ImportOptions {
  std::string display_name;
  // The server deletes it after this long.
  absl::Duration ttl = absl::InfiniteDuration();
  // Where a sealed data set of the same columns lies on the server already, that one is given,
  // unless it is to be deleted earlier.
  bool reuse = true;
  // Name of a data set whose upload broke off: it is gone on with instead of a new one.
  std::string resume;
  UploadOptions upload;
};

class DatasetClient {
 public:
  explicit DatasetClient(const Client& client) : connection_(client.connection()) {}

  // A sealed data set with these columns: Create, Append and Seal in one, riding over restarts. An
  // error after the creation names the data set, for `resume`.
  absl::StatusOr<v1::Dataset> Import(const NamedTensors& columns,
                                     const ImportOptions& options = {}) const;

  // An empty data set; `display_name` and `columns` of `dataset` are read.
  absl::StatusOr<v1::Dataset> Create(const v1::Dataset& dataset,
                                     absl::Duration deadline = kDeadline) const;
  // Uploads what the server does not have yet of `columns`.
  absl::StatusOr<v1::Dataset> Append(const std::string& name, const NamedTensors& columns,
                                     const UploadOptions& options = {}) const;
  absl::StatusOr<v1::Dataset> Seal(const std::string& name,
                                   absl::Duration deadline = kDeadline) const;

  absl::StatusOr<v1::Dataset> Get(const std::string& name,
                                  absl::Duration deadline = kDeadline) const;
  // All of them, newest first.
  absl::StatusOr<std::vector<v1::Dataset>> List(absl::Duration deadline = kDeadline) const;
  absl::Status Delete(const std::string& name, absl::Duration deadline = kDeadline) const;

 private:
  static constexpr absl::Duration kDeadline = absl::Seconds(60);

  std::shared_ptr<const Connection> connection_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_DATASETS_H_
