#include "engine/ops/describe.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/base/overloaded.h"

namespace gradwire {
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
    const Spelling next = {absl::StrCat(binding.domain, ours ? "." : "", binding.name), ours,
                           ours ? binding.since : std::max(binding.since, kFirstDescribedOpset),
                           ours ? binding.until : std::min(binding.until, kLastDescribedOpset)};
    if (next.first > next.last) continue;
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

std::string DescribeOps(const OpRegistry& registry) {
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
      "- **Derivative**: the kind of rule; forward and reverse mode follow from it.\n"
      "- **Runs as**: what the compiler makes of it. Everything also has a reference loop.\n\n"
      "| Op | ONNX | Derivative | Runs as | Meaning |\n"
      "|---|---|---|---|---|\n");
  for (const OpDef* op : registry.rows()) {
    absl::StrAppend(&out, "| ", op->name, " | ", OnnxColumn(*op), " | ", DerivativeColumn(*op),
                    " | ", LoweringColumn(*op), " | ",
                    absl::StrReplaceAll(op->doc, {{"|", "\\|"}, {"\n", " "}}), " |\n");
  }
  return out;
}

}  // namespace gradwire
