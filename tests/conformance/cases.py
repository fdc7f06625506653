"""Outside conformance cases: what a case folder holds, and whether an answer to it is right.

A folder has model.onnx, inputs.npz, expected_outputs.npz, meta.json and, where there are derivatives,
cotangents.npz, expected_grads.npz, tangents.npz, expected_jvp.npz, expected_hvp.npz. Arrays are called t0, t1,
...; meta.json maps names of tensors to them and gives each its tolerance:

    inputs, outputs      {name: {key, dtype, shape, tol: {rtol, atol}}}; without tol, integers must be equal
    cotangents           {output: key}; an output without one has none
    grads                d(sum of <cotangent, output>)/d(name): as outputs, with kind and `optional`
    grads_none           names that no output depends on: zero, or left out
    grads_reliable       false: the point is a kink, gradients are not judged
    tangents, jvp, hvp   v, J v by output, H v by name
    ops, tier, dtype, opset

Numpy only.
"""
import json
import os

import numpy as np

KINDS = {"outputs": "expected_outputs.npz", "grads": "expected_grads.npz", "jvp": "expected_jvp.npz",
         "hvp": "expected_hvp.npz"}


class Case:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "meta.json")) as f:
            self.meta = json.load(f)
        with open(os.path.join(folder, "model.onnx"), "rb") as f:
            self.model = f.read()
        keys = {kind: {n: t["key"] for n, t in self.meta.get(kind, {}).items()} for kind in ("inputs", *KINDS)}
        self.inputs = self._arrays("inputs.npz", keys["inputs"])
        self.expected = {kind: self._arrays(file, keys[kind]) for kind, file in KINDS.items()}
        self.cotangents = self._arrays("cotangents.npz", self.meta.get("cotangents", {}))
        self.tangents = self._arrays("tangents.npz", self.meta.get("tangents", {}))

    def _arrays(self, file, keys):
        path = os.path.join(self.folder, file)
        if not os.path.exists(path):
            return {}
        with np.load(path) as z:
            return {name: z[key] for name, key in keys.items()}

    def judge(self, kind, got):
        """What is wrong with `got` ({name: array}): a list of lines, empty where it is right."""
        wrong = []
        for name, info in self.meta.get(kind, {}).items():
            want = self.expected[kind][name]
            if info.get("dtype") == "bfloat16" and want.dtype == np.uint16:
                want = bfloat16_bits(want)
            if got.get(name) is None:
                # A product with nothing is zero, and may be left out.
                needless = kind in ("jvp", "hvp") and not np.any(want)
                if not info.get("optional") and not needless:
                    wrong.append(f"{kind} {name}: missing")
                continue
            if why := difference(got[name], want, info.get("tol")):
                wrong.append(f"{kind} {name}: {why}")
        if kind == "grads":
            wrong += [f"grads {name}: expected none, or zero" for name in self.meta.get("grads_none", [])
                      if got.get(name) is not None and np.any(got[name])]
        return wrong


def bfloat16_bits(bits):
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def difference(got, want, tol):
    """None where `got` is close enough, else one line that says why not."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, expected {list(want.shape)}"
    if not tol:
        count = int(np.sum(~((got == want) | ((got != got) & (want != want)))))
        return f"{count} of {want.size} elements differ" if count else None
    a, b = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(all="ignore"):
        fine = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tol["atol"] + tol["rtol"] * np.abs(b))
        if fine.all():
            return None
        apart = np.abs(a - b)[~fine]
    return (f"{apart.size} of {want.size} elements off by up to {np.nanmax(apart):.3g}"
            f" (atol {tol['atol']:.3g}, rtol {tol['rtol']:.3g})")


def write(folder, model, dtype, opset, ops, inputs, values, tolerances, vectors=None, tier="core"):
    """Writes a case: arrays by name, as the comment above calls them.

    `inputs` {name: array}; `values` {kind: {name: array}} of KINDS; `tolerances` {kind: relative}, to the largest
    element of each tensor, integers are held to equality; `vectors` {"cotangents", "tangents": {name: array}}.
    Gradients by what is not among the inputs are those of initialisers.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "model.onnx"), "wb") as f:
        f.write(model)

    def save(file, arrays):
        keys = {n: f"t{i}" for i, n in enumerate(arrays)}
        np.savez(os.path.join(folder, file), **{keys[n]: a for n, a in arrays.items()})
        return keys

    def described(name, array, key, kind):
        info = {"key": key, "dtype": str(array.dtype) if kind == "outputs" else dtype, "shape": list(array.shape)}
        if array.dtype.kind == "f":
            relative = tolerances[kind]
            info["tol"] = {"rtol": relative, "atol": relative * max(float(np.abs(array).max(initial=0)), 1e-3)}
            if kind == "outputs":
                info["dtype"] = dtype
        if kind == "grads":
            info |= {"kind": "input" if name in inputs else "initializer", "optional": False}
        return info

    meta = {"tier": tier, "dtype": dtype, "opset": opset, "ops": sorted(ops)}
    meta["inputs"] = {n: {"key": k, "dtype": str(inputs[n].dtype), "shape": list(inputs[n].shape)}
                      for n, k in save("inputs.npz", inputs).items()}
    for kind, arrays in values.items():
        arrays = {n: np.asarray(a) for n, a in arrays.items()}
        meta[kind] = {n: described(n, arrays[n], k, kind) for n, k in save(KINDS[kind], arrays).items()}
    for kind, arrays in (vectors or {}).items():
        meta[kind] = save(f"{kind}.npz", {n: np.asarray(a, dtype) for n, a in arrays.items()})
    with open(os.path.join(folder, "meta.json"), "w") as f:
        json.dump(meta, f, separators=(",", ":"))


def find(root, training=False):
    """The case folders below `root`, sorted: those of training jobs, or the others."""
    out = []
    for folder, _, files in os.walk(root):
        if {"meta.json", "model.onnx"} <= set(files) and ("trajectory.npz" in files) == training:
            out.append(folder)
    return sorted(out)
