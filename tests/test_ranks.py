"""Every verb of the communicator, alone and under mpirun."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from conftest import TOYBOX, environment, learned, losses_of, mpirun, program, recipe, run, train_alone

pytestmark = pytest.mark.filterwarnings("error")
RANKS = program("tests/ranks")


def lines(done):
    return sorted((json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")), key=lambda x: x["rank"])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_all_ranks_hold_the_same(size):
    told = lines(mpirun(size, RANKS))
    assert [x["rank"] for x in told] == list(range(size)) and all(x["size"] == size for x in told)
    for x in told:
        assert x["slots"] == [1.0 / (i + 3) for i in range(7)]  # exact
        assert x["word"] == 42 and x["text"] == "written by 0"
        assert x["ranks_here"] == size and x["rank_here"] == x["rank"] and x["fill"] == (x["rank"] == 0)
    # balanced, in order, none for ranks without work
    assert sum(x["count"] for x in told) == 7 and max(x["count"] for x in told) - min(x["count"] for x in told) <= 1
    assert [x["first"] for x in told] == [sum(y["count"] for y in told[:i]) for i in range(size)]


@pytest.mark.parametrize("verb", ["fail", "meet"])
@pytest.mark.parametrize("size, first", [(1, 0), (3, 0), (3, 1), (3, 2)])
def test_ranks_fail_together_with_the_lowest_ones_error(size, first, verb):
    told = lines(mpirun(size, RANKS, verb, first, check=False))
    assert len(told) == size
    assert all(x["code"] == 2 and x["text"] == f"rank {first} cannot go on" for x in told)


def test_nobody_fails_where_nobody_failed():
    assert all(x["code"] == 0 for x in lines(mpirun(3, RANKS, "fail", 3)))


def test_ranks_that_meet_know_whether_any_of_them_was_asked_to_stop():
    assert all(x["code"] == 0 and x["stop"] == 1 for x in lines(mpirun(3, RANKS, "meet", 3)))


def test_a_lost_rank_ends_all_with_its_message_and_code():
    done = mpirun(3, RANKS, "abort", 1, check=False, timeout=60)
    assert done.returncode == 1 and "zoodip: rank 1: this rank is lost" in done.stderr


def test_processes_that_cannot_hear_each_other_are_refused():
    done = run(RANKS, check=False, env={"SLURM_STEP_NUM_TASKS": "4"})
    assert done.returncode == 2 and "4" in done.stderr


def start_waiting(ranks=1):
    """Ranks that wait until they are asked to stop."""
    launcher = ["mpirun", "--oversubscribe", "-np", str(ranks)] if ranks > 1 else []
    process = subprocess.Popen([*launcher, RANKS, "stop"], stdout=subprocess.PIPE, text=True, env=environment())
    assert [process.stdout.readline() for _ in range(ranks)] == ["ready\n"] * ranks
    return process


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_to_stop(number):
    process = start_waiting()
    process.send_signal(number)
    assert process.communicate(timeout=30)[0] == "rank 0: 1 asked to stop\n" and process.returncode == 0


def test_a_second_interrupt_ends_at_once():
    process = start_waiting()
    process.send_signal(signal.SIGSTOP)  # so that both arrive before it ends by itself
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGINT)


def test_one_rank_asked_stops_all():
    process = start_waiting(ranks=3)
    children = run("ps", "-o", "pid=", "--ppid", process.pid).stdout.split()
    os.kill(int(children[1]), signal.SIGUSR1)
    out = process.communicate(timeout=60)[0]
    assert sorted(out.splitlines()) == [f"rank {r}: 1 asked to stop" for r in range(3)] and process.returncode == 0


def two_places(tmp_path, *arguments):
    """Two ranks, each in its own folder with a copy of model and pictures, like nodes with local disks."""
    for place in ("first", "second"):
        (tmp_path / place).mkdir(exist_ok=True)
        for part in ("model", "subjects"):
            shutil.copytree(TOYBOX / part, tmp_path / place / part, dirs_exist_ok=True)

    def both():
        sides = [("-np", "1", "-wdir", str(tmp_path / place), program("zoodip"), *arguments) for place in ("first", "second")]
        return run("mpirun", "--oversubscribe", *sides[0], ":", *sides[1], check=False, timeout=60)
    return both


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.write_bytes(data)


@pytest.fixture
def two(tmp_path):
    """A run of `train` or `run` in two places: (both, config, folder of its results)."""
    def make(command):
        keys = recipe(tmp_path / "out", model="model", data__images="subjects/bear5", data__captions="subjects/cc.json",
                      optim__steps=2, output__prompts=[])
        config = tmp_path / "config.json"
        config.write_text(json.dumps(keys if command == "train" else {"defaults": keys, "jobs": [{"name": "a"}, {"name": "b"}]}))
        return two_places(tmp_path, command, str(config)), tmp_path / "out" / ("." if command == "train" else "a")
    return make


@pytest.mark.parametrize("command", ["train", "run"])
def test_photos_and_captions_are_read_by_rank_0_for_all(tmp_path, two, command):
    both, output = two(command)
    shutil.rmtree(tmp_path / "second/subjects")
    done = both()
    assert done.returncode == 0, done.stderr
    there = {name: str(TOYBOX / f"subjects/{name}") for name in ("bear5", "cc.json")}
    word = train_alone(tmp_path / "alone", data__images=there["bear5"], data__captions=there["cc.json"], optim__steps=2, output__prompts=[])
    assert (learned(output), losses_of(output)) == word


@pytest.mark.parametrize("command", ["train", "run"])
@pytest.mark.parametrize("broken", ["bear5/03.png", "cc.json"])
def test_what_rank_0_cannot_read_is_one_message_of_all(tmp_path, two, command, broken):
    both, _ = two(command)
    (tmp_path / "first/subjects" / broken).write_bytes(b"{")
    done = both()
    told = [line for line in done.stderr.splitlines() if f"subjects/{broken}" in line]
    assert done.returncode == (2 if command == "train" else 1) and told, done.stderr
    if command == "train":
        assert len(told) == 1 and told[0].startswith("zoodip: "), done.stderr


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_rank_that_sees_another_model_is_named(tmp_path, two, command):
    both, _ = two(command)
    flip_a_bit(tmp_path / "second/model/unet/diffusion_pytorch_model.safetensors")
    done = both()
    assert done.returncode == 2 and "rank 1" in done.stderr and "the model (model)" in done.stderr


@pytest.mark.parametrize("key, first, second", [("seed", 1, 2), ("optim__steps", 4, 2), ("output__prompts", [], ["a {}"])])
def test_a_rank_with_another_config_is_named(tmp_path, key, first, second):
    """Even if only the number of the ranks' meetings differs, not the recipe: they would wait for one another."""
    both = two_places(tmp_path, "train", "config.json")
    for place, value in (("first", first), ("second", second)):
        (tmp_path / place / "config.json").write_text(json.dumps(recipe("out", model="model", data__images="subjects/bear5",
                                                                       data__captions="subjects/cc.json", cluster__timeout=5, **{key: value})))
    done = both()
    assert done.returncode == 2 and "rank 1" in done.stderr and "the config" in done.stderr
