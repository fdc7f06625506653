#!/usr/bin/python3
"""Runs a folder of outside conformance cases against a gradwire-server over gRPC.

    tests/conformance/run_cases.py DIR [--bin build/dev/bin] [--only SUBSTRING] [--verbose]

DIR holds case folders (model.onnx, inputs.npz, meta.json, ...) and the compare.py that judges answers.
Each case asks for outputs and gradients (ComputeVjp), J v (ComputeJvp) and H v (ComputeHvp). An answer of
"not supported" is counted apart from a wrong one. Ends 0 if no answer was wrong and no refusal lacked a
reason; prints a table by source, and the reasons of refusals.
"""
import argparse
import collections
import importlib.util
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
REFUSALS = {"UNSUPPORTED_OP", "UNSUPPORTED_OPSET", "DTYPE_UNSUPPORTED", "NOT_DIFFERENTIABLE",
            "DATA_DEPENDENT_SHAPE"}
DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
          "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16}
NUMPY = {n: np.dtype(d) for d, n in DTYPES.items() if d != "bfloat16"}


def load_compare(root):
    path = os.path.join(root, "compare.py")
    if not os.path.exists(path):
        sys.exit(f"run_cases: {root} has no compare.py")
    spec = importlib.util.spec_from_file_location("compare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Api:
    """The generated messages and stubs."""

    def __init__(self):
        from gradwire.v1 import gradient_service_pb2, gradient_service_pb2_grpc, model_pb2, tensor_pb2
        self.gradient, self.service = gradient_service_pb2, gradient_service_pb2_grpc
        self.model, self.tensor = model_pb2, tensor_pb2


class Runner:
    def __init__(self, api, address):
        import grpc
        self.grpc, self.api = grpc, api
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1),
                                                               ("grpc.max_send_message_length", -1)])
        self.stub = api.service.GradientServiceStub(self.channel)

    def tensor(self, array, dtype):
        a = np.ascontiguousarray(array)
        return self.api.tensor.Tensor(data_type=DTYPES[dtype], shape=list(np.shape(array)), data=a.tobytes())

    def array(self, t):
        if t.data_type == 16:
            bits = np.frombuffer(t.data, np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).reshape(tuple(t.shape))
        return np.frombuffer(t.data, NUMPY[t.data_type]).reshape(tuple(t.shape))

    def arrays(self, tensors):
        return {n: self.array(t) for n, t in tensors.items()}

    def call(self, method, request):
        try:
            return method(request, timeout=60), None
        except self.grpc.RpcError as e:
            return None, (e.code().name, self.reason(e), e.details())

    def reason(self, error):
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for name in REFUSALS | {"INVALID_MODEL", "SHAPE_MISMATCH", "INVALID_TENSOR", "UNKNOWN_WRT",
                                        "MISSING_INPUT", "UNKNOWN_INPUT", "MEMORY_LIMIT"}:
                    if name.encode() in value:
                        return name
        return ""

    def run(self, case, compare):
        """Returns (verdict, text): verdict is pass, wrong or unsupported."""
        m, pb = case.meta, self.api.gradient
        with open(case.model, "rb") as f:
            model = self.api.model.Model(onnx=f.read())
        inputs = {n: self.tensor(case.inputs[n], t["dtype"]) for n, t in m["inputs"].items()}
        TensorMap = self.api.tensor.TensorMap
        dtype_of = {n: t["dtype"] for n, t in m["inputs"].items()}
        cot = {n: self.tensor(np.asarray(a, m["outputs"][n]["dtype"]), m["outputs"][n]["dtype"])
               for n, a in case.cotangents.items()}
        outputs = grads = jvp = hvp = None
        wrt = [n for n in m.get("grads", {})]
        if cot and wrt:
            reply, error = self.call(self.stub.ComputeVjp, pb.ComputeVjpRequest(
                model=model, inputs=inputs, cotangents=[TensorMap(tensors=cot)], wrt=wrt))
            if error:
                return self.refusal(error)
            outputs, grads = self.arrays(reply.outputs), self.arrays(reply.gradients[0].tensors)
        else:
            reply, error = self.call(self.stub.Evaluate, pb.EvaluateRequest(model=model, inputs=inputs))
            if error:
                return self.refusal(error)
            outputs = self.arrays(reply.outputs)
        if case.tangents:
            tangents = {n: self.tensor(a, str(a.dtype)) for n, a in case.tangents.items()}
            if m.get("jvp"):
                reply, error = self.call(self.stub.ComputeJvp, pb.ComputeJvpRequest(
                    model=model, inputs=inputs, tangents=[TensorMap(tensors=tangents)], outputs=list(m["jvp"])))
                if error:
                    return self.refusal(error)
                jvp = self.arrays(reply.tangents[0].tensors)
            if m.get("hvp"):
                reply, error = self.call(self.stub.ComputeHvp, pb.ComputeHvpRequest(
                    model=model, inputs=inputs, cotangents=TensorMap(tensors=cot),
                    vectors=[TensorMap(tensors=tangents)], wrt=list(tangents)))
                if error:
                    return self.refusal(error)
                hvp = self.arrays(reply.products[0].tensors)
        v = compare.judge(case, outputs, grads, jvp, hvp)
        return ("wrong", "; ".join(v["errors"])) if v["errors"] else ("pass", "")

    @staticmethod
    def refusal(error):
        code, reason, details = error
        if code == "INVALID_ARGUMENT" and reason in REFUSALS:
            return "unsupported", f"{reason}: {details}"
        return "wrong", f"{code} {reason}: {details}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir")
    parser.add_argument("--bin", default=os.environ.get("GRADWIRE_BIN"))
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    source = os.path.abspath(os.path.join(HERE, "..", ".."))
    os.environ["GRADWIRE_BIN"] = os.path.abspath(args.bin or os.path.join(source, "build", "dev", "bin"))
    os.environ.setdefault("GRADWIRE_SOURCE", source)
    sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
    import harness  # reads both
    compare = load_compare(args.dir)
    table, reasons, wrong = collections.Counter(), collections.Counter(), []
    stubs = harness.generate_stubs()
    server = harness.Server()
    try:
        runner = Runner(Api(), server.address)
        for folder in compare.find_cases(args.dir):
            if args.only not in folder:
                continue
            case = compare.load_case(folder)
            verdict, text = runner.run(case, compare)
            source = os.path.relpath(folder, args.dir).split(os.sep)[0]
            table[source, case.meta.get("tier", "?"), verdict] += 1
            if verdict == "wrong":
                wrong.append(f"{folder}: {text}")
            if verdict == "unsupported":
                reasons[text.split("; the first")[0][:110]] += 1
            if args.verbose:
                print(verdict, folder, text[:300], flush=True)
    finally:
        status = server.stop()
        stubs.cleanup()
    if status != 0:
        sys.exit(f"run_cases: the server ended with {status}")
    print(f"{'source':10} {'tier':10} {'passed':>7} {'wrong':>7} {'unsupported':>12}")
    for source, tier in sorted({k[:2] for k in table}):
        print(f"{source:10} {tier:10} {table[source, tier, 'pass']:7} {table[source, tier, 'wrong']:7} "
              f"{table[source, tier, 'unsupported']:12}")
    for text in wrong:
        print("WRONG", text)
    if not table:
        sys.exit("run_cases: no case was found")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
