"""Looks, the validations between steps: when they are due, what they cost, and that the best word is kept, the same on any ranks and
across a resume."""
import json
import math
import random
import re
import shutil

import pytest

from conftest import TOYBOX, change_checkpoint, learned, losses_of, metrics, mpirun, program, refused, run, write_recipe

STEPS = 12
LOOKED = dict(optim__steps=STEPS, zo__n=1, zo__tau=4, output__validate_every=4, output__save_every=1, output__checkpoint_every=1,
              output__checkpoint_keep=0, output__prompts=[])


def ask(lines):
    return run(program("tests/looks"), stdin="".join(line + "\n" for line in lines)).stdout.splitlines()


def looks_of(output):
    return [(m["step"], m["validation_loss"], m["best_step"]) for m in metrics(output) if "validation_loss" in m]


def last(output):
    return (output / "learned_embeds-last.safetensors").read_bytes()


def word_of(output, step):
    return (output / f"learned_embeds-steps-{step}.safetensors").read_bytes()


# ---------------------------------------------------------------------------- the rule


def test_looks_cost_what_the_rule_allows_and_are_evenly_spread():
    cases = [(steps, lanes, patience) for steps in (1, 2, 7, 20, 99, 333, 1000, 1500, 4096, 30000, 250001) for lanes in (2, 3, 9, 64, 1000)
             for patience in (0, 1, 5)]
    most = 0
    for (steps, lanes, patience), line in zip(cases, ask(f"plan {s} {n} {p} 0" for s, n, p in cases)):
        draws, looks, least, widest, at_end = map(int, line.split())
        pays = steps * lanes // (10 if patience else 50)
        case = f"{steps} steps of {lanes}, patience {patience}: {line}"
        assert 1 <= looks <= steps and at_end and widest - least <= 1, case
        assert 1 <= draws <= 60 and (draws >= 30 or looks == 1), case
        assert (looks + 1) * draws <= max(2, pays), case
        assert draws >= 30 or pays < 60, case  # shorter than that: only start and end, over fewer draws
        assert looks == steps or (looks + 2) * draws > pays or pays < 60, case  # no more would fit
        most = max(most, looks)
    assert most > 1000


def test_looks_that_are_asked_for_come_when_asked_for_and_after_the_last_step():
    cases = [(steps, every) for steps in (1, 5, 12, 1000) for every in (1, 4, 5, 12, 999, 100000)]
    for (steps, every), line in zip(cases, ask(f"plan {s} 2 0 {every}" for s, every in cases)):
        draws, looks, _, widest, at_end = map(int, line.split())
        assert (looks, widest, at_end) == (math.ceil(steps / every), min(every, steps), 1) and draws >= 30


def test_a_look_counts_as_a_gain_from_min_gain_on():
    """Gains too small to count add up; the best word is that of the least value whatever its gain."""
    draw = random.Random(0)
    cases = [(0.1, [1, 0.95, 0.89, 0.85, 0.95, 0.81, 0.7]), (0, [1, 1, 0.5, 0.5, 0.7, 0.4]), (0.005, [1, 2, 3, 1.5])]
    cases += [(draw.choice([0, 0.01, 0.3]), [draw.uniform(0.5, 1.5) for _ in range(20)]) for _ in range(20)]
    told = ask("look " + " ".join(map(repr, [min_gain, *values])) for min_gain, values in cases)
    for (min_gain, (start, *values)), line in zip(cases, told):
        best, best_step, gain_from, without, expected = start, 0, start, 0, []
        for step, value in enumerate(values, 1):
            gained = value < gain_from and value <= gain_from - min_gain * gain_from
            gain_from, without = (value, 0) if gained else (gain_from, without + 1)
            best, best_step = (value, step) if value < best else (best, best_step)
            expected += [best_step, without]
        counts, text = line.split("{")
        assert list(map(int, counts.split())) == expected
        assert json.loads("{" + text) == dict(draws=30, step=len(values), best_step=best_step, without_gain=without, start=start,
                                              newest=values[-1], best=best, gain_from=gain_from)
        assert ask(["read {" + text]) == ["{" + text]
    text = told[0][told[0].index("{"):]
    spoiled = [text[:-1], text.replace("30", "0"), text.replace("30", "-1"), text.replace("30", "030"), re.sub('"best": [0-9.]+', '"best": nan', text), text + " ",
               "", re.sub('"step": 6', '"step": 5', text)]
    assert ask("read " + other for other in spoiled) == ["no"] * len(spoiled)


# ---------------------------------------------------------------------------- the best word


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A run whose last look is spoiled, so that the best word is an earlier one."""
    config, output = write_recipe(tmp_path_factory.mktemp("looked"), **LOOKED)
    run(program("tests/spoil"), config, "validation", STEPS, 0, 10, threads=2)
    return config, output


def copy_of(looked, folder, first_steps=STEPS):
    """The run as if it had been killed after that many steps."""
    output = folder / "out"
    shutil.copytree(looked[1], output)
    for path in list(output.glob("learned_embeds*")) + list((output / "checkpoints").iterdir()):
        step = int((re.findall(r"\d+", path.name) or [STEPS])[0])
        if step > first_steps or step == STEPS > first_steps:
            path.unlink()
    config = json.loads(looked[0].read_text())
    config["output"]["dir"] = str(output)
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "config.json", output


def test_the_best_word_is_kept_and_so_is_the_last(looked):
    output = looked[1]
    start, looks = metrics(output)[0]["validation_start"], looks_of(output)
    assert [step for step, _, _ in looks] == [4, 8, 12] and looks[-1][1] > 0.3
    assert not any("validation_start" in m for m in metrics(output)[1:])
    best = min((value, step) for step, value, _ in looks)[1]
    assert min(value for _, value, _ in looks) < start and best in (4, 8) and looks[-1][2] == best
    assert learned(output) == word_of(output, best)
    assert last(output) == word_of(output, STEPS) != learned(output)


@pytest.mark.parametrize("harm", ["nothing", "both are missing", "they changed places", "the last is cut short"])
def test_a_finished_run_has_both_words_again(looked, tmp_path, harm):
    """And pictures, report and inspect are of the best."""
    config, output = copy_of(looked, tmp_path)
    best, end = learned(output), last(output)
    paths = output / "learned_embeds.safetensors", output / "learned_embeds-last.safetensors"
    if harm == "both are missing":
        for path in paths:
            path.unlink()
    elif harm == "they changed places":
        paths[0].write_bytes(end), paths[1].write_bytes(best)
    elif harm == "the last is cut short":
        paths[1].write_bytes(end[:-4])
    done = run(program("zoodip"), "train", config, "--resume")
    assert (learned(output), last(output)) == (best, end)
    assert done.stderr.count("written anew") == {"nothing": 0, "the last is cut short": 1}.get(harm, 2)
    step = looks_of(output)[-1][2]
    words = re.compile(rf"step {step}: 0\.0\d+, \d\S* % below the start's 0\.0\d+")
    assert words.search(done.stderr) and words.search(run(program("zoodip"), "inspect", output).stdout)
    assert words.search((output / "report.html").read_text().replace("&#39;", "'"))


def test_a_word_that_never_was_better_than_the_start_is_the_last_and_that_is_said(tmp_path):
    config, output = write_recipe(tmp_path, **{**LOOKED, "optim__steps": 4, "output__validate_every": 2, "optim__lr": 10})
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [{"name": "worse"}]}))
    run(program("zoodip"), "run", path, threads=2)
    (job,) = json.loads((output / "summary.json").read_text())["jobs"]
    folder = output / "worse"
    assert all(value > job["validation_first"] and best == 0 for _, value, best in looks_of(folder))
    assert learned(folder) == last(folder) == word_of(folder, 4)
    for text in (job["word"], run(program("zoodip"), "inspect", folder).stdout, (folder / "report.html").read_text()):
        assert "step 4, the last: no validation is below the " in text
    assert job["best_step"] == 0 and job["validation_best"] == job["validation_first"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_same_looks_on_any_ranks(looked, tmp_path, ranks):
    config, output = write_recipe(tmp_path, **{**LOOKED, "optim__steps": 8})
    mpirun(ranks, program("zoodip"), "train", config)
    assert looks_of(output) == looks_of(looked[1])[:2] and metrics(output)[0]["validation_start"] == metrics(looked[1])[0]["validation_start"]
    assert learned(output) == word_of(looked[1], looks_of(output)[-1][2])


@pytest.mark.parametrize("first_steps", [3, 4, 9])
def test_a_resumed_run_finds_the_same_best_word(looked, tmp_path, first_steps):
    """Before any look, right after one, and between two."""
    config, output = copy_of(looked, tmp_path, first_steps)
    done = run(program("tests/spoil"), config, "validation", STEPS, 0, 10, "resume", threads=2)
    assert f"resuming after step {first_steps}" in done.stderr
    assert (learned(output), last(output)) == (learned(looked[1]), last(looked[1]))
    assert looks_of(output) == looks_of(looked[1])
    newest = f"checkpoints/step-{STEPS}.safetensors"
    assert (output / newest).read_bytes() == (looked[1] / newest).read_bytes()


def test_a_checkpoint_of_before_goes_on_and_its_start_is_looked_at_again(looked, tmp_path):
    config, output = copy_of(looked, tmp_path, 3)
    change_checkpoint(output / "checkpoints/step-3.safetensors", lambda facts: (
        facts.pop("looks"), facts.update(recipe=re.sub(r'"output":\{[^}]*\},', "", facts["recipe"]))))
    done = run(program("zoodip"), "train", config, "--resume", check=False)
    assert done.returncode == 2 and "output.validate_every is 0 there and 4 here" in done.stderr
    done = run(program("zoodip"), "train", config, "--resume", "--set", "output.validate_every=0", "--set", "output.save_every=5")
    assert "resuming after step 3" in done.stderr and "looking at the start again" in done.stderr
    assert last(output) == last(looked[1])
    assert [m["step"] for m in metrics(output) if "validation_start" in m] == [1, 4]


# ---------------------------------------------------------------------------- a picture held out


@pytest.mark.parametrize("captions", [True, False])
def test_a_picture_held_out_is_for_validation_alone(tmp_path, captions):
    """Steps are those of a run without it, and looks those of a run with it alone."""
    photos = sorted(str(path) for path in (TOYBOX / "subjects" / "bear5").glob("*.png"))
    keys = dict(LOOKED, optim__steps=4, zo__n=2, optim__batch_size=3, data__repeats=1, use_cc=captions, output__validate_every=0,
                data__flip=True)
    runs = {"held": dict(data__hold_out=True), "without": dict(data__images=photos[:-1]), "alone": dict(data__images=photos[-1:])}
    for name, more in runs.items():
        config, output = write_recipe(tmp_path / name, **{**keys, **more})
        run(program("zoodip"), "train", config, threads=2)
        runs[name] = output
    assert last(runs["held"]) == last(runs["without"]) and losses_of(runs["held"]) == losses_of(runs["without"])
    assert metrics(runs["held"])[0]["validation_start"] == metrics(runs["alone"])[0]["validation_start"]
    assert metrics(runs["held"])[0]["validation_start"] != metrics(runs["without"])[0]["validation_start"]


def test_one_picture_cannot_be_held_out(tmp_path):
    photo = str(TOYBOX / "subjects" / "bear5" / "00.png")
    config, output = write_recipe(tmp_path, **{**LOOKED, "data__images": [photo], "data__hold_out": True})
    refused(run(program("zoodip"), "train", config, check=False), f"{config}: data.hold_out: is true, but data.images has 1 picture")
