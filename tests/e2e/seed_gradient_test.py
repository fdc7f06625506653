"""The main job: a graph goes in over a port, its derivatives come out."""
import json
import math
import pathlib
import tempfile
import unittest

import harness

SEED = """
<ir_version: 8, opset_import: ["" : 17]>
seed (double x, double y) => (double f) {
  three = Constant <value = double {3.0}> ()
  xx = Mul (x, x)
  xxy = Mul (xx, y)
  yyy = Pow (y, three)
  f = Add (xxy, yyy)
}
"""


class SeedGradientTest(harness.ServerTestCase):
    def test_gradient_of_a_formula_is_exact(self):
        reply = self.gradwire_json("grad", "x^2*y + y^3", "x=-1.5", "y=0.25")
        self.assertEqual(reply["value"], {"dtype": "DOUBLE", "shape": [], "data": [0.578125]})
        self.assertEqual(reply["gradients"]["x"]["data"], [-0.75])
        self.assertEqual(reply["gradients"]["y"]["data"], [2.4375])

    def test_people_read_aligned_text(self):
        result = self.gradwire("grad", "x^2*y + y^3", "x=2", "y=3")
        self.assertEqual(result.returncode, 0, result.stderr)
        for line in ("f = 39", "df/dx = 12", "df/dy = 31"):
            self.assertIn(line.split(), [printed.split() for printed in result.stdout.splitlines()])

    def test_gradient_of_a_text_model(self):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, "seed.onnxtxt")
            model.write_text(SEED)
            reply = self.gradwire_json("grad", "--model", model, "x=2", "y=3")
        self.assertEqual(reply["value"]["data"], [39])
        self.assertEqual(reply["gradients"]["x"]["data"], [12])
        self.assertEqual(reply["gradients"]["y"]["data"], [31])

    def test_a_loss_by_name_is_differentiated_on_top_of_the_output(self):
        reply = self.gradwire_json("grad", "y = w*x + b", "w=2", "x=[3,5]", "b=1", "target=[1,2]", "--loss", "mse",
                                   "--wrt", "w,b")
        self.assertEqual(reply["value"]["data"], [(36 + 81) / 2])
        self.assertEqual(reply["gradients"]["w"]["data"], [6 * 3 + 9 * 5])
        self.assertEqual(reply["gradients"]["b"]["data"], [6 + 9])
        reply = self.gradwire_json("hvp", "w*x", "w=2", "x=3", "target=1", "--loss", "huber", "--loss-setting",
                                   "delta=10", "--wrt", "w", "--vector", "w=1")
        self.assertEqual(reply["value"]["data"], [12.5])
        self.assertEqual(reply["products"][0]["w"]["data"], [9])

    def test_a_loss_given_as_a_formula_reads_values_of_the_model(self):
        reply = self.gradwire_json("grad", "u = w*w; v = u + 1; return u, v", "w=3", "t=5", "--loss-formula",
                                   "(u*v - t)^2", "--wrt", "w")
        self.assertEqual(reply["value"]["data"], [85 * 85])
        self.assertEqual(reply["gradients"]["w"]["data"], [2 * 85 * (4 * 27 + 6)])
        result = self.gradwire("grad", "w*x", "w=2", "x=3", "--loss", "msee", "target=1")
        self.assertEqual(result.returncode, 3)
        self.assertIn("softmax_cross_entropy", result.stderr)

    def test_names_of_one_vector_may_be_given_apart(self):
        reply = self.gradwire_json("hvp", "(1-x)^2 + 100*(y-x^2)^2", "x=1", "y=2",
                                   "--vector", "x=1", "--vector", "y=0")
        self.assertEqual(len(reply["products"]), 1)
        self.assertEqual(reply["products"][0]["x"]["data"], [402])
        self.assertEqual(reply["products"][0]["y"]["data"], [-400])

    def test_a_name_given_again_begins_the_next_vector(self):
        reply = self.gradwire_json("hvp", "x^3 + x*y", "x=2", "y=5", "--vector", "x=1",
                                   "--vector", "y=1", "--vector", "x=2")
        self.assertEqual([p["x"]["data"] for p in reply["products"]], [[13], [24]])
        self.assertEqual([p["y"]["data"] for p in reply["products"]], [[1], [2]])

    def test_forward_and_reverse_mode_agree(self):
        vjp = self.gradwire_json("vjp", "sin(x)*y", "x=[1,2]", "y=[3,4]", "--cotangent", "f=[1,1]")
        jvp = self.gradwire_json("jvp", "sin(x)*y", "x=[1,2]", "y=[3,4]", "--tangent", "x=[1,1]")
        expected = [3 * math.cos(1), 4 * math.cos(2)]
        for got in (vjp["gradients"][0]["x"]["data"], jvp["tangents"][0]["f"]["data"]):
            for value, right in zip(got, expected):
                self.assertAlmostEqual(value, right, delta=1e-15 * 8)

    def test_a_steep_composition_is_accurate(self):
        reply = self.gradwire_json("grad", "exp(sin(1000*x))", "x=0.5")
        right = 1000 * math.cos(500) * math.exp(math.sin(500))
        self.assertLess(abs(reply["gradients"]["x"]["data"][0] / right - 1), 1e-12)

    def test_an_error_has_its_reason_and_exit_code(self):
        result = self.gradwire("grad", "x^2*z", "x=2", "--output=json")
        self.assertEqual(result.returncode, 3, result.stdout + result.stderr)
        error = json.loads(result.stdout or result.stderr)["error"]
        self.assertEqual((error["code"], error["reason"]), ("INVALID_ARGUMENT", "MISSING_INPUT"))


if __name__ == "__main__":
    unittest.main()
