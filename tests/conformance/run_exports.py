#!/usr/bin/python3
"""Has other programs judge what is written as ONNX: every row of the op table, and its derivatives.

    tests/conformance/run_exports.py [--bin build/dev/bin] [--only Gather]

The graphs, their inputs and the right outputs are those of onnx_export_test.cc. The checker and the type
inference of onnx must accept every graph; onnx.reference and ONNX Runtime, where this Python has them, must
compute the same numbers. What is absent is said and does not fail:

    python3 -m venv V && V/bin/pip install onnx onnxruntime && V/bin/python tests/conformance/run_exports.py

Ends 1 where something was refused or differs, 77 where there is no onnx at all.
"""
import argparse
import collections
import importlib
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

SOURCE = pathlib.Path(__file__).resolve().parents[2]
# Ops whose attributes became inputs in an opset that an older onnx does not know.
CHANGED = {18: {"ReduceMax", "ReduceMin"}}
# What a runtime lacks, in its own words.
LIMITS = ("NOT_IMPLEMENTED", "No corresponding Numpy type for Tensor Type. bfloat16",
          "Integers to negative integer powers are not allowed")


def optional(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"run_exports: THIS PYTHON HAS NO {name}: not asked")
        return None


def cases(path):
    """(what, model bytes, inputs, outputs) as Keep() of onnx_export_test.cc writes them."""
    data, at, chunks = path.read_bytes(), 0, []
    while at < len(data):
        size, = struct.unpack_from("<Q", data, at)
        chunks.append(data[at + 8:at + 8 + size])
        at += 8 + size
    for i in range(0, len(chunks), 4):
        yield chunks[i].decode(), chunks[i + 1], tensors(chunks[i + 2]), tensors(chunks[i + 3])


def tensors(data):
    graph = onnx.GraphProto()
    graph.ParseFromString(data)
    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}


def op_types(model):
    return {node.op_type for part in (model.graph, *model.functions) for node in part.node}


def difference(got, want, eps):
    """"" where they agree up to rounding that accumulates."""
    got = np.asarray(got)
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return f"is {got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    if want.dtype.kind != "f":
        return "" if np.array_equal(got, want) else "differs"
    finite = np.abs(want[np.isfinite(want)].astype(np.float64))
    bound = 256 * max(eps, np.finfo(want.dtype).eps) * max(1.0, *finite.ravel(), 1.0)
    with np.errstate(all="ignore"):
        close = np.abs(got.astype(np.float64) - want.astype(np.float64)) <= bound
        alike = close | (got == want) | (np.isnan(got) & np.isnan(want))
    return "" if alike.all() else f"is {got[~alike].flat[0]!r}, expected {want[~alike].flat[0]!r}"


class Judges:
    """Each is a name and a function of (model, bytes, inputs, outputs) that gives "" or a complaint."""

    def __init__(self):
        self.reference = optional("onnx.reference")
        self.runtime = optional("onnxruntime")
        self.judges = {"onnx checker": self.check, "onnx type inference": self.infer}
        if self.reference:
            self.judges["onnx.reference"] = self.run_reference
        if self.runtime:
            self.judges["ONNX Runtime"] = self.run_runtime

    def check(self, model, data, inputs, outputs):
        known = onnx.defs.onnx_opset_version()
        changed = set().union(*(ops for opset, ops in CHANGED.items() if opset > known))
        younger = any(not node.domain and not onnx.defs.has(node.op_type) for node in model.graph.node)
        if younger or changed & op_types(model):
            raise NotImplementedError(f"NOT_IMPLEMENTED: onnx {onnx.__version__} knows opset {known}")
        onnx.checker.check_model(model)
        return ""

    def infer(self, model, data, inputs, outputs):
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        return ""

    def run_reference(self, model, data, inputs, outputs):
        # It computes Erf in FLOAT.
        eps = np.finfo(np.float32).eps if "Erf" in op_types(model) else 0
        return self.compare(self.reference.ReferenceEvaluator(model).run(None, inputs), outputs, eps)

    def run_runtime(self, model, data, inputs, outputs):
        options = self.runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = self.runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return self.compare(session.run(None, inputs), outputs, 0)

    @staticmethod
    def compare(got, outputs, eps):
        for value, (name, want) in zip(got, outputs.items()):
            complaint = difference(value, want, eps)
            if complaint:
                return f"{name} {complaint}"
        return ""


def judge(folder):
    judges = Judges().judges
    accepted, lacking, complaints = collections.Counter(), collections.Counter(), []
    for path in sorted(folder.glob("*.cases")):
        for what, data, inputs, outputs in cases(path):
            model = onnx.ModelProto()
            model.ParseFromString(data)
            for name, function in judges.items():
                try:
                    with np.errstate(all="ignore"):
                        complaint = function(model, data, inputs, outputs)
                except Exception as e:  # each library has its own
                    complaint = str(e)
                    if any(limit in complaint for limit in LIMITS):
                        lacking[name, complaint.split("with name")[0][:120]] += 1
                        continue
                if complaint:
                    complaints.append(f"{name}: {what}: {complaint[:300]}")
                accepted[name] += not complaint
    for name in judges:
        print(f"{name}: {accepted[name]} graphs accepted")
    for (name, why), count in sorted(lacking.items()):
        print(f"{name}: {count} graphs beyond it: {why}")
    for complaint in complaints[:40]:
        print("WRONG", complaint)
    if not all(accepted[name] for name in judges):
        sys.exit("run_exports: nothing was judged")
    sys.exit(1 if complaints else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=SOURCE / "build/dev/bin")
    parser.add_argument("--only", default="*", help="name of a row")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run([args.bin / "conformance_test", f"--gtest_filter=*/OnnxExportTest.*/{args.only}"],
                              env={**os.environ, "GRADWIRE_EXPORT_DIR": folder}, capture_output=True, text=True)
        if made.returncode != 0:
            sys.exit(made.stdout[-2000:] + made.stderr)
        judge(pathlib.Path(folder))


if __name__ == "__main__":
    onnx = optional("onnx")
    if onnx is None:
        sys.exit(77)
    for part in ("checker", "defs", "numpy_helper", "shape_inference"):
        importlib.import_module(f"onnx.{part}")
    main()
