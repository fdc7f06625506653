// Trains the perceptron in mlp.onnx on handwritten digits by plain gradient descent in the client:
//
//   theta <- theta - eta * grad J(theta)
//
// The server only differentiates: each gradient is one call, with the parameters of the moment
// passed as inputs that override the model's initialisers. Every fifth digit (rows whose index
// leaves 4 when divided by 5) is held out to measure accuracy.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/load_model.h"
#include "engine/base/status.h"
#include "engine/io/npz.h"
#include "examples/digits/progress.h"

namespace gradwire {
namespace {

constexpr int64_t kPixels = 64;
constexpr int64_t kClasses = 10;
constexpr float kBrightest = 16;

struct Flags {
  std::string server;
  std::string folder = "examples/digits";
  int steps = 1000;
  int64_t batch = 0;  // 0: all rows in every step
  float learning_rate = 1;
  double at_least = 95;
};

struct Digits {
  std::vector<float> images;  // rows of kPixels, 0 to 1
  std::vector<int64_t> labels;

  int64_t rows() const { return static_cast<int64_t>(labels.size()); }
};

struct Split {
  Digits train;
  Digits held_out;
};

absl::StatusOr<Split> LoadDigits(const std::string& path) {
  GW_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  GW_ASSIGN_OR_RETURN(const auto arrays, ReadNpz(bytes));
  NamedTensors named;
  for (const auto& [name, tensor] : arrays) named[name] = tensor;
  const Tensor images = named["images"], labels = named["labels"];
  const int64_t rows = labels.num_elements();
  if (images.dtype() != DType::kUint8 || labels.dtype() != DType::kInt64 ||
      images.num_elements() != rows * kPixels) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected images [N, ", kPixels, "] uint8 and labels [N] int64"));
  }
  Split out;
  for (int64_t row = 0; row < rows; ++row) {
    Digits& part = row % 5 == 4 ? out.held_out : out.train;
    const uint8_t* pixels = images.data<uint8_t>() + row * kPixels;
    for (int64_t i = 0; i < kPixels; ++i) part.images.push_back(pixels[i] / kBrightest);
    part.labels.push_back(labels.data<int64_t>()[row]);
  }
  return out;
}

// Rows [begin, end) as the inputs of the model.
NamedTensors Batch(const Digits& digits, int64_t begin, int64_t end) {
  const auto pixels = digits.images.begin();
  const auto labels = digits.labels.begin();
  return {{"x", Tensor::FromVector<float>(
                    {end - begin, kPixels},
                    std::vector<float>(pixels + begin * kPixels, pixels + end * kPixels))},
          {"labels", Tensor::FromVector<int64_t>(
                         {end - begin}, std::vector<int64_t>(labels + begin, labels + end))}};
}

std::vector<NamedTensors> Batches(const Digits& digits, int64_t size) {
  std::vector<NamedTensors> out;
  for (int64_t begin = 0; begin < digits.rows(); begin += size) {
    out.push_back(Batch(digits, begin, std::min(begin + size, digits.rows())));
  }
  return out;
}

// The parameters as the model has them: its initialisers, by which the server differentiates where
// nothing else is asked for.
absl::StatusOr<NamedTensors> InitialParameters(const Client& client, const ModelSource& model,
                                               const NamedTensors& batch) {
  GW_ASSIGN_OR_RETURN(const GradientResult first,
                      client.Gradient(model, batch, {.output = "loss"}));
  EvaluateOptions options;
  for (const auto& [name, gradient] : first.gradients) options.outputs.push_back(name);
  GW_ASSIGN_OR_RETURN(EvaluateResult result, client.Evaluate(model, batch, options));
  return std::move(result.outputs);
}

void Descend(const NamedTensors& gradients, float learning_rate, NamedTensors* parameters) {
  for (const auto& [name, gradient] : gradients) {
    Tensor next = Tensor::CopyOf((*parameters)[name]);
    float* values = next.mutable_data<float>();
    for (int64_t i = 0; i < next.num_elements(); ++i) {
      values[i] -= learning_rate * gradient.data<float>()[i];
    }
    (*parameters)[name] = next;
  }
}

absl::StatusOr<int64_t> CountCorrect(const Client& client, const ModelSource& model,
                                     const NamedTensors& parameters, const Digits& digits) {
  NamedTensors inputs = parameters;
  inputs.merge(Batch(digits, 0, digits.rows()));
  GW_ASSIGN_OR_RETURN(EvaluateResult result,
                      client.Evaluate(model, inputs, {.outputs = {"logits"}}));
  const float* logits = result.outputs["logits"].data<float>();
  int64_t correct = 0;
  for (int64_t row = 0; row < digits.rows(); ++row, logits += kClasses) {
    correct += std::max_element(logits, logits + kClasses) - logits == digits.labels[row];
  }
  return correct;
}

absl::Status Train(const Flags& flags) {
  GW_ASSIGN_OR_RETURN(const ModelSource model, LoadModel(flags.folder + "/mlp.onnx"));
  GW_ASSIGN_OR_RETURN(const Split digits, LoadDigits(flags.folder + "/digits.npz"));
  const Client client = Client::Connect(flags.server);
  const auto batches = Batches(digits.train, flags.batch > 0 ? flags.batch : digits.train.rows());
  GW_ASSIGN_OR_RETURN(NamedTensors parameters, InitialParameters(client, model, batches[0]));

  absl::PrintF("%d digits to learn from, %d held out; %d steps, learning rate %g\n",
               digits.train.rows(), digits.held_out.rows(), flags.steps, flags.learning_rate);
  const absl::Time start = absl::Now();
  {
    ProgressBar bar(stdout, "training", flags.steps);
    for (int step = 0; step < flags.steps; ++step) {
      NamedTensors inputs = batches[step % batches.size()];
      inputs.insert(parameters.begin(), parameters.end());
      GW_ASSIGN_OR_RETURN(const GradientResult result,
                          client.Gradient(model, inputs, {.output = "loss"}));
      Descend(result.gradients, flags.learning_rate, &parameters);
      bar.Update(step + 1, absl::StrFormat("loss %.4f", result.value.data<float>()[0]));
    }
  }
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);

  GW_ASSIGN_OR_RETURN(const int64_t correct,
                      CountCorrect(client, model, parameters, digits.held_out));
  const double percent = 100.0 * correct / digits.held_out.rows();
  absl::PrintF("%d gradients over RPC in %.1f s: %.2f ms each\n", flags.steps, seconds,
               1e3 * seconds / std::max(flags.steps, 1));
  absl::PrintF("accuracy on the held-out digits: %.2f %% (%d of %d)\n", percent, correct,
               digits.held_out.rows());
  if (percent >= flags.at_least) return absl::OkStatus();
  return absl::UnknownError(absl::StrFormat("the accuracy is below %g %%", flags.at_least));
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Trains a perceptron on handwritten digits, with gradients from a Gradwire server.");
  app.footer(
      "Examples:\n  digits_train\n  digits_train --batch=64 --learning-rate=0.5 --steps=2000");
  app.option_defaults()->always_capture_default();
  app.add_option("--server", flags.server,
                 "HOST:PORT (default: GRADWIRE_SERVER, else 127.0.0.1:50051)");
  app.add_option("--folder", flags.folder, "where mlp.onnx and digits.npz lie");
  app.add_option("--steps", flags.steps, "gradient steps");
  app.add_option("--batch", flags.batch, "rows a step; 0: all of them");
  app.add_option("--learning-rate", flags.learning_rate, "eta");
  app.add_option("--at-least", flags.at_least, "accuracy in percent below which it ends 1");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Train(flags);
  if (status.ok()) return 0;
  std::cerr << "digits_train: " << status.message() << std::endl;
  return 1;
}

}  // namespace
}  // namespace gradwire

int main(int argc, char** argv) { return gradwire::Main(argc, argv); }
