"""Where a word's gradients lie: JtJ's eigenvalues and eigenvectors are those that PyTorch finds, with J by torch.func.jacfwd through
the real transformers text encoder and the to_k and to_v of the real diffusers UNet; the token table's root has torch.cov's
covariance; any number of ranks finds the same bits."""
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import ROOT, make_model, mpirun, program, run
from test_tangents import MODELS, Reference

NEEDS = "peers"
LIMIT = 1e-5  # of the largest eigenvalue

# The model, the bits of its weights, and how many different captions.
CASES = dict(plain=("plain", 32, 1), deep=("deep", 32, 3), stacked=("stacked", 8, 2), wide=("wide", 32, 6), second=("second", 8, 2),
             late=("late", 32, 5))
LEAST = 3


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Each case's folder, reference, inputs, and a file with them: made once, and found by ours in one process for each of bits."""
    made, top = {}, tmp_path_factory.mktemp("directions")
    for name, (model, bits, captions) in CASES.items():
        shape, vectors, length, _ = MODELS[model]
        folder = make_model(top / name, shape, seed=len(made), parts=("text_encoder", "unet"))
        reference = Reference(folder, bits)
        given = inputs_for(reference, vectors, length, captions)
        save_file(given, top / f"{name}.safetensors")
        made[name] = folder, reference, given
    for bits in {bits for _, bits, _ in CASES.values()}:
        find(top, made, [name for name in CASES if CASES[name][1] == bits], "--bits", str(bits))
    return top, made


def inputs_for(reference, vectors, length, captions, seed=7):
    """Every caption twice, with the word anywhere; in the first it stands twice. A learned word, not one of the table's."""
    g = torch.Generator().manual_seed(seed)
    table = reference.words.table.float()
    vocab, dim = table.shape
    ids = torch.randint(0, vocab, (captions, length), generator=g, dtype=torch.int32)
    word = torch.arange(vocab, vocab + vectors, dtype=torch.int32)
    for row in range(captions):
        at = row * (length - vectors) // captions
        ids[row, at:at + vectors] = word
    ids[0, -vectors:] = word
    embedding = table[:vectors] + table.std() * torch.randn(vectors, dim, generator=g)
    return dict(input_ids=torch.cat([ids, ids]), embedding=embedding, first_id=torch.tensor([[vocab]], dtype=torch.int32))


def find(top, made, names, *options, ranks=1, into="ours", **kw):
    arguments = [a for name in names
                 for a in (made[name][0], top / f"{name}.safetensors", top / f"{name}-{into}.safetensors")]
    command = [program("tests/basis"), "--least", str(LEAST), *options, *arguments]
    mpirun(ranks, *command, **kw) if ranks > 1 else run(*command, **kw)


def found(top, name, into="ours"):
    return load_file(top / f"{name}-{into}.safetensors")


def products(reference, given):
    """JtJ, the mean over those captions that count: of C different ones at most four, number i C / 4."""
    ids = given["input_ids"][:len(given["input_ids"]) // 2]
    count = min(len(ids), 4)
    layers = [layer for name, layer in reference.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    total = 0
    for caption in [ids[i * len(ids) // count] for i in range(count)]:
        def read(words):
            reference.words.words = words[None]
            with mock.patch("torch.nn.functional.softmax", lambda x, dim, dtype=None: x.softmax(dim)):
                hidden = reference.text(caption[None].long()).last_hidden_state
            return torch.cat([layer(hidden).flatten() for layer in layers])
        with torch.no_grad():
            jacobian = torch.func.jacfwd(read)(given["embedding"].double()).flatten(1)
        total = total + jacobian.T @ jacobian / count
    return total


@pytest.fixture(scope="module")
def theirs(cases):
    return {name: products(reference, given) for name, (_, reference, given) in cases[1].items()}


def spectrum_agrees(ours, theirs, limit=LIMIT):
    values, vectors = (t.flip(-1) for t in torch.linalg.eigh(theirs))
    assert ((ours["values"][0] - values).abs() < limit * values[0]).all()
    # each space of eigenvectors that is well apart from the next: one projector onto the first k
    for k in range(1, len(values)):
        if values[k - 1] - values[k] > 100 * limit * values[0]:
            a, b = ours["vectors"][:k], vectors[:, :k].T
            assert (a.T @ a - b.T @ b).abs().max() < 0.02, k
    assert (ours["vectors"] @ ours["vectors"].T - torch.eye(len(values))).abs().max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_the_directions_are_those_that_pytorch_finds(cases, theirs, name):
    spectrum_agrees(found(cases[0], name), theirs[name])


@pytest.mark.parametrize("name", CASES)
def test_the_rank_is_the_smallest_that_holds_enough(cases, name):
    ours = found(cases[0], name)
    values, share = ours["values"][0], lambda k: ours["values"][0][:k].sum() / ours["values"][0].sum()
    rank, dim = ours["basis"].shape
    assert dim == len(values) and LEAST <= rank <= dim
    assert share(rank) >= 0.999 and (rank == LEAST or share(rank - 1) < 0.999)
    assert abs(ours["held"].item() - share(rank)) < 1e-12
    assert torch.equal(ours["basis"], ours["vectors"][:rank].float())
    most = ours["vectors"].abs().argmax(1)
    assert (ours["vectors"][torch.arange(dim), most] > 0).all()


@pytest.mark.parametrize("name", CASES)
def test_the_tables_root_has_its_covariance(cases, name):
    root = found(cases[0], name)["root"].double()
    table = cases[1][name][1].words.table.double()
    covariance = torch.cov(table.T)
    covariance *= len(covariance) / covariance.trace()
    assert (root @ root - covariance).abs().max() < 1e-5 * covariance.abs().max()
    assert (root - root.T).abs().max() == 0


def test_a_rank_may_be_asked_for(cases):
    top, made = cases
    find(top, made, ["plain", "late"], "--rank", "5", into="five")
    for name in ("plain", "late"):
        five, ours = found(top, name, "five"), found(top, name)
        assert torch.equal(five["basis"], ours["vectors"][:5].float())
        assert abs(five["held"].item() - (ours["values"][0][:5].sum() / ours["values"].sum()).item()) < 1e-12


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_all_ranks_find_the_same_bits(cases, ranks):
    top, made = cases
    names = ["deep", "wide", "late"]
    find(top, made, names, ranks=ranks, threads=2 if ranks == 2 else 1, into=ranks)
    for name in names:
        ours, alone = found(top, name, ranks), found(top, name)
        assert ours.keys() == alone.keys()
        assert all(torch.equal(ours[key], alone[key]) for key in ours)


def test_a_build_without_lapack_says_what_is_missing(tmp_path):
    done = run("cmake", "-S", ROOT, "-B", tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_LAPACK=ON", check=False)
    assert done.returncode != 0 and "install liblapack-dev" in " ".join(done.stderr.split())
