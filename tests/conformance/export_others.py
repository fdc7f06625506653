#!/usr/bin/env python3
"""Exports models of other tools as conformance cases, with the tools' own answers.

    python3 -m venv V && V/bin/pip install onnx skl2onnx scikit-learn     # or jax jax2onnx, or torch onnxscript
    V/bin/python tests/conformance/export_others.py OUT [--only NAME]
    scripts/conformance OUT

  jax      functions in FLOAT and DOUBLE by jax2onnx; gradients, J v and H v are JAX's, in float64
  torch    the models of export_models.py in inference by PyTorch's newer exporter (2.5 or later), opsets 18, 20, 23
  sklearn  estimators by skl2onnx in DOUBLE; gradients are differences of the estimator's own function

Of each tool that this Python lacks it says so and goes on; it ends 1 if nothing was exported. What a tool cannot export
is said with the tool's reason and is no failure.
"""
import argparse
import importlib
import logging
import os
import sys
import warnings

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cases

SOURCES = {}


def source(*modules):
    """A function (out, only) that exports what it can; `modules` are what it imports."""
    def register(export):
        SOURCES[export.__name__] = (modules, export)
        return export
    return register


def ops_of(model):
    """Of the graph, its bodies and its functions."""
    graphs, out, count = [model.graph, *model.functions], set(), 0
    while graphs:
        for node in graphs.pop().node:
            out.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
            count += 1
            graphs += [a.g for a in node.attribute if a.HasField("g")]
    return count, out


def opset(model):
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def attempt(name, only, export):
    """Runs an export that returns (nodes, ops); says what came of it."""
    if only not in name:
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes, ops = export()
    except Exception as e:  # each tool has its own
        print(f"{name}: NOT EXPORTED: {type(e).__name__}: {str(e).strip().splitlines()[0][:160]}", flush=True)
        return 0
    print(f"{name}: {nodes} nodes, {ops} ops", flush=True)
    return 1


# ---- JAX

def jax_functions(jax, jnp):
    """{name: (function of arrays, shapes)}; the first output counts."""
    nn, lax = jax.nn, jax.lax

    def mlp(x, w1, b1, w2, b2):
        return jnp.mean((jnp.tanh(x @ w1 + b1) @ w2 + b2) ** 2)

    def classifier(x, w, b):
        logits = nn.gelu(x @ w + b, approximate=False)
        return -jnp.mean(nn.log_softmax(logits)[jnp.arange(4), jnp.array([0, 2, 1, 0])])

    def attention(q, k, v):
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
        mask = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
        return jnp.einsum("bhts,bshd->bthd", nn.softmax(jnp.where(mask, scores, -1e9), -1), v).sum(-1)

    def layer_norm(x, g, b):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(var + 1e-3) * g + b

    def convolution(x, w):
        y = lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return nn.silu(lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID"))

    def recurrence(x, w, u):
        step = lambda h, row: ((new := jnp.tanh(row @ w + h @ u)), new.sum())
        return lax.scan(step, jnp.zeros((3,), x.dtype), x)[1]

    def iterated(x):
        return lax.fori_loop(0, 5, lambda i, yx: (yx[0] - 0.25 * (yx[0] * yx[0] - yx[1]), yx[1]), (x, x))[0]

    def branch(x):
        return lax.cond(x.sum() > 0, lambda v: jnp.sin(v) * v, lambda v: jnp.exp(v), x)

    def lennard_jones(x):
        d = x[:, None, :] - x[None, :, :]
        square = (d * d).sum(-1)[jnp.array([0, 0, 0, 1, 1, 2]), jnp.array([1, 2, 3, 2, 3, 3])]
        return jnp.sum(4 * (square ** -6 - square ** -3))

    def runge_kutta(k, y):
        slope = lambda y: jnp.stack([k[0] * (y[1] - y[0]), y[0] * (k[1] - y[2]) - y[1], y[0] * y[1] - k[2] * y[2]])
        for _ in range(3):
            k1 = slope(y)
            k2 = slope(y + k1 / 64)
            y = y + k2 / 32
        return y

    special = lambda x: jnp.stack([jax.scipy.special.erf(x), jax.scipy.special.expit(x), jnp.log1p(x * x),
                                   jnp.expm1(x), jnp.arctan(x), jnp.cosh(x)])
    return {
        "mlp": (mlp, [(5, 3), (3, 4), (4,), (4, 2), (2,)]), "classifier": (classifier, [(4, 6), (6, 3), (3,)]),
        "attention": (attention, [(2, 4, 2, 3)] * 3), "layer_norm": (layer_norm, [(3, 5), (5,), (5,)]),
        "convolution": (convolution, [(2, 6, 5, 3), (3, 3, 3, 4)]), "recurrence": (recurrence, [(4, 2), (2, 3), (3, 3)]),
        "iterated": (iterated, [(3,)]), "branch": (branch, [(4,)]), "lennard_jones": (lennard_jones, [(4, 3)]),
        "runge_kutta": (runge_kutta, [(3,), (3,)]), "special": (special, [(4,)]),
        "lgamma": (lambda x: jax.scipy.special.gammaln(2.5 + jnp.tanh(x)), [(4,)]),
        "logsumexp": (lambda x: jax.scipy.special.logsumexp(x, axis=1), [(3, 4)]),
        "cumulative": (lambda x: jnp.cumsum(x, axis=1) * jnp.cumprod(1 + 0.1 * x, axis=1), [(3, 4)]),
        "scattered": (lambda x, y: x.at[jnp.array([0, 2, 0])].add(y * y), [(4, 2), (3, 2)]),
        "sorted": (lambda x: jnp.sort(x, 0)[:3] * jnp.arange(1, 4)[:, None], [(6, 2)]),
        "slices": (lambda x: lax.dynamic_slice(jnp.pad(x, ((1, 2), (0, 1))), (1, 0), (3, 3)) ** 2, [(4, 3)]),
        "solve": (lambda a, y: jnp.linalg.solve(a + 5 * jnp.eye(3), y), [(3, 3), (3,)]),
        "cholesky": (lambda a: jnp.log(jnp.diag(jnp.linalg.cholesky(a @ a.T + 3 * jnp.eye(3)))).sum(), [(3, 3)]),
        "determinant": (lambda a: jnp.linalg.det(a + 2 * jnp.eye(3)), [(3, 3)]),
        "mapped": (jax.vmap(lambda x, w: jnp.minimum(w @ x, 0.1).prod()), [(5, 3), (5, 2, 3)]),
    }


@source("jax", "jax2onnx")
def jax(out, only):
    import jax
    import jax2onnx
    jax.config.update("jax_enable_x64", True)
    done = 0
    for name, (function, shapes) in jax_functions(jax, jax.numpy).items():
        for dtype in ("float32", "float64"):
            done += attempt(f"jax/{name}_{dtype}", only, lambda: jax_case(jax, jax2onnx, out, name, function, shapes, dtype))
    return done


def jax_case(jax, jax2onnx, out, name, function, shapes, dtype):
    random = np.random.default_rng(7)
    draw = lambda: [np.float32(random.normal(size=s)).astype(dtype) for s in shapes]
    names = [f"x{i}" for i in range(len(shapes))]
    point, vector = draw(), draw()
    model = jax2onnx.to_onnx(function, [jax.ShapeDtypeStruct(s, dtype) for s in shapes], input_names=names,
                             output_names=["y"], enable_double_precision=dtype == "float64")
    x, v = ([np.float64(a) for a in arrays] for arrays in (point, vector))
    y, slope = jax.jvp(function, x, v)
    weights = np.float32(random.normal(size=y.shape)).astype(np.float64)
    gradient = jax.grad(lambda x: (weights * function(*x)).sum())
    grads, products = jax.jvp(gradient, (x,), (v,))
    count, ops = ops_of(model)
    by_name = lambda arrays: dict(zip(names, map(np.asarray, arrays)))
    relative = {"float32": 2e-4, "float64": 1e-9}[dtype]
    cases.write(os.path.join(out, "jax", f"{name}_{dtype}"), model.SerializeToString(), dtype, opset(model), ops,
                by_name(point), {"outputs": {"y": np.asarray(y)}, "grads": by_name(grads),
                                 "jvp": {"y": np.asarray(slope)}, "hvp": by_name(products)},
                {"outputs": relative, "grads": relative, "jvp": 20 * relative, "hvp": 20 * relative},
                {"cotangents": {"y": weights}, "tangents": by_name(vector)})
    return count, len(ops)


# ---- PyTorch

# In inference its ReLU6 meets exact zeros, where a hardtanh has no slope and a Clip has one.
AT_A_KINK = {"mobilenet_v2"}


@source("torch", "onnxscript")
def torch(out, only):
    import torch
    logging.disable(logging.WARNING)
    os.environ["TORCH_LOGS"] = "-all"
    export_models = importlib.import_module("export_models")
    done = 0
    for name, (_, _, big, _) in export_models.MODELS.items():
        for version in (18, 20, 23):
            def write(module, inputs, path, axes):
                open_axes = axes and {n: {d: torch.export.Dim.DYNAMIC for d in axes[n]} for n in inputs}
                kwargs = {"dynamic_shapes": {"inputs": tuple(open_axes.values())}} if axes else {}
                torch.onnx.export(module, tuple(inputs.values()), path, input_names=list(inputs), dynamo=True,
                                  output_names=["loss"], opset_version=version, external_data=False, verbose=False,
                                  optimize=False,  # it folds parameters, and keeps one of equal ones
                                  **kwargs)
            dtype = "float64" if version == 20 else "float32"
            folder = f"{name}_{dtype}_opset{version}"
            if not big and name not in AT_A_KINK:
                done += attempt(f"torch/{folder}", only, lambda: export_models.export(
                    name, os.path.join(out, "torch"), dtype, folder, write, training=False)[:2])
    return done


# ---- scikit-learn

def estimators():
    """{name: (estimator, what of it is computed, what its targets are)}"""
    from sklearn import decomposition, gaussian_process, linear_model, neural_network, pipeline
    from sklearn import preprocessing, svm, cluster, mixture, discriminant_analysis, naive_bayes
    rbf = gaussian_process.kernels.RBF(1.5)
    return {
        "linear_regression": (linear_model.LinearRegression(), "predict", "number"),
        "ridge": (linear_model.Ridge(), "predict", "number"),
        "bayesian_ridge": (linear_model.BayesianRidge(), "predict", "number"),
        "poisson_regressor": (linear_model.PoissonRegressor(), "predict", "count"),
        "logistic_regression": (linear_model.LogisticRegression(), "predict_proba", "class"),
        "softmax_regression": (linear_model.LogisticRegression(), "predict_proba", "classes"),
        "mlp_regressor": (neural_network.MLPRegressor(hidden_layer_sizes=(5, 4), activation="tanh", max_iter=50,
                                                      random_state=0), "predict", "number"),
        "mlp_classifier": (neural_network.MLPClassifier(hidden_layer_sizes=(6,), activation="logistic", max_iter=50,
                                                        random_state=0), "predict_proba", "classes"),
        "svr": (svm.SVR(), "predict", "number"),
        "svc": (svm.SVC(), "decision_function", "class"),
        "gaussian_process": (gaussian_process.GaussianProcessRegressor(rbf, alpha=0.1, optimizer=None), "predict",
                             "number"),
        "gaussian_mixture": (mixture.GaussianMixture(2, random_state=0), "predict_proba", None),
        "gaussian_naive_bayes": (naive_bayes.GaussianNB(), "predict_proba", "classes"),
        "quadratic_discriminant": (discriminant_analysis.QuadraticDiscriminantAnalysis(), "predict_proba", "classes"),
        "k_means": (cluster.KMeans(3, n_init=1, random_state=0), "transform", None),
        "pca": (decomposition.PCA(2), "transform", None),
        "standard_scaler": (preprocessing.StandardScaler(), "transform", None),
        "normalizer": (preprocessing.Normalizer(), "transform", None),
        "polynomial": (pipeline.make_pipeline(preprocessing.StandardScaler(), preprocessing.PolynomialFeatures(2),
                                              linear_model.Ridge()), "predict", "number"),
    }


@source("sklearn", "skl2onnx")
def sklearn(out, only):
    return sum(attempt(f"sklearn/{name}", only, lambda: sklearn_case(out, name, *rest))
               for name, rest in estimators().items())


def sklearn_case(out, name, estimator, method, targets):
    import skl2onnx
    from skl2onnx.common.data_types import DoubleTensorType
    random = np.random.default_rng(7)
    data = random.normal(size=(40, 3))
    slope = data @ [1.0, -2, 0.5]
    estimator.fit(data, {None: None, "number": np.sin(slope), "count": np.exp(0.3 * slope).round(),
                         "class": (slope > 0).astype(np.int64),
                         "classes": np.digitize(slope, [-1, 1]).astype(np.int64)}[targets])
    options = {"zipmap": False} if method == "predict_proba" and targets else {}
    if method == "decision_function":
        options = {"zipmap": False, "raw_scores": True}
    model = skl2onnx.to_onnx(estimator, initial_types=[("x", DoubleTensorType([None, 3]))], target_opset=18,
                             options={id(estimator): options} if options else None)
    point = random.normal(size=(4, 3))
    function = lambda x: np.asarray(getattr(estimator, method)(x), np.float64)
    y = function(point)
    output = model.graph.output[-1].name  # after labels, where there are any
    rank_two = y.reshape(len(y), -1)  # predictions have a column of their own
    weights = random.normal(size=rank_two.shape)
    h, grad = 1e-3, np.zeros_like(point)
    for i in np.ndindex(point.shape):  # five points: the error is of order h^4
        sides = [(weights * function(point + s * h * (np.arange(point.size).reshape(point.shape) ==
                                                      np.ravel_multi_index(i, point.shape))).reshape(weights.shape)).sum()
                 for s in (-2, -1, 1, 2)]
        grad[i] = (sides[0] - 8 * sides[1] + 8 * sides[2] - sides[3]) / (12 * h)
    count, ops = ops_of(model)
    cases.write(os.path.join(out, "sklearn", name), model.SerializeToString(), "float64", opset(model), ops, {"x": point},
                {"outputs": {output: rank_two}, "grads": {"x": grad}}, {"outputs": 1e-6, "grads": 1e-5},
                {"cotangents": {output: weights}})
    return count, len(ops)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--only", default="", help="only those whose tool/name has this")
    args = parser.parse_args()
    done = 0
    for name, (modules, export) in SOURCES.items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            print(f"export_others: THIS PYTHON HAS NO {', '.join(missing)}: nothing of {name}", flush=True)
            continue
        done += export(args.out, args.only)
    if not done:
        sys.exit("export_others: nothing was exported")


if __name__ == "__main__":
    import importlib.util
    main()
