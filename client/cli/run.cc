#include "client/cli/run.h"

#include "absl/status/statusor.h"
#include "client/cli/arguments.h"
#include "client/cli/commands.h"
#include "client/cli/report.h"
#include "client/client.h"

namespace gradwire::cli {

int Run(const std::vector<std::string>& words, const Console& console) {
  const ParsedArguments parsed = ParseArguments(words);
  if (!parsed.arguments) {
    if (parsed.is_error) return Report(UsageError(parsed.text), AskForJson(words), console);
    *console.out << parsed.text;
    return kOk;
  }
  const Arguments& arguments = *parsed.arguments;
  const Client client = Client::Connect(arguments.server);
  const absl::StatusOr<int> code = RowOf(arguments.command).run(client, arguments, console);
  if (code.ok()) return *code;
  return Report(Explained(code.status(), client.address()), arguments.json, console);
}

}  // namespace gradwire::cli
