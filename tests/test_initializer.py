"""token.initializer: a word, several words, or the file of a word that was learned before, which then learns on."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from conftest import TOYBOX, program, run, write_recipe

NEEDS = "peers"
MODEL = TOYBOX / "model"


@pytest.fixture(scope="module")
def rows():
    """Of each token of a text."""
    tokenizer, table = CLIPTokenizer.from_pretrained(MODEL / "tokenizer"), CLIPTextModel.from_pretrained(MODEL / "text_encoder").get_input_embeddings().weight
    return lambda text: table[tokenizer(text, add_special_tokens=False).input_ids].detach().float().numpy()


def settings(folder, initializer, vectors=None, **changes):
    """A run whose word stays where it starts, but for a last digit."""
    changes = {**dict(device="cpu", optim__steps=1, optim__lr=1e-9, output__prompts=[], token__initializer=str(initializer)), **changes}
    return write_recipe(folder, **changes, **({"token__vectors": vectors} if vectors else {}))


def start(folder, *arguments, **changes):
    config, output = settings(folder, *arguments, **changes)
    said = run(program("zoodip"), "train", config).stderr
    return load_file(output / "learned_embeds-last.safetensors")["sks"], [line for line in said.splitlines() if "token.initializer" in line]


def near(ours, theirs):
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-6


@pytest.mark.parametrize("text, vectors, told", [
    ("toy", 1, None), ("toy", 3, None), ("red toy", 1, "is 2 tokens; the word's vectors start from their mean"), ("Red  TOY ball", 2, "is 3 tokens; the word's vectors start from"),
    ("red toy", 2, "is 2 tokens; each of the word's vectors starts from one"), ("zzq", 1, "tokens; the word's vectors start from their mean")])
def test_a_text(tmp_path, rows, text, vectors, told):
    ours, said = start(tmp_path, text, vectors)
    theirs = rows(text)
    near(ours, theirs if len(theirs) == vectors else theirs.astype(np.float64).mean(0, keepdims=True).astype(np.float32).repeat(vectors, 0))
    assert [told in line for line in said] == ([True] if told else [])


def test_a_text_without_tokens_or_with_too_many_is_refused(tmp_path):
    for text, count in (("\u2003", 0), ("toy " * 65, 65)):
        done = run(program("zoodip"), "train", settings(tmp_path, text)[0], check=False)
        assert done.returncode == 2 and f"is {count} tokens for this model, expected 1 to 64" in done.stderr


def word_file(path, name="sks", vectors=3, dtype=np.float32, width=96):
    values = np.random.default_rng(vectors).normal(0, 0.2, (vectors, width)).astype(dtype)
    save_file({name: values}, path)
    return values.astype(np.float32)


@pytest.mark.parametrize("name, dtype", [("<mug>", np.float32), ("emb_params", np.float16)])
@pytest.mark.parametrize("given", [None, 3])
def test_a_learned_word(tmp_path, name, dtype, given):
    path = tmp_path / "word.safetensors"
    values = word_file(path, name, 3, dtype)
    ours, said = start(tmp_path, path, given, **({} if given else {"token__vectors": None}))
    near(ours, values)
    shown = run(program("zoodip"), "inspect", tmp_path / "config.json")
    assert json.loads(shown.stdout)["step"]["vectors"] == 3 and f'goes on from the word "{name}"' in shown.stderr
    assert said == [f'zoodip: token.initializer: goes on from the word "{name}" of {path}, 3 vectors']


def test_a_path_is_what_has_a_slash_or_the_ending_of_a_word(tmp_path):
    values = word_file(tmp_path / "word.safetensors", vectors=1)
    shutil.copy(tmp_path / "word.safetensors", tmp_path / "word")
    for name in ("word.safetensors", "./word.safetensors"):
        config, output = settings(tmp_path / f"run-{len(name)}", name, data__images=str(TOYBOX / "subjects/bear5"), model=str(MODEL), data__captions=None, use_cc=False)
        run(program("zoodip"), "train", config, cwd=tmp_path)
        near(load_file(output / "learned_embeds-last.safetensors")["sks"], values)


def test_files_that_cannot_be_learned_from(tmp_path):
    path = tmp_path / "word.safetensors"

    def refused(said, initializer=path, vectors=None, key="token.initializer"):
        config, output = settings(tmp_path / "run", initializer, vectors, **({} if vectors else {"token__vectors": None}))
        for command in (["train", config], ["inspect", config]):
            done = run(program("zoodip"), *command, check=False)
            assert key in done.stderr and said in done.stderr and (command[0] == "inspect" or done.returncode == 2), done.stderr
        assert not output.exists()
    refused(f"{path}: cannot open")
    for name in ("word.pt", "word.bin", "learned/word"):
        refused("only a learned word in .safetensors is read", name)
    word_file(path, width=32)
    refused(f"{path}: the word is 32 wide, the model's text encoder 96")
    word_file(path, vectors=65)
    refused("has 65 vectors, expected at most 64")
    word_file(path, vectors=3)
    refused(f"is 2, but {path} has 3; expected the same, or no number here", vectors=2, key="token.vectors")
    save_file({"sks": np.full((1, 96), np.nan, np.float32)}, path)
    refused("a value that is not a number")
    save_file({"a": np.zeros((1, 96), np.float32), "b": np.zeros((1, 96), np.float32)}, path)
    refused("holds 2 tensors")
    path.write_bytes(b"{")
    refused(str(path))


def test_a_run_knows_the_file_by_its_contents(tmp_path):
    word_file(tmp_path / "word.safetensors")
    config, _ = settings(tmp_path, tmp_path / "word.safetensors", token__vectors=None, output__checkpoint_every=1)
    run(program("zoodip"), "train", config)
    more = ["--resume", "--set", f"token.initializer={tmp_path / 'moved.safetensors'}", "--set"]
    (tmp_path / "word.safetensors").rename(tmp_path / "moved.safetensors")
    run(program("zoodip"), "train", config, *more, "optim.steps=2")
    word_file(tmp_path / "moved.safetensors", dtype=np.float16)
    done = run(program("zoodip"), "train", config, *more, "optim.steps=3", check=False)
    assert done.returncode == 2 and re.search(r'another recipe: token.initializer is "a word of CRC-32 \w+" there and "a word of CRC-32 \w+" here', done.stderr)


@pytest.mark.parametrize("inside", ["learned_embeds.safetensors", "old/learned_embeds.safetensors"])
def test_a_word_that_the_run_would_replace_is_refused(tmp_path, inside):
    config, output = settings(tmp_path, "toy")
    run(program("zoodip"), "train", config)
    if inside.startswith("old/"):
        (output / "old").mkdir()
        shutil.copy(output / "learned_embeds.safetensors", output / "old")
    (tmp_path / "link").symlink_to(output)
    for path in (output / inside, tmp_path / "link" / inside):
        done = run(program("zoodip"), "train", config, "--overwrite", "--set", f"token.initializer={path}", check=False)
        assert done.returncode == 2 and f"--set: token.initializer: {path}: lies in output.dir" in done.stderr
    shutil.copy(output / "learned_embeds.safetensors", tmp_path / "out.safetensors")
    run(program("zoodip"), "train", config, "--overwrite", "--set", f"token.initializer={tmp_path / 'out.safetensors'}")


def test_jobs_of_a_queue(tmp_path):
    """Also where one job has more vectors than the other; what is finished stays, and a changed file is told of."""
    word_file(tmp_path / "word.safetensors")
    config, output = settings(tmp_path, "toy", token__vectors=None)
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [
        {"name": "text"}, {"name": "file", "token.initializer": str(tmp_path / "word.safetensors")}, {"name": "none", "token.initializer": "./none.safetensors"}]}))
    first = run(program("zoodip"), "run", jobs, check=False)
    assert "none: " in first.stderr and "none.safetensors" in first.stderr
    assert {name: load_file(output / name / "learned_embeds.safetensors")["sks"].shape for name in ("text", "file")} == {"text": (1, 96), "file": (3, 96)}
    again = run(program("zoodip"), "run", jobs, "--resume", check=False).stderr
    assert "is finished and stays" not in again and "2 jobs finished before" in again
    word_file(tmp_path / "word.safetensors", dtype=np.float16)
    again = run(program("zoodip"), "run", jobs, "--resume", check=False).stderr
    assert "file: is finished and stays as it is, with other photos, captions or first word" in again


def pictures_of(output):
    return re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", (output / "report.html").read_text())


def test_pictures_before_the_first_step_show_the_files_word(tmp_path):
    drawn = dict(output__prompts=["a photo of a {}"], output__sample_steps=2, token__vectors=2, optim__lr=0.5)
    _, first = settings(tmp_path / "a", "toy", **drawn)
    run(program("zoodip"), "train", tmp_path / "a" / "config.json")
    _, second = settings(tmp_path / "b", first / "learned_embeds.safetensors", **drawn)
    run(program("zoodip"), "train", tmp_path / "b" / "config.json")
    learned, started = [set(pictures_of(output)) for output in (first, second)]
    photos = len(list((TOYBOX / "subjects" / "bear5").glob("*.png")))
    assert len(learned & started) >= photos + 1  # the photos, and what the first run has learned
    assert "start word &#34;learned_embeds.safetensors&#34;" in (second / "report.html").read_text()
