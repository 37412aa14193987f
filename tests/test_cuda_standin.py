"""The stand-in for a GPU must notice errors: each of its detectors is shown a mistake and must name it, and correct programs must
pass, in every flavour and every order of threads.

Programs: BUILD/tests/cuda/selftest and its sisters under cuda-asan and cuda-race (cases: tests/cuda/selftest.cu)."""
import functools
import json
import subprocess

import pytest

from conftest import BUILD, mpirun, run

NEEDS = "standin"
RIGHT = ["kernels", "product", "units", "capture", "copies", "events"]
ORDERS = ["forward", "backward", "shuffled:1", "shuffled:2"]


@pytest.fixture(scope="session")
def selftest():
    """Path of a flavour's selftest; those not built by default are built here."""
    @functools.cache
    def path(flavour="cuda"):
        if flavour != "cuda":
            subprocess.run(["cmake", "--build", BUILD, "--target", f"{flavour}_selftest"], check=True, capture_output=True)
        return BUILD / "tests" / flavour / "selftest"
    return path


def case(program, name, *rest, **env):
    done = run(program, name, *rest, check=False, env={"ASAN_OPTIONS": "detect_leaks=1", **env})
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize("flavour", ["cuda", "cuda-asan", "cuda-race"])
@pytest.mark.parametrize("name", RIGHT)
def test_correct_programs_pass(selftest, flavour, name):
    assert case(selftest(flavour), name) == (0, "", "")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("flavour", ["cuda", "cuda-race"])
def test_right_kernels_pass_in_every_order_of_threads(selftest, flavour, order):
    for name in ("kernels", "product"):
        assert case(selftest(flavour), name, ZOODIP_THREAD_ORDER=order) == (0, "", "")


# A kernel's mistake, and the message in any flavour
MEETINGS = {
    "barrier_for_some": "ends while 32 threads wait at __syncthreads",
    "barrier_after_end": "__syncthreads",
    "lanes_part": "while lanes of its warp wait at __shfl_xor_sync",
    "far_from_device": "where there is nothing",
    "copy_crooked": "copy_async<16>: the addresses are not aligned",
    "copy_from_nowhere": "is not in device memory",
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_kernel_that_strays_is_stopped_and_named(selftest, name):
    status, said, complaint = case(selftest(), name)
    assert (status, said) == (3, "cudaStreamSynchronize: cudaErrorLaunchFailure")
    assert f"kernel {name}" in complaint and MEETINGS[name] in complaint and complaint.count("\n") == 1


# What only the race check sees: the word, and the two accesses
RACES = {
    "no_barrier": "reads shared memory at 4, which nobody has written",
    "no_barrier_before_reuse": "writes shared memory at 132, which thread 32 read with no barrier between",
    "shuffle_is_no_barrier": "reads shared memory at 124, which thread 31 wrote with no barrier between",
    "unwritten": "reads shared memory at 0, which nobody has written",
    "behind_shared": "touches shared memory at 1024, past the launch's 1024 bytes",
    "copy_not_waited_for": "where a copy is under way",
    "blocks_write_one_word": "block (1, 0, 0), thread (0, 0, 0): race: writes device memory at 0, which another block wrote",
    "block_reads_another": "reads device memory at 0, which another block wrote",
    "threads_write_one_word": "writes device memory at 0, which thread 0 wrote",
}


@pytest.mark.parametrize("name", RACES)
def test_a_race_is_noticed_although_the_numbers_are_right(selftest, name):
    status, said, complaint = case(selftest("cuda-race"), name)
    assert (status, said) == (3, "cudaStreamSynchronize: cudaErrorLaunchFailure")
    assert RACES[name] in complaint and f"kernel {name}" in complaint


def test_a_copy_lands_when_it_is_waited_for_and_not_before(selftest):
    assert case(selftest(), "copy_not_waited_for")[:2] == (1, "wrong: number from a copy that had landed")


def test_shared_memory_is_watched_past_its_end(selftest):
    assert "wrote shared memory at 1024, past its 1024 bytes" in case(selftest(), "behind_shared")[2]
    status, _, complaint = case(selftest("cuda-asan"), "behind_shared")
    assert status != 0 and "AddressSanitizer" in complaint and "behind_shared" in complaint


def test_device_memory_is_watched_to_the_byte(selftest):
    status, _, complaint = case(selftest("cuda-asan"), "behind_device")
    assert status != 0 and "heap-buffer-overflow" in complaint and "0 bytes" in complaint and "behind_device" in complaint


def test_a_capture_is_spoiled_by_what_it_may_not_see(selftest):
    assert case(selftest(), "capture_misuse") == (0, "", "")


@pytest.mark.parametrize("name", ["pinned_freed_early", "freed_early"])
def test_memory_must_stay_until_the_work_that_uses_it_has_run(selftest, name):
    status, said, complaint = case(selftest(), name)
    assert (status, said) == (3, "cudaStreamSynchronize: cudaErrorIllegalAddress") and "memory was freed" in complaint


def report(tmp_path, program, *command, **env):
    path = tmp_path / "report.json"
    path.unlink(missing_ok=True)
    result = case(program, *command, ZOODIP_STANDIN_REPORT=str(path), **env)
    return result, json.loads(path.read_text())


def test_the_report_counts_what_was_left_behind(selftest, tmp_path):
    _, left = report(tmp_path, selftest(), "leak")
    assert left["leaks"] == 3 and left["device"] == {"made": 1, "alive": 1, "bytes": 400, "peak": 400}
    assert left["pinned"]["bytes"] == 40 and left["streams"] == 1 and left["calls"]["cudaMalloc"] == 1
    _, clean = report(tmp_path, selftest(), "capture")
    assert clean["leaks"] == 0 and clean["faults"] == 0 and clean["device"]["peak"] == 128


def test_the_kth_call_fails_and_no_other(selftest, tmp_path):
    _, whole = report(tmp_path, selftest(), "capture")
    said = set()
    for k in range(1, whole["fallible"] + 1):
        (status, name, _), _ = report(tmp_path, selftest(), "capture", ZOODIP_STANDIN_FAIL=str(k))
        assert status == 3, f"call {k} did not fail"
        said.add(name.split(":")[0])
    assert {"cudaMalloc", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch", "cudaMemcpyAsync"} <= said
    assert case(selftest(), "capture", ZOODIP_STANDIN_FAIL=str(whole["fallible"] + 1)) == (0, "", "")


def test_limits_are_those_of_the_card(selftest):
    assert case(selftest(), "limits")[:2] == (0, f"cudaErrorInvalidValue\n{8 << 30}")
    other = {"ZOODIP_STANDIN_GPU": "H100", "ZOODIP_STANDIN_MEMORY": str(64 << 20)}
    assert case(selftest(), "limits", **other)[1].split() == ["cudaSuccess", str(64 << 20)]


@pytest.mark.parametrize("card", ["H100", "A100"])
def test_matrix_units_cut_their_sums_as_the_cards_do(selftest, card):
    assert case(selftest(), "units", ZOODIP_STANDIN_GPU=card) == (0, "", "")


@pytest.mark.parametrize("env, said", [
    ({}, "12040 1 stand-in GPU"),
    ({"ZOODIP_STANDIN_DEVICES": "3"}, "12040 3 stand-in GPU"),
    ({"ZOODIP_STANDIN_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "2,0"}, "12040 2 stand-in GPU"),
    ({"ZOODIP_STANDIN_DEVICES": "3", "CUDA_VISIBLE_DEVICES": "1,7,0"}, "12040 1 stand-in GPU"),
    ({"CUDA_VISIBLE_DEVICES": ""}, "cudaGetDeviceCount: cudaErrorNoDevice"),
    ({"ZOODIP_STANDIN_DEVICES": "0"}, "cudaGetDeviceCount: cudaErrorNoDevice"),
    ({"ZOODIP_STANDIN_DRIVER": "11080"}, "cudaGetDeviceCount: cudaErrorInsufficientDriver"),
])
def test_devices_are_those_that_may_be_seen(selftest, env, said):
    assert case(selftest(), "device", **env)[1] == said


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_collectives_meet_across_processes_in_graphs_too(selftest, tmp_path, ranks):
    mpirun(ranks, selftest(), "nccl", tmp_path / "id", env={"ZOODIP_STANDIN_DEVICES": "3"})


def test_two_ranks_may_not_share_a_device(selftest, tmp_path):
    done = mpirun(2, selftest(), "nccl", tmp_path / "id", check=False)
    assert done.returncode != 0 and "ncclCommInitRankConfig: invalid usage" in done.stdout


def test_a_communicator_that_does_not_block_is_asked_before_its_stream_is_used(selftest, tmp_path):
    status, said, complaint = case(selftest(), "nccl_hasty", tmp_path / "id")
    assert (status, said) == (3, "cudaStreamSynchronize: cudaErrorLaunchFailure")
    assert "does not say what a communicator that does not block adds to a capture" in complaint
    assert "the call before it is still in progress" in complaint
    assert complaint.splitlines()[-1] == "stand-in: a stream was used while NCCL was still posting to it"


def test_a_dead_rank_is_noticed_by_polling_and_left_by_aborting(selftest, tmp_path):
    done = mpirun(2, selftest(), "nccl_lost", tmp_path / "id", env={"ZOODIP_STANDIN_DEVICES": "2"})
    assert done.stdout.strip() == "remote process exited or there was a network error"
