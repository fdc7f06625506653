#!/usr/bin/python3
"""Writes golden.json: what PyTorch's optimisers, schedulers and L-BFGS do, in DOUBLE.

usage: tests/unit/optim/make_golden.py > tests/unit/optim/golden.json

Made with Debian 12's torch 1.13. Where its rules are not those of PyTorch 2 (NAdam; the decoupled
weight decay of NAdam and RAdam, and their `maximize`), the rule of PyTorch 2 stands here, written out.
"""
import itertools
import json
import math
import sys

import torch

torch.set_default_dtype(torch.float64)
STEPS = 10
START = [0.5, -1.25, 2.0, -0.03]


def gradient(t, i):
    """The gradient of step t in element i: exact in binary, with changes of sign and zeros."""
    return ((7 * t * t + 3 * i + t * i) % 11 - 5) / 8 * (4 if t % 4 == 3 else 1)


class _Adaptive(torch.optim.Optimizer):
    """Moments, weight decay of both kinds and `maximize`, as PyTorch 2's NAdam and RAdam have them."""

    def __init__(self, params, **given):
        defaults = dict(lr=self.LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3,
                        decoupled_weight_decay=False, maximize=False)
        super().__init__(params, {**defaults, **given})

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                s = self.state[p]
                if not s:
                    s.update(step=0, mu_product=1.0, exp_avg=torch.zeros_like(p),
                             exp_avg_sq=torch.zeros_like(p))
                s["step"] += 1
                slope = -p.grad if g["maximize"] else p.grad
                if g["weight_decay"] != 0:
                    if g["decoupled_weight_decay"]:
                        p.mul_(1 - g["lr"] * g["weight_decay"])
                    else:
                        slope = slope.add(p, alpha=g["weight_decay"])
                beta1, beta2 = g["betas"]
                s["exp_avg"].lerp_(slope, 1 - beta1)
                s["exp_avg_sq"].mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
                self.move(p, slope, s, g)


class NAdam(_Adaptive):
    LR = 2e-3

    def move(self, p, slope, s, g):
        mu, mu_next = (g["betas"][0] * (1 - 0.5 * 0.96 ** (t * g["momentum_decay"]))
                       for t in (s["step"], s["step"] + 1))
        s["mu_product"] *= mu
        denom = s["exp_avg_sq"].div(1 - g["betas"][1] ** s["step"]).sqrt().add_(g["eps"])
        p.addcdiv_(slope, denom, value=-g["lr"] * (1 - mu) / (1 - s["mu_product"]))
        p.addcdiv_(s["exp_avg"], denom,
                   value=-g["lr"] * mu_next / (1 - s["mu_product"] * mu_next))


class RAdam(_Adaptive):
    LR = 1e-3

    def move(self, p, slope, s, g):
        beta1, beta2 = g["betas"]
        t, limit = s["step"], 2 / (1 - beta2) - 1
        rho = limit - 2 * t * beta2 ** t / (1 - beta2 ** t)
        direction = s["exp_avg"] / (1 - beta1 ** t) * g["lr"]
        if rho > 5:
            direction = direction * math.sqrt(1 - beta2 ** t) / s["exp_avg_sq"].sqrt().add_(g["eps"])
            direction *= math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        p.sub_(direction)


OPTIMIZERS = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW,
                  adamax=torch.optim.Adamax, nadam=NAdam, radam=RAdam, rmsprop=torch.optim.RMSprop,
                  adagrad=torch.optim.Adagrad, adadelta=torch.optim.Adadelta, rprop=torch.optim.Rprop,
                  asgd=torch.optim.ASGD)
PAIRS = dict(betas=("beta1", "beta2"), etas=("etaminus", "etaplus"),
             step_sizes=("step_size_min", "step_size_max"))

# Adam's betas here let RAdam become adaptive within ten steps.
BETAS = dict(betas=(0.8, 0.95), eps=1e-3)
WEIGHT_DECAY = dict(weight_decay=0.1)
CASES = {
    "sgd": [dict(lr=0.1), dict(lr=0.1, weight_decay=0.1), dict(lr=0.1, momentum=0.9),
            dict(lr=0.1, momentum=0.9, dampening=0.3), dict(lr=0.1, momentum=0.9, nesterov=True),
            dict(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1, maximize=True)],
    "adam": [dict(), dict(lr=0.05, **BETAS), dict(lr=0.05, amsgrad=True),
             dict(lr=0.05, amsgrad=True, maximize=True, **BETAS, **WEIGHT_DECAY)],
    "adamw": [dict(), dict(lr=0.05, amsgrad=True, **BETAS, **WEIGHT_DECAY),
              dict(lr=0.05, weight_decay=0, maximize=True)],
    "adamax": [dict(), dict(lr=0.05, maximize=True, **BETAS, **WEIGHT_DECAY)],
    "nadam": [dict(), dict(lr=0.05, momentum_decay=0.1, **BETAS, **WEIGHT_DECAY),
              dict(lr=0.05, decoupled_weight_decay=True, maximize=True, **WEIGHT_DECAY)],
    "radam": [dict(), dict(lr=0.05, **BETAS, **WEIGHT_DECAY),
              dict(lr=0.05, decoupled_weight_decay=True, maximize=True, **BETAS, **WEIGHT_DECAY)],
    "rmsprop": [dict(), dict(alpha=0.8, centered=True), dict(alpha=0.8, momentum=0.9),
                dict(alpha=0.8, centered=True, momentum=0.9, eps=1e-3, maximize=True, **WEIGHT_DECAY)],
    "adagrad": [dict(), dict(lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2, eps=1e-3,
                             maximize=True, **WEIGHT_DECAY)],
    "adadelta": [dict(), dict(lr=0.5, rho=0.7, eps=1e-3, maximize=True, **WEIGHT_DECAY)],
    "rprop": [dict(), dict(lr=0.1, etas=(0.3, 1.7), step_sizes=(0.05, 0.3), maximize=True)],
    "asgd": [dict(), dict(lr=0.1, lambd=0.1, alpha=0.5, t0=3, maximize=True, **WEIGHT_DECAY)],
}
# Schedules that optimisers meet in tests: a moving momentum or beta1, and state of the host's.
SCHEDULED = [
    ("sgd", dict(lr=0.1), "one_cycle", dict(max_lr=0.5, total_steps=STEPS)),
    ("sgd", dict(lr=0.1, momentum=0.9, dampening=0.2), "cyclic",
     dict(base_lr=0.01, max_lr=0.1, step_size_up=3)),
    ("rmsprop", dict(), "one_cycle", dict(max_lr=0.05, total_steps=STEPS, anneal_strategy="linear")),
    ("adam", dict(), "one_cycle", dict(max_lr=0.1, total_steps=STEPS)),
    ("nadam", dict(lr=0.05, momentum_decay=0.1, **BETAS), "exponential", dict(gamma=0.8)),
    ("adamw", dict(lr=0.05, **WEIGHT_DECAY), "step", dict(step_size=3, gamma=0.5)),
    ("asgd", dict(lr=0.1, lambd=0.1, t0=3), "step", dict(step_size=3, gamma=0.5)),
    ("rprop", dict(lr=0.1), "warmup_linear", dict(warmup_steps=4)),
    ("adagrad", dict(lr=0.1, lr_decay=0.1), "polynomial", dict(total_iters=7, power=2.0)),
]


def warm_up(descent):
    def make(optimizer, warmup_steps, total_steps=0):
        def factor(s):
            if s < warmup_steps:
                return (s + 1) / warmup_steps
            if not total_steps:
                return 1
            return descent(min(1, (s - warmup_steps) / (total_steps - warmup_steps)))
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return make


def constant(optimizer, factor=1.0, total_iters=5):
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor, total_iters)


L = torch.optim.lr_scheduler
SCHEDULES = dict(constant=constant, step=L.StepLR, multi_step=L.MultiStepLR,
                 exponential=L.ExponentialLR, polynomial=L.PolynomialLR, cosine=L.CosineAnnealingLR,
                 cosine_restarts=L.CosineAnnealingWarmRestarts, linear=L.LinearLR,
                 warmup_linear=warm_up(lambda t: 1 - t),
                 warmup_cosine=warm_up(lambda t: (1 + math.cos(math.pi * t)) / 2),
                 cyclic=L.CyclicLR, one_cycle=L.OneCycleLR, reduce_on_plateau=L.ReduceLROnPlateau)
SCHEDULE_STEPS = 40
SCHEDULE_CASES = [
    ("constant", dict()), ("constant", dict(factor=0.25, total_iters=7)), ("constant", dict(factor=0.5)),
    ("step", dict(step_size=7)), ("step", dict(step_size=1, gamma=0.9)),
    ("multi_step", dict(milestones=[3, 30, 12, 12], gamma=0.5)),
    ("exponential", dict(gamma=0.93)),
    ("polynomial", dict()), ("polynomial", dict(total_iters=25, power=2.5)),
    ("cosine", dict(T_max=11, eta_min=0.01)), ("cosine", dict(T_max=40)), ("cosine", dict(T_max=1)),
    ("cosine_restarts", dict(T_0=9, eta_min=0.01)), ("cosine_restarts", dict(T_0=3, T_mult=2)),
    ("linear", dict()), ("linear", dict(start_factor=1.0, end_factor=0.0, total_iters=20)),
    ("warmup_linear", dict(warmup_steps=6)), ("warmup_linear", dict(warmup_steps=6, total_steps=30)),
    ("warmup_cosine", dict(warmup_steps=0, total_steps=30)),
    ("warmup_cosine", dict(warmup_steps=5, total_steps=38)),
    ("cyclic", dict(base_lr=0.01, max_lr=0.1, step_size_up=4)),
    ("cyclic", dict(base_lr=0.01, max_lr=0.1, step_size_up=3, step_size_down=8, mode="triangular2",
                    base_momentum=0.3, max_momentum=0.95)),
    ("cyclic", dict(base_lr=0.02, max_lr=0.1, step_size_up=5, mode="exp_range", gamma=0.9,
                    cycle_momentum=False)),
    ("one_cycle", dict(max_lr=0.5, total_steps=40)),
    ("one_cycle", dict(max_lr=0.5, total_steps=40, pct_start=0.45, anneal_strategy="linear",
                       div_factor=10.0, final_div_factor=100.0, base_momentum=0.5, max_momentum=0.9)),
    ("one_cycle", dict(max_lr=0.5, total_steps=40, three_phase=True)),
    ("one_cycle", dict(max_lr=0.5, total_steps=40, pct_start=0.0, cycle_momentum=False)),
    ("one_cycle", dict(max_lr=0.5, total_steps=42, pct_start=1.0, cycle_momentum=False)),
    ("reduce_on_plateau", dict(patience=1, factor=0.5)),
    ("reduce_on_plateau", dict(patience=2, mode="max", threshold=0.5, threshold_mode="abs",
                               cooldown=3)),
    ("reduce_on_plateau", dict(patience=0, factor=0.3, min_lr=0.004, eps=1e-3)),
    ("reduce_on_plateau", dict(patience=1, mode="max", factor=0.5, cooldown=2)),
]


def observed(t):
    """The loss that reduce_on_plateau is told after step t."""
    return ((5 * t * t + 2 * t) % 13 + 1) / 4 / (1 + t // 9)


def split(settings):
    """Numbers, words and milestones under the engine's names."""
    numbers, words, milestones = {}, {}, []
    for name, value in settings.items():
        if name in PAIRS:
            numbers.update(zip(PAIRS[name], value))
        elif name == "milestones":
            milestones = value
        elif isinstance(value, str):
            words[name] = value
        else:
            numbers[name.lower()] = float(value)
    return dict(numbers=numbers, words=words, milestones=milestones)


def momentum_of(optimizer):
    group = optimizer.param_groups[0]
    return group["betas"][0] if "betas" in group else group.get("momentum")


def trajectory(name, settings, schedule=None, schedule_settings=None):
    p = torch.nn.Parameter(torch.tensor(START))
    optimizer = OPTIMIZERS[name]([p], **settings)
    scheduler = SCHEDULES[schedule](optimizer, **schedule_settings) if schedule else None
    rows = []
    for t in range(1, STEPS + 1):
        p.grad = torch.tensor([gradient(t, i) for i in range(len(START))])
        optimizer.step()
        if scheduler:
            scheduler.step()
        rows.append(p.detach().tolist())
    slots = {k: v.tolist() for k, v in optimizer.state[p].items()
             if torch.is_tensor(v) and v.dim() == 1}
    case = dict(name=name, hyper=split(settings)["numbers"], parameters=rows, slots=slots)
    if schedule:
        case["schedule"] = dict(name=schedule, **split(schedule_settings))
    return case


def rates(name, settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = SCHEDULES[name](optimizer, **settings)
    lrs, momenta = [], []
    for t in range(SCHEDULE_STEPS):
        lrs.append(optimizer.param_groups[0]["lr"])
        momenta.append(momentum_of(optimizer))
        optimizer.step()
        scheduler.step(*([observed(t)] if name == "reduce_on_plateau" else []))
    case = dict(name=name, **split(settings), lr=lrs)
    if settings.get("cycle_momentum", name in ("cyclic", "one_cycle")):
        case["momentum"] = momenta
    return case


def rosenbrock(x):
    return sum(100 * (b - a * a) ** 2 + (1 - a) ** 2 for a, b in itertools.pairwise(x))


LBFGS_CASES = [
    (dict(max_iter=4), [-0.1, 0.2]), (dict(lr=0.1, max_iter=7, history_size=3), [-1.2, 1.0, 0.5]),
    (dict(line_search_fn="strong_wolfe"), [-1.2, 1.0]),
    (dict(line_search_fn="strong_wolfe", max_iter=3, history_size=2), [-1.2, 1.0, -0.5, 0.8]),
    (dict(line_search_fn="strong_wolfe", lr=0.5, max_iter=4, max_eval=9), [3.0, -2.0, 1.5]),
    (dict(line_search_fn="strong_wolfe", tolerance_grad=1.0), [-1.2, 1.0]),
]


def lbfgs(settings, start):
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.LBFGS([p], **settings)

    def closure():
        optimizer.zero_grad()
        loss = rosenbrock(p)
        loss.backward()
        return loss

    rows, losses = [], []
    for _ in range(8):
        losses.append(optimizer.step(closure).item())
        rows.append(p.detach().tolist())
    state = optimizer.state[p]
    given = {k: v for k, v in settings.items() if k != "line_search_fn"}
    given["strong_wolfe"] = float("line_search_fn" in settings)
    return dict(settings=given, start=start, parameters=rows, losses=losses,
                n_iter=state["n_iter"], func_evals=state["func_evals"])


def main():
    if len(sys.argv) > 1:
        print(__doc__.strip())
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    golden = dict(
        torch=torch.__version__,
        start=START,
        gradients=[[gradient(t, i) for i in range(len(START))] for t in range(1, STEPS + 1)],
        optimizers=[trajectory(n, s) for n, cases in CASES.items() for s in cases] +
        [trajectory(*case) for case in SCHEDULED],
        observed=[observed(t) for t in range(SCHEDULE_STEPS)],
        schedules=[rates(*case) for case in SCHEDULE_CASES],
        lbfgs=[lbfgs(*case) for case in LBFGS_CASES],
    )
    lines = json.dumps(golden, separators=(",", ":"))
    print(lines.replace('{"name"', '\n{"name"').replace('{"settings"', '\n{"settings"'))
    return 0


if __name__ == "__main__":
    sys.exit(main())
