"""When a run ends: out of patience, out of minutes, or after optim.steps; and what it says about the time that is left."""

import json
import re
import shutil
import time

import pytest

from conftest import TOYBOX, learned, losses_of, metrics, mpirun, nested, program, recipe, run, write_recipe
from live import afresh, caught, nearly_done, start, steps

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


def test_a_fall_that_has_reached_its_end_is_not_prolonged(plan):
    """Further steps would have no rate."""
    rates, _, _ = plan("2.reach=3", "3.reach=9", **FALLING)
    assert rates == [1.0] * 3


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

# -------------------------------------------------------------------------------- in a run

# Out of patience after a look, at step 10; the fall is steps 11 to 20.
PATIENT = dict(optim__steps=60, optim__patience=1, optim__min_gain=1, optim__schedule="warmup_stable_decay", optim__decay=10, zo__tau=8,
               output__validate_every=10, output__checkpoint_every=1, output__checkpoint_keep=0, output__prompts=[])
WHY = "optim.patience: 1 look without a gain of 100 %"


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """A run that ran out of patience: (its folder, its log)."""
    config, output = write_recipe(tmp_path_factory.mktemp("patient"), **PATIENT)
    return output, run(program("zoodip"), "train", config).stderr


def test_a_run_out_of_patience_falls_ends_and_says_why(patient):
    output, log = patient
    lines = metrics(output)
    assert [m["lr"] for m in lines] == pytest.approx([0.03] * 10 + fall(10, 0.03))
    assert [m["step"] for m in lines if "validation_loss" in m] == [10, 20]
    assert [m.get("ended") for m in lines] == [None] * 19 + [WHY]
    assert f"zoodip: {WHY}: the learning rate falls from step 11 on, and the run ends after step 20 of 60\n" in log
    assert re.search(f"^zoodip: learned .* in 20 steps, .*, ended by {WHY}$", log, re.MULTILINE)
    assert f"20, ended by {WHY}" in (output / "report.html").read_text()
    assert f"ended by          {WHY}\n" in run(program("zoodip"), "inspect", output).stdout
    last, before = (run(program("zoodip"), "inspect", output / "checkpoints" / f"step-{step}.safetensors").stdout for step in (20, 9))
    assert "ending = by patience, from 10, last 20, share 1, seconds 0\n" in last and "ending" not in before


def resumed_after(folder, whole, step, ranks):
    """A copy of the run that was killed after this step's checkpoint, resumed; its folder."""
    config, output = write_recipe(folder, **PATIENT)
    shutil.copytree(whole, output)
    for path in (output / "checkpoints").iterdir():
        if int(path.stem.split("-")[1]) > step:
            path.unlink()
    for name in ("learned_embeds.safetensors", "report.html"):
        (output / name).unlink()
    mpirun(ranks, program("zoodip"), "train", config, "--resume")
    return output


def numbers_of(output):
    return [{k: v for k, v in m.items() if k not in ("seconds", "evaluations_per_second")} for m in metrics(output)]


@pytest.mark.parametrize("step, ranks", [(0, 2), (10, 1), (14, 2)])
def test_the_fall_is_the_same_on_any_ranks_and_after_a_kill(tmp_path, patient, step, ranks):
    output = resumed_after(tmp_path, patient[0], step, ranks)
    assert learned(output) == learned(patient[0])
    assert numbers_of(output) == numbers_of(patient[0])
    assert run("cmp", *(folder / "checkpoints/step-20.safetensors" for folder in (output, patient[0])))


def test_a_run_that_ended_by_itself_is_done(tmp_path, patient):
    config, output = write_recipe(tmp_path, **PATIENT)
    shutil.copytree(patient[0], output)
    log = run(program("zoodip"), "train", config, "--resume").stderr
    assert "resuming after step 20\n" in log and f"in 20 steps, 0.0 s, ended by {WHY}\n" in log
    assert (learned(output), numbers_of(output)) == (learned(patient[0]), numbers_of(patient[0]))


def test_looks_during_the_warmup_do_not_count(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=12, zo__n=1, optim__schedule="constant_with_warmup", optim__warmup=3, optim__patience=1,
                                  optim__min_gain=1, output__validate_every=2, output__prompts=[])
    run(program("zoodip"), "train", config)
    assert [m.get("ended") for m in metrics(output)] == [None] * 3 + [WHY]


def test_looks_without_a_gain_are_counted_on_where_looks_have_more_draws(tmp_path):
    """The words are looked at again then, which is no look of its own."""
    config, output = write_recipe(tmp_path, optim__steps=3, zo__n=1, optim__patience=5, optim__min_gain=1, output__validate_every=1,
                                  output__prompts=[])
    run(program("zoodip"), "train", config)
    log = run(program("zoodip"), "train", config, "--resume", "--set", "optim.steps=10000").stderr
    assert "the checkpoint has no validations over 60 draws" in log
    assert [m.get("ended") for m in metrics(output)] == [None] * 4 + ["optim.patience: 5 looks without a gain of 100 %"]


def test_minutes_end_a_run_and_more_of_them_go_on(tmp_path):
    changes = dict(optim__steps=100000, output__checkpoint_every=0, output__prompts=[])
    config, output = write_recipe(tmp_path, **changes, optim__minutes=1e-6)
    log = mpirun(2, program("zoodip"), "train", config).stderr
    assert "zoodip: optim.minutes: 1e-06: the run ends after step 1 of 100000\n" in log and "ended by optim.minutes: 1e-06\n" in log
    assert "in 1 steps, 0.0 s, ended by" in run(program("zoodip"), "train", config, "--resume").stderr
    spent = float(re.search(r"ending = .*, seconds (\S+)", run(program("zoodip"), "inspect", output / "checkpoints/step-1.safetensors").stdout)[1])
    write_recipe(tmp_path, **changes, optim__minutes=spent / 60 + 0.01)
    run(program("zoodip"), "train", config, "--resume")
    lines = metrics(output)
    assert [m["step"] for m in lines] == [*range(1, len(lines) + 1)] and len(lines) > 1
    assert sum(m["seconds"] for m in lines[1:]) < 0.6 + 2 * max(m["seconds"] for m in lines)
    assert lines[-1]["ended"].startswith("optim.minutes: ") and "validation_loss" in lines[-1]
    alone, undisturbed = write_recipe(tmp_path / "steps", **changes | dict(optim__steps=len(lines)))
    run(program("zoodip"), "train", alone)
    assert losses_of(output) == losses_of(undisturbed), "what was learned does not depend on the clock"


def test_minutes_let_a_run_fall_in_time(tmp_path):
    config, _ = write_recipe(tmp_path, optim__steps=100000, optim__minutes=0.04, optim__schedule="warmup_stable_decay", output__prompts=[])
    run(program("zoodip"), "train", config)
    rates = [m["lr"] for m in metrics(tmp_path / "out")]
    assert rates[0] == 0.03 and rates == sorted(rates, reverse=True), "it holds and then falls"
    assert len(rates) < 8 or rates[2] == 0.03 and rates[-1] < 0.015, "as far as there was time for it"


def test_the_ranks_of_a_job_that_ends_early_learn_the_next_subject(tmp_path):
    jobs = {"ends early": dict(optim__steps=2000, optim__patience=1, optim__min_gain=1), "long": dict(optim__steps=60, output__validate_every=60),
            "next": dict(optim__steps=4, data__images=str(TOYBOX / "subjects/ball1"))}
    path, output = tmp_path / "jobs.json", tmp_path / "out"
    defaults = recipe(output, zo__n=1, output__validate_every=4, output__prompts=[])
    path.write_text(json.dumps({"defaults": defaults, "jobs": [{"name": name, **nested(own)} for name, own in jobs.items()]}))
    shown = mpirun(2, program("zoodip"), "run", path, "--groups", "2").stderr
    assert re.search(f"^ends early +done +4/2000 .* {WHY}$", shown, re.MULTILINE) and "ends early: done, 4/4, " in shown
    found = {job["name"]: job for job in json.loads((output / "summary.json").read_text())["jobs"]}
    assert {name: (job["state"], job["steps"], job.get("ended")) for name, job in found.items()} == {
        "ends early": ("done", 4, WHY), "long": ("done", 60, None), "next": ("done", 4, None)}
    assert found["next"]["turnaround"] < found["long"]["turnaround"], "the freed rank took it"
    page = (output / "index.html").read_text()
    assert "<td>4/2000</td>" in page and f"ended by {WHY}" in page
    before = learned(output / "ends early")
    again = mpirun(2, program("zoodip"), "run", path, "--groups", "2", "--resume").stderr
    assert "3 jobs finished before" in again and learned(output / "ends early") == before


# -------------------------------------------------------------------------------- how long it will take


def test_after_two_steps_a_run_says_how_long_it_will_take(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=4, output__prompts=["a {}"], output__sample_steps=2)
    log = run(program("zoodip"), "train", config).stderr
    assert len(re.findall(r"^zoodip: \S+ s a step, \S+ evaluations/s: about \d+:\d\d to the end, pictures included$", log, re.MULTILINE)) == 1
    config, output = write_recipe(tmp_path / "short", optim__steps=1, output__prompts=[])
    assert "to the end" not in run(program("zoodip"), "train", config).stderr


@afresh
def test_an_estimate_that_was_wrong_by_half_is_corrected_once(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=60, zo__n=1, output__prompts=[])
    process = start(1, "train", config)
    with caught(process, config, when=lambda: steps(output) > 3, unless=nearly_done(output, 40)):
        time.sleep(3)
    log = process.communicate(timeout=300)[1]
    assert len(re.findall(r"the estimate of \d+:\d\d in all was wrong by half: now about \d+:\d\d to the end\n", log)) == 1


def test_inspect_counts_what_a_run_evaluates(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=5, optim__batch_size=2, output__validate_every=3, output__sample_every=2,
                                  output__sample_steps=3, output__prompts=["a {}"])
    done = run(program("zoodip"), "inspect", config)
    assert json.loads(done.stdout)["evaluations"] == {"steps": 5 * 3 * 2, "looks": 3 * 30, "samples": 2 * 4 * 2, "pictures": 2 * 4 * 2}
    assert "evaluations: 30 of 5 steps, 90 of 3 looks, 32 of 4 pictures\n" in done.stderr
    run(program("zoodip"), "train", config)
    assert [m["step"] for m in metrics(output) if "validation_loss" in m] == [3, 5] and len(list((output / "samples").iterdir())) == 2
