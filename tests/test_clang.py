"""The second compiler: clang builds everything without a warning, and clang-format would change no source."""
import re
import shutil

import pytest

from conftest import ROOT, run
from test_house import SOURCES

NEEDS = "clang"


def test_clang_builds_it_all_too():
    """launch/setup.sh --tests=clang builds build-clang with the same flags, -Werror among them."""
    if not (ROOT / "build-clang" / "CMakeCache.txt").exists():
        pytest.skip("no build-clang; tests/run.sh makes it")
    cache = (ROOT / "build-clang" / "CMakeCache.txt").read_text()
    assert re.search(r"CMAKE_C_COMPILER:\w+=.*clang", cache) and "ZOODIP_WERROR:BOOL=ON" in cache
    assert re.search(r"zoodip \d", run(ROOT / "build-clang" / "zoodip", "--version").stdout)


@pytest.mark.skipif(not shutil.which("clang-format"), reason="clang-format is not installed")
def test_sources_are_formatted():
    done = run("clang-format", "--dry-run", "-Werror", *SOURCES, check=False)
    assert done.returncode == 0, "\n".join(sorted(set(re.findall(r"^[^:\s]+\.(?:c|h|cu|cpp)", done.stderr, re.M))))
