"""`cargo xtask lint` on a clone with one seeded defect a linter: those that need wheels, Go modules or crates.

The linters that need no download are tried in `xtask/crates/conductor/tests/it/lint.rs`.
"""

import subprocess
import unittest

from support import checkout, first_build, tell, xtask

# Linter -> file, what is appended to it, and a word of the finding.
DEFECTS = {
    "go-mod-tidy": ("tests/fixture/service/go.mod", "\nrequire golang.org/x/mod v0.41.0\n", "golang.org/x/mod v0.41.0"),
    "gofmt": ("src/semantic-router/cmd/main.go", "\nfunc  unformatted() {}\n", "+func unformatted() {}"),
    "locks": ("xtask.toml", '\n[wheel-set.forgotten]\nprojects = ["six==1.17.0"]\n', "six==1.17.0 is wanted"),
    "python": ("tests/support.py", "\nimport json\n", "F811"),
    "shell": ("scripts/entrypoint.sh", "\nrm $UNQUOTED/*\n", "SC2086"),
    "spelling": ("README.md", "\nThis is teh end.\n", "teh ==> the"),
    "staticcheck": ("src/semantic-router/cmd/main.go", "\nfunc unused() {}\n", "func unused is unused (U1000)"),
    "vet": (
        "candle-binding/types.go",
        "\nfunc unreachable() int {\n\treturn 1\n\treturn 2\n}\n",
        "unreachable code",
    ),
    "yaml": ("config/config.yaml", "\nlisteners: {   }\n", "too many spaces"),
}


class Lint(unittest.TestCase):
    def test_each_linter_finds_its_defect_and_rewrites_nothing(self):
        first = first_build()
        repo = checkout("lint")
        place = {"sandbox": first.sandbox}
        clean = xtask(first.checkout, "lint", *DEFECTS, "--repo", repo, **place)
        self.assertEqual(clean.exit_code, 0, clean)
        self.assertEqual({it["name"]: it["outcome"] for it in outcomes(clean)}, dict.fromkeys(sorted(DEFECTS), "ok"))
        for path, text, _ in DEFECTS.values():
            with (repo / path).open("a") as file:
                file.write(text)
        seeded = difference(repo)
        dirty = xtask(first.checkout, "lint", *DEFECTS, "--repo", repo, **place)
        self.assertEqual(dirty.exit_code, 9, dirty)
        told = {it["name"]: it for it in outcomes(dirty)}
        for linter, (_, _, finding) in DEFECTS.items():
            with self.subTest(linter=linter):
                self.assertEqual(told[linter]["outcome"], "FAILED")
                self.assertIn(finding, told[linter]["message"])
        self.assertEqual(difference(repo), seeded)
        tell(f"{len(DEFECTS)} linters: {clean.seconds:.0f} s when clean, {dirty.seconds:.0f} s with a defect each")


def outcomes(run) -> list[dict]:
    return [it for it in run.of("linter") if "outcome" in it]


def difference(repo) -> str:
    """Everything in which a clone differs from its commit."""
    commands = (["git", "status", "--porcelain"], ["git", "diff"])
    return "".join(subprocess.run(it, cwd=repo, check=True, capture_output=True, text=True).stdout for it in commands)
