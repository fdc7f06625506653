"""AnalyzeGraph says what a graph needs and costs, and everything that is in its way at once."""
import json
import pathlib
import tempfile
import unittest

import harness

UNSUPPORTED = """
<ir_version: 8, opset_import: ["" : 17, "lab" : 1]>
g (double[N] x) => (double f, double[N] unrelated) {
  a = NonMaxSuppression (x, x)
  b = Mul (a, x)
  c = lab.Secret (b)
  f = ReduceSum <keepdims = 0> (c)
  dead = lab.Dead (x)
  unrelated = Exp (x)
}
"""
SYMBOLIC = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x) => (float[N] f) <float[3] w = {1, 2, 3}> { f = MatMul (x, w) }
"""


class AnalyzeTest(harness.ServerTestCase):
    def analyze(self, text, *words, code=0):
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder, "model.onnxtxt")
            model.write_text(text)
            result = self.gradwire("analyze", "--model", model, *words, "--output=json")
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return json.loads(result.stdout)

    def test_a_formula_is_costed_without_being_run(self):
        a = self.gradwire_json("analyze", "x^2*y + y^3", "x=2", "y=3")
        self.assertTrue(a["computable"] and a["differentiable"])
        self.assertEqual(a["issues"], [])
        self.assertEqual([v["name"] for v in a["inputs"]], ["x", "y"])
        self.assertEqual(a["wrt"], ["x", "y"])
        self.assertEqual((a["gradient_cost"]["input_bytes"], a["gradient_cost"]["output_bytes"]), (16, 24))
        self.assertGreater(a["gradient_cost"]["flops"], a["value_cost"]["flops"])

    def test_costs_and_digests_are_those_of_the_call(self):
        words = ("sum(exp(x) * x)", "x=[1,2,3,4]")
        analysis = self.gradwire_json("analyze", *words)
        info = self.gradwire_json("grad", *words)["info"]
        self.assertTrue(info["cache_hit"])
        self.assertEqual(analysis["gradient_cost"]["flops"], info["flops"])
        self.assertEqual(analysis["gradient_cost"]["peak_bytes"], info["peak_bytes"])
        self.assertEqual((analysis["graph_digest"], analysis["plan_digest"]),
                         (info["graph_digest"], info["plan_digest"]))

    def test_every_unsupported_node_is_named_with_the_way_that_needs_it(self):
        a = self.analyze(UNSUPPORTED, code=1)
        self.assertFalse(a["computable"] or a["differentiable"])
        issues = {issue["where"]: issue for issue in a["issues"]}
        self.assertEqual(set(issues), {"node 0 (NonMaxSuppression)", "node 2 (Secret)", "node 4 (Dead)"})
        self.assertTrue(all(issue["reason"] == "UNSUPPORTED_OP" for issue in a["issues"]))
        self.assertEqual(issues["node 0 (NonMaxSuppression)"]["path"],
                         ["output f", "node 3 (ReduceSum)", "node 2 (Secret)", "node 1 (Mul)", "node 0 (NonMaxSuppression)"])
        self.assertEqual(issues["node 4 (Dead)"]["path"], [])
        self.assertEqual({o["name"]: o["supported"] for o in a["ops"]},
                         {"NonMaxSuppression": False, "Mul": True, "Secret": False, "ReduceSum": True, "Dead": False,
                          "Exp": True})
        self.assertEqual([v["name"] for v in a["outputs"]], ["f", "unrelated"])

    def test_without_inputs_shapes_stay_symbolic_and_nothing_is_costed(self):
        a = self.analyze(SYMBOLIC)
        self.assertEqual(a["inputs"], [{"name": "x", "data_type": "FLOAT", "shape": ["N", 3]}])
        self.assertEqual(a["parameters"], [{"name": "w", "data_type": "FLOAT", "shape": [3]}])
        self.assertEqual([i["reason"] for i in a["issues"]], ["MISSING_INPUT"])
        self.assertNotIn("value_cost", a)

    def test_a_value_that_is_no_scalar_is_analysed_as_a_vjp(self):
        a = self.analyze(SYMBOLIC, "x=[[1,2,3],[4,5,6]]")
        self.assertTrue(a["differentiable"])
        self.assertEqual(a["wrt"], ["w"])
        # f, its cotangent, the gradient.
        self.assertEqual(a["gradient_cost"]["output_bytes"], 2 * 4 + 3 * 4)

    def test_a_derivative_that_there_is_not_is_an_issue(self):
        result = self.gradwire("analyze", "x + 1", "x=[1,2]", "--wrt", "z", "--output=json")
        self.assertEqual(result.returncode, 1)
        a = json.loads(result.stdout)
        self.assertTrue(a["computable"])
        self.assertFalse(a["differentiable"])
        self.assertEqual(a["issues"][0]["reason"], "UNKNOWN_WRT")

    def test_what_is_no_graph_is_an_error(self):
        result = self.gradwire("analyze", "x +", "--output=json")
        self.assertEqual(result.returncode, 3)
        self.assertEqual(json.loads(result.stdout)["error"]["reason"], "INVALID_MODEL")

    def test_people_read_tables(self):
        result = self.gradwire("analyze", "x^2*y + y^3", "x=2", "y=3")
        self.assertEqual(result.returncode, 0, result.stderr)
        for part in ("input", "nodes", "gradient", "flops", "wrt"):
            self.assertIn(part, result.stdout)

    def test_a_long_chain_has_a_short_path(self):
        nodes = "\n".join(f"  v{i + 1} = Sin (v{i})" for i in range(20000))
        a = self.analyze(f'<ir_version: 8, opset_import: ["" : 17, "lab" : 1]> g (double x) => (double f) {{\n'
                         f"  v0 = lab.Secret (x)\n{nodes}\n  f = Exp (v20000)\n}}", code=1)
        path = a["issues"][0]["path"]
        self.assertEqual(len(path), 32)
        self.assertEqual((path[0], path[-1]), ("output f", "node 0 (Secret)"))
        self.assertTrue(any("nodes ..." in label for label in path))


if __name__ == "__main__":
    unittest.main()
