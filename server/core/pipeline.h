// Pipeline: what all compute rpcs have in common, from the parts of a request to the filled reply:
// decode, load, prepare, admit, bind, run. An rpc says what to compute, which tensors are its
// vectors, and where in its reply each result goes.
//
//   Pipeline p(engine, graphs, limits, call, PartsOf(request));
//   p.AddVectors("cotangents", request.cotangents());
//   GW_RETURN_IF_ERROR(p.Load());
//   GW_RETURN_IF_ERROR(p.Prepare({.kind = Computation::kVjp}));
//   GW_RETURN_IF_ERROR(p.CheckVectorNames(p.prepared().outputs, Reason::kUnknownOutput));
//   return p.Run([&](Role role, const std::string& name, int k) { ... }, response->mutable_info());
//
// One object a call, on one thread. The request must outlive it: tensors are read in place.
#ifndef GRADWIRE_SERVER_CORE_PIPELINE_H_
#define GRADWIRE_SERVER_CORE_PIPELINE_H_

#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/engine.h"
#include "google/protobuf/map.h"
#include "google/protobuf/message.h"
#include "google/protobuf/repeated_field.h"
#include "gradwire/v1/gradient_service.pb.h"
#include "server/core/call.h"
#include "server/core/graph_store.h"

namespace gradwire::server {

using TensorProtos = google::protobuf::Map<std::string, v1::Tensor>;

// True where a message holds a field that this version of the contract does not have.
bool HasUnknownFields(const google::protobuf::Message& message);

// What every compute request has.
struct Parts {
  const v1::Model* model;
  const TensorProtos* inputs;
  const v1::ComputeOptions* options;
  bool unknown_fields;
};
template <typename Request>
Parts PartsOf(const Request& request) {
  return {&request.model(), &request.inputs(), &request.options(), HasUnknownFields(request)};
}

// The model that a request sends or names.
struct ModelBytes {
  ModelFormat format = ModelFormat::kOnnx;
  absl::string_view bytes;
  std::shared_ptr<const store::Blob> kept;  // holds the bytes of a model that is named
};

// What a result of a Program is, and so which field of a reply it belongs to.
enum class Role { kOutput, kGradient, kTangent, kProduct };

// Where result `name` goes, for vector k (0 where all vectors share it).
using Route = absl::FunctionRef<v1::Tensor*(Role role, const std::string& name, int k)>;

// A new block of a Jacobian (row: an output, column: a wrt) or of a Hessian.
using AddBlock = absl::FunctionRef<v1::Tensor*(const std::string& row, const std::string& column)>;

class Pipeline {
 public:
  // `graphs` finds the models that are named; null: there are none.
  Pipeline(Engine& engine, GraphStore* graphs, int64_t max_message_bytes, Call& call,
           const Parts& parts);

  // The K cotangents, tangents or vectors; `field` is their name in the request.
  void AddVectors(absl::string_view field,
                  const google::protobuf::RepeatedPtrField<v1::TensorMap>& vectors);
  // Cotangents that all vectors share (of a Hessian-vector product). The values of the outputs then
  // stay in here: only SharedCotangentSum() reads them.
  void AddSharedCotangents(const v1::TensorMap& cotangents);

  // All problems of options and tensors at once. Load() begins with it.
  absl::Status CheckRequest();
  // One computation for each row of the batch axis: see ComputeGradientRequest.per_example.
  void SplitRows() { rows_apart_ = true; }
  // Looks once.
  absl::StatusOr<ModelBytes> FindModel();
  // Decodes the model.
  absl::Status Load();
  // The model with a loss on top, which is then kLossOutput; null: Load() as above.
  absl::Status Load(const v1::Loss* loss, const std::string& output);
  const Model& model() const { return *loaded_->model; }
  const NamedViews& inputs() const { return inputs_; }
  // Names that carry a tensor in some vector, each once, sorted.
  std::vector<std::string> NamesOfVectors() const;

  // Specializes, differentiates and compiles; mode and precision are the request's.
  absl::Status Prepare(Computation computation);
  // Instead of compiling, the graph as ONNX.
  absl::StatusOr<std::string> Export(Computation computation);
  const Prepared& prepared() const { return prepared_; }
  // `reason` where a vector, or a shared cotangent, has a name outside `known`.
  absl::Status CheckVectorNames(absl::Span<const std::string> known, Reason reason) const;
  absl::Status CheckSharedCotangentNames() const;

  // Admits the call by its exact bytes, binds, and runs every vector on one forward pass.
  absl::Status Run(Route route, v1::ComputeInfo* info);
  // Instead of Run, where no vectors were added: each unit vector is one, on one forward pass. The
  // blocks come in the order of prepared(), row by row; `route` is asked for the rest.
  absl::Status RunBasis(AddBlock add_block, Route route, v1::ComputeInfo* info);
  // After Run: the sum over outputs of <shared cotangent, output>, for each point.
  v1::Tensor SharedCotangentSum() const;
  // After Run: small enough for the thread that received the call.
  bool quick() const;

 private:
  struct Vectors {
    std::string field;
    std::vector<NamedViews> views;
  };
  struct Output {
    Role role;
    std::string name;
    bool per_vector;
    bool hidden;  // not part of the reply
  };

  void Decode(const TensorProtos& tensors, const std::string& field, NamedViews* views);
  absl::Status CheckOptions() const;
  void SetOptions(Computation* computation) const;
  void CheckVectorTypes(const std::string& where, const NamedViews& views, absl::string_view prefix,
                        Problems* problems) const;
  int num_vectors() const { return vectors_.views.empty() ? 1 : int(vectors_.views.size()); }
  std::string NameOfDirection(size_t input) const;
  bool readable() const { return parts_.options->readable(); }

  // The inputs that carry unit vectors, and the results of each: in a Jacobian by reverse mode and
  // in a Hessian a direction is a row of blocks, by forward mode a column.
  struct Basis {
    std::vector<size_t> directions;  // into the program's inputs
    std::vector<size_t> results;     // into outputs_
    bool forward = false;
    int64_t largest_bytes = 0;        // of a direction
    std::vector<v1::Tensor*> blocks;  // [direction][result]
  };
  // Computes one point, its inputs being bound.
  using RunPoint = absl::FunctionRef<absl::Status(int64_t point, Bindings*, RunContext&)>;
  // A run of the program: point by point, and for each vector by vector.
  struct Turn {
    int64_t point = 0;
    int vector = 0;
  };

  void ListOutputs();
  absl::string_view VectorPrefix() const;
  int64_t LargestAbsentVector() const;
  // Bytes of one of the results on the wire, and while it is computed.
  int64_t WireBytes(int64_t elements, DType dtype, const std::string& name) const;
  int64_t MemoryBytes(int64_t elements, DType dtype, const std::string& name) const;
  absl::Status Admit();
  absl::Status CheckReplyBytes(int64_t reply) const;
  absl::Status AdmitBytes(int64_t reply, int64_t buffers, int64_t zeros);
  Basis ListBasis() const;
  absl::StatusOr<TensorType> BlockType(const Basis& basis, size_t d, size_t r) const;
  absl::Status AdmitBasis(const Basis& basis);
  absl::Status StartBlocks(AddBlock add_block, Basis* basis);
  absl::Status RunDirections(const Basis& basis, int64_t point, Tensor& unit, Bindings* bindings,
                             RunContext& context);
  absl::Status RunPoints(Route route, v1::ComputeInfo* info, RunPoint run_point);
  absl::Status RunProgram(const Bindings& bindings, RunContext& context, Stage from);
  absl::Status FindPoints();
  absl::StatusOr<std::vector<std::string>> NamesWithRows() const;
  bool HasPoints(absl::string_view name) const { return point_views_.contains(name); }
  TensorView PointOf(const TensorView& view, const TensorType& type, int64_t point) const;
  TensorType ResultType(const TensorType& type) const;
  absl::Status BindInputs(int64_t point, Bindings* bindings);
  Stage StageOfPoints() const;
  Stage FirstStageOf(int64_t point) const {
    return point == 0 ? Stage::kConstant : stage_of_points_;
  }
  absl::StatusOr<const void*> BindInput(const SignatureEntry& entry, int64_t point);
  absl::StatusOr<const void*> BindView(const SignatureEntry& entry, const TensorView* view);
  absl::Status BindVector(Turn turn, Bindings* bindings);
  void StartResults(Route route);
  void BindOutputs(Turn turn, Bindings* bindings);
  void CopySharedResults(Turn turn);
  void AddCotangentSum(int64_t point);
  void MakeReplyReadable();
  const TensorView* FindInitializer(absl::string_view name);
  void FillInfo(v1::ComputeInfo* info) const;

  Engine& engine_;
  GraphStore* const graphs_;
  const int64_t max_message_bytes_;
  Call& call_;
  const Parts parts_;

  Problems problems_;
  bool checked_ = false;
  std::vector<Tensor> owned_;  // what could not be read in place
  NamedViews inputs_;
  // Of inputs with an axis of points, that are in `inputs_` with the first point only.
  NamedViews point_views_;
  int64_t points_ = 1;
  bool rows_apart_ = false;
  NamedViews shared_cotangents_;
  bool hides_values_ = false;
  Vectors vectors_;

  ModelBytes found_;  // no data: not looked for yet
  std::shared_ptr<const LoadedModel> loaded_;
  Prepared prepared_;
  absl::Duration prepare_time_;
  Stage stage_of_points_ = Stage::kConstant;
  int64_t runs_ = 0;  // of the direction stage

  std::vector<Output> outputs_;
  std::vector<Tensor> hidden_;          // by output; those that are hidden
  std::vector<v1::Tensor*> results_;    // [vector][output]; null: there is none
  std::vector<double> cotangent_sums_;  // by point
  Tensor zeros_;
  TensorView initializer_;
  size_t next_initializer_ = 0;
  int64_t seed_[2];
};

}  // namespace gradwire::server

#endif  // GRADWIRE_SERVER_CORE_PIPELINE_H_
