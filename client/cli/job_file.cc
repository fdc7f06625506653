#include "client/cli/job_file.h"

#include <toml++/toml.h>

#include <cmath>
#include <filesystem>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/cli/signature.h"
#include "client/cli/suggest.h"
#include "client/cli/toml_message.h"
#include "client/cli/values.h"
#include "client/load_model.h"
#include "client/training.h"
#include "engine/base/status.h"
#include "engine/io/file.h"

namespace gradwire::cli {
namespace {

constexpr int64_t kMaxJobFileBytes = int64_t{1} << 20;

// ---- Overrides.

// A toml::node is known by its kind only inside visit().
void Put(toml::table* table, const std::string& key, toml::node* node) {
  node->visit([&](auto& value) { table->insert_or_assign(key, std::move(value)); });
}

absl::StatusOr<std::vector<std::string>> SegmentsOf(const Override& setting) {
  GW_ASSIGN_OR_RETURN(const toml::table parsed,
                      ParseToml(absl::StrCat(setting.key, " = 0"), setting.option));
  std::vector<std::string> segments;
  const toml::table* at = &parsed;
  while (at != nullptr && at->size() == 1) {
    segments.emplace_back(at->begin()->first.str());
    at = at->begin()->second.as_table();
  }
  if (at == nullptr) return segments;
  return Error(Reason::kInvalidSpec, absl::StrCat(setting.option, ": '", setting.key,
                                                  "' is no key, as optimizer.adam.lr"));
}

// The table called `key`, made where there is none. A choice that is given by its name is spelt
// out.
toml::table* Descend(toml::table* table, const std::string& key) {
  toml::node* node = table->get(key);
  if (node != nullptr && node->is_table()) return node->as_table();
  toml::table made;
  if (node != nullptr && (key == "optimizer" || key == "schedule" || key == "loss")) {
    if (const auto name = node->value<std::string>()) {
      if (key == "loss") {
        made.insert("named", *name);
      } else {
        made.insert(*name, toml::table());
      }
    }
  }
  return table->insert_or_assign(key, std::move(made)).first->second.as_table();
}

// {value = ...}
absl::StatusOr<toml::table> ValueOf(const Override& setting) {
  if (!setting.is_text) {
    absl::StatusOr<toml::table> value =
        ParseToml(absl::StrCat("value = ", setting.value), setting.option);
    if (value.ok() && value->size() == 1) return value;
  }
  // What is no TOML is meant as text. Printed, it is in quotes and has its escapes.
  const toml::value<std::string> text(setting.value);
  std::ostringstream quoted;
  quoted << "value = " << toml::toml_formatter(text);
  return ParseToml(quoted.str(), setting.option);
}

absl::Status Apply(const Override& setting, toml::table* root) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> segments, SegmentsOf(setting));
  GW_ASSIGN_OR_RETURN(toml::table value, ValueOf(setting));
  toml::table* at = root;
  for (size_t i = 0; i + 1 < segments.size(); ++i) {
    std::string key = segments[i];
    if (key == "*") {
      if (at->size() != 1) {
        return Error(Reason::kInvalidSpec,
                     absl::StrCat(setting.option, ": say first which ", segments[0]));
      }
      key = std::string(at->begin()->first.str());
    }
    at = Descend(at, key);
  }
  Put(at, segments.back(), value.get("value"));
  return absl::OkStatus();
}

// ---- What a job file has besides the fields of the message. Each is taken out of the table.

class Reader {
 public:
  explicit Reader(std::string folder) : folder_(std::move(folder)) {}

  absl::StatusOr<JobPlan> Read(toml::table root) {
    CheckServerFields(root);
    ReadModel(&root);
    ReadNamedLoss(&root);
    ReadStart(&root);
    ReadDatasets(&root);
    ReadInputFiles(&root);
    SetFields(root, "", &plan_.job, &problems_);
    TypeInputs();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    return std::move(plan_);
  }

 private:
  void Add(const toml::node& node, absl::string_view key, absl::string_view what) {
    problems_.Add(Reason::kInvalidSpec, PlaceOf(node, key), std::string(what));
  }

  std::string PathOf(const toml::node& node, const std::string& path) const {
    const bool from_option = absl::StartsWith(PlaceOf(node, ""), "--");
    if (from_option || folder_.empty() || std::filesystem::path(path).is_absolute()) return path;
    return (std::filesystem::path(folder_) / path).string();
  }

  void CheckServerFields(const toml::table& root) {
    const google::protobuf::Descriptor& type = *v1::TrainingJob::descriptor();
    for (const auto& [name, node] : root) {
      const auto* field = type.FindFieldByName(std::string(name.str()));
      if (field == nullptr) continue;
      if (field->number() >= v1::TrainingJob::kStateFieldNumber || field->name() == "name") {
        Add(node, field->name(), "is the server's to say");
      }
    }
  }

  void ReadModel(toml::table* root) {
    const toml::node* node = root->get("model");
    if (node == nullptr) return;
    if (const toml::table* table = node->as_table()) {
      SetFields(*table, "model.", plan_.job.mutable_model(), &problems_);
      root->erase("model");
      return;
    }
    if (!node->is_string()) return;  // SetFields will say so
    const std::string text = *node->value<std::string>();
    if (absl::EndsWith(text, ".onnx") || absl::EndsWith(text, ".onnxtxt")) {
      absl::StatusOr<ModelSource> model = LoadModel(PathOf(*node, text));
      if (model.ok()) {
        *plan_.job.mutable_model() = ToProto(*model);
      } else {
        Add(*node, "model", model.status().message());
      }
    } else {
      plan_.job.mutable_model()->set_expression(text);
    }
    root->erase("model");
  }

  void ReadNamedLoss(toml::table* root) {
    const toml::node* node = root->get("loss");
    if (node == nullptr || !node->is_string()) return;
    plan_.job.mutable_loss()->set_named(*node->value<std::string>());
    root->erase("loss");
  }

  void ReadStart(toml::table* root) {
    const toml::node* node = root->get("start_from");
    if (node == nullptr) return;
    const std::string name = node->value<std::string>().value_or("");
    if (!absl::StartsWith(name, "jobs/")) {
      Add(*node, "start_from", "expected \"jobs/{id}\" or \"jobs/{id}/checkpoints/{step}\"");
    } else if (root->contains("start")) {
      Add(*node, "start_from", "excludes start, which is there as well");
    } else if (absl::StrContains(name, "/checkpoints/")) {
      plan_.job.mutable_start()->set_checkpoint(name);
    } else {
      plan_.job.mutable_start()->set_job(name);
    }
    root->erase("start_from");
  }

  void ReadDatasets(toml::table* root) {
    if (const toml::node* node = root->get("dataset")) {
      ReadDataset(*node, "dataset", nullptr, plan_.job.mutable_dataset(), &plan_.dataset);
      root->erase("dataset");
    }
    toml::node* evaluation = root->get("evaluation");
    if (evaluation == nullptr || !evaluation->is_table()) return;
    if (const toml::node* node = evaluation->as_table()->get("dataset")) {
      ReadDataset(*node, "evaluation.dataset", plan_.dataset ? &*plan_.dataset : nullptr,
                  plan_.job.mutable_evaluation()->mutable_dataset(), &plan_.evaluation_dataset);
      evaluation->as_table()->erase("dataset");
    }
  }

  // Either *name or *import.
  void ReadDataset(const toml::node& node, const std::string& key, const FileImport* base,
                   std::string* name, std::optional<FileImport>* import) {
    if (const auto text = node.value<std::string>()) {
      if (absl::StartsWith(*text, "datasets/")) {
        *name = *text;
      } else {
        import->emplace().files = {PathOf(node, *text)};
      }
    } else if (const toml::table* table = node.as_table()) {
      *import = ReadImport(*table, key, base);
    } else {
      Add(node, key, "expected \"datasets/{id}\", a file, or a table with a file");
    }
  }

  FileImport ReadImport(const toml::table& table, const std::string& key, const FileImport* base) {
    FileImport out;
    if (base != nullptr && !table.contains("file") && !table.contains("files")) {
      out = *base;
      out.rows.reset();
      out.except.reset();
    }
    static const std::vector<std::string>* const kKeys = new std::vector<std::string>{
        "file", "files", "name", "columns", "dtype", "scale", "shape", "rows", "except"};
    for (const auto& [name, node] : table) {
      const std::string field(name.str());
      const std::string path = absl::StrCat(key, ".", field);
      const std::string text = node.value<std::string>().value_or("");
      if (field == "file") {
        if (text.empty()) Add(node, path, "expected a file's name in quotes");
        out.files = {PathOf(node, text)};
      } else if (field == "files") {
        out.files = Strings(node, path);
        for (std::string& file : out.files) file = PathOf(node, file);
      } else if (field == "name") {
        out.display_name = text;
      } else if (field == "rows" || field == "except") {
        absl::StatusOr<RowSlice> slice = ParseRowSlice(text);
        if (!slice.ok()) Add(node, path, slice.status().message());
        if (slice.ok()) (field == "rows" ? out.rows : out.except) = *slice;
      } else if (field == "columns" || field == "dtype" || field == "scale" || field == "shape") {
        ReadColumnSettings(node, path, field, &out);
      } else {
        const std::string guess = ClosestTo(field, *kKeys);
        Add(node, path,
            absl::StrCat("there is no such setting",
                         guess.empty() ? "" : absl::StrCat("; did you mean '", guess, "'?")));
      }
    }
    if (out.files.empty()) Add(table, key, "names no file");
    if (out.rows && out.except) Add(table, key, "rows and except exclude each other");
    return out;
  }

  // One of the tables with an entry for each column.
  void ReadColumnSettings(const toml::node& node, const std::string& path, const std::string& field,
                          FileImport* out) {
    if (node.as_table() == nullptr) return Add(node, path, "expected a table, by column");
    for (const auto& [name, value] : *node.as_table()) {
      const std::string column(name.str());
      const std::string key = absl::StrCat(path, ".", column);
      if (field == "columns") {
        out->columns[column] = value.is_string()
                                   ? std::vector<std::string>{*value.value<std::string>()}
                                   : Strings(value, key);
      } else if (field == "dtype") {
        absl::StatusOr<DType> dtype = ParseDType(value.value<std::string>().value_or(""));
        if (dtype.ok()) out->dtypes[column] = *dtype;
        if (!dtype.ok()) Add(value, key, dtype.status().message());
      } else if (field == "scale") {
        const double scale = value.value<double>().value_or(NAN);
        if (!std::isfinite(scale)) Add(value, key, "expected a number");
        out->scales[column] = scale;
      } else {
        out->shapes[column] = Extents(value, key);
      }
    }
  }

  std::vector<std::string> Strings(const toml::node& node, const std::string& key) {
    std::vector<std::string> out;
    const toml::array* array = node.as_array();
    bool ok = array != nullptr && !array->empty();
    for (size_t i = 0; ok && i < array->size(); ++i) {
      ok = array->get(i)->is_string();
      if (ok) out.push_back(*array->get(i)->value<std::string>());
    }
    if (!ok) Add(node, key, "expected names in quotes: [\"a\", \"b\"]");
    return out;
  }

  std::vector<int64_t> Extents(const toml::node& node, const std::string& key) {
    std::vector<int64_t> out;
    const toml::array* array = node.as_array();
    bool ok = array != nullptr && array->size() < Shape::kMaxRank;
    for (size_t i = 0; ok && i < array->size(); ++i) {
      ok = array->get(i)->is_integer() && *array->get(i)->value<int64_t>() >= 0;
      if (ok) out.push_back(*array->get(i)->value<int64_t>());
    }
    if (!ok) Add(node, key, "expected the extents of a row: [28, 28]");
    return out;
  }

  // inputs.w = "@w.npy"
  void ReadInputFiles(toml::table* root) {
    toml::node* inputs = root->get("inputs");
    if (inputs == nullptr || !inputs->is_table()) return;
    std::vector<std::string> taken;
    for (const auto& [key, node] : *inputs->as_table()) {
      const std::string text = node.value<std::string>().value_or("");
      if (!absl::StartsWith(text, "@")) continue;
      const std::string name(key.str());
      absl::StatusOr<Tensor> tensor = ReadValue({name, "@" + PathOf(node, text.substr(1))},
                                                Signature().TypeOf(name), /*keep_bool=*/true);
      if (tensor.ok()) (*plan_.job.mutable_inputs())[name] = ToProto(*tensor);
      if (!tensor.ok()) Add(node, absl::StrCat("inputs.", name), tensor.status().message());
      taken.push_back(name);
    }
    for (const std::string& name : taken) inputs->as_table()->erase(name);
  }

  // Numbers take the type that the model states.
  void TypeInputs() {
    for (auto& [name, tensor] : *plan_.job.mutable_inputs()) {
      if (tensor.data_type() == v1::UNDEFINED && tensor.data().empty()) {
        tensor.set_data_type(static_cast<v1::DataType>(Signature().TypeOf(name)));
      }
    }
  }

  ModelSignature Signature() const {
    const v1::Model& model = plan_.job.model();
    return SignatureOf(model.has_onnx()   ? ModelSource::Onnx(model.onnx())
                       : model.has_text() ? ModelSource::Text(model.text())
                                          : ModelSource::Formula(model.expression()));
  }

  const std::string folder_;
  JobPlan plan_;
  Problems problems_;
};

}  // namespace

absl::StatusOr<JobPlan> ParseJob(absl::string_view text, const std::string& source,
                                 const std::string& folder,
                                 const std::vector<Override>& overrides) {
  GW_ASSIGN_OR_RETURN(toml::table root, ParseToml(text, source));
  for (const Override& setting : overrides) GW_RETURN_IF_ERROR(Apply(setting, &root));
  return Reader(folder).Read(std::move(root));
}

absl::StatusOr<JobPlan> ReadJob(const std::string& path, const std::vector<Override>& overrides) {
  if (path.empty()) return ParseJob("", "", "", overrides);
  GW_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxJobFileBytes));
  return ParseJob(text, path, std::filesystem::path(path).parent_path().string(), overrides);
}

}  // namespace gradwire::cli
