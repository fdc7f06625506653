// Job files: TOML to v1.TrainingJob.
#include "client/cli/job_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/read_columns.h"
#include "engine/base/status.h"
#include "engine/io/npy.h"
#include "proto/codec/tensor_codec.h"

namespace gradwire::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<JobPlan> ParseText(const std::string& text,
                                  const std::vector<Override>& overrides = {}) {
  return ParseJob(text, "job.toml", "folder", overrides);
}

JobPlan Plan(const std::string& text, const std::vector<Override>& overrides = {}) {
  absl::StatusOr<JobPlan> plan = ParseText(text, overrides);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *std::move(plan) : JobPlan();
}

v1::TrainingJob Job(const std::string& text, const std::vector<Override>& overrides = {}) {
  return Plan(text, overrides).job;
}

// Every violation as "where: what", or the message where there are none.
std::vector<std::string> Mistakes(const std::string& text,
                                  const std::vector<Override>& overrides = {}) {
  const absl::Status status = ParseText(text, overrides).status();
  EXPECT_FALSE(status.ok()) << text;
  std::vector<std::string> out;
  for (const Violation& violation : ViolationsOf(status)) {
    out.push_back(absl::StrCat(violation.where, ": ", violation.what));
  }
  if (out.empty()) out.emplace_back(status.message());
  return out;
}

std::string Mistake(const std::string& text, const std::vector<Override>& overrides = {}) {
  const std::vector<std::string> all = Mistakes(text, overrides);
  EXPECT_EQ(all.size(), 1u) << testing::PrintToString(all);
  return all.front();
}

TEST(JobFileTest, ReadsTheFieldsOfAJob) {
  const v1::TrainingJob job = Job(R"(
display_name = "all kinds"
output = "loss"
trainable = ["w*", "b?"]
batch_size = 64
shuffle = true
seed = 7
priority = -2
non_finite = "skip_step"
ttl = "1h30m"
stop = {steps = 1e4, wall_time = "1m30.5s", target_loss = 0, gradient_norm = 1e-8}
labels = {run = "a", "with.point" = "b"}
options.mode = "EVAL"
[model]
text = "g (float x) => (float loss) { loss = Mul(x, x) }"
[optimizer.adam]
lr = 1e-2
amsgrad = true
[schedule.multi_step]
milestones = [10, 20]
[[parameter_groups]]
pattern = "w*"
learning_rate = 1
[[parameter_groups]]
pattern = "b*"
frozen = true
[loss]
named = "softmax_cross_entropy"
parameters = {label_smoothing = 0.1}
weight = [1, 2]
)");
  EXPECT_EQ(job.display_name(), "all kinds");
  EXPECT_THAT(job.trainable(), ElementsAre("w*", "b?"));
  EXPECT_EQ(job.batch_size(), 64);
  EXPECT_TRUE(job.shuffle());
  EXPECT_EQ(job.seed(), 7u);
  EXPECT_EQ(job.priority(), -2);
  EXPECT_EQ(job.non_finite(), v1::SKIP_STEP);
  EXPECT_EQ(job.ttl().seconds(), 5400);
  EXPECT_EQ(job.stop().steps(), 10000);
  EXPECT_EQ(job.stop().wall_time().seconds(), 90);
  EXPECT_EQ(job.stop().wall_time().nanos(), 500000000);
  EXPECT_TRUE(job.stop().has_target_loss());
  EXPECT_EQ(job.labels().at("with.point"), "b");
  EXPECT_EQ(job.options().mode(), v1::ComputeOptions::Mode::EVAL);
  EXPECT_THAT(job.model().text(), HasSubstr("Mul(x, x)"));
  EXPECT_EQ(job.optimizer().adam().lr(), 0.01);
  EXPECT_FALSE(job.optimizer().adam().has_beta1());
  EXPECT_THAT(job.schedule().multi_step().milestones(), ElementsAre(10, 20));
  ASSERT_EQ(job.parameter_groups_size(), 2);
  EXPECT_EQ(job.parameter_groups(0).learning_rate(), 1);
  EXPECT_TRUE(job.parameter_groups(1).frozen());
  EXPECT_EQ(job.loss().parameters().at("label_smoothing"), 0.1);
  EXPECT_THAT(job.loss().weight().values(), ElementsAre(1, 2));
}

TEST(JobFileTest, HasShortForms) {
  const v1::TrainingJob job = Job(R"toml(
model = "sum(w^2)"
optimizer = "lbfgs"
schedule = "cosine"
loss = "mse"
start_from = "jobs/3f"
inputs.w = [[1, 2.5], [-3, inf]]
stop.wall_time = 2.5
)toml");
  EXPECT_EQ(job.model().expression(), "sum(w^2)");
  EXPECT_TRUE(job.optimizer().has_lbfgs());
  EXPECT_TRUE(job.schedule().has_cosine());
  EXPECT_EQ(job.loss().named(), "mse");
  EXPECT_EQ(job.start().job(), "jobs/3f");
  EXPECT_EQ(Job("start_from = \"jobs/3f/checkpoints/5\"").start().checkpoint(),
            "jobs/3f/checkpoints/5");
  EXPECT_EQ(job.stop().wall_time().nanos(), 500000000);
  const v1::Tensor& w = job.inputs().at("w");
  EXPECT_THAT(w.shape(), ElementsAre(2, 2));
  EXPECT_THAT(w.values(), ElementsAre(1, 2.5, -3, INFINITY));
  EXPECT_EQ(w.data_type(), v1::DOUBLE);
  EXPECT_THAT(Job("inputs.w = 2").inputs().at("w").shape(), ElementsAre());
}

TEST(JobFileTest, InputsTakeTheTypeOfTheModel) {
  const v1::TrainingJob job = Job(R"(
model.text = "g (float[2] w, int64 n) => (float loss) { loss = Foo(w, n) }"
inputs = {w = [1, 2], n = 3}
)");
  EXPECT_EQ(job.inputs().at("w").data_type(), v1::FLOAT);
  EXPECT_EQ(job.inputs().at("n").data_type(), v1::INT64);
  EXPECT_EQ(Job("inputs.w = {data_type = \"FLOAT16\", shape = [1], values = [2]}")
                .inputs()
                .at("w")
                .data_type(),
            v1::FLOAT16);
}

TEST(JobFileTest, PathsAreRelativeToTheJobFile) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/job_file_", getpid());
  ASSERT_EQ(mkdir(folder.c_str(), 0777), 0);
  std::ofstream(folder + "/w.npy", std::ios::binary)
      << *WriteNpy(Tensor::FromVector<double>({2}, {1, 2}));
  std::ofstream(folder + "/g.onnxtxt") << "g (float[2] w) => (float loss) { loss = Foo(w) }";
  std::ofstream(folder + "/job.toml")
      << "model = \"g.onnxtxt\"\ninputs.w = \"@w.npy\"\ndataset = \"data.npz\"\n";
  const absl::StatusOr<JobPlan> plan = ReadJob(folder + "/job.toml", {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->job.model().text(), HasSubstr("Foo(w)"));
  std::vector<Tensor> owned;
  EXPECT_EQ(codec::ViewOf(plan->job.inputs().at("w"), "", &owned)->type(),
            (TensorType{DType::kFloat, {2}}));
  EXPECT_THAT(plan->dataset->files, ElementsAre(folder + "/data.npz"));
  // What an option names lies in the working folder.
  EXPECT_THAT(
      ReadJob(folder + "/job.toml", {{"--dataset", "dataset", "other.npz", true}})->dataset->files,
      ElementsAre("other.npz"));
  EXPECT_EQ(ReadJob(folder + "/none.toml", {}).status().code(), absl::StatusCode::kNotFound);
  for (const char* name : {"/w.npy", "/g.onnxtxt", "/job.toml"}) unlink((folder + name).c_str());
  rmdir(folder.c_str());
}

TEST(JobFileTest, TakesDataSetsByNameOrFromFiles) {
  EXPECT_EQ(Job("dataset = \"datasets/3f\"").dataset(), "datasets/3f");
  const JobPlan plan = Plan(R"(
[dataset]
file = "digits.npz"
name = "digits"
columns = {x = "images", p = ["a", "b"]}
dtype = {x = "float"}
scale = {x = 0.0625}
shape = {x = [8, 8]}
except = "4::5"
[evaluation]
metrics = ["accuracy"]
dataset = {rows = "4::5"}
)");
  ASSERT_TRUE(plan.dataset && plan.evaluation_dataset);
  EXPECT_THAT(plan.dataset->files, ElementsAre("folder/digits.npz"));
  EXPECT_EQ(plan.dataset->display_name, "digits");
  EXPECT_THAT(plan.dataset->columns.at("p"), ElementsAre("a", "b"));
  EXPECT_EQ(plan.dataset->dtypes.at("x"), DType::kFloat);
  EXPECT_EQ(plan.dataset->scales.at("x"), 0.0625);
  EXPECT_THAT(plan.dataset->shapes.at("x"), ElementsAre(8, 8));
  EXPECT_EQ(plan.dataset->except->start, 4);
  // What the evaluation leaves out is as in training, but for the rows.
  EXPECT_THAT(plan.evaluation_dataset->files, ElementsAre("folder/digits.npz"));
  EXPECT_EQ(plan.evaluation_dataset->scales.at("x"), 0.0625);
  EXPECT_FALSE(plan.evaluation_dataset->except.has_value());
  EXPECT_EQ(plan.evaluation_dataset->rows->step, 5);
  EXPECT_THAT(plan.job.evaluation().metrics(), ElementsAre("accuracy"));
  EXPECT_EQ(plan.job.dataset(), "");
}

TEST(JobFileTest, TheExampleIsAJob) {
  const absl::StatusOr<JobPlan> plan = ReadJob(GRADWIRE_SOURCE_DIR "/examples/digits.toml", {});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->job.stop().epochs(), 30);
  absl::StatusOr<NamedTensors> train = ReadColumns(*plan->dataset);
  absl::StatusOr<NamedTensors> held_out = ReadColumns(*plan->evaluation_dataset);
  ASSERT_TRUE(train.ok() && held_out.ok()) << train.status() << held_out.status();
  EXPECT_EQ(train->at("x").type(), (TensorType{DType::kFloat, {1438, 64}}));
  EXPECT_EQ(held_out->at("labels").type(), (TensorType{DType::kInt64, {359}}));
}

// ---- Options.

TEST(OverrideTest, SetFieldsAndReplaceThem) {
  const std::string text = "optimizer.sgd.lr = 1\nstop.steps = 5\nbatch_size = 2\n";
  const v1::TrainingJob job =
      Job(text, {{"--optimizer", "optimizer", "adam", true},
                 {"--lr", "optimizer.\"*\".lr", "1e-3"},
                 {"--epochs", "stop.epochs", "7"},
                 {"--set batch_size", "batch_size", "64"},
                 {"--set model", "model", "x^2 + \"\"\"quotes\"\"\""},
                 {"--set evaluation.metrics", "evaluation.metrics", "[\"mae\"]"},
                 {"--set labels.\"a.b\"", "labels.\"a.b\"", "text without quotes"},
                 {"--set loss.reduction", "loss.reduction", "sum"}});
  EXPECT_EQ(job.optimizer().adam().lr(), 1e-3);
  EXPECT_EQ(job.stop().steps(), 5);
  EXPECT_EQ(job.stop().epochs(), 7);
  EXPECT_EQ(job.batch_size(), 64);
  EXPECT_EQ(job.model().expression(), "x^2 + \"\"\"quotes\"\"\"");
  EXPECT_THAT(job.evaluation().metrics(), ElementsAre("mae"));
  EXPECT_EQ(job.labels().at("a.b"), "text without quotes");
  EXPECT_EQ(job.loss().reduction(), v1::Loss::SUM);
  EXPECT_EQ(
      Job("optimizer = \"sgd\"", {{"--lr", "optimizer.\"*\".lr", "0.5"}}).optimizer().sgd().lr(),
      0.5);
  EXPECT_EQ(Job("loss = \"mse\"", {{"--set l", "loss.reduction", "sum"}}).loss().named(), "mse");
  EXPECT_EQ(Job("", {{"--name", "display_name", "2024", true}}).display_name(), "2024");
}

TEST(OverrideTest, MistakesNameTheOption) {
  EXPECT_EQ(Mistake("", {{"--lr", "optimizer.\"*\".lr", "1"}}), "--lr: say first which optimizer");
  EXPECT_EQ(Mistake("optimizer = \"adam\"", {{"--lr", "optimizer.\"*\".lr", "fast"}}),
            "--lr: optimizer.adam.lr: got a string, expected a number");
  EXPECT_EQ(Mistake("", {{"--set sedd", "sedd", "1"}}),
            "--set sedd: sedd: there is no such field; did you mean 'seed'?");
  EXPECT_THAT(Mistake("", {{"--set a b", "a b", "1"}}), HasSubstr("--set a b:1:"));
  EXPECT_THAT(Mistake("", {{"--set x", "{}", "1"}}), HasSubstr("--set x:1:"));
  // A value cannot smuggle a second key in.
  EXPECT_EQ(Mistake("", {{"--seed", "seed", "1\nbatch_size = 2"}}),
            "--seed: seed: got a string, expected a whole number");
}

// ---- Mistakes: all of them, with line and key.

TEST(JobFileMistakesTest, AreToldAllAtOnce) {
  EXPECT_THAT(
      Mistakes("batch_sise = 64\n[optimizer.adam]\nlrr = 1\nlr = \"fast\"\n[stop]\nsteps = 1.5\n"),
      testing::UnorderedElementsAre(
          "job.toml:1: batch_sise: there is no such field; did you mean 'batch_size'?",
          "job.toml:3: optimizer.adam.lrr: there is no such field; did you mean 'lr'?",
          "job.toml:4: optimizer.adam.lr: got a string, expected a number",
          "job.toml:6: stop.steps: got a number, expected a whole number"));
}

TEST(JobFileMistakesTest, OfTypes) {
  EXPECT_EQ(Mistake("\nshuffle = 1"),
            "job.toml:2: shuffle: got an integer, expected true or false");
  EXPECT_EQ(Mistake("display_name = 3"),
            "job.toml:1: display_name: got an integer, expected a string in quotes");
  EXPECT_EQ(Mistake("trainable = \"w\""), "job.toml:1: trainable: got a string, expected an array");
  EXPECT_EQ(Mistake("trainable = [1]"),
            "job.toml:1: trainable[0]: got an integer, expected a string in quotes");
  EXPECT_EQ(Mistake("stop = 3"), "job.toml:1: stop: got an integer, expected a table");
  EXPECT_EQ(Mistake("labels = []"), "job.toml:1: labels: got an array, expected a table");
  EXPECT_EQ(Mistake("accumulation = 3000000000"),
            "job.toml:1: accumulation: got 3000000000, expected -2147483648 to 2147483647");
  EXPECT_EQ(Mistake("seed = -1"), "job.toml:1: seed: got -1, expected 0 to 18446744073709551615");
  EXPECT_EQ(Mistake("batch_size = 1e300"),
            "job.toml:1: batch_size: got a number, expected a whole number");
  EXPECT_EQ(Mistake("non_finite = \"ignore\""),
            "job.toml:1: non_finite: got 'ignore', expected one of FAIL, SKIP_STEP, HALVE_LR");
  EXPECT_THAT(Mistake("ttl = \"soon\""), HasSubstr("expected seconds, or a duration"));
  EXPECT_THAT(Mistake("ttl = inf"), HasSubstr("expected seconds, or a duration"));
  EXPECT_THAT(Mistake("ttl = 1979-05-27"), HasSubstr("got a date or time"));
  EXPECT_EQ(Mistake("model = 3"), "job.toml:1: model: got an integer, expected a table");
  EXPECT_EQ(Mistake("model.onnx = \"AAAA\""),
            "job.toml:1: model.onnx: bytes cannot be written in TOML");
}

TEST(JobFileMistakesTest, OfChoices) {
  EXPECT_EQ(Mistake("[optimizer]\nadam = {}\nsgd = {}"),
            "job.toml:3: optimizer.sgd: excludes optimizer.adam, which is there as well");
  EXPECT_THAT(Mistake("optimizer = \"adamm\""),
              HasSubstr("job.toml:1: optimizer: got 'adamm', expected one of sgd, adam, adamw"));
  EXPECT_THAT(Mistake("start_from = \"datasets/1\""), HasSubstr("job.toml:1: start_from"));
  EXPECT_THAT(Mistake("start_from = \"jobs/1\"\nstart.job = \"jobs/2\""), HasSubstr("excludes"));
  EXPECT_EQ(Mistake("state = \"RUNNING\""), "job.toml:1: state: is the server's to say");
  EXPECT_EQ(Mistake("name = \"jobs/1\""), "job.toml:1: name: is the server's to say");
}

TEST(JobFileMistakesTest, OfTensors) {
  for (const char* text : {"[[1, 2], [3]]", "[[1], 2]", "[1, [2]]", "[[], [1]]", "[[1], []]",
                           "[\"a\"]", "[true]", "\"w.npy\"", "[{}]"}) {
    EXPECT_THAT(Mistakes(absl::StrCat("inputs.w = ", text)).front(),
                HasSubstr("job.toml:1: inputs.w"))
        << text;
  }
  EXPECT_EQ(Mistake("inputs.w = " + std::string(17, '[') + "1" + std::string(17, ']')),
            "job.toml:1: inputs.w: arrays nest at most 16 deep");
  EXPECT_THAT(Mistake("inputs.w = \"@none.npy\""), HasSubstr("folder/none.npy"));
}

TEST(JobFileMistakesTest, OfFiles) {
  EXPECT_THAT(Mistake("\nmodel = \"none.onnx\""), HasSubstr("job.toml:2: model: "));
  EXPECT_THAT(Mistake("dataset = 3"), HasSubstr("job.toml:1: dataset: expected"));
  EXPECT_EQ(Mistake("[dataset]\nrows = \"4::5\""), "job.toml:1: dataset: names no file");
  EXPECT_EQ(Mistake("evaluation.dataset = {rows = \"4::5\"}"),
            "job.toml:1: evaluation.dataset: names no file");
  EXPECT_THAT(
      Mistakes("[dataset]\nfile = \"a.npz\"\ncolumn = {}\ndtype = {x = \"half\"}\nrows = \"4\"\n"
               "except = \"::0\"\nscale = {x = \"big\"}\nshape = {x = [-1]}\ncolumns = {x = 1}\n"
               "files = 3\n"),
      testing::UnorderedElementsAre(
          HasSubstr(
              "job.toml:3: dataset.column: there is no such setting; did you mean 'columns'?"),
          HasSubstr("job.toml:4: dataset.dtype.x: got 'half', expected one of FLOAT"),
          HasSubstr("job.toml:5: dataset.rows: got '4'"),
          HasSubstr("job.toml:6: dataset.except: got '::0'"),
          HasSubstr("job.toml:7: dataset.scale.x: expected a number"),
          HasSubstr("job.toml:8: dataset.shape.x: expected the extents"),
          HasSubstr("job.toml:9: dataset.columns.x: expected names"),
          HasSubstr("job.toml:10: dataset.files: expected names"),
          HasSubstr("job.toml:1: dataset: names no file")));
}

TEST(JobFileMistakesTest, OfSyntaxHaveLineAndColumn) {
  EXPECT_THAT(Mistake("batch_size = 64\nseed = = 3"), HasSubstr("job.toml:2:8: "));
  EXPECT_THAT(Mistake("seed = 1\nseed = 2"), HasSubstr("job.toml:2:"));
  EXPECT_THAT(Mistake("x = \"\xFF\""), HasSubstr("job.toml:1:"));
}

TEST(JobFileMistakesTest, DeepNestingIsRefused) {
  std::string keys;
  for (int i = 0; i < 100000; ++i) keys += "a.";
  EXPECT_THAT(Mistake(keys + "b = 1"), HasSubstr("job.toml:1: more than 5000 points"));
  EXPECT_THAT(Mistake("[" + keys + "b]"), HasSubstr("more than 5000 points"));
  EXPECT_THAT(Mistake("x = " + std::string(100000, '[')), HasSubstr("job.toml:1:"));
  // As deep as is let through.
  std::string some;
  for (int i = 0; i < 5000; ++i) some += "a.";
  EXPECT_THAT(Mistake(some + "b = 1"), HasSubstr("there is no such field"));
}

}  // namespace
}  // namespace gradwire::cli
