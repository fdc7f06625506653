"""A client author needs nothing but the .proto: stubs by protoc, no code of this project."""
import struct
import unittest

import grpc
import harness

STUBS = harness.generate_stubs()
from gradwire.v1 import gradient_service_pb2, gradient_service_pb2_grpc, model_pb2, tensor_pb2


# ---- The client: from here to the next line, all that its author had to write.
def vector(*numbers):
    return tensor_pb2.Tensor(data_type=tensor_pb2.DOUBLE, shape=[len(numbers)],
                             data=struct.pack(f"<{len(numbers)}d", *numbers))


def numbers(tensor):
    return struct.unpack(f"<{len(tensor.data) // 8}d", tensor.data)


def gradient(address, formula, **inputs):
    with grpc.insecure_channel(address) as channel:
        stub = gradient_service_pb2_grpc.GradientServiceStub(channel)
        request = gradient_service_pb2.ComputeGradientRequest(
            model=model_pb2.Model(expression=formula), inputs=inputs)
        reply = stub.ComputeGradient(request, timeout=30)
        return numbers(reply.value)[0], {k: numbers(v) for k, v in reply.gradients.items()}


def vjp(address, formula, cotangents, **inputs):
    with grpc.insecure_channel(address) as channel:
        stub = gradient_service_pb2_grpc.GradientServiceStub(channel)
        request = gradient_service_pb2.ComputeVjpRequest(
            model=model_pb2.Model(expression=formula), inputs=inputs,
            cotangents=[tensor_pb2.TensorMap(tensors=c) for c in cotangents])
        reply = stub.ComputeVjp(request, timeout=30)
        return [{k: numbers(v) for k, v in g.tensors.items()} for g in reply.gradients]
# ----


class PythonClientTest(harness.ServerTestCase):
    def test_gradient(self):
        value, gradients = gradient(self.server.address, "sum(x^2*y + y^3)",
                                    x=vector(2, 0), y=vector(3, 1))
        self.assertEqual(value, 40)
        self.assertEqual(gradients, {"x": (12, 0), "y": (31, 3)})

    def test_two_cotangents(self):
        gradients = vjp(self.server.address, "x^2", [{"f": vector(1, 0)}, {"f": vector(0, 2)}],
                        x=vector(3, 4))
        self.assertEqual(gradients, [{"x": (6, 0)}, {"x": (0, 16)}])

    def test_an_error_says_what_and_why(self):
        with self.assertRaises(grpc.RpcError) as raised:
            gradient(self.server.address, "x*(", x=vector(1))
        error = raised.exception
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        self.assertIn(b"INVALID_MODEL", details)
        self.assertIn(b"gradwire", details)


if __name__ == "__main__":
    unittest.main()
