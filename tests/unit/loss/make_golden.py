#!/usr/bin/python3
"""Writes golden.json: PyTorch's losses and their gradients by the prediction, in DOUBLE.

usage: tests/unit/loss/make_golden.py > tests/unit/loss/golden.json

Made with Debian 12's torch 1.13.
"""
import json
import sys

import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def numbers(*shape, low=-2.0, high=2.0, salt=0):
    """Numbers in [low, high) in an order that looks random, exact in binary for whole bounds."""
    count = torch.Size(shape).numel()
    values = [((37 * i * i + 11 * i + 53 * salt) % 128) / 128 for i in range(count)]
    return (torch.tensor(values) * (high - low) + low).reshape(shape)


def labels(*shape, classes, salt=0):
    count = torch.Size(shape).numel()
    return torch.tensor([(5 * i * i + i + salt) % classes for i in range(count)]).reshape(shape)


def pick(values, *places):
    """`values` with ignored labels at these places."""
    out = values.clone()
    for place, value in places:
        out.view(-1)[place] = value
    return out


def gaussian(x, t, reduction, full=False, eps=1e-6, var=None):
    mean, variance = (x, torch.full_like(x, var)) if var else x.chunk(2, dim=-1)
    return F.gaussian_nll_loss(mean, t, variance, full=full, eps=eps, reduction=reduction)


def hinge(x, t, reduction, margin=1.0):
    return F.margin_ranking_loss(x, torch.zeros_like(x), t, margin=margin, reduction=reduction)


def kl(x, t, reduction, log_target=False, batchmean=False):
    return F.kl_div(x, t, log_target=log_target,
                    reduction="batchmean" if batchmean and reduction == "mean" else reduction)


def bce(x, t, reduction, weight=None):
    return F.binary_cross_entropy_with_logits(x, t, pos_weight=weight, reduction=reduction)


LOSSES = dict(mse=F.mse_loss, l1=F.l1_loss, huber=F.huber_loss, smooth_l1=F.smooth_l1_loss,
              bce_with_logits=bce, softmax_cross_entropy=F.cross_entropy, nll=F.nll_loss,
              poisson_nll=F.poisson_nll_loss, gaussian_nll=gaussian, hinge=hinge,
              hinge_embedding=F.hinge_embedding_loss, kl=kl)

X, T = numbers(2, 5), numbers(2, 5, salt=1)
SIGNS = torch.where(numbers(2, 5, salt=2) < 0, -1.0, 1.0)
SCORES = numbers(4, 3, low=-4.0, high=4.0)
LABELS = labels(4, classes=3)
IMAGE, IMAGE_LABELS = numbers(2, 3, 2, 2), labels(2, 2, 2, classes=3, salt=1)
WEIGHT = torch.tensor([0.5, 1.25, 2.0])
PROBABILITIES = numbers(4, 3, low=0.0, high=1.0, salt=3).softmax(1)
MOMENTS = torch.cat([X, numbers(2, 5, low=0.0, high=2.0, salt=4)], dim=1)
CASES = [
    ("mse", X, T, {}), ("l1", X, pick(T, (3, X.view(-1)[3])), {}),
    ("huber", X, T, {}), ("huber", X, T, dict(delta=0.5)),
    ("smooth_l1", X, T, {}), ("smooth_l1", X, T, dict(beta=0.5)), ("smooth_l1", X, T, dict(beta=0.0)),
    ("bce_with_logits", X, numbers(2, 5, low=0.0, high=1.0, salt=1), {}),
    ("bce_with_logits", X, (T > 0).double(), dict(weight=numbers(5, low=0.0, high=2.0, salt=5))),
    ("softmax_cross_entropy", SCORES, LABELS, {}),
    ("softmax_cross_entropy", SCORES, LABELS, dict(weight=WEIGHT)),
    ("softmax_cross_entropy", SCORES, LABELS, dict(label_smoothing=0.1)),
    ("softmax_cross_entropy", SCORES, pick(LABELS, (1, 2)),
     dict(weight=WEIGHT, label_smoothing=0.3, ignore_index=2)),
    ("softmax_cross_entropy", SCORES, pick(LABELS, (2, -100)), dict(label_smoothing=0.2)),
    ("softmax_cross_entropy", IMAGE, pick(IMAGE_LABELS, (5, -100)), dict(weight=WEIGHT)),
    ("softmax_cross_entropy", IMAGE, IMAGE_LABELS, dict(weight=WEIGHT, label_smoothing=0.1)),
    ("softmax_cross_entropy", SCORES[0], LABELS[1], {}),
    ("softmax_cross_entropy", SCORES, PROBABILITIES, {}),
    ("softmax_cross_entropy", SCORES, PROBABILITIES, dict(weight=WEIGHT, label_smoothing=0.2)),
    ("softmax_cross_entropy", IMAGE, numbers(2, 3, 2, 2, low=0.0, high=1.0, salt=6), dict(weight=WEIGHT)),
    ("nll", SCORES.log_softmax(1), LABELS, {}),
    ("nll", IMAGE.log_softmax(1), pick(IMAGE_LABELS, (0, 7), (6, 7)), dict(weight=WEIGHT, ignore_index=7)),
    ("poisson_nll", X, numbers(2, 5, low=0.0, high=8.0, salt=1), {}),
    ("poisson_nll", X, numbers(2, 5, low=0.0, high=8.0, salt=1), dict(full=True)),
    ("poisson_nll", X.abs() + 0.1, numbers(2, 5, low=0.0, high=8.0, salt=1),
     dict(log_input=False, eps=1e-3)),
    ("gaussian_nll", MOMENTS, T, {}), ("gaussian_nll", MOMENTS, T, dict(full=True, eps=0.75)),
    ("gaussian_nll", X, T, dict(var=0.5)),
    ("hinge", X, SIGNS, {}), ("hinge", X, SIGNS, dict(margin=0.25)),
    ("hinge_embedding", X, SIGNS, {}), ("hinge_embedding", X, SIGNS, dict(margin=0.5)),
    ("kl", SCORES.log_softmax(1), pick(PROBABILITIES, (4, 0.0)), {}),
    ("kl", SCORES.log_softmax(1), PROBABILITIES.log(), dict(log_target=True, batchmean=True)),
]


def tensor(t):
    return dict(shape=list(t.shape), values=t.reshape(-1).tolist())


def case(name, prediction, target, settings, reduction):
    x = prediction.clone().requires_grad_()
    loss = LOSSES[name](x, target, reduction=reduction, **settings)
    loss.backward()
    weight = settings.get("weight")
    return dict(name=name, reduction=reduction,
                settings={k: float(v) for k, v in settings.items() if k != "weight"},
                prediction=tensor(prediction), target=tensor(target),
                labels=not target.is_floating_point(),
                **(dict(weight=tensor(weight)) if weight is not None else {}),
                loss=loss.item(), gradient=x.grad.reshape(-1).tolist())


def main():
    if len(sys.argv) > 1:
        print(__doc__.strip())
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    cases = [case(*c, reduction) for c in CASES for reduction in ("mean", "sum")]
    golden = dict(torch=torch.__version__, cases=cases)
    print(json.dumps(golden, separators=(",", ":")).replace('{"name"', '\n{"name"'))
    return 0


if __name__ == "__main__":
    sys.exit(main())
