#include "client/cli/arguments.h"

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/raw_arguments.h"
#include "client/cli/suggest.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

struct Parser {
  RawArguments raw;
  CLI::App app{kProgramHelp, "gradwire"};
  std::map<const CLI::App*, const CommandRow*> commands;
};

void AddCommonOptions(CLI::App* app, RawArguments* raw) {
  AddText(app, "--server", &raw->server, "ADDR",
          "Server: HOST:PORT or unix:PATH [GRADWIRE_SERVER]");
  AddText(app, "--output", &raw->output, "text|json", "text for people, json for programs [text]");
  AddText(app, "--deadline", &raw->deadline, "SECONDS",
          "How long it may take [60; no limit for uploads, downloads and watches]");
}

std::unique_ptr<Parser> MakeParser() {
  auto parser = std::make_unique<Parser>();
  parser->app.set_version_flag("--version", std::string("gradwire ") + kVersion);
  parser->app.require_subcommand(1);
  parser->app.footer(kProgramExamples);
  std::map<std::string, CLI::App*> groups = {{"", &parser->app}};
  for (const CommandRow& row : Commands()) {
    CLI::App*& group = groups[row.group];
    if (group == nullptr) {
      group = parser->app.add_subcommand(row.group, GroupSummary(row.group));
      group->require_subcommand(1);
    }
    CLI::App* app = group->add_subcommand(row.name, row.summary);
    app->footer(row.examples);
    AddCommonOptions(app, &parser->raw);
    if (row.add_options != nullptr) row.add_options(row.command, app, &parser->raw);
    parser->commands[app] = &row;
  }
  return parser;
}

absl::StatusOr<Arguments> Check(RawArguments raw, const CommandRow& row) {
  for (std::string* text : {&raw.server, &raw.service, &raw.model, &raw.output_name, &raw.seed,
                            &raw.deadline, &raw.plot}) {
    absl::StripAsciiWhitespace(text);
  }
  for (auto& [option, value] : raw.fields) absl::StripAsciiWhitespace(&value);
  Arguments out;
  out.command = row.command;
  out.server = raw.server;
  GW_ASSIGN_OR_RETURN(const int format, Choose("--output", raw.output, {"text", "json"}));
  out.json = format == 1;
  if (!raw.deadline.empty()) {
    GW_ASSIGN_OR_RETURN(out.call.deadline, ParsePeriod("--deadline", raw.deadline));
    out.long_deadline = out.call.deadline;
  }
  if (row.check != nullptr) GW_RETURN_IF_ERROR(row.check(raw, &out));
  return out;
}

// ---- Help and usage errors.

// What `word` may have been meant to be, or "".
std::string Suggest(const CLI::App* app, absl::string_view word) {
  word = word.substr(0, word.find('='));
  std::vector<std::string> candidates;
  if (absl::StartsWith(word, "-")) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) candidates.push_back("--" + name);
    }
  } else {
    for (const CLI::App* command : app->get_subcommands(nullptr)) {
      candidates.push_back(command->get_name());
    }
  }
  return ClosestTo(word, candidates);
}

// The command that the words reached.
CLI::App* Reached(CLI::App* app) {
  while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
  return app;
}

std::string FullName(const CLI::App* app) {
  std::string name = app->get_name();
  for (app = app->get_parent(); app != nullptr; app = app->get_parent()) {
    name = absl::StrCat(app->get_name(), " ", name);
  }
  return name;
}

ParsedArguments UsageError(CLI::App* app, const std::string& message) {
  return {.arguments = std::nullopt,
          .text = absl::StrCat(message, "\nsee: ", FullName(app), " --help"),
          .is_error = true};
}

ParsedArguments ParseError(Parser* parser, const std::vector<std::string>& words,
                           const CLI::ParseError& error) {
  CLI::App* app = Reached(&parser->app);
  std::vector<std::string> extras = app->remaining();
  if (extras.empty()) extras = parser->app.remaining();
  // CLI11 stops at the first word that is no command, saying only that one is needed.
  if (extras.empty() && app == &parser->app && !words.empty()) extras = {words.front()};
  if (extras.empty()) return UsageError(app, error.what());
  std::string message =
      absl::StrCat("unknown ", absl::StartsWith(extras.front(), "-") ? "option" : "argument", " '",
                   absl::StripAsciiWhitespace(extras.front()), "'");
  const std::string suggestion = Suggest(app, extras.front());
  if (!suggestion.empty()) absl::StrAppend(&message, "; did you mean '", suggestion, "'?");
  return UsageError(app, message);
}

// A word such as -x^2 is a formula, where one may stand: there are no short options but -h. Led by
// a blank it is no option for CLI11 either; Check() and the commands take the blank off again.
void ShieldFormulas(std::vector<std::string>* words) {
  bool takes_formula = false;
  for (const CommandRow& row : Commands()) {
    takes_formula |= row.takes_formula && words->front() == row.name;
  }
  if (!takes_formula) return;
  for (std::string& word : *words) {
    if (word.size() > 1 && word[0] == '-' && word[1] != '-' && word != "-h") word = " " + word;
  }
}

}  // namespace

ParsedArguments ParseArguments(std::vector<std::string> words) {
  const std::unique_ptr<Parser> parser = MakeParser();
  if (words.empty()) return UsageError(&parser->app, "no command is given");
  ShieldFormulas(&words);
  try {
    std::vector<std::string> reversed(words.rbegin(), words.rend());
    parser->app.parse(std::move(reversed));
  } catch (const CLI::CallForHelp&) {
    const CLI::App* app = Reached(&parser->app);
    const std::string parent = app->get_parent() == nullptr ? "" : FullName(app->get_parent());
    return {.arguments = std::nullopt, .text = app->help(parent), .is_error = false};
  } catch (const CLI::CallForVersion& version) {
    return {
        .arguments = std::nullopt, .text = absl::StrCat(version.what(), "\n"), .is_error = false};
  } catch (const CLI::ParseError& error) {
    return ParseError(parser.get(), words, error);
  }
  CLI::App* app = Reached(&parser->app);
  const auto command = parser->commands.find(app);
  if (command == parser->commands.end()) return UsageError(app, "a command is missing");
  absl::StatusOr<Arguments> arguments = Check(parser->raw, *command->second);
  if (!arguments.ok()) return UsageError(app, std::string(arguments.status().message()));
  return {.arguments = *std::move(arguments), .text = {}, .is_error = false};
}

bool AskForJson(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--output=json") return true;
    if (words[i] == "--output" && i + 1 < words.size() && words[i + 1] == "json") return true;
  }
  return false;
}

}  // namespace gradwire::cli
