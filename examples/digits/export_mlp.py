#!/usr/bin/python3
"""Exports the two files beside this script: mlp.onnx from PyTorch, digits.npz from scikit-learn.

usage: examples/digits/export_mlp.py      (scripts/setup --with-oracle installs what it needs)

mlp.onnx: a 64-32-10 perceptron with its loss inside (opset 17, batch size N left open):
  x [N, 64] float, labels [N] int64  ->  loss, a scalar: mean cross-entropy;  logits [N, 10]
digits.npz: images [1797, 64] uint8 (0 to 16), labels [1797] int64.
"""
import pathlib

import numpy
import sklearn.datasets
import torch

HERE = pathlib.Path(__file__).resolve().parent


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(64, 32)
        self.out = torch.nn.Linear(32, 10)

    def forward(self, x, labels):
        logits = self.out(torch.tanh(self.hidden(x)))
        return torch.nn.functional.cross_entropy(logits, labels), logits


def export_model(path):
    torch.manual_seed(0)
    torch.onnx.export(
        Digits(), (torch.zeros(2, 64), torch.zeros(2, dtype=torch.int64)), str(path),
        input_names=["x", "labels"], output_names=["loss", "logits"], opset_version=17,
        dynamic_axes={"x": {0: "N"}, "labels": {0: "N"}, "logits": {0: "N"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)


def export_data(path):
    digits = sklearn.datasets.load_digits()
    numpy.savez_compressed(path, images=digits.data.astype(numpy.uint8),
                           labels=digits.target.astype(numpy.int64))


if __name__ == "__main__":
    export_model(HERE / "mlp.onnx")
    export_data(HERE / "digits.npz")
    for name in ("mlp.onnx", "digits.npz"):
        print(f"{name}: {(HERE / name).stat().st_size} bytes")
