#include "engine/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace gradwire {
namespace {

constexpr double kRequired = std::numeric_limits<double>::quiet_NaN();
constexpr double kAny = -std::numeric_limits<double>::infinity();

// From `start` to `end` as t goes from 0 to 1, in half a cosine.
double Cosine(double start, double end, double t) {
  return end + (start - end) / 2 * (1 + std::cos(std::numbers::pi * t));
}
double Line(double start, double end, double t) { return start + (end - start) * t; }

ScheduledRate Restarts(const Schedule& s, double base, double done) {
  const double first = s.number("t_0"), factor = s.number("t_mult");
  double period = first, at = done;
  if (factor == 1) {
    at = std::fmod(done, first);
  } else {
    // A cycle n has first * factor^n steps.
    const double n = std::floor(std::log(done / first * (factor - 1) + 1) / std::log(factor));
    at = done - first * (std::pow(factor, n) - 1) / (factor - 1);
    period = first * std::pow(factor, n);
  }
  return {Cosine(base, s.number("eta_min"), at / period), {}};
}

ScheduledRate WarmUp(const Schedule& s, double base, double done, bool cosine) {
  const double warm = s.number("warmup_steps"), total = s.number("total_steps");
  if (done < warm) return {base * (done + 1) / warm, {}};
  if (total <= warm) return {base, {}};
  const double t = std::min(1.0, (done - warm) / (total - warm));
  return {cosine ? Cosine(base, 0, t) : base * (1 - t), {}};
}

ScheduledRate Cyclic(const Schedule& s, double, double done) {
  const double up = s.number("step_size_up");
  const double down = s.number("step_size_down") > 0 ? s.number("step_size_down") : up;
  const double total = up + down, ratio = up / total;
  const double cycle = std::floor(1 + done / total);
  const double x = 1 + done / total - cycle;
  const double height = x <= ratio ? x / ratio : (x - 1) / (ratio - 1);
  const std::string& mode = s.word("mode");
  const double scale = mode == "triangular2" ? std::pow(2.0, 1 - cycle)
                       : mode == "exp_range" ? std::pow(s.number("gamma"), done)
                                             : 1;
  const auto between = [&](double low, double high) { return (high - low) * height * scale; };
  const double base_lr = s.number("base_lr"), base_m = s.number("base_momentum");
  const double max_m = s.number("max_momentum");
  ScheduledRate out{base_lr + between(base_lr, s.number("max_lr")), {}};
  if (s.number("cycle_momentum") != 0) out.momentum = max_m - between(base_m, max_m);
  return out;
}

ScheduledRate OneCycle(const Schedule& s, double, double done) {
  const double total = s.number("total_steps"), pct = s.number("pct_start");
  const double peak = s.number("max_lr"), first = peak / s.number("div_factor");
  const double last = first / s.number("final_div_factor");
  const double low = s.number("base_momentum"), high = s.number("max_momentum");
  struct Phase {
    double end, lr_from, lr_to, m_from, m_to;
  };
  std::vector<Phase> phases = {{pct * total - 1, first, peak, high, low}};
  if (s.number("three_phase") != 0) {
    phases.push_back({2 * pct * total - 2, peak, first, low, high});
    phases.push_back({total - 1, first, last, high, high});
  } else {
    phases.push_back({total - 1, peak, last, low, high});
  }
  double start = 0;
  size_t i = 0;
  while (i + 1 < phases.size() && done > phases[i].end) start = phases[i++].end;
  const Phase& p = phases[i];
  const double t = std::min(1.0, (done - start) / (p.end - start));
  const auto between = s.word("anneal_strategy") == "linear" ? Line : Cosine;
  ScheduledRate out{between(p.lr_from, p.lr_to, t), {}};
  if (s.number("cycle_momentum") != 0) out.momentum = between(p.m_from, p.m_to, t);
  return out;
}

const std::vector<ScheduleRow>& Table() {
  static const auto& rows = *new std::vector<ScheduleRow>{
      {"constant", "lr * factor for total_iters steps, then lr.",
       {{"factor", 1, 0}, {"total_iters", 0, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         return {done < s.number("total_iters") ? base * s.number("factor") : base, {}};
       }},
      {"step", "Times gamma after every step_size steps.",
       {{"step_size", kRequired, 1}, {"gamma", 0.1, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         return {base * std::pow(s.number("gamma"), std::floor(done / s.number("step_size"))), {}};
       }},
      {"multi_step", "Times gamma at each milestone.", {{"gamma", 0.1, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         const auto& m = s.spec().milestones;
         const auto passed = std::count_if(m.begin(), m.end(), [&](double at) { return at <= done; });
         return {base * std::pow(s.number("gamma"), static_cast<double>(passed)), {}};
       }},
      {"exponential", "Times gamma after every step.", {{"gamma", kRequired, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         return {base * std::pow(s.number("gamma"), done), {}};
       }},
      {"polynomial", "Down to 0 after total_iters steps.",
       {{"total_iters", 5, 1}, {"power", 1, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         const double total = s.number("total_iters");
         return {base * std::pow(1 - std::min(done, total) / total, s.number("power")), {}};
       }},
      {"cosine", "Down to eta_min after t_max steps, and up again.",
       {{"t_max", kRequired, 1}, {"eta_min", 0, 0}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         return {Cosine(base, s.number("eta_min"), done / s.number("t_max")), {}};
       }},
      {"cosine_restarts", "Cosines down to eta_min, each t_mult times as long.",
       {{"t_0", kRequired, 1}, {"t_mult", 1, 1}, {"eta_min", 0, 0}}, {}, Restarts},
      {"linear", "From lr * start_factor to lr * end_factor over total_iters steps.",
       {{"start_factor", 1.0 / 3, 0}, {"end_factor", 1, 0}, {"total_iters", 5, 1}}, {},
       [](const Schedule& s, double base, double done) -> ScheduledRate {
         const double total = s.number("total_iters");
         return {base * Line(s.number("start_factor"), s.number("end_factor"),
                             std::min(done, total) / total),
                 {}};
       }},
      {"warmup_linear", "Up over warmup_steps, then in a line to 0 at total_steps (0: stays).",
       {{"warmup_steps", kRequired, 1}, {"total_steps", 0, 0}}, {},
       [](const Schedule& s, double base, double done) { return WarmUp(s, base, done, false); }},
      {"warmup_cosine", "Up over warmup_steps, then in half a cosine to 0 at total_steps.",
       {{"warmup_steps", kRequired, 1}, {"total_steps", 0, 0}}, {},
       [](const Schedule& s, double base, double done) { return WarmUp(s, base, done, true); }},
      {"cyclic", "Up and down between base_lr and max_lr.",
       {{"base_lr", kRequired, 0}, {"max_lr", kRequired, 0}, {"step_size_up", 2000, 1},
        {"step_size_down", 0, 0}, {"gamma", 1, 0}, {"cycle_momentum", 1, 0},
        {"base_momentum", 0.8, 0}, {"max_momentum", 0.9, 0}},
       {{"mode", {"triangular", "triangular2", "exp_range"}}}, Cyclic},
      {"one_cycle", "Up to max_lr, then down far below the start.",
       {{"max_lr", kRequired, 0}, {"total_steps", kRequired, 1}, {"pct_start", 0.3, 0},
        {"cycle_momentum", 1, 0}, {"base_momentum", 0.85, 0}, {"max_momentum", 0.95, 0},
        {"div_factor", 25, 1e-300}, {"final_div_factor", 1e4, 1e-300}, {"three_phase", 0, 0}},
       {{"anneal_strategy", {"cos", "linear"}}}, OneCycle},
      {"reduce_on_plateau", "Times factor where the loss has not got better for patience times.",
       {{"factor", 0.1, 0}, {"patience", 10, 0}, {"threshold", 1e-4, 0}, {"cooldown", 0, 0},
        {"min_lr", 0, 0}, {"eps", 1e-8, 0}},
       {{"mode", {"min", "max"}}, {"threshold_mode", {"rel", "abs"}}},
       [](const Schedule& s, double base, double) -> ScheduledRate {
         // Applied one reduction after another, as each is bounded by min_lr and eps.
         const auto found = s.memory().find("reductions");
         const double reductions = found == s.memory().end() ? 0 : found->second;
         double lr = base;
         for (double i = 0; i < reductions; ++i) {
           const double next = std::max(lr * s.number("factor"), s.number("min_lr"));
           if (lr - next <= s.number("eps")) break;
           lr = next;
         }
         return {lr, {}};
       }},
  };
  return rows;
}

}  // namespace

absl::Span<const ScheduleRow> AllSchedules() { return Table(); }

absl::StatusOr<Schedule> Schedule::Make(const ScheduleSpec& spec) {
  Schedule out;
  std::vector<std::string> names;
  for (const ScheduleRow& row : Table()) {
    names.push_back(row.name);
    if (spec.name == row.name) out.row_ = &row;
  }
  if (out.row_ == nullptr) {
    return Error(Reason::kInvalidSpec, absl::StrCat("schedule: there is no \"", spec.name,
                                                    "\", but ", absl::StrJoin(names, ", ")));
  }
  Problems problems;
  const std::string where = absl::StrCat("schedule.", spec.name, ".");
  out.spec_ = spec;
  for (const ScheduleNumber& n : out.row_->numbers) {
    const auto given = spec.numbers.find(n.name);
    if (given == spec.numbers.end()) {
      if (std::isnan(n.fallback)) {
        problems.Add(Reason::kInvalidSpec, where + n.name, "is required");
      }
      out.spec_.numbers[n.name] = n.fallback;
    } else if (!std::isfinite(given->second) || given->second < n.min) {
      problems.Add(Reason::kInvalidSpec, where + n.name,
                   absl::StrCat("got ", given->second, ", expected at least ", n.min));
    }
  }
  for (const ScheduleWord& w : out.row_->words) {
    const std::string& word = out.spec_.words.emplace(w.name, w.choices[0]).first->second;
    if (std::find(w.choices.begin(), w.choices.end(), word) == w.choices.end()) {
      problems.Add(Reason::kInvalidSpec, where + w.name,
                   absl::StrCat("got \"", word, "\", expected ", absl::StrJoin(w.choices, ", ")));
    }
  }
  if (spec.name == "multi_step" && spec.milestones.empty()) {
    problems.Add(Reason::kInvalidSpec, where + "milestones", "is required");
  }
  if (spec.name == "one_cycle" && problems.empty() && out.number("pct_start") > 1) {
    problems.Add(Reason::kInvalidSpec, where + "pct_start", "expected 0 to 1");
  }
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

ScheduledRate Schedule::At(double base_lr, int64_t steps_done) const {
  return row_->at(*this, base_lr, static_cast<double>(steps_done));
}

void Schedule::Observe(double loss) {
  if (spec_.name != "reduce_on_plateau") return;
  const bool least = word("mode") == "min";
  const double worst = least ? std::numeric_limits<double>::infinity()
                             : -std::numeric_limits<double>::infinity();
  double& best = memory_.emplace("best", worst).first->second;
  double& bad = memory_["bad"];
  double& cooldown = memory_["cooldown"];
  const double threshold = number("threshold");
  const bool relative = word("threshold_mode") == "rel";
  const double bar = relative ? best * (least ? 1 - threshold : 1 + threshold)
                              : best + (least ? -threshold : threshold);
  if (least ? loss < bar : loss > bar) {
    best = loss;
    bad = 0;
  } else {
    ++bad;
  }
  if (cooldown > 0) {
    --cooldown;
    bad = 0;
  }
  if (bad > number("patience")) {
    ++memory_["reductions"];
    cooldown = number("cooldown");
    bad = 0;
  }
}

}  // namespace gradwire
