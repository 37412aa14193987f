"""Shares of the lanes that follow the ranks' speed: as good as any, stable under noise, and without effect on any bit."""
import itertools
import json
import math
import os
import pty
import random
import re
import signal
import threading
import time
from contextlib import suppress

import pytest

from conftest import learned, losses_of, mpirun, program, run, write_recipe
from live import ranks_of, start, steps, until

WINDOW = 8


def follow(count, paces, *groups):
    """[(moved, counts)] after each step; a step's pace is [seconds per unit of cost, for each rank]."""
    text = "\n".join(" ".join(map(str, pace)) for pace in paces)
    done = run(program("tests/balance"), count, len(paces[0]), *groups, stdin=text)
    found = []
    for line in done.stdout.splitlines():
        shares = [tuple(map(int, s.split("+"))) for s in re.findall(r"\d+\+\d+", line)]
        assert [first for first, _ in shares] == [sum(c for _, c in shares[:r]) for r in range(len(shares))]
        assert sum(c for _, c in shares) == count
        found.append((line.startswith("moved"), [c for _, c in shares]))
    return found


def shortest(count, pace):
    """The least time of the slowest share, over all distributions that give every rank at least one piece."""
    cuts = itertools.combinations(range(1, count), len(pace) - 1)
    return min(max((b - a) * p for a, b, p in zip((0, *cut), (*cut, count), pace)) for cut in cuts)


@pytest.mark.parametrize("count, ranks", [(3, 2), (9, 2), (9, 3), (10, 4), (12, 5), (4, 4)])
def test_no_other_distribution_is_faster(count, ranks):
    rng = random.Random(count)
    for _ in range(20):
        pace = [rng.choice([1, rng.uniform(0.3, 4)]) for _ in range(ranks)]
        equal = [count // ranks + (r < count % ranks) for r in range(ranks)]
        before, best = max(c * p for c, p in zip(equal, pace)), shortest(count, pace)
        moved, counts = follow(count, [pace] * WINDOW)[-1]
        assert moved == (best < 0.9 * before)
        assert max(c * p for c, p in zip(counts, pace)) == pytest.approx(best if moved else before)


def shared(cases):
    """[(seconds of the slowest share, [(first, count)])] for cases (pieces, group, gamma, pace of each rank)."""
    lines = (" ".join(map(repr, (*work, len(pace), *pace))) for *work, pace in cases)
    done = run(program("tests/share"), stdin="\n".join(lines))
    return [(float(line.split()[0]), [tuple(map(int, s.split("+"))) for s in line.split()[1:]])
            for line in done.stdout.splitlines()]


def seconds_of(group, gamma, pace, first, end):
    return pace * (gamma * len({i // group for i in range(first, end)}) + end - first)


def shortest_in_groups(pieces, group, gamma, pace):
    """The same with groups, rank after rank: best[i] is the least time in which ranks so far do the first i pieces."""
    best = [0] + [math.inf] * pieces
    for p in pace:
        best = [min((max(best[i], seconds_of(group, gamma, p, i, j)) for i in range(j)), default=math.inf)
                for j in range(pieces + 1)]
    return best[pieces]


def test_no_other_distribution_of_groups_is_faster():
    rng = random.Random(1)
    cases = []
    for _ in range(300):
        group, ranks = rng.randint(1, 7), rng.randint(1, 6)
        pieces = group * rng.randint(-(-ranks // group), -(-ranks // group) + 4)
        pace = rng.choice([[1] * ranks, [rng.uniform(0.1, 5) for _ in range(ranks)],
                           [rng.choice([1, 2, 50]) for _ in range(ranks)]])
        cases.append((pieces, group, rng.choice([0, 0.3, 0.5, 1, 3, rng.uniform(0.3, 3)]), pace))
    for (pieces, group, gamma, pace), (slowest, shares) in zip(cases, shared(cases), strict=True):
        assert [first for first, _ in shares] == [sum(c for _, c in shares[:r]) for r in range(len(shares))]
        assert sum(c for _, c in shares) == pieces and all(c >= 1 for _, c in shares)
        took = [seconds_of(group, gamma, p, a, a + c) for p, (a, c) in zip(pace, shares, strict=True)]
        assert slowest == pytest.approx(max(took), rel=1e-12)
        assert slowest == pytest.approx(shortest_in_groups(pieces, group, gamma, pace), rel=1e-12)


def test_a_million_tangents_are_shared_at_once_and_few_by_the_first_ranks():
    rng = random.Random(2)
    began = time.monotonic()
    many, few = shared([(1024 * 1024, 1024, 0.88, [rng.uniform(1, 3) for _ in range(512)]), (4, 2, 0.88, [9, 1, 1, 1, 1])])
    assert time.monotonic() - began < 5
    assert sum(c for _, c in many[1]) == 1024 * 1024
    assert few == (9 * 1.88, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0)])


def test_pictures_are_not_cut_where_that_costs_more():
    """Two ranks and two pictures: a picture each, unless a rank is much slower; and a slow rank gives tangents away."""
    (_, equal), (_, slow) = shared([(6, 3, 1, [1, 1]), (16, 8, 1, [1, 2])])
    assert equal == [(0, 3), (3, 3)]
    assert slow == [(0, 11), (11, 5)]
    found = follow(16, [[1, 2]] * WINDOW, 8, 1)
    assert found[-2] == (False, [8, 8]) and found[-1] == (True, [11, 5])


def test_shares_move_at_the_end_of_a_window_and_back_when_all_is_well_again():
    found = follow(9, [[1, 3]] * 16 + [[1, 1]] * 16)
    assert [k for k, (moved, _) in enumerate(found, 1) if moved] == [8, 24]
    assert found[7][1] == [7, 2] and sorted(found[-1][1]) == [4, 5]


def test_a_core_borrowed_for_a_moment_moves_nothing():
    paces = [[1, 1]] * 24
    for k in (2, 5, 7, 12, 13):
        paces[k] = [1, 50]
    assert not any(moved for moved, _ in follow(9, paces))


@pytest.mark.parametrize("count, pace", [(9, [1, 0]), (2, [1, 3, 0]), (3, [5, 1, 1])])
def test_shares_stay_where_a_rank_has_measured_nothing_or_has_one_lane(count, pace):
    assert not any(moved for moved, _ in follow(count, [pace] * 40))


def test_one_slow_rank_of_three_changes_no_bit(tmp_path):
    """Evaluations replaced by sleeps, three times as long on rank 1."""
    config, _ = write_recipe(tmp_path, zo__n=8, zo__tau=6, output__prompts=[])
    quiet = json.loads(run(program("tests/pace"), config, 30, 0).stdout)
    done = mpirun(3, program("tests/pace"), config, 30, 0.002, "1=3")
    slow = json.loads(done.stdout)
    assert quiet["shares"] == [9] and slow["shares"][1] < 3 and sum(slow["shares"]) == 9
    assert slow["state"] == quiet["state"]
    assert "balanced: from step " in done.stderr


def test_one_slow_rank_of_three_changes_no_bit_of_tangents(tmp_path):
    """A primal sleeps as long as a tangent, which rank 0 finds out before the first step."""
    config, _ = write_recipe(tmp_path, zo__n=8, zo__tau=6, zo__derivative="tangent", optim__batch_size=2, output__prompts=[])
    quiet = json.loads(run(program("tests/pace"), config, 30, 0).stdout)
    done = mpirun(3, program("tests/pace"), config, 30, 0.004, "1=3")
    slow = json.loads(done.stdout)
    assert quiet["shares"] == [16] and slow["shares"][1] < 4 and sum(slow["shares"]) == 16
    assert slow["state"] == quiet["state"]
    assert "balanced: from step " in done.stderr
    gamma = float(re.search(r"a picture's loss takes as long as (\S+) of its tangents", done.stderr)[1])
    assert 0.7 < gamma < 1.4


def test_dear_primals_keep_pictures_whole_from_the_first_step_on(tmp_path):
    """Three pictures of four tangents on four ranks: three tangents each, unless touching two pictures costs more than a fourth."""
    config, _ = write_recipe(tmp_path, zo__n=4, zo__tau=6, zo__derivative="tangent", optim__batch_size=3, output__prompts=[])
    quiet = json.loads(run(program("tests/pace"), config, 2, 0).stdout)
    done = mpirun(4, program("tests/pace"), config, 2, 0.004, "primal=9")
    dear = json.loads(done.stdout)
    assert dear["shares"] == [4, 4, 3, 1] and dear["state"] == quiet["state"]
    assert "idle" not in done.stderr


def test_a_step_of_few_tangents_says_who_is_idle(tmp_path):
    config, _ = write_recipe(tmp_path, zo__n=2, zo__derivative="tangent", output__prompts=[])
    said = mpirun(3, program("tests/pace"), config, 1, 0).stderr
    assert said.count("1 of 3 ranks are idle, because a step has only 2 tangents") == 1 and "zo.derivative difference" in said


def test_a_terminal_does_not_hear_of_slow_ranks(tmp_path):
    """It is for who reads a log: on a terminal it would only worry."""
    config, _ = write_recipe(tmp_path, zo__n=8, zo__tau=6, output__prompts=[])
    ours, theirs = pty.openpty()
    on_terminal = ["bash", "-c", f'exec 2>{os.ttyname(theirs)}; exec "$0" "$@"']  # as launch/run.sh gives it to rank 0
    slow = json.loads(mpirun(3, *on_terminal, program("tests/pace"), config, 30, 0.002, "1=3").stdout)
    os.write(theirs, b"all that was said")
    said = b""
    while not said.endswith(b"all that was said"):
        said += os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)
    assert slow["shares"][1] < 3 and b"encoding" in said and b"balanced" not in said


def stop_half_of_the_time(process, ended):
    with suppress(ProcessLookupError):
        while not ended.wait(0.004):
            os.kill(process, signal.SIGSTOP)
            time.sleep(0.004)
            os.kill(process, signal.SIGCONT)


def test_a_rank_that_gets_half_a_core_changes_no_bit(tmp_path):
    changes = dict(optim__steps=60, zo__n=8, zo__tau=6, output__prompts=[])
    quiet, quiet_output = write_recipe(tmp_path / "quiet", **changes)
    run(program("zoodip"), "train", quiet)
    config, output = write_recipe(tmp_path / "slow", **changes)
    process = start(2, "train", config)
    until(output.exists, process)  # the ranks are running
    ended = threading.Event()
    slowing = threading.Thread(target=stop_half_of_the_time, args=(ranks_of(config)[1], ended))
    slowing.start()
    try:
        until(lambda: steps(output) >= 50, process)
    finally:
        ended.set()
        slowing.join()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "balanced: from step " in said
    assert learned(output) == learned(quiet_output)
    assert losses_of(output) == losses_of(quiet_output)
