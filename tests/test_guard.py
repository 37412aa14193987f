"""Slopes of tangents in 8 bits are compared with exact ones now and then: when, what is found, and what follows from it; and
which bits quant.tangents takes."""
import json
import re
import shutil
import struct

import pytest

from conftest import change_checkpoint, learned, make_model, metrics, mpirun, need_isa, program, recipe, refused, run, write_recipe
from live import afresh, caught, kill, nearly_done, start, steps
from test_derivative import setting
from test_tangents8 import FLAGS, HAS_CODES, SHAPES, fold_outliers

NEEDS = "peers"
RUN = dict(optim__steps=4, zo__n=8, zo__tau=3, zo__derivative="tangent", output__prompts=[])


pytestmark = pytest.mark.skipif(not HAS_CODES, reason="this processor multiplies no codes")


def train(folder, *more, ranks=1, env=None, **changes):
    config, output = write_recipe(folder, **{**RUN, **changes})
    done = mpirun(ranks, program("zoodip"), "train", config, *more, env=env) if ranks > 1 else run(program("zoodip"), "train", config, *more, threads=2, env=env)
    return config, output, done.stderr


def noises(output):
    return {m["step"]: m["slope_noise"] for m in metrics(output) if "slope_noise" in m}


def rms(x):
    return (sum(v * v for v in x) / len(x)) ** 0.5


def test_the_noise_is_that_of_the_same_step_in_floats(tmp_path):
    _, eight, said = train(tmp_path / "8", quant__tangents=8, zo__n=16)
    _, exact, _ = train(tmp_path / "32", quant__tangents=32, zo__n=16)
    ours, theirs = (metrics(o)[0]["slopes"] for o in (eight, exact))
    assert noises(eight) == {1: pytest.approx(rms([a - b for a, b in zip(ours, theirs)]) / rms(theirs), rel=1e-3)}
    assert 0.001 < noises(eight)[1] < 0.05 and not noises(exact)
    assert f"slopes in 8 bits are off by {100 * noises(eight)[1]:.1f} %" in said
    assert f"{100 * noises(eight)[1]:.1f} %, in the last 16 compared" in (eight / "report.html").read_text()


def comparisons(*words):
    """[(step, noise, family that fell)] by the rule alone."""
    return [(int(a), float(b), int(c)) for a, b, c in (line.split() for line in run(program("tests/slope_noise"), *map(str, words)).stdout.splitlines())]


@pytest.mark.parametrize("steps, slopes, compared", [
    (1, 1, [1]), (60, 16, [1]), (199, 2, [1]),  # at least one
    (450, 16, [1, 113, 225, 337]), (450, 64, [1, 113, 225, 337]),  # then evenly
    (320, 2, [1, 2, 3]),  # as long as there is no verdict at once
    (305, 8, [1, 2, 203]), (1000, 2, [*range(1, 9), 801, 901])])
def test_one_step_of_a_hundred_is_compared(steps, slopes, compared):
    assert [step for step, _, _ in comparisons(steps, slopes, 0.02)] == compared


def test_families_fall_one_by_one_while_there_is_too_much_noise():
    assert comparisons(1000, 8, 0.099)[-1] == (901, pytest.approx(0.099), 0)
    assert [(step, fell) for step, _, fell in comparisons(1000, 8, 0.101)] == [(1, 0), (2, 1), (3, 0), (4, 2), (5, 0), (6, 4)]
    found = comparisons(1000, 16, 0.3, 0.25)  # the second family keeps its codes
    assert [(step, fell) for step, _, fell in found] == [(1, 1)] + [(step, 0) for step in (2, 201, 301, 401, 501, 601, 701, 801, 901)]
    assert [noise for _, noise, _ in found] == pytest.approx([0.3] + [0.075] * 9)
    assert [fell for _, _, fell in comparisons(1000, 16, "nan")] == [1, 2, 4]  # what is not a number is too much


@pytest.fixture(scope="session")
def noisy(tmp_path_factory):
    """So many channels are large that they cannot all stay out of the codes."""
    folder = make_model(tmp_path_factory.mktemp("noisy") / "model", SHAPES["stacked"])
    fold_outliers(folder, share=0.3, by=300)
    return folder


def noisy_run(noisy, **changes):
    return dict(model=str(noisy), quant__tangents=8, zo__n=16, optim__steps=300, data__resolution=0, output__validate_every=1000, **changes)


@afresh
def test_products_fall_back_to_floats_by_family(tmp_path, noisy):
    config, output, said = train(tmp_path / "1", **noisy_run(noisy))
    families = re.findall(r"slopes in 8 bits are off by ([0-9.]+) %, more than 10 %: from here on (.*?) takes? floats", said)
    assert [name for _, name in families] == ["attention", "convolutions", "linear layers"][:len(families)] and families
    assert all(float(noise) > 10 for noise, _ in families)
    assert "in floats all the same" in (output / "report.html").read_text()
    # what has fallen stays so, and a run that is killed goes on with the same bits
    config, killed = write_recipe(tmp_path / "killed", **{**RUN, **noisy_run(noisy, output__checkpoint_every=1)})
    process = start(1, "train", config)
    with caught(process, config, when=lambda: steps(killed) >= 2, unless=nearly_done(killed, 300, 1)):
        kill(process, config)
    run(program("zoodip"), "train", config, "--resume", threads=1)
    assert learned(killed) == learned(output) and noises(killed) == noises(output)


@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_ranks_agree(tmp_path, noisy, ranks):
    changes = noisy_run(noisy, optim__batch_size=1) | dict(optim__steps=5, zo__n=8)
    one, many = (train(tmp_path / str(r), ranks=r, **changes)[1] for r in (1, ranks))
    assert learned(one) == learned(many) and noises(one) == noises(many)


@afresh
def test_a_run_goes_on_with_the_same_comparisons(tmp_path):
    """Outliers, the slopes that count and how many comparisons there were are in the checkpoint."""
    changes = dict(quant__tangents=8, zo__n=2, optim__steps=200, output__validate_every=1000, output__checkpoint_every=1)
    _, whole, said = train(tmp_path / "whole", **changes)
    assert "stay float" in said and list(noises(whole)) == [1, 2]
    config, output = write_recipe(tmp_path / "killed", **{**RUN, **changes})
    process = start(2, "train", config)
    with caught(process, config, when=lambda: steps(output) >= 1, unless=nearly_done(output, 200, 1)):
        kill(process, config)
    mpirun(3, program("zoodip"), "train", config, "--resume")
    assert learned(output) == learned(whole) and noises(output) == noises(whole)


def test_subjects_of_a_queue_are_numbered_alike(tmp_path):
    """Which convolutions take codes depends on the pictures' size, and a rank without tangents has no programs: neither changes
    which product an outlier of the next subject belongs to."""
    model = make_model(tmp_path / "model", SHAPES["deep"])
    fold_outliers(model, share=0.05, by=300)
    changes = dict(model=str(model), quant__tangents=8, data__resolution=64, output__checkpoint_every=1, output__checkpoint_keep=0)
    _, alone, said = train(tmp_path / "alone", **changes)
    assert "stay float" in said
    jobs = [dict(name="a", data=dict(resolution=128), zo=dict(n=1), optim=dict(steps=2)), dict(name="b")]
    for ranks in (1, 2):
        output = tmp_path / f"queue{ranks}"
        path = tmp_path / f"jobs{ranks}.json"
        path.write_text(json.dumps({"defaults": recipe(output, **{**RUN, **changes}), "jobs": jobs}))
        mpirun(ranks, program("zoodip"), "run", path, "--groups", 1)
        assert learned(output / "b") == learned(alone), ranks
        shutil.rmtree(tmp_path / "alone" / "out" / "checkpoints")
        shutil.copytree(output / "b" / "checkpoints", tmp_path / "alone" / "out" / "checkpoints")
        for step in (3, 4):  # so that there is something left to do
            (tmp_path / "alone" / "out" / "checkpoints" / f"step-{step}.safetensors").unlink()
        run(program("zoodip"), "train", tmp_path / "alone" / "config.json", "--resume")
        assert learned(alone) == learned(output / "b")


@pytest.mark.parametrize("name, shape, numbers, says", [
    ("slopes", [10**9, 0], [], "no checkpoint"), ("outliers", [10**9, 0], [], "no checkpoint"), ("basis", [10**9, 0], [], "no checkpoint"),
    ("slopes", [40, 2], [1.0] * 80, "slopes: shape [40, 2]"), ("outliers", [1, 3], [0, 1, 2], "outliers: shape [1, 3]"),
    ("outliers", [1, 2], [-1, 3], "outliers: expected pairs"), ("outliers", [1, 2], [0, 0.5], "outliers: expected pairs"),
    ("outliers", [1, 2], [1e30, 0], "outliers: expected pairs"), ("outliers", [2, 2], [0, 7, 0, 7], "outliers: expected pairs"),
    ("outliers", [1, 2], [0, 1e6], "outliers: channel 1000000 of product 0")])
def test_checkpoints_that_cannot_be(tmp_path, name, shape, numbers, says):
    config, output, _ = train(tmp_path, quant__tangents=8, optim__steps=2)
    change_checkpoint(output / "checkpoints" / "step-2.safetensors", **{name: (shape, struct.pack(f"<{len(numbers)}f", *numbers))})
    done = run(program("zoodip"), "train", config, "--resume", *setting(optim__steps=4), check=False)
    assert done.returncode in (1, 2) and says in done.stderr, done.stderr


# -------------------------------------------------------------------------------- quant.tangents


def test_auto_takes_8_bits_where_weights_have_8(tmp_path):
    _, auto, said = train(tmp_path / "auto")
    _, eight, _ = train(tmp_path / "8", quant__tangents=8)
    assert "quant.tangents: auto takes 8 bits" in said and learned(auto) == learned(eight)
    for bits in (4, 32):
        assert "quant.tangents: auto takes 32 bits" in train(tmp_path / str(bits), quant__bits=bits)[2]
    _, generic, said = train(tmp_path / "generic", env={"ZOODIP_ISA": "generic"})
    assert "quant.tangents: auto takes 32 bits" in said and not noises(generic)


def test_16_bits_are_32(tmp_path):
    _, sixteen, said = train(tmp_path / "16", quant__tangents=16)
    _, exact, _ = train(tmp_path / "32", quant__tangents=32)
    assert "quant.tangents: 32 bits for 16, on the CPU" in said and learned(sixteen) == learned(exact)


def test_differences_know_nothing_of_it(tmp_path):
    for bits in (8, 32):
        _, output, said = train(tmp_path / str(bits), zo__derivative="difference", quant__tangents=bits)
        assert "quant.tangents" not in said and not noises(output)
    assert learned(tmp_path / "8" / "out") == learned(tmp_path / "32" / "out")
    run(program("zoodip"), "train", tmp_path / "8" / "config.json", "--resume", *setting(quant__tangents=32, optim__steps=6))


@pytest.mark.parametrize("there", ["auto", 8, 32])
def test_auto_continues_with_what_is_there(tmp_path, there):
    config, output, _ = train(tmp_path, quant__tangents=there, optim__steps=2)
    said = run(program("zoodip"), "train", config, "--resume", *setting(quant__tangents="auto", optim__steps=4)).stderr
    assert {"auto": "auto takes 8 bits", 8: "quant.tangents: 8 bits", 32: "quant.tangents: 32 bits"}[there] in said
    other = {"auto": 32, 8: 32, 32: 8}[there]
    refused(run(program("zoodip"), "train", config, "--resume", "--quiet", *setting(quant__tangents=other, optim__steps=6), check=False), "quant.tangents")


def test_a_value_that_is_none(tmp_path):
    config, _ = write_recipe(tmp_path, **RUN)
    refused(run(program("zoodip"), "train", config, "--quiet", *setting(quant__tangents=9), check=False), 'quant.tangents: is 9, expected 8, 16, 32 or "auto"')
    refused(run(program("zoodip"), "train", config, "--quiet", *setting(quant__tangents="exact"), check=False), 'or "auto"')
    assert json.loads(run(program("tests/config"), config).stdout)["quant"]["tangents"] == "auto"


# -------------------------------------------------------------------------------- zo.derivative


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    unet = dict(SHAPES["plain"]["unet"], block_out_channels=(320, 32), norm_num_groups=32, layers_per_block=1, attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return make_model(tmp_path_factory.mktemp("wide") / "model", dict(SHAPES["plain"], unet=unet))


@pytest.mark.parametrize("isa, unit, pays", [("avx512", "avx512-vnni", True), ("avx2", "avx-vnni", True), ("avx2", "avx2", False), ("generic", "", False)])
def test_auto_takes_tangents_where_a_step_takes_less_time(tmp_path, wide, isa, unit, pays):
    need_isa(isa)
    if unit.replace("-", "_") not in ["", *FLAGS]:
        pytest.skip(f"no {unit} here")
    env = {"ZOODIP_ISA": isa} | ({"ZOODIP_INT8": unit} if unit else {})
    config, output = write_recipe(tmp_path, model=str(wide), data__resolution=0, optim__steps=2, zo__tau=2, output__prompts=[])
    said = run(program("zoodip"), "train", config, threads=2, env=env).stderr
    kind = "tangent" if pays else "difference"
    assert f"zo.derivative: auto takes {kind}" in said and ("quant.tangents: auto takes 8 bits" in said) == pays
    assert json.loads(run(program("zoodip"), "inspect", config, env=env).stdout)["step"]["derivative"] == kind
    # other weights, or tangents that must be floats
    for changes in (dict(quant__bits=32), dict(quant__tangents=32)):
        assert "zo.derivative: auto takes difference" in run(program("zoodip"), "train", config, "--overwrite", *setting(**changes), threads=2, env=env).stderr
