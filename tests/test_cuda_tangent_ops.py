"""Tangent lanes of each op of the CUDA device, whose products are of pairs here, by the tests of the CPU's: against PyTorch's forward
mode in double precision. The kernels run in the stand-in (tests/cuda), whose matrix units cut their sums as hardware's do."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import test_tangent_ops
from conftest import needs_cuda, run
from test_cuda_ops import OP
from test_ops import GEGLU, GELU, QUICK_GELU, SILU, seeded  # noqa: F401, one is a fixture
from test_tangent_ops import *  # noqa: F401, F403, the tests themselves
from test_tangent_ops import agrees, along_an_act, far_from_zero, with_tangents  # noqa: F401, one is a fixture

NEEDS = "peers standin"
CUT = 8e-6  # what sums of 150 x 9 or 1,000 products lose, of the largest value; the CPU's lose 3e-6

pytestmark = needs_cuda


@pytest.fixture
def op(tmp_path):
    def call(name, tensors, isa=None, **numbers):
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "in")
        run(OP, name, tmp_path / "in", tmp_path / "out", *(f"{k}={v}" for k, v in {**numbers, "device": 1}.items()))
        return load_file(tmp_path / "out")["y"]

    return call


@pytest.fixture(autouse=True)
def limits(monkeypatch, request):
    """Groups of 4-bit weights keep their scale and their middle in halves."""
    least = 1e-3 if getattr(request.node, "callspec", None) and request.node.callspec.params.get("bits") == 4 else CUT
    monkeypatch.setattr(test_tangent_ops, "agrees", lambda *of, within=0, **more: agrees(*of, within=max(within, least), **more))


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_weights_of_all_bits_and_every_instruction_set(with_tangents, bits):
    test_tangent_ops.test_weights_of_all_bits_and_every_instruction_set(with_tangents, "generic", bits)


@pytest.mark.parametrize("act", [SILU, GELU, QUICK_GELU, GEGLU])
def test_derivatives_of_acts_are_exact_to_2e_7(op, act):
    """Where they are small and not near their zero, they have five digits still."""
    tensors, x, theirs = along_an_act(act)
    ours = op("linear", tensors, channels=91, act=act, gated=int(act == GEGLU))[1:].double()
    assert (ours - theirs).abs().max() < 2e-7
    digits = ((ours - theirs).abs() / theirs.abs())[(x < -1) & (x > -5)]
    assert digits.max() < 3e-5


@pytest.mark.parametrize("groups", [0, 2])
def test_norm_keeps_its_tangents_digits_far_from_zero(with_tangents, groups):
    """As on the CPU, but that a mean is a float here: of numbers near 1,000 the tangents lose four bits, the primals eight."""
    far_from_zero(with_tangents, groups, within=3e-5)


def test_a_tangent_of_a_tangent_is_refused(with_tangents):
    of, said = torch.tensor([0, 0, 1], dtype=torch.int32), "a tangent of lane 1, which is not primal"
    with pytest.raises(pytest.fail.Exception, match=said):
        with_tangents("loss", {"x": torch.zeros(3, 2, 2, 1), "target": torch.zeros(3, 2, 2, 1)}, of=of, primal=1, height=1, width=1)
    tensors = {"x": torch.zeros(3, 1, 2, 1, dtype=torch.int32), "weight": torch.zeros(4, 5), "positions": torch.zeros(2, 5)}
    with pytest.raises(pytest.fail.Exception, match=said):
        with_tangents("embed", {**tensors, "rows": torch.zeros(3, 1, 1, 5)}, of=of, primal=1, channels=5)
