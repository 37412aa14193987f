"""The same bits on any number of ranks and threads, with any distribution of lanes, even if some ranks get none."""
import json
import re

import pytest

from conftest import SD15_WIDTHS, SHAPES, learned, losses_of, make_model, metrics, mpirun, program, recipe, run, slice_of, write_recipe

NEEDS = "peers"
GRID = [(ranks, threads) for ranks in (1, 2, 3, 4, 7) for threads in (1, 2)]
SHORT = dict(optim__steps=20, zo__tau=6, output__prompts=[])


def train(folder, ranks, threads, **changes):
    config, output = write_recipe(folder, **changes)
    mpirun(ranks, program("zoodip"), "train", config, threads=threads)
    return learned(output), losses_of(output)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """One rank, one thread."""
    return train(tmp_path_factory.mktemp("quiet"), 1, 1, **SHORT)


@pytest.mark.parametrize("ranks,threads", GRID[1:])
def test_toybox(tmp_path, quiet, ranks, threads):
    assert train(tmp_path, ranks, threads, **SHORT) == quiet


def test_several_pictures_directions_and_vectors(tmp_path):
    changes = dict(SHORT, optim__steps=6, zo__n=3, optim__batch_size=2, token__vectors=2, data__flip=True, zo__tau=3)
    one = train(tmp_path / "1", 1, 2, **changes)
    for ranks in (2, 3, 5):
        assert train(tmp_path / str(ranks), ranks, 1, **changes) == one


@pytest.mark.parametrize("n,batch,others", [(1, 1, [(2, 1), (7, 1)]), (1, 3, [(4, 1), (7, 2)]), (2, 3, [(2, 2), (7, 1)]),
                                            (5, 1, [(3, 1), (4, 2)]), (5, 3, [(3, 2), (7, 1)])])
def test_directions_and_pictures_shared_out_in_any_way(tmp_path, n, batch, others):
    changes = dict(SHORT, optim__steps=4, zo__n=n, optim__batch_size=batch, zo__tau=3)
    one = train(tmp_path / "1", 1, 1, **changes)
    assert len(one[1][0]) == (n + 1) * batch
    for ranks, threads in others:
        assert train(tmp_path / f"{ranks}x{threads}", ranks, threads, **changes) == one


def test_more_lanes_than_fit_one_batch(tmp_path):
    """17 directions under 2 pictures: more lanes than one rank evaluates at once."""
    changes = dict(SHORT, optim__steps=2, zo__n=17, optim__batch_size=2)
    assert train(tmp_path / "1", 1, 2, **changes) == train(tmp_path / "4", 4, 1, **changes)


def test_two_sides(tmp_path):
    changes = dict(SHORT, optim__steps=4, zo__n=2, zo__sides=2)
    one = train(tmp_path / "1", 1, 1, **changes)
    assert len(one[1][0]) == 5
    assert train(tmp_path / "3", 3, 1, **changes) == one


def losses_and_slopes(output):
    return [(m["losses"], m["slopes"]) for m in metrics(output)]


def test_tangents_shared_out_in_any_way_and_grouping(tmp_path):
    """Batches of 1, 2 and 3 pictures with shared directions and their own, as jobs of a queue on groups of 1 to 7 ranks, on a
    model whose sizes are all odd."""
    model = make_model(tmp_path / "model", SHAPES["stacked"])
    shapes = [(5, 1, "step"), (3, 3, "step"), (2, 2, "picture"), (18, 2, "picture")]
    found = {}
    for ranks, groups, threads in [(1, 1, 2), (5, 2, 1), (5, 1, 1), (7, 1, 1)]:
        folder = tmp_path / f"{ranks}-{groups}"
        defaults = recipe(folder, **dict(SHORT, model=str(model), optim__steps=3, zo__tau=2, zo__derivative="tangent"))
        jobs = [dict(name=f"{n} {b} {per}", zo=dict(n=n, directions_per=per), optim=dict(batch_size=b)) for n, b, per in shapes]
        path = tmp_path / f"{ranks}-{groups}.json"
        path.write_text(json.dumps({"defaults": defaults, "jobs": jobs}))
        mpirun(ranks, program("zoodip"), "run", path, "--groups", groups, threads=threads)
        found[ranks, groups] = {job["name"]: (learned(folder / job["name"]), losses_and_slopes(folder / job["name"])) for job in jobs}
    for name, (word, steps) in found[1, 1].items():
        n, b, _ = name.split()
        assert len(steps) == 3 and all(len(losses) == int(b) and len(slopes) == int(n) * int(b) for losses, slopes in steps)
        for how, those in found.items():
            assert those[name] == (word, steps), (name, how)


@pytest.mark.parametrize("bits", [4, 16, 32])
def test_other_weights(tmp_path, bits):
    changes = dict(SHORT, optim__steps=4, quant__bits=bits)
    assert train(tmp_path / "1", 1, 1, **changes) == train(tmp_path / "2", 2, 2, **changes)


def test_sd15_layer_widths(tmp_path):
    """At 128 px."""
    shape = dict(SD15_WIDTHS, text=dict(SD15_WIDTHS["text"], num_hidden_layers=1, vocab_size=1571))
    model = make_model(tmp_path / "model", shape, "float16")
    changes = dict(SHORT, model=str(model), data__resolution=128, optim__steps=2, zo__n=1)
    others = slice_of([(3, 2), (2, 1), (1, 2)], 3)
    runs = [train(tmp_path / f"{r}x{t}", r, t, **changes) for r, t in [(1, 1), *others]]
    assert len(runs) > 1 and all(r == runs[0] for r in runs[1:])


def test_every_instruction_set_alone_keeps_its_bits(tmp_path):
    changes = dict(SHORT, optim__steps=3)
    config, output = write_recipe(tmp_path, **changes)
    for isa in ("generic", "avx2", "avx512"):
        if "ZOODIP_ISA" in run(program("zoodip"), "train", config, "--overwrite", threads=1, env={"ZOODIP_ISA": isa}, check=False).stderr:
            continue  # not an instruction set of this machine
        one = learned(output)
        run(program("zoodip"), "train", config, "--overwrite", threads=2, env={"ZOODIP_ISA": isa})
        assert learned(output) == one


def test_losses_are_all_there_in_full_precision(tmp_path):
    config, output = write_recipe(tmp_path, **dict(SHORT, optim__steps=3, zo__n=2, optim__batch_size=2))
    mpirun(2, program("zoodip"), "train", config)
    lines = metrics(output)
    assert [m["step"] for m in lines] == [1, 2, 3]
    for m in lines:
        assert len(m["losses"]) == 6
        assert m["loss"] == pytest.approx((m["losses"][0] + m["losses"][1]) / 2, rel=1e-15)
    raw = (output / "metrics.jsonl").read_text()
    assert max(len(n) for n in re.findall(r"0\.\d+", raw)) >= 17
    assert json.loads(raw.splitlines()[0])["removed"] == 0


def test_ranks_of_a_node_share_one_copy_of_the_weights(tmp_path):
    """The weights' memory counts once for any number of ranks: all map it, and none of it is left behind."""
    from pathlib import Path
    before = set(Path("/dev/shm").glob("zoodip*"))
    config, _ = write_recipe(tmp_path, **SHORT)
    mpirun(3, program("zoodip"), "train", config)
    assert set(Path("/dev/shm").glob("zoodip*")) == before


@pytest.mark.parametrize("rank", [0, 2])
def test_a_flipped_bit_on_one_rank_stops_the_run(tmp_path, rank):
    """Adam's moments are never exchanged, so only the comparison every tau steps can notice a change."""
    config, _ = write_recipe(tmp_path, optim__steps=40, zo__tau=8, output__prompts=[])
    done = mpirun(3, program("tests/drift"), config, 10, rank, check=False)
    assert done.returncode == 1
    assert re.search(r"rank \d's state differs from rank 0's after step 16", done.stderr)


@pytest.mark.parametrize("changes, parts, lines", [
    (dict(zo__n=3, optim__batch_size=4, zo__derivative="tangent"), (2, 3, 5, 12), ["1 shares, 1 batches, 16 lanes", "2 shares, 2 batches, 16 lanes"]),
    (dict(zo__n=2, optim__batch_size=13, zo__derivative="tangent", zo__directions_per="picture", token__vectors=2), (3,), ["1 shares, 2 batches, 40 lanes"]),
    (dict(zo__n=37, zo__derivative="tangent"), (2, 5), ["1 shares, 2 batches, 40 lanes", "2 shares, 2 batches, 39 lanes"]),
    (dict(zo__n=2, optim__batch_size=3, zo__sides=2, zo__directions_per="picture"), (2, 4, 15), ["1 shares, 1 batches, 15 lanes"])])
def test_any_share_of_a_step_finds_the_same_slots(tmp_path, changes, parts, lines):
    """In batches of other sizes, which begin in the middle of a picture's directions, or reach past the end of the share."""
    config, _ = write_recipe(tmp_path, **{**SHORT, "data__flip": True, **changes})
    done = run(program("tests/slots"), config, *parts, threads=2)
    assert done.stdout.splitlines()[:len(lines)] == lines
