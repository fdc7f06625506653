"""docs/errors.md has a section for each reason, and its examples end as they say."""
import pathlib
import re
import shlex
import tempfile
import unittest

import grpc
import harness
from google.protobuf import json_format

STUBS = harness.generate_stubs()
from gradwire.v1 import gradient_service_pb2, gradient_service_pb2_grpc
from gradwire.v1 import graph_service_pb2, graph_service_pb2_grpc

SERVICES = {
    "GradientService": (gradient_service_pb2, gradient_service_pb2_grpc.GradientServiceStub),
    "GraphService": (graph_service_pb2, graph_service_pb2_grpc.GraphServiceStub),
}

PAGE = (harness.SOURCE / "docs/errors.md").read_text()
FENCE = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def sections():
    """Reason: text of its section."""
    parts = re.split(r"^## (\w+)\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


class ErrorsPageTest(harness.ServerTestCase):
    flags = ("--memory-limit-bytes=64MB", "--max-message-bytes=1MB", "--max-nodes=20")

    def test_each_reason_has_a_section_that_begins_with_its_code(self):
        self.assertEqual(list(sections()), list(harness.reasons()))
        for reason, code in harness.reasons().items():
            self.assertTrue(sections()[reason].startswith(code + ". "), reason)

    def test_examples_end_as_they_say(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for reason, text in sections().items():
            rpc = request = None
            for kind, title, body in FENCE.findall(text):
                if kind == "text":
                    pathlib.Path(folder.name, title).write_text(body)
                elif kind == "json":
                    rpc, request = title, body
                else:
                    with self.subTest(reason):
                        self.check_example(reason, body, rpc, request, folder.name)

    def check_example(self, reason, body, rpc, request, folder):
        if body.startswith("$ gradwire "):
            command, _, expected = body.partition("\n")
            words = [pathlib.Path(folder, word) if word.endswith(".onnxtxt") else word
                     for word in shlex.split(command)[2:]]
            result = self.gradwire(*words)
            self.assertEqual(result.returncode, 3, result.stderr)
            got = result.stderr
        else:
            expected, got = body, self.call(rpc, request)
        pattern = ".*".join(re.escape(part) for part in expected.split("..."))
        self.assertRegex(got, rf"\A{pattern}\Z")
        self.assertTrue(got.startswith(f"error: {reason}: "), got)

    def call(self, rpc, request):
        service, _, rpc = rpc.rpartition("/")
        messages, make_stub = SERVICES[service or "GradientService"]
        message = json_format.Parse(request, getattr(messages, rpc + "Request")())
        with grpc.insecure_channel(self.server.address) as channel:
            stub = make_stub(channel)
            with self.assertRaises(grpc.RpcError) as raised:
                getattr(stub, rpc)(message, timeout=30)
        return f"error: {harness.reason_of(raised.exception)}: {raised.exception.details()}\n"


if __name__ == "__main__":
    unittest.main()
