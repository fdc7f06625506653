// Every row of the op table holds what tests/support/conformance.h says. One test a row, so that
// ctest runs them side by side and a failure names the op.
#include <gtest/gtest.h>

#include <iostream>
#include <map>

#include "absl/strings/str_cat.h"
#include "engine/ops/all_ops.h"
#include "tests/support/conformance.h"

namespace gradwire {
namespace {

// What a test is about; its name is what ctest shows.
struct Subject {
  std::string name;
  const OpDef* op = nullptr;
};
void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }
std::string NameOf(const testing::TestParamInfo<Subject>& info) { return info.param.name; }

std::vector<Subject> Rows() {
  std::vector<Subject> out;
  for (const OpDef* op : AllOps().rows()) out.push_back({std::string(op->name), op});
  return out;
}

// Each row once a process, whichever tests are run.
const RowReport& ReportOf(const OpDef& op) {
  static const auto* const conformance = new Conformance();
  static auto* const reports = new std::map<const OpDef*, RowReport>();
  auto known = reports->find(&op);
  if (known == reports->end()) known = reports->emplace(&op, conformance->CheckRow(op)).first;
  return known->second;
}

class OpsConformanceTest : public testing::TestWithParam<Subject> {};

TEST_P(OpsConformanceTest, Holds) {
  const RowReport& report = ReportOf(*GetParam().op);
  EXPECT_GT(report.cases, 0);
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  EXPECT_TRUE(report.gradient_checks > 0 || !report.no_gradient_check.empty());
  std::cout << "conformance: " << GetParam().name << ": " << report.cases << " cases, "
            << report.checks << " checks\n";
}

INSTANTIATE_TEST_SUITE_P(Ops, OpsConformanceTest, testing::ValuesIn(Rows()), NameOf);

std::vector<Subject> Total() {
  size_t cases = 0;
  for (const OpDef* op : AllOps().rows()) cases += PlanCases(*op).size();
  return {{absl::StrCat(AllOps().rows().size(), "_ops_in_", cases, "_cases")}};
}

class ConformanceTotalTest : public testing::TestWithParam<Subject> {};

// Its name carries the counts into ctest's own list; its output has the rest.
TEST_P(ConformanceTotalTest, IsPrinted) {
  int64_t cases = 0, checks = 0, compared = 0, failures = 0;
  for (const OpDef* op : AllOps().rows()) {
    const RowReport& report = ReportOf(*op);
    cases += report.cases;
    checks += report.checks;
    failures += static_cast<int64_t>(report.failures.size());
    compared += report.gradient_checks > 0 ? 1 : 0;
    if (report.gradient_checks == 0) {
      std::cout << "no gradient check of " << op->name << ": " << report.no_gradient_check << "\n";
    }
  }
  std::cout << "conformance: " << AllOps().rows().size() << " ops, " << checks << " checks ("
            << cases << " cases; gradients of " << compared << " ops)" << std::endl;
  EXPECT_EQ(failures, 0) << "the tests of the rows say which";
}

INSTANTIATE_TEST_SUITE_P(Ops, ConformanceTotalTest, testing::ValuesIn(Total()), NameOf);

}  // namespace
}  // namespace gradwire
