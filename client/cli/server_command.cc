#include "client/cli/server_command.h"

#include "client/cli/render_json.h"
#include "client/cli/render_text.h"
#include "engine/base/status.h"

namespace gradwire::cli {

void AddHealthOptions(Command, CLI::App* app, RawArguments* raw) {
  AddText(app, "--service", &raw->service, "NAME", "A service by its full name [the server]");
}

absl::Status CheckHealth(const RawArguments& raw, Arguments* out) {
  out->service = raw.service;
  return absl::OkStatus();
}

absl::StatusOr<int> RunHealth(const Client& client, const Arguments& arguments,
                              const Console& console) {
  GW_ASSIGN_OR_RETURN(const ServingStatus status,
                      client.Health(arguments.service, arguments.call.deadline));
  const char* name = status == ServingStatus::kServing      ? "SERVING"
                     : status == ServingStatus::kNotServing ? "NOT_SERVING"
                                                            : "UNKNOWN";
  if (arguments.json) {
    *console.out << "{\"status\": \"" << name << "\"}\n";
  } else {
    *console.out << name << "\n";
  }
  return status == ServingStatus::kServing ? kOk : kCheckFailed;
}

absl::StatusOr<int> RunServerStatus(const Client& client, const Arguments& arguments,
                                    const Console& console) {
  GW_ASSIGN_OR_RETURN(const ServerCapabilities capabilities,
                      client.Capabilities(arguments.call.deadline));
  if (arguments.json) {
    *console.out << CapabilitiesAsJson(capabilities, client.address()) << "\n";
  } else {
    *console.out << CapabilitiesAsText(capabilities, client.address());
  }
  return kOk;
}

}  // namespace gradwire::cli
