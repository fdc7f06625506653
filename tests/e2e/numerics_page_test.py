"""The conventions at kinks are those that docs/numerics.md states."""
import pathlib
import re
import tempfile
import unittest

import harness

ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
NODE = re.compile(r"[A-Z]\w* <.*> \(x\)")
NODE_MODEL = """<ir_version: 8, opset_import: ["": 18]>
node (double[N, C, L] x) => (double f) {
  y = %s
  f = ReduceSum <keepdims = 0> (y)
}
"""


class NumericsPageTest(harness.ServerTestCase):
    def test_kinks(self):
        rows = ROW.findall((harness.SOURCE / "docs/numerics.md").read_text())
        self.assertGreater(len(rows), 10)
        for formula, point, stated in rows:
            with self.subTest(formula, at=point):
                reply = self.gradient(formula, point.split())
                expected = dict(part.split(": ") for part in stated.split(", "))
                got = {name: " ".join(map(str, map(self.number, tensor["data"])))
                       for name, tensor in reply["gradients"].items()}
                self.assertEqual(got, {name: " ".join(str(float(word)) for word in words.split())
                                       for name, words in expected.items()})

    def gradient(self, formula, point):
        """The answer for a formula, or for the sum of what an ONNX node of x gives."""
        if not NODE.fullmatch(formula):
            return self.gradwire_json("grad", formula, *point)
        with tempfile.TemporaryDirectory() as folder:
            model = pathlib.Path(folder) / "node.onnxtxt"
            model.write_text(NODE_MODEL % formula)
            return self.gradwire_json("grad", "--model", model, *point)

    @staticmethod
    def number(value):
        return float(value) + 0.0  # -0 reads as 0


if __name__ == "__main__":
    unittest.main()
