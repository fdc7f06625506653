"""The conventions at kinks are those that docs/numerics.md states."""
import re
import unittest

import harness

ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


class NumericsPageTest(harness.ServerTestCase):
    def test_kinks(self):
        rows = ROW.findall((harness.SOURCE / "docs/numerics.md").read_text())
        self.assertGreater(len(rows), 10)
        for formula, point, stated in rows:
            with self.subTest(formula, at=point):
                reply = self.gradwire_json("grad", formula, *point.split())
                expected = dict(part.split(": ") for part in stated.split(", "))
                got = {name: " ".join(map(str, map(self.number, tensor["data"])))
                       for name, tensor in reply["gradients"].items()}
                self.assertEqual(got, {name: " ".join(str(float(word)) for word in words.split())
                                       for name, words in expected.items()})

    @staticmethod
    def number(value):
        return float(value) + 0.0  # -0 reads as 0


if __name__ == "__main__":
    unittest.main()
