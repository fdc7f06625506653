// Holds what clients outside this repository rely on: the names, numbers and types of every
// message, field, enum value and rpc, and the status code of every reason. Additions go into the
// tables below; a change or a removal breaks clients and is an error.
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
#include "gradwire/v1/gradient_service.pb.h"
#include "gradwire/v1/graph_service.pb.h"
#include "gradwire/v1/model.pb.h"
#include "gradwire/v1/server_service.pb.h"
#include "gradwire/v1/tensor.pb.h"
#include "gtest/gtest.h"

namespace gradwire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

// One line per field ("Message.field = number: type"), enum value ("Enum.VALUE = number") and
// message without fields ("Message").
const std::vector<std::string>& ContractOfV1() {
  static const auto* const kLines = new std::vector<std::string>{
      // gradwire/v1/tensor.proto
      "DataType.UNDEFINED = 0",
      "DataType.FLOAT = 1",
      "DataType.UINT8 = 2",
      "DataType.INT8 = 3",
      "DataType.UINT16 = 4",
      "DataType.INT16 = 5",
      "DataType.INT32 = 6",
      "DataType.INT64 = 7",
      "DataType.BOOL = 9",
      "DataType.FLOAT16 = 10",
      "DataType.DOUBLE = 11",
      "DataType.UINT32 = 12",
      "DataType.UINT64 = 13",
      "DataType.BFLOAT16 = 16",
      "Tensor.data_type = 1: DataType",
      "Tensor.shape = 2: repeated int64",
      "Tensor.data = 3: bytes",
      "Tensor.values = 4: repeated double",
      "TensorMap.tensors = 1: map<string, Tensor>",
      // gradwire/v1/model.proto
      "Model.onnx = 1: bytes",
      "Model.text = 2: string",
      "Model.expression = 3: string",
      "Model.graph = 4: string",
      "ComputeOptions.mode = 1: ComputeOptions.Mode.Value",
      "ComputeOptions.precision = 2: ComputeOptions.Precision.Value",
      "ComputeOptions.seed = 3: uint64",
      "ComputeOptions.check_finite = 4: bool",
      "ComputeOptions.readable = 5: bool",
      "ComputeOptions.Mode",
      "ComputeOptions.Mode.Value.AS_GRAPH = 0",
      "ComputeOptions.Mode.Value.TRAIN = 1",
      "ComputeOptions.Mode.Value.EVAL = 2",
      "ComputeOptions.Precision",
      "ComputeOptions.Precision.Value.AS_GRAPH = 0",
      "ComputeOptions.Precision.Value.FLOAT = 1",
      "ComputeOptions.Precision.Value.DOUBLE = 2",
      "ComputeInfo.graph_digest = 1: string",
      "ComputeInfo.plan_digest = 2: string",
      "ComputeInfo.cache_hit = 3: bool",
      "ComputeInfo.compile_time = 4: Duration",
      "ComputeInfo.queue_time = 5: Duration",
      "ComputeInfo.compute_time = 6: Duration",
      "ComputeInfo.peak_bytes = 7: int64",
      "ComputeInfo.flops = 8: int64",
      "ComputeInfo.threads = 9: int32",
      "ComputeInfo.engine_version = 10: string",
      "ComputeInfo.cpu_isa = 11: string",
      // gradwire/v1/gradient_service.proto
      "EvaluateRequest.model = 1: Model",
      "EvaluateRequest.inputs = 2: map<string, Tensor>",
      "EvaluateRequest.outputs = 3: repeated string",
      "EvaluateRequest.options = 4: ComputeOptions",
      "EvaluateResponse.outputs = 1: map<string, Tensor>",
      "EvaluateResponse.info = 2: ComputeInfo",
      "ComputeGradientRequest.model = 1: Model",
      "ComputeGradientRequest.inputs = 2: map<string, Tensor>",
      "ComputeGradientRequest.output = 3: string",
      "ComputeGradientRequest.wrt = 4: repeated string",
      "ComputeGradientRequest.options = 5: ComputeOptions",
      "ComputeGradientResponse.value = 1: Tensor",
      "ComputeGradientResponse.gradients = 2: map<string, Tensor>",
      "ComputeGradientResponse.info = 3: ComputeInfo",
      "ComputeVjpRequest.model = 1: Model",
      "ComputeVjpRequest.inputs = 2: map<string, Tensor>",
      "ComputeVjpRequest.cotangents = 3: repeated TensorMap",
      "ComputeVjpRequest.wrt = 4: repeated string",
      "ComputeVjpRequest.options = 5: ComputeOptions",
      "ComputeVjpResponse.outputs = 1: map<string, Tensor>",
      "ComputeVjpResponse.gradients = 2: repeated TensorMap",
      "ComputeVjpResponse.info = 3: ComputeInfo",
      "ComputeJvpRequest.model = 1: Model",
      "ComputeJvpRequest.inputs = 2: map<string, Tensor>",
      "ComputeJvpRequest.tangents = 3: repeated TensorMap",
      "ComputeJvpRequest.outputs = 4: repeated string",
      "ComputeJvpRequest.options = 5: ComputeOptions",
      "ComputeJvpResponse.outputs = 1: map<string, Tensor>",
      "ComputeJvpResponse.tangents = 2: repeated TensorMap",
      "ComputeJvpResponse.info = 3: ComputeInfo",
      "ComputeHvpRequest.model = 1: Model",
      "ComputeHvpRequest.inputs = 2: map<string, Tensor>",
      "ComputeHvpRequest.output = 3: string",
      "ComputeHvpRequest.cotangents = 4: TensorMap",
      "ComputeHvpRequest.vectors = 5: repeated TensorMap",
      "ComputeHvpRequest.wrt = 6: repeated string",
      "ComputeHvpRequest.options = 7: ComputeOptions",
      "ComputeHvpResponse.value = 1: Tensor",
      "ComputeHvpResponse.gradients = 2: map<string, Tensor>",
      "ComputeHvpResponse.products = 3: repeated TensorMap",
      "ComputeHvpResponse.info = 4: ComputeInfo",
      // gradwire/v1/graph_service.proto
      "GraphView.BASIC = 0",
      "GraphView.FULL = 1",
      "Graph.name = 1: string",
      "Graph.display_name = 2: string",
      "Graph.bytes = 3: int64",
      "Graph.create_time = 4: Timestamp",
      "Graph.expire_time = 5: Timestamp",
      "Graph.model = 6: Model",
      "CreateGraphRequest.model = 1: Model",
      "CreateGraphRequest.derivative_of = 2: DerivativeOf",
      "DerivativeOf.Kind.KIND_UNSPECIFIED = 0",
      "DerivativeOf.Kind.GRADIENT = 1",
      "DerivativeOf.Kind.VJP = 2",
      "DerivativeOf.Kind.JVP = 3",
      "DerivativeOf.Kind.HVP = 4",
      "DerivativeOf.model = 1: Model",
      "DerivativeOf.kind = 2: DerivativeOf.Kind",
      "DerivativeOf.inputs = 3: map<string, Tensor>",
      "DerivativeOf.output = 4: string",
      "DerivativeOf.wrt = 5: repeated string",
      "DerivativeOf.options = 6: ComputeOptions",
      "CreateGraphRequest.display_name = 3: string",
      "CreateGraphRequest.ttl = 4: Duration",
      "CreateGraphRequest.validate_only = 5: bool",
      "CreateGraphRequest.request_id = 6: string",
      "GetGraphRequest.name = 1: string",
      "GetGraphRequest.view = 2: GraphView",
      "ListGraphsRequest.page_size = 1: int32",
      "ListGraphsRequest.page_token = 2: string",
      "ListGraphsResponse.graphs = 1: repeated Graph",
      "ListGraphsResponse.next_page_token = 2: string",
      "DeleteGraphRequest.name = 1: string",
      "DeleteGraphRequest.request_id = 2: string",
      "AnalyzeGraphRequest.model = 1: Model",
      "AnalyzeGraphRequest.inputs = 2: map<string, Tensor>",
      "AnalyzeGraphRequest.output = 3: string",
      "AnalyzeGraphRequest.wrt = 4: repeated string",
      "AnalyzeGraphRequest.options = 5: ComputeOptions",
      "AnalyzeGraphResponse.inputs = 1: repeated ValueInfo",
      "AnalyzeGraphResponse.parameters = 2: repeated ValueInfo",
      "AnalyzeGraphResponse.outputs = 3: repeated ValueInfo",
      "AnalyzeGraphResponse.node_count = 4: int64",
      "AnalyzeGraphResponse.ops = 5: repeated OpUse",
      "AnalyzeGraphResponse.issues = 6: repeated Issue",
      "AnalyzeGraphResponse.computable = 7: bool",
      "AnalyzeGraphResponse.differentiable = 8: bool",
      "AnalyzeGraphResponse.wrt = 9: repeated string",
      "AnalyzeGraphResponse.value_cost = 10: Cost",
      "AnalyzeGraphResponse.gradient_cost = 11: Cost",
      "AnalyzeGraphResponse.graph_digest = 12: string",
      "AnalyzeGraphResponse.plan_digest = 13: string",
      "ValueInfo.name = 1: string",
      "ValueInfo.data_type = 2: DataType",
      "ValueInfo.has_rank = 3: bool",
      "ValueInfo.shape = 4: repeated Dimension",
      "Dimension.extent = 1: int64",
      "Dimension.symbol = 2: string",
      "OpUse.domain = 1: string",
      "OpUse.name = 2: string",
      "OpUse.count = 3: int64",
      "OpUse.supported = 4: bool",
      "Issue.reason = 1: string",
      "Issue.where = 2: string",
      "Issue.message = 3: string",
      "Issue.path = 4: repeated string",
      "Cost.flops = 1: int64",
      "Cost.peak_bytes = 2: int64",
      "Cost.moved_bytes = 3: int64",
      "Cost.steps = 4: int64",
      "Cost.input_bytes = 5: int64",
      "Cost.output_bytes = 6: int64",
      // gradwire/v1/server_service.proto
      "Durability.DURABILITY_UNSPECIFIED = 0",
      "Durability.MEMORY_ONLY = 1",
      "Durability.ON_DISK = 2",
      "GetCapabilitiesRequest",
      "Capabilities.ops = 1: repeated OpCapability",
      "Capabilities.limits = 2: Limits",
      "Capabilities.versions = 3: Versions",
      "Capabilities.cpu_isa = 4: string",
      "Capabilities.workers = 5: int32",
      "Capabilities.threads = 6: int32",
      "Capabilities.durability = 7: Durability",
      "Capabilities.self_check = 8: SelfCheck",
      "OpCapability.domain = 1: string",
      "OpCapability.name = 2: string",
      "OpCapability.first_opset = 3: int32",
      "OpCapability.last_opset = 4: int32",
      "OpCapability.data_types = 5: repeated DataType",
      "OpCapability.value = 6: bool",
      "OpCapability.vjp = 7: bool",
      "OpCapability.jvp = 8: bool",
      "OpCapability.doc = 9: string",
      "Limits.max_message_bytes = 1: int64",
      "Limits.memory_limit_bytes = 2: int64",
      "Limits.program_cache_bytes = 3: int64",
      "Limits.max_nodes = 4: int64",
      "Limits.max_rank = 5: int32",
      "Limits.min_opset = 6: int32",
      "Limits.max_opset = 7: int32",
      "Versions.engine = 1: string",
      "Versions.onednn = 2: string",
      "Versions.grpc = 3: string",
      "Versions.protobuf = 4: string",
      "SelfCheck.checks = 1: int32",
      "SelfCheck.declined = 2: repeated DeclinedKernel",
      "DeclinedKernel.provider = 1: string",
      "DeclinedKernel.kernel = 2: string",
      "DeclinedKernel.detail = 3: string",
  };
  return *kLines;
}

// The official numbers of google.rpc: ours is a copy.
const std::vector<std::string>& ContractOfGoogleRpc() {
  static const auto* const kLines = new std::vector<std::string>{
      // google/rpc/status.proto
      "Status.code = 1: int32",
      "Status.message = 2: string",
      "Status.details = 3: repeated Any",
      // google/rpc/error_details.proto
      "RetryInfo.retry_delay = 1: Duration",
      "QuotaFailure.violations = 1: repeated QuotaFailure.Violation",
      "QuotaFailure.Violation.subject = 1: string",
      "QuotaFailure.Violation.description = 2: string",
      "ErrorInfo.reason = 1: string",
      "ErrorInfo.domain = 2: string",
      "ErrorInfo.metadata = 3: map<string, string>",
      "BadRequest.field_violations = 1: repeated BadRequest.FieldViolation",
      "BadRequest.FieldViolation.field = 1: string",
      "BadRequest.FieldViolation.description = 2: string",
  };
  return *kLines;
}

constexpr const char* kRpcs[] = {
    "GradientService.Evaluate(EvaluateRequest) returns (EvaluateResponse)",
    "GradientService.ComputeGradient(ComputeGradientRequest) returns (ComputeGradientResponse)",
    "GradientService.ComputeVjp(ComputeVjpRequest) returns (ComputeVjpResponse)",
    "GradientService.ComputeJvp(ComputeJvpRequest) returns (ComputeJvpResponse)",
    "GradientService.ComputeHvp(ComputeHvpRequest) returns (ComputeHvpResponse)",
    "GraphService.CreateGraph(CreateGraphRequest) returns (Graph)",
    "GraphService.GetGraph(GetGraphRequest) returns (Graph)",
    "GraphService.ListGraphs(ListGraphsRequest) returns (ListGraphsResponse)",
    "GraphService.DeleteGraph(DeleteGraphRequest) returns (Empty)",
    "GraphService.AnalyzeGraph(AnalyzeGraphRequest) returns (AnalyzeGraphResponse)",
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
  return {v1::Tensor::descriptor()->file(), v1::Model::descriptor()->file(),
          v1::EvaluateRequest::descriptor()->file(), v1::Graph::descriptor()->file(),
          v1::Capabilities::descriptor()->file()};
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
