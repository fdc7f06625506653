"""Graphs are kept by name: once there, calls name them instead of sending them."""
import hashlib
import pathlib
import signal
import tempfile
import time
import unittest

import grpc
import harness

STUBS = harness.generate_stubs()
from gradwire.v1 import gradient_service_pb2 as gradient
from gradwire.v1 import gradient_service_pb2_grpc as gradient_grpc
from gradwire.v1 import graph_service_pb2 as graphs
from gradwire.v1 import graph_service_pb2_grpc as graphs_grpc
from gradwire.v1 import model_pb2, server_service_pb2, server_service_pb2_grpc

TEXT = '<ir_version: 8, opset_import: ["" : 17]> g (double x) => (double f) { f = Mul (x, x) }'


class Caller:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.graphs = graphs_grpc.GraphServiceStub(self.channel)
        self.gradients = gradient_grpc.GradientServiceStub(self.channel)
        self.server = server_service_pb2_grpc.ServerServiceStub(self.channel)

    def create(self, **fields):
        return self.graphs.CreateGraph(graphs.CreateGraphRequest(**fields), timeout=30)

    def get(self, name, view=graphs.BASIC):
        return self.graphs.GetGraph(graphs.GetGraphRequest(name=name, view=view), timeout=30)

    def delete(self, name, request_id=""):
        return self.graphs.DeleteGraph(graphs.DeleteGraphRequest(name=name, request_id=request_id), timeout=30)

    def names(self, **fields):
        return [g.name for g in self.graphs.ListGraphs(graphs.ListGraphsRequest(**fields), timeout=30).graphs]

    def gradient(self, name, x):
        request = gradient.ComputeGradientRequest(model=model_pb2.Model(graph=name))
        request.inputs["x"].values.append(x)
        request.options.readable = True
        return self.gradients.ComputeGradient(request, timeout=30).gradients["x"].values[0]


def formula(text):
    return model_pb2.Model(expression=text)


class GraphStoreTest(harness.ServerTestCase):
    def setUp(self):
        self.caller = Caller(self.server.address)
        self.addCleanup(self.caller.channel.close)

    def test_the_name_is_the_digest_of_the_content(self):
        for model, content in ((formula("x^3 + 1"), "x^3 + 1"), (model_pb2.Model(text=TEXT), TEXT)):
            kept = self.caller.create(model=model)
            self.assertEqual(kept.name, "graphs/" + hashlib.sha256(content.encode()).hexdigest())
            self.assertEqual(kept.bytes, len(content))

    def test_calls_take_the_name_for_the_model(self):
        kept = self.caller.create(model=formula("x^3 + 2"))
        self.assertEqual(self.caller.gradient(kept.name, 2), 12)
        self.assertEqual(self.caller.gradient(kept.name, 3), 27)

    def test_keeping_the_same_content_again_keeps_it_once(self):
        first = self.caller.create(model=formula("x^3 + 3"), display_name="first")
        again = self.caller.create(model=formula("x^3 + 3"), display_name="again")
        self.assertEqual(first, again)
        self.assertEqual(self.caller.names().count(first.name), 1)

    def test_the_basic_view_hides_the_model(self):
        kept = self.caller.create(model=model_pb2.Model(text=TEXT))
        self.assertFalse(self.caller.get(kept.name).HasField("model"))
        self.assertEqual(self.caller.get(kept.name, graphs.FULL).model.text, TEXT)

    def test_a_deleted_graph_is_gone_for_every_call(self):
        kept = self.caller.create(model=formula("x^3 + 4"))
        self.assertEqual(self.caller.gradient(kept.name, 1), 3)
        self.caller.delete(kept.name)
        self.refused("NOT_FOUND", self.caller.gradient, kept.name, 1)
        self.refused("NOT_FOUND", self.caller.get, kept.name)
        self.refused("NOT_FOUND", self.caller.delete, kept.name)
        self.assertNotIn(kept.name, self.caller.names())

    def test_pages_list_every_graph_once_newest_first(self):
        made = [self.caller.create(model=formula(f"x^3 + {i}.5")).name for i in range(7)]
        listed, token = [], ""
        while True:
            page = self.caller.graphs.ListGraphs(
                graphs.ListGraphsRequest(page_size=3, page_token=token), timeout=30)
            self.assertLessEqual(len(page.graphs), 3)
            listed += [g.name for g in page.graphs]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual([name for name in listed if name in made], made[::-1])
        self.assertEqual(len(listed), len(set(listed)))

    def test_a_graph_whose_time_has_passed_is_gone(self):
        request = graphs.CreateGraphRequest(model=formula("x^3 + 5"))
        request.ttl.seconds = 1
        name = self.caller.graphs.CreateGraph(request, timeout=30).name
        self.assertEqual(self.caller.gradient(name, 1), 3)
        time.sleep(2.1)
        self.refused("NOT_FOUND", self.caller.gradient, name, 1)

    def test_validation_keeps_nothing(self):
        name = self.caller.create(model=formula("x^3 + 6"), validate_only=True).name
        self.refused("NOT_FOUND", self.caller.get, name)

    def test_what_is_no_graph_is_not_kept(self):
        self.refused("INVALID_MODEL", self.caller.create, model=formula("x +"))
        self.refused("INVALID_MODEL", self.caller.create, model=model_pb2.Model(onnx=b"\x08garbage"))
        self.refused("INVALID_MODEL", self.caller.create)
        kept = self.caller.create(model=formula("x^3 + 7"))
        self.refused("INVALID_MODEL", self.caller.create, model=model_pb2.Model(graph=kept.name))
        self.refused("INVALID_SPEC", self.caller.create, model=formula("x"), display_name="n" * 257)

    def test_names_lead_nowhere_but_to_graphs(self):
        for name in ("", "graphs/", "graphs/../state.db", "graphs/" + "A" * 64, "graphs/" + "0" * 64, "/etc/passwd",
                     "graphs/" + "0" * 63 + "\0", "x" * 100000):
            self.refused("NOT_FOUND", self.caller.get, name)
            self.refused("NOT_FOUND", self.caller.gradient, name, 1)

    def derive(self, model, kind="GRADIENT", x=2.0, **fields):
        request = graphs.CreateGraphRequest()
        request.derivative_of.CopyFrom(graphs.DerivativeOf(model=model, kind=kind, **fields))
        request.derivative_of.inputs["x"].values.append(x)
        return self.caller.graphs.CreateGraph(request, timeout=30).name

    def outputs(self, name, **inputs):
        request = gradient.EvaluateRequest(model=model_pb2.Model(graph=name))
        for key, value in inputs.items():
            request.inputs[key.replace("__", ".")].values.append(value)
        request.options.readable = True
        reply = self.caller.gradients.Evaluate(request, timeout=30)
        return {key: tensor.values[0] for key, tensor in reply.outputs.items()}

    def test_a_third_derivative_by_three_calls(self):
        first = self.derive(formula("x^5"))
        self.assertEqual(self.outputs(first, x=2), {"f": 32, "gradient.x": 80})
        second = self.derive(model_pb2.Model(graph=first), output="gradient.x", wrt=["x"])
        self.assertEqual(self.outputs(second, x=2), {"gradient.x": 80, "gradient.x_": 160})
        third = self.derive(model_pb2.Model(graph=second), output="gradient.x_", wrt=["x"])
        self.assertEqual(self.outputs(third, x=2), {"gradient.x_": 160, "gradient.x": 240})

    def test_derivatives_of_each_kind_are_graphs(self):
        cube = formula("x^3")
        self.assertEqual(self.outputs(self.derive(cube, "VJP"), x=2, cotangent__f=10), {"f": 8, "gradient.x": 120})
        self.assertEqual(self.outputs(self.derive(cube, "JVP", wrt=["x"]), x=2, tangent__x=10), {"f": 8, "tangent.f": 120})
        self.assertEqual(self.outputs(self.derive(cube, "HVP"), x=2, tangent__x=10),
                         {"f": 8, "gradient.x": 12, "tangent.gradient.x": 120})

    def test_a_derivative_that_there_is_not_is_refused(self):
        self.refused("INVALID_SPEC", self.derive, formula("x^3"), "KIND_UNSPECIFIED")
        self.refused("UNKNOWN_WRT", self.derive, formula("x^3"), wrt=["z"])
        self.refused("UNSUPPORTED_OP", self.derive, model_pb2.Model(text=
            '<ir_version: 8, opset_import: ["" : 17]> g (double x) => (double f) '
            '{ r = Constant <value_float: float = 0.5> () t = Constant <value = bool {1}> () f = Dropout (x, r, t) }'))

    def test_a_call_sent_again_has_one_effect_and_the_same_answer(self):
        request = dict(model=formula("x^3 + 8"), request_id="create-8")
        first = self.caller.create(**request)
        self.caller.delete(first.name, "delete-8")
        # A late repetition of the first call does not undo what came after it.
        self.assertEqual(self.caller.create(**request), first)
        self.refused("NOT_FOUND", self.caller.get, first.name)
        self.caller.delete(first.name, "delete-8")
        self.refused("REQUEST_ID_REUSED", self.caller.create, model=formula("x^3 + 9"), request_id="create-8")
        self.refused("REQUEST_ID_REUSED", self.caller.delete, first.name, "create-8")


class DataDirectoryTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self):
        server = harness.Server(f"--data-dir={self.folder}/data")
        self.addCleanup(server.process.kill)
        caller = Caller(server.address)
        self.addCleanup(caller.channel.close)
        return server, caller

    def kill(self, server):
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.process.stdout.close()

    def test_what_was_acknowledged_survives_kill_9(self):
        server, caller = self.start()
        self.assertEqual(caller.server.GetCapabilities(server_service_pb2.GetCapabilitiesRequest()).durability,
                         server_service_pb2.ON_DISK)
        request = dict(model=formula("x^3"), request_id="one")
        kept = caller.create(**request)
        self.kill(server)
        server, caller = self.start()
        self.assertEqual(caller.get(kept.name), kept)
        self.assertEqual(caller.gradient(kept.name, 2), 12)
        self.assertEqual(caller.create(**request), kept)
        self.assertEqual(server.stop(), 0)

    def test_two_servers_never_share_a_data_directory(self):
        server, _ = self.start()
        second = harness.run(harness.BIN / "gradwire-server", "--listen=127.0.0.1:0", f"--data-dir={self.folder}/data")
        self.assertEqual(second.returncode, 2)
        self.assertIn("another server uses this data directory", second.stderr)
        self.assertEqual(server.stop(), 0)

    def test_a_damaged_file_is_told_not_used(self):
        server, caller = self.start()
        kept = caller.create(model=formula("x^3"))
        self.assertEqual(server.stop(), 0)
        digest = kept.name.partition("/")[2]
        path = pathlib.Path(self.folder, "data/blobs", digest[:2], digest)
        path.write_bytes(b"x^4")
        server, caller = self.start()
        with self.assertRaises(grpc.RpcError) as raised:
            caller.gradient(kept.name, 2)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DATA_LOSS)
        self.assertEqual(harness.reason_of(raised.exception), "CORRUPT_DATA")
        # Sent again, it is whole again.
        caller.create(model=formula("x^3"))
        self.assertEqual(caller.gradient(kept.name, 2), 12)
        self.assertEqual(server.stop(), 0)

    def test_a_data_directory_that_cannot_be_made_is_an_error_at_start(self):
        blocker = pathlib.Path(self.folder, "file")
        blocker.write_text("")
        run = harness.run(harness.BIN / "gradwire-server", "--listen=127.0.0.1:0", f"--data-dir={blocker}/data")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("file/data", run.stderr)


if __name__ == "__main__":
    unittest.main()
