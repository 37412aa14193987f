"""The model of a GPU (tests/bench/gpu_model.py) cuts the networks' work as the launchers do, stays below the other roofs, and is as
far from an H100's measurement as the page says."""
import sys
from collections import Counter
from dataclasses import replace
from math import hypot

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))
import gpu_kernels  # noqa: E402
import gpu_model  # noqa: E402
import roofline  # noqa: E402

MEASURED, H100 = gpu_kernels.MEASURED, gpu_model.H100


def test_an_evaluation_has_the_launches_that_an_h100_counted():
    """Three evaluations at n = 2 of the kernels as they were then, by kernel and grid (results/gpu.md)."""
    found = Counter((x.kernel, x.blocks) for x in gpu_model.step(2, kernels=MEASURED).launches)
    counted = {key: times for key, (_, times) in gpu_model.LAUNCHES.items()}
    assert {key: 3 * found[key] for key in counted} == counted


@pytest.mark.parametrize("blocks, resident, waves", [(288, 1, [1, 1, 1]), (60, 4, [1]), (240, 4, [2]), (480, 4, [4]), (1032, 2, [2, 2, 2, 2])])
def test_blocks_go_to_132_processors_in_waves(blocks, resident, waves):
    assert list(gpu_model.waves(blocks, resident, H100)) == waves


def test_launchers_choose_tiles_and_parts():
    """3 x 64 x 64 rows have 96 tiles of 128 rows; 3 x 8 x 8 have three of 64, whose K of 11,520 is cut into six parts."""
    now = gpu_kernels.NOW
    pairs = [gpu_kernels.choose_pairs(now, "pairs 8", 132, rows, columns) for rows, columns in ((12288, 320), (3072, 640), (192, 1280))]
    assert pairs == ["pairs 8, 128", "pairs 8, 64", "pairs 8, 64"]
    small = now["pairs 8, 64"]
    assert gpu_kernels.tiles_of(now["pairs 8, 128"], 12288, 320) == 288 and gpu_kernels.tiles_of(small, 192, 1280) == 60
    assert [gpu_kernels.split(small, 132, tiles, 360) for tiles in (60, 132)] == [6, 1]
    # the largest tiles keep one sum alone, so not where K is long
    assert [gpu_kernels.choose_cut(now, "halves 8", 132, 69632, 2560, depth) for depth in (320, 5760)] == ["halves 8, 256", "halves 8, 128"]


def test_a_round_takes_what_the_slowest_part_of_a_processor_needs():
    kernel = replace(MEASURED["pairs 8, 128"], loop=400, matrix=40, bytes=2400)
    cycles = [gpu_model.round_cycles(H100, k, 1, 2.0) for k in (kernel, replace(kernel, matrix=200), replace(kernel, bytes=48000))]
    matrix = 2 * 200 * 4 / 0.62  # two warps a scheduler
    assert cycles == pytest.approx([hypot(2 * 400, 2 * 400), hypot(matrix, 800), hypot(2000, 800)])


@pytest.mark.parametrize("way", roofline.WAYS)
def test_no_family_beats_the_roofs_of_memory_and_matrix_units(way):
    step = gpu_model.step(2, way=way)
    assert all(step.seconds(family) > work.seconds > 0 for family, work in step.families.items())


def test_the_model_is_within_15_percent_of_what_an_h100_measured_and_no_parameter_brings_it_nearer():
    assert max(abs(model / measured - 1) for _, measured, model, _ in gpu_model.compared(gpu_model.FIT)) < 0.15
    best = gpu_model.off(gpu_model.FIT)
    for name in ("wait", "dear", "wait_keys", "behind"):
        for by in (0.9, 1.1):
            assert gpu_model.off(replace(gpu_model.FIT, **{name: by * getattr(gpu_model.FIT, name)})) > best
