#!/usr/bin/env python3
"""Shows that these tests can fail: takes one safeguard at a time out of a copy of the checkout and runs its tests.

    python3 tests/faults/mutants.py [NAME…]

Not part of any suite: each mutant compiles the tool anew. Ends with 1 if the tests stay green without a safeguard, or
are red with all of them.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "xtask/crates/conductor/src"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    """What stands in the file exactly once, and what stands there instead."""
    test: str


MUTANTS = [
    Mutant(
        "fsync removed",
        "files.rs",
        (
            ("            file.sync_all()\n", "            Ok(())\n"),
            ("    File::open(folder)?.sync_all()\n", "    File::open(folder).map(drop)\n"),
        ),
        "test_power.PowerCuts.test_what_was_reported_as_done_survives_a_cut_right_after",
    ),
    Mutant(
        "verify skipped",
        "cache/store.rs",
        (("if !regular || !stats.digest(&file).is_ok_and(|digest| digest == output.digest) {", "if !regular {"),),
        "test_verify.Verify.test_every_damage_to_every_object_is_noticed_set_aside_and_made_good",
    ),
    Mutant(
        "lock removed",
        "cache/lock.rs",
        (("Mode::Exclusive => file.try_lock(),", "Mode::Exclusive => Ok(()),"),),
        "test_parallel.Crowd.test_sixteen_at_once_make_each_key_once",
    ),
    Mutant(
        "written in place",
        "files.rs",
        (
            ("Temporary(temporary_beside(&folder.join(name)))", "Temporary(folder.join(name))"),
            (
                ".create_new(true).mode(0o600).open(&temporary.0)",
                ".create(true).truncate(true).mode(0o600).open(&temporary.0)",
            ),
            ("        let _ = fs::remove_file(&self.0);\n", ""),
        ),
        "test_kill.Kill.test_publish_killed_at_every_call",
    ),
]


def main() -> int:
    chosen = [it for it in MUTANTS if not sys.argv[1:] or it.name in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="xtask-mutants-") as name:
        copy = Path(name) / "copy"
        subprocess.run(["git", "clone", "--quiet", ROOT, copy], check=True)
        # Only the tool's own crates are compiled again.
        for warm in ("target/debug", "target/xtask/tool", "target/xtask/test/faults"):
            if (ROOT / warm).is_dir():
                shutil.copytree(ROOT / warm, copy / warm, symlinks=True)
        wrong = [it.name for it in chosen if not is_told_apart(it, copy)]
    print(f"mutants: {len(chosen) - len(wrong)} of {len(chosen)} noticed" + "".join(f"; not: {name}" for name in wrong))
    return 1 if wrong else 0


def is_told_apart(mutant: Mutant, copy: Path) -> bool:
    source = copy / SOURCES / mutant.file
    sound = source.read_text()
    with_it = passes(mutant.test, copy)
    text = sound
    for old, new in mutant.edits:
        if text.count(old) != 1:
            raise SystemExit(f"{mutant.name}: {mutant.file} has {text.count(old)} times: {old}")
        text = text.replace(old, new)
    source.write_text(text)
    without, said = passes(mutant.test, copy), LAST[-1]
    source.write_text(sound)
    shown = lambda passed: "green" if passed else "red"  # noqa: E731
    print(f"{mutant.name}: {shown(with_it)} with it, {shown(without)} without: {said}", flush=True)
    return with_it and not without


LAST: list[str] = []
"""The first failure of each run, in a line."""


def passes(test: str, copy: Path) -> bool:
    words = [sys.executable, "-B", "-m", "unittest", "-f", test]
    run = subprocess.run(words, cwd=copy / "tests/faults", capture_output=True, text=True)
    failures = [line for line in run.stderr.splitlines() if "Error:" in line]
    LAST.append(failures[0][:200] if failures else run.stderr.splitlines()[-1])
    return run.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
