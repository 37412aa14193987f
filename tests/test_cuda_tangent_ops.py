"""Tangent lanes of each op of the CUDA device, whose products are of pairs here, by the tests of the CPU's: against PyTorch's forward
mode in double precision. The kernels run in the stand-in (tests/cuda)."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import needs_cuda, run
from test_cuda_ops import OP
from test_ops import seeded  # noqa: F401, a fixture
from test_tangent_ops import *  # noqa: F401, F403, the tests themselves
from test_tangent_ops import LANES, agrees, norm, with_tangents  # noqa: F401, one is a fixture

NEEDS = "peers standin"

pytestmark = needs_cuda


@pytest.fixture
def op(tmp_path):
    def call(name, tensors, isa=None, **numbers):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "in")
        run(OP, name, tmp_path / "in", tmp_path / "out", *(f"{k}={v}" for k, v in {**numbers, "device": 1}.items()))
        return load_file(tmp_path / "out")["y"]

    return call


@pytest.mark.parametrize("groups", [0, 2])
def test_norm_keeps_its_tangents_digits_far_from_zero(with_tangents, groups):
    """As on the CPU, but that a mean is a float here: of numbers near 1,000 the tangents lose three bits, the primals eight."""
    x = torch.randn(LANES, 16, 16, 32) + torch.tensor([1000, 1000, 1000, 0, 1000, -1000, 30]).reshape(-1, 1, 1, 1)
    w, b = torch.ones(32), torch.zeros(32)
    agrees(with_tangents("norm", {"x": x, "weight": w, "bias": b}, groups=groups), norm(w, b, groups), x, within=1e-5, primal_within=2e-4)
