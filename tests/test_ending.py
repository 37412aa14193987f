"""When a run ends: out of patience, out of minutes, or after optim.steps; and what it says about the time that is left."""

import json
import re

import pytest

from conftest import learned, metrics, program, run, write_recipe

QUICK = True

# -------------------------------------------------------------------------------- the plan by itself


@pytest.fixture
def plan(tmp_path):
    def call(*events, **optim):
        config, _ = write_recipe(tmp_path, **{f"optim__{key}": value for key, value in optim.items()})
        *lines, text = run(program("tests/ending"), config, *events).stdout.splitlines()
        rates = [float(line.split()[1]) for line in lines]
        lasts = [int(line.split()[2]) for line in lines]
        assert lasts[-1] == len(lines), "the run ends with the last step that it planned"
        return rates, lasts, text
    return call


FALLING = dict(steps=20, lr=1.0, schedule="warmup_stable_decay", decay=8)


def fall(count, share=1.0):
    return [share * (1 - k / count) for k in range(count)]


def test_without_an_end_the_schedule_is_the_configs(plan):
    rates, _, text = plan(**FALLING)
    assert rates == pytest.approx([1.0] * 12 + fall(8), abs=1e-15)
    assert text == "by steps, from 0, last 0, share 0, seconds 0"


def test_out_of_patience_the_fall_begins_at_once_and_the_run_ends_with_it(plan):
    rates, lasts, text = plan("4.looks=2", "5.looks=3", patience=3, **FALLING)
    assert rates == pytest.approx([1.0] * 5 + fall(8), abs=1e-15)
    assert lasts[3] == 20 and lasts[4] == 13
    assert text == "by patience, from 5, last 13, share 1, seconds 0"


def test_a_fall_of_half_the_run_is_as_long_as_what_it_follows(plan):
    rates, _, _ = plan("3.looks=1", patience=1, **FALLING | dict(decay=0))
    assert rates == pytest.approx([1.0] * 3 + fall(3), abs=1e-15)


@pytest.mark.parametrize("event", ["12.looks=9", "19.looks=9", "20.looks=9"])
def test_a_fall_that_has_begun_goes_on_as_planned(plan, event):
    assert plan(event, patience=1, **FALLING) == plan(patience=1, **FALLING)


def test_later_looks_change_nothing_once_patience_has_run_out(plan):
    assert plan("5.looks=3", "7.looks=0", "9.looks=5", patience=3, **FALLING) == plan("5.looks=3", patience=3, **FALLING)


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"])
@pytest.mark.parametrize("event, by", [("7.looks=2", "patience"), ("7.reach=7", "minutes")])
def test_with_another_schedule_the_run_ends(plan, schedule, event, by):
    optim = dict(steps=20, lr=0.5, schedule=schedule, patience=2)
    whole, _, _ = plan(**optim)
    rates, _, text = plan(event, **optim)
    assert rates == whole[:7] and text.startswith(f"by {by}, from 7, last 7, ")


def test_minutes_let_the_fall_begin_so_that_it_ends_with_them(plan):
    rates, lasts, _ = plan(*(f"{step}.reach=15" for step in range(1, 21)), **FALLING)
    assert rates == pytest.approx([1.0] * 7 + fall(8), abs=1e-15)
    assert lasts[5] == 20 and lasts[6] == 15


@pytest.mark.parametrize("reach, length", [(1, 2), (2, 2), (5, 5), (8, 8)])
def test_minutes_that_are_too_few_for_the_fall_shorten_it(plan, reach, length):
    rates, _, _ = plan(*(f"{step}.reach={reach}" for step in range(2, 21)), **FALLING)
    assert len(rates) == length and rates[:2] == [1.0, 1.0]
    assert rates[2:] == pytest.approx(fall(length - 2), abs=1e-15)


def test_a_pace_that_changes_moves_the_end_of_the_fall(plan):
    steady = [f"{step}.reach=15" for step in range(1, 10)]
    slower, _, _ = plan(*steady, "9.reach=12", *(f"{step}.reach=12" for step in range(10, 21)), **FALLING)
    left = 1 - 2 / 8  # of step 10
    assert slower == pytest.approx([1.0] * 7 + fall(8)[:2] + [left, left * 2 / 3, left / 3], abs=1e-15)
    faster, _, _ = plan(*steady, *(f"{step}.reach=18" for step in range(10, 21)), **FALLING)
    assert len(faster) == 18 and faster[10:] == pytest.approx(fall(8, faster[10]), abs=1e-15)


def test_small_changes_of_pace_change_nothing(plan):
    wavering = [f"{step}.reach={15 + (-1) ** step}" for step in range(8, 21)]
    events = [f"{step}.reach=15" for step in range(1, 8)]
    assert plan(*events, *wavering, **FALLING) == plan(*events, **FALLING)


def test_minutes_end_a_fall_that_patience_or_the_schedule_began(plan):
    _, _, text = plan("5.looks=3", "6.reach=9", patience=3, **FALLING)
    assert text.startswith("by patience, from 6, last 9, ")
    rates, _, text = plan("14.reach=16", **FALLING)
    assert text.startswith("by minutes, from 14, last 16, ") and rates[14:] == pytest.approx([6 / 8, 3 / 8])


def test_time_enough_changes_nothing(plan):
    assert plan(*(f"{step}.reach={20 + step}" for step in range(1, 21)), **FALLING) == plan(**FALLING)


def test_a_fall_from_within_the_warmup_begins_where_the_rate_was(plan):
    rates, _, _ = plan("2.reach=4", **FALLING | dict(warmup=4))
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25])

# -------------------------------------------------------------------------------- how long it will take


def test_after_two_steps_a_run_says_how_long_it_will_take(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=4, output__prompts=["a {}"], output__sample_steps=2)
    log = run(program("zoodip"), "train", config).stderr
    assert len(re.findall(r"^zoodip: \S+ s a step, \S+ evaluations/s: about \d+:\d\d to the end, pictures included$", log, re.MULTILINE)) == 1
    config, output = write_recipe(tmp_path / "short", optim__steps=1, output__prompts=[])
    assert "to the end" not in run(program("zoodip"), "train", config).stderr
