#!/usr/bin/python3
"""Runs a folder of outside conformance cases against a gradwire-server over gRPC.

    tests/conformance/run_cases.py DIR [--roads all] [--bin build/dev/bin] [--only SUBSTRING] [--strict] [--verbose]

Each case asks for outputs and gradients (ComputeVjp), J v (ComputeJvp) and H v (ComputeHvp); cases.py says what a
case holds and judges. With --roads all also for the same numbers by the other rpcs, where the case is small enough:
the gradient of a scalar (ComputeGradient), cotangents times all rows of the Jacobian (ComputeJacobian, forward and
reverse) and all columns of the Hessian times v (ComputeHessian). An answer of "not supported" is counted apart from
a wrong one. Prints how many passed, were wrong and are not supported: by source and tier, by dtype, and by op where
not all passed, with the reasons. Ends 0 if no answer was wrong and no refusal lacked a reason; with --strict, if all
passed.
"""
import argparse
import collections
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import cases

REFUSALS = {"UNSUPPORTED_OP", "UNSUPPORTED_OPSET", "DTYPE_UNSUPPORTED", "NOT_DIFFERENTIABLE",
            "DATA_DEPENDENT_SHAPE"}
DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
          "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16}
NUMPY = {n: np.dtype(d) for d, n in DTYPES.items() if d != "bfloat16"}
# Of a Jacobian or Hessian that a case is asked for whole.
MOST_ELEMENTS, MOST_RUNS = 200_000, 600
VERDICTS = ("passed", "wrong", "unsupported")


class Refused(Exception):
    """The server's answer was an error."""


class Runner:
    def __init__(self, address, harness, all_roads):
        self.all_roads, self.roads = all_roads, collections.Counter()
        import grpc
        from gradwire.v1 import gradient_service_pb2, gradient_service_pb2_grpc, model_pb2, tensor_pb2
        self.grpc, self.harness = grpc, harness
        self.pb, self.model, self.tensors = gradient_service_pb2, model_pb2, tensor_pb2
        channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1),
                                                          ("grpc.max_send_message_length", -1)])
        self.stub = gradient_service_pb2_grpc.GradientServiceStub(channel)

    def tensor(self, array, dtype):
        a = np.ascontiguousarray(array)
        return self.tensors.Tensor(data_type=DTYPES[dtype], shape=list(np.shape(array)), data=a.tobytes())

    def map(self, arrays, dtypes):
        return self.tensors.TensorMap(tensors={n: self.tensor(np.asarray(a, None), dtypes(n, a))
                                               for n, a in arrays.items()})

    def arrays(self, tensors):
        def array(t):
            if t.data_type == 16:
                return cases.bfloat16_bits(np.frombuffer(t.data, np.uint16)).reshape(tuple(t.shape))
            return np.frombuffer(t.data, NUMPY[t.data_type]).reshape(tuple(t.shape))
        return {n: array(t) for n, t in tensors.items()}

    def call(self, method, request):
        try:
            return method(request, timeout=120)
        except self.grpc.RpcError as e:
            raise Refused(e.code().name, self.harness.reason_of(e), e.details()) from None

    def common(self, case):
        return {"model": self.model.Model(onnx=case.model),
                "inputs": {n: self.tensor(case.inputs[n], t["dtype"]) for n, t in case.meta["inputs"].items()}}

    def answers(self, case):
        """{kind: {name: array}} of what the case asks for."""
        m, pb, out = case.meta, self.pb, {}
        common = self.common(case)
        cotangents = self.tensors.TensorMap(tensors={
            n: self.tensor(np.asarray(a, m["outputs"][n]["dtype"]), m["outputs"][n]["dtype"])
            for n, a in case.cotangents.items()})
        if case.cotangents and m.get("grads"):
            reply = self.call(self.stub.ComputeVjp, pb.ComputeVjpRequest(
                **common, cotangents=[cotangents], wrt=list(m["grads"])))
            out["grads"] = self.arrays(reply.gradients[0].tensors)
        else:
            reply = self.call(self.stub.Evaluate, pb.EvaluateRequest(**common))
        out["outputs"] = self.arrays(reply.outputs)
        vector = self.map(case.tangents, lambda n, a: str(a.dtype))
        if case.tangents and m.get("jvp"):
            reply = self.call(self.stub.ComputeJvp, pb.ComputeJvpRequest(
                **common, tangents=[vector], outputs=list(m["jvp"])))
            out["jvp"] = self.arrays(reply.tangents[0].tensors)
        if case.tangents and m.get("hvp"):
            reply = self.call(self.stub.ComputeHvp, pb.ComputeHvpRequest(
                **common, cotangents=cotangents, vectors=[vector], wrt=list(case.tangents)))
            out["hvp"] = self.arrays(reply.products[0].tensors)
        return out

    def other_roads(self, case):
        """[(road, kind, {name: array})] of the same numbers, asked for in other ways."""
        m, pb, out = case.meta, self.pb, []
        common = self.common(case)
        wrt, cotangents = list(m.get("grads", {})), case.cotangents
        width = sum(case.expected["grads"][n].size for n in wrt)
        height = sum(a.size for a in cotangents.values())
        if not wrt or not width:
            return out
        if len(cotangents) == 1 == height:
            (output, cotangent), = cotangents.items()
            reply = self.call(self.stub.ComputeGradient, pb.ComputeGradientRequest(
                **common, output=output, wrt=wrt))
            out.append(("ComputeGradient", "grads", {n: a.astype(np.float64) * float(np.reshape(cotangent, ()))
                                                     for n, a in self.arrays(reply.gradients).items()}))
        if cotangents and width * height <= MOST_ELEMENTS and max(width, height) <= MOST_RUNS:
            for direction in ("FORWARD", "REVERSE"):
                reply = self.call(self.stub.ComputeJacobian, pb.ComputeJacobianRequest(
                    **common, outputs=list(cotangents), wrt=wrt, direction=direction))
                sums = dict.fromkeys(wrt, 0.0)
                for block in reply.jacobians:
                    jacobian = self.arrays({"": block.jacobian})[""].astype(np.float64)
                    cotangent = np.asarray(cotangents[block.output], np.float64)
                    sums[block.wrt] = sums[block.wrt] + np.tensordot(cotangent, jacobian, cotangent.ndim)
                out.append((f"ComputeJacobian {direction}", "grads", sums))
        if case.tangents and m.get("hvp"):
            names = list(case.tangents)
            size = sum(a.size for a in case.tangents.values())
            if size <= MOST_RUNS and size * size <= MOST_ELEMENTS:
                reply = self.call(self.stub.ComputeHessian, pb.ComputeHessianRequest(
                    **common, wrt=names, cotangents=self.map(
                        cotangents, lambda n, a: m["outputs"][n]["dtype"])))
                sums = dict.fromkeys(names, 0.0)
                for block in reply.hessians:
                    hessian = self.arrays({"": block.hessian})[""].astype(np.float64)
                    v = np.asarray(case.tangents[block.column], np.float64)
                    sums[block.row] = sums[block.row] + np.tensordot(hessian, v, v.ndim)
                out.append(("ComputeHessian", "hvp", sums))
        return out

    def run(self, case):
        """(verdict, why)"""
        try:
            answers = self.answers(case)
            others = self.other_roads(case) if self.all_roads else []
        except Refused as refused:
            code, reason, details = refused.args
            known = code == "INVALID_ARGUMENT" and reason in REFUSALS
            return ("unsupported", f"{reason}: {details}") if known else ("wrong", f"{code} {reason}: {details}")
        if not case.meta.get("grads_reliable", True):
            answers.pop("grads", None)
        wrong = [line for kind, got in answers.items() for line in case.judge(kind, got)]
        for road, kind, got in others:
            self.roads[road] += 1
            if kind in answers:
                wrong += [f"by {road}: {line}" for line in case.judge(kind, got)]
        return ("wrong", "; ".join(wrong)) if wrong else ("passed", "")


class Table:
    def __init__(self, title):
        self.title, self.counts = title, collections.defaultdict(collections.Counter)

    def add(self, row, verdict):
        self.counts[row][verdict] += 1

    def show(self, only_open=False):
        rows = [r for r, c in sorted(self.counts.items()) if not only_open or c["passed"] < sum(c.values())]
        if not rows:
            return
        print(f"\n{self.title:34}" + "".join(f"{v:>12}" for v in VERDICTS))
        for row in rows:
            print(f"{row:34}" + "".join(f"{self.counts[row][v]:12}" for v in VERDICTS))


def run(args, runner):
    """The number of wrong answers; with --strict, of all that did not pass."""
    tables = [Table("source, tier"), Table("dtype"), Table("op (where not all passed)")]
    reasons, wrong, failing = collections.Counter(), [], VERDICTS[1:] if args.strict else ("wrong",)
    for folder in cases.find(args.dir):
        if args.only not in folder:
            continue
        case = cases.Case(folder)
        verdict, why = runner.run(case)
        name = os.path.relpath(folder, args.dir)
        tables[0].add(f"{name.split(os.sep)[0]}, {case.meta.get('tier', '?')}", verdict)
        tables[1].add(case.meta.get("dtype", "?"), verdict)
        for op in set(case.meta.get("ops", [])):
            tables[2].add(op, verdict)
        if verdict in failing:
            wrong.append(f"{verdict.upper()} {name}: {why}")
        if verdict == "unsupported":
            reasons[why.split("; the first: ")[-1][:140]] += 1
        if args.verbose:
            print(verdict, name, why[:300], flush=True)
    for table in tables:
        table.show(only_open=table is tables[2])
    if reasons:
        print("\nnot supported, and why")
        for why, count in reasons.most_common():
            print(f"{count:6}  {why}")
    print("\n" + "\n".join(wrong) if wrong else "", end="\n" if wrong else "")
    total = collections.Counter()
    for counts in tables[0].counts.values():
        total.update(counts)
    if not total:
        sys.exit(f"run_cases: no case was found in {args.dir}")
    if runner.roads:
        print("\nother roads: " + ", ".join(f"{road} {count}" for road, count in sorted(runner.roads.items())))
    print("\nconformance cases: " + ", ".join(f"{total[v]} {v}" for v in VERDICTS))
    return len(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--bin", default=os.environ.get("GRADWIRE_BIN"), help="where the built programs are")
    parser.add_argument("--server", help="a server that runs; default: one is started")
    parser.add_argument("--only", default="", help="only cases whose path contains this")
    parser.add_argument("--roads", choices=["few", "all"], default="few", help="by which rpcs [few]")
    parser.add_argument("--strict", action="store_true", help="what is not supported fails as well")
    parser.add_argument("--verbose", action="store_true", help="a line for each case")
    args = parser.parse_args()
    source = os.path.abspath(os.path.join(HERE, "..", ".."))
    os.environ["GRADWIRE_BIN"] = os.path.abspath(args.bin or os.path.join(source, "build", "dev", "bin"))
    os.environ.setdefault("GRADWIRE_SOURCE", source)
    sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
    import harness  # reads both
    stubs = harness.generate_stubs()
    server = None if args.server else harness.Server()
    status = 0
    try:
        wrong = run(args, Runner(args.server or server.address, harness, args.roads == "all"))
    finally:
        if server:
            status = server.stop()
        stubs.cleanup()
    if status != 0:
        sys.exit(f"run_cases: the server ended with {status}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
