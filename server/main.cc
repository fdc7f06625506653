// gradwire-server: flags, signals and exit codes around rpc::Server.
#include <malloc.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/rpc/log.h"
#include "server/rpc/server.h"
#include "server/store/failpoints.h"

namespace gradwire {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

constexpr char kExamples[] =
    "Every flag can be given by an environment variable (GRADWIRE_LISTEN for --listen) or in a "
    "TOML "
    "file (listen = \"127.0.0.1:0\"); a flag wins over a variable, a variable over the file.\n\n"
    "Examples:\n"
    "  gradwire-server\n"
    "  gradwire-server --listen=127.0.0.1:0             # a free port; it is printed\n"
    "  gradwire-server --listen=unix:/run/gradwire.sock\n"
    "  gradwire-server --data-dir=/var/lib/gradwire\n"
    "  gradwire-server --memory-limit-bytes=4GB --threads=4 --workers=4\n"
    "  gradwire-server --listen=0.0.0.0:50051 --allow-insecure   # on a network that you trust\n";

struct Flags {
  rpc::ServerOptions server;
  std::string drain_timeout = "30s";
  rpc::LogLevel log_level = rpc::LogLevel::kInfo;
};

void AddFlags(Flags* flags, CLI::App* app) {
  rpc::ServerOptions& server = flags->server;
  app->add_option("--listen", server.listen, "HOST:PORT or unix:PATH; may be given several times")
      ->capture_default_str();
  app->add_option("--data-dir", server.data_dir,
                  "folder for what is to survive a restart (default: kept in memory)");
  app->add_option("--memory-limit-bytes", server.memory_limit_bytes,
                  "memory for all calls together (default: half of the cgroup's or machine's)")
      ->transform(CLI::AsSizeValue(false));
  app->add_option("--max-message-bytes", server.max_message_bytes,
                  "largest request and largest reply")
      ->transform(CLI::AsSizeValue(false))
      ->capture_default_str();
  app->add_option("--max-nodes", server.max_nodes, "nodes of a graph")->capture_default_str();
  app->add_option("--workers", server.workers,
                  "threads that compute (default: one a CPU, at least 2)");
  app->add_option("--threads", server.threads, "team of one large program (default: one a CPU)");
  app->add_option("--max-running-jobs", server.max_running_jobs,
                  "training jobs that run side by side; others wait (default: CPUs / threads)");
  app->add_option("--drain-timeout", flags->drain_timeout,
                  "how long SIGTERM lets running calls go on, such as 30s or 500ms")
      ->capture_default_str();
  using SelfCheck = EngineOptions::SelfCheck;
  static const std::map<std::string, SelfCheck> checks = {
      {"auto", SelfCheck::kAuto}, {"always", SelfCheck::kAlways}, {"never", SelfCheck::kNever}};
  app->add_option("--self-check", server.self_check,
                  "compare fast kernels with the reference at start: auto and always (at "
                  "every start), never")
      ->transform(CLI::CheckedTransformer(checks));
  app->add_flag("--allow-insecure", server.allow_insecure,
                "listen beyond loopback, unencrypted and without authentication");
  static const std::map<std::string, rpc::LogLevel> levels = {{"debug", rpc::LogLevel::kDebug},
                                                              {"info", rpc::LogLevel::kInfo},
                                                              {"warning", rpc::LogLevel::kWarning},
                                                              {"error", rpc::LogLevel::kError},
                                                              {"off", rpc::LogLevel::kOff}};
  app->add_option("--log-level", flags->log_level,
                  "debug (a line a call), info, warning, error, off; JSON lines on stderr")
      ->transform(CLI::CheckedTransformer(levels));
  app->set_config("--config", "", "TOML file with these flags");
  app->allow_config_extras(CLI::config_extras_mode::error);
}

// CLI11 lets the configuration file win over the environment. So variables become flags, unless the
// command line has the flag already.
std::vector<std::string> WithEnvironment(const CLI::App& app, std::vector<std::string> arguments) {
  std::vector<std::string> out;
  for (const CLI::Option* option : app.get_options()) {
    const std::string flag = option->get_name();
    if (!absl::StartsWith(flag, "--") || flag == "--help" || flag == "--version") continue;
    std::string variable = absl::StrCat("GRADWIRE_", flag.substr(2));
    std::replace(variable.begin(), variable.end(), '-', '_');
    std::transform(variable.begin(), variable.end(), variable.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    const char* value = std::getenv(variable.c_str());
    const bool given = std::any_of(arguments.begin(), arguments.end(), [&](const std::string& a) {
      return a == flag || absl::StartsWith(a, flag + "=");
    });
    if (value != nullptr && *value != '\0' && !given) {
      out.push_back(absl::StrCat(flag, "=", value));
    }
  }
  out.insert(out.end(), arguments.begin(), arguments.end());
  return out;
}

absl::StatusOr<absl::Duration> ParseTimeout(const std::string& text) {
  absl::Duration out;
  double seconds;
  if (absl::SimpleAtod(text, &seconds)) {
    out = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &out)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--drain-timeout: got \"", text, "\", expected a duration such as 30s"));
  }
  if (out >= absl::ZeroDuration()) return out;
  return absl::InvalidArgumentError("--drain-timeout: must not be negative");
}

// On a virtual machine the first touch of a page is many times dearer than its use: memory that was
// freed stays with the process, whatever the size.
void KeepFreedPages() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  // With a heap for each thread, each would keep its own copy of the largest request.
  mallopt(M_ARENA_MAX, 1);
#endif
}

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

int WaitForSignal() {
  const sigset_t set = StopSignals();
  int signal = 0;
  while (sigwait(&set, &signal) != 0) {
  }
  return signal;
}

int Serve(const Flags& flags) {
  const auto server = rpc::Server::Start(flags.server);
  if (!server.ok()) {
    std::cerr << "gradwire-server: " << server.status().message() << std::endl;
    const bool usage =
        absl::IsInvalidArgument(server.status()) || absl::IsFailedPrecondition(server.status());
    return usage ? kExitUsage : kExitFailed;
  }
  std::cout << "gradwire-server listening on " << absl::StrJoin((*server)->addresses(), ", ")
            << std::endl;
  WaitForSignal();
  std::thread([] {
    WaitForSignal();
    _exit(kExitFailed);
  }).detach();
  (*server)->Stop();
  // A second signal must not find the process half destroyed.
  std::cout.flush();
  store::LogFailpointHits();
  _exit(0);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Answers derivatives of ONNX graphs and formulas over gRPC.", "gradwire-server");
  app.set_version_flag("--version", absl::StrCat("gradwire-server ", Engine::version()));
  app.footer(kExamples);
  AddFlags(&flags, &app);
  try {
    // CLI11 takes the last argument first.
    auto arguments = WithEnvironment(app, std::vector<std::string>(argv + 1, argv + argc));
    std::reverse(arguments.begin(), arguments.end());
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  const absl::StatusOr<absl::Duration> timeout = ParseTimeout(flags.drain_timeout);
  if (!timeout.ok()) {
    std::cerr << "gradwire-server: " << timeout.status().message() << std::endl;
    return kExitUsage;
  }
  flags.server.drain_timeout = *timeout;

  // Before the first thread: all of them inherit the mask, so only WaitForSignal gets the signals.
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  KeepFreedPages();
  omp_set_dynamic(0);
  rpc::StartLog(flags.log_level);
  return Serve(flags);
}

}  // namespace
}  // namespace gradwire

int main(int argc, char** argv) { return gradwire::Main(argc, argv); }
