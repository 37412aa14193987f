"""Which derivative a run takes: what the config says, what auto makes of it, and what a checkpoint, a device and zo.sides allow."""
import json
import re
import shutil

import pytest

from conftest import ROOT, change_checkpoint, learned, losses_of, mpirun, program, recipe, refused, run, write_recipe

TINY = dict(optim__steps=4, zo__tau=4, output__checkpoint_every=2, output__checkpoint_keep=0, output__prompts=[])


def train(config, *options, ranks=1, **more):
    return mpirun(ranks, program("zoodip"), "train", config, *options, **more)


def setting(**changes):
    """As options: zo__n=1 is --set zo.n=1."""
    return [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={json.dumps(value)}")]


def recipe_of(output, step):
    data = (output / "checkpoints" / f"step-{step}.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["recipe"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """derivative -> the folder of a whole run, which must not be changed."""
    made = {}
    for mode in ("difference", "tangent"):
        config, output = write_recipe(tmp_path_factory.mktemp(mode), zo__derivative=mode, **TINY)
        run(program("zoodip"), "train", config)
        made[mode] = output
    return made


@pytest.fixture
def begun(runs, tmp_path):
    """A copy of a run at its second step, and a recipe to go on with it, which says nothing of the derivative."""
    def copy(mode, **changes):
        config, output = write_recipe(tmp_path, **{**TINY, **changes})
        shutil.copytree(runs[mode], output)
        for path in output.glob("checkpoints/step-[34].*"):
            path.unlink()
        lines = (output / "metrics.jsonl").read_text().splitlines(True)
        (output / "metrics.jsonl").write_text("".join(lines[:2]))
        return config, output
    return copy


# -------------------------------------------------------------------------------- the config


@pytest.mark.parametrize("command", ["train", "inspect", "bench"])
def test_tangents_have_one_side(tmp_path, command):
    config, output = write_recipe(tmp_path, zo__derivative="tangent", **TINY)
    refused(run(program("zoodip"), command, config, "--set", "zo.sides=2", check=False), f"{config}: zo.derivative: is tangent", "zo.sides is 2")
    refused(run(program("zoodip"), command, config, *setting(zo__derivativ="tangent"), check=False), "did you mean zo.derivative?")
    assert not output.exists()


def test_an_eps_beside_tangents_is_named_once_and_only_where_it_is_given(tmp_path):
    config, output = write_recipe(tmp_path, zo__derivative="tangent", **TINY)
    said = [run(program("zoodip"), "inspect", config, "--quiet", *options).stderr for options in (
        [], setting(zo__eps=None), setting(zo__eps=0.01), setting(zo__eps=0.01, zo__derivative="difference"))]
    assert [text.count("zo.eps") for text in said] == [0, 0, 1, 0]
    assert said[2] == "zoodip: warning: --set: zo.eps: is not used: zo.derivative is tangent\n"
    config.write_text(json.dumps(recipe(output, zo__derivative="tangent", zo__eps=0.001, **TINY)))
    assert f"warning: {config}: zo.eps: is not used" in run(program("zoodip"), "inspect", config, "--quiet").stderr


def test_a_recipe_of_tangents_does_without_eps(tmp_path):
    config, _ = write_recipe(tmp_path, **TINY)
    recipes = {mode: json.loads(run(program("tests/config"), "--recipe", config, f"zo.derivative={mode}").stdout)["zo"] for mode in ("difference", "tangent")}
    assert "eps" in recipes["difference"] and "eps" not in recipes["tangent"]


# -------------------------------------------------------------------------------- auto


def test_auto_is_said_with_its_reason_and_ends_as_what_it_takes(tmp_path, runs):
    config, output = write_recipe(tmp_path, **TINY)
    said = re.findall("^zoodip: zo.derivative: .*$", train(config).stderr, re.M)
    taken = re.fullmatch("zoodip: zo.derivative: auto takes (difference|tangent), on the CPU", *said)[1]
    assert f"else, on the CPU, {taken}s" in (ROOT / "configs" / "README.md").read_text().replace("\n", " ")
    assert learned(output) == learned(runs[taken])
    assert recipe_of(output, 4)["zo"]["derivative"] == taken
    both = train(config, "--overwrite", *setting(zo__sides=2)).stderr
    assert "zo.derivative: auto takes difference, because zo.sides is 2\n" in both
    assert "zo.derivative" not in train(config, "--overwrite", "--quiet").stderr


def test_the_report_and_bench_name_it(runs):
    for mode, output in runs.items():
        assert re.search(rf"derivative</t[hd]>\s*<td>{mode}<", (output / "report.html").read_text())
        assert f"  zo.derivative     {mode}\n" in run(program("zoodip"), "inspect", output).stdout
        checkpoint = output / "checkpoints" / "step-4.safetensors"
        assert f"  zo.derivative = {mode}\n" in run(program("zoodip"), "inspect", checkpoint).stdout


@pytest.mark.parametrize("changes", [dict(zo__n=3), dict(zo__n=1, optim__batch_size=3, zo__directions_per="picture"), dict(zo__n=33)],
                         ids=str)
def test_inspect_plans_a_steps_arena_to_the_byte(tmp_path, changes):
    config, _ = write_recipe(tmp_path, **{**TINY, **changes})
    step = json.loads(run(program("zoodip"), "inspect", config).stdout)["step"]
    for mode, planned in step["arena_bytes"].items():
        bench = json.loads(run(program("zoodip"), "bench", config, "--evaluations", 1, *setting(zo__derivative=mode)).stdout)
        assert bench["derivative"] == mode and ("tangent_bits" in bench) == (mode == "tangent") and bench["arena_bytes"] == planned
        slopes = changes["zo__n"] * changes.get("optim__batch_size", 1)
        assert abs(bench["slopes_per_second"] * bench["step_seconds"] - slopes) < 1e-6
    assert step["arena_bytes"]["tangent"] <= step["arena_bytes"]["difference"]
    assert set(json.loads(run(program("zoodip"), "inspect", config, *setting(zo__sides=2)).stdout)["step"]["arena_bytes"]) == {"difference"}


# -------------------------------------------------------------------------------- going on with a run


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("mode", ["difference", "tangent"])
def test_auto_goes_on_with_what_the_checkpoint_has(begun, runs, mode, ranks):
    config, output = begun(mode)
    said = train(config, "--resume", ranks=ranks).stderr
    assert f"zo.derivative: auto takes {mode}, as in the checkpoint\n" in said and "resuming after step 2\n" in said
    assert learned(output) == learned(runs[mode]) and losses_of(output) == losses_of(runs[mode])
    assert recipe_of(output, 4)["zo"]["derivative"] == mode


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("mode, other", [("difference", "tangent"), ("tangent", "difference")])
def test_the_other_derivative_is_refused_before_any_work(begun, mode, other, ranks):
    config, output = begun(mode)
    before = sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*"))
    done = train(config, "--resume", *setting(zo__derivative=other), ranks=ranks, check=False)
    named = [line for line in done.stderr.splitlines() if "zo.derivative" in line]
    assert done.returncode == 2 and len(named) == 1 and "encoding" not in done.stderr
    assert named[0].startswith(f"zoodip: --set: zo.derivative: is {other}, but the checkpoints in {output} are of a run with {mode}; expected")
    assert sorted((path, path.stat().st_mtime_ns) for path in output.rglob("*")) == before


def test_a_checkpoint_of_tangents_goes_on_with_any_eps_and_with_no_second_side(begun, runs):
    config, output = begun("tangent")
    done = train(config, "--resume", *setting(zo__sides=2), check=False)
    assert done.returncode == 2 and f"--set: zo.sides: is 2, but the checkpoints in {output} are of a run with tangents" in done.stderr
    train(config, "--resume", *setting(zo__eps=0.5))
    assert learned(output) == learned(runs["tangent"])


def test_overwritten_checkpoints_decide_nothing(begun, runs):
    config, output = begun("tangent")
    assert "auto takes" in train(config, "--overwrite", *setting(zo__sides=2)).stderr
    assert recipe_of(output, 4)["zo"] | {"derivative": "difference", "sides": 2} == recipe_of(output, 4)["zo"]


def without_new_keys(output):
    """As the program wrote checkpoints before these keys existed."""
    def change(facts):
        old = json.loads(facts["recipe"])
        del old["zo"]["derivative"], old["zo"]["directions_per"]
        facts["recipe"] = json.dumps(old, separators=(",", ":"))
    for path in output.glob("checkpoints/*"):
        change_checkpoint(path, change)


def test_a_checkpoint_from_before_is_of_differences(begun, runs):
    config, output = begun("difference")
    without_new_keys(output)
    assert "  zo.derivative = difference\n" in run(program("zoodip"), "inspect", output / "checkpoints" / "step-2.safetensors").stdout
    for wrong in (dict(zo__derivative="tangent"), dict(zo__directions_per="picture"), dict(zo__n=3)):
        done = train(config, "--resume", *setting(**wrong), check=False)
        assert done.returncode == 2 and done.stderr.count(next(iter(wrong)).replace("__", ".")) == 1
    assert "auto takes difference, as in the checkpoint" in train(config, "--resume").stderr
    assert learned(output) == learned(runs["difference"]) and losses_of(output) == losses_of(runs["difference"])


# -------------------------------------------------------------------------------- a queue


def queue(path, *options, **more):
    return run(program("zoodip"), "run", path, *options, **more)


def states(output):
    return {job["name"]: (job["state"], job.get("reason", "")) for job in json.loads((output / "summary.json").read_text())["jobs"]}


def test_jobs_of_a_queue_each_take_their_own(tmp_path, runs):
    path, output = tmp_path / "jobs.json", tmp_path / "out"
    jobs = {"auto": {}, "a": {"zo.derivative": "tangent"}, "b": {"zo.derivative": "difference"}, "two": {"zo.derivative": "tangent", "zo.sides": 2}}
    path.write_text(json.dumps({"defaults": recipe(output, **TINY), "jobs": [{"name": name, **own} for name, own in jobs.items()]}))
    assert queue(path, check=False).returncode == 1
    assert {name: state for name, (state, _) in states(output).items()} == {"auto": "done", "a": "done", "b": "done", "two": "failed"}
    assert "zo.derivative: is tangent" in states(output)["two"][1]
    assert learned(output / "a") == learned(runs["tangent"]) and learned(output / "b") == learned(runs["difference"])
    assert "zo.derivative: tangent\n" in (output / "a" / "log.txt").read_text()

    # jobs that a program from before these keys finished, and one that it had begun; a finished one of tangents under auto
    for name in ("b", "a"):
        result = json.loads((output / name / "job.json").read_text())
        was = json.loads(result["recipe"])
        assert was["zo"]["derivative"] == {"a": "tangent", "b": "difference"}[name]
        if name == "b":
            del was["zo"]["derivative"], was["zo"]["directions_per"]
            (output / name / "job.json").write_text(json.dumps({**result, "recipe": json.dumps(was)}))
    del jobs["two"]
    jobs["a"] = {}
    path.write_text(json.dumps({"defaults": recipe(output, **TINY), "jobs": [{"name": name, **own} for name, own in jobs.items()]}))
    again = queue(path)
    assert "3 jobs finished before" in again.stderr and "another recipe" not in again.stderr

    # going on: with the derivative of each job's checkpoints, and a refusal that is the job's own
    for name in ("a", "b"):
        (output / name / "job.json").unlink()
        (output / name / "checkpoints" / "step-4.safetensors").unlink()
        lines = (output / name / "metrics.jsonl").read_text().splitlines(True)
        (output / name / "metrics.jsonl").write_text("".join(lines[:2]))
    jobs["b"] = {"zo.derivative": "tangent"}
    path.write_text(json.dumps({"defaults": recipe(output, **TINY), "jobs": [{"name": name, **own} for name, own in jobs.items()]}))
    assert queue(path, "--resume", check=False).returncode == 1
    assert states(output)["a"] == ("done", "") and learned(output / "a") == learned(runs["tangent"])
    assert states(output)["b"][0] == "failed" and "are of a run with difference" in states(output)["b"][1]


# -------------------------------------------------------------------------------- a GPU


def test_a_plan_of_a_gpu_names_the_derivative_that_it_takes(tmp_path):
    config, _ = write_recipe(tmp_path, **TINY)
    for asked, takes in (("auto", "tangent"), ("tangent", "tangent"), ("difference", "difference")):
        shown = run(program("zoodip"), "inspect", config, *setting(zo__derivative=asked))
        assert json.loads(shown.stdout)["memory_plan"]["derivative"] == takes and f"with zo.derivative {takes};" in shown.stderr
    shown = run(program("zoodip"), "inspect", config, *setting(zo__sides=2, zo__derivative="auto"))
    assert json.loads(shown.stdout)["memory_plan"]["derivative"] == "difference"
