"""The script behind the peer table runs, and our own row says what docs/durability.md says."""

import subprocess
import sys
import unittest

from support import ROOT, need
from test_power import why_no_cuts


class Peers(unittest.TestCase):
    def test_our_row_is_right_in_every_column(self):
        need("power-cuts", why_no_cuts())
        words = [sys.executable, "-B", ROOT / "tools/peers/run", "--quick", "cargo xtask"]
        run = subprocess.run(words, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        row = run.stdout.splitlines()[-1]
        self.assertRegex(
            row,
            r"^\| cargo xtask \S+ \| offline right 2/2; online right 2/2 \| "
            r"(\d) sizes too small; then right \1/\1 \| refused \|$",
        )


if __name__ == "__main__":
    unittest.main()
