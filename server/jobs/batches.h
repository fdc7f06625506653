// File: batches.h
//
// Which rows a training job takes next, and those rows as tensors.
//
//   BatchOrder    the rows of each batch of each epoch: a pure function of (seed, epoch, batch), so
//                 that a job that was interrupted goes on with the rows it would have had
//   BatchReader   gathers the rows of the columns into buffers; the next batch is prepared by a
//                 thread of its own while the current one is used
//
//   BatchOrder order({.rows = 1797, .batch_size = 64, .shuffle = true, .seed = 7});
//   BatchReader reader(columns, order);
//   const Batch& batch = reader.Read({.epoch = 0, .index = 3});
//   batch.rows; batch.tensors[c];     // until the next Read
//
// The data set is never copied: columns are read in place, memory-mapped. Thread-safety: an object
// belongs to one thread.
#ifndef GRADWIRE_SERVER_JOBS_BATCHES_H_
#define GRADWIRE_SERVER_JOBS_BATCHES_H_

#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/tensor/tensor.h"

namespace gradwire::jobs {

struct BatchOrderOptions {
  int64_t rows = 0;
  int64_t batch_size = 1;
  bool shuffle = false;
  bool drop_last = false;
  uint64_t seed = 0;
};

struct BatchPlace {
  int64_t epoch = 0;
  int64_t index = 0;  // within the epoch
  bool operator==(const BatchPlace&) const = default;
};

class BatchOrder {
 public:
  explicit BatchOrder(const BatchOrderOptions& options);

  const BatchOrderOptions& options() const { return options_; }
  int64_t batches_per_epoch() const { return batches_; }
  // Rows of the batch, the last of an epoch may have fewer. A new epoch is shuffled here, in time
  // linear in the rows.
  int64_t BatchRows(int64_t index) const;
  void Rows(BatchPlace place, std::vector<int64_t>* out);
  BatchPlace Next(BatchPlace place) const;
  // The place of the same batch of the next step, where a step takes `batches` of them and never
  // crosses an epoch.
  BatchPlace NextStep(BatchPlace place, int64_t batches) const;
  // What the order holds in memory.
  int64_t bytes() const { return options_.shuffle ? options_.rows * 8 : 0; }

 private:
  void Shuffle(int64_t epoch);

  const BatchOrderOptions options_;
  const int64_t batches_;
  int64_t shuffled_epoch_ = -1;
  std::vector<int64_t> permutation_;
};

// A column in place: `rows` tensors of type `row`, one after another.
struct ColumnView {
  TensorType row;
  const char* data = nullptr;
};

struct Batch {
  BatchPlace place;
  int64_t rows = 0;
  std::vector<Tensor> tensors;  // by column: [rows, row...]
};

// `rows` of them in one tensor.
TensorType WithRows(const TensorType& row, int64_t rows);

class BatchReader {
 public:
  // The columns' memory must outlive the reader. It reads one of every `batches` batches.
  BatchReader(std::vector<ColumnView> columns, const BatchOrderOptions& order, int64_t batches = 1);
  ~BatchReader();
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  const BatchOrder& order() const { return order_; }
  // Bytes of the buffers of a full batch, all that are kept.
  int64_t bytes() const;
  const Batch& Read(BatchPlace place);

 private:
  void Gather(BatchPlace place, Batch* out);
  void Prefetch();

  const std::vector<ColumnView> columns_;
  const int64_t batches_;
  const bool ahead_;  // small batches cost less than waking a thread
  BatchOrder order_;
  std::vector<int64_t> rows_;
  Batch current_;
  Batch next_;  // the prefetching thread's while wanted_ is set

  absl::Mutex mutex_;
  bool wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  BatchPlace wanted_place_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace gradwire::jobs

#endif  // GRADWIRE_SERVER_JOBS_BATCHES_H_
