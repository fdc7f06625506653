"""The main job: a graph goes in over a port, its derivatives come out."""
import json
import math
import pathlib
import tempfile
import unittest

import numpy as np

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

    def test_a_check_tells_right_from_kinks(self):
        shown = self.gradwire("check", "x^2*y + y^3", "x=2", "y=3")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("The derivatives agree.", shown.stdout)
        reply = self.gradwire_json("check", "sum(relu(x)) + y", "x=[0,1,2]", "y=3")
        self.assertEqual([(c["wrt"], c["verdict"], c["coordinates"]) for c in reply["checks"]],
                         [("x", "KINK", [0]), ("y", "AGREES", [])])
        self.assertLess(reply["second_order_error"], 1e-9)

    def test_many_points_go_in_one_call(self):
        reply = self.gradwire_json("grad", "x^2*y", "x=[1,2,3]", "y=5", "--batch", "x", "--wrt", "x")
        self.assertEqual(reply["value"]["data"], [5, 20, 45])
        self.assertEqual(reply["gradients"]["x"]["data"], [10, 20, 30])

    def test_the_hessian_of_rosenbrock_is_a_table_of_exact_numbers(self):
        shown = self.gradwire("hessian", "(1-x)^2 + 100*(y-x^2)^2", "x=-1.5", "y=0.25").stdout
        self.assertIn("H = [[2602,  600],\n         [ 600,  200]]", shown)
        self.assertIn("rows of H: x, y\n", shown)
        reply = self.gradwire_json("hessian", "(1-x)^2 + 100*(y-x^2)^2", "x=-1.5", "y=0.25")
        self.assertEqual([(h["row"], h["column"], h["hessian"]["data"]) for h in reply["hessians"]],
                         [("x", "x", [2602]), ("x", "y", [600]), ("y", "x", [600]), ("y", "y", [200])])

    def test_jacobians_are_one_matrix_for_people_and_blocks_for_programs(self):
        shown = self.gradwire("jacobian", "u = x^2 * y; v = x; return u, v", "x=[1,2]", "y=3").stdout
        self.assertIn("J = [[ 6,  0,  1],\n     [ 0, 12,  4],\n     [ 1,  0,  0],\n     [ 0,  1,  0]]", shown)
        self.assertIn("rows of J: u[2], v[2]\ncolumns: x[2], y\n", shown)
        reply = self.gradwire_json("jacobian", "sum(x^2)", "x=[1,2]", "--direction", "forward")
        self.assertEqual([(j["output"], j["wrt"], j["jacobian"]["data"]) for j in reply["jacobians"]],
                         [("f", "x", [2, 4])])

    # Second derivatives by hand, in f64.
    def test_hessians_agree_with_closed_forms(self):
        def hessian(formula, wrt, *inputs):
            data = self.gradwire_json("hessian", formula, *inputs, "--wrt", wrt)["hessians"][0]["hessian"]
            return np.array(data["data"]).reshape(data["shape"])

        def text(array):
            return json.dumps(np.asarray(array).tolist())

        rng = np.random.default_rng(3)
        x, a = rng.normal(size=4), rng.normal(size=(4, 4))
        got = hessian("sum(x * (a @ x))", "x", f"x={text(x)}", f"a={text(a)}")
        np.testing.assert_allclose(got, a + a.T, rtol=1e-12, atol=1e-12)
        p = np.exp(x) / np.exp(x).sum()
        np.testing.assert_allclose(hessian("logsumexp(x)", "x", f"x={text(x)}"), np.diag(p) - np.outer(p, p),
                                   rtol=1e-12, atol=1e-12)
        rows, t = rng.normal(size=(20, 4)), rng.integers(0, 2, 20)
        s = 1 / (1 + np.exp(-rows @ x))
        fisher = rows.T @ np.diag(s * (1 - s)) @ rows
        got = hessian("sum(softplus(r @ w) - t * (r @ w))", "w", f"w={text(x)}", f"r={text(rows)}",
                      f"t={text(t.astype(float))}")
        np.testing.assert_allclose(got, fisher, rtol=1e-12, atol=1e-12)

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
