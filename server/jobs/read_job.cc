#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/checked.h"
#include "engine/base/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "proto/codec/tensor_codec.h"
#include "proto/codec/time_codec.h"
#include "server/jobs/gradient_stepper.h"
#include "server/jobs/model_source.h"

namespace gradwire::jobs {
namespace {

// Each has a batch in memory.
constexpr int kMaxAccumulation = 1024;

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The message that is set in the oneof `kind`, and its field's name; null where none is.
const Message* KindOf(const Message& message, std::string* name) {
  const auto* kind = message.GetDescriptor()->FindOneofByName("kind");
  const FieldDescriptor* field = message.GetReflection()->GetOneofFieldDescriptor(message, kind);
  if (field == nullptr) return nullptr;
  *name = field->name();
  return &message.GetReflection()->GetMessage(message, field);
}

// The fields that are set, by name: numbers and flags, words, lists of numbers.
void ReadFields(const Message& message, ScheduleSpec* out) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  const auto* r = message.GetReflection();
  for (const FieldDescriptor* f : fields) {
    if (f->is_repeated()) {
      for (int i = 0; i < r->FieldSize(message, f); ++i) {
        out->milestones.push_back(r->GetRepeatedInt64(message, f, i));
      }
      continue;
    }
    switch (f->cpp_type()) {
      case FieldDescriptor::CPPTYPE_DOUBLE:
        out->numbers[f->name()] = r->GetDouble(message, f);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        out->numbers[f->name()] = static_cast<double>(r->GetInt64(message, f));
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        out->numbers[f->name()] = r->GetBool(message, f) ? 1 : 0;
        break;
      default:
        out->words[f->name()] = r->GetString(message, f);
    }
  }
}

class JobReader {
 public:
  JobReader(Engine& engine, const v1::TrainingJob& job) : engine_(engine), job_(job) {}

  absl::StatusOr<JobModel> Read(std::shared_ptr<const SealedDataset> data) {
    out_.data = std::move(data);
    ReadInputs();
    ReadOptimizer();
    ReadClip();
    ReadRest();
    if (const absl::Status loaded = LoadModel(); !loaded.ok()) {
      if (problems_.empty()) return loaded;
      problems_.Add(loaded, "model");
      return problems_.ToStatus();
    }
    FeedColumns();
    FindLoss();
    FindParameters();
    CountSteps();
    ReadSchedule();
    GW_RETURN_IF_ERROR(problems_.ToStatus());
    return std::move(out_);
  }

 private:
  void Spec(const std::string& where, const std::string& what) {
    problems_.Add(Reason::kInvalidSpec, where, what);
  }

  void ReadInputs() {
    for (const auto& [name, proto] : job_.inputs()) {
      const std::string where = absl::StrCat("inputs.", name);
      std::vector<Tensor> owned;
      const absl::StatusOr<TensorView> view = codec::ViewOf(proto, where, &owned);
      if (view.ok()) {
        out_.given[name] = Tensor::CopyOf(*view);
      } else {
        problems_.Add(view.status(), where);
      }
    }
  }

  void ReadOptimizer() {
    std::string name;
    const Message* settings = KindOf(job_.optimizer(), &name);
    if (settings == nullptr) return Spec("optimizer", "is required");
    ScheduleSpec fields;
    ReadFields(*settings, &fields);
    if (name == "lbfgs") {
      fields.numbers.try_emplace("strong_wolfe", 1);  // the one default that is not PyTorch's
      const auto lbfgs = Lbfgs::Make(fields.numbers);
      problems_.Add(lbfgs.status(), "");
      if (lbfgs.ok()) out_.lbfgs = *lbfgs;
      if (job_.accumulation() > 1) Spec("accumulation", "L-BFGS takes one batch a step");
      if (!job_.parameter_groups().empty()) {
        Spec("parameter_groups", "L-BFGS has none");
      }
      return;
    }
    const auto own = Optimizer::Make(name, fields.numbers);
    problems_.Add(own.status(), "optimizer");
    if (!own.ok()) return;
    out_.groups.push_back(*own);
    for (int i = 0; i < job_.parameter_groups_size(); ++i) {
      const v1::ParameterGroup& group = job_.parameter_groups(i);
      Hyperparameters changes;
      if (group.has_learning_rate()) changes["lr"] = group.learning_rate();
      if (group.has_weight_decay()) changes["weight_decay"] = group.weight_decay();
      const auto with = own->With(changes);
      problems_.Add(with.status(), absl::StrCat("parameter_groups[", i, "]"));
      out_.groups.push_back(with.ok() ? *with : *own);
    }
  }

  void ReadSchedule() {
    ScheduleSpec spec;
    std::string name;
    if (const Message* settings = KindOf(job_.schedule(), &name)) {
      spec.name = name;
      ReadFields(*settings, &spec);
    }
    if (spec.name == "one_cycle" && spec.numbers.count("total_steps") == 0 &&
        out_.total_steps > 0) {
      spec.numbers["total_steps"] = static_cast<double>(out_.total_steps);
    }
    const auto schedule = Schedule::Make(spec);
    problems_.Add(schedule.status(), "schedule");
    if (!schedule.ok()) return;
    out_.schedule = *schedule;
    for (Optimizer& group : out_.groups) {
      const auto under = group.Under(out_.schedule);
      problems_.Add(under.status(), "schedule");
      if (under.ok()) group = *under;
    }
  }

  void ReadClip() {
    const v1::Clip& clip = job_.clip();
    const auto set = [&](Clipping::Kind kind, double limit, const char* name) {
      out_.clip = {kind, limit};
      if (!(limit > 0) || !std::isfinite(limit)) {
        Spec(absl::StrCat("clip.", name), absl::StrCat("got ", limit, ", expected above 0"));
      }
    };
    if (clip.has_value()) set(Clipping::kValue, clip.value(), "value");
    if (clip.has_norm()) set(Clipping::kNorm, clip.norm(), "norm");
    if (clip.has_global_norm()) set(Clipping::kGlobalNorm, clip.global_norm(), "global_norm");
    if (out_.lbfgs && out_.clip.kind != Clipping::kNone) {
      Spec("clip", "L-BFGS does not clip");
    }
  }

  void ReadRest() {
    if (job_.display_name().size() > 256) Spec("display_name", "is longer than 256 bytes");
    out_.accumulation = std::max(job_.accumulation(), 1);
    if (job_.accumulation() < 0 || job_.accumulation() > kMaxAccumulation) {
      Spec("accumulation",
           absl::StrCat("got ", job_.accumulation(), ", expected 1 to ", kMaxAccumulation));
    }
    out_.batch_size = job_.batch_size();
    if (out_.data != nullptr) {
      if (job_.batch_size() <= 0) {
        Spec("batch_size", absl::StrCat("got ", job_.batch_size(), ", expected 1 or more"));
      } else if (out_.data->rows == 0) {
        Spec("dataset", "has no rows");
      } else if (job_.drop_last() && job_.batch_size() > out_.data->rows) {
        Spec("batch_size", absl::StrCat("is ", job_.batch_size(),
                                        ", with drop_last; the data set "
                                        "has only ",
                                        out_.data->rows, " rows"));
      }
      out_.batch_size = std::min<int64_t>(std::max<int64_t>(job_.batch_size(), 1),
                                          std::max<int64_t>(out_.data->rows, 1));
    } else if (job_.stop().epochs() > 0) {
      Spec("stop.epochs", "needs a data set");
    }
    const v1::Stop& stop = job_.stop();
    const bool negative = stop.steps() < 0 || stop.epochs() < 0 || stop.patience() < 0 ||
                          stop.gradient_norm() < 0 || stop.function_tolerance() < 0;
    if (negative || std::isnan(stop.gradient_norm()) || std::isnan(stop.target_loss()) ||
        std::isnan(stop.function_tolerance())) {
      Spec("stop", "a number is negative or NaN");
    }
    if (stop.steps() == 0 && stop.epochs() == 0 && !stop.has_wall_time() &&
        !stop.has_target_loss() && stop.gradient_norm() == 0 && stop.function_tolerance() == 0 &&
        stop.patience() == 0) {
      Spec("stop", "at least one rule is required");
    }
    if (job_.evaluation().dataset().empty()) {
      if (stop.patience() > 0) Spec("stop.patience", "needs an evaluation");
      if (job_.checkpoints().best()) Spec("checkpoints.best", "needs an evaluation");
      if (job_.has_evaluation()) Spec("evaluation.dataset", "is required");
    }
    if (job_.checkpoints().every_steps() < 0 || job_.checkpoints().keep() < -1) {
      Spec("checkpoints", "a number is negative");
    }
    if (stop.has_wall_time() && codec::DurationOf(stop.wall_time()) < absl::ZeroDuration()) {
      Spec("stop.wall_time", "is negative");
    }
    if (job_.has_ttl() && codec::DurationOf(job_.ttl()) <= absl::ZeroDuration()) {
      Spec("ttl", "expected a positive duration");
    }
    const v1::ComputeOptions& o = job_.options();
    if (o.seed() != 0 || o.check_finite() || o.readable()) {
      Spec("options", "only mode and precision are a job's; its seed is the field `seed`");
    }
    ReadOptions();
  }

  void ReadOptions() {
    switch (job_.options().mode()) {
      case v1::ComputeOptions::Mode::EVAL:
        out_.mode = Mode::kEval;
        break;
      default:
        out_.mode = Mode::kTrain;
    }
    switch (job_.options().precision()) {
      case v1::ComputeOptions::Precision::FLOAT:
        out_.precision = Precision::kFloat;
        break;
      case v1::ComputeOptions::Precision::DOUBLE:
        out_.precision = Precision::kDouble;
        break;
      default:
        break;
    }
  }

  absl::Status LoadModel() {
    const NamedViews types = InputTypes();
    GW_ASSIGN_OR_RETURN(const ModelSource source,
                        SourceOf(job_.model(), "onnx, text, expression and graph"));
    GW_ASSIGN_OR_RETURN(out_.loaded, engine_.LoadModel(source.format, *source.bytes, types));
    if (!job_.has_loss()) return absl::OkStatus();
    out_.prediction = OutputOrOnlyOne();
    GW_ASSIGN_OR_RETURN(out_.loaded,
                        AttachLoss(engine_, *out_.loaded, job_.loss(), job_.output(), types));
    return absl::OkStatus();
  }

  // Of everything that may feed an input: columns have types before there are batches.
  NamedViews InputTypes() const {
    NamedViews types;
    for (const auto& [name, tensor] : out_.given) types.emplace(name, tensor);
    if (out_.data == nullptr) return types;
    const auto add = [&](const std::string& input, const SealedColumn& column) {
      types.emplace(input, TensorView(WithRows(column.view.row, out_.batch_size), nullptr));
    };
    for (const auto& [input, column] : job_.columns()) {
      if (const SealedColumn* found = out_.data->Find(column)) add(input, *found);
    }
    for (const SealedColumn& column : out_.data->columns) add(column.name, column);
    return types;
  }

  // What the job names, else the model's only output; "" where there are several.
  std::string OutputOrOnlyOne() const {
    if (!job_.output().empty() || model().outputs.size() != 1) return job_.output();
    return NameOf(model().outputs[0]);
  }

  const Model& model() const { return *out_.loaded->model; }
  const std::string& NameOf(ModelValue v) const {
    return model().value_names[static_cast<size_t>(v)];
  }
  bool IsInitializer(const std::string& name) const {
    return std::any_of(model().initializers.begin(), model().initializers.end(),
                       [&](const ModelInitializer& i) { return NameOf(i.value) == name; });
  }

  void FeedColumns() {
    std::set<std::string> known;
    for (const ModelInput& input : model().inputs) {
      const std::string& name = NameOf(input.value);
      known.insert(name);
      if (job_.inputs().contains(name)) continue;
      const auto mapped = job_.columns().find(name);
      const std::string column = mapped == job_.columns().end() ? name : mapped->second;
      const SealedColumn* found = out_.data == nullptr ? nullptr : out_.data->Find(column);
      if (found == nullptr) {
        problems_.Add(Reason::kMissingInput, absl::StrCat("inputs.", name),
                      out_.data == nullptr
                          ? "a value for this input is missing"
                          : absl::StrCat("the data set has no column \"", column,
                                         "\", and there is no value for this input"));
        continue;
      }
      out_.fed.push_back(name);
      out_.columns.push_back(found);
    }
    for (const auto& [input, column] : job_.columns()) {
      if (known.count(input) == 0) {
        problems_.Add(Reason::kUnknownInput, absl::StrCat("columns.", input),
                      "the model has no such input");
      }
    }
    for (const auto& [name, tensor] : out_.given) {
      if (known.count(name) == 0 && !IsInitializer(name)) {
        problems_.Add(Reason::kUnknownInput, absl::StrCat("inputs.", name),
                      "the model has no input or initialiser of that name");
      }
    }
  }

  void FindLoss() {
    out_.loss = job_.has_loss() ? kLossOutput : OutputOrOnlyOne();
    if (out_.loss.empty()) {
      problems_.Add(Reason::kUnknownOutput, "output",
                    absl::StrCat("the model has ", model().outputs.size(),
                                 " outputs; say which one is the loss"));
    }
  }

  void FindParameters() {
    const std::vector<std::string> initializers = TrainableInitializers(model());
    std::vector<std::string> candidates = initializers;
    for (const auto& [name, tensor] : out_.given) {
      if (IsFloating(tensor.dtype()) && !IsInitializer(name)) candidates.push_back(name);
    }
    std::vector<std::string> chosen = initializers.empty() ? candidates : initializers;
    if (!job_.trainable().empty()) {
      chosen.clear();
      for (int i = 0; i < job_.trainable_size(); ++i) {
        bool any = false;
        for (const std::string& name : candidates) {
          if (fnmatch(job_.trainable(i).c_str(), name.c_str(), 0) != 0) continue;
          any = true;
          if (std::find(chosen.begin(), chosen.end(), name) == chosen.end()) chosen.push_back(name);
        }
        if (!any) {
          Spec(absl::StrCat("trainable[", i, "]"),
               absl::StrCat("\"", job_.trainable(i), "\" matches nothing; there are ",
                            absl::StrJoin(candidates, ", ")));
        }
      }
    }
    std::vector<bool> used(static_cast<size_t>(job_.parameter_groups_size()), false);
    for (const std::string& name : chosen) {
      int group = 0;
      bool frozen = false;
      for (int i = 0; i < job_.parameter_groups_size(); ++i) {
        if (fnmatch(job_.parameter_groups(i).pattern().c_str(), name.c_str(), 0) != 0) continue;
        used[static_cast<size_t>(i)] = true;
        if (group == 0) {
          group = i + 1;
          frozen = job_.parameter_groups(i).frozen();
        }
      }
      if (!frozen) out_.parameters.push_back({name, group});
    }
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) {
        Spec(absl::StrCat("parameter_groups[", i, "]"),
             absl::StrCat("\"", job_.parameter_groups(static_cast<int>(i)).pattern(),
                          "\" matches nothing that is trained"));
      }
    }
    if (out_.parameters.empty()) Spec("trainable", "nothing is left to train");
  }

  void CountSteps() {
    const v1::Stop& stop = job_.stop();
    out_.total_steps = stop.steps();
    if (stop.epochs() == 0 || out_.data == nullptr) return;
    const BatchOrder order(
        {.rows = out_.data->rows, .batch_size = out_.batch_size, .drop_last = job_.drop_last()});
    const int64_t epoch = (order.batches_per_epoch() + out_.accumulation - 1) / out_.accumulation;
    const int64_t steps = SaturatingMul(epoch, stop.epochs());
    out_.total_steps = out_.total_steps == 0 ? steps : std::min(out_.total_steps, steps);
  }

  Engine& engine_;
  const v1::TrainingJob& job_;
  JobModel out_;
  Problems problems_;
};

}  // namespace

NamedViews JobModel::Inputs(const Batch* batch) const {
  NamedViews out;
  for (const auto& [name, tensor] : given) out.emplace(name, tensor);
  for (size_t c = 0; batch != nullptr && c < fed.size(); ++c) {
    out.emplace(fed[c], batch->tensors[c]);
  }
  return out;
}

const Tensor* JobModel::Column(const Batch* batch, const std::string& input) const {
  for (size_t c = 0; batch != nullptr && c < fed.size(); ++c) {
    if (fed[c] == input) return &batch->tensors[c];
  }
  return nullptr;
}

absl::StatusOr<Batch> JobModel::EmptyBatch(int64_t rows) const {
  Batch batch;
  batch.rows = rows;
  for (const SealedColumn* column : columns) {
    GW_ASSIGN_OR_RETURN(Tensor tensor, Tensor::Make(WithRows(column->view.row, rows)));
    batch.tensors.push_back(std::move(tensor));
  }
  return batch;
}

absl::Status JobModel::CheckFrozen(absl::Span<const std::string> frozen, bool any_batch) const {
  for (const std::string& name : frozen) {
    const bool is_fed = std::find(fed.begin(), fed.end(), name) != fed.end();
    const bool trained = std::any_of(parameters.begin(), parameters.end(),
                                     [&](const TrainedParameter& p) { return p.name == name; });
    if (!trained && !(is_fed && any_batch)) continue;
    return Error(Reason::kDataDependentShape,
                 absl::StrCat("the values of ", trained ? "parameter " : "column input ", name,
                              " decide a shape or a branch"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> JobModel::InitialValue(const std::string& name, DType dtype) const {
  if (const auto found = given.find(name); found != given.end()) {
    return Converted(found->second, dtype);
  }
  const Model& m = *loaded->model;
  for (const ModelInitializer& init : m.initializers) {
    if (m.value_names[static_cast<size_t>(init.value)] == name) return Converted(init.data, dtype);
  }
  return Error(Reason::kMissingInput, absl::StrCat("inputs.", name, ": has no value"));
}

int64_t JobModel::bytes() const {
  int64_t bytes = 0;
  // Three times: as the job is stored, as it is parsed, and here.
  for (const auto& [name, tensor] : given) bytes += 3 * tensor.bytes();
  for (const ModelInitializer& init : loaded->model->initializers) bytes += init.data.bytes();
  return bytes;
}

std::vector<std::unique_ptr<BatchReader>> MakeReaders(const JobModel& model,
                                                      const v1::TrainingJob& job) {
  std::vector<std::unique_ptr<BatchReader>> out;
  if (model.data == nullptr) return out;
  std::vector<ColumnView> views;
  for (const SealedColumn* column : model.columns) views.push_back(column->view);
  const BatchOrderOptions order = {.rows = model.data->rows,
                                   .batch_size = model.batch_size,
                                   .shuffle = job.shuffle(),
                                   .drop_last = job.drop_last(),
                                   .seed = job.seed()};
  for (int i = 0; i < model.accumulation; ++i) {
    out.push_back(std::make_unique<BatchReader>(views, order, model.accumulation));
  }
  return out;
}

absl::StatusOr<JobModel> ReadJob(Engine& engine, const v1::TrainingJob& job,
                                 std::shared_ptr<const SealedDataset> data) {
  return JobReader(engine, job).Read(std::move(data));
}

absl::StatusOr<std::vector<const SealedColumn*>> MatchColumns(const JobModel& model,
                                                              const v1::TrainingJob& job,
                                                              const SealedDataset& data) {
  std::vector<const SealedColumn*> out;
  Problems problems;
  for (size_t i = 0; i < model.fed.size(); ++i) {
    const auto mapped = job.columns().find(model.fed[i]);
    const std::string column = mapped == job.columns().end() ? model.fed[i] : mapped->second;
    const SealedColumn* found = data.Find(column);
    if (found == nullptr) {
      problems.Add(Reason::kMissingInput, "evaluation.dataset",
                   absl::StrCat("has no column \"", column, "\""));
    } else if (found->view.row != model.columns[i]->view.row) {
      problems.Add(Reason::kShapeMismatch, "evaluation.dataset",
                   absl::StrCat("column \"", column, "\" has rows ", found->view.row.ToString(),
                                ", the training set's ", model.columns[i]->view.row.ToString()));
    }
    out.push_back(found);
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

}  // namespace gradwire::jobs
