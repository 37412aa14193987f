"""Ranks with a GPU each, joined by NCCL: the same bits as on a single rank, as on ranks that share a GPU, and on any number of
ranks; and whatever happens to one rank, the run ends on all. GPUs and NCCL are the stand-in's (tests/cuda/), the ranks are
mpirun's."""
import json
import os
import re
import shutil
import signal
import time
from contextlib import nullcontext

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beside import begin, beside_the_others
from conftest import cuda_program, learned, losses_of, metrics, mpirun, needs_cuda, write_recipe
from live import afresh, caught, nearly_done, ranks_of, steps, until
from live import start as start_by
from test_cuda import enlarged_model

NEEDS = "peers standin"
pytestmark = needs_cuda
ZOODIP = cuda_program("zoodip")
LIMIT = 3  # cluster.timeout of the runs in which a rank is lost
JOINED, BY_MPI = "each rank has a GPU: NCCL", "MPI carries the losses"


@pytest.fixture(scope="module")
def recipe(random_models, tmp_path_factory):
    """Writes a recipe that runs in a second, a model of random weights at 16 pixels; returns (config path, output folder)."""
    def write(**changes):
        tiny = dict(model=str(random_models("plain")), device="cuda", data__resolution=16, zo__tau=3, optim__steps=4,
                    output__prompts=[])
        return write_recipe(tmp_path_factory.mktemp("run"), **{**tiny, **changes})
    return write


def each(*settings):
    """A prefix that runs the program with settings of the rank's own: shell words that may use $RANK."""
    return ["sh", "-c", f'RANK=$OMPI_COMM_WORLD_RANK; {"; ".join(settings)}; exec "$0" "$@"']


def train(written, ranks, gpus, *options, before=(), env=None):
    """Runs it; returns (learned embedding, losses of all steps, stderr)."""
    config, output = written
    done = mpirun(ranks, *before, ZOODIP, "train", config, *options, env={"ZOODIP_STANDIN_DEVICES": str(gpus), **(env or {})})
    return learned(output), losses_of(output), done.stderr


def start(written, ranks, gpus, before=(), launcher=()):
    return start_by(ranks, "train", written[0], zoodip=ZOODIP, env={"ZOODIP_STANDIN_DEVICES": str(gpus)},
                    launcher=["mpirun", *launcher, "--oversubscribe", "-np", ranks, *before])


def end_of(process, seconds):
    """(exit code, zoodip's lines about an error); everything must end within that many seconds."""
    began = time.time()
    try:
        stderr = process.communicate(timeout=60)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert time.time() - began < seconds, stderr
    return process.returncode, [line for line in stderr.splitlines() if line.startswith("zoodip: rank ")]


@pytest.mark.parametrize("gpus", [1, 2])
def test_ranks_whose_activations_overflow_end_together_and_name_the_op(recipe, tmp_path, gpus):
    model = enlarged_model(tmp_path / "model", "conv_in.weight", 3e6)
    config, _ = recipe(model=str(model), data__resolution=32)
    done = mpirun(2, ZOODIP, "train", config, "--quiet", check=False, timeout=60, env={"ZOODIP_STANDIN_DEVICES": str(gpus)})
    assert done.returncode == 1 and "the loss of picture dataset/" in done.stderr, done.stderr
    assert "and halves end at 65504: set quant.activations to bf16" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def joined_run(recipe, tmp_path_factory):
    """A run of two joined ranks: (train's results, the stand-in's report for each rank)."""
    report = tmp_path_factory.mktemp("joined") / "report"
    done = train(recipe(), 2, 2, env={"ZOODIP_STANDIN_REPORT": str(report)})
    return done, [json.loads(line) for line in report.read_text().splitlines()]


@pytest.fixture(scope="module")
def begun(request, recipe, joined_run):
    yield from begin(request, 2, recipe=lambda folder: nullcontext(recipe), joined_run=lambda folder: nullcontext(joined_run))


# -------------------------------------------------------------------------------- the same bits

CASES = {"two directions": dict(zo__n=2), "five under three pictures": dict(zo__n=5, optim__batch_size=3, optim__steps=2)}


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_alone_joined_and_on_a_shared_gpu(recipe, case):
    changes = CASES[case]
    alone = train(recipe(**changes), 1, 1)
    assert "carries the losses" not in alone[2]
    for ranks in (2, 3):
        joined = train(recipe(**changes), ranks, ranks)
        assert JOINED in joined[2] and joined[:2] == alone[:2]
    shared = train(recipe(**changes), 2, 1)
    assert f"ranks 0 and 1 share a GPU: {BY_MPI}" in shared[2] and shared[:2] == alone[:2]


def test_more_ranks_than_gpus_and_than_lanes(recipe):
    changes = dict(zo__n=1, optim__steps=3)
    alone = train(recipe(**changes), 1, 1)
    crowded = train(recipe(**changes), 3, 2)
    assert f"ranks 0 and 2 share a GPU: {BY_MPI}" in crowded[2] and crowded[:2] == alone[:2]
    idle = train(recipe(**changes), 3, 3)
    assert JOINED in idle[2] and idle[:2] == alone[:2]


def test_a_launcher_may_show_each_rank_one_gpu(recipe, joined_run):
    shown = train(recipe(), 2, 2, before=each("export CUDA_VISIBLE_DEVICES=$RANK"))
    assert JOINED in shown[2] and shown[:2] == joined_run[0][:2]
    same = train(recipe(), 2, 2, env={"CUDA_VISIBLE_DEVICES": "1"})
    assert f"ranks 0 and 1 share a GPU: {BY_MPI}" in same[2] and same[:2] == shown[:2]


def test_gpus_for_some_ranks_and_none_for_others_are_refused(recipe):
    config, _ = recipe(device="auto")
    blind = each('[ $RANK != 1 ] || export CUDA_VISIBLE_DEVICES=')
    done = mpirun(3, *blind, ZOODIP, "train", config, env={"ZOODIP_STANDIN_DEVICES": "3"}, check=False)
    assert done.returncode == 2 and "rank 0 computes on a GPU and rank 1 does not" in done.stderr


def test_ranks_meet_between_the_graphs_of_a_step(joined_run):
    """A sum and a broadcast when the ranks join, and in each of four steps; NCCL does not say what becomes of them in a graph that
    ranks capture at different times, and the stand-in refuses it."""
    done, ranks = joined_run
    assert JOINED in done[2] and len(done[1]) == 4 and sorted(r["rank"] for r in ranks) == [0, 1]
    for r in ranks:
        assert r["leaks"] == 0 and r["faults"] == 0
        assert r["calls"]["ncclAllReduce"] == r["calls"]["ncclBroadcast"] == 5


# -------------------------------------------------------------------------------- one is lost

@beside_the_others("recipe", "joined_run")
def test_a_rank_that_is_killed_ends_all(recipe):
    written = recipe(optim__steps=100000, cluster__timeout=LIMIT)
    process = start(written, 3, 3)
    until(lambda: steps(written[1]) >= 3, process)
    os.kill(ranks_of(written[0])[2], signal.SIGKILL)
    code, _ = end_of(process, 10 + LIMIT)
    assert code != 0


@beside_the_others("recipe", "joined_run")
def test_what_nccl_says_of_a_lost_rank_ends_all_with_one_line(recipe):
    """mpirun is told to leave the other ranks alone: they notice by themselves, long before the limit. With differences, whose
    steps have no comparison over MPI, which says nothing of a lost rank."""
    written = recipe(optim__steps=100000, cluster__timeout=60, zo__derivative="difference")
    process = start(written, 2, 2, launcher=["--enable-recovery"])
    until(lambda: steps(written[1]) >= 3, process)
    os.kill(ranks_of(written[0])[1], signal.SIGKILL)
    said = end_of(process, 15)[1]
    assert len(said) == 1 and "rank 0: waiting for the other ranks: NCCL: remote process exited" in said[0]


@pytest.mark.parametrize("hanging", [[0], [1, 2]], ids=str)
@beside_the_others("recipe", "joined_run")
def test_ranks_that_hang_are_named_and_end_all_within_the_limit(recipe, hanging):
    """A rank that waits for them says so, and at which step."""
    written = recipe(optim__steps=100000, cluster__timeout=LIMIT)
    process = start(written, 4, 4)
    until(lambda: steps(written[1]) >= 3, process)
    ranks = ranks_of(written[0])
    for rank in hanging:
        os.kill(ranks[rank], signal.SIGSTOP)
    code, said = end_of(process, 10 + LIMIT)
    speaker = min({0, 1, 2, 3} - set(hanging))
    missing = ("ranks " if len(hanging) > 1 else "rank ") + ", ".join(map(str, hanging))
    assert code == 1 and len(said) == 1, said
    assert re.search(rf"rank {speaker}: {missing} gave no sign of life for {LIMIT} s \(cluster.timeout\) after step \d+", said[0])


@beside_the_others("recipe", "joined_run")
def test_a_call_that_fails_on_one_rank_ends_all(recipe, joined_run):
    """Call by call, from joining to the last step."""
    calls = min(rank["fallible"] for rank in joined_run[1])
    numbers = (16, 20, calls // 2, calls * 3 // 4, calls * 9 // 10)
    runs = [start(recipe(cluster__timeout=LIMIT), 2, 2, before=each(f"[ $RANK = 0 ] || export ZOODIP_STANDIN_FAIL={k}")) for k in numbers]
    for k, process in zip(numbers, runs):
        code, said = end_of(process, 10 + LIMIT)
        assert code == 1 and said, f"call {k}"


def test_a_loss_or_a_moment_that_is_not_finite_ends_all_ranks_before_it_is_saved(recipe, random_models, tmp_path):
    """A UNet with a finite layer whose sums are not; and a fault in the third step."""
    model = shutil.copytree(random_models("plain"), tmp_path / "model")
    path = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_out.weight"] = tensors["conv_out.weight"] / abs(tensors["conv_out.weight"]).max() * np.float32(3e38)
    save_file(tensors, path)
    for ranks, gpus in ((3, 3), (2, 1)):
        config, output = recipe(model=str(model))
        done = mpirun(ranks, ZOODIP, "train", config, check=False, timeout=60, env={"ZOODIP_STANDIN_DEVICES": str(gpus)})
        assert done.returncode == 1 and "step 1: rank 0: the loss of picture " in done.stderr, done.stderr
        assert not list(output.rglob("*.safetensors"))
    config, output = recipe(output__checkpoint_every=1, output__save_every=1)
    done = mpirun(1, cuda_program("spoil"), config, "second", 3, 0, "inf", check=False)
    assert done.returncode == 1 and "step 3: rank 0: the second moment holds" in done.stderr, done.stderr
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == ["step-1.safetensors", "step-2.safetensors"]


# -------------------------------------------------------------------------------- stopping

@beside_the_others("recipe", "joined_run")
@afresh
def test_a_signal_to_one_rank_stops_all_and_a_resumed_run_ends_with_the_same_bits(tmp_path, recipe):
    changes = dict(optim__steps=14)
    whole = train(recipe(**changes), 1, 1)
    written = recipe(**changes)
    process = start(written, 2, 2)
    with caught(process, written[0], when=lambda: steps(written[1]) >= 3, unless=nearly_done(written[1], 14)):
        os.kill(ranks_of(written[0])[1], signal.SIGUSR1)
    code, _ = end_of(process, 20)
    done = len(metrics(written[1]))
    assert code == 75 and 3 <= done < 14
    assert train(written, 2, 2, "--resume")[:2] == whole[:2]
