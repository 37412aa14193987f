"""A learned word is portable: the real diffusers loads it, and from the same start latents the prompt gives the same picture
there as here, with any sampler, guidance and size."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from conftest import TOYBOX, mpirun, program, run, write_recipe

NEEDS = "peers"
MODEL = TOYBOX / "model"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Words from `zoodip train`: of one vector, and of three."""
    files = {}
    for vectors in (1, 3):
        config, output = write_recipe(tmp_path_factory.mktemp(f"word{vectors}"), optim__steps=40, token__vectors=vectors,
                                      output__prompts=["a photo of a {}"], output__checkpoint_every=0, output__save_every=0)
        mpirun(2, program("zoodip"), "train", config)
        files[vectors] = output / "learned_embeds.safetensors"
    return files


def pipeline(model=MODEL, scheduler=None, **swaps):
    import diffusers
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(str(model), dtype=torch.float32)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **swaps)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_both(tmp_path, pipe, prompt, *, width=64, height=64, steps=50, guidance=7.5, scheduler="pndm", negative=None,
              embedding=None, model=MODEL, seed=7):
    """(diffusers' picture, zoodip's) of the same prompt from the same latents, uint8 [height, width, 3]. embedding: a path or a list."""
    latents = torch.randn(1, 4, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    start, picture = tmp_path / "latents.safetensors", tmp_path / "picture.png"
    save_file({"latents": latents.numpy()}, start)
    with torch.no_grad():
        theirs = pipe(prompt, negative_prompt=negative, latents=latents, num_inference_steps=steps, guidance_scale=guidance,
                      width=width, height=height).images[0]
    embeddings = embedding if isinstance(embedding, list) else [embedding] if embedding else []
    options = [option for path in embeddings for option in ("--embedding", path)]
    options += ["--negative", negative] if negative else []
    run(program("zoodip"), "generate", "--model", model, "--prompt", prompt, "--latents", start, "--output", picture,
        "--steps", steps, "--guidance", guidance, "--scheduler", scheduler, "--size", f"{width}x{height}", *options, threads=2)
    return np.asarray(theirs), np.asarray(Image.open(picture).convert("RGB"))


def assert_same_picture(theirs, ours):
    assert theirs.shape == ours.shape
    assert theirs.std() > 15, "a blank picture proves nothing"
    apart = np.abs(theirs.astype(int) - ours.astype(int))
    assert (apart <= 1).mean() >= 0.999 and apart.max() <= 3, f"{(apart > 1).mean():.4%} differ by more than 1, worst {apart.max()}"


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_loads_a_learned_word(words, vectors):
    pipe = pipeline()
    rows = load_file(words[vectors])["sks"]
    pipe.load_textual_inversion(str(words[vectors]), token="sks")
    names = ["sks"] + [f"sks_{i}" for i in range(1, vectors)]
    ids = pipe.tokenizer.convert_tokens_to_ids(names)
    assert pipe.tokenizer.unk_token_id not in ids and rows.shape == (vectors, 96) and rows.dtype == np.float32
    table = pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    assert np.array_equal(table[ids], rows)


def test_the_name_in_the_file_is_enough(words):
    pipe = pipeline()
    pipe.load_textual_inversion(str(words[1]))
    assert "sks" in pipe.tokenizer.get_added_vocab()


@pytest.mark.parametrize("vectors", [1, 3])
def test_the_prompt_gives_the_same_picture(tmp_path, words, vectors):
    pipe = pipeline()
    pipe.load_textual_inversion(str(words[vectors]), token="sks")
    assert_same_picture(*draw_both(tmp_path, pipe, "a photo of a sks on the beach", embedding=words[vectors]))


@pytest.mark.parametrize("case", [
    dict(scheduler="ddim"),
    dict(guidance=1.0),
    dict(width=96, height=64, steps=20),
    dict(width=64, height=80, steps=15, scheduler="ddim", guidance=3.0),
    dict(negative="a dark photo of a toy", steps=25),
    dict(steps=7),
], ids=lambda case: " ".join(f"{k}={v}" for k, v in case.items()))
def test_other_ways_of_drawing(tmp_path, words, case):
    pipe = pipeline(scheduler="DDIMScheduler" if case.get("scheduler") == "ddim" else None)
    pipe.load_textual_inversion(str(words[1]), token="sks")
    assert_same_picture(*draw_both(tmp_path, pipe, "a photo of a sks on a wooden table", embedding=words[1], **case))


def same_noise(monkeypatch, pipe, height, width, channels=4, seed=0, picture=0):
    """Has diffusers' sampler add the noise that zoodip's adds: after the start's numbers, a step's follow those of the step before."""
    count, step = channels * height * width, iter(range(1, 1000))

    def draw(*_, **__):
        stream = ["normals", seed, picture, 7, next(step) * count, count]
        numbers = subprocess.run([program("tests/rng"), *map(str, stream)], capture_output=True, check=True).stdout
        return torch.from_numpy(np.frombuffer(numbers, np.float32).reshape(1, height, width, channels).transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(sys.modules[type(pipe.scheduler).__module__], "randn_tensor", draw, raising=False)


SDE = dict(algorithm_type="sde-dpmsolver++")


@pytest.mark.parametrize("scheduler, theirs, swaps, case", [
    ("euler", "EulerDiscreteScheduler", {}, {}), ("Euler a", "EulerAncestralDiscreteScheduler", {}, {}),
    ("dpm++", "DPMSolverMultistepScheduler", {}, {}), ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", dict(use_karras_sigmas=True), {}),
    ("dpm++_2m_sde", "DPMSolverMultistepScheduler", SDE, {}), ("unipc", "UniPCMultistepScheduler", {}, {}),
    ("lcm", "LCMScheduler", {}, dict(steps=4, guidance=1.5)),
], ids=str)
def test_other_samplers(tmp_path, monkeypatch, scheduler, theirs, swaps, case):
    pipe = pipeline(scheduler=theirs, **swaps)
    same_noise(monkeypatch, pipe, 16, 16)
    assert_same_picture(*draw_both(tmp_path, pipe, "a photo of a toy on the grass", scheduler=scheduler, **{"steps": 15, **case}))


def test_without_a_learned_word(tmp_path):
    assert_same_picture(*draw_both(tmp_path, pipeline(), "a photo of a vobemze on the beach", steps=20))


def test_a_seed_gives_the_same_picture_twice_and_another_seed_another(tmp_path):
    pictures = []
    for seed in (1, 1, 2):
        path = tmp_path / f"{len(pictures)}.png"
        run(program("zoodip"), "generate", "--model", MODEL, "--prompt", "a toy", "--steps", 5, "--seed", seed, "--output", path)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_run_goes_on_with_a_model_that_diffusers_saved_again(tmp_path):
    """Other files, other texts of the same settings, the same numbers: the same model."""
    config, output = write_recipe(tmp_path, optim__steps=4, output__prompts=[])
    run(program("zoodip"), "train", config)
    pipeline().to(dtype=torch.float16).save_pretrained(tmp_path / "again")  # as toybox's files hold them
    done = run(program("zoodip"), "train", config, "--resume", "--set", f"model={tmp_path / 'again'}", "--set", "optim.steps=6")
    assert "resuming after step 4" in done.stderr


def test_the_word_under_the_name_that_automatic1111_gives_its_tensor(tmp_path):
    """Not written unless asked for. Programs that look for it are told the word beside the file."""
    config, output = write_recipe(tmp_path, optim__steps=3, token__vectors=2, output__prompts=[], output__emb_params=True, output__save_every=2)
    said = run(program("zoodip"), "train", config).stderr
    path = output / "learned_embeds-emb_params.safetensors"
    (name, rows), = load_file(path).items()
    learned = load_file(output / "learned_embeds.safetensors")["sks"]
    assert name == "emb_params" and np.array_equal(rows, learned) and f"wrote {path}" in said
    pipe = pipeline()
    pipe.load_textual_inversion(str(output), weight_name=path.name, token="<mug>")
    ids = pipe.tokenizer.convert_tokens_to_ids(["<mug>", "<mug>_1"])
    assert np.array_equal(pipe.text_encoder.get_input_embeddings().weight[ids].detach().numpy(), learned)
    path.unlink()
    run(program("zoodip"), "train", config, "--resume")  # nothing is left to do but to write what is missing
    assert np.array_equal(load_file(path)["emb_params"], learned)
    run(program("zoodip"), "train", config, "--overwrite", "--set", "output.emb_params=false")
    assert not path.exists()
