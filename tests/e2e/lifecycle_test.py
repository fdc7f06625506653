"""How the server starts and ends."""
import array
import re
import time
import unittest

import grpc
import harness

STUBS = harness.generate_stubs()
from gradwire.v1 import gradient_service_pb2, gradient_service_pb2_grpc, model_pb2, tensor_pb2


def slow_request(extent=1000, products=12):
    ones = array.array("d", [1.0]) * (extent * extent)
    return gradient_service_pb2.EvaluateRequest(
        model=model_pb2.Model(expression="sum(" + "@".join(["a"] * (products + 1)) + ")"),
        inputs={"a": tensor_pb2.Tensor(data_type=tensor_pb2.DOUBLE, shape=[extent, extent],
                                       data=ones.tobytes())})


class LifecycleTest(unittest.TestCase):
    def test_sigterm_ends_an_idle_server_with_0(self):
        server = harness.Server()
        self.assertEqual(server.stop(), 0)

    def test_sigterm_lets_a_running_call_finish(self):
        # Under a sanitizer, on a busy machine, the call takes most of a minute.
        server = harness.Server("--drain-timeout=200")
        self.addCleanup(server.process.kill)
        with grpc.insecure_channel(server.address) as channel:
            stub = gradient_service_pb2_grpc.GradientServiceStub(channel)
            grpc.channel_ready_future(channel).result(timeout=30)
            # A fast machine is through in the time that a slow one needs to begin: so one call says how long.
            start = time.monotonic()
            stub.Evaluate(slow_request(), timeout=240)
            took = time.monotonic() - start
            call = stub.Evaluate.future(slow_request(), timeout=240)
            with self.assertRaises(grpc.FutureTimeoutError):
                call.result(timeout=took / 3)
            server.terminate()
            reply = call.result(timeout=240)
        self.assertIn("f", reply.outputs)
        self.assertEqual(server.wait(), 0)

    def test_refuses_an_address_beyond_loopback(self):
        result = harness.run(harness.BIN / "gradwire-server", "--listen=0.0.0.0:0")
        self.assertEqual(result.returncode, 2)
        self.assertIn("--allow-insecure", result.stderr)
        self.assertEqual(result.stdout, "")

    def test_listens_beyond_loopback_when_told_to(self):
        server = harness.Server("--listen=0.0.0.0:0", "--allow-insecure")
        self.assertRegex(server.address, r"0\.0\.0\.0:\d+")
        self.assertEqual(server.stop(), 0)

    def test_names_a_port_that_is_taken(self):
        server = harness.Server()
        self.addCleanup(server.stop)
        result = harness.run(harness.BIN / "gradwire-server", f"--listen={server.address}")
        self.assertNotEqual(result.returncode, 0)
        self.assertIn(server.address, result.stderr)


class LinkageTest(unittest.TestCase):
    def libraries(self, program):
        result = harness.run("ldd", harness.BIN / program)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_server_brings_no_interpreter_and_no_framework(self):
        self.assertIsNone(re.search("python|torch|onnxruntime", self.libraries("gradwire-server")))

    def test_client_does_without_the_engine(self):
        self.assertNotIn("libdnnl", self.libraries("gradwire"))


if __name__ == "__main__":
    unittest.main()
