// File: client.h
//
// Client: calls a Gradwire server. Channel, retries, deadlines and the decoding of errors are
// hidden.
//
//   Client client = Client::Connect("127.0.0.1:50051");
//   absl::StatusOr<GradientResult> r =
//       client.Gradient(ModelSource::Formula("x^2*y + y^3"), {{"x", 2}, {"y", 3}});
//   if (!r.ok()) return r.status();
//   r->value.data<double>()[0];           // 39
//   r->gradients["x"].data<double>()[0];  // 12
//
// Training jobs and their data: training.h, datasets.h. Many computations under way at once:
// compute_stream.h.
//
// Models: a formula or text (model_source.h), an Expression or ModelBuilder (model_builder.h), a
// file (load_model.h). Tensors: named_tensors.h. What each call means, the shapes of its results
// and its cost: gradient_service.proto.
//
// Errors: the server's code and message; ReasonNameOf(status) is its reason ("SHAPE_MISMATCH") and
// ViolationsOf(status) the offending nodes and fields. Besides:
//   UNAVAILABLE         no server there, or it is shutting down; tried up to 4 times within a
//   second
//                       or so (never after any part of an answer has arrived)
//   DEADLINE_EXCEEDED   CallOptions.deadline passed; the server stops computing as well
// Nothing else is retried.
//
// Thread-safety: all methods may be called from any thread. Copies share one connection.
#ifndef GRADWIRE_CLIENT_CLIENT_H_
#define GRADWIRE_CLIENT_CLIENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/format.h"
#include "client/model_builder.h"
#include "client/model_source.h"
#include "client/named_tensors.h"

namespace gradwire {

struct Connection;

// How to compute; every call takes it. The fields are those of ComputeOptions in model.proto.
struct CallOptions {
  enum class Mode { kAsGraph, kTrain, kEval };
  enum class Precision { kAsGraph, kFloat, kDouble };

  Mode mode = Mode::kAsGraph;
  Precision precision = Precision::kAsGraph;
  uint64_t seed = 0;
  bool check_finite = false;
  // Inputs with an extra leading axis of points; the results have it too.
  std::vector<std::string> batch = {};
  // How long the call may take, all tries together. absl::InfiniteDuration() waits for ever.
  absl::Duration deadline = absl::Seconds(60);
};

// A loss on top of a model, which is then what is differentiated; as Loss in loss.proto.
struct Loss {
  std::string named;                 // "mse", "softmax_cross_entropy", ...
  std::optional<ModelSource> graph;  // instead of `named`
  std::map<std::string, double> parameters;
  bool sum = false;  // instead of the mean
  Tensor weight;     // empty: none
};

struct EvaluateOptions {
  std::vector<std::string> outputs;  // default: all outputs of the model
  CallOptions call;
};

struct GradientOptions {
  std::string output;  // the scalar f, or what a `loss` by name is of; default: the only output
  std::vector<std::string> wrt;  // default: the floating initialisers, else the floating inputs
  CallOptions call = {};
  std::optional<Loss> loss = {};
  bool per_example = false;  // for each row of the model's batch axis apart
};

struct VjpOptions {
  std::vector<std::string> wrt;  // as in GradientOptions
  CallOptions call;
};

struct JvpOptions {
  std::vector<std::string> outputs;  // default: all outputs of the model
  CallOptions call;
};

struct HvpOptions {
  std::string output;       // as in GradientOptions
  NamedTensors cotangents;  // instead of `output`: the scalar is the sum of <cotangents[o], o>
  std::vector<std::string> wrt;
  CallOptions call;
  std::optional<Loss> loss = {};
};

// How a result was computed: enough to repeat it. As ComputeInfo in model.proto.
struct CallInfo {
  std::string graph_digest;
  std::string plan_digest;
  bool cache_hit = false;
  absl::Duration compile_time;
  absl::Duration queue_time;
  absl::Duration compute_time;
  int64_t peak_bytes = 0;
  int64_t flops = 0;
  int threads = 0;
  std::string engine_version;
  std::string cpu_isa;
};

struct EvaluateResult {
  NamedTensors outputs;
  CallInfo info;
};

struct GradientResult {
  Tensor value;            // f
  NamedTensors gradients;  // df/dw by name of w
  CallInfo info;
};

struct VjpResult {
  NamedTensors outputs;
  std::vector<NamedTensors> gradients;  // one per cotangent vector
  CallInfo info;
};

struct JvpResult {
  NamedTensors outputs;
  std::vector<NamedTensors> tangents;  // one per tangent vector
  CallInfo info;
};

struct HvpResult {
  Tensor value;
  NamedTensors gradients;
  std::vector<NamedTensors> products;  // one per vector
  CallInfo info;
};

struct JacobianOptions {
  enum class Direction { kAuto, kForward, kReverse };
  std::vector<std::string> outputs = {};  // default: all outputs of the model
  std::vector<std::string> wrt = {};      // as in GradientOptions
  Direction direction = Direction::kAuto;
  CallOptions call = {};
};

struct HessianOptions {
  std::string output = {};  // these three as in HvpOptions
  NamedTensors cotangents = {};
  std::optional<Loss> loss = {};
  std::vector<std::string> wrt = {};
  CallOptions call = {};
};

// A block of a Jacobian: row is an output, column a w; or of a Hessian: both are w's. Its shape is
// [row..., column...]; the first `row_rank` axes are the row's.
struct Block {
  std::string row;
  std::string column;
  Tensor values;
  int row_rank = 0;
};

struct JacobianResult {
  NamedTensors outputs;
  std::vector<Block> jacobians;
  CallInfo info;
};

struct HessianResult {
  Tensor value;
  NamedTensors gradients;
  std::vector<Block> hessians;
  CallInfo info;
};

struct CheckOptions {
  std::string output = {};  // these three as in GradientOptions
  std::vector<std::string> wrt = {};
  std::optional<Loss> loss = {};
  int directions = 0;  // random ones for each w; 0: 2
  double step = 0;     // 0: 1e-3
  CallOptions call = {};
};

// As CheckGradientsResponse in gradient_service.proto.
struct CheckResult {
  struct Entry {
    enum class Verdict { kAgrees, kDisagrees, kKink };
    std::string wrt;
    Verdict verdict = Verdict::kAgrees;
    int64_t compared = 0;
    bool is_direction = false;
    std::vector<int64_t> coordinates;
    double analytic = 0, numeric = 0, error = 0, step = 0;
  };
  bool passed = false;
  std::vector<Entry> worst;  // one for each w
  std::optional<double> adjoint_error, second_order_error;
  Tensor value;
  CallInfo info;
};

struct AnalyzeOptions {
  std::string output;  // as in GradientOptions; a value that is no scalar may be named too
  std::vector<std::string> wrt;  // as in GradientOptions
  CallOptions call;
};

// What a graph consists of and what it would cost; as AnalyzeGraphResponse in graph_service.proto.
struct GraphAnalysis {
  struct Value {
    std::string name;
    DType dtype = DType::kUndefined;
    bool has_rank = false;
    std::vector<std::string> shape;  // extents, or symbols; "?" for one without a name
  };
  struct OpUse {
    std::string domain;
    std::string name;
    int64_t count = 0;
    bool supported = false;
  };
  struct Issue {
    std::string reason;
    std::string where;
    std::string message;
    std::vector<std::string> path;
  };
  struct Cost {
    int64_t flops = 0;
    int64_t peak_bytes = 0;
    int64_t moved_bytes = 0;
    int64_t steps = 0;
    int64_t input_bytes = 0;
    int64_t output_bytes = 0;
    int64_t nodes = 0;
  };
  std::vector<Value> inputs;
  std::vector<Value> parameters;
  std::vector<Value> outputs;
  int64_t node_count = 0;
  std::vector<OpUse> ops;
  std::vector<Issue> issues;
  bool computable = false;
  bool differentiable = false;
  std::vector<std::string> wrt;
  Cost value_cost;
  Cost gradient_cost;
  std::string graph_digest;
  std::string plan_digest;
};

// An op that models may use; as OpCapability in server_service.proto.
struct SupportedOp {
  std::string domain;
  std::string name;
  int first_opset = 0;
  int last_opset = 0;
  std::vector<DType> dtypes;
  bool value = false;
  bool vjp = false;
  bool jvp = false;
  std::string doc;
};

// A loss, an optimiser or a schedule, by the name that its message has; as Choice in
// server_service.proto.
struct Choice {
  struct Setting {
    std::string name;
    std::optional<double> fallback;  // none: it has to be given
    std::string range;
  };
  std::string name;
  std::string doc;
  std::vector<Setting> settings;
};

// A kernel that failed the server's self-check, so that another one takes its nodes.
struct UnusedKernel {
  std::string provider;
  std::string kernel;
  std::string detail;
};

// What a server can do; as Capabilities in server_service.proto.
struct ServerCapabilities {
  std::vector<SupportedOp> ops;

  int64_t max_message_bytes = 0;
  int64_t memory_limit_bytes = 0;
  int64_t program_cache_bytes = 0;
  int64_t max_nodes = 0;
  int max_rank = 0;
  int min_opset = 0;
  int max_opset = 0;

  std::string engine_version;
  std::string onednn_version;
  std::string grpc_version;
  std::string protobuf_version;

  std::string cpu_isa;
  int workers = 0;
  int threads = 0;
  bool memory_only = false;

  int self_checks = 0;
  std::vector<UnusedKernel> unused_kernels;

  std::vector<Choice> losses;
  std::vector<Choice> optimizers;
  std::vector<Choice> schedules;
};

enum class ServingStatus { kUnknown, kServing, kNotServing };

class Client {
 public:
  // A client of the server at `address`: HOST:PORT, or unix:PATH. Empty: the address in the
  // environment variable GRADWIRE_SERVER, else 127.0.0.1:50051. It does no I/O: the first call
  // connects, and a lost connection is made again by the next call.
  static Client Connect(absl::string_view address = "");

  const std::string& address() const;
  // For the other parts of the library, which share it: datasets.h, training.h.
  const std::shared_ptr<const Connection>& connection() const { return connection_; }

  // y = f(x).
  absl::StatusOr<EvaluateResult> Evaluate(const ModelSource& model, const NamedTensors& inputs,
                                          const EvaluateOptions& options = {}) const;
  // A scalar and its gradient.
  absl::StatusOr<GradientResult> Gradient(const ModelSource& model, const NamedTensors& inputs,
                                          const GradientOptions& options = {}) const;
  // K vector-Jacobian products (reverse mode). Each cotangent holds tensors by name of an output.
  absl::StatusOr<VjpResult> Vjp(const ModelSource& model, const NamedTensors& inputs,
                                const std::vector<NamedTensors>& cotangents,
                                const VjpOptions& options = {}) const;
  // K Jacobian-vector products (forward mode). Each tangent holds tensors by name of an input or
  // initialiser.
  absl::StatusOr<JvpResult> Jvp(const ModelSource& model, const NamedTensors& inputs,
                                const std::vector<NamedTensors>& tangents,
                                const JvpOptions& options = {}) const;
  // A scalar, its gradient and K Hessian-vector products. Each vector holds tensors by name of a w.
  absl::StatusOr<HvpResult> Hvp(const ModelSource& model, const NamedTensors& inputs,
                                const std::vector<NamedTensors>& vectors,
                                const HvpOptions& options = {}) const;

  // All of the Jacobian, block by block.
  absl::StatusOr<JacobianResult> Jacobian(const ModelSource& model, const NamedTensors& inputs,
                                          const JacobianOptions& options = {}) const;
  // A scalar, its gradient and all of its Hessian, block by block.
  absl::StatusOr<HessianResult> Hessian(const ModelSource& model, const NamedTensors& inputs,
                                        const HessianOptions& options = {}) const;

  // Derivatives beside differences of the function.
  absl::StatusOr<CheckResult> Check(const ModelSource& model, const NamedTensors& inputs,
                                    const CheckOptions& options = {}) const;

  // What the graph consists of, whether it can be computed and differentiated, and at what cost.
  // Inputs may be left out; then there are no costs. Nothing is run.
  absl::StatusOr<GraphAnalysis> Analyze(const ModelSource& model, const NamedTensors& inputs = {},
                                        const AnalyzeOptions& options = {}) const;

  // Makes the server keep a graph; the result is its name, for ModelSource::Kept. Keeping one again
  // costs nothing.
  absl::StatusOr<std::string> KeepGraph(const ModelSource& model,
                                        absl::Duration deadline = absl::Seconds(60)) const;
  // Errors: NOT_FOUND.
  absl::Status DeleteGraph(const std::string& name,
                           absl::Duration deadline = absl::Seconds(60)) const;

  absl::StatusOr<ServerCapabilities> Capabilities(
      absl::Duration deadline = absl::Seconds(10)) const;

  // grpc.health.v1 Check of one service, or with "" of the whole server. Never retried.
  // Errors: NOT_FOUND for a service that the server does not have.
  absl::StatusOr<ServingStatus> Health(absl::string_view service = "",
                                       absl::Duration deadline = absl::Seconds(10)) const;

 private:
  explicit Client(std::shared_ptr<const Connection> connection);

  std::shared_ptr<const Connection> connection_;
};

}  // namespace gradwire

#endif  // GRADWIRE_CLIENT_CLIENT_H_
