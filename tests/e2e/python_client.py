"""A Gradwire client made of nothing but the .proto (stubs by protoc and grpc_python_plugin)."""
import struct
import grpc
from gradwire.v1 import gradient_service_pb2 as service
from gradwire.v1 import gradient_service_pb2_grpc, model_pb2, tensor_pb2


def vector(*numbers):
    return tensor_pb2.Tensor(data_type=tensor_pb2.DOUBLE, shape=[len(numbers)],
                             data=struct.pack(f"<{len(numbers)}d", *numbers))


def numbers(tensors):
    return {k: struct.unpack(f"<{len(t.data) // 8}d", t.data) for k, t in tensors.items()}


class Client:
    def __init__(self, address):
        self.stub = gradient_service_pb2_grpc.GradientServiceStub(grpc.insecure_channel(address))

    def gradient(self, formula, **inputs):
        reply = self.stub.ComputeGradient(service.ComputeGradientRequest(
            model=model_pb2.Model(expression=formula), inputs=inputs), timeout=30)
        return numbers({"value": reply.value})["value"][0], numbers(reply.gradients)

    def vjp(self, formula, cotangents, **inputs):
        reply = self.stub.ComputeVjp(service.ComputeVjpRequest(
            model=model_pb2.Model(expression=formula), inputs=inputs,
            cotangents=[tensor_pb2.TensorMap(tensors=c) for c in cotangents]), timeout=30)
        return [numbers(gradients.tensors) for gradients in reply.gradients]
