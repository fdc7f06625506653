#include "server/jobs/batches.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "engine/base/philox.h"

namespace gradwire::jobs {
namespace {

// Below this a batch is gathered in less time than it takes to wake a thread.
constexpr int64_t kAheadBytes = 256 << 10;
// Keeps shuffles apart from what else is drawn with a job's seed.
constexpr uint32_t kShuffleStream = 0x5348464C;

uint64_t RandomBelow(uint64_t key, uint64_t counter, uint64_t bound) {
  const PhiloxBlock words = Philox(
      {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), kShuffleStream, 0},
      key);
  const uint64_t random = uint64_t{words[0]} << 32 | words[1];
  return static_cast<uint64_t>((static_cast<unsigned __int128>(random) * bound) >> 64);
}

int64_t RowBytes(const std::vector<ColumnView>& columns) {
  int64_t bytes = 0;
  for (const ColumnView& column : columns) bytes += column.row.bytes();
  return bytes;
}

}  // namespace

TensorType WithRows(const TensorType& row, int64_t rows) {
  Dims dims = {rows};
  dims.insert(dims.end(), row.shape.dims().begin(), row.shape.dims().end());
  return {row.dtype, Shape(std::move(dims))};
}

BatchOrder::BatchOrder(const BatchOrderOptions& options)
    : options_(options),
      batches_(options.drop_last ? options.rows / options.batch_size
                                 : (options.rows + options.batch_size - 1) / options.batch_size) {}

int64_t BatchOrder::BatchRows(int64_t index) const {
  return std::min(options_.batch_size, options_.rows - index * options_.batch_size);
}

BatchPlace BatchOrder::Next(BatchPlace place) const {
  return place.index + 1 < batches_ ? BatchPlace{place.epoch, place.index + 1}
                                    : BatchPlace{place.epoch + 1, 0};
}

BatchPlace BatchOrder::NextStep(BatchPlace place, int64_t batches) const {
  return place.index + batches < batches_ ? BatchPlace{place.epoch, place.index + batches}
                                          : BatchPlace{place.epoch + 1, place.index % batches};
}

void BatchOrder::Shuffle(int64_t epoch) {
  permutation_.resize(static_cast<size_t>(options_.rows));
  std::iota(permutation_.begin(), permutation_.end(), 0);
  const uint64_t key = Mix(Mix(options_.seed) + static_cast<uint64_t>(epoch));
  for (auto i = static_cast<uint64_t>(options_.rows); i > 1; --i) {
    std::swap(permutation_[i - 1], permutation_[RandomBelow(key, i, i)]);
  }
  shuffled_epoch_ = epoch;
}

void BatchOrder::Rows(BatchPlace place, std::vector<int64_t>* out) {
  const int64_t first = place.index * options_.batch_size;
  out->resize(static_cast<size_t>(BatchRows(place.index)));
  if (!options_.shuffle) {
    std::iota(out->begin(), out->end(), first);
    return;
  }
  if (shuffled_epoch_ != place.epoch) Shuffle(place.epoch);
  std::copy_n(permutation_.begin() + first, out->size(), out->begin());
}

BatchReader::BatchReader(std::vector<ColumnView> columns, const BatchOrderOptions& order,
                         int64_t batches)
    : columns_(std::move(columns)),
      batches_(batches),
      ahead_(RowBytes(columns_) * order.batch_size >= kAheadBytes),
      order_(order) {
  for (Batch* batch : {&current_, &next_}) batch->place = {-1, -1};
  if (ahead_) thread_ = std::thread([this] { Prefetch(); });
}

BatchReader::~BatchReader() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

int64_t BatchReader::bytes() const {
  const int64_t batch = RowBytes(columns_) * order_.options().batch_size;
  return order_.bytes() + (ahead_ ? 2 : 1) * batch;
}

void BatchReader::Gather(BatchPlace place, Batch* out) {
  order_.Rows(place, &rows_);
  const auto count = static_cast<int64_t>(rows_.size());
  if (out->rows != count || out->tensors.size() != columns_.size()) {
    out->tensors.clear();
    for (const ColumnView& c : columns_) out->tensors.emplace_back(WithRows(c.row, count));
  }
  for (size_t c = 0; c < columns_.size(); ++c) {
    const auto bytes = static_cast<size_t>(columns_[c].row.bytes());
    if (bytes == 0) continue;
    char* to = static_cast<char*>(out->tensors[c].mutable_raw());
    for (int64_t row : rows_) {
      std::memcpy(to, columns_[c].data + static_cast<size_t>(row) * bytes, bytes);
      to += bytes;
    }
  }
  out->place = place;
  out->rows = count;
}

void BatchReader::Prefetch() {
  while (true) {
    BatchPlace place;
    {
      absl::MutexLock lock(&mutex_);
      const auto called = [this] {
        mutex_.AssertHeld();
        return wanted_ || stopping_;
      };
      mutex_.Await(absl::Condition(&called));
      if (stopping_) return;
      place = wanted_place_;
    }
    Gather(place, &next_);
    absl::MutexLock lock(&mutex_);
    wanted_ = false;
  }
}

const Batch& BatchReader::Read(BatchPlace place) {
  if (!ahead_) {
    if (current_.place != place) Gather(place, &current_);
    return current_;
  }
  absl::MutexLock lock(&mutex_);
  const auto idle = [this] {
    mutex_.AssertHeld();
    return !wanted_;
  };
  mutex_.Await(absl::Condition(&idle));
  if (next_.place == place) {
    std::swap(current_, next_);
  } else if (current_.place != place) {
    Gather(place, &current_);
  }
  wanted_place_ = order_.NextStep(place, batches_);
  wanted_ = wanted_place_.index < order_.batches_per_epoch();
  return current_;
}

}  // namespace gradwire::jobs
