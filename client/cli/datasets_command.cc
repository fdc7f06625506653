#include "client/cli/datasets_command.h"

#include <cmath>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/cli/message_json.h"
#include "client/cli/names.h"
#include "client/cli/render_jobs.h"
#include "client/cli/report.h"
#include "client/cli/status_line.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

// A number, or one by another: 1/255.
absl::StatusOr<double> ParseScale(const std::string& text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  double over = 0;
  double under = 1;
  const bool ok = parts.size() <= 2 && absl::SimpleAtod(parts[0], &over) &&
                  (parts.size() == 1 || absl::SimpleAtod(parts[1], &under)) &&
                  std::isfinite(over / under);
  if (ok) return over / under;
  return absl::InvalidArgumentError(
      absl::StrCat("--scale: got '", text, "', expected a number, as 0.5 or 1/255"));
}

// 28x28
absl::StatusOr<std::vector<int64_t>> ParseShape(const std::string& text) {
  std::vector<int64_t> shape;
  for (absl::string_view part : absl::StrSplit(text, 'x')) {
    int64_t extent;
    if (!absl::SimpleAtoi(part, &extent) || extent < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--shape: got '", text, "', expected the extents of a row, as 28x28"));
    }
    shape.push_back(extent);
  }
  return shape;
}

// Settings with one value for each column.
template <typename Value, typename Parse>
absl::Status ReadSettings(const char* option, const std::vector<std::string>& lists,
                          const Parse& parse, std::map<std::string, Value>* out) {
  GW_ASSIGN_OR_RETURN(const auto entries, ParseMap(option, lists));
  for (const auto& [column, values] : entries) {
    if (values.size() != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(option, ": ", column, " has ", values.size(), " values, expected one"));
    }
    auto value = parse(values.front());
    if (!value.ok()) {
      const absl::string_view message = value.status().message();
      return absl::InvalidArgumentError(absl::StartsWith(message, "--")
                                            ? std::string(message)
                                            : absl::StrCat(option, ": ", message));
    }
    (*out)[column] = *value;
  }
  return absl::OkStatus();
}

absl::Status ReadRows(const char* option, const std::string& text, std::optional<RowSlice>* out) {
  if (text.empty()) return absl::OkStatus();
  const absl::StatusOr<RowSlice> slice = ParseRowSlice(text);
  if (!slice.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", slice.status().message()));
  }
  *out = *slice;
  return absl::OkStatus();
}

absl::Status CheckImport(const RawArguments& raw, Arguments* out) {
  FileImport& import = out->import;
  import.files = raw.words;
  import.display_name = raw.display_name;
  GW_ASSIGN_OR_RETURN(import.columns, ParseMap("--columns", raw.columns));
  GW_RETURN_IF_ERROR(ReadSettings("--dtype", raw.dtypes, ParseDType, &import.dtypes));
  GW_RETURN_IF_ERROR(ReadSettings("--scale", raw.scales, ParseScale, &import.scales));
  GW_RETURN_IF_ERROR(ReadSettings("--shape", raw.shapes, ParseShape, &import.shapes));
  GW_RETURN_IF_ERROR(ReadRows("--rows", raw.rows, &import.rows));
  GW_RETURN_IF_ERROR(ReadRows("--except", raw.except, &import.except));
  if (import.rows && import.except) {
    return absl::InvalidArgumentError("--rows and --except exclude each other");
  }
  if (!raw.resume.empty()) out->upload.resume = WithCollection("datasets", raw.resume);
  if (!raw.ttl.empty()) {
    GW_ASSIGN_OR_RETURN(out->upload.ttl, ParsePeriod("--ttl", raw.ttl));
  }
  return absl::OkStatus();
}

}  // namespace

void AddDatasetOptions(Command command, CLI::App* app, RawArguments* raw) {
  if (command != Command::kDatasetsImport) {
    app->add_option("NAME", raw->words, "datasets/{id}, or {id} alone")
        ->type_name("NAME")
        ->required();
    return;
  }
  app->add_option("FILE", raw->words, ".npz, .npy, .csv, or IDX")->type_name("FILE")->required();
  AddText(app, "--name", &raw->display_name, "TEXT", "What people see [the first file's name]");
  AddList(app, "--columns", &raw->columns, "COLUMN=ARRAY,...",
          "Arrays to take; several, x=a,b,c, become one column of vectors [all, by their names]");
  AddList(app, "--dtype", &raw->dtypes, "COLUMN=TYPE,...", "Element types [as in the file]");
  AddList(app, "--scale", &raw->scales, "COLUMN=NUMBER,...", "Factors, such as x=1/255");
  AddList(app, "--shape", &raw->shapes, "COLUMN=AxB,...", "Shapes of a row, such as x=1x28x28");
  AddText(app, "--rows", &raw->rows, "START:STOP:STEP", "Rows to take, counted from 0 [all]");
  AddText(app, "--except", &raw->except, "START:STOP:STEP", "Rows to leave out [none]");
  AddText(app, "--resume", &raw->resume, "NAME", "Go on with an upload that broke off");
  AddText(app, "--ttl", &raw->ttl, "DURATION", "Delete it after so long, such as 12h [kept]");
}

absl::Status CheckDatasets(const RawArguments& raw, Arguments* out) {
  if (out->command == Command::kDatasetsImport) return CheckImport(raw, out);
  for (const std::string& word : raw.words) out->names.push_back(WithCollection("datasets", word));
  return absl::OkStatus();
}

absl::StatusOr<v1::Dataset> UploadFiles(const Client& client, const FileImport& import,
                                        ImportOptions options, const Arguments& arguments,
                                        const Console& console) {
  GW_ASSIGN_OR_RETURN(const NamedTensors columns, OrLocal(ReadColumns(import)));
  StatusLine line(console.err, console.width_err);
  options.display_name = import.display_name;
  if (options.display_name.empty()) {
    options.display_name = std::filesystem::path(import.files.front()).filename().string();
  }
  options.upload.patience.deadline = arguments.long_deadline;
  options.upload.patience.on_outage = [&line](const absl::Status&) {
    if (line.IsDue()) line.Update("server gone, waiting ...");
  };
  options.upload.progress = ShowTransfer("uploading", &line);
  return DatasetClient(client).Import(columns, options);
}

absl::StatusOr<int> RunDatasetsImport(const Client& client, const Arguments& arguments,
                                      const Console& console) {
  GW_ASSIGN_OR_RETURN(const v1::Dataset dataset,
                      UploadFiles(client, arguments.import, arguments.upload, arguments, console));
  if (arguments.json) {
    *console.out << MessageAsJson(dataset) << "\n";
  } else {
    *console.out << dataset.name() << "\n";
  }
  return kOk;
}

absl::StatusOr<int> RunDatasetsList(const Client& client, const Arguments& arguments,
                                    const Console& console) {
  GW_ASSIGN_OR_RETURN(const std::vector<v1::Dataset> datasets,
                      DatasetClient(client).List(arguments.call.deadline));
  if (arguments.json) {
    *console.out << MessagesAsJson("datasets", datasets) << "\n";
  } else {
    *console.out << DatasetsAsText(datasets, absl::Now());
  }
  return kOk;
}

absl::StatusOr<int> RunDatasetsShow(const Client& client, const Arguments& arguments,
                                    const Console& console) {
  for (const std::string& name : arguments.names) {
    GW_ASSIGN_OR_RETURN(const v1::Dataset dataset,
                        DatasetClient(client).Get(name, arguments.call.deadline));
    *console.out << (arguments.json ? MessageAsJson(dataset) + "\n"
                                    : DatasetAsText(dataset, absl::Now()));
  }
  return kOk;
}

absl::StatusOr<int> RunDatasetsDelete(const Client& client, const Arguments& arguments,
                                      const Console& console) {
  for (const std::string& name : arguments.names) {
    GW_RETURN_IF_ERROR(DatasetClient(client).Delete(name, arguments.call.deadline));
    if (!arguments.json) *console.out << name << " is deleted\n";
  }
  if (arguments.json) *console.out << DeletedAsJson(arguments.names) << "\n";
  return kOk;
}

}  // namespace gradwire::cli
