"""The first things that a newcomer runs: the example of the README, and the trained digits."""
import re
import unittest

import harness


class NewcomerTest(harness.ServerTestCase):
    def run_example(self, program, *arguments):
        return harness.run(harness.BIN / program, *arguments, GRADWIRE_SERVER=self.server.address)

    def test_first_gradient_stands_in_the_readme(self):
        code = (harness.SOURCE / "examples/first_gradient.cc").read_text()
        readme = (harness.SOURCE / "README.md").read_text()
        shown = re.search(r"<!-- first_gradient begin -->\n```cpp\n(.*?)```\n"
                          r"<!-- first_gradient end -->", readme, re.DOTALL)
        self.assertIsNotNone(shown, "the README has no example between its markers")
        self.assertEqual(shown.group(1), code)

    def test_first_gradient_runs(self):
        result = self.run_example("first_gradient")
        self.assertEqual(result.returncode, 0, result.stderr)
        for number in ("39", "12", "31"):
            self.assertRegex(result.stdout, rf"\b{number}\b")

    def test_digits_are_learnt(self):
        result = self.run_example("digits_train", f"--folder={harness.SOURCE}/examples/digits",
                                  "--steps=500", "--at-least=95")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", result.stdout)]
        self.assertEqual(len(losses), 10)
        self.assertEqual(losses, sorted(losses, reverse=True))


if __name__ == "__main__":
    unittest.main()
