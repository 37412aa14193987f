"""What a generated picture says about itself, as AUTOMATIC1111 reads it (tests/a1111.py); and the commands in a report, which draw its
pictures again."""
import base64
import hashlib
import html
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

import a1111
from conftest import BUILD, program, refused, run, write_recipe
from ldm import to_single_file
from test_generate import MODEL, changed_model, generate, make_word, pixels

NEEDS = "peers"


def text_of(path):
    with Image.open(path) as picture:
        return picture.text["parameters"]


def drawn(tmp_path, *options, prompt="a toy", **more):
    """The settings that a picture of few steps names."""
    path = tmp_path / "drawn.png"
    generate("--prompt", prompt, "--steps", 2, "--output", path, *options, **more)
    return a1111.parameters(text_of(path))


# -------------------------------------------------------------------------------- settings


def test_the_text_of_a_picture(tmp_path):
    word = make_word(tmp_path, "sks", 2)
    generate("--prompt", "a sks on the beach", "--negative", "a dark toy", "--embedding", word, "--steps", 5, "--guidance", 4.25, "--seed", 7, "--size", "96x64",
             "--output", tmp_path / "x.png")
    hashed = hashlib.sha256(word.read_bytes()).hexdigest()[:12]
    version = run(program("zoodip"), "--version").stdout.split()[1]
    text = text_of(tmp_path / "x.png")
    found = re.search("Model hash: ([0-9a-f]{8}),", text).group(1)
    assert text == ("a sks on the beach\nNegative prompt: a dark toy\nSteps: 5, Sampler: PLMS, CFG scale: 4.25, Seed: 7, Size: 96x64, "
                    f"Model hash: {found}, Model: model, TI hashes: \"sks: {hashed}\", Version: zoodip {version}")


@pytest.mark.parametrize("options, expected, absent", [
    (["--guidance", 1, "--negative", "a cat"], {"Negative prompt": "", "CFG scale": "1"}, []),
    (["--guidance", 0.1], {"CFG scale": "0.1"}, ["Emphasis", "Bits", "TI hashes"]),
    (["--scheduler", "euler", "--seed", 3], {"Sampler": "Euler", "Seed": "3"}, []),
    (["--scheduler", "DPM++ 2M Karras"], {"Sampler": "DPM++ 2M", "Schedule type": "Karras"}, []),
    (["--scheduler", "euler_a"], {"Sampler": "Euler a"}, ["Schedule type"]),
    (["--scheduler", "dpm++", "--bits", 8], {"Sampler": "DPM++ 2M", "Schedule type": "Uniform", "Bits": "8"}, []),  # without it, Karras there
    (["--scheduler", "ddim", "--negative", "a (dark) cat"], {"Sampler": "DDIM", "Emphasis": "None", "Negative prompt": "a (dark) cat"}, []),
    (["--negative", "a (dark:1.2) cat", "--prompt-syntax", "a1111"], {"Negative prompt": "a (dark:1.2) cat"}, ["Emphasis", "Pad conds"]),
    (["--negative", "a BREAK cat", "--prompt-syntax", "a1111"], {"Pad conds": "True"}, [])], ids=str)
def test_settings(tmp_path, options, expected, absent):
    found = drawn(tmp_path, *options)
    assert expected.items() <= found.items(), found
    assert not set(absent) & set(found)


@pytest.mark.parametrize("key, said", [("use_karras_sigmas", "Karras"), ("use_exponential_sigmas", "Exponential")])
def test_how_a_models_config_spreads_sigmas(tmp_path, key, said):
    model = changed_model(tmp_path / "model", **{key: True})
    assert drawn(tmp_path, "--scheduler", "euler", model=model)["Schedule type"] == said
    assert "Schedule type" not in drawn(tmp_path, model=model)  # pndm knows nothing of it


@pytest.mark.parametrize("prompt", ["a toy", "ein süßer Hund, ÿ×", "猫 auf 🌱", "a\ntoy", "it's a \"toy\": \\ red, 5", "naïve 猫"])
def test_prompts_come_back_in_pillows_form(tmp_path, prompt):
    assert drawn(tmp_path, prompt=prompt)["Prompt"] == prompt
    info, theirs = PngInfo(), io.BytesIO()
    info.add_text("parameters", text_of(tmp_path / "drawn.png"))
    Image.new("RGB", (1, 1)).save(theirs, "PNG", pnginfo=info)
    chunk = re.compile(rb"(tEXt|iTXt)parameters.*?Version: zoodip [0-9.]+", re.S)
    ours = chunk.search((tmp_path / "drawn.png").read_bytes()).group(0)
    assert ours == chunk.search(theirs.getvalue()).group(0)
    assert ours.startswith(b"iTXt" if any(ord(c) > 255 for c in prompt) else b"tEXt")


def test_names_that_would_end_a_setting_are_quoted(tmp_path):
    name = 'my, "model": 2'
    os.symlink(MODEL, tmp_path / "link")
    shutil.copytree(MODEL, tmp_path / name)
    assert drawn(tmp_path, model=tmp_path / name)["Model"] == name
    assert drawn(tmp_path, model=tmp_path / "link")["Model"] == "model"  # a link's name is nobody's
    assert drawn(tmp_path, model=".", cwd=tmp_path / name)["Model"] == name


def test_a_checkpoint_is_known_by_its_files_hash(tmp_path):
    path = to_single_file(MODEL, tmp_path / "my model.safetensors")
    found = drawn(tmp_path, "--tokenizer", MODEL / "tokenizer", model=path)
    assert (found["Model"], found["Model hash"]) == ("my model", hashlib.sha256(path.read_bytes()).hexdigest()[:10])


def test_words_that_no_prompt_names_are_left_out(tmp_path):
    sks, bix = make_word(tmp_path, "sks", 1), make_word(tmp_path, "bix", 1, seed=1)
    options = ["--embedding", f"<a>={sks}", "--embedding", bix]
    hashes = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in (sks, bix)}
    assert "TI hashes" not in drawn(tmp_path, *options)
    assert drawn(tmp_path, *options, prompt="a <a>")["TI hashes"] == f"<a>: {hashes[sks]}"
    assert drawn(tmp_path, *options, "--negative", "bix", prompt="a <a>")["TI hashes"] == f"<a>: {hashes[sks]}, bix: {hashes[bix]}"


def test_every_picture_of_a_count_can_be_drawn_alone(tmp_path):
    common = ["--prompt", "a toy", "--steps", 2]
    generate(*common, "--seed", 5, "--count", 3, "--output", tmp_path / "toy.png")
    for i in (1, 2, 3):
        seed = a1111.parameters(text_of(tmp_path / f"toy-000{i}.png"))["Seed"]
        assert seed == str(4 + i)
        generate(*common, "--seed", seed, "--output", tmp_path / "one.png")
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / f"toy-000{i}.png").read_bytes()


def test_start_latents_have_no_seed(tmp_path):
    save_file({"latents": np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)}, tmp_path / "a, b.safetensors")
    found = drawn(tmp_path, "--latents", tmp_path / "a, b.safetensors")
    assert "Seed" not in found and found["Latents"] == "a, b.safetensors"


@pytest.mark.parametrize("bits", ["3", "-8", "8.5"])
def test_bits(tmp_path, bits):
    refused(generate("--prompt", "a", "--bits", bits, "--output", tmp_path / "x.png", check=False), "--bits", bits)


# -------------------------------------------------------------------------------- commands in a report


FIGURE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">(?:<figcaption>[^<]*</figcaption>)?<details><summary>command</summary><pre>([^<]*)</pre></details>')


def commands(output):
    """[(label, pixels, command)] of all pictures in a report that have one."""
    page = (output / "report.html").read_text()
    return [(html.unescape(label), pixels(io.BytesIO(base64.b64decode(png))), html.unescape(command)) for label, png, command in FIGURE.findall(page)]


def draw_again(command, folder):
    """Runs it as a person does who has copied it, but for where the picture goes."""
    name = re.search(r" --output (\S+)$", command).group(1)
    run("bash", "-c", command.removesuffix(name) + '"$0"', folder / name, env={"PATH": f"{BUILD}:{os.environ['PATH']}"})
    return folder / name


@pytest.mark.parametrize("changes", [
    dict(quant__bits=8, token__vectors=2, output__sample_every=2, output__save_every=4, output__guidance=3.5),
    dict(quant__bits=4, output__guidance=1, seed=12345),
    dict(token__initializer="ball", token__placeholder="toy"), dict(token__initializer="red ball", prediction="v", tokenizer=str(MODEL / "tokenizer")),
    dict(token__initializer="word.safetensors"), dict(token__vectors=2, model="my model.safetensors", tokenizer=str(MODEL / "tokenizer"))],
    ids=["8 bits", "4 bits", "a prompt that names the word itself", "several words, and another model", "from a learned word", "a checkpoint"])
def test_the_commands_of_a_report_draw_its_pictures(tmp_path, changes):
    prompts = ["a photo of a {} on the \"beach\" & it's <b>", "a {}, a toy"]
    if changes.get("token__initializer") == "word.safetensors":
        make_word(tmp_path, "word", 2)
        changes = {**changes, "token__initializer": str(tmp_path / "word.safetensors")}
    if "model" in changes:
        changes = {**changes, "model": str(to_single_file(MODEL, tmp_path / changes["model"]))}
    config, output = write_recipe(tmp_path / "it's here", **{**dict(optim__steps=6, output__prompts=prompts, output__sample_steps=3), **changes})
    run(program("zoodip"), "train", config)
    found = commands(output)
    samples = {2: False, 4: True, 6: True} if "output__sample_every" in changes else {}
    assert [label for label, _, _ in found if not label.startswith("step")] == [f'start word "{Path(changes.get("token__initializer", "toy")).name}"', f'learned word "{changes.get("token__placeholder", "sks")}"'] * 2
    assert [label for label, _, _ in found if label.startswith("step")] == [f"step {step}" for _ in prompts for step, kept in samples.items() if kept and step < 6]
    for label, theirs, command in found:
        assert pixels(draw_again(command, tmp_path)) == theirs, (label, command)


def test_a_sample_says_what_it_was_drawn_from(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=4, output__prompts=["a {} (red)", "a toy"], output__sample_every=1, output__save_every=2, output__sample_steps=3, seed=9)
    run(program("zoodip"), "train", config)
    word = output / "learned_embeds-steps-2.safetensors"
    first, second = (a1111.parameters(text_of(output / f"samples/step-2-{i}.png")) for i in (1, 2))
    assert first["TI hashes"] == "sks: " + hashlib.sha256(word.read_bytes()).hexdigest()[:12]
    assert (first["Prompt"], first["Seed"], first["Bits"], first["Emphasis"], first["Steps"]) == ("a sks (red)", "9", "8", "None", "3")
    assert (second["Prompt"], second["Seed"]) == ("a toy", "10") and "TI hashes" not in second
    assert f"CRC-32 {first['Model hash']}" in (output / "report.html").read_text()
    assert re.search("sks: [0-9a-f]{12}", a1111.parameters(text_of(output / "samples/step-1-1.png"))["TI hashes"])  # a word that was not kept
    generate("--prompt", "a sks (red)", "--embedding", word, "--steps", 3, "--seed", 9, "--bits", 8, "--size", first["Size"], "--guidance", first["CFG scale"], "--output", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == (output / "samples/step-2-1.png").read_bytes()
