#include "client/load_model.h"

#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "engine/io/file.h"
#include "engine/tensor/dtype.h"
#include "engine/tensor/shape.h"
#include "onnx/onnx.pb.h"

namespace gradwire {
namespace {

namespace fs = std::filesystem;

absl::Status Refused(const onnx::TensorProto& tensor, absl::string_view what) {
  return Error(Reason::kInvalidModel,
               absl::StrCat("external data of tensor \"", tensor.name(), "\": ", what));
}

// Every tensor of the model, wherever it stands. Iterative: graphs nest inside attributes.
std::vector<onnx::TensorProto*> AllTensors(onnx::ModelProto* model) {
  std::vector<onnx::TensorProto*> tensors;
  std::vector<onnx::GraphProto*> graphs = {model->mutable_graph()};
  for (onnx::TrainingInfoProto& training : *model->mutable_training_info()) {
    graphs.push_back(training.mutable_initialization());
    graphs.push_back(training.mutable_algorithm());
  }
  auto add_sparse = [&tensors](onnx::SparseTensorProto* sparse) {
    tensors.push_back(sparse->mutable_values());
    tensors.push_back(sparse->mutable_indices());
  };
  auto add_nodes = [&](google::protobuf::RepeatedPtrField<onnx::NodeProto>* nodes) {
    for (onnx::NodeProto& node : *nodes) {
      for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
        if (attribute.has_t()) tensors.push_back(attribute.mutable_t());
        for (onnx::TensorProto& t : *attribute.mutable_tensors()) tensors.push_back(&t);
        if (attribute.has_g()) graphs.push_back(attribute.mutable_g());
        for (onnx::GraphProto& g : *attribute.mutable_graphs()) graphs.push_back(&g);
        if (attribute.has_sparse_tensor()) add_sparse(attribute.mutable_sparse_tensor());
        for (onnx::SparseTensorProto& s : *attribute.mutable_sparse_tensors()) add_sparse(&s);
      }
    }
  };
  for (onnx::FunctionProto& function : *model->mutable_functions()) {
    add_nodes(function.mutable_node());
  }
  while (!graphs.empty()) {
    onnx::GraphProto* graph = graphs.back();
    graphs.pop_back();
    for (onnx::TensorProto& t : *graph->mutable_initializer()) tensors.push_back(&t);
    for (onnx::SparseTensorProto& s : *graph->mutable_sparse_initializer()) add_sparse(&s);
    add_nodes(graph->mutable_node());
  }
  return tensors;
}

struct Location {
  std::string path;
  int64_t offset = 0;
  int64_t length = -1;  // to the end of the file
};

absl::StatusOr<Location> LocationOf(const onnx::TensorProto& tensor) {
  Location location;
  for (const onnx::StringStringEntryProto& entry : tensor.external_data()) {
    bool ok = true;
    if (entry.key() == "location") location.path = entry.value();
    if (entry.key() == "offset") ok = absl::SimpleAtoi(entry.value(), &location.offset);
    if (entry.key() == "length") {
      ok = absl::SimpleAtoi(entry.value(), &location.length) && location.length >= 0;
    }
    if (!ok || location.offset < 0) {
      return Refused(tensor, absl::StrCat("invalid ", entry.key(), " '", entry.value(), "'"));
    }
  }
  if (location.path.empty()) return Refused(tensor, "it has no location");
  return location;
}

// The file at `location`, which must lie below `folder`, links resolved.
absl::StatusOr<fs::path> Resolve(const onnx::TensorProto& tensor, const fs::path& folder,
                                 const std::string& location) {
  const fs::path relative(location);
  if (relative.is_absolute() || absl::StrContains(location, '\0')) {
    return Refused(tensor, absl::StrCat("location '", location, "' is not relative"));
  }
  for (const fs::path& part : relative) {
    if (part == "..") return Refused(tensor, absl::StrCat("location '", location, "' has a '..'"));
  }
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) return Refused(tensor, absl::StrCat(folder.string(), ": ", error.message()));
  const fs::path file = fs::canonical(root / relative, error);
  if (error)
    return Refused(tensor, absl::StrCat((folder / relative).string(), ": ", error.message()));
  const fs::path below = file.lexically_relative(root);
  if (below.empty() || *below.begin() == ".." || below == ".") {
    return Refused(tensor,
                   absl::StrCat("location '", location, "' leads out of the model's folder"));
  }
  return file;
}

// The bytes that the tensor's type and dims take.
absl::StatusOr<int64_t> ExpectedBytes(const onnx::TensorProto& tensor) {
  const DType dtype = DTypeFromOnnx(tensor.data_type());
  if (dtype == DType::kUndefined) {
    return Refused(tensor, absl::StrCat("element type ", tensor.data_type(), " is not supported"));
  }
  absl::StatusOr<Shape> shape =
      Shape::Make(std::vector<int64_t>(tensor.dims().begin(), tensor.dims().end()));
  if (!shape.ok()) return Refused(tensor, shape.status().message());
  return TensorType{dtype, *std::move(shape)}.bytes();
}

absl::Status Inline(const fs::path& folder, onnx::TensorProto* tensor, int64_t* total_bytes) {
  GW_ASSIGN_OR_RETURN(Location location, LocationOf(*tensor));
  GW_ASSIGN_OR_RETURN(const int64_t expected, ExpectedBytes(*tensor));
  GW_ASSIGN_OR_RETURN(const fs::path file, Resolve(*tensor, folder, location.path));
  if (location.length < 0) location.length = expected;
  if (location.length != expected) {
    return Refused(*tensor, absl::StrCat("wrong length: got ", location.length, ", expected ",
                                         expected, " bytes"));
  }
  *total_bytes = SaturatingAdd(*total_bytes, expected);
  if (*total_bytes > kMaxFileBytes) {
    return Error(Reason::kMemoryLimit, absl::StrCat("the model with its external data is above ",
                                                    kMaxFileBytes, " bytes"));
  }
  absl::StatusOr<std::string> bytes = ReadFilePart(file.string(), location.offset, location.length);
  if (!bytes.ok()) return Refused(*tensor, bytes.status().message());
  tensor->set_raw_data(*std::move(bytes));
  tensor->clear_external_data();
  tensor->clear_data_location();
  return absl::OkStatus();
}

absl::StatusOr<ModelSource> LoadOnnx(const std::string& path, std::string bytes) {
  onnx::ModelProto model;
  if (!model.ParseFromString(bytes) || !model.has_graph()) {
    return Error(Reason::kInvalidModel, absl::StrCat(path, " is no ONNX model"));
  }
  auto total_bytes = static_cast<int64_t>(bytes.size());
  bool changed = false;
  for (onnx::TensorProto* tensor : AllTensors(&model)) {
    if (tensor->data_location() != onnx::TensorProto::EXTERNAL) continue;
    GW_RETURN_IF_ERROR(
        Inline(fs::path(path).parent_path().empty() ? fs::path(".") : fs::path(path).parent_path(),
               tensor, &total_bytes));
    changed = true;
  }
  if (changed && !model.SerializeToString(&bytes)) {
    return Error(Reason::kMemoryLimit, absl::StrCat(path, ": the model is above 2 GiB"));
  }
  return ModelSource::Onnx(std::move(bytes));
}

}  // namespace

absl::StatusOr<ModelSource> LoadModel(const std::string& path) {
  const bool is_text = absl::EndsWith(path, ".onnxtxt");
  if (!is_text && !absl::EndsWith(path, ".onnx")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a model file ends in .onnx or .onnxtxt"));
  }
  GW_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
  if (is_text) return ModelSource::Text(std::move(bytes));
  return LoadOnnx(path, std::move(bytes));
}

}  // namespace gradwire
