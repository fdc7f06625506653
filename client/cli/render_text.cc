#include "client/cli/render_text.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/cli/text.h"
#include "client/format.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

constexpr char kBoldCyan[] = "\x1b[1;36m";
constexpr char kBoldRed[] = "\x1b[1;31m";
constexpr char kPlain[] = "\x1b[0m";

// Labels wider than this do not push the others to the right.
constexpr size_t kMaxLabelWidth = 32;
// Of an analysis; JSON has them all.
constexpr size_t kMaxListedValues = 20;
// Labels at each end of a long path.
constexpr size_t kPathEnd = 4;

struct Line {
  std::string label;
  const Tensor* value;
};

std::vector<Line> LinesOf(const Answer& answer) {
  std::vector<Line> lines;
  if (answer.value) lines.push_back({Printable(answer.value_name), &*answer.value});
  if (answer.outputs) {
    for (const auto& [name, tensor] : *answer.outputs) lines.push_back({Printable(name), &tensor});
  }
  if (answer.gradients) {
    for (const auto& [name, tensor] : *answer.gradients) {
      lines.push_back({Printable(absl::StrCat("d", answer.value_name, "/d", name)), &tensor});
    }
  }
  for (size_t k = 0; k < answer.vectors.size(); ++k) {
    const std::string number = answer.vectors.size() > 1 ? absl::StrCat(k + 1) : "";
    for (const auto& [name, tensor] : answer.vectors[k]) {
      lines.push_back(
          {Printable(absl::StrCat("(", answer.vectors_symbol, "v", number, ")[", name, "]")),
           &tensor});
    }
  }
  return lines;
}

// One side of a matrix: names, with the shapes of what they are of, and where each begins.
struct Side {
  std::vector<std::string> labels;
  std::map<std::string, int64_t> begins;
  int64_t size = 0;

  void Add(const std::string& name, const Shape& shape) {
    if (!begins.try_emplace(name, size).second) return;
    size += shape.num_elements();
    labels.push_back(absl::StrCat(Printable(name), shape.rank() > 0 ? shape.ToString() : ""));
  }
  std::string ToString() const { return absl::StrJoin(labels, ", "); }
};

// All blocks as one matrix.
struct Matrix {
  Side rows, columns;
  Tensor values;
};

Matrix MatrixOf(const std::vector<Block>& blocks) {
  Matrix out;
  const auto column_shape = [](const Block& block) {
    const Dims& dims = block.values.shape().dims();
    return Shape(Dims(dims.begin() + block.row_rank, dims.end()));
  };
  for (const Block& block : blocks) {
    const Dims& dims = block.values.shape().dims();
    out.rows.Add(block.row, Shape(Dims(dims.begin(), dims.begin() + block.row_rank)));
    out.columns.Add(block.column, column_shape(block));
  }
  out.values = Tensor(TensorType{DType::kDouble, Shape({out.rows.size, out.columns.size})});
  for (const Block& block : blocks) {
    const int64_t width = column_shape(block).num_elements();
    double* to = out.values.mutable_data<double>() +
                 out.rows.begins.at(block.row) * out.columns.size +
                 out.columns.begins.at(block.column);
    for (int64_t i = 0; i < block.values.num_elements(); ++i) {
      to[i / width * out.columns.size + i % width] = ElementAsDouble(block.values, i);
    }
  }
  return out;
}

std::string InfoAsText(const CallInfo& info) {
  return NameTable({{"graph", info.graph_digest},
                    {"plan", absl::StrCat(info.plan_digest, info.cache_hit ? " (cached)" : "")},
                    {"compile", absl::FormatDuration(info.compile_time)},
                    {"queue", absl::FormatDuration(info.queue_time)},
                    {"compute", absl::FormatDuration(info.compute_time)},
                    {"peak", BytesText(info.peak_bytes)},
                    {"flops", absl::StrCat(info.flops)},
                    {"threads", absl::StrCat(info.threads)},
                    {"engine", absl::StrCat(info.engine_version, " ", info.cpu_isa)}});
}

}  // namespace

std::string AnswerAsText(const Answer& answer, bool show_info, bool colour) {
  std::vector<Line> lines = LinesOf(answer);
  Matrix matrix;
  if (answer.block_names != nullptr) {
    matrix = MatrixOf(answer.blocks);
    lines.push_back({answer.block_names->symbol, &matrix.values});
  }
  size_t width = 0;
  for (const Line& line : lines) {
    if (line.label.size() <= kMaxLabelWidth) width = std::max(width, line.label.size());
  }
  std::string out;
  for (const Line& line : lines) {
    const size_t padding = width - std::min(width, line.label.size());
    absl::StrAppend(&out, std::string(padding, ' '), colour ? kBoldCyan : "", line.label,
                    colour ? kPlain : "", " = ");
    const auto indent = static_cast<int>(padding + line.label.size() + 3);
    absl::StrAppend(&out, FormatTensor(*line.value, {.indent = indent}), "\n");
  }
  if (answer.block_names != nullptr) {
    absl::StrAppend(&out, "\nrows of ", answer.block_names->symbol, ": ", matrix.rows.ToString(),
                    "\ncolumns: ", matrix.columns.ToString(), "\n");
  }
  if (show_info) absl::StrAppend(&out, "\n", InfoAsText(answer.info));
  return out;
}

namespace {

// Of the tensors whose shape is known.
int64_t CountOf(const std::vector<GraphAnalysis::Value>& values) {
  int64_t count = 0;
  for (const GraphAnalysis::Value& value : values) {
    int64_t elements = value.has_rank ? 1 : 0, extent = 0;
    for (const std::string& text : value.shape) {
      elements = absl::SimpleAtoi(text, &extent) ? SaturatingMul(elements, extent) : 0;
    }
    count = SaturatingAdd(count, elements);
  }
  return count;
}

}  // namespace

std::string CheckAsText(const CheckResult& result, const std::string& value_name, bool colour) {
  constexpr const char* kVerdicts[] = {"ok", "WRONG", "kink"};
  std::vector<std::vector<std::string>> rows = {
      {"by", "verdict", "worst at", "reverse mode", "differences", "error", "compared"}};
  for (const CheckResult::Entry& e : result.worst) {
    const std::string at = e.compared == 0 ? "-"
                           : e.is_direction
                               ? "a direction"
                               : absl::StrCat("[", absl::StrJoin(e.coordinates, ","), "]");
    rows.push_back({Printable(absl::StrCat("d", value_name, "/d", e.wrt)),
                    kVerdicts[static_cast<int>(e.verdict)], at,
                    absl::StrFormat("%.12g", e.analytic), absl::StrFormat("%.12g", e.numeric),
                    absl::StrFormat("%.1e", e.error), absl::StrCat(e.compared)});
  }
  std::string out = AlignedTable(rows);
  std::vector<std::pair<std::string, std::string>> rest;
  if (result.adjoint_error) {
    rest.emplace_back("forward beside reverse mode",
                      absl::StrFormat("error %.1e", *result.adjoint_error));
  }
  rest.emplace_back("second order", result.second_order_error
                                        ? absl::StrFormat("error %.1e", *result.second_order_error)
                                        : "has none here");
  const char* paint = !colour ? "" : result.passed ? kBoldCyan : kBoldRed;
  absl::StrAppend(&out, "\n", NameTable(rest), "\n", paint,
                  result.passed ? "The derivatives agree." : "SOME DERIVATIVES ARE WRONG.",
                  colour ? kPlain : "", "\n");
  return out;
}

std::string AnalysisAsText(const GraphAnalysis& a, bool colour) {
  std::vector<std::pair<std::string, std::string>> rows;
  const auto add_values = [&rows](const char* role, const auto& values) {
    for (size_t i = 0; i < values.size() && i < kMaxListedValues; ++i) {
      const GraphAnalysis::Value& value = values[i];
      const std::string shape =
          value.has_rank ? absl::StrCat("[", absl::StrJoin(value.shape, ","), "]") : "";
      rows.emplace_back(
          role, absl::StrCat(Printable(value.name), "  ",
                             value.dtype == DType::kUndefined ? "as sent"
                                                              : std::string(DTypeName(value.dtype)),
                             shape));
    }
    if (values.size() > kMaxListedValues) {
      rows.emplace_back(role, absl::StrCat("... ", values.size() - kMaxListedValues, " more"));
    }
  };
  add_values("input", a.inputs);
  add_values("parameter", a.parameters);
  add_values("output", a.outputs);
  std::vector<std::string> ops;
  for (const GraphAnalysis::OpUse& use : a.ops) {
    ops.push_back(absl::StrCat(Printable(use.name),
                               use.count > 1 ? absl::StrCat(" x", use.count) : "",
                               use.supported ? "" : " (not supported)"));
  }
  rows.emplace_back("parameters", absl::StrCat(CountOf(a.parameters), " numbers in ",
                                               a.parameters.size(), " tensors"));
  rows.emplace_back("nodes",
                    absl::StrCat(a.node_count, ops.empty() ? "" : ": ", absl::StrJoin(ops, ", ")));
  const auto add_cost = [&rows](const char* of, const GraphAnalysis::Cost& c) {
    rows.emplace_back(of,
                      absl::StrCat(c.nodes, " nodes in ", c.steps, " steps, ", c.flops,
                                   " flops, working memory ", BytesText(c.peak_bytes), ", in ",
                                   BytesText(c.input_bytes), ", out ", BytesText(c.output_bytes)));
  };
  if (a.computable) add_cost("value", a.value_cost);
  if (a.differentiable) add_cost("gradient", a.gradient_cost);
  if (a.differentiable) {
    std::vector<std::string> names;
    for (const std::string& name : a.wrt) names.push_back(Printable(name));
    rows.emplace_back("wrt", absl::StrJoin(names, ", "));
  }
  std::string out = NameTable(rows);
  for (const GraphAnalysis::Issue& issue : a.issues) {
    absl::StrAppend(&out, colour ? kBoldRed : "", issue.reason, colour ? kPlain : "", ": ",
                    Printable(issue.where), issue.where.empty() ? "" : ": ", issue.message, "\n");
    std::vector<std::string> path;
    for (size_t i = 0; i < issue.path.size(); ++i) {
      const size_t left = issue.path.size() - i;
      if (i < kPathEnd || left <= kPathEnd) path.push_back(Printable(issue.path[i]));
      if (i == kPathEnd && left > kPathEnd) path.push_back(absl::StrCat("... ", left - kPathEnd));
    }
    if (!path.empty()) absl::StrAppend(&out, "  needed by: ", absl::StrJoin(path, " <- "), "\n");
  }
  return out;
}

namespace {

std::string NamesOf(const std::vector<Choice>& choices) {
  return absl::StrJoin(choices, " ",
                       [](std::string* out, const Choice& c) { out->append(c.name); });
}

}  // namespace

std::string CapabilitiesAsText(const ServerCapabilities& c, absl::string_view address) {
  std::set<std::pair<std::string, std::string>> ops;
  std::set<std::pair<std::string, std::string>> differentiable;
  for (const SupportedOp& op : c.ops) {
    ops.emplace(op.domain, op.name);
    if (op.vjp || op.jvp) differentiable.emplace(op.domain, op.name);
  }
  std::string out = NameTable(
      {{"server", std::string(address)},
       {"engine", c.engine_version},
       {"oneDNN", c.onednn_version},
       {"gRPC", c.grpc_version},
       {"protobuf", c.protobuf_version},
       {"ISA", c.cpu_isa},
       {"workers", absl::StrCat(c.workers, ", of up to ", c.threads, " threads")},
       {"ops", absl::StrCat(ops.size(), ", of which ", differentiable.size(), " differentiable")},
       {"losses", NamesOf(c.losses)},
       {"optimizers", NamesOf(c.optimizers)},
       {"schedules", NamesOf(c.schedules)},
       {"opsets", absl::StrCat(c.min_opset, " to ", c.max_opset)},
       {"message limit", BytesText(c.max_message_bytes)},
       {"memory limit", BytesText(c.memory_limit_bytes)},
       {"program cache", BytesText(c.program_cache_bytes)},
       {"node limit", absl::StrCat(c.max_nodes)},
       {"rank limit", absl::StrCat(c.max_rank)},
       {"durability", c.memory_only ? "memory only: nothing survives a restart"
                                    : "on disk: what is acknowledged survives"},
       {"self-check", c.self_checks == 0
                          ? "off"
                          : absl::StrCat(c.self_checks, " comparisons, ", c.unused_kernels.size(),
                                         " kernels not used")}});
  for (const UnusedKernel& kernel : c.unused_kernels) {
    absl::StrAppend(&out, "  ", kernel.provider, ": ", kernel.kernel, ": ", kernel.detail, "\n");
  }
  return out;
}

std::string ErrorAsText(const absl::Status& status, absl::string_view local_reason, bool colour) {
  std::string reason = ReasonNameOf(status);
  if (reason.empty()) reason = std::string(local_reason);
  if (reason.empty()) reason = absl::StatusCodeToString(status.code());
  std::string out = absl::StrCat(colour ? kBoldRed : "", "error", colour ? kPlain : "", ": ",
                                 reason, ": ", status.message(), "\n");
  for (const Violation& violation : ViolationsOf(status)) {
    const std::string line =
        absl::StrCat(violation.where, violation.where.empty() ? "" : ": ", violation.what);
    if (line == status.message()) continue;
    absl::StrAppend(&out, "  ", absl::StrReplaceAll(line, {{"\n", "\n  "}}), "\n");
  }
  return out;
}

}  // namespace gradwire::cli
