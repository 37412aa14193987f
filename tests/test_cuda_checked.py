"""The kernels again with every access checked: AddressSanitizer with UndefinedBehaviorSanitizer, the race check
(tests/cuda/race.h), and other orders of threads and blocks. All tests of single ops must pass in each; every day a slice of
them runs, a different one in each of the four."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BUILD, NIGHTLY, ON_GPU, ROOT, SLICE, needs_cuda

NEEDS = "peers standin"
pytestmark = [needs_cuda, pytest.mark.skipif(ON_GPU, reason="a matter of the stand-in")]

# Slow in a checked build, and they run the same code as their smaller siblings
SLOW = "not whole_picture and not lanes_in_parts and not no_lane and not large_tiles"
FILES = [f"tests/test_cuda_{name}.py" for name in ("ops", "products", "tangents", "tangent_ops", "tangent_attention")]
CHECKS = [("cuda-asan", "forward"), ("cuda-race", "forward"), ("cuda-race", "shuffled:3"), ("cuda", "backward")]


def run_ops(flavour, order):
    """All of the files or a slice of them, on one core."""
    env = {**os.environ, "ZOODIP_STANDIN_FLAVOUR": flavour, "ZOODIP_THREAD_ORDER": order, "OMP_NUM_THREADS": "1",
           "ZOODIP_ONE_OF": str(4 * len(CHECKS)), "ZOODIP_SLICE": str(SLICE + CHECKS.index((flavour, order)))}
    return subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", SLOW, *FILES], cwd=ROOT,
                          capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def begun(request):
    """Check -> future of its run; two of those asked for are under way at a time."""
    asked = [test.callspec.params for test in request.session.items if test.module is request.module]
    asked = [(params["flavour"], params["order"]) for params in asked]
    watched = sorted({f"{flavour}_op" for flavour, _ in asked} - {"cuda_op"})
    if watched:
        build = subprocess.run(["cmake", "--build", BUILD, "-j2", "--target", *watched], capture_output=True, text=True)
        assert build.returncode == 0, build.stderr[-2000:]
    with ThreadPoolExecutor(2) as pool:
        yield {check: pool.submit(run_ops, *check) for check in asked}


@pytest.mark.parametrize("flavour,order", CHECKS)
def test_every_op(begun, flavour, order):
    done = begun[flavour, order].result()
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > (200 if NIGHTLY else 25)
