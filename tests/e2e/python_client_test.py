"""A client author needs nothing but the .proto: python_client.py is 30 lines."""
import unittest

import grpc
import harness

STUBS = harness.generate_stubs()
from python_client import Client, vector


class PythonClientTest(harness.ServerTestCase):
    def setUp(self):
        self.client = Client(self.server.address)

    def test_gradient(self):
        value, gradients = self.client.gradient("sum(x^2*y + y^3)", x=vector(2, 0), y=vector(3, 1))
        self.assertEqual(value, 40)
        self.assertEqual(gradients, {"x": (12, 0), "y": (31, 3)})

    def test_two_cotangents(self):
        gradients = self.client.vjp("x^2", [{"f": vector(1, 0)}, {"f": vector(0, 2)}],
                                    x=vector(3, 4))
        self.assertEqual(gradients, [{"x": (6, 0)}, {"x": (0, 16)}])

    def test_an_error_says_what_and_why(self):
        with self.assertRaises(grpc.RpcError) as raised:
            self.client.gradient("x*(", x=vector(1))
        error = raised.exception
        self.assertEqual(error.code(), grpc.StatusCode.INVALID_ARGUMENT)
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        self.assertIn(b"INVALID_MODEL", details)
        self.assertIn(b"gradwire", details)


if __name__ == "__main__":
    unittest.main()
