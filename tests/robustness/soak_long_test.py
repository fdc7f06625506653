"""Two clients with graphs of their own, random cancels and short deadlines: every answer is right,
and the server is none the worse for it. Lasts GRADWIRE_SOAK_SECONDS (60)."""
import json
import math
import os
import random
import subprocess
import sys
import time
import unittest

import grpc
import harness
import wire
from wire import formula, onnx_text, service, tensor, tensor_pb2

SECONDS = float(os.environ.get("GRADWIRE_SOAK_SECONDS", "60"))
DROPPED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


# ---- Calls of a client: each sends a request with numbers of its own and knows the right answer

def close(got, right):
    return len(got) == len(right) and all(abs(g - r) <= 1e-9 * max(1, abs(r)) for g, r in zip(got, right))


def named(tensors):
    return {name: wire.numbers(t) for name, t in tensors.items()}


def seed_gradient(dice):
    x, y = dice.uniform(-2, 2), dice.uniform(-2, 2)
    request = service.ComputeGradientRequest(model=formula("x^2*y + y^3"),
                                             inputs={"x": tensor(x), "y": tensor(y)})

    def right(reply):
        got = named(reply.gradients)
        return (close(wire.numbers(reply.value), [x * x * y + y ** 3])
                and close(got["x"], [2 * x * y]) and close(got["y"], [x * x + 3 * y * y]))
    return request, right


def rosenbrock_hvp(dice):
    x, y, v = dice.uniform(-2, 2), dice.uniform(-2, 2), dice.uniform(-2, 2)
    request = service.ComputeHvpRequest(
        model=formula("(1-x)^2 + 100*(y-x^2)^2"), inputs={"x": tensor(x), "y": tensor(y)},
        vectors=[tensor_pb2.TensorMap(tensors={"x": tensor(v)}),
                 tensor_pb2.TensorMap(tensors={"y": tensor(v)})])

    def right(reply):
        first, second = (named(p.tensors) for p in reply.products)
        return (close(first["x"], [(2 - 400 * (y - 3 * x * x)) * v]) and close(first["y"], [-400 * x * v])
                and close(second["x"], [-400 * x * v]) and close(second["y"], [200 * v]))
    return request, right


def vector_of_any_length(dice):
    values = [dice.uniform(-1, 1) for _ in range(dice.choice((1, 7, 500, 20_000)))]
    request = service.ComputeGradientRequest(model=formula("sum(sin(x)*exp(x))"), inputs={"x": tensor(values)})

    def right(reply):
        value = math.fsum(math.sin(v) * math.exp(v) for v in values)
        slopes = [(math.sin(v) + math.cos(v)) * math.exp(v) for v in values]
        return (abs(wire.numbers(reply.value)[0] - value) <= 1e-9 * len(values)
                and close(named(reply.gradients)["x"], slopes))
    return request, right


LAYER = onnx_text("""<ir_version: 8, opset_import: ["" : 17]>
layer (double[N,K] x, double[K,M] w) => (double[N,M] y) { y = MatMul(x, w) }""")


def matrix_vjp(dice):
    n, k, m = (dice.randint(1, 9) for _ in range(3))
    x, w, g = ([dice.uniform(-1, 1) for _ in range(size)] for size in (n * k, k * m, n * m))
    request = service.ComputeVjpRequest(
        model=LAYER, inputs={"x": tensor(x, [n, k]), "w": tensor(w, [k, m])},
        cotangents=[tensor_pb2.TensorMap(tensors={"y": tensor(g, [n, m])})])

    def right(reply):
        got = named(reply.gradients[0].tensors)
        return (close(got["x"], [sum(g[i * m + j] * w[l * m + j] for j in range(m))
                                 for i in range(n) for l in range(k)])
                and close(got["w"], [sum(x[i * k + l] * g[i * m + j] for i in range(n))
                                     for l in range(k) for j in range(m)]))
    return request, right


def slow_product(dice):
    """Long enough to be met by a cancel between its steps; all elements of the powers are equal."""
    extent, factors, scale = 240, 12, dice.choice((0.5, 1.0))
    request = service.EvaluateRequest(
        model=formula("sum(" + "@".join(["a"] * factors) + ")"),
        inputs={"a": tensor([scale / extent] * extent ** 2, [extent, extent])})
    # The k-th power of a constant matrix c has elements c (c extent)^(k-1).
    value = extent * extent * scale / extent * scale ** (factors - 1)
    return request, lambda reply: close(wire.numbers(reply.outputs["f"]), [value])


def fresh_graph(dice):
    """Of a text that was never sent before: always compiled."""
    a, b, x = dice.randint(2, 9), dice.random(), dice.uniform(-1, 1)
    request = service.ComputeGradientRequest(model=formula(f"{b!r}*x^{a} + sin({a}*x)"), inputs={"x": tensor(x)})
    return request, lambda reply: close(named(reply.gradients)["x"],
                                        [b * a * x ** (a - 1) + a * math.cos(a * x)])


def refused_call(dice):
    """An answer that is an error: of this reason."""
    model, reason = dice.choice((("x*(", "INVALID_MODEL"), ("x*y", "MISSING_INPUT"),
                                 ("x @ x", "SHAPE_MISMATCH")))
    return service.EvaluateRequest(model=formula(model), inputs={"x": tensor(1.0)}), reason


CLIENTS = ((seed_gradient, vector_of_any_length, fresh_graph, refused_call),
           (rosenbrock_hvp, matrix_vjp, slow_product, fresh_graph))


def client_main(address, number, seconds):
    """Calls until the time is over, then prints its counts as JSON."""
    dice = random.Random(number)
    counts = {"answered": 0, "refused": 0, "dropped": 0}
    wrong = []
    channel, stub = wire.connect(address)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not wrong:
        make = dice.choice(CLIENTS[number])
        request, right = make(dice)
        method = getattr(stub, type(request).DESCRIPTOR.name[:-len("Request")])
        fate = dice.random()
        deadline = dice.uniform(0.0001, 0.01) if fate < 0.15 else 120
        call = method.future(request, timeout=deadline)
        if 0.15 <= fate < 0.3:
            time.sleep(dice.choice((0, 0, 0.0003, 0.002, 0.01)))
            call.cancel()
        try:
            reply = call.result()
        except grpc.FutureCancelledError:
            counts["dropped"] += 1
        except grpc.RpcError as error:
            if error.code() in DROPPED and fate < 0.3:
                counts["dropped"] += 1
            elif wire.Failure(error).reason == right:
                counts["refused"] += 1
            else:
                wrong.append(f"{make.__name__}: {wire.Failure(error)}")
        else:
            if callable(right) and right(reply):
                counts["answered"] += 1
            else:
                wrong.append(f"{make.__name__}: wrong answer to {request}"[:2000])
    channel.close()
    print(json.dumps({"counts": counts, "wrong": wrong}))


class SoakTest(unittest.TestCase):
    def test_two_clients_get_right_answers_while_calls_are_dropped(self):
        server = harness.Server("--memory-limit-bytes=1GB")
        self.addCleanup(server.process.kill)
        command = [sys.executable, __file__, "--client", server.address]
        clients = [subprocess.Popen([*command, str(i), str(SECONDS)], stdout=subprocess.PIPE, text=True)
                   for i in range(len(CLIENTS))]
        outcomes = []
        for client in clients:
            self.addCleanup(client.kill)
            out, _ = client.communicate(timeout=SECONDS + 300)
            self.assertEqual(client.returncode, 0)
            outcomes.append(json.loads(out))
        for outcome in outcomes:
            self.assertEqual(outcome["wrong"], [])
            self.assertGreater(outcome["counts"]["answered"], SECONDS / wire.SLOWDOWN)
            self.assertGreater(outcome["counts"]["dropped"], 0)
        self.assertIsNone(server.process.poll(), "the server died")
        resident = wire.resident_bytes(server.process.pid)
        self.assertEqual(server.stop(), 0)
        total = {kind: sum(o["counts"][kind] for o in outcomes) for kind in outcomes[0]["counts"]}
        print(f"{sum(total.values())} calls: {total}; resident {resident >> 20} MiB ",
              end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if "--client" in sys.argv:
        client_main(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        unittest.main()
