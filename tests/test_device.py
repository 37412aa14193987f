"""Promises of the device and its threads that need no reference package: each is a check of the helper `device`."""


import pytest

from conftest import program, run

QUICK = True
CHECKS = {
    "arena": "tensors that live at the same time never share memory",
    "reuse": "a dropped tensor's memory is taken again",
    "gaps": "no room is left between tensors if another order leaves none",
    "many": "hundreds of thousands of tensors find their places within the minute that a check may take",
    "deviation": "a body that takes other tensors than in the dry pass is an error",
    "outside": "a tensor cannot be taken outside a program",
    "first-error": "the first error is kept until the wait, then forgotten",
    "kinds": "an unknown device is the user's mistake",
    "store": "weights that another rank packed are used as they are",
    "pool": "every task of every job runs once",
    "threads": "OMP_NUM_THREADS decides, else the cores",
}


@pytest.mark.parametrize("check", CHECKS, ids=CHECKS.get)
def test_device(check):
    run(program("tests/device"), check, timeout=60)
