"""Nothing is lost: kill -9 at random moments, then --resume, ends with the bits of an undisturbed run, on one rank and on three;
after a signal the run finishes the step, saves a checkpoint and exits with 75."""
import json
import random
import shutil
import signal
import time
from contextlib import nullcontext

import pytest

from beside import begin, beside_the_others
from conftest import NIGHTLY, TOYBOX, learned, losses_of, metrics, mpirun, program, recipe, refused, run, train_alone, write_recipe
from live import afresh, caught, kill, nearly_done, newest, start, steps, tell, until

STEPS = 60
CHANGES = dict(optim__steps=STEPS, output__checkpoint_every=7, output__checkpoint_keep=3, output__prompts=[], zo__tau=8)


@pytest.fixture(scope="module")
def quiet_folder(tmp_path_factory):
    """Of an undisturbed run, with the words of steps 40 and 60 beside the last."""
    folder = tmp_path_factory.mktemp("quiet")
    train_alone(folder, **CHANGES, output__save_every=40)
    return folder / "out"


@pytest.fixture(scope="module")
def quiet(quiet_folder):
    return learned(quiet_folder), losses_of(quiet_folder)


@pytest.fixture(scope="module")
def begun(request, quiet):
    yield from begin(request, 2, quiet=lambda folder: nullcontext(quiet))


@pytest.fixture
def finished(tmp_path, quiet_folder):
    """A finished run that a test may harm: (config path, output folder)."""
    config, output = write_recipe(tmp_path, **CHANGES, output__save_every=40)
    shutil.copytree(quiet_folder, output)
    return config, output


@pytest.mark.parametrize("ranks", [1, 3])
@beside_the_others("quiet")
@afresh
def test_kill_9_at_random_moments(tmp_path, quiet, ranks):
    config, output = write_recipe(tmp_path, **CHANGES)
    chance = random.Random(ranks)
    for attempt in range(5 if NIGHTLY else 3):
        process = start(ranks, "train", config, *(["--resume"] if attempt else []))
        enough = steps(output) + chance.randint(1, 8)
        with caught(process, config, when=lambda: steps(output) >= enough, unless=nearly_done(output, STEPS, 1)):
            kill(process, config)
    mpirun(ranks, program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]
    assert losses_of(output) == quiet[1]
    assert [m["step"] for m in metrics(output)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("which", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
@beside_the_others("quiet")
@afresh
def test_a_signal_finishes_the_step_and_exits_75(tmp_path, quiet, ranks, which):
    if ranks > 1 and which != signal.SIGUSR1:
        pytest.skip("mpirun kills its ranks soon after a TERM or INT: launch/run.sh turns them into USR1")
    config, output = write_recipe(tmp_path, **CHANGES)
    process = start(ranks, "train", config)
    with caught(process, config, when=lambda: steps(output) >= 3, unless=nearly_done(output, STEPS)) as stopped:
        tell(process.pid, which, stopped)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75, stderr
    done = len(metrics(output))
    assert newest(output) == done and done < STEPS
    assert "--resume" in stderr
    mpirun(ranks, program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]


@pytest.mark.parametrize("when, steps_done", [("a sample", 4), ("the end", 8)])
@beside_the_others("quiet")
@afresh
def test_a_signal_while_pictures_are_drawn_is_followed_at_once(tmp_path, quiet, when, steps_done):
    """A minute of drawing is cut short on both ranks; the resumed run draws the rest."""
    changes = dict(optim__steps=8, output__sample_every=4 if when == "a sample" else 0)
    config, output = write_recipe(tmp_path, **{**CHANGES, **changes, "output__prompts": ["a photo of a {}"] * 60})
    process = start(2, "train", config)
    for line in process.stderr:
        if " pictures in " in line:
            break
    time.sleep(0.5)
    with caught(process, config, when=lambda: True, unless=lambda: (output / "grid.png").exists() or (output / "samples").exists()) as stopped:
        tell(process.pid, signal.SIGUSR1, stopped)
    began = time.time()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "--resume" in stderr and time.time() - began < 5, stderr
    assert newest(output) == len(metrics(output)) == steps_done and len(learned(output)) > 0
    assert not (output / "grid.png").exists() and not (output / "samples").exists()
    mpirun(2, program("zoodip"), "train", config, "--resume", "--set", 'output.prompts=["a {}"]')
    assert losses_of(output) == quiet[1][:8]
    assert (output / "grid.png").exists() and (output / "report.html").exists()
    assert when == "the end" or (output / "samples" / "step-4-1.png").exists()


def test_a_signal_while_directions_are_found_is_followed_at_once(tmp_path):
    """Before the first step there is nothing to save yet, before the second there is. One caption, so one rank only waits."""
    config, output = write_recipe(tmp_path, zo__directions="text", zo__n=2, zo__rank=2, zo__refresh=1, zo__tau=2, token__vectors=8, use_cc=False,
                                  data__captions=None, optim__steps=3, output__save_every=1, output__prompts=[])
    for done in (0, 1):
        process = start(2, "train", config, *(["--resume"] if done else []))
        for line in process.stderr:
            if ("directions: " if done else "auto takes") in line:
                break
        until(lambda: steps(output) >= done, process)
        process.send_signal(signal.SIGUSR1)
        stderr = process.communicate(timeout=60)[1]
        assert process.returncode == 75 and "--resume" in stderr, stderr
        assert ("while finding directions" in stderr) == (done == 0)
        assert newest(output) == steps(output) == done


def test_resume_without_a_checkpoint_starts_at_step_0(tmp_path, quiet):
    config, output = write_recipe(tmp_path, **CHANGES)
    done = run(program("zoodip"), "train", config, "--resume")
    assert "step 0" in done.stderr
    assert learned(output) == quiet[0]


def test_resume_of_a_finished_run_changes_nothing(finished, quiet):
    config, output = finished
    run(program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]
    assert len(metrics(output)) == STEPS


def harm(output, how, quiet):
    """The best word, the last and the last step's are not as the run left them."""
    for name in ("", "-last", f"-steps-{STEPS}"):
        path = output / f"learned_embeds{name}.safetensors"
        if how == "missing":
            path.unlink()
        elif how == "older":
            shutil.copy(output / "learned_embeds-steps-40.safetensors", path)
        else:
            path.write_bytes(quiet[0][:-4] if how == "cut short" else quiet[0].replace(b"sks", b"skt"))


@pytest.mark.parametrize("ranks,how", [(1, "missing"), (2, "missing"), (1, "older"), (1, "cut short"), (1, "another word's")])
def test_a_word_that_is_not_the_checkpoints_is_written_again(finished, quiet, ranks, how):
    """All steps are done, but the word failed to be written, or was removed or exchanged since."""
    config, output = finished
    harm(output, how, quiet)
    for name in ("loss.png", "grid.png", "thumbnail.jpg", "report.html"):
        (output / name).unlink()
    done = mpirun(ranks, program("zoodip"), "train", config, "--resume")
    for name in ("-last", f"-steps-{STEPS}"):
        assert learned(output) == (output / f"learned_embeds{name}.safetensors").read_bytes() == quiet[0]
    assert done.stderr.count(f"not the word of step {STEPS}: written anew") == 3, done.stderr
    for name in ("learned_embeds.safetensors", "learned_embeds-last.safetensors", "metrics.jsonl", "loss.png", "grid.png", "report.html"):
        assert (output / name).stat().st_size > 0 and f"wrote {output / name}\n" in done.stderr


def test_metrics_that_lack_lines_are_made_whole_from_an_older_checkpoint(finished, quiet):
    """The newest checkpoint's step has no line; and nothing is said to be written that is not there in full."""
    config, output = finished
    lines = (output / "metrics.jsonl").read_text().splitlines(keepends=True)
    (output / "metrics.jsonl").write_text("".join(lines[:-1]))
    done = run(program("zoodip"), "train", config, "--resume")
    assert "continuing from step 56's checkpoint" in done.stderr
    assert learned(output) == quiet[0] and losses_of(output) == quiet[1]
    (output / "metrics.jsonl").unlink()
    done = run(program("zoodip"), "train", config, "--resume")
    assert "metrics.jsonl: lacks lines of some of the 60 steps" in done.stderr and "metrics.jsonl\n" not in done.stderr
    assert learned(output) == quiet[0]


def test_a_finished_word_without_checkpoints_is_not_learned_anew_by_resume(tmp_path):
    """They were removed to save room; the word may be of another recipe."""
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=4")
    shutil.rmtree(output / "checkpoints")
    word = learned(output)
    refused(run(program("zoodip"), "train", config, "--quiet", "--resume", "--set", "optim.lr=0.5", check=False), str(output), "--overwrite")
    assert learned(output) == word


def test_more_ranks_may_continue(tmp_path, quiet):
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=20")
    mpirun(2, program("zoodip"), "train", config, "--resume")
    assert learned(output) == quiet[0]


@afresh
def test_kill_9_with_tangents(tmp_path):
    """Two pictures a step, each with directions of its own, on three ranks, of which two go on."""
    changes = dict(CHANGES, optim__steps=16, output__checkpoint_every=3, optim__batch_size=2, zo__n=3, zo__derivative="tangent",
                   zo__directions_per="picture")
    quiet, quiet_output = write_recipe(tmp_path / "quiet", **changes)
    run(program("zoodip"), "train", quiet, threads=2)
    config, output = write_recipe(tmp_path / "killed", **changes)
    process = start(3, "train", config)
    with caught(process, config, when=lambda: steps(output) >= 5, unless=nearly_done(output, 16, 1)):
        kill(process, config)
    mpirun(2, program("zoodip"), "train", config, "--resume")
    assert learned(output) == learned(quiet_output)
    assert [(m["losses"], m["slopes"]) for m in metrics(output)] == [(m["losses"], m["slopes"]) for m in metrics(quiet_output)]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(finished, quiet):
    config, output = finished
    path = output / "checkpoints" / f"step-{newest(output)}.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run(program("zoodip"), "train", config, "--resume")
    assert f"{path.name}: " in done.stderr and "warning" in done.stderr
    assert learned(output) == quiet[0]


def test_another_recipe_is_refused(tmp_path):
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=8")
    done = run(program("zoodip"), "train", config, "--resume", "--set", "optim.lr=0.5", check=False)
    assert done.returncode == 2 and "made with another recipe: optim.lr is 0.03 there and 0.5 here" in done.stderr


# A run is known by its contents.


@pytest.fixture
def stopped_early(tmp_path):
    """A run with a model and photos of its own that stopped after 8 steps: (start(*--set), output, folder)."""
    shutil.copytree(TOYBOX / "model", tmp_path / "model")
    shutil.copytree(TOYBOX / "subjects" / "bear5", tmp_path / "bear5")
    shutil.copy(TOYBOX / "subjects" / "cc.json", tmp_path / "cc.json")
    config, output = write_recipe(tmp_path, **CHANGES, model=str(tmp_path / "model"), data__images=str(tmp_path / "bear5"),
                                  data__captions=str(tmp_path / "cc.json"))

    def resume(*sets, ranks=1, **options):
        changes = [word for set_ in sets for word in ("--set", set_)]
        return mpirun(ranks, program("zoodip"), "train", config, "--resume", *changes, check=False, **options)
    run(program("zoodip"), "train", config, "--set", "optim.steps=8")
    return resume, output, tmp_path


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def swap(folder, a, b):
    (folder / a).rename(folder / "kept")
    (folder / b).rename(folder / a)
    (folder / "kept").rename(folder / b)


def edit_captions(folder):
    path = folder / "cc.json"
    captions = json.loads(path.read_text())
    captions["bear5"]["02.png"] += " at noon"
    path.write_text(json.dumps(captions))


def edit_scheduler(folder):
    path = folder / "model/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.013}))


@pytest.mark.parametrize("ranks, change, said", [
    (1, lambda f: shutil.copy(TOYBOX / "subjects/duck6/02.png", f / "bear5/02.png"), "made with other pictures, masks or data.background; expected"),
    (3, lambda f: (f / "bear5/04.png").unlink(), "made with other pictures (5 there and 4 here); expected"),
    (1, lambda f: swap(f / "bear5", "01.png", "03.png"), "made with the same pictures in another order, which is that of their names"),
    (1, edit_captions, "made with other captions; expected"),
    (3, lambda f: flip_a_bit(f / "model/unet/diffusion_pytorch_model.safetensors"), "made with another model (weights or settings"),
    (1, lambda f: flip_a_bit(f / "model/vae/diffusion_pytorch_model.safetensors"), "made with another model (weights or settings"),
    (1, edit_scheduler, "made with another model (weights or settings")], ids=["photo", "missing", "order", "caption", "unet", "vae", "scheduler"])
def test_other_contents_under_the_same_path_are_refused(stopped_early, ranks, change, said):
    resume, output, folder = stopped_early
    before = learned(output)
    change(folder)
    done = resume(ranks=ranks)
    told, = [line for line in done.stderr.splitlines() if "made with" in line]
    assert done.returncode == 2 and told.startswith(f"zoodip: {output}/checkpoints/step-8.safetensors: {said}"), done.stderr
    assert "encoding" not in done.stderr, "before anything is encoded or loaded"
    assert learned(output) == before and newest(output) == 8


def test_the_same_contents_elsewhere_go_on_to_the_same_bits(stopped_early, quiet):
    """As a requeued job finds them in another folder, under other names, through a link, a slash at the end."""
    resume, output, folder = stopped_early
    (folder / "moved").mkdir()
    (folder / "model").rename(folder / "moved" / "sd")
    (folder / "link").symlink_to("moved/sd")
    (folder / "bear5").rename(folder / "moved" / "photos")
    captions = json.loads((folder / "cc.json").read_text())
    (folder / "moved" / "texts.json").write_text(json.dumps({"photos": captions["bear5"]}))
    (folder / "cc.json").unlink()
    done = resume(f"model={folder}/link", f"data.images={folder}/moved/photos/", f"data.captions={folder}/moved/texts.json", "optim.steps=30")
    assert done.returncode == 0, done.stderr
    photos = json.dumps([str(folder / "moved" / "photos" / f"0{i}.png") for i in range(5)])
    done = resume(f"model={folder}/moved/sd/", f"data.images={photos}", f"data.captions={folder}/moved/texts.json", ranks=3)
    assert done.returncode == 0, done.stderr
    assert (learned(output), losses_of(output)) == quiet


def test_another_instruction_set_is_said_and_goes_on(stopped_early):
    resume, output, _ = stopped_early
    done = resume("optim.steps=9", env={"ZOODIP_ISA": "generic"})
    assert done.returncode == 0 and newest(output) == 9, done.stderr
    line, = [line for line in done.stderr.splitlines() if "bits will differ" in line]
    assert "warning" in line and "and this is cpu, generic" in line


def test_inspect_says_what_a_checkpoint_stands_on(stopped_early):
    _, output, _ = stopped_early
    shown = run(program("zoodip"), "inspect", output / "checkpoints" / "step-8.safetensors").stdout
    for line in ["format = zoodip checkpoint 2", "pictures = 5, CRC-32 ", "order = CRC-32 ", "captions = CRC-32 ", "model = CRC-32 ",
                 "device = cpu, "]:
        assert f"  {line}" in shown
    assert str(output.parent) not in shown.split("recipe = ")[1]


def test_a_job_with_other_contents_fails_and_the_others_go_on(tmp_path):
    """A finished one is left as it is, which is said; one that has steps to go fails."""
    for name in ("bear5", "duck6"):
        shutil.copytree(TOYBOX / "subjects" / name, tmp_path / name)
    keys = recipe(tmp_path / "out", **{**CHANGES, "optim__steps": 8}, data__images="unset")
    (tmp_path / "link").symlink_to(TOYBOX / "model")
    jobs = [{"name": name, "model": str(model), "data.images": str(tmp_path / name), "data.captions": str(TOYBOX / "subjects/cc.json")}
            for name, model in [("bear5", TOYBOX / "model"), ("duck6", tmp_path / "link")]]
    file = tmp_path / "jobs.json"
    file.write_text(json.dumps({"defaults": keys, "jobs": jobs}))
    mpirun(2, program("zoodip"), "run", file, "--groups", "2")
    shutil.copy(TOYBOX / "subjects/bear5/01.png", tmp_path / "duck6/01.png")
    (tmp_path / "moved").mkdir()
    (tmp_path / "bear5").rename(tmp_path / "moved/bear5")
    jobs[0]["data.images"] = str(tmp_path / "moved/bear5")
    file.write_text(json.dumps({"defaults": keys, "jobs": jobs}))
    done = run(program("zoodip"), "run", file, "--resume")
    told, = [line for line in done.stderr.splitlines() if "stays as it is" in line]
    assert "duck6: is finished and stays as it is, with other photos, captions or first word than it has now" in told
    file.write_text(json.dumps({"defaults": {**keys, "optim": {**keys["optim"], "steps": 16}}, "jobs": jobs}))
    done = mpirun(2, program("zoodip"), "run", file, "--groups", "2", "--resume", check=False)
    assert done.returncode == 1, done.stderr
    told = {job["name"]: job for job in json.loads((tmp_path / "out" / "summary.json").read_text())["jobs"]}
    assert told["bear5"]["state"] == "done" and told["bear5"]["steps"] == 16
    assert told["duck6"]["state"] == "failed" and "step-8.safetensors: made with other pictures, masks or data.background; expected" in told["duck6"]["reason"]


def test_a_fresh_start_forgets_older_checkpoints(tmp_path):
    config, output = write_recipe(tmp_path, **CHANGES)
    run(program("zoodip"), "train", config, "--set", "optim.steps=14")
    run(program("zoodip"), "train", config, "--set", "optim.steps=5", "--overwrite")
    assert newest(output) == 5


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_save_that_fails_is_reported_and_ends_all_ranks_with_1(tmp_path, ranks):
    """A folder is in the way of the word's file: training continues, the other files are written, and the run fails."""
    config, output = write_recipe(tmp_path, **CHANGES)
    (output / "learned_embeds.safetensors").mkdir(parents=True)
    done = mpirun(ranks, program("zoodip"), "train", config, "--set", "optim.steps=9", check=False, timeout=60)
    assert done.returncode == 1
    assert "learned_embeds.safetensors" in done.stderr and "the last save failed" in done.stderr
    assert newest(output) == 9 and len(metrics(output)) == 9
