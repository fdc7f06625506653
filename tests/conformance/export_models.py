#!/usr/bin/python3
"""Exports whole models from PyTorch as conformance cases: the loss, every parameter's gradient, J v and H v.

    tests/conformance/export_models.py OUT [--only NAME] [--big]
    scripts/conformance OUT

Each model goes in twice, FLOAT and DOUBLE; PyTorch's answers are those of the same parameters in double. Tolerances
are relative to the largest element of each tensor: 1e-8 in DOUBLE, 1e-4 in FLOAT, 20 times that for J v and H v.
--big adds the sizes that benchmarks use. Needs Debian's python3-torch and python3-onnx.
"""
import argparse
import math
import os
import sys
import warnings

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cases

MODELS = {}


def model(*sizes, big=(), axes=None):
    """A function (random generator, *size) -> (module with forward(*inputs) -> loss, {input: tensor}).

    `axes`, {input: {axis: symbol}}, are left open in the export.
    """
    def register(make):
        for size in (*(sizes or ((),)), *big):
            name = "_".join([make.__name__, *map(str, size)]) if size else make.__name__
            MODELS[name] = (make, size, size in big, axes)
        return make
    return register


def normal(random, *shape):
    return torch.randn(shape, generator=random, dtype=torch.float64)


def labels(random, classes, *shape):
    return torch.randint(0, classes, shape, generator=random)


class Loss(nn.Module):
    """A module from a function of (its net, inputs)."""

    def __init__(self, net, loss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, *inputs):
        return self.loss(self.net, *inputs)


def classifier(net):
    return Loss(net, lambda net, x, t: F.cross_entropy(net(x), t))


@model()
def mlp(random):
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    return classifier(net), {"x": normal(random, 6, 12), "t": labels(random, 4, 6)}


@model()
def lenet(random):
    net = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 5), nn.ReLU(),
                        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 2 * 2, 20), nn.ReLU(), nn.Linear(20, 10))
    return classifier(net), {"x": normal(random, 3, 1, 16, 16), "t": labels(random, 10, 3)}


class BasicBlock(nn.Module):
    def __init__(self, inside, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = None
        if stride != 1 or inside != out:
            self.down = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


@model((4, 3, 16), big=((16, 8, 32), (64, 8, 64)))
def resnet18(random, width, batch, size):
    blocks, inside = [], width
    for stage in range(4):
        for block in range(2):
            blocks.append(BasicBlock(inside, width << stage, 2 if stage and not block else 1))
            inside = width << stage
    net = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                        nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 10))
    return classifier(net), {"x": normal(random, batch, 3, size, size), "t": labels(random, 10, batch)}


class InvertedResidual(nn.Module):
    def __init__(self, inside, out, stride, expand):
        super().__init__()
        hidden = inside * expand
        self.same = stride == 1 and inside == out
        self.layers = nn.Sequential(
            nn.Conv2d(inside, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        return x + self.layers(x) if self.same else self.layers(x)


@model()
def mobilenet_v2(random):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6(),
                        InvertedResidual(4, 4, 1, 2), InvertedResidual(4, 6, 2, 3), InvertedResidual(6, 6, 1, 3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0), nn.Linear(6, 5))
    return classifier(net), {"x": normal(random, 4, 3, 12, 12), "t": labels(random, 5, 4)}


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.1))
        self.bottom = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU())
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.leave = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        a = self.enter(x)
        b = self.bottom(self.down(a))
        c = F.interpolate(self.down(a), scale_factor=2, mode="bilinear", align_corners=False)[:, :4]
        return self.leave(torch.cat([a, self.up(b), c], 1))


@model()
def unet(random):
    return classifier(UNet()), {"x": normal(random, 2, 1, 8, 8), "t": labels(random, 2, 2, 8, 8)}


class SelfAttention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = (y.view(n, t, self.heads, width // self.heads).transpose(1, 2)
                   for y in self.qkv(x).split(width, 2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            mask = torch.tril(torch.ones(t, t)).view(1, 1, t, t)
            scores = scores.masked_fill(mask == 0, float("-inf"))
        y = F.softmax(scores, -1) @ v
        return self.out(y.transpose(1, 2).contiguous().view(n, t, width))


class TransformerBlock(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class Gpt(nn.Module):
    def __init__(self, layers, width, length, words):
        super().__init__()
        self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, 4, True) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, x):
        y = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            y = block(y)
        return self.head(self.ln(y))


@model((2, 16, 8, 2), big=((2, 128, 64, 8),))
def nanogpt(random, layers, width, length, batch):
    words = 65 if width > 16 else 11
    net = Gpt(layers, width, length, words)
    loss = Loss(net, lambda net, x, t: F.cross_entropy(net(x).view(-1, words), t.view(-1)))
    return loss, {"x": labels(random, words, batch, length), "t": labels(random, words, batch, length)}


@model((2, 8, 5, 2), axes={"x": {0: "batch", 1: "length"}, "t": {0: "batch", 1: "length"}})
def open_gpt(random, layers, width, length, batch):
    """Two thirds of its nodes compute shapes."""
    return nanogpt(random, layers, width, length, batch)


class LlamaBlock(nn.Module):
    def __init__(self, width=16, heads=4, length=6):
        super().__init__()
        self.heads = heads
        d = width // heads
        angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, d, 2) / d)
        self.register_buffer("cos", torch.cat([torch.cos(angle)] * 2, -1))
        self.register_buffer("sin", torch.cat([torch.sin(angle)] * 2, -1))
        self.g1, self.g2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def norm(self, x, g):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 2.0 ** -16) * g

    def rotate(self, x):
        d = x.shape[-1]
        half = torch.cat([-x[..., d // 2:], x[..., :d // 2]], -1)
        return x * self.cos + half * self.sin

    def forward(self, x):
        n, t, w = x.shape
        y = self.norm(x, self.g1)
        q, k, v = (p(y).view(n, t, self.heads, w // self.heads).transpose(1, 2) for p in (self.q, self.k, self.v))
        scores = self.rotate(q) @ self.rotate(k).transpose(-2, -1) / math.sqrt(w // self.heads)
        scores = scores + torch.triu(torch.full((t, t), float("-inf")), 1).to(x.dtype)
        x = x + self.o((F.softmax(scores, -1) @ v).transpose(1, 2).reshape(n, t, w))
        y = self.norm(x, self.g2)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@model()
def llama_block(random):
    loss = Loss(LlamaBlock(), lambda net, x, t: (net(x) - t).pow(2).mean())
    return loss, {"x": normal(random, 2, 6, 16), "t": normal(random, 2, 6, 16)}


class VisionTransformer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.1 * torch.randn(1, 5, width))
        self.blocks = nn.Sequential(TransformerBlock(width, 4, False), TransformerBlock(width, 4, False))
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), y], 1) + self.places
        return self.head(self.blocks(y)[:, 0])


@model()
def vit(random):
    return classifier(VisionTransformer()), {"x": normal(random, 2, 3, 8, 8), "t": labels(random, 5, 2)}


class Recurrent(nn.Module):
    def __init__(self, kind, inputs, width, layers=1, both=False):
        super().__init__()
        self.rnn = kind(inputs, width, layers, batch_first=True, bidirectional=both)
        self.fc = nn.Linear(width * (2 if both else 1), 4)

    def forward(self, x):
        return self.fc(self.rnn(x)[0][:, -1])


@model((5, 6, 2), big=((64, 128, 16),))
def lstm(random, length, width, batch):
    net = Recurrent(nn.LSTM, width, width, 2 if width < 100 else 1)
    return classifier(net), {"x": normal(random, batch, length, width), "t": labels(random, 4, batch)}


@model()
def gru(random):
    return classifier(Recurrent(nn.GRU, 3, 5, 1, True)), {"x": normal(random, 2, 6, 3), "t": labels(random, 4, 2)}


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 12), nn.Softplus(), nn.Linear(12, 6))
        self.decoder = nn.Sequential(nn.Linear(3, 12), nn.ELU(), nn.Linear(12, 10))

    def forward(self, x, noise):
        mean, log_var = self.encoder(x).split(3, 1)
        logits = self.decoder(mean + noise * torch.exp(0.5 * log_var))
        rebuilt = (F.softplus(logits) - x * logits).sum(1)
        divergence = -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(1)
        return (rebuilt + divergence).mean()


@model()
def vae(random):
    x = torch.rand(4, 10, generator=random, dtype=torch.float64)
    return Loss(Vae(), lambda net, *inputs: net(*inputs)), {"x": x, "noise": normal(random, 4, 3)}


class Parameters(nn.Module):
    """Named parameters. Numbers in the functions of them are such as FLOAT can hold, and meet no tensor of rank 0:
    the exporter computes with those in FLOAT."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.as_tensor(value, dtype=torch.float32)))


@model()
def logistic_regression(random):
    def loss(p, x, t):
        z = x @ p.w + p.b
        return (F.softplus(z) - t * z + (0.125 * p.w).pow(2).sum(0, keepdim=True)).mean()
    t = labels(random, 2, 20).double()
    return Loss(Parameters(w=[0.5, -0.2, 0.1], b=0.0), loss), {"x": normal(random, 20, 3), "t": t}


@model()
def poisson_regression(random):
    def loss(p, x, t):
        z = x @ p.w + p.b
        return (torch.exp(z) - t * z).mean()
    t = labels(random, 5, 20).double()
    return Loss(Parameters(w=[0.5, -0.2, 0.1], b=0.3), loss), {"x": normal(random, 20, 3), "t": t}


@model()
def gaussian_mixture(random):
    def loss(p, x):
        distance = ((x[:, None, :] - p.means) * torch.exp(-p.log_scales)).pow(2).sum(-1)
        scores = F.log_softmax(p.logits, 0) - 0.5 * distance - p.log_scales.sum(-1) - math.log(2 * math.pi)
        return -torch.logsumexp(scores, 1).mean()
    p = Parameters(means=[[0.0, 1], [2, -1], [-1, 0]], log_scales=[[0.1, -0.2], [0, 0.3], [-0.1, 0]],
                   logits=[0.0, 0.5, -0.5])
    return Loss(p, loss), {"x": normal(random, 15, 2)}


@model()
def rosenbrock(random):
    def loss(p):
        return (100 * (p.x[1:] - p.x[:-1] ** 2) ** 2 + (1 - p.x[:-1]) ** 2).sum()
    return Loss(Parameters(x=[-1.2, 1, 0.5, -0.3, 0.8]), loss), {}


@model()
def lennard_jones(random):
    def loss(p):
        d = p.x[:, None, :] - p.x[None, :, :]
        square = (d * d).sum(-1)[torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 2, 3, 2, 3, 3])]
        sixth = 1 / square ** 3
        return (4 * (sixth * sixth - sixth)).sum()
    return Loss(Parameters(x=[[0.0, 0, 0], [1.1, 0, 0.1], [0.2, 1.2, 0], [0, 0.1, 1.15]]), loss), {}


@model()
def runge_kutta(random):
    """Five steps of the fourth-order method on Lorenz' equations, by their parameters and start."""
    def loss(p, target):
        def slope(y):
            a, b, c = y[0:1], y[1:2], y[2:3]
            return torch.cat([p.k[0:1] * (b - a), a * (p.k[1:2] - c) - b, a * b - p.k[2:3] * c])
        y, h = p.start, 1 / 64
        for _ in range(5):
            k1 = slope(y)
            k2 = slope(y + h / 2 * k1)
            k3 = slope(y + h / 2 * k2)
            k4 = slope(y + h * k3)
            y = y + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6
        return (y - target).pow(2).sum()
    p = Parameters(k=[10.0, 28, 8 / 3], start=[1.0, 1, 1])
    return Loss(p, loss), {"target": torch.tensor([1.5, 2, 1], dtype=torch.float64)}


# ---- Cases

def answers(module, inputs, known, random):
    """What is right, in double: loss, gradients by the floating tensors of `known`, a vector, and J v and H v of it."""
    leaves = {n: x.clone().requires_grad_() if x.is_floating_point() else x for n, x in inputs.items()}
    loss = module(*leaves.values())
    tensors = dict(module.named_parameters()) | {n: x for n, x in leaves.items() if x.is_floating_point()}
    tensors = {n: x for n, x in tensors.items() if n in known}
    if not tensors:
        raise ValueError("no parameter kept its name")
    grads = torch.autograd.grad(loss, list(tensors.values()), create_graph=True, allow_unused=True)
    grads = {n: g for n, g in zip(tensors, grads) if g is not None}
    tensors = {n: tensors[n] for n in grads}
    vector = {n: normal(random, *x.shape).float().double() for n, x in tensors.items()}
    slope = sum((g * vector[n]).sum() for n, g in grads.items())
    products = torch.autograd.grad(slope, list(tensors.values()), allow_unused=True)
    products = {n: torch.zeros_like(tensors[n]) if p is None else p for n, p in zip(tensors, products)}
    return [{n: x.detach().numpy() for n, x in values.items()}
            for values in ({"loss": loss}, grads, vector, {"loss": slope}, products)]


def made(name):
    make, size = MODELS[name][:2]
    torch.manual_seed(1)
    return make(torch.Generator().manual_seed(2), *size)


def write_onnx(module, inputs, path, axes):
    torch.onnx.export(module, tuple(inputs.values()), path, input_names=list(inputs), output_names=["loss"],
                      opset_version=17, do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING,
                      dynamic_axes=axes)


def export(name, out, dtype, folder=None, write=write_onnx, training=True):
    """(nodes, ops, parameters that go by other names in the graph) of the case written to out/`folder`."""
    module, inputs = made(name)
    module.train(training)
    # What goes in is what FLOAT can hold, so that both types have the same answers.
    inputs = {n: x.float() if x.is_floating_point() else x for n, x in inputs.items()}
    torch_type = getattr(torch, dtype)
    sent = {n: x.to(torch_type) if x.is_floating_point() else x for n, x in inputs.items()}
    folder = os.path.join(out, folder or f"{name}_{dtype}")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(module.to(torch_type), sent, path, MODELS[name][3])
    import onnx
    model = onnx.load(path, load_external_data=False)
    known = {i.name for i in model.graph.initializer} | {i.name for i in model.graph.input}
    module = made(name)[0].double().train(training)  # the export has moved running statistics
    loss, grads, vector, slope, products = answers(
        module, {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()}, known,
        torch.Generator().manual_seed(3))
    relative = {"float32": 1e-4, "float64": 1e-8}[dtype]
    ops = {node.op_type for node in model.graph.node}
    cases.write(folder, model.SerializeToString(), dtype, next(o.version for o in model.opset_import if not o.domain),
                ops, {n: x.numpy() for n, x in sent.items()},
                {"outputs": loss, "grads": grads, "jvp": slope, "hvp": products},
                {"outputs": relative, "grads": relative, "jvp": 20 * relative, "hvp": 20 * relative},
                {"cotangents": {"loss": 1.0}, "tangents": vector})
    return len(model.graph.node), len(ops), {n for n, _ in module.named_parameters()} - known


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--only", default="")
    parser.add_argument("--big", action="store_true")
    args = parser.parse_args()
    done = 0
    for name, (_, _, big, _) in MODELS.items():
        if args.only not in name or (big and not args.big):
            continue
        for dtype in ("float32",) if big else ("float32", "float64"):
            nodes, ops, unnamed = export(name, os.path.join(args.out, "models"), dtype)
            note = f"; its parameters {', '.join(sorted(unnamed))} have other names" if unnamed else ""
            print(f"{name} {dtype}: {nodes} nodes, {ops} ops{note}", flush=True)
            done += 1
    if not done:
        sys.exit(f"export_models: no model is called {args.only}")


if __name__ == "__main__":
    main()
