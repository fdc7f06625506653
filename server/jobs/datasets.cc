#include "server/jobs/datasets.h"

#include <zlib.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/records.h"
#include "server/store/once.h"
#include "server/store/page.h"

namespace gradwire::jobs {
namespace {

using store::Kind;
using store::Resource;
using store::Store;

constexpr size_t kMaxColumns = 1024;
constexpr size_t kMaxNameBytes = 256;

absl::StatusOr<v1::Dataset> DatasetOf(const Resource& resource) {
  v1::Dataset dataset;
  if (dataset.ParseFromString(resource.bytes)) return dataset;
  return Error(Reason::kCorruptData,
               absl::StrCat("the record of ", kDatasetPrefix, resource.id, " does not parse"));
}

absl::StatusOr<std::pair<Resource, v1::Dataset>> Find(Store::Snapshot& snapshot,
                                                      const std::string& id) {
  GW_ASSIGN_OR_RETURN(auto resource, snapshot.Get(Kind::kDataset, id));
  if (!resource) return NotFound(absl::StrCat(kDatasetPrefix, id));
  GW_ASSIGN_OR_RETURN(v1::Dataset dataset, DatasetOf(*resource));
  return std::pair{*std::move(resource), std::move(dataset)};
}

absl::StatusOr<TensorType> RowType(const v1::Column& column) {
  const DType dtype = DTypeFromOnnx(column.data_type());
  if (dtype == DType::kUndefined) {
    return Error(Reason::kDtypeUnsupported, "data_type: expected one of DataType");
  }
  GW_ASSIGN_OR_RETURN(
      Shape shape, Shape::Make(std::vector<int64_t>(column.shape().begin(), column.shape().end())));
  if (shape.rank() >= Shape::kMaxRank) {
    return Error(Reason::kInvalidTensor, "shape: one dimension less is allowed, for the rows");
  }
  return TensorType{dtype, std::move(shape)};
}

absl::Status CheckNew(const v1::CreateDatasetRequest& request) {
  const v1::Dataset& dataset = request.dataset();
  Problems problems;
  if (request.has_ttl() && codec::DurationOf(request.ttl()) <= absl::ZeroDuration()) {
    problems.Add(Reason::kInvalidSpec, "ttl", "expected a positive duration");
  }
  if (dataset.display_name().size() > kMaxNameBytes) {
    problems.Add(Reason::kInvalidSpec, "dataset.display_name",
                 absl::StrCat("got ", dataset.display_name().size(), " bytes, expected at most ",
                              kMaxNameBytes));
  }
  if (dataset.columns().empty() || dataset.columns_size() > static_cast<int>(kMaxColumns)) {
    problems.Add(Reason::kInvalidSpec, "dataset.columns",
                 absl::StrCat("got ", dataset.columns_size(), ", expected 1 to ", kMaxColumns));
  }
  std::set<std::string> names;
  for (int i = 0; i < dataset.columns_size(); ++i) {
    const v1::Column& column = dataset.columns(i);
    const std::string where = absl::StrCat("dataset.columns[", i, "]");
    if (column.name().empty() || column.name().size() > kMaxNameBytes) {
      problems.Add(Reason::kInvalidSpec, where,
                   absl::StrCat("name: expected 1 to ", kMaxNameBytes, " bytes"));
    } else if (!names.insert(column.name()).second) {
      problems.Add(Reason::kInvalidSpec, where,
                   absl::StrCat("name: a second column \"", column.name(), "\""));
    }
    const auto type = RowType(column);
    if (!type.ok()) {
      problems.Add(type.status(), where);
    } else if (type->bytes() == 0) {
      problems.Add(Reason::kInvalidSpec, where, "shape: a row has no elements");
    }
  }
  return problems.ToStatus();
}

int ColumnIndex(const v1::Dataset& dataset, const std::string& name) {
  for (int i = 0; i < dataset.columns_size(); ++i) {
    if (dataset.columns(i).name() == name) return i;
  }
  return -1;
}

std::string ContentHash(const v1::Dataset& dataset) {
  std::string text;
  for (const v1::Column& column : dataset.columns()) {
    absl::StrAppend(&text, column.name().size(), ":", column.name(), " ", column.data_type(), " [");
    for (int64_t extent : column.shape()) absl::StrAppend(&text, extent, ",");
    absl::StrAppend(&text, "] ", column.sha256(), "\n");
  }
  return store::BlobDigest(text);
}

}  // namespace

const SealedColumn* SealedDataset::Find(absl::string_view column) const {
  for (const SealedColumn& c : columns) {
    if (c.name == column) return &c;
  }
  return nullptr;
}

class Datasets::Upload {
 public:
  static absl::StatusOr<std::unique_ptr<Upload>> Open(const std::string& path) {
    auto upload = std::make_unique<Upload>();
    if (path.empty()) return upload;
    upload->path_ = path;
    GW_ASSIGN_OR_RETURN(upload->file_, store::WritableFile::Open(path));
    GW_ASSIGN_OR_RETURN(upload->size_, upload->file_->Size());
    upload->synced_ = upload->size_;
    return upload;
  }
  int64_t size() const { return file_ ? size_ : static_cast<int64_t>(memory_.size()); }
  const std::string& memory() const { return memory_; }

  absl::Status Append(absl::string_view bytes) {
    if (!file_) {
      memory_.append(bytes.data(), bytes.size());
      return absl::OkStatus();
    }
    GW_RETURN_IF_ERROR(file_->WriteAt(size_, bytes));
    size_ += static_cast<int64_t>(bytes.size());
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Equals(int64_t offset, absl::string_view bytes) const {
    if (!file_) return absl::string_view(memory_).substr(offset, bytes.size()) == bytes;
    GW_ASSIGN_OR_RETURN(const std::string have,
                        file_->ReadAt(offset, static_cast<int64_t>(bytes.size())));
    return have == bytes;
  }
  absl::Status Sync() {
    if (!file_ || synced_ == size_) return absl::OkStatus();
    const absl::Status status = file_->Sync();
    sound_ = status.ok();
    if (sound_) synced_ = size_;
    return status;
  }
  // After a Sync that failed: back to what the one before has kept, the rest is lost.
  absl::Status Repair() {
    if (sound_) return absl::OkStatus();
    GW_ASSIGN_OR_RETURN(file_, store::WritableFile::Open(path_));
    GW_RETURN_IF_ERROR(file_->Truncate(synced_));
    GW_RETURN_IF_ERROR(file_->Sync());
    size_ = synced_;
    sound_ = true;
    return absl::OkStatus();
  }

 private:
  std::string path_;
  std::unique_ptr<store::WritableFile> file_;
  int64_t size_ = 0;
  int64_t synced_ = 0;
  bool sound_ = true;
  std::string memory_;
};

std::string Datasets::UploadPath(const std::string& id, size_t column) const {
  return uploads_dir_.empty() ? "" : absl::StrCat(uploads_dir_, "/", id, "-", column);
}

std::shared_ptr<Datasets::Uploads> Datasets::UploadsOf(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  auto& uploads = uploads_[id];
  if (uploads == nullptr) uploads = std::make_shared<Uploads>();
  return uploads;
}

absl::StatusOr<Datasets::Upload*> Datasets::OpenUpload(const std::string& id,
                                                       const v1::Dataset& dataset,
                                                       const std::string& column,
                                                       Uploads& uploads) {
  auto& upload = uploads.columns[column];
  if (upload == nullptr) {
    if (!uploads_dir_.empty()) GW_RETURN_IF_ERROR(store::MakeDirectories(uploads_dir_));
    const auto index = static_cast<size_t>(ColumnIndex(dataset, column));
    absl::StatusOr<std::unique_ptr<Upload>> opened = Upload::Open(UploadPath(id, index));
    if (!opened.ok()) {
      uploads.columns.erase(column);
      return opened.status();
    }
    upload = *std::move(opened);
  }
  GW_RETURN_IF_ERROR(upload->Repair());
  return upload.get();
}

absl::Status Datasets::Create(const v1::CreateDatasetRequest& request, v1::Dataset* response) {
  GW_RETURN_IF_ERROR(CheckNew(request));
  return store::Once(store_, "CreateDataset", request, response,
                     [&](Store::Transaction& t) -> absl::Status {
                       const std::string id = NewId();
                       response->Clear();
                       response->set_name(absl::StrCat(kDatasetPrefix, id));
                       response->set_display_name(request.dataset().display_name());
                       response->set_state(v1::Dataset::UPLOADING);
                       for (const v1::Column& column : request.dataset().columns()) {
                         v1::Column* to = response->add_columns();
                         to->set_name(column.name());
                         to->set_data_type(column.data_type());
                         *to->mutable_shape() = column.shape();
                       }
                       const absl::Time now = absl::Now();
                       *response->mutable_create_time() = codec::ToProto(now);
                       int64_t expires = 0;
                       if (request.has_ttl()) {
                         const absl::Time end = now + codec::DurationOf(request.ttl());
                         *response->mutable_expire_time() = codec::ToProto(end);
                         expires = absl::ToUnixSeconds(end);
                       }
                       return t.Put({.kind = Kind::kDataset,
                                     .id = id,
                                     .state = response->state(),
                                     .expires = expires,
                                     .bytes = response->SerializeAsString(),
                                     .blobs = {}});
                     });
}

absl::Status Datasets::Append(const std::string& id, const v1::AppendDatasetRequest& chunk) {
  v1::Dataset dataset;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(auto found, Find(snapshot, id));
    dataset = std::move(found.second);
    return absl::OkStatus();
  }));
  const absl::Status closed =
      Error(Reason::kWrongState, absl::StrCat(dataset.name(), " is sealed: it cannot change"));
  if (dataset.state() != v1::Dataset::UPLOADING) return closed;
  if (ColumnIndex(dataset, chunk.column()) < 0) {
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("column: there is no column \"", chunk.column().substr(0, 80), "\""));
  }
  const auto crc = static_cast<uint32_t>(
      crc32(0, reinterpret_cast<const Bytef*>(chunk.data().data()), chunk.data().size()));
  if (crc != chunk.crc32()) {
    return Error(Reason::kDigestMismatch,
                 absl::StrCat("crc32: got ", chunk.crc32(), ", the data have ", crc));
  }
  const std::shared_ptr<Uploads> uploads = UploadsOf(id);
  absl::MutexLock lock(&uploads->mutex);
  if (uploads->closed) return closed;
  GW_ASSIGN_OR_RETURN(Upload * upload, OpenUpload(id, dataset, chunk.column(), *uploads));
  if (chunk.offset() < 0 || chunk.offset() > upload->size()) {
    return Error(Reason::kChunkOutOfRange,
                 absl::StrCat("offset: got ", chunk.offset(), ", expected ", upload->size()));
  }
  absl::string_view bytes = chunk.data();
  const auto again = std::min<int64_t>(upload->size() - chunk.offset(), bytes.size());
  if (again > 0) {
    GW_ASSIGN_OR_RETURN(const bool same, upload->Equals(chunk.offset(), bytes.substr(0, again)));
    if (!same) {
      return Error(Reason::kDigestMismatch, absl::StrCat("data: bytes from ", chunk.offset(),
                                                         " on were received before and differ"));
    }
    bytes.remove_prefix(static_cast<size_t>(again));
  }
  if (uploads_dir_.empty() && !bytes.empty()) {
    GW_ASSIGN_OR_RETURN(auto reserved, reserve_memory_(static_cast<int64_t>(bytes.size())));
    uploads->reserved.push_back(std::move(reserved));
  }
  return upload->Append(bytes);
}

absl::Status Datasets::Sync(const std::string& id) {
  const std::shared_ptr<Uploads> uploads = UploadsOf(id);
  absl::MutexLock lock(&uploads->mutex);
  for (const auto& [name, upload] : uploads->columns) GW_RETURN_IF_ERROR(upload->Sync());
  return absl::OkStatus();
}

absl::Status Datasets::FillReceived(const std::string& id, v1::Dataset* dataset) {
  if (dataset->state() != v1::Dataset::UPLOADING) return absl::OkStatus();
  const std::shared_ptr<Uploads> uploads = UploadsOf(id);
  absl::MutexLock lock(&uploads->mutex);
  if (uploads->closed) return absl::OkStatus();
  for (v1::Column& column : *dataset->mutable_columns()) {
    GW_ASSIGN_OR_RETURN(const Upload* upload, OpenUpload(id, *dataset, column.name(), *uploads));
    column.set_received_bytes(upload->size());
  }
  return absl::OkStatus();
}

absl::Status Datasets::SealColumns(const std::string& id, v1::Dataset* dataset, Uploads& uploads) {
  Problems problems;
  int64_t rows = -1;
  for (const v1::Column& column : dataset->columns()) {
    GW_ASSIGN_OR_RETURN(const Upload* upload, OpenUpload(id, *dataset, column.name(), uploads));
    GW_ASSIGN_OR_RETURN(const TensorType row, RowType(column));
    const int64_t count = upload->size() / row.bytes();
    if (upload->size() % row.bytes() != 0) {
      problems.Add(Reason::kShapeMismatch, column.name(),
                   absl::StrCat("has ", upload->size(), " bytes, no multiple of the ", row.bytes(),
                                " of a row"));
    } else if (rows >= 0 && count != rows) {
      problems.Add(Reason::kShapeMismatch, column.name(),
                   absl::StrCat("has ", count, " rows, the columns before it ", rows));
    } else {
      rows = count;
    }
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  for (int i = 0; i < dataset->columns_size(); ++i) {
    v1::Column& column = *dataset->mutable_columns(i);
    GW_ASSIGN_OR_RETURN(const Upload* upload, OpenUpload(id, *dataset, column.name(), uploads));
    column.set_received_bytes(upload->size());
    absl::StatusOr<std::string> digest = uploads_dir_.empty()
                                             ? blobs_.Put(upload->memory())
                                             : blobs_.Adopt(UploadPath(id, static_cast<size_t>(i)));
    GW_RETURN_IF_ERROR(digest.status());
    column.set_sha256(*std::move(digest));
  }
  dataset->set_rows(rows);
  dataset->set_content_hash(ContentHash(*dataset));
  dataset->set_state(v1::Dataset::SEALED);
  return absl::OkStatus();
}

absl::Status Datasets::Seal(const v1::SealDatasetRequest& request, v1::Dataset* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kDatasetPrefix));
  bool answered = false;
  v1::Dataset sealed;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(answered, store::FindAnswer(s, "SealDataset", request, response));
    if (answered) return absl::OkStatus();
    GW_ASSIGN_OR_RETURN(auto found, Find(s, id));
    sealed = std::move(found.second);
    return absl::OkStatus();
  }));
  if (answered) return absl::OkStatus();
  const std::shared_ptr<Uploads> uploads = UploadsOf(id);
  absl::MutexLock lock(&uploads->mutex);
  absl::Status status;
  {
    // The columns are hashed before the store is locked.
    const store::BlobStore::Hold hold(&blobs_);
    if (sealed.state() == v1::Dataset::UPLOADING && !uploads->closed) {
      status = SealColumns(id, &sealed, *uploads);
    }
    if (status.ok()) status = StoreSealed(request, sealed, id, response);
  }
  if (!status.ok()) {
    // A blob here is a second name of a file that may go on growing.
    for (const v1::Column& column : sealed.columns()) {
      if (!column.sha256().empty()) {
        store::DeleteUnused(store_, blobs_, column.sha256()).IgnoreError();
      }
    }
    return status;
  }
  uploads->closed = true;
  uploads->columns.clear();
  RemoveUploads(sealed);
  return absl::OkStatus();
}

absl::Status Datasets::StoreSealed(const v1::SealDatasetRequest& request, const v1::Dataset& sealed,
                                   const std::string& id, v1::Dataset* response) {
  return store::Once(
      store_, "SealDataset", request, response, [&](Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(auto found, Find(t, id));
        auto& [resource, dataset] = found;
        // Another call may have sealed it meanwhile.
        if (dataset.state() == v1::Dataset::UPLOADING) dataset = sealed;
        if (!request.content_hash().empty() && request.content_hash() != dataset.content_hash()) {
          return Error(Reason::kDigestMismatch,
                       absl::StrCat("content_hash: got ", request.content_hash().substr(0, 80),
                                    ", the data set has ", dataset.content_hash()));
        }
        resource.state = dataset.state();
        resource.bytes = dataset.SerializeAsString();
        resource.blobs.clear();
        for (const v1::Column& column : dataset.columns()) {
          resource.blobs.push_back(column.sha256());
        }
        *response = dataset;
        return t.Put(resource);
      });
}

absl::StatusOr<v1::Dataset> Datasets::Get(const std::string& id) {
  v1::Dataset dataset;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(auto found, Find(snapshot, id));
    dataset = std::move(found.second);
    return absl::OkStatus();
  }));
  GW_RETURN_IF_ERROR(FillReceived(id, &dataset));
  return dataset;
}

absl::Status Datasets::List(const v1::ListDatasetsRequest& request,
                            v1::ListDatasetsResponse* response) {
  GW_ASSIGN_OR_RETURN(const store::Page page,
                      store::PageOf(request.page_size(), request.page_token()));
  return store_.Read([&](Store::Snapshot& snapshot) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const auto rows, snapshot.List(Kind::kDataset, page.before, page.size, {}));
    for (const Resource& row : rows) {
      GW_ASSIGN_OR_RETURN(*response->add_datasets(), DatasetOf(row));
    }
    response->set_next_page_token(store::NextPageToken(page, rows));
    return absl::OkStatus();
  });
}

absl::Status Datasets::Delete(const v1::DeleteDatasetRequest& request,
                              google::protobuf::Empty* response) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(request.name(), kDatasetPrefix));
  std::optional<v1::Dataset> deleted;
  GW_RETURN_IF_ERROR(store::Once(
      store_, "DeleteDataset", request, response, [&](Store::Transaction& t) -> absl::Status {
        GW_ASSIGN_OR_RETURN(auto found, Find(t, id));
        GW_ASSIGN_OR_RETURN(const std::string user, UserOfDataset(t, request.name()));
        if (!user.empty()) {
          return Error(Reason::kWrongState,
                       absl::StrCat(request.name(), ": ", user,
                                    " has not ended and reads it; cancel that job first"));
        }
        deleted = std::move(found.second);
        return t.Delete(Kind::kDataset, id);
      }));
  if (deleted) Discard(*deleted);
  return absl::OkStatus();
}

absl::Status Datasets::DeleteExpired(int64_t now) {
  std::vector<Resource> rows;
  GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& s) -> absl::Status {
    GW_ASSIGN_OR_RETURN(rows, s.Expired(Kind::kDataset, now));
    return absl::OkStatus();
  }));
  for (const Resource& row : rows) {
    std::optional<v1::Dataset> deleted;
    GW_RETURN_IF_ERROR(store_.Write([&](Store::Transaction& t) -> absl::Status {
      GW_ASSIGN_OR_RETURN(const std::string user,
                          UserOfDataset(t, absl::StrCat(kDatasetPrefix, row.id)));
      if (!user.empty()) return absl::OkStatus();
      GW_ASSIGN_OR_RETURN(auto found, Find(t, row.id));
      deleted = std::move(found.second);
      return t.Delete(Kind::kDataset, row.id);
    }));
    if (deleted) Discard(*deleted);
  }
  return absl::OkStatus();
}

void Datasets::RemoveUploads(const v1::Dataset& dataset) {
  if (uploads_dir_.empty()) return;
  const std::string id = dataset.name().substr(sizeof(kDatasetPrefix) - 1);
  for (int i = 0; i < dataset.columns_size(); ++i) {
    store::RemoveFile(UploadPath(id, static_cast<size_t>(i))).IgnoreError();
  }
}

void Datasets::Discard(const v1::Dataset& dataset) {
  const std::string id = dataset.name().substr(sizeof(kDatasetPrefix) - 1);
  {
    const std::shared_ptr<Uploads> uploads = UploadsOf(id);
    absl::MutexLock lock(&uploads->mutex);
    uploads->closed = true;
    uploads->columns.clear();
  }
  {
    absl::MutexLock lock(&mutex_);
    uploads_.erase(id);
  }
  for (const v1::Column& column : dataset.columns()) {
    if (dataset.state() == v1::Dataset::SEALED) {
      store::DeleteUnused(store_, blobs_, column.sha256()).IgnoreError();
    }
  }
  if (dataset.state() != v1::Dataset::SEALED) RemoveUploads(dataset);
}

absl::Status Datasets::DeleteOldUploads() {
  if (uploads_dir_.empty()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const bool any, store::FileExists(uploads_dir_));
  if (!any) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> names, store::ListDirectory(uploads_dir_));
  for (const std::string& name : names) {
    const std::string id = name.substr(0, name.find('-'));
    std::optional<Resource> owner;
    GW_RETURN_IF_ERROR(store_.Read([&](Store::Snapshot& s) -> absl::Status {
      GW_ASSIGN_OR_RETURN(owner, s.Get(Kind::kDataset, id));
      return absl::OkStatus();
    }));
    if (owner && owner->state == v1::Dataset::UPLOADING) continue;
    GW_RETURN_IF_ERROR(store::RemoveFile(absl::StrCat(uploads_dir_, "/", name)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const SealedDataset>> Datasets::Open(const std::string& name) {
  GW_ASSIGN_OR_RETURN(const std::string id, IdOf(name, kDatasetPrefix));
  GW_ASSIGN_OR_RETURN(const v1::Dataset dataset, Get(id));
  if (dataset.state() != v1::Dataset::SEALED) {
    return Error(Reason::kWrongState, absl::StrCat(name,
                                                   " is not sealed yet; SealDataset ends its "
                                                   "upload"));
  }
  auto out = std::make_shared<SealedDataset>();
  out->name = name;
  out->content_hash = dataset.content_hash();
  out->rows = dataset.rows();
  for (const v1::Column& column : dataset.columns()) {
    GW_ASSIGN_OR_RETURN(auto blob, blobs_.Get(column.sha256()));
    GW_ASSIGN_OR_RETURN(TensorType row, RowType(column));
    const char* data = blob->bytes().data();
    out->columns.push_back({column.name(), {std::move(row), data}, std::move(blob)});
  }
  return out;
}

}  // namespace gradwire::jobs
