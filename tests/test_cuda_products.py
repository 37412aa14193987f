"""Products of the CUDA device on their way out: evaluations and tangents of float programs against the CPU device.

Which tile a product takes, and how many launches, must not be seen: the helper `op` compares lanes alone, bit for bit."""
import pytest
import torch

from conftest import agree, needs_cuda
from test_cuda_ops import GEGLU, GELU, NONE, QUICK_GELU, SILU, WITHIN, both, seeded  # noqa: F401, two are fixtures

NEEDS = "peers standin"
pytestmark = needs_cuda

OF = torch.tensor([0, 1, 2, 2, 0, 0, 1], dtype=torch.int32).reshape(1, 1, 1, 7)  # three primals, and tangents in no order
PRIMAL, LANES = 3, 7
ODD, WHOLE = 21, 24  # channels that are read one by one, and four at a time


def agrees(results, within):
    """Evaluations and tangents, each by their own size."""
    ours, theirs = results
    agree(ours[:PRIMAL], theirs[:PRIMAL], within)
    agree(ours[PRIMAL:], theirs[PRIMAL:], within)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("out", [ODD, WHOLE])
@pytest.mark.parametrize("act", [NONE, SILU, GELU, QUICK_GELU])
def test_tangents_of_a_linear_layer(both, act, out, in_place):
    tensors = {"x": torch.randn(LANES, 4, 9, 36), "weight": torch.randn(out, 36, 1, 1) / 4, "bias": torch.randn(out),
               "lane_bias": torch.randn(PRIMAL, 1, 1, out), "residual": torch.randn(LANES, 4, 9, out), "of": OF}
    agrees(both("linear", tensors, bits=8, channels=out, act=act, primal=PRIMAL, in_place=in_place), 4e-6)


@pytest.mark.parametrize("bits", WITHIN)
@pytest.mark.parametrize("half", [1, 10, 12, 40])
def test_tangents_of_a_gated_layer(both, bits, half):
    tensors = {"x": torch.randn(LANES, 1, 33, 40), "weight": torch.randn(2 * half, 40, 1, 1) / 6, "bias": torch.randn(2 * half),
               "residual": torch.randn(LANES, 1, 33, half), "of": OF}
    agrees(both("linear", tensors, bits=bits, channels=half, act=GEGLU, gated=1, primal=PRIMAL), 2 * WITHIN[bits])


@pytest.mark.parametrize("act", [NONE, SILU])
@pytest.mark.parametrize("bits", WITHIN)
def test_tangents_of_a_convolution(both, bits, act):
    tensors = {"x": torch.randn(LANES, 7, 9, 40), "weight": torch.randn(20, 40, 3, 3) / 19, "bias": torch.randn(20), "of": OF}
    agrees(both("conv", tensors, bits=bits, channels=20, stride=1, pad=1, act=act, primal=PRIMAL), 2 * WITHIN[bits])


@pytest.mark.parametrize("act", [SILU, GELU, QUICK_GELU, GEGLU])
def test_derivatives_of_acts_are_exact_to_3e_7(both, act):
    """On both sides of zero, and where the parts of gelu' nearly cancel each other. A tangent of ones shows them."""
    x = torch.linspace(-30, 30, 2002).reshape(1, 1, 22, 91)
    tensors = {"x": torch.cat([x, torch.ones_like(x)]), "of": torch.tensor([0, 0], dtype=torch.int32).reshape(1, 1, 1, 2)}
    if act == GEGLU:  # whose value is 1, so that the tangent is gelu' of the gate
        tensors |= {"weight": torch.cat([torch.zeros(91, 91), torch.eye(91)]), "bias": torch.cat([torch.ones(91), torch.zeros(91)])}
    else:
        tensors |= {"weight": torch.eye(91)}
    ours, theirs = both("linear", tensors, channels=91, act=act, gated=int(act == GEGLU), primal=1)
    assert (ours - theirs)[1].abs().max() < 3e-7
