#!/usr/bin/python3
"""Times our gradients and eager PyTorch's side by side, in turns, and prints ratios of medians.

    cmake --preset bench && cmake --build --preset bench
    bench/compare_peers.py [--threads 1,2] [--rounds 7] [--only seed,mlp_small]

A fair peer is a tuned peer: OPENBLAS_CORETYPE is set to the kernels of this CPU and, where it is
installed, jemalloc keeps PyTorch's pages. A peer that is missing is named. Each line of JSON: workload,
threads, ours and peer (median seconds, with the smallest and largest of the rounds), ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BENCH = os.path.join(HERE, "..", "build", "bench", "bin", "engine_bench")
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"


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


def workloads(torch):
    F = torch.nn.functional
    torch.manual_seed(0)

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

    return {
        "seed": (lambda: x ** 2 * y + y ** 3, [x, y]),
        "mlp_small": (mlp_small, small),
        "mlp_grad": (mlp_grad, big),
        "elementwise": (lambda: (torch.tanh(e) * torch.sigmoid(e) + torch.exp(-e * e)).sum(), [e]),
    }


def peer_loop(threads):
    """Child process: reads a workload's name a line, answers with the seconds of one call."""
    import torch
    torch.set_num_threads(threads)
    work = workloads(torch)
    print("ready", torch.__version__, flush=True)
    for line in sys.stdin:
        f, params = work[line.strip()]

        def routes():
            yield lambda: torch.autograd.grad(f(), params)

            def backward():
                for p in params:
                    p.grad = None
                f().backward()
            yield backward
        best = None
        for run in routes():
            run()
            start, n = time.perf_counter(), 0
            while n < 3 or time.perf_counter() - start < 0.25:
                run()
                n += 1
            seconds = (time.perf_counter() - start) / n
            best = seconds if best is None else min(best, seconds)
        print(best, flush=True)


def ours(name, threads, env):
    out = subprocess.run([BENCH, f"--benchmark_filter=BM_Gradient/{name}/{threads}/", "--benchmark_format=json",
                          "--benchmark_min_time=0.25"], capture_output=True, text=True, env=env, check=True)
    runs = json.loads(out.stdout)["benchmarks"]
    scale = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}
    return runs[0]["real_time"] * scale[runs[0]["time_unit"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="seed,mlp_small,mlp_grad,elementwise")
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        return peer_loop(args.peer)
    if not os.path.exists(BENCH):
        sys.exit("build/bench/bin/engine_bench is missing: cmake --preset bench && cmake --build --preset bench")
    for threads in map(int, args.threads.split(",")):
        env = tuned_environment()
        env.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads), OMP_PROC_BIND="true" if threads > 1 else "false")
        peer = subprocess.Popen(["/usr/bin/python3", os.path.abspath(__file__), "--peer", str(threads)], env=env,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        hello = peer.stdout.readline().split()
        if not hello:
            print("PEER MISSING: PyTorch (Debian's python3-torch); only our own figures follow")
        for name in args.only.split(","):
            if threads > 1 and name in ("seed", "mlp_small"):
                continue
            mine, theirs = [], []
            for _ in range(args.rounds):
                mine.append(ours(name, threads, env if threads > 1 else os.environ))
                if hello:
                    peer.stdin.write(name + "\n")
                    peer.stdin.flush()
                    theirs.append(float(peer.stdout.readline()))
            row = {"workload": name, "threads": threads, "ours_s": statistics.median(mine),
                   "ours_range": [min(mine), max(mine)]}
            if theirs:
                row.update(peer="pytorch " + hello[1] + " eager", peer_s=statistics.median(theirs),
                           peer_range=[min(theirs), max(theirs)],
                           ratio=round(statistics.median(mine) / statistics.median(theirs), 3))
            print(json.dumps(row), flush=True)
        peer.stdin.close()


if __name__ == "__main__":
    main()
