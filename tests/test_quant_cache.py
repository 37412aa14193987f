"""quant.cache keeps what a run has quantized for the runs after it: the same words to the last bit, whole entries only, however many
runs make one at once and whenever they are killed."""
import shutil
import signal
from pathlib import Path

import pytest

from conftest import BUILD, TOYBOX, learned, losses_of, mpirun, program, refused, run, slice_of, write_recipe
from live import start

SHORT = dict(optim__steps=3, output__checkpoint_every=1, output__prompts=[], zo__tau=4)
FAULTS = dict(LD_PRELOAD=str(BUILD / "tests/libfaults.so"))
UNET = "unet/diffusion_pytorch_model.safetensors"


def train(folder, cache, *options, ranks=1, check=True, env=None, **changes):
    """(the learned word and all losses, stderr) of a short run with a cache, or None."""
    config, output = write_recipe(folder, **{**SHORT, "quant__cache": cache and str(cache), **changes})
    done = mpirun(ranks, program("zoodip"), "train", config, *options, check=check, env=env)
    return (learned(output), losses_of(output)) if check else None, done


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """{bits: what a run without a cache learns}"""
    return {bits: train(tmp_path_factory.mktemp("plain"), None, quant__bits=bits)[0] for bits in (8, 4)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, words):
    """A cache with toybox's entry in 8 bits, that tests copy."""
    cache = tmp_path_factory.mktemp("kept") / "cache"
    assert train(cache.parent, cache)[0] == words[8]
    return cache


@pytest.mark.parametrize("bits, ranks", [(8, 1), (4, 1), (8, 3)])
def test_no_bit_depends_on_the_cache(tmp_path, words, bits, ranks):
    cache = tmp_path / "a" / "cache"
    for said in ("quantized weights are kept in", "quantized weights come from"):
        found, done = train(tmp_path, cache, "--overwrite", ranks=ranks, quant__bits=bits)
        assert found == words[bits] and done.stderr.count(f"{said} {cache}/int{bits}-") == 1
        assert len(names(cache)) == 1
    config, output = write_recipe(tmp_path / "resumed", **{**SHORT, "quant__bits": bits, "optim__steps": 2})
    run(program("zoodip"), "train", config)
    found, _ = train(tmp_path / "resumed", cache, "--resume", ranks=ranks, quant__bits=bits)
    assert found == words[bits], "a run may go on with a cache"


def test_several_runs_at_once_make_one_entry(tmp_path, words):
    cache, runs = tmp_path / "cache", []
    for i in range(4):
        config, output = write_recipe(tmp_path / str(i), quant__cache=str(cache), **SHORT)
        runs.append((start(1 + i // 3, "train", config), output))
    said = [process.communicate(timeout=300)[1] for process, _ in runs]
    assert [process.returncode for process, _ in runs] == [0] * 4, said
    assert all((learned(output), losses_of(output)) == words[8] for _, output in runs)
    assert len(names(cache)) == 1 and "".join(said).count("are kept in") == 1 and "warning: quant" not in "".join(said)


def test_the_cache_may_be_killed_at_any_moment(tmp_path, words):
    calls, log, cache = "rename,unlink,mkdir,fsync", tmp_path / "calls", tmp_path / "cache"
    train(tmp_path / "0", cache, env={**FAULTS, "ZOODIP_FAULTS": f"{calls} 0 0 0 {cache}", "ZOODIP_FAULTS_COUNT": str(log)})
    count, entry = len(log.read_text().splitlines()), names(cache)
    assert count > 10
    for k in slice_of(range(1, count + 1), 8):
        shutil.rmtree(cache, ignore_errors=True)
        _, done = train(tmp_path / str(k), cache, check=False, env={**FAULTS, "ZOODIP_FAULTS": f"{calls} KILL {k} {k} {cache}"})
        assert done.returncode == -signal.SIGKILL and "learned" not in done.stderr
        found, done = train(tmp_path / str(k), cache, "--overwrite")
        assert found == words[8] and names(cache) == entry, k


def test_another_model_gets_an_entry_of_its_own(tmp_path, kept):
    cache, model = tmp_path / "cache", tmp_path / "model"
    shutil.copytree(kept, cache)
    shutil.copytree(TOYBOX / "model", model)
    assert "come from" in train(tmp_path / "moved", cache, model=str(model))[1].stderr, "the place of a model does not count"
    weights = model / UNET
    data = bytearray(weights.read_bytes())
    data[-4:] = data[-8:-4]
    weights.write_bytes(data)
    first = train(tmp_path / "1", cache, model=str(model))
    assert "are kept in" in first[1].stderr and len(names(cache)) == 2
    assert first[0] == train(tmp_path / "2", cache, model=str(model))[0] == train(tmp_path / "3", None, model=str(model))[0]
    (model / "unet/config.json").write_text((model / "unet/config.json").read_text() + "\n")
    train(tmp_path / "4", cache, model=str(model))
    assert len(names(cache)) == 3


@pytest.mark.parametrize("file", [UNET, "text_encoder/model.safetensors", "files.txt"])
@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_a_damaged_entry_is_named_with_the_way_out(tmp_path, kept, file, damage):
    cache = tmp_path / "cache"
    shutil.copytree(kept, cache)
    entry = next(cache.iterdir())
    path = entry / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2 if file != "files.txt" else 0] ^= 1
        path.write_bytes(data if damage == "a bit" else data[:-40])
    said = str(entry) if file == "files.txt" and damage != "gone" else str(path)
    _, done = train(tmp_path, cache, check=False)
    assert done.returncode == 2 and said in done.stderr and f"remove {entry}, and it is made anew" in done.stderr
    shutil.rmtree(entry)
    train(tmp_path, cache, "--overwrite")
    assert (entry / UNET).read_bytes() == (kept / entry.name / UNET).read_bytes()


@pytest.mark.parametrize("how", ["a full disk", "a place that cannot be written", "a late failure"])
def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(tmp_path, words, how):
    cache = Path("/proc/zoodip") if how == "a place that cannot be written" else tmp_path / "cache"
    faults = {"a full disk": f"fwrite 28 1 1000000 {cache}", "a late failure": f"rename 5 3 1000000 {cache}"}.get(how)
    env = {**FAULTS, "ZOODIP_FAULTS": faults} if faults else None
    found, done = train(tmp_path, cache, env=env)
    assert found == words[8] and done.stderr.count("warning: quant.cache: ") == 1 and "going on without it" in done.stderr
    assert names(cache) == []


def test_what_cannot_be_a_cache(tmp_path):
    (tmp_path / "file").write_text("x")
    config, _ = write_recipe(tmp_path, quant__cache=str(tmp_path / "file"), **SHORT)
    refused(run(program("zoodip"), "train", config, "--quiet", check=False), "quant.cache", "is a file, expected a folder")
    run(program("zoodip"), "quantize", "--model", TOYBOX / "model", "--output", tmp_path / "q")
    for changes in (dict(model=str(tmp_path / "q")), dict(quant__bits=16)):
        done = train(tmp_path, tmp_path / "cache", "--overwrite", **changes)[1]
        assert "quant.cache: is not used" in done.stderr and names(tmp_path / "cache") == []
