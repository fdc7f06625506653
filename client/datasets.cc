#include "client/datasets.h"

#include <openssl/evp.h>
#include <zlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/connection.h"
#include "engine/base/status.h"
#include "proto/codec/time_codec.h"

namespace gradwire {
namespace {

using Stub = v1::DatasetService::Stub;

constexpr int64_t kChunkBytes = int64_t{1} << 20;
constexpr int kPageSize = 1000;

std::string Sha256(const TensorView& tensor) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(tensor.raw(), static_cast<size_t>(tensor.bytes()), digest, &size, EVP_sha256(),
             nullptr);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), static_cast<size_t>(size)));
}

// The columns as the server is to have them once they are sealed.
absl::StatusOr<v1::Dataset> Describe(const NamedTensors& columns) {
  Problems problems;
  if (columns.empty()) problems.Add(Reason::kInvalidSpec, "columns", "there are none");
  v1::Dataset out;
  int64_t rows = -1;
  for (const auto& [name, tensor] : columns) {
    const std::string where = absl::StrCat("columns.", name);
    if (tensor.shape().rank() == 0) {
      problems.Add(Reason::kShapeMismatch, where, "got a scalar, expected one entry per row");
      continue;
    }
    if (rows < 0) rows = tensor.shape()[0];
    if (tensor.shape()[0] != rows) {
      problems.Add(Reason::kShapeMismatch, where,
                   absl::StrCat("got ", tensor.shape()[0], " rows, expected ", rows, " as in ",
                                columns.begin()->first));
      continue;
    }
    v1::Column* column = out.add_columns();
    column->set_name(name);
    column->set_data_type(static_cast<v1::DataType>(tensor.dtype()));
    for (int d = 1; d < tensor.shape().rank(); ++d) column->add_shape(tensor.shape()[d]);
    column->set_received_bytes(tensor.bytes());
    column->set_sha256(Sha256(tensor));
  }
  out.set_rows(std::max<int64_t>(rows, 0));
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

bool SameColumn(const v1::Column& a, const v1::Column& b) {
  return a.name() == b.name() && a.data_type() == b.data_type() && a.sha256() == b.sha256() &&
         std::equal(a.shape().begin(), a.shape().end(), b.shape().begin(), b.shape().end());
}

// Whatever their order.
bool SameData(const v1::Dataset& a, const v1::Dataset& b) {
  if (a.rows() != b.rows() || a.columns_size() != b.columns_size()) return false;
  return std::all_of(a.columns().begin(), a.columns().end(), [&b](const v1::Column& column) {
    return std::any_of(b.columns().begin(), b.columns().end(),
                       [&column](const v1::Column& other) { return SameColumn(column, other); });
  });
}

v1::CreateDatasetRequest CreateRequest(const v1::Dataset& dataset,
                                       absl::Duration ttl = absl::InfiniteDuration()) {
  v1::CreateDatasetRequest request;
  request.mutable_dataset()->set_display_name(dataset.display_name());
  for (const v1::Column& column : dataset.columns()) {
    v1::Column* to = request.mutable_dataset()->add_columns();
    to->set_name(column.name());
    to->set_data_type(column.data_type());
    *to->mutable_shape() = column.shape();
  }
  if (ttl != absl::InfiniteDuration()) *request.mutable_ttl() = codec::ToProto(ttl);
  request.set_request_id(NewRequestId());
  return request;
}

bool LivesUntil(const v1::Dataset& dataset, absl::Time end) {
  return !dataset.has_expire_time() || codec::TimeOf(dataset.expire_time()) >= end;
}

// Repeats a call while the server is away.
template <typename Request, typename Response>
absl::Status Persist(Stub& stub,
                     grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request, Backoff* backoff, Response* response) {
  while (true) {
    absl::Status status = Call(stub, method, request, backoff->time_left(), response);
    if (status.ok() || !backoff->WaitAfter(&status)) return status;
  }
}

int64_t BytesReceived(const v1::Dataset& dataset) {
  int64_t sum = 0;
  for (const v1::Column& column : dataset.columns()) sum += column.received_bytes();
  return sum;
}

// One stream of what is missing. Its reply goes into *dataset, which says what is there before.
class Upload {
 public:
  Upload(Stub& stub, const NamedTensors& columns, const TransferProgress& progress)
      : stub_(stub), columns_(columns), progress_(progress) {
    for (const auto& [name, tensor] : columns) total_ += tensor.bytes();
  }

  int64_t total() const { return total_; }

  absl::Status Send(absl::Time deadline, v1::Dataset* dataset) {
    grpc::ClientContext context;
    SetDeadline(deadline, &context);
    v1::Dataset reply;
    const auto stream = stub_.AppendDataset(&context, &reply);
    v1::AppendDatasetRequest chunk;
    chunk.set_name(dataset->name());
    int64_t done = BytesReceived(*dataset);
    bool open = true;
    for (const v1::Column& column : dataset->columns()) {
      const auto at = columns_.find(column.name());
      if (at == columns_.end()) continue;
      chunk.set_column(column.name());
      const Tensor& tensor = at->second;
      for (int64_t offset = column.received_bytes(); open && offset < tensor.bytes();
           offset += kChunkBytes) {
        FillChunk(tensor, offset, &chunk);
        open = stream->Write(chunk);
        chunk.clear_name();
        done += static_cast<int64_t>(chunk.data().size());
        if (open && progress_) progress_(done, total_);
      }
    }
    if (open) stream->WritesDone();
    GW_RETURN_IF_ERROR(ToStatus(stream->Finish()));
    *dataset = std::move(reply);
    return absl::OkStatus();
  }

 private:
  static void FillChunk(const Tensor& tensor, int64_t offset, v1::AppendDatasetRequest* chunk) {
    const auto size = static_cast<size_t>(std::min(kChunkBytes, tensor.bytes() - offset));
    const auto* bytes = static_cast<const unsigned char*>(tensor.raw()) + offset;
    chunk->set_offset(offset);
    chunk->set_data(bytes, size);
    chunk->set_crc32(static_cast<uint32_t>(crc32_z(0, bytes, size)));
  }

  Stub& stub_;
  const NamedTensors& columns_;
  const TransferProgress& progress_;
  int64_t total_ = 0;
};

// Of a data set that somebody else made.
absl::Status CheckColumns(const v1::Dataset& dataset, const NamedTensors& columns) {
  bool same = dataset.columns_size() == static_cast<int>(columns.size());
  for (const v1::Column& column : dataset.columns()) {
    const auto at = columns.find(column.name());
    if (at == columns.end()) {
      same = false;
      continue;
    }
    const TensorType& type = at->second.type();
    same &= static_cast<int>(type.dtype) == column.data_type() && type.shape.rank() > 0 &&
            std::equal(column.shape().begin(), column.shape().end(), type.shape.dims().begin() + 1,
                       type.shape.dims().end());
  }
  if (same) return absl::OkStatus();
  return Error(Reason::kInvalidSpec,
               absl::StrCat(dataset.name(), " has other columns than are to be uploaded"));
}

absl::StatusOr<v1::Dataset> AppendAll(Stub& stub, const std::string& name,
                                      const NamedTensors& columns, const TransferProgress& progress,
                                      Backoff* backoff) {
  Upload upload(stub, columns, progress);
  v1::GetDatasetRequest request;
  request.set_name(name);
  int64_t received = -1;
  while (true) {
    v1::Dataset dataset;
    GW_RETURN_IF_ERROR(Persist(stub, &Stub::GetDataset, request, backoff, &dataset));
    GW_RETURN_IF_ERROR(CheckColumns(dataset, columns));
    // A connection that breaks before a single chunk has arrived is no progress.
    if (BytesReceived(dataset) > received) backoff->NoteProgress();
    received = BytesReceived(dataset);
    if (progress) progress(received, upload.total());
    if (received >= upload.total()) return dataset;
    absl::Status status = upload.Send(backoff->deadline(), &dataset);
    if (status.ok()) return dataset;
    if (!backoff->WaitAfter(&status)) return status;
  }
}

absl::Status Named(const absl::Status& status, const std::string& name) {
  absl::Status out(
      status.code(),
      absl::StrCat("the upload of ", name, " broke off, and can be resumed: ", status.message()));
  status.ForEachPayload(
      [&out](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

absl::StatusOr<v1::Dataset> AppendAndSeal(Stub& stub, const std::string& name,
                                          const NamedTensors& columns, const v1::Dataset& expected,
                                          const TransferProgress& progress, Backoff* backoff) {
  GW_ASSIGN_OR_RETURN(v1::Dataset dataset, AppendAll(stub, name, columns, progress, backoff));
  v1::SealDatasetRequest request;
  request.set_name(name);
  request.set_request_id(NewRequestId());
  backoff->NoteProgress();
  GW_RETURN_IF_ERROR(Persist(stub, &Stub::SealDataset, request, backoff, &dataset));
  if (SameData(dataset, expected)) return dataset;
  return absl::DataLossError("the server has other rows, types or bytes than were sent");
}

}  // namespace

absl::StatusOr<v1::Dataset> DatasetClient::Import(const NamedTensors& columns,
                                                  const ImportOptions& options) const {
  GW_ASSIGN_OR_RETURN(v1::Dataset expected, Describe(columns));
  Backoff backoff(options.upload.patience);
  std::string name = options.resume;
  if (name.empty()) {
    if (options.reuse) {
      GW_ASSIGN_OR_RETURN(const std::vector<v1::Dataset> all, List());
      const absl::Time end = absl::Now() + options.ttl;
      for (const v1::Dataset& dataset : all) {
        if (dataset.state() == v1::Dataset::SEALED && SameData(dataset, expected) &&
            LivesUntil(dataset, end)) {
          return dataset;
        }
      }
    }
    expected.set_display_name(options.display_name);
    v1::Dataset created;
    GW_RETURN_IF_ERROR(Persist(*connection_->datasets, &Stub::CreateDataset,
                               CreateRequest(expected, options.ttl), &backoff, &created));
    name = created.name();
  }
  absl::StatusOr<v1::Dataset> dataset = AppendAndSeal(*connection_->datasets, name, columns,
                                                      expected, options.upload.progress, &backoff);
  if (!dataset.ok()) return Named(dataset.status(), name);
  return dataset;
}

absl::StatusOr<v1::Dataset> DatasetClient::Create(const v1::Dataset& dataset,
                                                  absl::Duration deadline) const {
  v1::Dataset out;
  GW_RETURN_IF_ERROR(
      Call(*connection_->datasets, &Stub::CreateDataset, CreateRequest(dataset), deadline, &out));
  return out;
}

absl::StatusOr<v1::Dataset> DatasetClient::Append(const std::string& name,
                                                  const NamedTensors& columns,
                                                  const UploadOptions& options) const {
  GW_RETURN_IF_ERROR(Describe(columns).status());
  Backoff backoff(options.patience);
  return AppendAll(*connection_->datasets, name, columns, options.progress, &backoff);
}

absl::StatusOr<v1::Dataset> DatasetClient::Seal(const std::string& name,
                                                absl::Duration deadline) const {
  v1::SealDatasetRequest request;
  request.set_name(name);
  request.set_request_id(NewRequestId());
  v1::Dataset out;
  GW_RETURN_IF_ERROR(Call(*connection_->datasets, &Stub::SealDataset, request, deadline, &out));
  return out;
}

absl::StatusOr<v1::Dataset> DatasetClient::Get(const std::string& name,
                                               absl::Duration deadline) const {
  v1::GetDatasetRequest request;
  request.set_name(name);
  v1::Dataset out;
  GW_RETURN_IF_ERROR(Call(*connection_->datasets, &Stub::GetDataset, request, deadline, &out));
  return out;
}

absl::StatusOr<std::vector<v1::Dataset>> DatasetClient::List(absl::Duration deadline) const {
  std::vector<v1::Dataset> out;
  v1::ListDatasetsRequest request;
  request.set_page_size(kPageSize);
  do {
    v1::ListDatasetsResponse page;
    GW_RETURN_IF_ERROR(Call(*connection_->datasets, &Stub::ListDatasets, request, deadline, &page));
    for (v1::Dataset& dataset : *page.mutable_datasets()) out.push_back(std::move(dataset));
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return out;
}

absl::Status DatasetClient::Delete(const std::string& name, absl::Duration deadline) const {
  v1::DeleteDatasetRequest request;
  request.set_name(name);
  request.set_request_id(NewRequestId());
  google::protobuf::Empty out;
  return Call(*connection_->datasets, &Stub::DeleteDataset, request, deadline, &out);
}

}  // namespace gradwire
