"""The arithmetic of zeroth-order training compared with scikit-learn, torch.optim.Adam, get_scheduler and numpy."""

import warnings

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler
from transformers.optimization import get_wsd_schedule
from safetensors.numpy import load_file, save_file
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from conftest import ON_GPU, cuda_program, needs_cuda, program, run

NEEDS = "peers standin"
NUS = (1e-3, 1e-2, 0.1)


@pytest.fixture
def zo(tmp_path):
    def call(operation, tensors, *numbers, device="cpu"):
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "in")
        helper = program("tests/zo") if device == "cpu" else cuda_program("zo")
        run(helper, operation, tmp_path / "in", tmp_path / "out", *numbers, env={"DEVICE": device})
        return load_file(tmp_path / "out")
    return call


# -------------------------------------------------------------------------------- subspace


def walk(tau, dim, seed=0):
    """Embeddings like those of training: an initializer's row that drifts with small noise."""
    random = np.random.default_rng([seed, tau, dim])
    steps = random.normal(size=(tau, dim)) * 1e-2 + random.normal(size=dim) * 3e-3
    return (random.normal(size=dim) * 0.02 + np.cumsum(steps, 0)).astype(np.float32)


def peer(history, nu):
    """scikit-learn's directions of least variance, how many of them the data determine, and the singular values."""
    h = StandardScaler().fit_transform(history)
    pca = PCA(min(len(h) - 1, h.shape[1]), svd_solver="full").fit(h)
    k = np.argmax(np.cumsum(pca.explained_variance_ratio_) > 1 - nu)
    determined = (pca.singular_values_ > 1e-5 * pca.singular_values_[0]).sum()
    return pca.components_[k + 1:], max(determined - k - 1, 0), pca.components_[:k + 1]


def removed_of(zo, history, nu):
    gradient = np.random.default_rng(5).normal(size=(1, history.shape[1]))
    out = zo("subspace", {"history": history, "gradient": gradient}, len(history), nu)
    removed = out["removed"].astype(np.float64)
    assert np.abs(removed @ removed.T - np.eye(len(removed))).max(initial=0) < 1e-6, "the rows are not orthonormal"
    expected = gradient - gradient @ removed.T @ removed
    assert np.abs(out["gradient"] - expected).max() < 1e-6
    return removed


@pytest.mark.parametrize("nu", NUS)
@pytest.mark.parametrize("tau, dim", [(128, 768), (24, 96), (24, 192), (16, 96), (64, 40), (40, 40), (41, 40), (40, 41), (3, 7), (2, 5)])
def test_removed_directions_are_sklearns(zo, tau, dim, nu):
    history = walk(tau, dim)
    removed, (theirs, _, _) = removed_of(zo, history, nu), peer(history, nu)
    assert len(removed) == len(theirs)
    assert np.abs(removed.T @ removed - theirs.T @ theirs).max(initial=0) < 1e-5


def few_directions(tau, dim, rank):
    random = np.random.default_rng(rank)
    return (random.normal(size=(tau, rank)) @ random.normal(size=(rank, dim)) * 1e-2).astype(np.float32)


def repeated(tau, dim):
    return np.repeat(walk(tau // 4, dim), 4, 0)


def some_constant(tau, dim):
    history = walk(tau, dim)
    history[:, ::3] = history[0, ::3]
    return history


@pytest.mark.parametrize("nu", NUS)
@pytest.mark.parametrize("history", [
    few_directions(24, 96, 3), few_directions(64, 40, 5), few_directions(24, 96, 1), repeated(24, 96), repeated(64, 12),
    some_constant(24, 96), some_constant(64, 40), some_constant(24, 30)],
    ids=["3-directions", "5-directions-tall", "1-direction", "repeated", "repeated-tall", "constant", "constant-tall", "constant-near"])
def test_what_the_data_determine_is_sklearns(zo, history, nu):
    removed = removed_of(zo, history, nu)
    theirs, determined, signal = peer(history, nu)
    assert len(removed) == len(theirs)
    # past the data's rank any completion is as good, as long as it does not touch the signal
    assert np.abs(removed[:determined].T @ removed[:determined] - theirs[:determined].T @ theirs[:determined]).max(initial=0) < 1e-4
    assert np.abs(removed @ signal.T).max(initial=0) < 1e-4


def test_a_history_that_never_moved_removes_nothing(zo):
    assert len(removed_of(zo, np.repeat(walk(1, 96), 24, 0), 1e-3)) == 0
    assert len(removed_of(zo, np.zeros((24, 8), np.float32), 1e-3)) == 0


def test_nu_zero_removes_nothing(zo):
    assert len(removed_of(zo, walk(24, 96), 0)) == 0


def test_nothing_is_removed_before_the_history_is_full_and_each_filling_counts_alone(zo):
    first, second = walk(24, 96, seed=1), walk(24, 96, seed=2)
    gradient = np.ones((1, 96))

    def removed(rows):
        return zo("subspace", {"history": rows, "gradient": gradient}, 24, 0.01)["removed"]
    assert len(removed(first[:23])) == 0
    both = np.concatenate([first, second])
    assert np.array_equal(removed(both), removed(second))
    assert np.array_equal(removed(both[:47]), removed(first))


# -------------------------------------------------------------------------------- optimizer, estimator


@pytest.mark.parametrize("betas, eps", [((0.9, 0.999), 1e-3), ((0.8, 0.99), 1e-8)])
def test_adam_is_torchs(zo, betas, eps):
    random = np.random.default_rng(0)
    steps, dim = 200, 96
    gradients = random.normal(size=(steps, dim)) * 10.0 ** random.uniform(-4, 0, size=(steps, 1))
    rates = np.linspace(1e-2, 1e-4, steps)[None]
    embedding = (random.normal(size=(1, dim)) * 0.02).astype(np.float32)
    ours = zo("adam", {"embedding": embedding, "gradients": gradients, "rates": rates}, *betas, eps)["embeddings"]
    row = torch.nn.Parameter(torch.tensor(embedding[0]))
    adam = torch.optim.Adam([row], lr=1, betas=betas, eps=eps)
    for k in range(steps):
        adam.param_groups[0]["lr"] = rates[0, k]
        row.grad = torch.tensor(gradients[k], dtype=torch.float32)
        adam.step()
        theirs = row.detach().numpy()
        assert np.abs(ours[k] - theirs).max() < 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"])
def test_schedules_are_diffusers(name, warmup):
    lr, steps = 3e-2, 40
    done = run(program("tests/zo"), "rates", name, lr, steps, warmup, 0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    theirs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer.step() was called here
        for step in range(steps):
            if step > 0:
                schedule.step()
            theirs.append(schedule.get_last_lr()[0])
    assert np.allclose([float(line) for line in done.stdout.split()], theirs, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("warmup, decay", [(0, 0), (7, 0), (0, 40), (30, 10), (3, 1), (0, 90), (30, 11), (25, 0), (40, 5)])
def test_warmup_stable_decay_is_transformers(warmup, decay):
    """A fall longer than what the warmup leaves has that."""
    lr, steps = 3e-2, 40
    fall = min(decay or steps // 2, steps - warmup)
    done = run(program("tests/zo"), "rates", "warmup_stable_decay", lr, steps, warmup, decay)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)  # whose group has the shares
    share = get_wsd_schedule(optimizer, warmup, fall, num_stable_steps=steps - warmup - fall, decay_type="linear").lr_lambdas[0]
    assert np.allclose([float(line) for line in done.stdout.split()], [lr * share(step) for step in range(steps)], rtol=1e-12)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("sides", [1, 2, 0])
@pytest.mark.parametrize("n, batch, removed", [(1, 1, 0), (2, 1, 40), (5, 3, 7), (1, 4, 0), (300, 3, 5)])
def test_gradient_is_the_papers_formula(zo, n, batch, removed, sides, own):
    """`sides` 0: tangents, whose slopes follow the losses, picture by picture."""
    random = np.random.default_rng(n)
    dim, eps, rows = 96, 1e-3, n * batch if own else n
    slots, z = random.uniform(0.01, 0.2, size=(max(sides, 1) * n + 1, batch)), random.normal(size=(rows, dim)).astype(np.float32)
    ours = zo("gradient", {"slots": slots, "directions": z}, sides, eps, removed)["gradient"][0]
    slopes = slopes_of(slots, n, sides, eps)
    slopes = slopes.flatten() if own else slopes.mean(0)
    theirs = slopes @ z.astype(np.float64) / (rows * np.sqrt((dim - removed + rows - 1) / rows))
    assert np.allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())


def slopes_of(slots, n, sides, eps):
    """[batch, n]"""
    if sides == 0:
        return slots[1:].reshape(slots.shape[1], n)
    return ((slots[1:] - slots[0]) / eps if sides == 1 else (slots[1:n + 1] - slots[n + 1:]) / (2 * eps)).T


def in_coordinates(n, batch, own, sides, rank, dim, removed):
    random = np.random.default_rng([n, rank])
    rows = lambda count: np.linalg.qr(random.normal(size=(dim, count)))[0].T.astype(np.float32)
    return {"slots": random.uniform(0.01, 0.2, size=(max(sides, 1) * n + 1, batch)), "basis": rows(rank), "removed": rows(removed),
            "weights": random.normal(size=(n * batch if own else n, rank)).astype(np.float32)}


COORDINATES = [(3, 2, False, 1, 7, 40, 0), (3, 2, True, 0, 7, 40, 9), (300, 1, False, 2, 300, 400, 270), (1, 1, False, 0, 1, 1, 0), (5, 3, True, 1, 41, 41, 40)]


@pytest.mark.parametrize("n, batch, own, sides, rank, dim, removed", COORDINATES)
def test_a_gradient_in_coordinates_and_its_update(zo, n, batch, own, sides, rank, dim, removed):
    given = in_coordinates(n, batch, own, sides, rank, dim, removed)
    ours, wide = zo("coordinates", given, sides, 1e-3), {name: given[name].astype(np.float64) for name in given}
    assert np.array_equal(ours["directions"], (wide["weights"] @ wide["basis"]).astype(np.float32)) or \
        np.abs(ours["directions"] - wide["weights"] @ wide["basis"]).max() < 1e-6
    slopes, count = slopes_of(given["slots"], n, sides, 1e-3), len(given["weights"])
    y = (slopes.flatten() if own else slopes.mean(0)) @ wide["weights"] / (count * np.sqrt((rank + count - 1) / count))
    gradient = y @ wide["basis"]
    largest = np.abs(y).max()
    gradient -= gradient @ wide["removed"].T @ wide["removed"]
    y = gradient @ wide["basis"].T if removed else y
    assert np.abs(ours["gradient"][0] - gradient).max() < 1e-5 * largest
    assert np.abs(ours["m"][0] - 0.1 * y).max() < 1e-6 * largest
    assert np.abs(ours["v"][0] - 1e-3 * y * y).max() < 1e-6 * largest ** 2
    step = ours["m"][0].astype(np.float64) / (np.sqrt(ours["v"][0].astype(np.float64)) + 1e-3)
    assert np.abs(ours["embedding"][0] + step @ wide["basis"]).max() < 1e-6 * np.abs(step).max()


@needs_cuda
@pytest.mark.skipif(ON_GPU, reason="this helper is not carried there")
@pytest.mark.parametrize("case", COORDINATES)
def test_a_gpu_updates_coordinates_alike(zo, case):
    cpu, gpu = (zo("coordinates", in_coordinates(*case), case[3], 1e-3, device=device) for device in ("cpu", "cuda"))
    for name in cpu:  # a GPU sums what it removes in another order
        same = cpu[name].tobytes() == gpu[name].tobytes()
        assert same or (case[-1] > 0 and np.abs(cpu[name] - gpu[name]).max() < 1e-5 * np.abs(cpu[name]).max()), name


@needs_cuda
@pytest.mark.skipif(ON_GPU, reason="this helper is not carried there")
@pytest.mark.parametrize("sides", [1, 2, 0])
@pytest.mark.parametrize("n, batch, rows", [(3, 2, 3), (3, 2, 6), (129, 2, 258)])
def test_a_gpu_estimates_the_same_gradient(zo, n, batch, rows, sides):
    random = np.random.default_rng(rows)
    given = {"slots": random.uniform(0.01, 0.2, size=(max(sides, 1) * n + 1, batch)), "directions": random.normal(size=(rows, 96)).astype(np.float32)}
    cpu, gpu = (zo("gradient", given, sides, 1e-3, 3, device=device)["gradient"] for device in ("cpu", "cuda"))
    assert cpu.tobytes() == gpu.tobytes()
