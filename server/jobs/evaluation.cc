#include "server/jobs/evaluation.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status.h"

namespace gradwire::jobs {
namespace {

constexpr const char* kMetrics[] = {"loss", "accuracy", "top_k", "mae", "r2", "auc"};
constexpr int64_t kTopK = 5;

// What the metrics of all batches come to.
struct Totals {
  double rows = 0, loss = 0;
  double classified = 0, right = 0, among_top = 0;
  double numbers = 0, absolute = 0, squared = 0, sum = 0, sum_of_squares = 0;
  std::vector<std::pair<double, bool>> scores;
};

void CountClasses(const TensorView& prediction, const TensorView& target, Totals* t) {
  const int64_t rows = target.num_elements();
  const int64_t classes = rows == 0 ? 0 : prediction.num_elements() / rows;
  for (int64_t r = 0; r < rows; ++r) {
    const auto truth = static_cast<int64_t>(ElementAsDouble(target, r));
    t->classified += 1;
    if (truth < 0 || truth >= classes) continue;
    const double score = ElementAsDouble(prediction, r * classes + truth);
    int64_t before = 0;  // classes that come before the truth
    for (int64_t c = 0; c < classes; ++c) {
      const double other = ElementAsDouble(prediction, r * classes + c);
      before += other > score || (other == score && c < truth);
    }
    t->right += before == 0;
    t->among_top += before < kTopK;
  }
}

void CountNumbers(const TensorView& prediction, const TensorView& target, Totals* t) {
  for (int64_t i = 0; i < target.num_elements(); ++i) {
    const double y = ElementAsDouble(target, i), error = ElementAsDouble(prediction, i) - y;
    t->numbers += 1;
    t->absolute += std::abs(error);
    t->squared += error * error;
    t->sum += y;
    t->sum_of_squares += y * y;
  }
}

double AreaUnderCurve(std::vector<std::pair<double, bool>> scores) {
  std::sort(scores.begin(), scores.end());
  double positives = 0, negatives = 0, area = 0;
  for (size_t i = 0; i < scores.size();) {
    double p = 0, n = 0;
    const double score = scores[i].first;
    for (; i < scores.size() && scores[i].first == score; ++i) (scores[i].second ? p : n) += 1;
    area += p * (negatives + n / 2);
    positives += p;
    negatives += n;
  }
  return positives * negatives > 0 ? area / (positives * negatives) : std::nan("");
}

class ProgramEvaluator final : public Evaluator {
 public:
  ProgramEvaluator(const Shared& shared, const v1::TrainingJob& job, const JobModel& model)
      : shared_(shared), job_(job), model_(model) {}

  absl::Status Build() {
    const v1::Evaluation& e = job_.evaluation();
    GW_ASSIGN_OR_RETURN(data_, shared_.datasets->Open(e.dataset()));
    GW_ASSIGN_OR_RETURN(columns_, MatchColumns(model_, job_, *data_));
    Problems problems;
    bool looks = false;
    for (const std::string& metric : e.metrics()) {
      if (std::find(std::begin(kMetrics), std::end(kMetrics), metric) == std::end(kMetrics)) {
        problems.Add(
            Reason::kInvalidSpec, "evaluation.metrics",
            absl::StrCat("there is no \"", metric, "\", but loss, accuracy, top_k, mae, r2, auc"));
      }
      looks |= metric != "loss";
      metrics_.insert(metric);
    }
    if (data_->rows == 0) problems.Add(Reason::kInvalidSpec, "evaluation.dataset", "has no rows");
    if (e.batch_size() < 0 || e.every_steps() < 0) {
      problems.Add(Reason::kInvalidSpec, "evaluation", "a number is negative");
    }
    const std::string& best = e.best_metric();
    if (!best.empty() && best != "loss" && metrics_.count(best) == 0) {
      problems.Add(Reason::kInvalidSpec, "evaluation.best_metric",
                   absl::StrCat("\"", best, "\" is none of evaluation.metrics"));
    }
    // What a loss by name compares is what metrics compare.
    const bool named = job_.loss().kind_case() == v1::Loss::kNamed;
    const std::string prediction =
        e.prediction().empty() && named ? model_.prediction : e.prediction();
    const std::string target_name = e.target().empty() && named ? kTargetInput : e.target();
    if (looks && (prediction.empty() || target_name.empty())) {
      problems.Add(Reason::kInvalidSpec, "evaluation",
                   "these metrics need `prediction`, a value of the model, and `target`, an input");
    }
    const auto target = std::find(model_.fed.begin(), model_.fed.end(), target_name);
    if (looks && target == model_.fed.end()) {
      problems.Add(Reason::kUnknownInput, "evaluation.target",
                   absl::StrCat("\"", target_name, "\" is no input that a column feeds"));
    }
    GW_RETURN_IF_ERROR(problems.ToStatus());
    if (looks) {
      prediction_ = prediction;
      target_ = static_cast<size_t>(target - model_.fed.begin());
    }
    std::vector<ColumnView> views;
    for (const SealedColumn* column : columns_) views.push_back(column->view);
    const int64_t rows = e.batch_size() > 0 ? e.batch_size() : model_.batch_size;
    reader_ = std::make_unique<BatchReader>(
        views, BatchOrderOptions{.rows = data_->rows,
                                 .batch_size = std::clamp<int64_t>(rows, 1, data_->rows)});
    // Whatever does not fit shows now, not after the first epoch.
    GW_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(reader_->Read({0, 0})));
    const Cost& cost = prepared.program->cost();
    bytes_ = {cost.arena_bytes, cost.output_bytes + reader_->bytes()};
    return absl::OkStatus();
  }

  EvaluationBytes bytes() const override { return bytes_; }

  absl::StatusOr<std::map<std::string, double>> Evaluate(Stepper& stepper, Arena& arena) override {
    Totals totals;
    for (int64_t i = 0; i < reader_->order().batches_per_epoch(); ++i) {
      GW_RETURN_IF_ERROR(EvaluateBatch(reader_->Read({0, i}), stepper, arena, &totals));
    }
    std::map<std::string, double> out = {{"loss", totals.loss / totals.rows}};
    const auto add = [&](const char* name, double value) {
      if (metrics_.count(name) > 0) out[name] = value;
    };
    add("accuracy", totals.right / totals.classified);
    add("top_k", totals.among_top / totals.classified);
    add("mae", totals.absolute / totals.numbers);
    const double mean = totals.sum / totals.numbers;
    const double spread = totals.sum_of_squares - totals.numbers * mean * mean;
    add("r2", 1 - totals.squared / spread);
    add("auc", AreaUnderCurve(std::move(totals.scores)));
    return out;
  }

 private:
  absl::StatusOr<Prepared> Prepare(const Batch& batch) {
    Computation computation{.kind = Computation::kValue, .outputs = {model_.loss}, .wrt = {}};
    if (!prediction_.empty() && prediction_ != model_.loss) {
      computation.outputs.push_back(prediction_);
    }
    computation.mode = Mode::kEval;
    computation.precision = model_.precision;
    GW_ASSIGN_OR_RETURN(Prepared prepared, shared_.engine->Prepare(*model_.loaded, computation,
                                                                   model_.Inputs(&batch)));
    GW_RETURN_IF_ERROR(model_.CheckFrozen(prepared.frozen, false));
    return prepared;
  }

  absl::Status EvaluateBatch(const Batch& batch, Stepper& stepper, Arena& arena, Totals* totals) {
    GW_ASSIGN_OR_RETURN(const Prepared prepared, Prepare(batch));
    const Program& program = *prepared.program;
    NamedViews values = model_.Inputs(&batch);
    for (const StateTensor& s : stepper.state()) values.insert_or_assign(s.name, *s.tensor);
    const Model& m = *model_.loaded->model;
    for (const ModelInitializer& init : m.initializers) {
      values.emplace(m.value_names[static_cast<size_t>(init.value)], TensorView(init.data));
    }
    static constexpr int64_t kSeed[2] = {0, 0};
    std::vector<Tensor> owned;
    Bindings bindings;
    for (const SignatureEntry& entry : program.signature().inputs) {
      if (entry.name == kSeedInput) {
        bindings.inputs.push_back(kSeed);
        continue;
      }
      const auto found = values.find(entry.name);
      if (found == values.end()) {
        return absl::InternalError(absl::StrCat("no value for ", entry.name));
      }
      if (found->second.dtype() == entry.type.dtype) {
        bindings.inputs.push_back(found->second.raw());
      } else {
        owned.push_back(Converted(found->second, entry.type.dtype));
        bindings.inputs.push_back(owned.back().raw());
      }
    }
    std::map<std::string, Tensor> outputs;
    for (const SignatureEntry& entry : program.signature().outputs) {
      GW_ASSIGN_OR_RETURN(outputs[entry.name], Tensor::Make(entry.type));
      bindings.outputs.push_back(outputs[entry.name].mutable_raw());
    }
    const auto claim = shared_.claim_processors(program.threads());
    RunContext context{.arena = &arena};
    GW_RETURN_IF_ERROR(program.Run(bindings, context));
    const auto rows = static_cast<double>(batch.rows);
    totals->rows += rows;
    totals->loss += rows * ElementAsDouble(outputs.at(model_.loss), 0);
    if (prediction_.empty()) return absl::OkStatus();
    return Count(outputs.at(prediction_), batch.tensors[target_], totals);
  }

  absl::Status Count(const Tensor& prediction, const Tensor& target, Totals* totals) {
    const int64_t p = prediction.num_elements(), n = target.num_elements();
    const bool classes = metrics_.count("accuracy") + metrics_.count("top_k") > 0;
    const bool numbers = metrics_.count("mae") + metrics_.count("r2") + metrics_.count("auc") > 0;
    if ((classes && (n == 0 || p % n != 0)) || (numbers && p != n)) {
      return Error(Reason::kShapeMismatch,
                   absl::StrCat("evaluation: prediction ", prediction.type().ToString(),
                                " does not fit target ", target.type().ToString()));
    }
    if (classes) CountClasses(prediction, target, totals);
    if (numbers) CountNumbers(prediction, target, totals);
    if (metrics_.count("auc") > 0) {
      for (int64_t i = 0; i < n; ++i) {
        totals->scores.emplace_back(ElementAsDouble(prediction, i),
                                    ElementAsDouble(target, i) > 0.5);
      }
    }
    return absl::OkStatus();
  }

  const Shared& shared_;
  const v1::TrainingJob& job_;
  const JobModel& model_;
  std::shared_ptr<const SealedDataset> data_;
  std::vector<const SealedColumn*> columns_;
  std::set<std::string> metrics_;
  std::string prediction_;
  size_t target_ = 0;
  std::unique_ptr<BatchReader> reader_;
  EvaluationBytes bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Evaluator>> MakeEvaluator(const Shared& shared,
                                                         const v1::TrainingJob& job,
                                                         const JobModel& model) {
  auto evaluator = std::make_unique<ProgramEvaluator>(shared, job, model);
  GW_RETURN_IF_ERROR(evaluator->Build());
  return std::unique_ptr<Evaluator>(std::move(evaluator));
}

bool LessIsBetter(absl::string_view metric) { return metric == "loss" || metric == "mae"; }

}  // namespace gradwire::jobs
