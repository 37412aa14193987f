"""Checkpoints in a single file: each part computes what diffusers makes of the same file, in shapes of Stable Diffusion 1.x and 2.x;
the file is the same model as the folder that diffusers makes of it; what is no such checkpoint is refused by its name."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import ROOT, TOYBOX, learned, losses_of, make_model, mpirun, program, recipe, refused, run, write_recipe
from ldm import from_diffusers, to_single_file
import test_parameters
from test_parameters import commands, draw_again
from test_models import compare, forward, inputs_for

NEEDS = "peers"
WORDS = TOYBOX / "model" / "tokenizer"

# Shapes from which settings can be told: 8 heads, or heads of 64 channels; groups that follow from the channels.
FIRST = dict(
    text=dict(hidden_size=128, intermediate_size=200, num_hidden_layers=2, num_attention_heads=2, hidden_act="quick_gelu"),
    unet=dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32, attention_head_dim=8, sample_size=64,
              down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
    vae=dict(block_out_channels=(16, 48, 32), layers_per_block=2, norm_num_groups=16))
SECOND = dict(
    text=dict(hidden_size=64, intermediate_size=100, num_hidden_layers=3, num_attention_heads=1, hidden_act="gelu"),
    unet=dict(block_out_channels=(72, 136, 256), layers_per_block=(2, 1, 1), norm_num_groups=8, attention_head_dim=(1, 2, 4), sample_size=96,
              transformer_layers_per_block=(1, 2, 1), use_linear_projection=True,
              down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
              up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
    vae=dict(block_out_channels=(12, 20), layers_per_block=1, norm_num_groups=4))
EVEN = dict(SECOND, unet=dict(SECOND["unet"], block_out_channels=(64, 128, 192), layers_per_block=2, norm_num_groups=32,
                              transformer_layers_per_block=1, attention_head_dim=(1, 2, 3)))
SHAPES = {"first": FIRST, "second": EVEN, "uneven": SECOND}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> a diffusers folder, and the single file of it."""
    made = {}

    def get(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            folder = make_model(root / "folder", SHAPES[name], "float16")
            made[name] = folder, to_single_file(folder, root / "file.safetensors", second=name != "first")
        return made[name]
    return get


def options(name):
    return ["--tokenizer", WORDS] + ([] if name == "first" else ["--prediction", "epsilon"])


def generate(model, output, *more, size="64x64", **kw):
    more = [*more, *(["--size", size] if size else [])]
    return run(program("zoodip"), "generate", "--model", model, "--prompt", "a photo of a toy", "--steps", 3, "--output", output, *more, **kw)


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


# ---------------------------------------------------------------- the same network

@pytest.mark.parametrize("name", SHAPES)
def test_parts_compute_what_their_folder_computes(models, tmp_path, name):
    folder, file = models(name)
    inputs = inputs_for(folder, lanes=1)
    ours, theirs = forward(file, tmp_path, inputs), forward(folder, tmp_path, inputs)
    assert ours.keys() == theirs.keys() and len(ours) == 5
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", ["first", "second"])
def test_parts_are_what_diffusers_makes_of_the_file(models, tmp_path, name):
    """Its own conversion, loaded by its networks with the settings that we derive."""
    folder, file = models(name)
    ours = tmp_path / "folder"
    shutil.copytree(folder, ours)
    for part, tensors in from_diffusers(file, folder).items():
        save_file({k: t.contiguous() for k, t in tensors.items()}, next((ours / part).glob("*.safetensors")))
    inputs = inputs_for(folder, lanes=1)
    made, theirs = forward(file, tmp_path, inputs), forward(ours, tmp_path, inputs)
    for key in made:
        assert torch.equal(made[key], theirs[key]), key
    compare(ours, tmp_path, inputs)


@pytest.mark.parametrize("name", SHAPES)
def test_the_file_is_the_same_model_as_its_folder(models, name):
    folder, file = models(name)
    assert run(program("tests/contents"), file, 2).stdout == run(program("tests/contents"), folder, 2).stdout


def test_names_without_text_model_and_a_file_of_23_layers(models, tmp_path):
    folder, file = models("first")
    short = to_single_file(folder, tmp_path / "short.safetensors", text_model="")
    assert run(program("tests/contents"), short, 1).stdout == run(program("tests/contents"), file, 1).stdout
    deep = make_model(tmp_path / "deep", dict(EVEN, text=dict(EVEN["text"], num_hidden_layers=23)), "float16")
    whole = [run(program("tests/contents"), to_single_file(deep, tmp_path / f"{last}.safetensors", second=True, last=last), 1).stdout for last in (True, False)]
    assert whole[0] == whole[1] == run(program("tests/contents"), deep, 1).stdout


# ---------------------------------------------------------------- what is done with it

@pytest.mark.parametrize("name", ["first", "second"])
def test_pictures_are_those_of_the_folder_and_of_diffusers(models, tmp_path, name):
    from diffusers import StableDiffusionPipeline

    folder, file = models(name)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    predicts = {"first": "epsilon", "second": "v_prediction"}[name]
    config = json.loads((copy / "scheduler/scheduler_config.json").read_text())
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "prediction_type": predicts}))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    more = ["--latents", tmp_path / "latents.safetensors", *options(name)[:2]]
    generate(copy, tmp_path / "copy.png", *more, size=None)
    generate(file, tmp_path / "file.png", *more, *(["--prediction", "v"] if name == "second" else []), size=None)
    assert (pixels(tmp_path / "copy.png") == pixels(tmp_path / "file.png")).all()
    theirs = StableDiffusionPipeline.from_single_file(str(file), config=str(copy), local_files_only=True, torch_dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    image = theirs("a photo of a toy", latents=latents, num_inference_steps=3, guidance_scale=7.5).images[0]
    off = np.abs(np.asarray(image).astype(int) - pixels(tmp_path / "file.png"))
    assert off.max() <= 2 and (off <= 1).mean() > 0.999


def test_a_word_is_learned_from_the_file_as_from_the_folder_on_any_number_of_ranks(models, tmp_path):
    folder, file = models("first")
    words = []
    for model, ranks in ((folder, 1), (file, 1), (file, 2)):
        config, output = write_recipe(tmp_path / f"{model.name}{ranks}", model=str(model), tokenizer=str(WORDS), optim__steps=3, output__prompts=[])
        mpirun(ranks, program("zoodip"), "train", config)
        words.append((learned(output), losses_of(output)))
    assert words[0] == words[1] == words[2]
    # and goes on from either's checkpoint
    run(program("zoodip"), "train", config, "--set", f"model={json.dumps(str(folder))}", "--set", "optim.steps=3", "--resume")
    other = run(program("zoodip"), "train", config, "--set", "prediction=v", "--resume", check=False)
    assert other.returncode == 2 and "made with another model" in other.stderr.splitlines()[-1]


@pytest.mark.parametrize("name,prediction", [("first", None), ("second", "v")])
def test_quantize_writes_a_folder_that_diffusers_loads(models, tmp_path, name, prediction):
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTokenizer

    folder, file = models(name)
    more = ["--prediction", prediction] if prediction else []
    run(program("zoodip"), "quantize", "--model", file, "--tokenizer", WORDS, "--output", tmp_path / "q", *more)
    run(program("zoodip"), "quantize", "--model", folder, "--output", tmp_path / "folder")
    for part in ("text_encoder", "unet", "vae"):
        ours, theirs = (load_file(next((tmp_path / place / part).glob("*.safetensors"))) for place in ("q", "folder"))
        theirs = {("text_model." if part == "text_encoder" and not k.startswith("text_model.") else "") + k: v for k, v in theirs.items()}
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        ours, theirs = (kind.from_config(kind.load_config(place / part)) for place in (tmp_path / "q", folder))
        assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
        keys = json.loads((tmp_path / "q" / part / "config.json").read_text())
        assert all(tuple(np.ravel(ours.config[k])) == tuple(np.ravel(theirs.config[k])) for k in keys if k not in ("_class_name", "sample_size"))
    text, theirs = (CLIPTextConfig.from_pretrained(place / "text_encoder") for place in (tmp_path / "q", folder))
    assert all(getattr(text, k) == getattr(theirs, k) for k in ("hidden_size", "num_attention_heads", "num_hidden_layers", "hidden_act"))
    assert PNDMScheduler.from_pretrained(tmp_path / "q" / "scheduler").config.prediction_type == ("v_prediction" if prediction else "epsilon")
    assert len(CLIPTokenizer.from_pretrained(tmp_path / "q" / "tokenizer")) == 1571
    generate(tmp_path / "q", tmp_path / "q.png")
    assert json.loads((tmp_path / "q/model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_a_folders_prediction_can_be_overruled_and_written(tmp_path):
    model, made = TOYBOX / "model", tmp_path / "q"
    generate(model, tmp_path / "eps.png")
    generate(model, tmp_path / "v.png", "--prediction", "v")
    run(program("zoodip"), "quantize", "--model", model, "--prediction", "v", "--output", made)
    assert json.loads((made / "scheduler/scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    assert (pixels(tmp_path / "eps.png") != pixels(tmp_path / "v.png")).any()
    assert 'prediction_type "v_prediction"' in run(program("zoodip"), "inspect", model, "--prediction", "v").stdout
    refused(generate(model, tmp_path / "x.png", "--prediction", "sample", check=False), "--prediction", "epsilon or v")


# ---------------------------------------------------------------- what it predicts

@pytest.mark.parametrize("metadata,tensor,says", [
    ({}, None, None), ({"modelspec.prediction_type": "v"}, None, "v_prediction"), ({"modelspec.prediction_type": "epsilon"}, None, "epsilon"),
    ({"ss_v_parameterization": "True"}, None, "v_prediction"), ({"ss_v_parameterization": "False"}, None, "epsilon"),
    ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, None, "v_prediction"), ({}, "v_pred", "v_prediction")])
@pytest.mark.parametrize("name", ["first", "second"])
def test_what_the_file_says_of_its_prediction(models, tmp_path, name, metadata, tensor, says):
    def change(tensors):
        if tensor:
            tensors[tensor] = torch.zeros(0)
    file = to_single_file(models(name)[0], tmp_path / "x.safetensors", second=name == "second", metadata=metadata or None, change=change)
    shown = run(program("zoodip"), "inspect", file).stdout
    if name == "second" and says is None:
        assert "--prediction epsilon or --prediction v" in shown and "prediction_type" not in shown
        refused(generate(file, tmp_path / "x.png", "--tokenizer", WORDS, check=False), "does not say what it predicts", "--prediction", "the key prediction")
        shown = run(program("zoodip"), "inspect", file, "--prediction", "v").stdout
        says = "v_prediction"
    assert f'prediction_type "{says or "epsilon"}"' in shown
    assert "Stable Diffusion " + ("1.x" if name == "first" else "2.x") in shown


# ---------------------------------------------------------------- CLIP's tokenizer

def test_clips_tokenizer_comes_with_the_program(models, tmp_path):
    """A file with CLIP's table needs no --tokenizer; 2.x fills up with `!`, as the folder does that diffusers would have."""
    from transformers import CLIPTokenizer

    clip = ROOT / "dataset/clip"
    theirs = CLIPTokenizer.from_pretrained(clip)
    texts = ["a photo of a sks dog, 8k!!!", "naïve café 日本語 👍", "it's <|endoftext|> 12", ""]
    ours = run(program("tests/tokenize"), clip, "--length", "77", stdin="\n".join(map(json.dumps, texts)) + "\n").stdout
    assert [json.loads(line) for line in ours.splitlines()] == theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert len(theirs) == 49408 and theirs.convert_tokens_to_ids("sks</w>") == 48136
    for second in (False, True):
        def change(tensors):
            key = "cond_stage_model.model.token_embedding.weight" if second else "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
            tensors[key] = torch.nn.functional.pad(tensors[key], (0, 0, 0, 49408 - 1571), value=0.02)
        file = to_single_file(models(["first", "second"][second])[0], tmp_path / "x.safetensors", second=second, change=change)
        folder = tmp_path / f"q{second}"
        run(program("zoodip"), "quantize", "--model", file, "--prediction", "epsilon", "--output", folder)
        tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        assert tokens.pad_token == ("!" if second else "<|endoftext|>")
        generate(file, tmp_path / "clip.png", "--prediction", "epsilon")


def test_a_file_with_another_table_asks_for_a_tokenizer(models, tmp_path):
    _, file = models("first")
    refused(generate(file, tmp_path / "x.png", check=False), "1571 tokens", "49408", "--tokenizer", "the key tokenizer")
    refused(generate(file, tmp_path / "x.png", "--tokenizer", tmp_path / "nowhere", check=False), "--tokenizer", "no such folder")
    refused(generate(file, tmp_path / "x.png", "--tokenizer", ROOT / "dataset/clip", check=False), "--tokenizer", "49408 tokens", "1571")


def test_where_clips_tokenizer_is_looked_for(models, tmp_path):
    """Beside the program, as a checkout or a bundle has it, then as it is installed."""
    def change(tensors):
        key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
        tensors[key] = torch.nn.functional.pad(tensors[key], (0, 0, 0, 49408 - 1571))
    file = to_single_file(models("first")[0], tmp_path / "x.safetensors", change=change)
    (tmp_path / "bin").mkdir()
    shutil.copy(program("zoodip"), tmp_path / "bin/zoodip")
    for place in ("share/zoodip/dataset/clip", "dataset/clip"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "vocab.json").write_text("broken")
        done = run(tmp_path / "bin/zoodip", "generate", "--model", file, "--prompt", "a toy", "--output", tmp_path / "x.png", check=False)
        refused(done, f"{tmp_path}/bin/../{place}/vocab.json")


def test_a_cache_keeps_what_is_made_of_the_file(models, tmp_path):
    _, file = models("first")
    words = []
    for name, cache in (("plain", None), ("first", str(tmp_path / "cache")), ("again", str(tmp_path / "cache"))):
        config, output = write_recipe(tmp_path / name, model=str(file), tokenizer=str(WORDS), quant__cache=cache, optim__steps=2, output__prompts=[])
        log = run(program("zoodip"), "train", config).stderr
        words.append(learned(output))
        assert ("weights come from" in log, "weights are kept in" in log) == (name == "again", name == "first")
    assert words[0] == words[1] == words[2]


def test_a_queue_learns_with_the_file(models, tmp_path):
    _, file = models("second")
    jobs = tmp_path / "jobs.json"
    job = recipe(tmp_path / "out", model=str(file), tokenizer=str(WORDS), prediction="v", optim__steps=2, output__prompts=[])
    jobs.write_text(json.dumps({"defaults": job, "jobs": [{"name": "a"}, {"name": "b", "seed": 2}]}))
    run(program("zoodip"), "run", jobs)
    assert all((tmp_path / "out" / name / "learned_embeds.safetensors").exists() for name in "ab")
    jobs.write_text(json.dumps({"defaults": job, "jobs": [{"name": "c"}, {"name": "d", "prediction": "epsilon"}]}))
    refused(run(program("zoodip"), "run", jobs, check=False), "prediction", "all jobs share one loaded model")


def test_a_schedule_that_ends_in_noise_alone(models, tmp_path):
    """`ztsnr`: as diffusers' DDIM with rescale_betas_zero_snr and trailing timesteps."""
    folder, _ = models("first")
    file = to_single_file(folder, tmp_path / "x.safetensors", change=lambda t: t.update(v_pred=torch.zeros(0), ztsnr=torch.zeros(0)))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "scheduler/scheduler_config.json").read_text())
    settings |= dict(_class_name="DDIMScheduler", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    (copy / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
    for model in (copy, file):
        generate(model, tmp_path / f"{model.name}.png", "--tokenizer", WORDS, "--scheduler", "ddim")
    assert (pixels(tmp_path / "copy.png") == pixels(tmp_path / "x.safetensors.png")).all()
    generate(folder, tmp_path / "plain.png", "--tokenizer", WORDS, "--scheduler", "ddim", "--prediction", "v")
    assert (pixels(tmp_path / "copy.png") != pixels(tmp_path / "plain.png")).any()


def test_the_reports_command_draws_with_the_same_tokenizer_and_prediction(models, tmp_path):
    _, file = models("second")
    config, output = write_recipe(tmp_path, model=str(file), tokenizer=str(WORDS), prediction="v", optim__steps=1, output__prompts=["a photo of a {}"],
                                  output__sample_steps=2, data__resolution=32)
    run(program("zoodip"), "train", config)
    for _, theirs, command in commands(output):
        assert f"--tokenizer {WORDS} --prediction v " in command
        assert test_parameters.pixels(draw_again(command, tmp_path)) == theirs


# ---------------------------------------------------------------- folders as people have them

def edit(path, **keys):
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def shards_with_an_older_name(model):
    """diffusers 0.2x wrote the variant before "index"."""
    whole = model / "unet/diffusion_pytorch_model.safetensors"
    tensors, shard = load_file(whole), "diffusion_pytorch_model-00001-of-00001.fp16.safetensors"
    save_file(tensors, model / "unet" / shard)
    (model / "unet/diffusion_pytorch_model.safetensors.fp16.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(tensors, shard)}))
    whole.unlink()


@pytest.mark.parametrize("change", [
    shards_with_an_older_name, lambda m: edit(m / "unet/config.json", act_fn="swish"), lambda m: edit(m / "vae/config.json", act_fn="swish"),
    lambda m: edit(m / "unet/config.json", sample_size=[16, 16])], ids=["fp16.index", "swish", "swish in the VAE", "sample_size as a list"])
def test_other_spellings_of_a_folder_are_the_same_model(tmp_path, change):
    model = tmp_path / "model"
    shutil.copytree(TOYBOX / "model", model)
    change(model)
    generate(TOYBOX / "model", tmp_path / "plain.png", size=None)
    generate(model, tmp_path / "x.png", size=None)
    assert (pixels(tmp_path / "plain.png") == pixels(tmp_path / "x.png")).all()


def test_a_model_that_is_not_square_is_refused(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TOYBOX / "model", model)
    edit(model / "unet/config.json", sample_size=[16, 24])
    refused(generate(model, tmp_path / "x.png", check=False), "unet/config.json: sample_size: 16 x 24 is not supported, only a square")
