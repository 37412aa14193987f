"""The kernels once more where every access is watched: AddressSanitizer with UndefinedBehaviorSanitizer, the race check
(tests/cuda/race.h), and threads and blocks that run in other orders. All of tests/test_cuda_ops.py must pass there."""
import os
import subprocess
import sys

import pytest

from conftest import BUILD, ON_GPU, ROOT, needs_cuda

NEEDS = "peers standin"
pytestmark = [needs_cuda, pytest.mark.skipif(ON_GPU, reason="a matter of the stand-in")]

# Slow in a watched build, and no other code than their smaller sisters run
SLOW = "not whole_picture and not in_parts and not no_lane"


@pytest.mark.parametrize("flavour,order", [("cuda", "backward"), ("cuda-asan", "forward"), ("cuda-race", "forward"),
                                           ("cuda-race", "shuffled:3")])
def test_every_op(flavour, order):
    if flavour != "cuda":
        build = subprocess.run(["cmake", "--build", BUILD, "-j2", "--target", f"{flavour}_op"], capture_output=True, text=True)
        assert build.returncode == 0, build.stderr[-2000:]
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", SLOW, "tests/test_cuda_ops.py"],
                          cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "ZOODIP_STANDIN_FLAVOUR": flavour, "ZOODIP_THREAD_ORDER": order})
    assert done.returncode == 0, done.stdout[-4000:]
