#include "client/cli/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/help.h"
#include "engine/base/status.h"

namespace gradwire::cli {
namespace {

// The options as text, before they are checked.
struct RawArguments {
  std::string server;
  std::string output = "text";
  bool info = false;
  std::string service;
  std::string model;
  std::vector<std::string> words;  // FORMULA, NAME=VALUE
  std::vector<std::string> in;
  std::vector<std::string> vectors;
  std::vector<std::string> wrt;
  std::vector<std::string> outputs;
  std::string output_name;
  std::string precision = "as_graph";
  std::string mode = "as_graph";
  std::string seed = "0";
  bool check_finite = false;
  std::string deadline = "60";
};

struct Parser {
  RawArguments raw;
  CLI::App app{kProgramHelp, "gradwire"};
  std::vector<std::pair<CLI::App*, Command>> commands;
};

void AddList(CLI::App* app, const std::string& name, std::vector<std::string>* out,
             const std::string& value, const std::string& help) {
  app->add_option(name, *out, help)
      ->type_name(value)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void AddCommonOptions(CLI::App* app, RawArguments* raw) {
  app->add_option("--server", raw->server, "Server: HOST:PORT or unix:PATH [GRADWIRE_SERVER]")
      ->type_name("ADDR");
  app->add_option("--output", raw->output, "text for people, json for programs [text]")
      ->type_name("text|json");
  app->add_option("--deadline", raw->deadline, "How long the call may take [60]")
      ->type_name("SECONDS");
}

void AddComputeOptions(CLI::App* app, Command command, RawArguments* raw) {
  app->add_option("FORMULA", raw->words, "A formula (unless --model is given), then NAME=VALUE ...")
      ->type_name("NAME=VALUE");
  app->add_option("--model", raw->model, "Model file (.onnx, .onnxtxt), or graphs/SHA256")
      ->type_name("FILE");
  AddList(app, "--in", &raw->in, "NAME=VALUE", "An input; the same as NAME=VALUE alone");
  if (command == Command::kVjp) {
    AddList(app, "--cotangent", &raw->vectors, "NAME=VALUE",
            "Cotangent of an output; a NAME given again begins the next of K");
  } else if (command == Command::kJvp) {
    AddList(app, "--tangent", &raw->vectors, "NAME=VALUE",
            "Tangent of an input; a NAME given again begins the next of K");
  } else if (command == Command::kHvp) {
    AddList(app, "--vector", &raw->vectors, "NAME=VALUE",
            "Vector to multiply with; a NAME given again begins the next of K");
  }
  if (command == Command::kEval || command == Command::kJvp) {
    AddList(app, "--outputs", &raw->outputs, "A,B", "Values to compute [all outputs]");
  } else {
    AddList(app, "--wrt", &raw->wrt, "A,B",
            "Differentiate by these [the parameters, else the inputs]");
  }
  if (command == Command::kGrad || command == Command::kHvp || command == Command::kAnalyze) {
    app->add_option("--output-name", raw->output_name, "The scalar f [the only output]")
        ->type_name("NAME");
  }
  app->add_option("--precision", raw->precision, "Arithmetic [as_graph]")
      ->type_name("as_graph|float|double");
  app->add_option("--mode", raw->mode, "Dropout and the like [as_graph]")
      ->type_name("as_graph|train|eval");
  if (command == Command::kAnalyze) return;
  app->add_option("--seed", raw->seed, "Key of random draws [0]")->type_name("N");
  app->add_flag("--check-finite", raw->check_finite, "Fail where a result is NaN or infinite");
  app->add_flag("--info", raw->info, "Show how it was computed (json always does)");
}

void AddCommand(CLI::App* parent, Parser* parser, Command command) {
  const CommandHelp& help = HelpOf(command);
  CLI::App* app = parent->add_subcommand(help.name, help.summary);
  app->footer(help.examples);
  AddCommonOptions(app, &parser->raw);
  if (command == Command::kHealth) {
    app->add_option("--service", parser->raw.service, "A service by its full name [the server]")
        ->type_name("NAME");
  } else if (command != Command::kServerStatus) {
    AddComputeOptions(app, command, &parser->raw);
  }
  parser->commands.emplace_back(app, command);
}

std::unique_ptr<Parser> MakeParser() {
  auto parser = std::make_unique<Parser>();
  parser->app.set_version_flag("--version", std::string("gradwire ") + kVersion);
  parser->app.require_subcommand(1);
  parser->app.footer(kProgramExamples);
  for (Command command : {Command::kEval, Command::kGrad, Command::kVjp, Command::kJvp,
                          Command::kHvp, Command::kAnalyze, Command::kHealth}) {
    AddCommand(&parser->app, parser.get(), command);
  }
  CLI::App* server = parser->app.add_subcommand("server", "About the server");
  server->require_subcommand(1);
  AddCommand(server, parser.get(), Command::kServerStatus);
  return parser;
}

// ---- Checks.

absl::StatusOr<Assignment> ParseAssignment(absl::string_view word) {
  const size_t equals = word.find('=');
  const absl::string_view name = absl::StripAsciiWhitespace(word.substr(0, equals));
  if (equals == absl::string_view::npos || name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", word, "' is no NAME=VALUE; a formula goes first, in quotes"));
  }
  return Assignment{std::string(name),
                    std::string(absl::StripAsciiWhitespace(word.substr(equals + 1)))};
}

absl::Status AddInputs(const std::vector<std::string>& words, Arguments* out) {
  for (const std::string& word : words) {
    GW_ASSIGN_OR_RETURN(Assignment assignment, ParseAssignment(word));
    for (const Assignment& other : out->inputs) {
      if (other.name == assignment.name) {
        return absl::InvalidArgumentError(absl::StrCat(assignment.name, " is given twice"));
      }
    }
    out->inputs.push_back(std::move(assignment));
  }
  return absl::OkStatus();
}

absl::Status AddVectors(const std::vector<std::string>& words, Arguments* out) {
  for (const std::string& word : words) {
    GW_ASSIGN_OR_RETURN(Assignment assignment, ParseAssignment(word));
    const auto has_name = [&](const Assignment& other) { return other.name == assignment.name; };
    if (out->vectors.empty() ||
        std::any_of(out->vectors.back().begin(), out->vectors.back().end(), has_name)) {
      out->vectors.emplace_back();
    }
    out->vectors.back().push_back(std::move(assignment));
  }
  return absl::OkStatus();
}

std::vector<std::string> SplitNames(const std::vector<std::string>& lists) {
  std::vector<std::string> names;
  for (const std::string& list : lists) {
    for (absl::string_view name : absl::StrSplit(list, ',', absl::SkipWhitespace())) {
      names.emplace_back(absl::StripAsciiWhitespace(name));
    }
  }
  return names;
}

// The index of `text` in `choices`.
absl::StatusOr<int> Choose(absl::string_view option, const std::string& text,
                           const std::vector<absl::string_view>& choices) {
  const std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(text));
  for (size_t i = 0; i < choices.size(); ++i) {
    if (lower == choices[i]) return static_cast<int>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": got '", text, "', expected one of ", absl::StrJoin(choices, ", ")));
}

absl::Status SetCall(const RawArguments& raw, CallOptions* call) {
  GW_ASSIGN_OR_RETURN(const int mode, Choose("--mode", raw.mode, {"as_graph", "train", "eval"}));
  GW_ASSIGN_OR_RETURN(const int precision,
                      Choose("--precision", raw.precision, {"as_graph", "float", "double"}));
  call->mode = static_cast<CallOptions::Mode>(mode);
  call->precision = static_cast<CallOptions::Precision>(precision);
  call->check_finite = raw.check_finite;
  if (!absl::SimpleAtoi(raw.seed, &call->seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seed: got '", raw.seed, "', expected a whole number from 0 to 2^64-1"));
  }
  double seconds;
  if (!absl::SimpleAtod(raw.deadline, &seconds) || !(seconds > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--deadline: got '", raw.deadline, "', expected seconds above 0"));
  }
  call->deadline = absl::Seconds(seconds);
  return absl::OkStatus();
}

absl::StatusOr<Arguments> Check(RawArguments raw, Command command) {
  for (std::string* text :
       {&raw.server, &raw.service, &raw.model, &raw.output_name, &raw.seed, &raw.deadline}) {
    absl::StripAsciiWhitespace(text);
  }
  Arguments out;
  out.command = command;
  out.server = raw.server;
  out.service = raw.service;
  out.show_info = raw.info;
  GW_ASSIGN_OR_RETURN(const int format, Choose("--output", raw.output, {"text", "json"}));
  out.json = format == 1;
  GW_RETURN_IF_ERROR(SetCall(raw, &out.call));
  if (command == Command::kHealth || command == Command::kServerStatus) return out;
  out.model_path = raw.model;
  if (raw.model.empty()) {
    if (raw.words.empty()) {
      return absl::InvalidArgumentError("nothing to compute: give a formula, or --model FILE");
    }
    out.formula = std::string(absl::StripAsciiWhitespace(raw.words.front()));
    raw.words.erase(raw.words.begin());
  }
  GW_RETURN_IF_ERROR(AddInputs(raw.words, &out));
  GW_RETURN_IF_ERROR(AddInputs(raw.in, &out));
  GW_RETURN_IF_ERROR(AddVectors(raw.vectors, &out));
  const char* vector_option = HelpOf(command).vector_option;
  if (vector_option != nullptr && out.vectors.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("give at least one ", vector_option, " NAME=VALUE"));
  }
  out.wrt = SplitNames(raw.wrt);
  out.outputs = SplitNames(raw.outputs);
  out.output_name = raw.output_name;
  return out;
}

// ---- Help and usage errors.

size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// What `word` may have been meant to be, or "".
std::string Suggest(const CLI::App* app, absl::string_view word) {
  word = word.substr(0, word.find('='));
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  auto offer = [&](const std::string& candidate) {
    const size_t distance = EditDistance(word, candidate);
    if (distance >= best_distance) return;
    best_distance = distance;
    best = candidate;
  };
  if (absl::StartsWith(word, "-")) {
    for (const CLI::Option* option : app->get_options()) {
      for (const std::string& name : option->get_lnames()) offer("--" + name);
    }
  } else {
    for (const CLI::App* command : app->get_subcommands(nullptr)) offer(command->get_name());
  }
  return best;
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

}  // namespace

ParsedArguments ParseArguments(std::vector<std::string> words) {
  const std::unique_ptr<Parser> parser = MakeParser();
  if (words.empty()) return UsageError(&parser->app, "no command is given");
  for (std::string& word : words) {
    // A word such as -x^2 is a formula: there are no short options besides -h. Led by a blank, it
    // is none for CLI11 either; Check() takes the blank off again.
    if (word.size() > 1 && word[0] == '-' && word[1] != '-' && word != "-h") word = " " + word;
  }
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
  for (const auto& [candidate, command] : parser->commands) {
    if (candidate != app) continue;
    absl::StatusOr<Arguments> arguments = Check(parser->raw, command);
    if (!arguments.ok()) return UsageError(app, std::string(arguments.status().message()));
    return {.arguments = *std::move(arguments), .text = {}, .is_error = false};
  }
  return UsageError(app, "a command is missing");
}

bool AskForJson(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--output=json") return true;
    if (words[i] == "--output" && i + 1 < words.size() && words[i + 1] == "json") return true;
  }
  return false;
}

}  // namespace gradwire::cli
