"""Results that a run finds in its folder. Nothing is overwritten unasked, and with --overwrite the folder holds, whenever the run is
killed, the old word or a checkpoint of the new run."""
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from conftest import BUILD, NIGHTLY, ROOT, TOYBOX, learned, metrics, program, refused, run, slice_of, train_alone, write_recipe
from live import afresh, caught, kill, nearly_done, newest, rank_processes, start, steps

OLD = dict(optim__steps=4, output__checkpoint_every=2, output__save_every=2, output__sample_every=2, output__prompts=["a {}"],
           output__sample_steps=1, zo__tau=4)
NEW = dict(optim__steps=4, output__checkpoint_every=2, output__prompts=[], zo__tau=4, seed=5)
FAULTS = dict(LD_PRELOAD=str(BUILD / "tests/libfaults.so"))
WORD, CHECKPOINT = "learned_embeds.safetensors", "checkpoints/step-4.safetensors"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder of a finished run, with a stranger's files, that tests copy."""
    config, output = write_recipe(tmp_path_factory.mktemp("old"), **OLD)
    run(program("zoodip"), "train", config)
    for name in ("notes.txt", "log.txt", "learned_embeds.png", "checkpoints/step-4.bak", "samples/mine.png"):
        (output / name).write_text("a stranger's")
    return output


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return train_alone(tmp_path_factory.mktemp("new"), **NEW)


def files(folder):
    """{path: contents} of all files in a folder and below."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()} if folder.exists() else {}


def strangers(found):
    return {name for name, text in found.items() if text == b"a stranger's"}


def results(found):
    """Without strangers' files, and without the one that says how far previous/ is."""
    return {name: text for name, text in found.items() if text != b"a stranger's" and not name.startswith(".")}


@pytest.fixture
def into(tmp_path, old):
    """Writes another recipe for a copy of the old run's folder; returns (config path, the folder)."""
    config, output = write_recipe(tmp_path, **NEW)
    shutil.copytree(old, output)
    return config, output


# -------------------------------------------------------------------------------- unasked


KEPT = {"everything": ["*"], "the word": [WORD], "a word of before": ["learned_embeds-steps-2.safetensors"], "a checkpoint": ["checkpoints/*"],
        "lines": ["metrics.jsonl"], "a report": ["report.html"], "a sample": ["samples/*"]}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_a_folder_with_results_is_refused_before_any_work(into, old, tmp_path, kept):
    config, output = into
    for name in files(output):
        if not any(Path(name).match(pattern) for pattern in kept) and kept != ["*"]:
            (output / name).unlink()
    before = files(output)
    # the folder comes before the photos, which are missing
    refused(run(program("zoodip"), "train", config, "--set", "data.images=/nowhere", check=False), "output.dir", str(output), "--resume", "--overwrite")
    assert files(output) == before


def test_what_is_no_result_does_not_refuse_a_run(into, new):
    """Strangers' files, and those of a run that ended before its first step."""
    config, output = into
    for name in results(files(output)):
        (output / name).unlink()
    (output / "metrics.jsonl").touch()
    (output / "events.out.tfevents.0000000001.zoodip").write_text("old")
    run(program("zoodip"), "train", config)
    assert learned(output) == new[0] and len(strangers(files(output))) == 5 and not (output / "previous").exists()


@pytest.mark.parametrize("command", ["train", "run"])
def test_both_options_together_are_refused(tmp_path, command):
    refused(run(program("zoodip"), command, tmp_path / "none.json", "--resume", "--overwrite", check=False), "--resume", "--overwrite", "one of them")


# -------------------------------------------------------------------------------- asked


def test_overwrite_leaves_the_new_run_and_strangers_files(into, old, new):
    config, output = into
    done = run(program("zoodip"), "train", config, "--overwrite")
    assert f"{output}/previous: holds the results from before --overwrite" in done.stderr
    found = files(output)
    assert learned(output) == new[0] and len(metrics(output)) == 4
    assert strangers(found) == strangers(files(old)) and not (output / "previous").exists()
    assert not any(name.startswith(("samples/step", "learned_embeds-steps-2")) for name in found)
    assert len(list(output.glob("events.out.tfevents.*"))) == 1


def test_overwrite_of_a_run_that_cannot_begin_moves_nothing(into):
    config, output = into
    before = files(output)
    refused(run(program("zoodip"), "train", config, "--overwrite", "--set", "data.images=/nowhere", check=False), "data.images")
    assert files(output) == before and not (output / "previous").exists()


def test_a_run_that_was_killed_before_it_moved_anything_still_overwrites(into, old, new):
    """As a restart does, which resumes: the old checkpoint is of another recipe."""
    config, output = into
    env = dict(**FAULTS, ZOODIP_FAULTS="open KILL 1 1 text_encoder")
    assert run(program("zoodip"), "train", config, "--overwrite", env=env, check=False).returncode == -signal.SIGKILL
    assert results(files(output)) == results(files(old)) | {"previous/.moving": b""}
    refused(run(program("zoodip"), "train", config, "--overwrite", "--set", "data.images=/nowhere", check=False), "data.images")
    assert (output / "previous/.moving").exists()  # that is not for a later run to take back
    run(program("zoodip"), "train", config, "--resume")
    assert learned(output) == new[0] and not (output / "previous").exists()


@pytest.mark.parametrize("fault", slice_of(["open KILL 1 1 text_encoder", "rename KILL 1 1 *", "rename KILL 4 4 *"], 3))
def test_a_queue_that_was_killed_before_it_moved_everything_still_overwrites(tmp_path, new, fault):
    (config, output), jobs = write_recipe(tmp_path, **OLD), tmp_path / "jobs.json"
    jobs.write_text(json.dumps(dict(defaults=json.loads(config.read_text()), jobs=[dict(name="a"), dict(name="b")])))
    run(program("zoodip"), "run", jobs)
    before = files(output)
    refused(run(program("zoodip"), "run", jobs, "--overwrite", "--set", "model=/nowhere", check=False), "/nowhere")
    run(program("zoodip"), "run", jobs, "--overwrite", "--set", "data.images=/nowhere", check=False)
    assert {n: t for n, t in files(output).items() if "/" in n} == {n: t for n, t in before.items() if "/" in n} and not list(output.glob("*/previous"))
    options = ["--set", "seed=5"]
    assert run(program("zoodip"), "run", jobs, *options, "--overwrite", env=dict(**FAULTS, ZOODIP_FAULTS=fault), check=False).returncode == -signal.SIGKILL
    refused(run(program("zoodip"), "run", jobs, *options, check=False), "--resume", "--overwrite")
    run(program("zoodip"), "run", jobs, *options, "--resume")
    for name in ("a", "b"):
        assert learned(output / name) == new[0] and not (output / name / "previous").exists()


def begun(output, made=2):
    """Has a run that was started just now made so many steps?"""
    lines = output / "metrics.jsonl"
    before = lines.stat().st_mtime_ns
    return lambda: steps(output) >= made and lines.stat().st_mtime_ns > before


@afresh
def test_old_results_stay_until_the_first_checkpoint(tmp_path, old, new):
    config, output = write_recipe(tmp_path, **{**NEW, "output__checkpoint_every": 1000})
    shutil.copytree(old, output)
    for _ in range(2):  # the second finds lines of the first, and old results that are worth more
        when = begun(output)
        process = start(1, "train", config, "--overwrite", "--set", "optim.steps=100000")
        with caught(process, config, when=when, unless=lambda: newest(output) > 0):
            kill(process, config)
        assert results(files(output / "previous")) == results(files(old))
        assert strangers(files(output)) == strangers(files(old)) and not (output / WORD).exists()
    refused(run(program("zoodip"), "train", config, check=False), "previous/", "--resume", "--overwrite")
    done = run(program("zoodip"), "train", config, "--resume")
    assert f"{output}/previous: holds the results from before --overwrite" in done.stderr
    assert learned(output) == new[0] and not (output / "previous").exists()


@pytest.mark.skipif(not NIGHTLY, reason="takes long; test_slurm does the same")
@afresh
def test_run_sh_overwrites_once(tmp_path, old, new):
    """A rank is killed after a checkpoint: the run goes on, instead of beginning anew."""
    config, output = write_recipe(tmp_path, **{**NEW, "optim__steps": 60, "output__checkpoint_every": 5})
    shutil.copytree(old, output)
    when = begun(output, 6)
    process = start(2, "train", config, "--overwrite", launcher=[ROOT / "launch/run.sh", "-n", 2, "--restarts", 1])
    with caught(process, config, when=lambda: when() and newest(output) >= 5, unless=nearly_done(output, 60)):
        os.kill(rank_processes(config)[0], signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "restarting with --resume (1 of 1)" in said and "resuming after step" in said, said
    assert len(metrics(output)) == 60 and not (output / "previous").exists()


def test_a_run_that_was_killed_while_it_moved_goes_on_as_a_new_one(tmp_path, old, new):
    """Whichever files are still in their places: no old checkpoint is taken for its own, and none stands in its way."""
    for k in slice_of(range(2, 16), 7):
        config, output = write_recipe(tmp_path / f"{k}", **NEW)
        shutil.copytree(old, output)
        env = dict(**FAULTS, ZOODIP_FAULTS=f"rename KILL {k} {k} *")
        assert run(program("zoodip"), "train", config, "--overwrite", env=env, check=False).returncode == -signal.SIGKILL
        assert (output / "previous" / ".moving").exists() == (k <= 12)  # eight files, two checkpoints, a picture, and then itself
        run(program("zoodip"), "train", config, "--resume")
        assert learned(output) == new[0] and not (output / "previous").exists()


@pytest.mark.parametrize("theirs", ["backup", "a file", "a link"])
def test_a_previous_that_is_somebody_elses_is_left_alone(into, old, tmp_path, theirs):
    config, output = into
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if theirs == "backup":
        (output / "previous").mkdir()
        shutil.copy(old / WORD, output / "previous")
    elif theirs == "a file":
        (output / "previous").write_text("mine")
    else:
        (output / "previous").symlink_to(elsewhere)
    before = files(output)
    refused(run(program("zoodip"), "train", config, "--overwrite", check=False), f"{output}/previous", "another name")
    assert files(output) == before and list(elsewhere.iterdir()) == []
    run(program("zoodip"), "train", config, "--resume", "--set", "optim.steps=5", *as_before())
    assert (output / "previous").exists()


def as_before():
    """Options that make the new recipe the old one."""
    return ["--set", "seed=0"]


def test_checkpoints_that_a_link_leads_to_stay_there(into, tmp_path, new):
    config, output = into
    shutil.move(output / "checkpoints", tmp_path / "scratch")
    (output / "checkpoints").symlink_to(tmp_path / "scratch")
    refused(run(program("zoodip"), "train", config, check=False), "--overwrite")
    before = files(tmp_path / "scratch")
    run(program("zoodip"), "train", config, "--overwrite")
    assert learned(output) == new[0] and files(tmp_path / "scratch") == before and not (output / "checkpoints").is_symlink()


# -------------------------------------------------------------------------------- killed at every call


def begin(output, way, kill_at=0, calls="rename,unlink,mkdir,fsync", **env):
    """What a run does to a folder's old results; killed before the call of that number. Returns whether it was."""
    env.update(FAULTS if kill_at or env else {}, ZOODIP_FAULTS=f"{calls} KILL {kill_at} {kill_at} *")
    done = run(program("tests/previous"), output, way, env=env, check=False)
    assert done.returncode in ((-signal.SIGKILL, 0) if kill_at else (0,)), done.stderr
    return done.returncode != 0


class Folder:
    """A copy of the old run's folder, in which a new run begins."""

    def __init__(self, here, old, new_checkpoint):
        self.old, self.new_checkpoint, self.output = old, new_checkpoint, here / "out"
        if self.output.exists():
            shutil.rmtree(self.output)
        shutil.copytree(old, self.output)

    def check(self):
        """The old word, or a checkpoint of the new run; the old checkpoint is never taken for one. Strangers' files."""
        found = files(self.output)
        has_new = found.get(CHECKPOINT) == self.new_checkpoint
        for name, text in results(files(self.old)).items():
            there = found.get(f"previous/{name}", found.get(name))
            assert has_new or there == text, name
        assert strangers(found) == strangers(files(self.old))

    def lines(self):
        """The new run makes a step, which it may do only when nothing old is left in the folder."""
        assert not results({n: t for n, t in files(self.output).items() if not n.startswith("previous/")})
        (self.output / "metrics.jsonl").write_text("new")

    def checkpoint(self):
        (self.output / "checkpoints").mkdir(exist_ok=True)
        (self.output / CHECKPOINT).write_bytes(self.new_checkpoint)

    def checked(self, way, kill_at=0):
        killed = begin(self.output, way, kill_at)
        self.check()
        return killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory, old):
    config, output = write_recipe(tmp_path_factory.mktemp("checkpoint"), **NEW)
    run(program("zoodip"), "train", config)
    here, text = tmp_path_factory.mktemp("killed"), (output / CHECKPOINT).read_bytes()
    assert text != (old / CHECKPOINT).read_bytes()
    return lambda: Folder(here, old, text)


def calls_of(folder, way, prepare=lambda f: None):
    """How many calls there are to be killed at."""
    f = folder()
    prepare(f)
    log = f.output.parent / "calls"
    log.unlink(missing_ok=True)
    begin(f.output, way, ZOODIP_FAULTS_COUNT=str(log))
    count = len(log.read_text().splitlines())
    f = folder()
    prepare(f)
    assert count > 12 and not begin(f.output, way, count + 1)
    return count


@pytest.mark.parametrize("then", ["overwrite", "resume"])
def test_overwrite_may_be_killed_at_any_moment(folder, then):
    count = calls_of(folder, "overwrite")
    for k in slice_of(range(1, count + 1), 2):
        f = folder()
        assert f.checked("overwrite", k)
        if then == "resume" and not (f.output / "previous" / ".moving").exists() and not (f.output / "previous" / ".moved").exists():
            continue  # nothing was moved: the old run goes on
        f.checked(then)
        f.lines()
        f.check()
        f.checked("overwrite")  # lines are not worth what is in previous/
        assert results(files(f.output / "previous")) == results(files(f.old))
        f.checkpoint()
        f.checked("checkpoint")
        assert not (f.output / "previous").exists()


@pytest.mark.parametrize("then", ["overwrite", "resume"])
def test_and_so_may_what_follows(folder, then):
    count = calls_of(folder, "overwrite")
    for k, j in slice_of([(k, j) for k in range(3, count + 1) for j in range(1, count + 1)], 150):
        f = folder()
        f.checked("overwrite", k)
        f.checked(then, j)
        f.checked("overwrite")
        f.lines()
        f.check()


def test_the_removal_may_be_killed_at_any_moment(folder):
    def prepare(f):
        begin(f.output, "overwrite")
        f.checkpoint()

    count = calls_of(folder, "checkpoint", prepare)
    for k, then in slice_of([(k, then) for k in range(1, count + 1) for then in ("checkpoint", "resume", "overwrite")], 4):
        f = folder()
        prepare(f)
        f.checked("checkpoint", k)
        begin(f.output, then)
        if then == "overwrite":  # the new run's checkpoint is the old one now
            assert (f.output / "previous" / CHECKPOINT).read_bytes() == f.new_checkpoint and not (f.output / CHECKPOINT).exists()
            assert len(results(files(f.output / "previous"))) == 1
        else:
            begin(f.output, "checkpoint")
            assert files(f.output / "previous") == {} and (f.output / CHECKPOINT).exists()


# -------------------------------------------------------------------------------- quantize


def quantized(model, output, *options, **more):
    return run(program("zoodip"), "quantize", "--model", model, "--output", output, *options, **more)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{bits: a quantized toybox}"""
    here = tmp_path_factory.mktemp("models")
    for bits in (8, 4):
        done = quantized(TOYBOX / "model", here / f"{bits}", "--bits", bits)
        assert done.stderr.splitlines()[-1] == f"zoodip: wrote {here}/{bits}"
    return {bits: files(here / f"{bits}") for bits in (8, 4)}


def write_files(folder, found):
    for name, text in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def everything(folder):
    """All names in a folder, hidden ones too."""
    return {p.name for p in folder.iterdir()}


def test_a_model_is_not_quantized_into_a_folder_that_holds_something(tmp_path, models):
    out = tmp_path / "out"
    write_files(out, models[8])
    refused(quantized(TOYBOX / "model", out, check=False), "--output", str(out), "--overwrite")
    assert files(out) == models[8]
    for stranger in ("unet/notes.md", "more/config.json", "model.ckpt"):
        write_files(out, {stranger: b"a stranger's"})
        refused(quantized(TOYBOX / "model", out, "--overwrite", check=False), "--output", f"{out}/{stranger.split('/')[0]}")
        assert files(out) == {**models[8], stranger: b"a stranger's"} and everything(tmp_path) == {"out"}
        (out / stranger).unlink()
        if stranger.startswith("more"):
            (out / "more").rmdir()
    quantized(TOYBOX / "model", f"{out}/", "--bits", 4, "--overwrite")
    assert files(out) == models[4] and everything(tmp_path) == {"out"}


@pytest.mark.parametrize("before", [None, "an empty folder", "a link", "a quantized model"])
def test_a_damaged_file_leaves_no_part_of_a_folder(tmp_path, models, before):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(TOYBOX / "model", model)
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"  # the last to be read
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    if before == "an empty folder":
        out.mkdir()
    elif before == "a link":
        (tmp_path / "far").mkdir()
        out.symlink_to(tmp_path / "far")
    elif before:
        write_files(out, models[8])
    names, found = everything(tmp_path), files(out)
    done = quantized(model, out, "--bits", 4, "--overwrite", check=False)
    assert done.returncode == 2 and str(weights) in done.stderr and "wrote" not in done.stderr
    assert everything(tmp_path) == names and files(out) == found
    weights.write_bytes(whole)
    quantized(model, out, "--bits", 4, "--overwrite")
    assert files(out) == models[4] and everything(tmp_path) == names | {"out"}
    assert out.is_symlink() == (before == "a link")


def test_quantize_may_be_killed_at_any_moment(tmp_path, models):
    calls, log, out = "rename,unlink,mkdir,fsync,exchange", tmp_path / "calls", tmp_path / "out"
    write_files(out, models[8])
    quantized(TOYBOX / "model", out, "--bits", 4, "--overwrite", env={**FAULTS, "ZOODIP_FAULTS": f"{calls} 0 0 0 *", "ZOODIP_FAULTS_COUNT": str(log)})
    count = len(log.read_text().splitlines())
    assert files(out) == models[4] and count > 20
    for k in slice_of(range(1, count + 1), 20):
        shutil.rmtree(out, ignore_errors=True)
        write_files(out, models[8])
        done = quantized(TOYBOX / "model", out, "--bits", 4, "--overwrite", check=False,
                         env={**FAULTS, "ZOODIP_FAULTS": f"{calls} KILL {k} {k} *"})
        assert done.returncode == -signal.SIGKILL and files(out) in (models[8], models[4]), k
        quantized(TOYBOX / "model", out, "--bits", 4, "--overwrite")
        assert files(out) == models[4] and everything(tmp_path) == {"out", "calls"}, k


def test_a_file_system_that_cannot_exchange_folders(tmp_path, models):
    out = tmp_path / "out"
    write_files(out, models[8])
    env = dict(**FAULTS, ZOODIP_FAULTS="exchange 22 1 1 *")
    quantized(TOYBOX / "model", out, "--bits", 4, "--overwrite", env=env)
    assert files(out) == models[4] and everything(tmp_path) == {"out"}
    out.rename(tmp_path / ".out.zoodip-old")  # as a process does that is killed between the two renames
    quantized(TOYBOX / "model", out, "--overwrite")
    assert files(out) == models[8] and everything(tmp_path) == {"out"}


# -------------------------------------------------------------------------------- generate


def test_a_picture_is_replaced_by_a_whole_one_or_not_at_all(tmp_path):
    """Killed at any call on its files: those of several pictures are the old ones or new ones, each of them whole."""
    def generate(count, *options, **more):
        return run(program("zoodip"), "generate", "--model", TOYBOX / "model", "--prompt", "a toy", "--steps", 1, "--count", count,
                   "--output", tmp_path / "out.png", *options, **more)

    names = ["out-0001.png", "out-0002.png"]
    generate(2)
    new = files(tmp_path)
    log, calls = tmp_path / "calls", "open,fwrite,fflush,fsync,rename,unlink"
    env = dict(**FAULTS, ZOODIP_FAULTS=f"{calls} 0 0 0 out-", ZOODIP_FAULTS_COUNT=str(log))
    generate(2, env=env)
    count = len(log.read_text().splitlines())
    assert count > 8 and sorted(new) == names
    for k in slice_of(range(1, count + 1), 8):
        for name in names:
            (tmp_path / name).write_bytes(b"old")
        assert generate(2, env={**env, "ZOODIP_FAULTS": f"{calls} KILL {k} {k} out-"}, check=False).returncode == -signal.SIGKILL
        assert all((tmp_path / name).read_bytes() in (b"old", new[name]) for name in names), k
    generate(2)
    assert {name: (tmp_path / name).read_bytes() for name in names} == new
