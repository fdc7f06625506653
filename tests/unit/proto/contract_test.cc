// Holds what clients outside this repository rely on: the names, numbers and types of every
// message, field, enum value and rpc, and the status code of every reason. Additions go into the
// tables below; a change or a removal breaks clients and is an error.
#include "tests/unit/proto/contract.h"

#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "engine/base/status.h"
#include "engine/tensor/dtype.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gradwire/v1/dataset_service.pb.h"
#include "gradwire/v1/gradient_service.pb.h"
#include "gradwire/v1/graph_service.pb.h"
#include "gradwire/v1/loss.pb.h"
#include "gradwire/v1/model.pb.h"
#include "gradwire/v1/server_service.pb.h"
#include "gradwire/v1/tensor.pb.h"
#include "gradwire/v1/training_service.pb.h"
#include "gtest/gtest.h"

namespace gradwire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

constexpr const char* kRpcs[] = {
    "GradientService.Evaluate(EvaluateRequest) returns (EvaluateResponse)",
    "GradientService.ComputeGradient(ComputeGradientRequest) returns (ComputeGradientResponse)",
    "GradientService.ComputeVjp(ComputeVjpRequest) returns (ComputeVjpResponse)",
    "GradientService.ComputeJvp(ComputeJvpRequest) returns (ComputeJvpResponse)",
    "GradientService.ComputeHvp(ComputeHvpRequest) returns (ComputeHvpResponse)",
    "GradientService.ComputeJacobian(ComputeJacobianRequest) returns (ComputeJacobianResponse)",
    "GradientService.ComputeHessian(ComputeHessianRequest) returns (ComputeHessianResponse)",
    "GradientService.CheckGradients(CheckGradientsRequest) returns (CheckGradientsResponse)",
    "GradientService.StreamCompute(stream StreamComputeRequest) returns (stream "
    "StreamComputeResponse)",
    "GraphService.CreateGraph(CreateGraphRequest) returns (Graph)",
    "GraphService.GetGraph(GetGraphRequest) returns (Graph)",
    "GraphService.ListGraphs(ListGraphsRequest) returns (ListGraphsResponse)",
    "GraphService.DeleteGraph(DeleteGraphRequest) returns (Empty)",
    "GraphService.AnalyzeGraph(AnalyzeGraphRequest) returns (AnalyzeGraphResponse)",
    "DatasetService.CreateDataset(CreateDatasetRequest) returns (Dataset)",
    "DatasetService.AppendDataset(stream AppendDatasetRequest) returns (Dataset)",
    "DatasetService.SealDataset(SealDatasetRequest) returns (Dataset)",
    "DatasetService.GetDataset(GetDatasetRequest) returns (Dataset)",
    "DatasetService.ListDatasets(ListDatasetsRequest) returns (ListDatasetsResponse)",
    "DatasetService.DeleteDataset(DeleteDatasetRequest) returns (Empty)",
    "TrainingService.CreateTrainingJob(CreateTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.GetTrainingJob(GetTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.ListTrainingJobs(ListTrainingJobsRequest) returns (ListTrainingJobsResponse)",
    "TrainingService.DeleteTrainingJob(DeleteTrainingJobRequest) returns (Empty)",
    "TrainingService.CancelTrainingJob(CancelTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.PauseTrainingJob(PauseTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.ResumeTrainingJob(ResumeTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.WatchTrainingJob(WatchTrainingJobRequest) returns (stream TrainingEvent)",
    "TrainingService.QueryMetrics(QueryMetricsRequest) returns (QueryMetricsResponse)",
    "TrainingService.EstimateTrainingJob(EstimateTrainingJobRequest) returns (TrainingEstimate)",
    "TrainingService.ListCheckpoints(ListCheckpointsRequest) returns (ListCheckpointsResponse)",
    "TrainingService.DownloadCheckpoint(DownloadCheckpointRequest) returns (stream FileChunk)",
    "TrainingService.ExportModel(ExportModelRequest) returns (stream FileChunk)",
    "ServerService.GetCapabilities(GetCapabilitiesRequest) returns (Capabilities)",
};

struct ReasonRow {
  const char* name;
  absl::StatusCode code;
};
constexpr ReasonRow kReasonRows[] = {
    {"INVALID_MODEL", absl::StatusCode::kInvalidArgument},
    {"UNSUPPORTED_OP", absl::StatusCode::kInvalidArgument},
    {"UNSUPPORTED_OPSET", absl::StatusCode::kInvalidArgument},
    {"NOT_DIFFERENTIABLE", absl::StatusCode::kInvalidArgument},
    {"DATA_DEPENDENT_SHAPE", absl::StatusCode::kInvalidArgument},
    {"SHAPE_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"DTYPE_UNSUPPORTED", absl::StatusCode::kInvalidArgument},
    {"INVALID_TENSOR", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_INPUT", absl::StatusCode::kInvalidArgument},
    {"MISSING_INPUT", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_OUTPUT", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_WRT", absl::StatusCode::kInvalidArgument},
    {"NOT_SCALAR", absl::StatusCode::kInvalidArgument},
    {"GRAPH_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"RESULT_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"CHUNK_OUT_OF_RANGE", absl::StatusCode::kInvalidArgument},
    {"DIGEST_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"INVALID_SPEC", absl::StatusCode::kInvalidArgument},
    {"MEMORY_LIMIT", absl::StatusCode::kResourceExhausted},
    {"QUEUE_FULL", absl::StatusCode::kResourceExhausted},
    {"DISK_FULL", absl::StatusCode::kResourceExhausted},
    {"WRONG_STATE", absl::StatusCode::kFailedPrecondition},
    {"NON_FINITE_VALUE", absl::StatusCode::kFailedPrecondition},
    {"NUMERICS_CHANGED", absl::StatusCode::kFailedPrecondition},
    {"EXPIRED", absl::StatusCode::kFailedPrecondition},
    {"CORRUPT_DATA", absl::StatusCode::kDataLoss},
    {"DRAINING", absl::StatusCode::kUnavailable},
    {"NOT_FOUND", absl::StatusCode::kNotFound},
    {"ALREADY_EXISTS", absl::StatusCode::kAlreadyExists},
    {"REQUEST_ID_REUSED", absl::StatusCode::kAlreadyExists},
};

// Names without the packages, which the tables leave out.
std::string Short(absl::string_view name) {
  return absl::StrReplaceAll(name,
                             {{"gradwire.v1.", ""}, {"google.rpc.", ""}, {"google.protobuf.", ""}});
}

std::string TypeOf(const FieldDescriptor& field) {
  if (field.is_map()) {
    return absl::StrCat("map<", TypeOf(*field.message_type()->map_key()), ", ",
                        TypeOf(*field.message_type()->map_value()), ">");
  }
  std::string type = field.message_type() != nullptr ? Short(field.message_type()->full_name())
                     : field.enum_type() != nullptr  ? Short(field.enum_type()->full_name())
                                                     : field.type_name();
  return field.is_repeated() ? absl::StrCat("repeated ", type) : type;
}

void Describe(const EnumDescriptor& type, std::vector<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    lines->push_back(absl::StrCat(Short(type.full_name()), ".", type.value(i)->name(), " = ",
                                  type.value(i)->number()));
  }
}

void Describe(const Descriptor& message, std::vector<std::string>* lines) {
  if (message.options().map_entry()) return;
  const std::string name = Short(message.full_name());
  if (message.field_count() == 0) lines->push_back(name);
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    lines->push_back(
        absl::StrCat(name, ".", field.name(), " = ", field.number(), ": ", TypeOf(field)));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) Describe(*message.nested_type(i), lines);
  for (int i = 0; i < message.enum_type_count(); ++i) Describe(*message.enum_type(i), lines);
}

std::vector<std::string> Describe(const std::vector<const FileDescriptor*>& files) {
  std::vector<std::string> lines;
  for (const FileDescriptor* file : files) {
    for (int i = 0; i < file->enum_type_count(); ++i) Describe(*file->enum_type(i), &lines);
    for (int i = 0; i < file->message_type_count(); ++i) Describe(*file->message_type(i), &lines);
  }
  return lines;
}

std::vector<const FileDescriptor*> FilesOfV1() {
  return {v1::Tensor::descriptor()->file(),          v1::Model::descriptor()->file(),
          v1::EvaluateRequest::descriptor()->file(), v1::Graph::descriptor()->file(),
          v1::Dataset::descriptor()->file(),         v1::TrainingJob::descriptor()->file(),
          v1::Capabilities::descriptor()->file(),    v1::Loss::descriptor()->file()};
}

void ExpectSame(const std::vector<std::string>& table, const std::vector<std::string>& protos) {
  const std::set<std::string> held(table.begin(), table.end());
  const std::set<std::string> found(protos.begin(), protos.end());
  EXPECT_EQ(held.size(), table.size()) << "a line of the table stands there twice";
  for (const std::string& line : held) {
    EXPECT_TRUE(found.count(line)) << "\"" << line << "\" is gone from the .proto files or has "
                                   << "changed: clients rely on it, put it back";
  }
  for (const std::string& line : found) {
    EXPECT_TRUE(held.count(line)) << "\"" << line << "\" is new in the .proto files: add it to the "
                                  << "table in this test";
  }
}

TEST(ContractTest, HoldsMessagesFieldsAndEnums) {
  ExpectSame(ContractOfV1(), Describe(FilesOfV1()));
}

TEST(ContractTest, HoldsTheOfficialNumbersOfGoogleRpc) {
  ExpectSame(ContractOfGoogleRpc(), Describe({google::rpc::Status::descriptor()->file(),
                                              google::rpc::ErrorInfo::descriptor()->file()}));
}

TEST(ContractTest, HoldsPackageAndRpcs) {
  std::vector<std::string> found;
  for (const FileDescriptor* file : FilesOfV1()) {
    EXPECT_EQ(file->package(), "gradwire.v1") << file->name();
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto& method = *file->service(s)->method(m);
        found.push_back(absl::StrCat(
            method.service()->name(), ".", method.name(), "(",
            method.client_streaming() ? "stream " : "", method.input_type()->name(), ") returns (",
            method.server_streaming() ? "stream " : "", method.output_type()->name(), ")"));
      }
    }
  }
  ExpectSame({std::begin(kRpcs), std::end(kRpcs)}, found);
}

TEST(ContractTest, HoldsTheOneofOfModelSources) {
  const auto* source = v1::Model::descriptor()->FindOneofByName("source");
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->field_count(), v1::Model::descriptor()->field_count());
}

TEST(ContractTest, HoldsTheStatusCodeOfEachReason) {
  std::map<std::string, absl::StatusCode> held;
  for (const ReasonRow& row : kReasonRows) held[row.name] = row.code;
  std::set<std::string> found;
  for (const ReasonInfo& info : AllReasons()) {
    found.insert(info.name);
    const auto row = held.find(info.name);
    if (row == held.end()) {
      ADD_FAILURE() << info.name << " is a new reason: add it to the table in this test";
      continue;
    }
    EXPECT_EQ(info.code, row->second) << info.name;
    EXPECT_STREQ(ReasonName(info.reason), info.name);
    EXPECT_EQ(Error(info.reason, "text").code(), row->second) << info.name;
  }
  EXPECT_EQ(found.size(), AllReasons().size()) << "two reasons share a name";
  for (const auto& [name, code] : held) {
    EXPECT_TRUE(found.count(name)) << name << " is gone: clients rely on it, put it back";
  }
}

TEST(ContractTest, DataTypesAreThoseOfTheEngine) {
  const EnumDescriptor& type = *v1::DataType_descriptor();
  for (int i = 0; i < type.value_count(); ++i) {
    const auto& value = *type.value(i);
    EXPECT_EQ(DTypeName(DTypeFromOnnx(value.number())), value.name());
  }
  for (int number = 0; number < 64; ++number) {
    if (DTypeFromOnnx(number) == DType::kUndefined) continue;
    EXPECT_NE(type.FindValueByNumber(number), nullptr) << number;
  }
}

}  // namespace
}  // namespace gradwire
