"""Every reader of files from outside, given what libFuzzer makes of sound files: it ends in success or in one line that names the
file. A second a target, a minute nightly; tests/fuzz/run.sh gives them longer."""
import re

import pytest

from conftest import NIGHTLY, ROOT, run

NEEDS = "fuzz"
FUZZ = ROOT / "tests" / "fuzz" / "run.sh"
TARGETS = re.search(r"^all='(.*)'$", FUZZ.read_text(), re.M).group(1).split()


@pytest.fixture(scope="module")
def fuzzed():
    return run(FUZZ, 1 if NIGHTLY else 0.01, check=False, timeout=1500)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(fuzzed, target):
    line = re.search(rf"^{target} +(\d+) inputs, +(\d+) places reached, nothing found$", fuzzed.stdout, re.M)
    assert line, fuzzed.stdout + fuzzed.stderr
    assert int(line[1]) > 30 and int(line[2]) > 50, line[0]  # more than the first inputs, and past the first check


def test_all_targets_are_run():
    named = re.findall(r'^    \{"(\w+)",', (ROOT / "tests/fuzz/fuzz.c").read_text(), re.M)
    assert sorted(named) == sorted(TARGETS)


@pytest.mark.parametrize("words, message", [([], "expected the minutes"), (["x"], "expected the minutes"), (["0"], "expected the minutes"),
                                            (["1", "gif"], "gif: no such target")])
def test_wrong_arguments_are_refused(words, message):
    done = run(FUZZ, *words, check=False)
    assert done.returncode == 2 and message in done.stderr
