"""Random numbers: the published test vectors, the same bits from any compiler, and a normal distribution."""

import shutil
import subprocess

import numpy as np
import pytest

from conftest import ROOT, program, run

QUICK = True
STREAM = 9


def draw(kind, count, *bounds, seed=1, step=2, stream=STREAM, first=0, command=None):
    arguments = [kind, seed, step, stream, first, count, *bounds]
    out = subprocess.run([command or program("tests/rng"), *map(str, arguments)], capture_output=True, check=True).stdout
    return np.frombuffer(out, {"words": np.uint32, "normals": np.float32, "integers": np.int32, "even": np.int32}[kind])


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats")


@pytest.fixture(scope="module")
def normals():
    return draw("normals", 1_000_000).astype(np.float64)


@pytest.mark.parametrize("counter, key, answer", [  # Random123's kat_vectors
    ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
])
def test_philox_gives_the_published_answers(counter, key, answer):
    assert run(program("tests/rng"), "philox", *counter.split(), *key.split()).stdout.split() == answer.split()


def box_muller(words):
    """The formula in double precision, from the uniform number as a float."""
    u = np.float32(words[0::2].astype(np.float32).astype(np.float64) / 2**32 + 2.0**-33)
    u = np.minimum(u, np.float32(1 - 2.0**-24)).astype(np.float64)
    turn = 2 * np.pi * words[1::2].astype(np.float64) / 2**32
    radius = np.sqrt(-2 * np.log(u))
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1).ravel()


def test_normals_are_box_muller_to_float_precision(normals):
    exact = box_muller(draw("words", 1_000_000))
    assert (np.abs(normals - exact) <= 4e-7 * np.abs(exact) + 1e-9).all()


def test_any_part_of_a_stream_is_the_same_numbers():
    whole = draw("normals", 100)
    for first, count in [(0, 1), (1, 1), (3, 2), (5, 10), (7, 93), (99, 1)]:
        assert np.array_equal(draw("normals", count, first=first), whole[first:first + count])


def test_addresses_do_not_share_numbers():
    base = dict(seed=1, step=2, stream=STREAM)
    streams = [draw("words", 400, **(base | change)) for change in
               ({}, {"seed": 2}, {"seed": 1 + 2**32}, {"step": 3}, {"step": 2 + 2**32}, {"stream": STREAM + 1}, {"first": 400})]
    assert len(np.unique(np.concatenate(streams))) > 7 * 400 - 3


def test_moments(normals):
    n = len(normals)
    for power, value, spread in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:  # spread: variance of x^power
        assert abs((normals**power).mean() - value) < 4 * np.sqrt(spread / n)


def test_distribution(normals, stats):
    assert stats.kstest(normals, "norm").pvalue > 1e-3
    cosines, sines = normals[0::2], normals[1::2]
    assert stats.kstest(cosines, "norm").pvalue > 1e-3 and stats.kstest(sines, "norm").pvalue > 1e-3


@pytest.mark.parametrize("beyond", [2, 3, 4])
def test_tails(normals, stats, beyond):
    for side in (normals, -normals):
        expected = len(normals) * stats.norm.sf(beyond)
        assert abs((side > beyond).sum() - expected) < 4 * np.sqrt(expected)


def test_neighbours_are_uncorrelated(normals):
    for lag in (1, 2, 3, 4, 8, 64):
        for f in (lambda x: x, np.abs):
            a, b = f(normals[:-lag]), f(normals[lag:])
            assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(len(a))


def test_streams_steps_and_seeds_are_uncorrelated(normals):
    for other in ({"stream": STREAM + 1}, {"step": 3}, {"seed": 2}):
        assert abs(np.corrcoef(normals[:200_000], draw("normals", 200_000, **other))[0, 1]) < 4.5 / np.sqrt(200_000)


@pytest.mark.parametrize("low, high", [(500, 900), (0, 1), (-3, 4), (0, 2**31 - 1), (-2**31, 2**31 - 1)])
def test_integers_fill_their_range_evenly(stats, low, high):
    values = draw("integers", 100_000, low, high).astype(np.int64)
    assert values.min() >= low and values.max() < high
    bins = min(high - low, 50)
    counts = np.bincount((values - low) * bins // (high - low), minlength=bins)
    if bins > 1 and (high - low) % bins == 0:
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("low, high", [(500, 900), (0, 1), (-3, 4), (0, 2**31 - 1)])
def test_any_stretch_of_the_even_sequence_fills_its_range(seed, low, high):
    """Golden ratios modulo 1 leave gaps of at most 1.9 / count (three distances; Swierczkowski 1959). Random: some 7 / count of 500."""
    assert (draw("even", 50, low, high, seed=seed) == draw("even", 50, low, high, seed=seed, step=9, stream=3)).all()
    for first, count in [(0, 5), (7, 50), (10**6, 500)]:
        values = np.sort(draw("even", count, low, high, seed=seed, first=first).astype(np.int64))
        assert values[0] >= low and values[-1] < high
        gaps = np.diff([*values, values[0] + high - low])
        assert gaps.max() <= 1.9 * (high - low) / count + 1


def test_even_sequences_of_different_seeds_start_anywhere(stats):
    starts = [int(draw("even", 1, 0, 1000, seed=seed)[0]) for seed in range(300)]
    assert stats.kstest(starts, "uniform", args=(0, 1000)).pvalue > 1e-3


@pytest.mark.parametrize("compiler", ["gcc -O0", "gcc -O3", "gcc -O3 -march=native", "clang -O0", "clang -O3"])
def test_every_compiler_draws_the_same_bits(compiler, tmp_path):
    command, *options = compiler.split()
    if not shutil.which(command):
        pytest.skip(f"no {command} here")
    sources = [ROOT / "tests/helpers/rng.c", ROOT / "src/base/rng.c", ROOT / "src/base/memory.c"]
    run(command, *options, "-std=gnu11", "-ffp-contract=off", "-D_GNU_SOURCE", "-I", ROOT / "src", *sources, "-lm", "-o", tmp_path / "rng")
    assert np.array_equal(draw("normals", 50_000, command=tmp_path / "rng").view(np.uint32),
                          draw("normals", 50_000).view(np.uint32))
