"""What the robustness tests share: stubs, messages, and what an error carries.

Times are bounds for an ordinary build on an idle machine; GRADWIRE_SLOWDOWN multiplies them.
"""
import os
import pathlib
import struct
import tempfile

import grpc
import harness
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STUBS = harness.generate_stubs()
from gradwire.v1 import gradient_service_pb2 as service
from gradwire.v1 import gradient_service_pb2_grpc
from gradwire.v1 import model_pb2, tensor_pb2

SLOWDOWN = float(os.environ.get("GRADWIRE_SLOWDOWN", "1"))
NAMES = {number: name for name, number in tensor_pb2.DataType.items()}


def message_classes(root, *protos):
    """Message classes of .proto files by full name, without generated modules."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "set")
        made = harness.run("protoc", f"-I{root}", "--include_imports", f"--descriptor_set_out={out}", *protos)
        if made.returncode != 0:
            raise AssertionError(made.stderr)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return lambda name: factory.GetPrototype(pool.FindMessageTypeByName(name))


_rpc = message_classes(harness.SOURCE / "proto", "google/rpc/status.proto", "google/rpc/error_details.proto")
Status = _rpc("google.rpc.Status")
ErrorInfo = _rpc("google.rpc.ErrorInfo")
BadRequest = _rpc("google.rpc.BadRequest")
RetryInfo = _rpc("google.rpc.RetryInfo")


class Failure:
    """Code, reason and violations of a failed call."""

    def __init__(self, error):
        self.code = error.code().name
        self.message = error.details() or ""
        self.reason = ""
        self.violations = {}
        self.retry = False
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        for any_ in Status.FromString(details).details if details else ():
            kind = any_.type_url.rsplit(".", 1)[-1]
            if kind == "ErrorInfo":
                info = ErrorInfo.FromString(any_.value)
                self.reason = info.reason if info.domain == "gradwire" else f"{info.domain}/{info.reason}"
            elif kind == "BadRequest":
                for violation in BadRequest.FromString(any_.value).field_violations:
                    self.violations[violation.field] = violation.description
            elif kind == "RetryInfo":
                self.retry = True

    def __repr__(self):
        return f"{self.code} {self.reason or '-'}: {self.message} {self.violations or ''}"


_CODES = {tensor_pb2.FLOAT: "f", tensor_pb2.DOUBLE: "d", tensor_pb2.INT32: "i",
          tensor_pb2.INT64: "q", tensor_pb2.BOOL: "?"}


def tensor(values, shape=None, data_type=tensor_pb2.DOUBLE):
    """A tensor with `data`: of a number (a scalar) or of a list (a vector, unless `shape` is given)."""
    flat = values if isinstance(values, (list, tuple)) else [values]
    if shape is None:
        shape = [len(flat)] if isinstance(values, (list, tuple)) else []
    return tensor_pb2.Tensor(data_type=data_type, shape=shape,
                             data=struct.pack(f"<{len(flat)}{_CODES[data_type]}", *flat))


def zeros(shape, data_type=tensor_pb2.DOUBLE):
    count = 1
    for extent in shape:
        count *= extent
    size = struct.calcsize("<" + _CODES[data_type])
    return tensor_pb2.Tensor(data_type=data_type, shape=shape, data=bytes(count * size))


def numbers(message):
    code = _CODES[message.data_type]
    return list(struct.unpack(f"<{len(message.data) // struct.calcsize('<' + code)}{code}", message.data))


def formula(text):
    return model_pb2.Model(expression=text)


def onnx_text(text):
    return model_pb2.Model(text=text)


def onnx_bytes(data):
    return model_pb2.Model(onnx=data)


def connect(address):
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    return channel, gradient_service_pb2_grpc.GradientServiceStub(channel)


def resident_bytes(pid, field="VmRSS"):
    """VmRSS (now) or VmHWM (at most, so far) of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} of {pid}")
