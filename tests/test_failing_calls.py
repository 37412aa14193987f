"""The k-th system call on a run's or a queue's own files fails, its disk is full from there on, or it is killed there. It ends with 0
and everything in full, or with another code and one line; without the fault it is continued to the bits of the quiet run."""
import errno
import json
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from conftest import ROOT, SLICE, losses_of, metrics, mpirun, program, recipe, run, slice_of

CHANGES = dict(optim__steps=4, optim__batch_size=1, zo__n=1, zo__tau=8, data__resolution=32, output__checkpoint_every=2,
               output__save_every=2, output__prompts=[])
WAYS = [errno.EIO, errno.ENOSPC, "full", "KILL"]  # a call has another one every day
RESULTS = ["learned_embeds.safetensors", "learned_embeds-steps-2.safetensors", "metrics.jsonl", "loss.png", "grid.png", "thumbnail.jpg", "report.html"]


def train(file, *options, ranks=1, **more):
    return mpirun(ranks, program("zoodip"), "train", file, *options, check=False, **more)


def queue(file, *options, **more):
    return run(program("zoodip"), "run", file, "--groups", "1", *options, check=False, **more)


def write_train(folder):
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(recipe(folder, **CHANGES)))
    return file


def write_queue(folder):
    file = folder.with_suffix(".json")
    jobs = [{"name": "a", "seed": 5}, {"name": "b", "optim": {"steps": 3}}]
    file.write_text(json.dumps({"defaults": recipe(folder, **CHANGES), "jobs": jobs}))
    return file


# ---- what a run must leave


def words(output):
    return {path.name: path.read_bytes() for path in output.glob("learned_embeds*")}


def assert_run_in_full(output, quiet):
    assert all((output / name).stat().st_size > 0 for name in RESULTS)
    assert words(output) == words(quiet) and losses_of(output) == losses_of(quiet)
    assert [m["step"] for m in metrics(output)] == [m["step"] for m in metrics(quiet)]
    assert not list(output.rglob("*.tmp"))


def assert_queue_in_full(output, quiet):
    for name in "ab":
        assert_run_in_full(output / name, quiet / name)
        assert json.loads((output / name / "job.json").read_text())["state"] == "done"
    assert [job["state"] for job in json.loads((output / "summary.json").read_text())["jobs"]] == ["done"] * 2
    assert (output / "index.html").stat().st_size > 0 and not list(output.rglob("*.tmp"))


# ---- faults


def fault(folder, way, k, last=None):
    """The environment in which the k-th call on what is below a folder fails in this way."""
    code, last = (errno.ENOSPC, 10**6) if way == "full" else (way, k)
    return {"LD_PRELOAD": program("tests/libfaults.so"), "ZOODIP_FAULTS": f"all {code} {k} {last} {folder}/"}


def calls_of(command, write, begin, tmp_path):
    """How many such calls there are."""
    folder, count = tmp_path / "counted", tmp_path / "calls"
    file = write(folder)
    begin(folder)
    done = command(file, *options_of(folder), env={**fault(folder, errno.EIO, 0), "ZOODIP_FAULTS_COUNT": str(count)})
    assert done.returncode == 0, done.stderr
    return len(count.read_text().splitlines())


def options_of(folder):
    finished = (folder / "report.html").exists()
    return ["--overwrite"] if finished else ["--resume"] if folder.exists() else []


def fail_one(command, write, begin, assert_in_full, tmp_path, case):
    k, way = case
    folder = tmp_path / f"{way}-{k}"
    file = write(folder)
    begin(folder)
    done = command(file, *options_of(folder), env=fault(folder, way, k))
    said = f"call {k}, {way}: {done.returncode}\n{done.stderr}"
    assert done.returncode in ((0, -signal.SIGKILL) if way == "KILL" else (0, 1)), said
    if done.returncode == 0:
        assert_in_full(folder)
    elif done.returncode == 1:
        assert done.stderr.splitlines()[-1].startswith("zoodip: "), said
    again = command(file, "--resume")
    assert again.returncode == 0, said + again.stderr
    try:
        assert_in_full(folder)
    except (AssertionError, OSError) as e:
        raise AssertionError(f"{said}\n{again.stderr}") from e
    shutil.rmtree(folder)


def fail_each(command, write, begin, assert_in_full, tmp_path, slices):
    """Each call; of so many slices one a day, in which ways alternate."""
    cases = [(k, WAYS[(k + SLICE) % len(WAYS)]) for k in range(1, calls_of(command, write, begin, tmp_path) + 1)]
    with ThreadPoolExecutor(6) as pool:  # a call that is tried again mostly waits
        list(pool.map(partial(fail_one, command, write, begin, assert_in_full, tmp_path), slice_of(cases, slices)))


# ---- tests


def undisturbed(command, write, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quiet") / "out"
    done = command(write(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return undisturbed(train, write_train, tmp_path_factory)


@pytest.fixture(scope="module")
def quiet_queue(tmp_path_factory):
    return undisturbed(queue, write_queue, tmp_path_factory)


def anew(quiet, folder):
    """Nothing is there."""


def halfway(quiet, folder):
    """A run was killed after two of its four steps."""
    shutil.copytree(quiet, folder, ignore=shutil.ignore_patterns("step-4*", "*-steps-4*", "*.png", "report.html"))
    shutil.copy(quiet / "learned_embeds-steps-2.safetensors", folder / "learned_embeds.safetensors")


def without_its_word(quiet, folder):
    """Another was killed after its last checkpoint, and before that its word could not be written."""
    halfway(quiet, folder)
    shutil.copy(quiet / "checkpoints" / "step-4.safetensors", folder / "checkpoints")


def finished(quiet, folder):
    """It is learned anew; its results may stay until the first checkpoint, or come back from previous/."""
    shutil.copytree(quiet, folder)


@pytest.mark.parametrize("begin", [anew, halfway, without_its_word, finished], ids=lambda begin: begin.__name__)
def test_a_run_ends_with_its_word_whatever_call_fails(tmp_path, quiet, begin):
    fail_each(train, write_train, partial(begin, quiet), lambda folder: assert_run_in_full(folder, quiet), tmp_path, 29)


def test_a_queue_ends_with_its_words_whatever_call_fails(tmp_path, quiet_queue):
    fail_each(queue, write_queue, lambda folder: None, lambda folder: assert_queue_in_full(folder, quiet_queue), tmp_path, 73)


def test_a_restart_writes_the_word_that_could_not_be_written(tmp_path, quiet):
    """On two ranks, in the first start of run.sh only: the last save, and all that follows it."""
    calls = calls_of(train, write_train, partial(without_its_word, quiet), tmp_path)

    def restarted(case):
        k, way = case
        folder = tmp_path / f"{way}-{k}"
        file = write_train(folder)
        without_its_word(quiet, folder)
        done = run(ROOT / "launch" / "run.sh", "-n", "2", "--restarts", "1", program("zoodip"), "train", file, "--resume", check=False,
                   env={**fault(folder, way, k), "ZOODIP_FAULTS_ONCE": str(tmp_path / f"{way}-{k}.once")})
        assert done.returncode == 0, (case, done.stderr)
        assert_run_in_full(folder, quiet)

    cases = [(k, way) for k in slice_of(range(1, calls + 1), calls // 2) for way in ("KILL", errno.EIO)]
    with ThreadPoolExecutor(6) as pool:  # a restart mostly waits
        list(pool.map(restarted, cases))


def test_other_ranks_need_not_see_the_folder_that_rank_0_resumes_from(tmp_path, quiet):
    """Not to find the checkpoint, whatever their disk says: all get rank 0's state."""
    folder = tmp_path / "out"
    file = write_train(folder)
    halfway(quiet, folder)
    blind = " ".join(f"{name}='{value}'" for name, value in fault(folder, errno.ENOENT, 1, 10**6).items())
    words = f'[ "$OMPI_COMM_WORLD_RANK" = 0 ] || export {blind}; exec {program("zoodip")} train {file} --resume'
    done = mpirun(2, "bash", "-c", words, check=False)
    assert done.returncode == 0 and "resuming after step 2" in done.stderr, done.stderr
    assert_run_in_full(folder, quiet)
