#include "engine/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "absl/strings/str_join.h"

namespace gradwire {
namespace {

double Line(double start, double end, double t) { return (end - start) * t + start; }
// The same in half a cosine.
double Cosine(double start, double end, double t) {
  return end + (start - end) / 2 * (std::cos(std::numbers::pi * t) + 1);
}

constexpr SettingDef kEtaMin = {"eta_min", 0, kNonNegative};
// A momentum of exactly 0 would have PyTorch leave its buffers out for that step.
constexpr Range kMovingMomentum = {.min = 0, .max = 1, .open_min = true, .open_max = true};

const ScheduleRow kConstant = {
    .name = "constant",
    .doc = "`lr * factor` for total_iters steps, then `lr` (ConstantLR, but factor defaults to 1).",
    .numbers = {{"factor", 1, kUpToOne}, {"total_iters", 5, kCount}},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      return {done < s.number("total_iters") ? base * s.number("factor") : base};
    },
};

const ScheduleRow kStep = {
    .name = "step",
    .doc = "Times gamma after every step_size steps (StepLR).",
    .numbers = {{"step_size", kRequired, kPositiveCount}, {"gamma", 0.1, kNonNegative}},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      return {base * std::pow(s.number("gamma"), std::floor(done / s.number("step_size")))};
    },
};

const ScheduleRow kMultiStep = {
    .name = "multi_step",
    .doc = "Times gamma at each milestone (MultiStepLR).",
    .numbers = {{"gamma", 0.1, kNonNegative}},
    .has_milestones = true,
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      const auto& milestones = s.spec().milestones;
      const auto passed = std::count_if(milestones.begin(), milestones.end(),
                                        [&](int64_t m) { return static_cast<double>(m) <= done; });
      return {base * std::pow(s.number("gamma"), static_cast<double>(passed))};
    },
};

const ScheduleRow kExponential = {
    .name = "exponential",
    .doc = "Times gamma after every step (ExponentialLR).",
    .numbers = {{"gamma", kRequired, kNonNegative}},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      return {base * std::pow(s.number("gamma"), done)};
    },
};

const ScheduleRow kPolynomial = {
    .name = "polynomial",
    .doc = "`lr * (1 - s / total_iters)^power`, then 0 (PolynomialLR).",
    .numbers = {{"total_iters", 5, kPositiveCount}, {"power", 1, kNonNegative}},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      const double total = s.number("total_iters");
      return {base * std::pow(1 - std::min(total, done) / total, s.number("power"))};
    },
};

const ScheduleRow kCosine = {
    .name = "cosine",
    .doc = "Down to eta_min in t_max steps, and up again (CosineAnnealingLR).",
    .numbers = {{"t_max", kRequired, kPositiveCount}, kEtaMin},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      return {Cosine(base, s.number("eta_min"), done / s.number("t_max"))};
    },
};

const ScheduleRow kCosineRestarts = {
    .name = "cosine_restarts",
    .doc =
        "Down to eta_min again and again, each time t_mult times as long as before"
        " (CosineAnnealingWarmRestarts).",
    .numbers = {{"t_0", kRequired, kPositiveCount}, {"t_mult", 1, kPositiveCount}, kEtaMin},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      double period = s.number("t_0"), at = done;
      if (s.number("t_mult") == 1) at = std::fmod(at, period);
      while (at >= period) {
        at -= period;
        period *= s.number("t_mult");
      }
      return {Cosine(base, s.number("eta_min"), at / period)};
    },
};

const ScheduleRow kLinear = {
    .name = "linear",
    .doc = "From `lr * start_factor` to `lr * end_factor` in total_iters steps (LinearLR).",
    .numbers = {{"start_factor", 1.0 / 3, {.min = 0, .max = 1, .open_min = true}},
                {"end_factor", 1, kUpToOne},
                {"total_iters", 5, kPositiveCount}},
    .at = [](const Schedule& s, double base, double done) -> ScheduledRate {
      const double total = s.number("total_iters");
      return {base * Line(s.number("start_factor"), s.number("end_factor"),
                          std::min(total, done) / total)};
    },
};

template <double (*kDescent)(double, double, double)>
ScheduledRate WarmUp(const Schedule& s, double base, double done) {
  const double warm = s.number("warmup_steps"), total = s.number("total_steps");
  if (done < warm) return {base * ((done + 1) / warm)};
  if (total == 0) return {base};
  return {kDescent(base, 0, std::min(1.0, (done - warm) / (total - warm)))};
}
void CheckWarmUp(const Schedule& s, absl::string_view where, Problems* problems) {
  const double total = s.number("total_steps");
  if (total == 0 || total > s.number("warmup_steps")) return;
  problems->Add(Reason::kInvalidSpec, absl::StrCat(where, ".total_steps"),
                absl::StrCat("got ", total, ", expected 0 or more than warmup_steps"));
}

const ScheduleRow kWarmUpLinear = {
    .name = "warmup_linear",
    .doc =
        "`lr * (s + 1) / warmup_steps` up to lr, which then stays (total_steps 0) or falls in a"
        " line to 0 at total_steps.",
    .numbers = {{"warmup_steps", kRequired, kCount}, {"total_steps", 0, kCount}},
    .at = WarmUp<Line>,
    .check = CheckWarmUp,
};

const ScheduleRow kWarmUpCosine = {
    .name = "warmup_cosine",
    .doc = "As warmup_linear, but falling in half a cosine.",
    .numbers = {{"warmup_steps", kRequired, kCount}, {"total_steps", 0, kCount}},
    .at = WarmUp<Cosine>,
    .check = CheckWarmUp,
};

const ScheduleRow kCyclic = {
    .name = "cyclic",
    .doc =
        "Up and down between base_lr and max_lr, step_size_up and step_size_down (0: as many)"
        " steps long; momentum the other way (CyclicLR).",
    .numbers = {{"base_lr", kRequired, kNonNegative},
                {"max_lr", kRequired, kNonNegative},
                {"step_size_up", 2000, kPositiveCount},
                {"step_size_down", 0, kCount},
                {"gamma", 1, kNonNegative},
                {"cycle_momentum", 1, kFlag},
                {"base_momentum", 0.8, kMovingMomentum},
                {"max_momentum", 0.9, kMovingMomentum}},
    .words = {{"mode", {"triangular", "triangular2", "exp_range"}}},
    .at = [](const Schedule& s, double, double done) -> ScheduledRate {
      const double up = s.number("step_size_up"), down = s.number("step_size_down");
      const double total = up + (down > 0 ? down : up), peak = up / total;
      const double cycle = std::floor(1 + done / total), x = 1 + done / total - cycle;
      const double height = x <= peak ? x / peak : (x - 1) / (peak - 1);
      const std::string& mode = s.word("mode");
      const double scale = mode == "triangular2" ? 1 / std::pow(2.0, cycle - 1)
                           : mode == "exp_range" ? std::pow(s.number("gamma"), done)
                                                 : 1;
      const auto part = [&](const char* low, const char* high) {
        return (s.number(high) - s.number(low)) * height * scale;
      };
      ScheduledRate out{s.number("base_lr") + part("base_lr", "max_lr")};
      if (s.number("cycle_momentum") != 0) {
        out.momentum = s.number("max_momentum") - part("base_momentum", "max_momentum");
      }
      return out;
    },
};

struct Phase {
  double end, lr_from, lr_to, momentum_from, momentum_to;
};
std::vector<Phase> OneCyclePhases(const Schedule& s) {
  const double total = s.number("total_steps"), share = s.number("pct_start");
  const double peak = s.number("max_lr"), first = peak / s.number("div_factor");
  const double last = first / s.number("final_div_factor");
  const double low = s.number("base_momentum"), high = s.number("max_momentum");
  const Phase rise = {share * total - 1, first, peak, high, low};
  if (s.number("three_phase") == 0) return {rise, {total - 1, peak, last, low, high}};
  return {
      rise, {2 * share * total - 2, peak, first, low, high}, {total - 1, first, last, high, high}};
}

const ScheduleRow kOneCycle = {
    .name = "one_cycle",
    .doc =
        "Up from `max_lr / div_factor` to max_lr, then down to the start over"
        " final_div_factor; momentum the other way (OneCycleLR).",
    .numbers = {{"max_lr", kRequired, kNonNegative},
                {"total_steps", kRequired, kPositiveCount},
                {"pct_start", 0.3, kUpToOne},
                {"cycle_momentum", 1, kFlag},
                {"base_momentum", 0.85, kMovingMomentum},
                {"max_momentum", 0.95, kMovingMomentum},
                {"div_factor", 25, kPositive},
                {"final_div_factor", 1e4, kPositive},
                {"three_phase", 0, kFlag}},
    .words = {{"anneal_strategy", {"cos", "linear"}}},
    .at = [](const Schedule& s, double, double done) -> ScheduledRate {
      const std::vector<Phase> phases = OneCyclePhases(s);
      const double at = std::min(done, s.number("total_steps") - 1);
      double start = 0;
      auto phase = phases.begin();
      for (; std::next(phase) != phases.end() && at > phase->end; ++phase) start = phase->end;
      const double t = phase->end != start ? (at - start) / (phase->end - start) : 1;
      const auto between = s.word("anneal_strategy") == "linear" ? Line : Cosine;
      ScheduledRate out{between(phase->lr_from, phase->lr_to, t)};
      if (s.number("cycle_momentum") != 0) {
        out.momentum = between(phase->momentum_from, phase->momentum_to, t);
      }
      return out;
    },
};

// Memory: best (absent before the first loss), bad, cooldown, reductions.
void ObservePlateau(const Schedule& s, double loss, Settings* memory) {
  const double threshold = s.number("threshold");
  const bool relative = s.word("threshold_mode") == "rel", least = s.word("mode") == "min";
  const double sign = least ? -1 : 1;
  const auto best = memory->find("best");
  const bool better =
      std::isfinite(loss) && (best == memory->end() ||
                              sign * loss > sign * (relative ? best->second * (1 + sign * threshold)
                                                             : best->second + sign * threshold));
  double& bad = (*memory)["bad"];
  double& cooldown = (*memory)["cooldown"];
  ++bad;
  if (better) {
    (*memory)["best"] = loss;
    bad = 0;
  }
  if (cooldown > 0) {
    --cooldown;
    bad = 0;
  }
  if (bad > s.number("patience")) {
    ++(*memory)["reductions"];
    cooldown = s.number("cooldown");
    bad = 0;
  }
}

const ScheduleRow kReduceOnPlateau = {
    .name = "reduce_on_plateau",
    .doc =
        "Times factor, down to min_lr, where the loss has not got better by threshold for more"
        " than patience observations (ReduceLROnPlateau).",
    .numbers = {{"factor", 0.1, kBelowOne},
                {"patience", 10, kCount},
                {"threshold", 1e-4, kNonNegative},
                {"cooldown", 0, kCount},
                {"min_lr", 0, kNonNegative},
                {"eps", 1e-8, kNonNegative}},
    .words = {{"mode", {"min", "max"}}, {"threshold_mode", {"rel", "abs"}}},
    .at = [](const Schedule& s, double base, double) -> ScheduledRate {
      const auto found = s.memory().find("reductions");
      double lr = base;
      // One after another: each is bounded by min_lr, and left out where it is below eps.
      for (double left = found == s.memory().end() ? 0 : found->second; left > 0; --left) {
        const double next = std::max(lr * s.number("factor"), s.number("min_lr"));
        if (!(lr - next > s.number("eps"))) break;
        lr = next;
      }
      return {lr};
    },
    .observe = ObservePlateau,
};

void CheckWords(const ScheduleRow& row, absl::string_view where, ScheduleSpec* spec,
                Problems* problems) {
  const auto refuse = [&](absl::string_view name, std::string what) {
    problems->Add(Reason::kInvalidSpec, absl::StrCat(where, ".", name), std::move(what));
  };
  for (const auto& [name, word] : spec->words) {
    const auto def = std::find_if(row.words.begin(), row.words.end(),
                                  [&name = name](const ScheduleWord& w) { return name == w.name; });
    if (def == row.words.end()) {
      refuse(name, "there is no such setting");
    } else if (std::find(def->choices.begin(), def->choices.end(), word) == def->choices.end()) {
      refuse(name, absl::StrCat("got \"", word, "\", expected one of ",
                                absl::StrJoin(def->choices, ", ")));
    }
  }
  for (const ScheduleWord& w : row.words) spec->words.emplace(w.name, w.choices[0]);
}

void CheckMilestones(const ScheduleRow& row, absl::string_view where,
                     const std::vector<int64_t>& milestones, Problems* problems) {
  const std::string field = absl::StrCat(where, ".milestones");
  if (!row.has_milestones && !milestones.empty()) {
    problems->Add(Reason::kInvalidSpec, field, "there is no such setting");
  }
  if (row.has_milestones && milestones.empty()) {
    problems->Add(Reason::kInvalidSpec, field, "is required: numbers of steps");
  }
  for (int64_t m : milestones) {
    if (m >= 0) continue;
    problems->Add(Reason::kInvalidSpec, field, absl::StrCat("got ", m, ", expected at least 0"));
  }
}

}  // namespace

absl::Span<const ScheduleRow> AllSchedules() {
  static const auto& rows = *new std::vector<ScheduleRow>{
      kConstant, kStep,           kMultiStep,      kExponential,  kPolynomial,
      kCosine,   kCosineRestarts, kLinear,         kWarmUpLinear, kWarmUpCosine,
      kCyclic,   kOneCycle,       kReduceOnPlateau};
  return rows;
}

Schedule::Schedule() : row_(&AllSchedules().front()) {
  Problems none;
  spec_.numbers = Complete(row_->numbers, {}, row_->name, &none);
}

absl::StatusOr<Schedule> Schedule::Make(const ScheduleSpec& spec) {
  const auto rows = AllSchedules();
  Schedule out;
  out.row_ = std::find_if(rows.begin(), rows.end(),
                          [&](const auto& row) { return spec.name == row.name; });
  if (out.row_ == rows.end()) {
    const auto add_name = [](std::string* text, const auto& row) { text->append(row.name); };
    return Error(Reason::kInvalidSpec,
                 absl::StrCat("schedule: there is no \"", spec.name, "\", only ",
                              absl::StrJoin(rows, ", ", add_name)));
  }
  const std::string where = absl::StrCat("schedule.", spec.name);
  Problems problems;
  out.spec_ = spec;
  out.spec_.numbers = Complete(out.row_->numbers, spec.numbers, where, &problems);
  CheckWords(*out.row_, where, &out.spec_, &problems);
  CheckMilestones(*out.row_, where, spec.milestones, &problems);
  if (problems.empty() && out.row_->check != nullptr) out.row_->check(out, where, &problems);
  GW_RETURN_IF_ERROR(problems.ToStatus());
  return out;
}

ScheduledRate Schedule::At(double base_lr, int64_t steps_done) const {
  return row_->at(*this, base_lr, static_cast<double>(steps_done));
}

void Schedule::Observe(double loss) {
  if (row_->observe != nullptr) row_->observe(*this, loss, &memory_);
}

}  // namespace gradwire
