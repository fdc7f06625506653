#include "server/core/ops_page.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "engine/base/overloaded.h"
#include "engine/engine.h"
#include "server/core/op_probe.h"

namespace gradwire::server {
namespace {

// Opsets of one ONNX name; bindings that follow on each other are one range.
struct Spelling {
  std::string name;
  bool ours;
  int first, last;
};

std::vector<Spelling> SpellingsOf(const OpDef& op) {
  std::vector<Spelling> out;
  for (const OnnxBinding& binding : op.onnx) {
    const bool ours = !binding.domain.empty();
    const OpsetRange opsets = OpsetsOf(binding);
    if (opsets.empty()) continue;
    const Spelling next = {absl::StrCat(binding.domain, ours ? "." : "", binding.name), ours,
                           opsets.first, opsets.last};
    auto joins = std::find_if(out.begin(), out.end(), [&](const Spelling& known) {
      return known.name == next.name && known.last + 1 == next.first;
    });
    if (joins != out.end()) {
      joins->last = next.last;
    } else {
      out.push_back(next);
    }
  }
  return out;
}

std::string OnnxColumn(const OpDef& op) {
  std::string out;
  for (const Spelling& s : SpellingsOf(op)) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", s.name);
    if (!s.ours) absl::StrAppend(&out, " ", s.first, "-", s.last);
  }
  return out.empty() ? "-" : out;
}

std::string DerivativeColumn(const OpDef& op) {
  if (op.infer == nullptr) return "of its parts";
  return std::visit(
      Overloaded{
          [](const Zero&) { return std::string("zero"); },
          [](const Elementwise&) { return std::string("elementwise"); },
          [](const Linear&) { return std::string("linear"); },
          [](const Bilinear&) { return std::string("bilinear"); },
          [](const General&) { return std::string("general"); },
          [](const NotDifferentiable& rule) { return absl::StrCat("none: ", rule.why); },
      },
      op.derivative);
}

// What trying the row's samples shows, all bindings together.
struct Found {
  std::vector<DType> types;
  bool vjp = false, jvp = false, second = false;
};

Found TryOut(const OpDef& op) {
  Found out;
  for (const OnnxBinding& binding : op.onnx) {
    const OpsetRange opsets = OpsetsOf(binding);
    if (opsets.empty()) continue;
    const OpProbe probe = ProbeOp(op, binding, opsets);
    out.types.insert(out.types.end(), probe.dtypes.begin(), probe.dtypes.end());
    out.vjp |= probe.vjp;
    out.jvp |= probe.jvp;
    out.second |= probe.second;
  }
  std::sort(out.types.begin(), out.types.end());
  out.types.erase(std::unique(out.types.begin(), out.types.end()), out.types.end());
  return out;
}

// "f32 f64 ints bool": all fixed-width types of a kind are one word.
std::string TypesColumn(const std::vector<DType>& types) {
  const auto count = [&](auto is) { return std::count_if(types.begin(), types.end(), is); };
  std::vector<std::string> words;
  const auto has = [&](DType t) { return std::find(types.begin(), types.end(), t) != types.end(); };
  if (has(DType::kFloat)) words.push_back("f32");
  if (has(DType::kDouble)) words.push_back("f64");
  if (has(DType::kFloat16) || has(DType::kBfloat16)) words.push_back("f16/bf16");
  if (count(IsInteger) == 8) {
    words.push_back("ints");
  } else {
    for (DType t : types) {
      if (IsInteger(t)) words.push_back(absl::AsciiStrToLower(DTypeName(t)));
    }
  }
  if (has(DType::kBool)) words.push_back("bool");
  return words.empty() ? "-" : absl::StrJoin(words, " ");
}

std::string WaysColumn(const Found& found) {
  std::string out = found.types.empty() ? "-" : "value";
  if (found.vjp) out += " vjp";
  if (found.jvp) out += " jvp";
  if (found.second) out += " 2nd";
  return out;
}

std::string LoweringColumn(const OpDef& op) {
  if (op.infer == nullptr) return "other ops";
  return std::visit(Overloaded{
                        [](const NoLowering&) { return std::string("reference"); },
                        [](const Pointwise&) { return std::string("pointwise"); },
                        [](const Reduce&) { return std::string("reduction"); },
                        [](const View&) { return std::string("view"); },
                        [](const Primitive&) { return std::string("primitive"); },
                    },
                    op.lowering);
}

}  // namespace

std::string OpsPage(const OpRegistry& registry) {
  size_t composites = 0;
  for (const OpDef* op : registry.rows()) composites += op->infer == nullptr ? 1 : 0;
  std::string out = absl::StrCat(
      "# Ops\n\n"
      "Generated from the op table; a test compares this page with it. ",
      registry.rows().size(), " ops: ", registry.rows().size() - composites,
      " that stand in graphs and ", composites,
      " that import says with those.\n\n"
      "- **ONNX**: names and the opsets they are read in; `gradwire.` is our own domain; `-` has no"
      " spelling and arises in derivatives.\n"
      "- **Types**: element types that it computes with, `ints` for all of them.\n"
      "- **Ways**: what was tried on a sample and works: the value, reverse mode (vjp), forward "
      "mode"
      " (jvp), forward over reverse (2nd: Hessian-vector products).\n"
      "- **Derivative**: the kind of rule; forward and reverse mode follow from it.\n"
      "- **Runs as**: what the compiler makes of it. Everything also has a reference loop.\n\n"
      "| Op | ONNX | Types | Ways | Derivative | Runs as | Meaning |\n"
      "|---|---|---|---|---|---|---|\n");
  for (const OpDef* op : registry.rows()) {
    const Found found = TryOut(*op);
    absl::StrAppend(&out, "| ", op->name, " | ", OnnxColumn(*op), " | ", TypesColumn(found.types),
                    " | ", WaysColumn(found), " | ", DerivativeColumn(*op), " | ",
                    LoweringColumn(*op), " | ",
                    absl::StrReplaceAll(op->doc, {{"|", "\\|"}, {"\n", " "}}), " |\n");
  }
  return out;
}

}  // namespace gradwire::server
