// Holds what clients outside this repository rely on: the names, numbers and types of every
// message, field, enum value and rpc, and the status code of every reason. Additions go into the
// tables below; a change or a removal breaks clients and is an error.
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "engine/base/status.h"
#include "engine/tensor/dtype.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gradwire/v1/dataset_service.pb.h"
#include "gradwire/v1/gradient_service.pb.h"
#include "gradwire/v1/graph_service.pb.h"
#include "gradwire/v1/loss.pb.h"
#include "gradwire/v1/model.pb.h"
#include "gradwire/v1/server_service.pb.h"
#include "gradwire/v1/tensor.pb.h"
#include "gradwire/v1/training_service.pb.h"
#include "gtest/gtest.h"

namespace gradwire {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

// One line per field ("Message.field = number: type"), enum value ("Enum.VALUE = number") and
// message without fields ("Message").
const std::vector<std::string>& ContractOfV1() {
  static const auto* const kLines = new std::vector<std::string>{
      // gradwire/v1/tensor.proto
      "DataType.UNDEFINED = 0",
      "DataType.FLOAT = 1",
      "DataType.UINT8 = 2",
      "DataType.INT8 = 3",
      "DataType.UINT16 = 4",
      "DataType.INT16 = 5",
      "DataType.INT32 = 6",
      "DataType.INT64 = 7",
      "DataType.BOOL = 9",
      "DataType.FLOAT16 = 10",
      "DataType.DOUBLE = 11",
      "DataType.UINT32 = 12",
      "DataType.UINT64 = 13",
      "DataType.BFLOAT16 = 16",
      "Tensor.data_type = 1: DataType",
      "Tensor.shape = 2: repeated int64",
      "Tensor.data = 3: bytes",
      "Tensor.values = 4: repeated double",
      "TensorMap.tensors = 1: map<string, Tensor>",
      // gradwire/v1/model.proto
      "Model.onnx = 1: bytes",
      "Model.text = 2: string",
      "Model.expression = 3: string",
      "Model.graph = 4: string",
      "ComputeOptions.mode = 1: ComputeOptions.Mode.Value",
      "ComputeOptions.precision = 2: ComputeOptions.Precision.Value",
      "ComputeOptions.seed = 3: uint64",
      "ComputeOptions.check_finite = 4: bool",
      "ComputeOptions.readable = 5: bool",
      "ComputeOptions.Mode",
      "ComputeOptions.Mode.Value.AS_GRAPH = 0",
      "ComputeOptions.Mode.Value.TRAIN = 1",
      "ComputeOptions.Mode.Value.EVAL = 2",
      "ComputeOptions.Precision",
      "ComputeOptions.Precision.Value.AS_GRAPH = 0",
      "ComputeOptions.Precision.Value.FLOAT = 1",
      "ComputeOptions.Precision.Value.DOUBLE = 2",
      "ComputeInfo.graph_digest = 1: string",
      "ComputeInfo.plan_digest = 2: string",
      "ComputeInfo.cache_hit = 3: bool",
      "ComputeInfo.compile_time = 4: Duration",
      "ComputeInfo.queue_time = 5: Duration",
      "ComputeInfo.compute_time = 6: Duration",
      "ComputeInfo.peak_bytes = 7: int64",
      "ComputeInfo.flops = 8: int64",
      "ComputeInfo.threads = 9: int32",
      "ComputeInfo.engine_version = 10: string",
      "ComputeInfo.cpu_isa = 11: string",
      // gradwire/v1/gradient_service.proto
      "EvaluateRequest.model = 1: Model",
      "EvaluateRequest.inputs = 2: map<string, Tensor>",
      "EvaluateRequest.outputs = 3: repeated string",
      "EvaluateRequest.options = 4: ComputeOptions",
      "EvaluateResponse.outputs = 1: map<string, Tensor>",
      "EvaluateResponse.info = 2: ComputeInfo",
      "ComputeGradientRequest.model = 1: Model",
      "ComputeGradientRequest.inputs = 2: map<string, Tensor>",
      "ComputeGradientRequest.output = 3: string",
      "ComputeGradientRequest.wrt = 4: repeated string",
      "ComputeGradientRequest.options = 5: ComputeOptions",
      "ComputeGradientRequest.loss = 6: Loss",
      "ComputeGradientResponse.value = 1: Tensor",
      "ComputeGradientResponse.gradients = 2: map<string, Tensor>",
      "ComputeGradientResponse.info = 3: ComputeInfo",
      "ComputeVjpRequest.model = 1: Model",
      "ComputeVjpRequest.inputs = 2: map<string, Tensor>",
      "ComputeVjpRequest.cotangents = 3: repeated TensorMap",
      "ComputeVjpRequest.wrt = 4: repeated string",
      "ComputeVjpRequest.options = 5: ComputeOptions",
      "ComputeVjpResponse.outputs = 1: map<string, Tensor>",
      "ComputeVjpResponse.gradients = 2: repeated TensorMap",
      "ComputeVjpResponse.info = 3: ComputeInfo",
      "ComputeJvpRequest.model = 1: Model",
      "ComputeJvpRequest.inputs = 2: map<string, Tensor>",
      "ComputeJvpRequest.tangents = 3: repeated TensorMap",
      "ComputeJvpRequest.outputs = 4: repeated string",
      "ComputeJvpRequest.options = 5: ComputeOptions",
      "ComputeJvpResponse.outputs = 1: map<string, Tensor>",
      "ComputeJvpResponse.tangents = 2: repeated TensorMap",
      "ComputeJvpResponse.info = 3: ComputeInfo",
      "ComputeHvpRequest.model = 1: Model",
      "ComputeHvpRequest.inputs = 2: map<string, Tensor>",
      "ComputeHvpRequest.output = 3: string",
      "ComputeHvpRequest.cotangents = 4: TensorMap",
      "ComputeHvpRequest.vectors = 5: repeated TensorMap",
      "ComputeHvpRequest.wrt = 6: repeated string",
      "ComputeHvpRequest.options = 7: ComputeOptions",
      "ComputeHvpRequest.loss = 8: Loss",
      "ComputeHvpResponse.value = 1: Tensor",
      "ComputeHvpResponse.gradients = 2: map<string, Tensor>",
      "ComputeHvpResponse.products = 3: repeated TensorMap",
      "ComputeHvpResponse.info = 4: ComputeInfo",
      // gradwire/v1/graph_service.proto
      "GraphView.BASIC = 0",
      "GraphView.FULL = 1",
      "Graph.name = 1: string",
      "Graph.display_name = 2: string",
      "Graph.bytes = 3: int64",
      "Graph.create_time = 4: Timestamp",
      "Graph.expire_time = 5: Timestamp",
      "Graph.model = 6: Model",
      "CreateGraphRequest.model = 1: Model",
      "CreateGraphRequest.derivative_of = 2: DerivativeOf",
      "DerivativeOf.Kind.KIND_UNSPECIFIED = 0",
      "DerivativeOf.Kind.GRADIENT = 1",
      "DerivativeOf.Kind.VJP = 2",
      "DerivativeOf.Kind.JVP = 3",
      "DerivativeOf.Kind.HVP = 4",
      "DerivativeOf.model = 1: Model",
      "DerivativeOf.kind = 2: DerivativeOf.Kind",
      "DerivativeOf.inputs = 3: map<string, Tensor>",
      "DerivativeOf.output = 4: string",
      "DerivativeOf.wrt = 5: repeated string",
      "DerivativeOf.options = 6: ComputeOptions",
      "CreateGraphRequest.display_name = 3: string",
      "CreateGraphRequest.ttl = 4: Duration",
      "CreateGraphRequest.validate_only = 5: bool",
      "CreateGraphRequest.request_id = 6: string",
      "GetGraphRequest.name = 1: string",
      "GetGraphRequest.view = 2: GraphView",
      "ListGraphsRequest.page_size = 1: int32",
      "ListGraphsRequest.page_token = 2: string",
      "ListGraphsResponse.graphs = 1: repeated Graph",
      "ListGraphsResponse.next_page_token = 2: string",
      "DeleteGraphRequest.name = 1: string",
      "DeleteGraphRequest.request_id = 2: string",
      "AnalyzeGraphRequest.model = 1: Model",
      "AnalyzeGraphRequest.inputs = 2: map<string, Tensor>",
      "AnalyzeGraphRequest.output = 3: string",
      "AnalyzeGraphRequest.wrt = 4: repeated string",
      "AnalyzeGraphRequest.options = 5: ComputeOptions",
      "AnalyzeGraphResponse.inputs = 1: repeated ValueInfo",
      "AnalyzeGraphResponse.parameters = 2: repeated ValueInfo",
      "AnalyzeGraphResponse.outputs = 3: repeated ValueInfo",
      "AnalyzeGraphResponse.node_count = 4: int64",
      "AnalyzeGraphResponse.ops = 5: repeated OpUse",
      "AnalyzeGraphResponse.issues = 6: repeated Issue",
      "AnalyzeGraphResponse.computable = 7: bool",
      "AnalyzeGraphResponse.differentiable = 8: bool",
      "AnalyzeGraphResponse.wrt = 9: repeated string",
      "AnalyzeGraphResponse.value_cost = 10: Cost",
      "AnalyzeGraphResponse.gradient_cost = 11: Cost",
      "AnalyzeGraphResponse.graph_digest = 12: string",
      "AnalyzeGraphResponse.plan_digest = 13: string",
      "ValueInfo.name = 1: string",
      "ValueInfo.data_type = 2: DataType",
      "ValueInfo.has_rank = 3: bool",
      "ValueInfo.shape = 4: repeated Dimension",
      "Dimension.extent = 1: int64",
      "Dimension.symbol = 2: string",
      "OpUse.domain = 1: string",
      "OpUse.name = 2: string",
      "OpUse.count = 3: int64",
      "OpUse.supported = 4: bool",
      "Issue.reason = 1: string",
      "Issue.where = 2: string",
      "Issue.message = 3: string",
      "Issue.path = 4: repeated string",
      "Cost.flops = 1: int64",
      "Cost.peak_bytes = 2: int64",
      "Cost.moved_bytes = 3: int64",
      "Cost.steps = 4: int64",
      "Cost.input_bytes = 5: int64",
      "Cost.output_bytes = 6: int64",
      "Cost.nodes = 7: int64",
      // gradwire/v1/dataset_service.proto
      "Dataset.name = 1: string",
      "Dataset.display_name = 2: string",
      "Dataset.state = 3: Dataset.State",
      "Dataset.columns = 4: repeated Column",
      "Dataset.rows = 5: int64",
      "Dataset.content_hash = 6: string",
      "Dataset.create_time = 7: Timestamp",
      "Dataset.expire_time = 8: Timestamp",
      "Dataset.State.STATE_UNSPECIFIED = 0",
      "Dataset.State.UPLOADING = 1",
      "Dataset.State.SEALED = 2",
      "Column.name = 1: string",
      "Column.data_type = 2: DataType",
      "Column.shape = 3: repeated int64",
      "Column.received_bytes = 4: int64",
      "Column.sha256 = 5: string",
      "CreateDatasetRequest.dataset = 1: Dataset",
      "CreateDatasetRequest.request_id = 2: string",
      "CreateDatasetRequest.ttl = 3: Duration",
      "AppendDatasetRequest.name = 1: string",
      "AppendDatasetRequest.column = 2: string",
      "AppendDatasetRequest.offset = 3: int64",
      "AppendDatasetRequest.data = 4: bytes",
      "AppendDatasetRequest.crc32 = 5: fixed32",
      "SealDatasetRequest.name = 1: string",
      "SealDatasetRequest.content_hash = 2: string",
      "SealDatasetRequest.request_id = 3: string",
      "GetDatasetRequest.name = 1: string",
      "ListDatasetsRequest.page_size = 1: int32",
      "ListDatasetsRequest.page_token = 2: string",
      "ListDatasetsResponse.datasets = 1: repeated Dataset",
      "ListDatasetsResponse.next_page_token = 2: string",
      "DeleteDatasetRequest.name = 1: string",
      "DeleteDatasetRequest.request_id = 2: string",
      // gradwire/v1/loss.proto
      "Loss.named = 1: string",
      "Loss.graph = 2: Model",
      "Loss.reduction = 3: Loss.Reduction",
      "Loss.parameters = 4: map<string, double>",
      "Loss.weight = 5: Tensor",
      "Loss.Reduction.MEAN = 0",
      "Loss.Reduction.SUM = 1",
      // gradwire/v1/training_service.proto
      "NonFinitePolicy.FAIL = 0",
      "NonFinitePolicy.SKIP_STEP = 1",
      "NonFinitePolicy.HALVE_LR = 2",
      "TrainingJob.name = 1: string",
      "TrainingJob.display_name = 2: string",
      "TrainingJob.model = 3: Model",
      "TrainingJob.loss = 4: Loss",
      "TrainingJob.output = 5: string",
      "TrainingJob.inputs = 6: map<string, Tensor>",
      "TrainingJob.trainable = 7: repeated string",
      "TrainingJob.parameter_groups = 8: repeated ParameterGroup",
      "TrainingJob.start = 9: Start",
      "TrainingJob.optimizer = 10: Optimizer",
      "TrainingJob.schedule = 11: Schedule",
      "TrainingJob.clip = 12: Clip",
      "TrainingJob.dataset = 13: string",
      "TrainingJob.columns = 14: map<string, string>",
      "TrainingJob.batch_size = 15: int64",
      "TrainingJob.accumulation = 16: int32",
      "TrainingJob.shuffle = 17: bool",
      "TrainingJob.seed = 18: uint64",
      "TrainingJob.drop_last = 19: bool",
      "TrainingJob.stop = 20: Stop",
      "TrainingJob.evaluation = 21: Evaluation",
      "TrainingJob.checkpoints = 22: Checkpoints",
      "TrainingJob.non_finite = 23: NonFinitePolicy",
      "TrainingJob.options = 24: ComputeOptions",
      "TrainingJob.priority = 25: int32",
      "TrainingJob.labels = 26: map<string, string>",
      "TrainingJob.ttl = 27: Duration",
      "TrainingJob.state = 40: TrainingJob.State",
      "TrainingJob.state_reason = 41: string",
      "TrainingJob.progress = 42: Progress",
      "TrainingJob.create_time = 43: Timestamp",
      "TrainingJob.start_time = 44: Timestamp",
      "TrainingJob.end_time = 45: Timestamp",
      "TrainingJob.last_event = 46: int64",
      "TrainingJob.learning_rate_factor = 48: double",
      "TrainingJob.plan_digest = 47: string",
      "TrainingJob.State.STATE_UNSPECIFIED = 0",
      "TrainingJob.State.QUEUED = 1",
      "TrainingJob.State.RUNNING = 2",
      "TrainingJob.State.PAUSING = 3",
      "TrainingJob.State.PAUSED = 4",
      "TrainingJob.State.CANCELLING = 5",
      "TrainingJob.State.SUCCEEDED = 6",
      "TrainingJob.State.FAILED = 7",
      "TrainingJob.State.CANCELLED = 8",
      "Progress.step = 1: int64",
      "Progress.total_steps = 2: int64",
      "Progress.epoch = 3: int64",
      "Progress.percent = 4: double",
      "Progress.eta = 5: Duration",
      "Progress.queue_position = 6: int32",
      "Progress.loss = 7: double",
      "Progress.steps_per_second = 8: double",
      "Progress.best_value = 9: double",
      "Progress.best_step = 10: int64",
      "ParameterGroup.pattern = 1: string",
      "ParameterGroup.learning_rate = 2: double",
      "ParameterGroup.weight_decay = 3: double",
      "ParameterGroup.frozen = 4: bool",
      "Start.checkpoint = 1: string",
      "Start.job = 2: string",
      "Optimizer.sgd = 1: Sgd",
      "Optimizer.adam = 2: Adam",
      "Optimizer.adamw = 3: AdamW",
      "Optimizer.adamax = 4: Adamax",
      "Optimizer.nadam = 5: NAdam",
      "Optimizer.radam = 6: RAdam",
      "Optimizer.rmsprop = 7: RMSprop",
      "Optimizer.adagrad = 8: Adagrad",
      "Optimizer.adadelta = 9: Adadelta",
      "Optimizer.rprop = 10: Rprop",
      "Optimizer.asgd = 11: Asgd",
      "Optimizer.lbfgs = 12: Lbfgs",
      "Sgd.lr = 1: double",
      "Sgd.momentum = 2: double",
      "Sgd.dampening = 3: double",
      "Sgd.weight_decay = 4: double",
      "Sgd.nesterov = 5: bool",
      "Sgd.maximize = 6: bool",
      "Adam.lr = 1: double",
      "Adam.beta1 = 2: double",
      "Adam.beta2 = 3: double",
      "Adam.eps = 4: double",
      "Adam.weight_decay = 5: double",
      "Adam.amsgrad = 6: bool",
      "Adam.maximize = 7: bool",
      "AdamW.lr = 1: double",
      "AdamW.beta1 = 2: double",
      "AdamW.beta2 = 3: double",
      "AdamW.eps = 4: double",
      "AdamW.weight_decay = 5: double",
      "AdamW.amsgrad = 6: bool",
      "AdamW.maximize = 7: bool",
      "Adamax.lr = 1: double",
      "Adamax.beta1 = 2: double",
      "Adamax.beta2 = 3: double",
      "Adamax.eps = 4: double",
      "Adamax.weight_decay = 5: double",
      "Adamax.maximize = 6: bool",
      "NAdam.lr = 1: double",
      "NAdam.beta1 = 2: double",
      "NAdam.beta2 = 3: double",
      "NAdam.eps = 4: double",
      "NAdam.weight_decay = 5: double",
      "NAdam.momentum_decay = 6: double",
      "NAdam.decoupled_weight_decay = 7: bool",
      "NAdam.maximize = 8: bool",
      "RAdam.lr = 1: double",
      "RAdam.beta1 = 2: double",
      "RAdam.beta2 = 3: double",
      "RAdam.eps = 4: double",
      "RAdam.weight_decay = 5: double",
      "RAdam.decoupled_weight_decay = 6: bool",
      "RAdam.maximize = 7: bool",
      "RMSprop.lr = 1: double",
      "RMSprop.alpha = 2: double",
      "RMSprop.eps = 3: double",
      "RMSprop.weight_decay = 4: double",
      "RMSprop.momentum = 5: double",
      "RMSprop.centered = 6: bool",
      "RMSprop.maximize = 7: bool",
      "Adagrad.lr = 1: double",
      "Adagrad.lr_decay = 2: double",
      "Adagrad.weight_decay = 3: double",
      "Adagrad.initial_accumulator_value = 4: double",
      "Adagrad.eps = 5: double",
      "Adagrad.maximize = 6: bool",
      "Adadelta.lr = 1: double",
      "Adadelta.rho = 2: double",
      "Adadelta.eps = 3: double",
      "Adadelta.weight_decay = 4: double",
      "Adadelta.maximize = 5: bool",
      "Rprop.lr = 1: double",
      "Rprop.etaminus = 2: double",
      "Rprop.etaplus = 3: double",
      "Rprop.step_size_min = 4: double",
      "Rprop.step_size_max = 5: double",
      "Rprop.maximize = 6: bool",
      "Asgd.lr = 1: double",
      "Asgd.lambd = 2: double",
      "Asgd.alpha = 3: double",
      "Asgd.t0 = 4: double",
      "Asgd.weight_decay = 5: double",
      "Asgd.maximize = 6: bool",
      "Lbfgs.lr = 1: double",
      "Lbfgs.max_iter = 2: int64",
      "Lbfgs.max_eval = 3: int64",
      "Lbfgs.tolerance_grad = 4: double",
      "Lbfgs.tolerance_change = 5: double",
      "Lbfgs.history_size = 6: int64",
      "Lbfgs.strong_wolfe = 7: bool",
      "Schedule.step = 1: StepLR",
      "Schedule.multi_step = 2: MultiStepLR",
      "Schedule.exponential = 3: ExponentialLR",
      "Schedule.polynomial = 4: PolynomialLR",
      "Schedule.cosine = 5: CosineAnnealingLR",
      "Schedule.cosine_restarts = 6: CosineAnnealingWarmRestarts",
      "Schedule.linear = 7: LinearLR",
      "Schedule.warmup_linear = 8: WarmupLR",
      "Schedule.warmup_cosine = 9: WarmupLR",
      "Schedule.cyclic = 10: CyclicLR",
      "Schedule.one_cycle = 11: OneCycleLR",
      "Schedule.reduce_on_plateau = 12: ReduceLROnPlateau",
      "Schedule.constant = 13: ConstantLR",
      "ConstantLR.factor = 1: double",
      "ConstantLR.total_iters = 2: int64",
      "StepLR.step_size = 1: int64",
      "StepLR.gamma = 2: double",
      "MultiStepLR.milestones = 1: repeated int64",
      "MultiStepLR.gamma = 2: double",
      "ExponentialLR.gamma = 1: double",
      "PolynomialLR.total_iters = 1: int64",
      "PolynomialLR.power = 2: double",
      "CosineAnnealingLR.t_max = 1: int64",
      "CosineAnnealingLR.eta_min = 2: double",
      "CosineAnnealingWarmRestarts.t_0 = 1: int64",
      "CosineAnnealingWarmRestarts.t_mult = 2: int64",
      "CosineAnnealingWarmRestarts.eta_min = 3: double",
      "LinearLR.start_factor = 1: double",
      "LinearLR.end_factor = 2: double",
      "LinearLR.total_iters = 3: int64",
      "WarmupLR.warmup_steps = 1: int64",
      "WarmupLR.total_steps = 2: int64",
      "CyclicLR.base_lr = 1: double",
      "CyclicLR.max_lr = 2: double",
      "CyclicLR.step_size_up = 3: int64",
      "CyclicLR.step_size_down = 4: int64",
      "CyclicLR.mode = 5: string",
      "CyclicLR.gamma = 6: double",
      "CyclicLR.cycle_momentum = 7: bool",
      "CyclicLR.base_momentum = 8: double",
      "CyclicLR.max_momentum = 9: double",
      "OneCycleLR.max_lr = 1: double",
      "OneCycleLR.total_steps = 2: int64",
      "OneCycleLR.pct_start = 3: double",
      "OneCycleLR.anneal_strategy = 4: string",
      "OneCycleLR.cycle_momentum = 5: bool",
      "OneCycleLR.base_momentum = 6: double",
      "OneCycleLR.max_momentum = 7: double",
      "OneCycleLR.div_factor = 8: double",
      "OneCycleLR.final_div_factor = 9: double",
      "OneCycleLR.three_phase = 10: bool",
      "ReduceLROnPlateau.mode = 1: string",
      "ReduceLROnPlateau.factor = 2: double",
      "ReduceLROnPlateau.patience = 3: int64",
      "ReduceLROnPlateau.threshold = 4: double",
      "ReduceLROnPlateau.threshold_mode = 5: string",
      "ReduceLROnPlateau.cooldown = 6: int64",
      "ReduceLROnPlateau.min_lr = 7: double",
      "ReduceLROnPlateau.eps = 8: double",
      "Clip.value = 1: double",
      "Clip.norm = 2: double",
      "Clip.global_norm = 3: double",
      "Stop.steps = 1: int64",
      "Stop.epochs = 2: int64",
      "Stop.wall_time = 3: Duration",
      "Stop.target_loss = 4: double",
      "Stop.gradient_norm = 5: double",
      "Stop.function_tolerance = 6: double",
      "Stop.patience = 7: int32",
      "Evaluation.dataset = 1: string",
      "Evaluation.every_steps = 2: int64",
      "Evaluation.metrics = 3: repeated string",
      "Evaluation.prediction = 4: string",
      "Evaluation.target = 5: string",
      "Evaluation.best_metric = 6: string",
      "Evaluation.batch_size = 7: int64",
      "Checkpoints.every_steps = 1: int64",
      "Checkpoints.keep = 2: int32",
      "Checkpoints.best = 3: bool",
      "CreateTrainingJobRequest.job = 1: TrainingJob",
      "CreateTrainingJobRequest.request_id = 2: string",
      "CreateTrainingJobRequest.validate_only = 3: bool",
      "GetTrainingJobRequest.name = 1: string",
      "ListTrainingJobsRequest.page_size = 1: int32",
      "ListTrainingJobsRequest.page_token = 2: string",
      "ListTrainingJobsRequest.states = 3: repeated TrainingJob.State",
      "ListTrainingJobsResponse.jobs = 1: repeated TrainingJob",
      "ListTrainingJobsResponse.next_page_token = 2: string",
      "DeleteTrainingJobRequest.name = 1: string",
      "DeleteTrainingJobRequest.request_id = 2: string",
      "CancelTrainingJobRequest.name = 1: string",
      "CancelTrainingJobRequest.request_id = 2: string",
      "PauseTrainingJobRequest.name = 1: string",
      "PauseTrainingJobRequest.request_id = 2: string",
      "ResumeTrainingJobRequest.name = 1: string",
      "ResumeTrainingJobRequest.request_id = 2: string",
      "ResumeTrainingJobRequest.stop = 3: Stop",
      "ResumeTrainingJobRequest.learning_rate_factor = 4: double",
      "ResumeTrainingJobRequest.priority = 5: int32",
      "WatchTrainingJobRequest.name = 1: string",
      "WatchTrainingJobRequest.after_event = 2: int64",
      "TrainingEvent.number = 1: int64",
      "TrainingEvent.time = 2: Timestamp",
      "TrainingEvent.step = 3: int64",
      "TrainingEvent.state = 4: StateChange",
      "TrainingEvent.metrics = 5: MetricPoint",
      "TrainingEvent.evaluation = 6: MetricPoint",
      "TrainingEvent.checkpoint = 7: Checkpoint",
      "TrainingEvent.notice = 8: Notice",
      "StateChange.state = 1: TrainingJob.State",
      "StateChange.reason = 2: string",
      "Notice.reason = 1: string",
      "Notice.message = 2: string",
      "MetricPoint.step = 1: int64",
      "MetricPoint.epoch = 2: int64",
      "MetricPoint.values = 3: map<string, double>",
      "MetricPoint.parameter_digest = 4: string",
      "QueryMetricsRequest.name = 1: string",
      "QueryMetricsRequest.max_points = 2: int32",
      "QueryMetricsRequest.evaluations = 3: bool",
      "QueryMetricsRequest.from_step = 4: int64",
      "QueryMetricsRequest.to_step = 5: int64",
      "QueryMetricsResponse.points = 1: repeated MetricPoint",
      "QueryMetricsResponse.total_points = 2: int64",
      "EstimateTrainingJobRequest.job = 1: TrainingJob",
      "TrainingEstimate.step_time = 1: Duration",
      "TrainingEstimate.total_time = 2: Duration",
      "TrainingEstimate.total_steps = 3: int64",
      "TrainingEstimate.peak_bytes = 4: int64",
      "TrainingEstimate.flops_per_step = 5: int64",
      "TrainingEstimate.parameters = 6: int64",
      "TrainingEstimate.checkpoint_bytes = 7: int64",
      "Checkpoint.name = 1: string",
      "Checkpoint.step = 2: int64",
      "Checkpoint.epoch = 3: int64",
      "Checkpoint.create_time = 4: Timestamp",
      "Checkpoint.bytes = 5: int64",
      "Checkpoint.sha256 = 6: string",
      "Checkpoint.parameter_digest = 7: string",
      "Checkpoint.plan_digest = 8: string",
      "Checkpoint.best = 9: bool",
      "ListCheckpointsRequest.name = 1: string",
      "ListCheckpointsRequest.page_size = 2: int32",
      "ListCheckpointsRequest.page_token = 3: string",
      "ListCheckpointsResponse.checkpoints = 1: repeated Checkpoint",
      "ListCheckpointsResponse.next_page_token = 2: string",
      "DownloadCheckpointRequest.name = 1: string",
      "ExportModelRequest.name = 1: string",
      "FileChunk.data = 1: bytes",
      "FileChunk.total_bytes = 2: int64",
      // gradwire/v1/server_service.proto
      "Durability.DURABILITY_UNSPECIFIED = 0",
      "Durability.MEMORY_ONLY = 1",
      "Durability.ON_DISK = 2",
      "GetCapabilitiesRequest",
      "Capabilities.ops = 1: repeated OpCapability",
      "Capabilities.limits = 2: Limits",
      "Capabilities.versions = 3: Versions",
      "Capabilities.cpu_isa = 4: string",
      "Capabilities.workers = 5: int32",
      "Capabilities.threads = 6: int32",
      "Capabilities.durability = 7: Durability",
      "Capabilities.self_check = 8: SelfCheck",
      "Capabilities.losses = 9: repeated Choice",
      "Capabilities.optimizers = 10: repeated Choice",
      "Capabilities.schedules = 11: repeated Choice",
      "Choice.name = 1: string",
      "Choice.doc = 2: string",
      "Choice.settings = 3: repeated Setting",
      "Setting.name = 1: string",
      "Setting.fallback = 2: double",
      "Setting.range = 3: string",
      "OpCapability.domain = 1: string",
      "OpCapability.name = 2: string",
      "OpCapability.first_opset = 3: int32",
      "OpCapability.last_opset = 4: int32",
      "OpCapability.data_types = 5: repeated DataType",
      "OpCapability.value = 6: bool",
      "OpCapability.vjp = 7: bool",
      "OpCapability.jvp = 8: bool",
      "OpCapability.doc = 9: string",
      "Limits.max_message_bytes = 1: int64",
      "Limits.memory_limit_bytes = 2: int64",
      "Limits.program_cache_bytes = 3: int64",
      "Limits.max_nodes = 4: int64",
      "Limits.max_rank = 5: int32",
      "Limits.min_opset = 6: int32",
      "Limits.max_opset = 7: int32",
      "Versions.engine = 1: string",
      "Versions.onednn = 2: string",
      "Versions.grpc = 3: string",
      "Versions.protobuf = 4: string",
      "SelfCheck.checks = 1: int32",
      "SelfCheck.declined = 2: repeated DeclinedKernel",
      "DeclinedKernel.provider = 1: string",
      "DeclinedKernel.kernel = 2: string",
      "DeclinedKernel.detail = 3: string",
  };
  return *kLines;
}

// The official numbers of google.rpc: ours is a copy.
const std::vector<std::string>& ContractOfGoogleRpc() {
  static const auto* const kLines = new std::vector<std::string>{
      // google/rpc/status.proto
      "Status.code = 1: int32",
      "Status.message = 2: string",
      "Status.details = 3: repeated Any",
      // google/rpc/error_details.proto
      "RetryInfo.retry_delay = 1: Duration",
      "QuotaFailure.violations = 1: repeated QuotaFailure.Violation",
      "QuotaFailure.Violation.subject = 1: string",
      "QuotaFailure.Violation.description = 2: string",
      "ErrorInfo.reason = 1: string",
      "ErrorInfo.domain = 2: string",
      "ErrorInfo.metadata = 3: map<string, string>",
      "BadRequest.field_violations = 1: repeated BadRequest.FieldViolation",
      "BadRequest.FieldViolation.field = 1: string",
      "BadRequest.FieldViolation.description = 2: string",
  };
  return *kLines;
}

constexpr const char* kRpcs[] = {
    "GradientService.Evaluate(EvaluateRequest) returns (EvaluateResponse)",
    "GradientService.ComputeGradient(ComputeGradientRequest) returns (ComputeGradientResponse)",
    "GradientService.ComputeVjp(ComputeVjpRequest) returns (ComputeVjpResponse)",
    "GradientService.ComputeJvp(ComputeJvpRequest) returns (ComputeJvpResponse)",
    "GradientService.ComputeHvp(ComputeHvpRequest) returns (ComputeHvpResponse)",
    "GraphService.CreateGraph(CreateGraphRequest) returns (Graph)",
    "GraphService.GetGraph(GetGraphRequest) returns (Graph)",
    "GraphService.ListGraphs(ListGraphsRequest) returns (ListGraphsResponse)",
    "GraphService.DeleteGraph(DeleteGraphRequest) returns (Empty)",
    "GraphService.AnalyzeGraph(AnalyzeGraphRequest) returns (AnalyzeGraphResponse)",
    "DatasetService.CreateDataset(CreateDatasetRequest) returns (Dataset)",
    "DatasetService.AppendDataset(stream AppendDatasetRequest) returns (Dataset)",
    "DatasetService.SealDataset(SealDatasetRequest) returns (Dataset)",
    "DatasetService.GetDataset(GetDatasetRequest) returns (Dataset)",
    "DatasetService.ListDatasets(ListDatasetsRequest) returns (ListDatasetsResponse)",
    "DatasetService.DeleteDataset(DeleteDatasetRequest) returns (Empty)",
    "TrainingService.CreateTrainingJob(CreateTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.GetTrainingJob(GetTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.ListTrainingJobs(ListTrainingJobsRequest) returns (ListTrainingJobsResponse)",
    "TrainingService.DeleteTrainingJob(DeleteTrainingJobRequest) returns (Empty)",
    "TrainingService.CancelTrainingJob(CancelTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.PauseTrainingJob(PauseTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.ResumeTrainingJob(ResumeTrainingJobRequest) returns (TrainingJob)",
    "TrainingService.WatchTrainingJob(WatchTrainingJobRequest) returns (stream TrainingEvent)",
    "TrainingService.QueryMetrics(QueryMetricsRequest) returns (QueryMetricsResponse)",
    "TrainingService.EstimateTrainingJob(EstimateTrainingJobRequest) returns (TrainingEstimate)",
    "TrainingService.ListCheckpoints(ListCheckpointsRequest) returns (ListCheckpointsResponse)",
    "TrainingService.DownloadCheckpoint(DownloadCheckpointRequest) returns (stream FileChunk)",
    "TrainingService.ExportModel(ExportModelRequest) returns (stream FileChunk)",
    "ServerService.GetCapabilities(GetCapabilitiesRequest) returns (Capabilities)",
};

struct ReasonRow {
  const char* name;
  absl::StatusCode code;
};
constexpr ReasonRow kReasonRows[] = {
    {"INVALID_MODEL", absl::StatusCode::kInvalidArgument},
    {"UNSUPPORTED_OP", absl::StatusCode::kInvalidArgument},
    {"UNSUPPORTED_OPSET", absl::StatusCode::kInvalidArgument},
    {"NOT_DIFFERENTIABLE", absl::StatusCode::kInvalidArgument},
    {"DATA_DEPENDENT_SHAPE", absl::StatusCode::kInvalidArgument},
    {"SHAPE_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"DTYPE_UNSUPPORTED", absl::StatusCode::kInvalidArgument},
    {"INVALID_TENSOR", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_INPUT", absl::StatusCode::kInvalidArgument},
    {"MISSING_INPUT", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_OUTPUT", absl::StatusCode::kInvalidArgument},
    {"UNKNOWN_WRT", absl::StatusCode::kInvalidArgument},
    {"NOT_SCALAR", absl::StatusCode::kInvalidArgument},
    {"GRAPH_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"RESULT_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"CHUNK_OUT_OF_RANGE", absl::StatusCode::kInvalidArgument},
    {"DIGEST_MISMATCH", absl::StatusCode::kInvalidArgument},
    {"INVALID_SPEC", absl::StatusCode::kInvalidArgument},
    {"MEMORY_LIMIT", absl::StatusCode::kResourceExhausted},
    {"QUEUE_FULL", absl::StatusCode::kResourceExhausted},
    {"DISK_FULL", absl::StatusCode::kResourceExhausted},
    {"WRONG_STATE", absl::StatusCode::kFailedPrecondition},
    {"NON_FINITE_VALUE", absl::StatusCode::kFailedPrecondition},
    {"NUMERICS_CHANGED", absl::StatusCode::kFailedPrecondition},
    {"EXPIRED", absl::StatusCode::kFailedPrecondition},
    {"CORRUPT_DATA", absl::StatusCode::kDataLoss},
    {"DRAINING", absl::StatusCode::kUnavailable},
    {"NOT_FOUND", absl::StatusCode::kNotFound},
    {"ALREADY_EXISTS", absl::StatusCode::kAlreadyExists},
    {"REQUEST_ID_REUSED", absl::StatusCode::kAlreadyExists},
};

// Names without the packages, which the tables leave out.
std::string Short(absl::string_view name) {
  return absl::StrReplaceAll(name,
                             {{"gradwire.v1.", ""}, {"google.rpc.", ""}, {"google.protobuf.", ""}});
}

std::string TypeOf(const FieldDescriptor& field) {
  if (field.is_map()) {
    return absl::StrCat("map<", TypeOf(*field.message_type()->map_key()), ", ",
                        TypeOf(*field.message_type()->map_value()), ">");
  }
  std::string type = field.message_type() != nullptr ? Short(field.message_type()->full_name())
                     : field.enum_type() != nullptr  ? Short(field.enum_type()->full_name())
                                                     : field.type_name();
  return field.is_repeated() ? absl::StrCat("repeated ", type) : type;
}

void Describe(const EnumDescriptor& type, std::vector<std::string>* lines) {
  for (int i = 0; i < type.value_count(); ++i) {
    lines->push_back(absl::StrCat(Short(type.full_name()), ".", type.value(i)->name(), " = ",
                                  type.value(i)->number()));
  }
}

void Describe(const Descriptor& message, std::vector<std::string>* lines) {
  if (message.options().map_entry()) return;
  const std::string name = Short(message.full_name());
  if (message.field_count() == 0) lines->push_back(name);
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    lines->push_back(
        absl::StrCat(name, ".", field.name(), " = ", field.number(), ": ", TypeOf(field)));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) Describe(*message.nested_type(i), lines);
  for (int i = 0; i < message.enum_type_count(); ++i) Describe(*message.enum_type(i), lines);
}

std::vector<std::string> Describe(const std::vector<const FileDescriptor*>& files) {
  std::vector<std::string> lines;
  for (const FileDescriptor* file : files) {
    for (int i = 0; i < file->enum_type_count(); ++i) Describe(*file->enum_type(i), &lines);
    for (int i = 0; i < file->message_type_count(); ++i) Describe(*file->message_type(i), &lines);
  }
  return lines;
}

std::vector<const FileDescriptor*> FilesOfV1() {
  return {v1::Tensor::descriptor()->file(),          v1::Model::descriptor()->file(),
          v1::EvaluateRequest::descriptor()->file(), v1::Graph::descriptor()->file(),
          v1::Dataset::descriptor()->file(),         v1::TrainingJob::descriptor()->file(),
          v1::Capabilities::descriptor()->file(),    v1::Loss::descriptor()->file()};
}

void ExpectSame(const std::vector<std::string>& table, const std::vector<std::string>& protos) {
  const std::set<std::string> held(table.begin(), table.end());
  const std::set<std::string> found(protos.begin(), protos.end());
  EXPECT_EQ(held.size(), table.size()) << "a line of the table stands there twice";
  for (const std::string& line : held) {
    EXPECT_TRUE(found.count(line)) << "\"" << line << "\" is gone from the .proto files or has "
                                   << "changed: clients rely on it, put it back";
  }
  for (const std::string& line : found) {
    EXPECT_TRUE(held.count(line)) << "\"" << line << "\" is new in the .proto files: add it to the "
                                  << "table in this test";
  }
}

TEST(ContractTest, HoldsMessagesFieldsAndEnums) {
  ExpectSame(ContractOfV1(), Describe(FilesOfV1()));
}

TEST(ContractTest, HoldsTheOfficialNumbersOfGoogleRpc) {
  ExpectSame(ContractOfGoogleRpc(), Describe({google::rpc::Status::descriptor()->file(),
                                              google::rpc::ErrorInfo::descriptor()->file()}));
}

TEST(ContractTest, HoldsPackageAndRpcs) {
  std::vector<std::string> found;
  for (const FileDescriptor* file : FilesOfV1()) {
    EXPECT_EQ(file->package(), "gradwire.v1") << file->name();
    for (int s = 0; s < file->service_count(); ++s) {
      for (int m = 0; m < file->service(s)->method_count(); ++m) {
        const auto& method = *file->service(s)->method(m);
        found.push_back(absl::StrCat(
            method.service()->name(), ".", method.name(), "(",
            method.client_streaming() ? "stream " : "", method.input_type()->name(), ") returns (",
            method.server_streaming() ? "stream " : "", method.output_type()->name(), ")"));
      }
    }
  }
  ExpectSame({std::begin(kRpcs), std::end(kRpcs)}, found);
}

TEST(ContractTest, HoldsTheOneofOfModelSources) {
  const auto* source = v1::Model::descriptor()->FindOneofByName("source");
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->field_count(), v1::Model::descriptor()->field_count());
}

TEST(ContractTest, HoldsTheStatusCodeOfEachReason) {
  std::map<std::string, absl::StatusCode> held;
  for (const ReasonRow& row : kReasonRows) held[row.name] = row.code;
  std::set<std::string> found;
  for (const ReasonInfo& info : AllReasons()) {
    found.insert(info.name);
    const auto row = held.find(info.name);
    if (row == held.end()) {
      ADD_FAILURE() << info.name << " is a new reason: add it to the table in this test";
      continue;
    }
    EXPECT_EQ(info.code, row->second) << info.name;
    EXPECT_STREQ(ReasonName(info.reason), info.name);
    EXPECT_EQ(Error(info.reason, "text").code(), row->second) << info.name;
  }
  EXPECT_EQ(found.size(), AllReasons().size()) << "two reasons share a name";
  for (const auto& [name, code] : held) {
    EXPECT_TRUE(found.count(name)) << name << " is gone: clients rely on it, put it back";
  }
}

TEST(ContractTest, DataTypesAreThoseOfTheEngine) {
  const EnumDescriptor& type = *v1::DataType_descriptor();
  for (int i = 0; i < type.value_count(); ++i) {
    const auto& value = *type.value(i);
    EXPECT_EQ(DTypeName(DTypeFromOnnx(value.number())), value.name());
  }
  for (int number = 0; number < 64; ++number) {
    if (DTypeFromOnnx(number) == DType::kUndefined) continue;
    EXPECT_NE(type.FindValueByNumber(number), nullptr) << number;
  }
}

}  // namespace
}  // namespace gradwire
