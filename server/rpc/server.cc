#include "server/rpc/server.h"

#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gradwire/v1/dataset_service.grpc.pb.h"
#include "gradwire/v1/gradient_service.grpc.pb.h"
#include "gradwire/v1/graph_service.grpc.pb.h"
#include "gradwire/v1/server_service.grpc.pb.h"
#include "gradwire/v1/training_service.grpc.pb.h"
#include "server/core/analysis_core.h"
#include "server/core/gradient_core.h"
#include "server/core/graph_store.h"
#include "server/core/server_core.h"
#include "server/core/training_core.h"
#include "server/rpc/listen_address.h"
#include "server/rpc/log.h"
#include "server/rpc/service.h"
#include "server/store/blob_store.h"
#include "server/store/file_system.h"
#include "server/store/store.h"

namespace gradwire::rpc {
namespace {

using server::AnalysisCore;
using server::DatasetCore;
using server::GradientCore;
using server::GraphStore;
using server::ServerCore;
using server::TrainingCore;

constexpr int kKeepaliveMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kMinPingIntervalMs = 10'000;  // clients ping every 20 s
constexpr int kMaxConnectionAgeMs = 3'600'000;
constexpr int kMaxConnectionAgeGraceMs = 600'000;
// After the drain everything has been cancelled: this is for replies under way.
constexpr absl::Duration kShutdownGrace = absl::Seconds(2);

ServerOptions WithDefaults(ServerOptions options) {
  const int cpus = server::AvailableCpus();
  if (options.memory_limit_bytes == 0) options.memory_limit_bytes = server::DefaultMemoryLimit();
  if (options.workers == 0) options.workers = std::max(2, cpus);
  if (options.threads == 0) options.threads = cpus;
  if (options.max_running_jobs == 0) options.max_running_jobs = std::max(1, cpus / options.threads);
  return options;
}

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.listen.empty()) return absl::InvalidArgumentError("no address to listen on");
  if (options.memory_limit_bytes < 0 || options.max_nodes < 1 || options.workers < 0 ||
      options.threads < 0 || options.queue_limit < 1) {
    return absl::InvalidArgumentError("limits and counts of threads must be positive");
  }
  if (options.max_message_bytes < 1 ||
      options.max_message_bytes > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError("the message limit must be between 1 and 2147483647 bytes");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ListenAddress>> ParseAddresses(const ServerOptions& options) {
  std::vector<ListenAddress> out;
  for (const std::string& text : options.listen) {
    GW_ASSIGN_OR_RETURN(ListenAddress address, ParseListenAddress(text));
    if (!address.loopback && !options.allow_insecure) {
      return absl::FailedPreconditionError(absl::StrCat(
          "refusing to listen on ", text, ": other machines reach it, and calls are neither ",
          "encrypted nor authenticated. Listen on 127.0.0.1, or on a Unix socket, with a proxy "
          "that does both in front; or, on a network that you trust, say --allow-insecure "
          "(GRADWIRE_ALLOW_INSECURE=1)."));
    }
    if (address.unix_socket && UnixSocketIsInUse(address.host)) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", text, ": another process does"));
    }
    out.push_back(std::move(address));
  }
  return out;
}

void SetChannelArguments(const ServerOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder->SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  // Two servers would share the port, and calls go to either.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kMinPingIntervalMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kMaxConnectionAgeMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kMaxConnectionAgeGraceMs);
}

}  // namespace

// What the server keeps, in its data directory or in memory.
struct DataDirectory {
  std::unique_ptr<store::DirectoryLock> lock;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<store::BlobStore> blobs;

  static absl::StatusOr<DataDirectory> Open(const std::string& dir) {
    DataDirectory out;
    if (!dir.empty()) {
      GW_RETURN_IF_ERROR(store::MakeDirectories(dir));
      GW_ASSIGN_OR_RETURN(out.lock, store::DirectoryLock::Take(dir));
    }
    GW_ASSIGN_OR_RETURN(out.store, store::OpenSqliteStore(dir.empty() ? "" : dir + "/state.db"));
    GW_ASSIGN_OR_RETURN(out.blobs, store::BlobStore::Open(dir.empty() ? "" : dir + "/blobs"));
    return out;
  }
};

struct Server::State {
  State(const ServerOptions& o, DataDirectory d)
      : options(WithDefaults(o)),
        data(std::move(d)),
        admission(options.memory_limit_bytes),
        engine({
            .threads = options.threads,
            .max_nodes = options.max_nodes,
            .self_check = options.self_check,
        }),
        graphs(&engine, data.store.get(), data.blobs.get()),
        analysis(&engine, &graphs),
        datasets(data.store.get(), data.blobs.get(),
                 options.data_dir.empty() ? "" : options.data_dir + "/uploads",
                 [this](int64_t bytes) { return Reserve(bytes, "the data set"); }),
        gradient_core(&engine, {.max_message_bytes = options.max_message_bytes, .graphs = &graphs}),
        server_core(&engine, {.max_message_bytes = options.max_message_bytes,
                              .memory_limit_bytes = options.memory_limit_bytes,
                              .workers = options.workers,
                              .threads = options.threads,
                              .on_disk = !options.data_dir.empty(),
                              .grpc_version = grpc::Version()}),
        workers({.workers = options.workers,
                 .cpus = std::max(server::AvailableCpus(), options.threads),
                 .queue_limit = options.queue_limit,
                 .admission = &admission}),
        shared_by_jobs{&engine,
                       data.store.get(),
                       data.blobs.get(),
                       &datasets,
                       &watchers,
                       [this](int64_t bytes) { return Reserve(bytes, "the job"); },
                       [this](int threads) -> std::shared_ptr<void> {
                         return std::make_shared<server::CpuGate::Claim>(workers.gate(), threads);
                       }},
        jobs(shared_by_jobs, {.max_running = options.max_running_jobs}),
        dataset_core(&datasets),
        training_core(&jobs, &graphs),
        environment{&admission, &workers, &in_flight, options.max_message_bytes} {
    AddServices();
  }

  // A row an rpc.
  void AddServices() {
    Service& gradient = AddService(v1::GradientService::service_full_name());
    gradient.Add("Evaluate", &gradient_core, &GradientCore::Evaluate);
    gradient.Add("ComputeGradient", &gradient_core, &GradientCore::ComputeGradient);
    gradient.Add("ComputeVjp", &gradient_core, &GradientCore::ComputeVjp);
    gradient.Add("ComputeJvp", &gradient_core, &GradientCore::ComputeJvp);
    gradient.Add("ComputeHvp", &gradient_core, &GradientCore::ComputeHvp);
    gradient.Add("ComputeJacobian", &gradient_core, &GradientCore::ComputeJacobian);
    gradient.Add("ComputeHessian", &gradient_core, &GradientCore::ComputeHessian);
    gradient.Add("CheckGradients", &gradient_core, &GradientCore::CheckGradients);
    gradient.AddExchange("StreamCompute", &gradient_core, &GradientCore::StreamCompute);
    Service& graph = AddService(v1::GraphService::service_full_name());
    graph.Add("CreateGraph", &graphs, &GraphStore::CreateGraph);
    graph.Add("GetGraph", &graphs, &GraphStore::GetGraph);
    graph.Add("ListGraphs", &graphs, &GraphStore::ListGraphs);
    graph.Add("DeleteGraph", &graphs, &GraphStore::DeleteGraph);
    graph.Add("AnalyzeGraph", &analysis, &AnalysisCore::AnalyzeGraph);
    Service& dataset = AddService(v1::DatasetService::service_full_name());
    dataset.Add("CreateDataset", &dataset_core, &DatasetCore::CreateDataset);
    dataset.Add("AppendDataset", &dataset_core, &DatasetCore::AppendDataset);
    dataset.Add("SealDataset", &dataset_core, &DatasetCore::SealDataset);
    dataset.Add("GetDataset", &dataset_core, &DatasetCore::GetDataset);
    dataset.Add("ListDatasets", &dataset_core, &DatasetCore::ListDatasets);
    dataset.Add("DeleteDataset", &dataset_core, &DatasetCore::DeleteDataset);
    Service& training = AddService(v1::TrainingService::service_full_name());
    training.Add("CreateTrainingJob", &training_core, &TrainingCore::CreateTrainingJob);
    training.Add("GetTrainingJob", &training_core, &TrainingCore::GetTrainingJob);
    training.Add("ListTrainingJobs", &training_core, &TrainingCore::ListTrainingJobs);
    training.Add("DeleteTrainingJob", &training_core, &TrainingCore::DeleteTrainingJob);
    training.Add("CancelTrainingJob", &training_core, &TrainingCore::CancelTrainingJob);
    training.Add("PauseTrainingJob", &training_core, &TrainingCore::PauseTrainingJob);
    training.Add("ResumeTrainingJob", &training_core, &TrainingCore::ResumeTrainingJob);
    training.Add("WatchTrainingJob", &training_core, &TrainingCore::WatchTrainingJob);
    training.Add("QueryMetrics", &training_core, &TrainingCore::QueryMetrics);
    training.Add("EstimateTrainingJob", &training_core, &TrainingCore::EstimateTrainingJob);
    training.Add("ListCheckpoints", &training_core, &TrainingCore::ListCheckpoints);
    training.Add("DownloadCheckpoint", &training_core, &TrainingCore::DownloadCheckpoint);
    training.Add("ExportModel", &training_core, &TrainingCore::ExportModel);
    Service& server = AddService(v1::ServerService::service_full_name());
    server.Add("GetCapabilities", &server_core, &ServerCore::GetCapabilities);
  }
  Service& AddService(const char* name) {
    return *services.emplace_back(std::make_unique<Service>(&environment, name));
  }

  // Held as long as the result lives.
  absl::StatusOr<std::shared_ptr<void>> Reserve(int64_t bytes, const char* what) {
    GW_ASSIGN_OR_RETURN(server::Reservation memory, admission.Reserve(bytes, what));
    return std::make_shared<server::Reservation>(std::move(memory));
  }
  absl::Status Listen(const std::vector<ListenAddress>& listen);
  void SetServing(bool serving) {
    grpc::HealthCheckServiceInterface* health = grpc_server->GetHealthCheckService();
    health->SetServingStatus(serving);
    for (const auto& service : services) health->SetServingStatus(service->name(), serving);
  }

  const ServerOptions options;
  const DataDirectory data;
  server::Admission admission;
  Engine engine;
  GraphStore graphs;
  AnalysisCore analysis;
  jobs::Datasets datasets;
  jobs::Watchers watchers;
  GradientCore gradient_core;
  ServerCore server_core;
  InFlight in_flight;
  server::Workers workers;
  const jobs::Shared shared_by_jobs;
  jobs::Jobs jobs;
  DatasetCore dataset_core;
  TrainingCore training_core;
  const Environment environment;
  std::vector<std::unique_ptr<Service>> services;
  std::vector<std::string> addresses;
  std::unique_ptr<grpc::Server> grpc_server;
};

absl::Status Server::State::Listen(const std::vector<ListenAddress>& listen) {
  grpc::ServerBuilder builder;
  SetChannelArguments(options, &builder);
  std::vector<int> ports(listen.size(), 0);
  for (size_t i = 0; i < listen.size(); ++i) {
    builder.AddListeningPort(listen[i].ToString(listen[i].port), grpc::InsecureServerCredentials(),
                             &ports[i]);
  }
  for (const auto& service : services) builder.RegisterService(service.get());
  grpc_server = builder.BuildAndStart();
  for (size_t i = 0; i < listen.size(); ++i) {
    if (grpc_server != nullptr && ports[i] != 0) continue;
    if (grpc_server != nullptr) grpc_server->Shutdown();
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", listen[i].ToString(listen[i].port),
                     ": the address is in use, or not one of this machine's"));
  }
  for (size_t i = 0; i < listen.size(); ++i) addresses.push_back(listen[i].ToString(ports[i]));
  SetServing(true);
  return absl::OkStatus();
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options) {
  GW_RETURN_IF_ERROR(CheckOptions(options));
  GW_ASSIGN_OR_RETURN(const std::vector<ListenAddress> listen, ParseAddresses(options));
  // gRPC stays up as long as the process: shutting it down with the last server may wait 10 s for a
  // poller that still looks after a large write.
  static const int up = (grpc_init(), 0);
  (void)up;
  // Both are global to gRPC, and must come before the first server.
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  GW_ASSIGN_OR_RETURN(DataDirectory data, DataDirectory::Open(options.data_dir));
  auto state = std::make_unique<State>(options, std::move(data));
  for (const std::string& kernel : state->engine.self_check().declined) {
    Log(LogLevel::kWarning, "kernel declined", {{"kernel", kernel}});
  }
  for (const absl::Status& status :
       {state->datasets.DeleteOldUploads(),
        store::DeleteOrphans(*state->data.store, *state->data.blobs)}) {
    if (!status.ok()) Log(LogLevel::kWarning, "cannot tidy up", {{"error", status.message()}});
  }
  GW_RETURN_IF_ERROR(state->jobs.TakeUp());
  GW_RETURN_IF_ERROR(state->Listen(listen));
  for (const std::string& address : state->addresses) {
    Log(LogLevel::kInfo, "listening",
        {{"address", address},
         {"version", Engine::version()},
         {"isa", state->engine.isa()},
         {"memory_limit_bytes", state->options.memory_limit_bytes},
         {"max_message_bytes", state->options.max_message_bytes},
         {"workers", state->options.workers},
         {"threads", state->options.threads}});
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::~Server() { Stop(); }

const std::vector<std::string>& Server::addresses() const { return state_->addresses; }
const ServerOptions& Server::options() const { return state_->options; }
Engine& Server::engine() { return state_->engine; }

void Server::Stop() {
  if (state_->grpc_server == nullptr) return;
  const absl::Time start = absl::Now();
  Log(LogLevel::kInfo, "draining",
      {{"timeout_ms", absl::ToInt64Milliseconds(state_->options.drain_timeout)}});
  state_->SetServing(false);
  state_->in_flight.Drain();
  if (!state_->in_flight.WaitUntilEmpty(start + state_->options.drain_timeout)) {
    Log(LogLevel::kWarning, "drain timeout", {{"action", "cancelling what is left"}});
    state_->in_flight.CancelAll();
    state_->in_flight.WaitUntilEmpty(absl::Now() + kShutdownGrace);
  }
  state_->jobs.Stop();
  // Workers first: a call that is still being computed would keep Shutdown waiting.
  state_->workers.Stop();
  state_->grpc_server->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
  state_->grpc_server->Wait();
  state_->grpc_server.reset();
  Log(LogLevel::kInfo, "stopped", {{"drain_ms", absl::ToInt64Milliseconds(absl::Now() - start)}});
}

}  // namespace gradwire::rpc
