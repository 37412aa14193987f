"""Directions mixed from a basis (zo.directions table and text): the same bits on any ranks and across --resume, with a new basis in
between; optim.lr auto; what is refused."""
import json
import shutil

import pytest
from safetensors.numpy import load_file

from conftest import TOYBOX, metrics, mpirun, program, run, slice_of, write_recipe

NEEDS = "peers"
STEPS, REFRESH = 6, 4
CASES = [dict(zo__directions="text", zo__n=3, zo__rank=8, zo__refresh=REFRESH, zo__tau=3), *slice_of([
    dict(zo__directions="text", zo__n=4, zo__rank=4, zo__refresh=REFRESH, zo__derivative="tangent", zo__directions_per="picture", optim__batch_size=2),
    dict(zo__directions="text", zo__n=2, zo__refresh=1, token__vectors=2), dict(zo__directions="table", zo__n=2, token__vectors=2)], 3)]


def prepare(folder, **keys):
    return write_recipe(folder, model=str(TOYBOX / "model"), data__images=str(TOYBOX / "subjects" / "bear5"), use_cc=False, data__captions=None,
                        output__prompts=[], **{"optim__lr": "auto", "optim__steps": STEPS, "output__checkpoint_every": 1, "output__checkpoint_keep": 0, **keys})


@pytest.mark.parametrize("keys", CASES)
def test_ranks_and_resumed_runs_have_the_same_bits(keys, tmp_path):
    config, output = prepare(tmp_path / "whole", **keys)
    run(program("zoodip"), "train", config)
    file = lambda folder, step=STEPS: folder / "checkpoints" / f"step-{step}.safetensors"
    whole = file(output).read_bytes()
    for ranks in (2, 3):
        others, there = prepare(tmp_path / str(ranks), **keys)
        mpirun(ranks, program("zoodip"), "train", others)
        assert file(there).read_bytes() == whole, f"{ranks} ranks"
    bases = [load_file(file(output, step))["basis"].tobytes() for step in range(1, STEPS + 1)]
    every = keys.get("zo__refresh", STEPS)
    assert all((bases[step] != bases[step - 1]) == (step % every == 0) for step in range(1, STEPS))
    for step in (REFRESH, REFRESH + 1):  # as if killed before a new basis, and after it
        again, there = prepare(tmp_path / f"from-{step}", **keys)
        shutil.copytree(output, there)
        for later in [there / "report.html", *(file(there, s) for s in range(step + 1, STEPS + 1)), *there.glob("learned_embeds*")]:
            later.unlink()
        run(program("zoodip"), "train", again, "--resume")
        assert file(there).read_bytes() == whole, f"from step {step}"


def test_an_automatic_rate_follows_table_and_directions(tmp_path):
    for kind, method, rate in [("normal", "adam", 0.03), *slice_of([("table", "adam", 0.059), ("text", "adam", 0.099)], 2), ("text", "gauss_newton", 0.21)]:
        config, output = prepare(tmp_path / kind / method, zo__directions=kind, optim__method=method, zo__n=2, optim__steps=1)
        assert f"optim.lr: auto takes {rate}," in run(program("zoodip"), "train", config).stderr
        assert metrics(output)[0]["lr"] == rate
        facts = run(program("zoodip"), "inspect", output / "checkpoints" / "step-1.safetensors").stdout
        assert json.loads(facts.split("recipe = ", 1)[1].splitlines()[0])["optim"]["lr"] == rate
    assert f"optim.lr auto is {rate}\n" in run(program("zoodip"), "inspect", config).stderr
    done = run(program("zoodip"), "train", config, "--resume", "--set", "optim.lr=0.2", check=False)
    assert done.returncode == 2 and "optim.lr is 0.21 there and 0.2 here" in done.stderr


@pytest.mark.parametrize("keys, message", [
    (dict(zo__n=97), "zo.n: is 97, but with zo.directions text a word of 96 numbers has no more directions than that; expected at most 96"),
    (dict(zo__n=2, zo__rank=97), "zo.rank: is 97, but with zo.directions text a word of 96 numbers"),
    (dict(zo__n=9, zo__rank=8), "zo.rank: is 8, but zo.n is 9; expected 0, or at least as many")])
def test_more_directions_than_there_are_are_refused(keys, message, tmp_path):
    config, _ = prepare(tmp_path, zo__directions="text", **keys)
    done = run(program("zoodip"), "train", config, check=False)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr
