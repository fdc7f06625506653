#!/usr/bin/python3
"""Times our gradients, training steps and training jobs beside PyTorch's, in turns, and prints ratios.

    cmake --preset bench && cmake --build --preset bench
    bench/compare_peers.py [--threads 1,2] [--rounds 7] [--only seed,mlp_small] [--bin build/bench/bin]

A fair peer is a tuned peer: OPENBLAS_CORETYPE is set to the kernels of this CPU and, where it is installed,
jemalloc keeps PyTorch's pages. Of the routes that the peer has for a workload (eager or traced, optimisers by
tensor, for each or fused, channels last, torch.compile where the version has it) the fastest counts. A peer
that is missing is named.

Each line of JSON: workload, threads, ours and peer (median seconds, with the smallest and largest of the
rounds), the ratio of the medians and that of the minima. With one thread, seconds are those of the processor,
so that others on the machine disturb little; with more they are those of the wall clock, and worth nothing
unless the machine is idle.

Workloads: gradients (seed, mlp_small, mlp_grad, elementwise); training steps on one batch (digits,
mlp_train_sgd, mlp_train_adam, cnn); the same as whole jobs on a server with shuffled batches, metrics and
commits (NAME_job), against a loop with shuffled batches and a look at the loss; training steps of whole models
(resnet18, nanogpt, lstm) with SGD, beside the module that the model was exported from, in eager mode. Of these
our loss and gradients are first compared with PyTorch's.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"  # Debian's, which has PyTorch
CONFORMANCE = os.path.join(HERE, "..", "tests", "conformance")
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
GRADIENTS = ["seed", "mlp_small", "mlp_grad", "elementwise"]
TRAININGS = ["digits", "mlp_train_sgd", "mlp_train_adam", "cnn"]
MODELS = {"resnet18": "resnet18_16_8_32", "nanogpt": "nanogpt_2_128_64_8", "lstm": "lstm_64_128_16"}
SLICE = 0.25  # seconds of one measurement


def tuned_environment():
    env = dict(os.environ)
    with open("/proc/cpuinfo") as f:
        flags = f.read()
    env.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX" if "avx512f" in flags else "ZEN" if "AMD" in flags else "HASWELL")
    if os.path.exists(JEMALLOC):
        env["LD_PRELOAD"] = JEMALLOC
        env["MALLOC_CONF"] = "oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
    else:
        print("peer note: jemalloc is not installed, PyTorch runs with the C library's malloc", file=sys.stderr)
    return env


# ---- The peer: each workload is a list of routes, a route is a function to be called again and again

def gradient_routes(torch):
    F = torch.nn.functional

    def param(*shape, scale=0.05, dtype=torch.float32):
        return (torch.randn(*shape, dtype=dtype) * scale).requires_grad_()

    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 3.0))
    small = [param(64, 64), param(64), param(64, 64), param(64), param(1, 64), param(1)]
    sx, st = torch.randn(16, 64), torch.randn(16, 1)
    big = [param(512, 784), param(512), param(256, 512), param(256), param(10, 256), param(10)]
    bx, bt = torch.randn(128, 784), torch.arange(128) * 7 % 10
    e = torch.randn(4 << 20).requires_grad_()

    def mlp_small():
        h = torch.tanh(F.linear(sx, small[0], small[1]))
        h = torch.tanh(F.linear(h, small[2], small[3]))
        d = F.linear(h, small[4], small[5]) - st
        return (d * d).mean()

    def mlp_grad():
        h = torch.relu(F.linear(bx, big[0], big[1]))
        h = torch.relu(F.linear(h, big[2], big[3]))
        return F.cross_entropy(F.linear(h, big[4], big[5]), bt)

    def routes(f, params):
        def backward():
            for p in params:
                p.grad = None
            f().backward()
        return [lambda: torch.autograd.grad(f(), params), backward]

    return {
        "seed": lambda: routes(lambda: x ** 2 * y + y ** 3, [x, y]),
        "mlp_small": lambda: routes(mlp_small, small),
        "mlp_grad": lambda: routes(mlp_grad, big),
        "elementwise": lambda: routes(lambda: (torch.tanh(e) * torch.sigmoid(e) + torch.exp(-e * e)).sum(), [e]),
    }


def training_models(torch):
    """Workload: (shapes and scales of the parameters, loss, shape of a row, batch, rows, optimiser)."""
    F = torch.nn.functional

    def digits(x, t, w1, b1, w2, b2):
        return F.cross_entropy(F.linear(torch.tanh(F.linear(x, w1, b1)), w2, b2), t)

    def mlp(x, t, w1, b1, w2, b2, w3, b3):
        h = torch.relu(F.linear(x, w1, b1))
        h = torch.relu(F.linear(h, w2, b2))
        return F.cross_entropy(F.linear(h, w3, b3), t)

    def cnn(x, t, k1, c1, k2, c2, w1, b1, w2, b2):
        h = torch.relu(F.conv2d(x, k1, c1))
        h = F.max_pool2d(torch.relu(F.conv2d(h, k2, c2)), 2).flatten(1)
        h = torch.relu(F.linear(h, w1, b1))
        return F.cross_entropy(F.linear(h, w2, b2), t)

    mlp_shapes = [(512, 784), (512,), (256, 512), (256,), (10, 256), (10,)]
    cnn_shapes = [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 9216), (128,), (10, 128), (10,)]
    sgd = ("SGD", {"lr": 1e-2, "momentum": 0.9})
    return {
        "digits": ([(32, 64), (32,), (10, 32), (10,)], digits, (64,), 64, 1408, ("Adam", {"lr": 1e-2})),
        "mlp_train_sgd": (mlp_shapes, mlp, (784,), 128, 60000, sgd),
        "mlp_train_adam": (mlp_shapes, mlp, (784,), 128, 60000, ("Adam", {"lr": 1e-3})),
        "cnn": (cnn_shapes, cnn, (1, 28, 28), 64, 6400, sgd),
    }


def training_routes(torch, model, whole_loop):
    shapes, loss, row, batch, rows, (optimizer, settings) = model
    data = torch.randn(rows if whole_loop else batch, *row)
    labels = torch.arange(len(data)) * 7 % 10
    order = torch.randperm(len(data))

    def route(kind, layout, step_options):
        params = [(torch.randn(*s) * 0.02).contiguous(memory_format=layout if len(s) == 4 else torch.contiguous_format)
                  .requires_grad_() for s in shapes]
        stepper = getattr(torch.optim, optimizer)(params, **settings, **step_options)
        f = loss
        if kind == "traced":
            f = torch.jit.trace(loss, (data[:batch], labels[:batch], *params), check_trace=False)
        elif kind == "compiled":
            f = torch.compile(loss)
        at = 0

        def run():
            nonlocal at
            x, t = data, labels
            if whole_loop:
                at = at + batch if at + 2 * batch <= len(data) else 0
                index = order[at:at + batch]
                x, t = data[index], labels[index]
            if layout is not torch.contiguous_format:
                x = x.contiguous(memory_format=layout)
            stepper.zero_grad(set_to_none=True)
            value = f(x, t, *params)
            value.backward()
            stepper.step()
            if whole_loop:
                value.item()
        return run

    kinds = ["eager", "traced"] + (["compiled"] if hasattr(torch, "compile") else [])
    layouts = [torch.contiguous_format] + ([torch.channels_last] if len(row) == 3 else [])
    for kind in kinds:
        for layout in layouts:
            for options in ({"foreach": False}, {"foreach": True}, {"fused": True}):
                try:
                    run = route(kind, layout, options)
                    run()
                except (RuntimeError, TypeError, ValueError):
                    continue  # this version has no such route
                yield run


def model_routes(torch, name):
    """One step of training by eager PyTorch of a module of tests/conformance/export_models.py."""
    sys.path.insert(0, CONFORMANCE)
    import export_models

    def route(layout, options):
        module, inputs = export_models.made(name)
        module = module.float().train().to(memory_format=layout)
        inputs = [x.float() if x.is_floating_point() else x for x in inputs.values()]
        inputs = [x.contiguous(memory_format=layout) if x.dim() == 4 else x for x in inputs]
        stepper = torch.optim.SGD(module.parameters(), lr=1e-2, **options)

        def run():
            stepper.zero_grad(set_to_none=True)
            module(*inputs).backward()
            stepper.step()
        return run

    layouts = [torch.contiguous_format] + ([torch.channels_last] if "resnet" in name else [])
    return [route(layout, {"foreach": each}) for layout in layouts for each in (False, True)]


def peer_loop(threads):
    """Child process: reads a workload's name a line, answers with the seconds of one call."""
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clock = time.process_time if threads == 1 else time.perf_counter
    gradients, models = gradient_routes(torch), training_models(torch)
    known = {}

    def seconds(run, least):
        start, n = clock(), 0
        while n < 3 or clock() - start < least:
            run()
            n += 1
        return (clock() - start) / n

    def routes_of(name):
        if name in gradients:
            return gradients[name]()
        if name in MODELS:
            return model_routes(torch, MODELS[name])
        base = name.removesuffix("_job")
        return list(training_routes(torch, models[base], base != name))

    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        name = line.strip()
        if name not in known:  # the two fastest routes are those that are timed
            routes = routes_of(name)
            known[name] = [r for _, r in sorted(((seconds(r, SLICE), r) for r in routes), key=lambda p: p[0])[:2]]
        print(min(seconds(r, SLICE) for r in known[name]), flush=True)


# ---- Ours

def export(name, folder):
    """Writes a model with its inputs and answers; returns where."""
    subprocess.run([PYTHON, os.path.join(CONFORMANCE, "export_models.py"), folder, "--big", "--only", MODELS[name]],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return os.path.join(folder, "models", MODELS[name] + "_float32")


def check_answers(binaries, folder):
    """Exits where our loss and gradients are not the exported model's: then times would mean nothing."""
    import numpy as np
    subprocess.run([os.path.join(binaries, "engine_bench"), "--model=" + folder, "--answers",
                    "--benchmark_filter=^$"], capture_output=True, check=True)
    with open(os.path.join(folder, "answers.safetensors"), "rb") as f:
        content = f.read()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    with open(os.path.join(folder, "meta.json")) as f:
        meta = json.load(f)
    wanted = [("loss", "expected_outputs.npz", meta["outputs"]["loss"])]
    wanted += [("gradwire.gradient." + n, "expected_grads.npz", g) for n, g in meta["grads"].items() if g["kind"] != "input"]
    for name, file, entry in wanted:
        begin, end = header[name]["data_offsets"]
        got = np.frombuffer(content[start + begin:start + end], dtype=entry["dtype"])
        want = np.load(os.path.join(folder, file))[entry["key"]].ravel()
        if not np.allclose(got, want, rtol=entry["tol"]["rtol"], atol=entry["tol"]["atol"]):
            sys.exit(f"{folder}: {name} differs from PyTorch's by {np.abs(got - want).max()}")


def ours(folder, name, threads, env, model=None):
    kind = "BM_Gradient" if name in GRADIENTS else "BM_TrainingJob" if name.endswith("_job") else "BM_TrainingStep"
    binary = "jobs_bench" if kind == "BM_TrainingJob" else "engine_bench"
    row = "model" if model else name.removesuffix("_job")
    out = subprocess.run([os.path.join(folder, binary), "--benchmark_format=json", f"--benchmark_min_time={SLICE}",
                          f"--benchmark_filter={kind}/{row}/{threads}/", *(["--model=" + model] if model else [])],
                         capture_output=True, text=True, env=env, check=True)
    run = json.loads(out.stdout)["benchmarks"][0]
    scale = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[run["time_unit"]]
    if threads > 1:
        return run["real_time"] * scale
    return run.get("cpu_seconds", run["cpu_time"] * scale)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(GRADIENTS + TRAININGS + list(MODELS) + [t + "_job" for t in TRAININGS]))
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "build", "bench", "bin"))
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer_loop(args.peer)
    if not os.path.exists(os.path.join(args.bin, "engine_bench")):
        sys.exit(f"{args.bin}/engine_bench is missing: cmake --preset bench && cmake --build --preset bench")
    exported = tempfile.TemporaryDirectory()
    models = {name: export(name, exported.name) for name in args.only.split(",") if name in MODELS}
    for model in models.values():
        check_answers(args.bin, model)
    for threads in map(int, args.threads.split(",")):
        env = tuned_environment()
        env.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads), OMP_PROC_BIND="true" if threads > 1 else "false")
        peer = subprocess.Popen([PYTHON, os.path.abspath(__file__), "--peer", str(threads)], env=env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        hello = peer.stdout.readline().split()
        if not hello:
            print("PEER MISSING: PyTorch (Debian's python3-torch); only our own figures follow")
        for name in args.only.split(","):
            if threads > 1 and name in ("seed", "mlp_small"):
                continue
            mine, theirs = [], []
            for _ in range(args.rounds):
                mine.append(ours(args.bin, name, threads, dict(os.environ, OMP_PROC_BIND=env["OMP_PROC_BIND"]),
                                 models.get(name)))
                if hello:
                    peer.stdin.write(name + "\n")
                    peer.stdin.flush()
                    theirs.append(float(peer.stdout.readline()))
            row = {"workload": name, "threads": threads, "ours_s": statistics.median(mine),
                   "ours_range": [min(mine), max(mine)]}
            if theirs:
                row.update(peer="pytorch " + hello[1], peer_s=statistics.median(theirs),
                           peer_range=[min(theirs), max(theirs)],
                           ratio=round(statistics.median(mine) / statistics.median(theirs), 3),
                           ratio_of_minima=round(min(mine) / min(theirs), 3))
            print(json.dumps(row), flush=True)
        peer.stdin.close()


if __name__ == "__main__":
    main()
