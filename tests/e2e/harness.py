"""What the end-to-end tests share: they drive the built programs over a real port.

The environment says where things are: GRADWIRE_BIN (folder of the programs), GRADWIRE_SOURCE (the
checkout). A test is a script of unittest classes:

    class SeedTest(harness.ServerTestCase):
        def test_gradient(self):
            reply = self.gradwire_json("grad", "x^2*y + y^3", "x=2", "y=3")
"""
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BIN = pathlib.Path(os.environ["GRADWIRE_BIN"])
SOURCE = pathlib.Path(os.environ["GRADWIRE_SOURCE"])
READY_SECONDS = 60
EXIT_SECONDS = 60


def environment(**extra):
    """The caller's, without the settings of servers and clients."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GRADWIRE_")}
    # Tests share the processors: teams that spin while they wait keep each other's servers from starting.
    kept.setdefault("OMP_WAIT_POLICY", "passive")
    return {**kept, **extra}


class Server:
    """A gradwire-server on a free port, ready once the constructor returns.

    Server("--data-dir=d", GRADWIRE_FAILPOINTS="blob.rename=kill@3")
    """

    PREFIX = "gradwire-server listening on "

    def __init__(self, *flags, stderr=None, **extra_environment):
        self.process = subprocess.Popen(
            [BIN / "gradwire-server", "--listen=127.0.0.1:0", "--log-level=warning", *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True,
            env=environment(**extra_environment))
        ready, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith(self.PREFIX):
            ended = self.process.poll()
            self.process.kill()
            raise AssertionError(f"no ready line, but {line!r}; the server ended with {ended}")
        self.address = line[len(self.PREFIX):].strip()

    def kill(self):
        """As a power cut."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """The exit status."""
        try:
            return self.process.wait(EXIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def stop(self):
        self.terminate()
        return self.wait()


def run(*command, **extra_environment):
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, timeout=120,
                          capture_output=True, text=True, env=environment(**extra_environment))


def reason_of(error):
    """The reason that an RpcError carries; "" for none."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return next((name for name in reasons() if name.encode() in details), "")


def reasons():
    """Reason: status code, from the table in status.cc."""
    table = (SOURCE / "engine/base/status.cc").read_text()
    rows = re.findall(r'\{Reason::k\w+,\s*"(\w+)",\s*StatusCode::k(\w+)\}', table)
    return {name: re.sub(r"(?<!^)(?=[A-Z])", "_", code).upper() for name, code in rows}


def read_safetensors(file):
    """{name: (dtype, shape, bytes)}."""
    size = int.from_bytes(file[:8], "little")
    header, body = json.loads(file[8:8 + size]), file[8 + size:]
    return {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])])
            for name, t in header.items() if name != "__metadata__"}


def generate_stubs():
    """Python stubs of the service in a temporary folder, which joins sys.path. Keep the result."""
    folder = tempfile.TemporaryDirectory()
    plugin = run("which", "grpc_python_plugin").stdout.strip()
    protos = sorted(p.relative_to(SOURCE / "proto") for p in (SOURCE / "proto/gradwire").rglob("*.proto"))
    made = run("protoc", f"-I{SOURCE}/proto", f"--python_out={folder.name}", f"--grpc_out={folder.name}",
               f"--plugin=protoc-gen-grpc={plugin}", *protos)
    if made.returncode != 0:
        raise AssertionError(made.stderr)
    sys.path.insert(0, folder.name)
    return folder


class ServerTestCase(unittest.TestCase):
    """Tests that share one server, which must end with 0."""

    flags = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.flags)

    @classmethod
    def tearDownClass(cls):
        status = cls.server.stop()
        if status != 0:
            raise AssertionError(f"the server ended {status}")

    def gradwire(self, *arguments):
        return run(BIN / "gradwire", *arguments, GRADWIRE_SERVER=self.server.address)

    def gradwire_json(self, *arguments):
        result = self.gradwire(*arguments, "--output=json")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        return json.loads(result.stdout)

    def refused(self, reason, call, *arguments, **fields):
        """The call fails with the reason; its message."""
        import grpc
        with self.assertRaises(grpc.RpcError) as raised:
            call(*arguments, **fields)
        self.assertEqual(reason_of(raised.exception), reason, raised.exception.details())
        return raised.exception.details()


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("waited too long")
        time.sleep(0.01)
