"""`zoodip generate`: words in prompts, the files it writes, what it refuses. Pictures are compared with diffusers'."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from conftest import TOYBOX, program, refused, run, write_recipe
from test_diffusers import assert_same_picture, draw_both, pipeline

NEEDS = "peers"
MODEL = TOYBOX / "model"


def make_word(folder, name, vectors, seed=0, width=96):
    """A made-up word: vectors as long as those of the vocabulary."""
    path = folder / f"{name}.safetensors"
    rows = np.random.default_rng(seed).normal(size=(vectors, width)).astype(np.float32) * 0.3
    save_file({name: rows}, path, metadata={"format": "pt"})
    return path


def pixels(path):
    """A picture without what it says about itself."""
    with Image.open(path) as drawn:
        return drawn.tobytes()


def generate(*options, model=MODEL, **more):
    return run(program("zoodip"), "generate", "--model", model, *options, **more)


# -------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("prompt, negative", [
    ("a photo of a sks on the beach", None),
    ("sks and a bix, a sks again", "a dark bix"),  # a word of several vectors is spelled out in the negative prompt too
    ("a photo of a sks_1 on the beach", None),     # one of three vectors, by its own name
    ("a photo of a toy", "sks"),
], ids=str)
def test_words_in_prompts(tmp_path, prompt, negative):
    words = [make_word(tmp_path, "sks", 3), make_word(tmp_path, "bix", 2, seed=1)]
    pipe = pipeline()
    for word in words:
        pipe.load_textual_inversion(str(word))
    assert_same_picture(*draw_both(tmp_path, pipe, prompt, negative=negative, embedding=words, steps=5))


def changed_model(folder, **changes):
    """toybox with keys of its scheduler changed; None removes a key."""
    shutil.copytree(MODEL, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    config = {k: v for k, v in {**json.loads(path.read_text()), **changes}.items() if v is not None}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("changes", [dict(prediction_type="v_prediction"), dict(steps_offset=0), dict(steps_offset=None),
                                     dict(skip_prk_steps=None), dict(timestep_spacing="trailing")],
                         ids=str)
def test_models_with_other_schedules(tmp_path, changes):
    model = changed_model(tmp_path / "model", **changes)
    assert_same_picture(*draw_both(tmp_path, pipeline(model), "a photo of a toy on the grass", model=model, steps=5))


def test_memory_is_planned_for_a_schedule_that_needs_several_steps(tmp_path):
    models = [MODEL, changed_model(tmp_path / "model", skip_prk_steps=None)]  # without the key PNDM begins with three Runge-Kutta steps
    configs = [write_recipe(tmp_path / str(i), model=str(model))[0] for i, model in enumerate(models)]
    plans = [json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"] for config in configs]
    assert plans[0] == plans[1] and plans[0]["draw pictures"]["bytes"] > 0


def test_latents_of_all_pictures_alike_still_meet_noise_of_their_own(tmp_path):
    """A sampler that adds noise adds another to each picture of a count."""
    save_file({"latents": np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)}, tmp_path / "l.safetensors")
    for scheduler, alike in (("euler", True), ("euler_a", False)):
        generate("--prompt", "a toy", "--steps", 3, "--latents", tmp_path / "l.safetensors", "--count", 2, "--scheduler", scheduler,
                 "--output", tmp_path / "toy.png")
        assert ((tmp_path / "toy-0001.png").read_bytes() == (tmp_path / "toy-0002.png").read_bytes()) == alike


@pytest.mark.parametrize("width, height", [(72, 88), (40, 104)])
def test_sizes_that_the_unet_cannot_halve_evenly(tmp_path, width, height):
    assert_same_picture(*draw_both(tmp_path, pipeline(), "a photo of a toy on the grass", width=width, height=height, steps=5))


def test_latents_for_every_picture_of_a_count(tmp_path):
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)).numpy()
    for name, rows in {"both": latents, "0": latents[:1], "1": latents[1:]}.items():
        save_file({"latents": np.ascontiguousarray(rows)}, tmp_path / f"{name}.safetensors")
    common = ["--prompt", "a toy", "--steps", 3]
    generate(*common, "--latents", tmp_path / "both.safetensors", "--count", 2, "--output", tmp_path / "new" / "toy.png")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["toy-0001.png", "toy-0002.png"]
    for i in (0, 1):
        generate(*common, "--latents", tmp_path / f"{i}.safetensors", "--output", tmp_path / "one.png")
        assert pixels(tmp_path / "one.png") == pixels(tmp_path / "new" / f"toy-000{i + 1}.png")


@pytest.mark.parametrize("scheduler", ["pndm", "euler_a"])
def test_the_pictures_of_a_count_differ_and_the_first_is_that_of_one(tmp_path, scheduler):
    common = ["--prompt", "a toy", "--steps", 2, "--seed", 5, "--scheduler", scheduler]
    generate(*common, "--count", 2, "--output", tmp_path / "toy.png")
    generate(*common, "--output", tmp_path / "one.png")
    first, second = (tmp_path / f"toy-000{i}.png" for i in (1, 2))
    assert pixels(first) == pixels(tmp_path / "one.png") != pixels(second)


def test_the_size_is_the_models_own_or_the_one_asked_for(tmp_path):
    for options, size in (([], (64, 64)), (["--size", "96x48"], (96, 48))):
        generate("--prompt", "a toy", "--steps", 1, "--output", tmp_path / "toy.png", *options)
        with Image.open(tmp_path / "toy.png") as picture:
            assert picture.size == size and picture.mode == "RGB"


def test_a_word_that_the_prompt_does_not_name_is_worth_a_warning(tmp_path):
    word = make_word(tmp_path, "sks", 1)
    done = generate("--prompt", "a toy", "--embedding", word, "--steps", 1, "--output", tmp_path / "toy.png")
    assert "does not contain" in done.stderr and "sks" in done.stderr


def named(name, path):
    return "--embedding", f"{name}={path}"


def picture(tmp_path, prompt, *options, **more):
    """The pixels of a picture that few steps make."""
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
    generate("--prompt", prompt, "--steps", 2, "--output", path, *options, **more)
    return pixels(path)


@pytest.mark.parametrize("prompt, apart", [
    ("a mug2 beside a mug", "a zib beside a kap"),     # one word is the beginning of the other
    ("Mug on the MUG2, mug", "kap on the zib, kap"),
    ("mug, mugs; mug2mug", "kap, kaps; zibkap"),       # wherever the tokenizer finds it
    ("a mug mug_1 mug on grass", "a kap kap on grass"),  # spelled out by hand
    ("mug_1 mug", "kap_1 kap"),
])
def test_a_word_is_all_its_vectors_where_the_tokenizer_finds_it(tmp_path, prompt, apart):
    """The right picture is that of the same vectors under names that have nothing in common."""
    mug, mug2 = make_word(tmp_path, "mug", 2), make_word(tmp_path, "mug2", 1, seed=1)
    ours = picture(tmp_path, prompt, "--embedding", mug, "--embedding", mug2, "--negative", prompt)
    assert ours == picture(tmp_path, apart, *named("kap", mug), *named("zib", mug2), "--negative", apart)
    assert ours != picture(tmp_path, "a toy")


def test_words_of_the_same_name_meet_under_others(tmp_path):
    """Two words of a queue that were both learned as sks, and two that AUTOMATIC1111 calls emb_params."""
    pipe, embeddings = pipeline(), []
    for i, (name, stored, vectors) in enumerate([("bix", "sks", 1), ("quz", "sks", 3), ("<dar>", "emb_params", 2), ("emb_params", "emb_params", 1)]):
        (tmp_path / str(i)).mkdir()
        path = make_word(tmp_path / str(i), stored, vectors, seed=i)
        pipe.load_textual_inversion(str(path), token=name)
        embeddings.append(path if name == stored else f"{name}={path}")
    assert_same_picture(*draw_both(tmp_path, pipe, "a bix beside a quz and <dar>, emb_params", embedding=embeddings, steps=5))


def test_a_name_with_an_equals_sign_is_a_file_where_there_is_one(tmp_path):
    word = make_word(tmp_path, "sks", 1)
    plain = picture(tmp_path, "a sks", "--embedding", word)
    for name in ("lr=0.1.safetensors", "lr=0.1/sks.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(word, tmp_path / name)
        assert picture(tmp_path, "a sks", "--embedding", name, cwd=tmp_path) == plain
        assert picture(tmp_path, "a sks", "--embedding", tmp_path / name) == plain
        assert picture(tmp_path, "a bix", *named("bix", tmp_path / name)) == plain
    for option, words in ((f"bix=={word}", [f"={word}"]), ("bix=", ['--embedding: "bix=": expected a file after the =']), (f"a word={word}", ["a word", "white space"]), (f"={word}", [f"={word}"]),
                          ("lr=0.2/sks.safetensors", ["--embedding lr=0.2/sks.safetensors"]), (f"a={word}", ['"a" is already a token of this model', "WORD=FILE"])):
        refused(generate("--prompt", "a sks", "--output", tmp_path / "x.png", "--embedding", option, check=False), *words)


def saved_with_a_word(folder, path):
    """toybox, saved by diffusers after it has loaded a word."""
    pipe = pipeline()
    pipe.load_textual_inversion(str(path))
    pipe.save_pretrained(folder)
    return folder


def test_words_that_a_saved_model_brings_along(tmp_path):
    fox, mug = make_word(tmp_path, "<fox>", 3), make_word(tmp_path, "mug", 2, seed=1)
    model = saved_with_a_word(tmp_path / "model", fox)
    pipe = pipeline(model)
    pipe.load_textual_inversion(str(mug))
    assert_same_picture(*draw_both(tmp_path, pipe, "a <fox> and a mug, <fox>", embedding=mug, model=model, steps=5))
    both = picture(tmp_path, "a <fox> and a mug", "--embedding", mug, model=model)
    assert both == picture(tmp_path, "a <Fox> and a mug", "--embedding", mug, model=model)
    assert both == picture(tmp_path, "a <fox> <fox>_1 <fox>_2 and a mug", "--embedding", mug, model=model)
    again = generate("--prompt", "a <fox>", "--embedding", fox, "--output", tmp_path / "x.png", check=False, model=model)
    refused(again, '"<fox>" is already a token of this model')


def test_what_is_cut_off_is_said(tmp_path):
    words = [make_word(tmp_path, "sks", 1), make_word(tmp_path, "many", 64, seed=1)]
    options = ["--embedding", words[0], "--embedding", words[1], "--steps", 1, "--output", tmp_path / "x.png", "--quiet"]
    grass = "a red ball on the green grass "

    def warnings(prompt, *more):
        return generate("--prompt", prompt, *options, *more).stderr.replace("zoodip: warning: ", "").splitlines()
    assert warnings("sks and many") == warnings("sks", "--negative", "many") == []
    assert warnings(f"many, {grass} sks") == []
    assert warnings(f"many, many {grass} sks") == [
        f'--prompt: is longer than the 77 tokens that count; left out: "many {grass} sks"',
        f'the first 77 tokens of the prompt do not contain "sks", the word of {words[0]}']
    assert warnings("é" * 300, "--negative", "many") == [
        f'--prompt: is longer than the 77 tokens that count; left out: "{"é" * 100}..."',
        f'the first 77 tokens of the prompt do not contain "sks", the word of {words[0]}']
    assert warnings("sks many", "--negative", "a big", "--embedding", make_word(tmp_path, "big", 80))[0].endswith('left out: "big"')
    assert warnings("red," * 60, "--negative", "sks many") == [  # no blanks: what its 75 tokens leave
        f'--prompt: is longer than the 77 tokens that count; left out: ",{"red," * 22}"']
    assert warnings("sks many", "--negative", f"a toy {grass * 20}")[0].startswith("--negative: is longer")
    assert warnings("sks", "--negative", "many", "--guidance", 1) == [
        "--negative: is not used, because --guidance is 1 or less", f'the prompt does not contain "many", the word of {words[1]}']


@pytest.mark.parametrize("key, length", [("model_max_length", 24), ("max_len", 24), ("model_max_length", None), ("model_max_length", 1e30)])
def test_the_tokenizer_may_allow_fewer_tokens_than_the_text_encoder(tmp_path, key, length):
    model = shutil.copytree(MODEL, tmp_path / "model")
    path = model / "tokenizer" / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["model_max_length"]
    path.write_text(json.dumps(said | {key: length}))
    prompt = "a photo of a toy on the grass, " * 3
    if length != 24:  # no limit of its own
        assert picture(tmp_path, prompt, model=model) == picture(tmp_path, prompt)
        return
    assert_same_picture(*draw_both(tmp_path, pipeline(model), prompt, model=model, steps=5))
    said = generate("--prompt", prompt, "--steps", 1, "--output", tmp_path / "x.png", model=model).stderr
    assert f"the {length} tokens that count; left out" in said
    config, _ = write_recipe(tmp_path / "learn", model=str(model), optim__steps=2, output__prompts=["a {}"])
    run(program("zoodip"), "train", config)  # its pictures are drawn with as many
    done = run(program("zoodip"), "train", config, "--set", "token.vectors=30", "--set", f"output.dir={tmp_path / 'other'}", check=False)
    refused(done, f"the word is not among its first {length} tokens")


def test_a_model_whose_vae_has_no_encoder(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model")
    path, = (model / "vae").glob("*.safetensors")
    save_file({k: v for k, v in load_file(path).items() if not k.startswith(("encoder.", "quant_conv."))}, path, metadata={"format": "pt"})
    for folder, output in ((model, "without.png"), (MODEL, "with.png")):
        generate("--prompt", "a toy", "--steps", 2, "--output", tmp_path / output, model=folder)
    assert pixels(tmp_path / "without.png") == pixels(tmp_path / "with.png")


def test_parts_that_do_not_fit_together(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model")
    path = model / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 64}))
    output = tmp_path / "toy.png"
    refused(generate("--prompt", "a toy", "--output", output, check=False, model=model), str(path), "cross_attention_dim", "64", "96")


def test_help_shows_every_option_and_examples():
    done = run(program("zoodip"), "generate", "--help")
    for word in ("--model", "--embedding", "--prompt", "--negative", "--steps", "--guidance", "--scheduler", "--seed", "--latents",
                 "--size", "--count", "--output", "example"):
        assert word in done.stdout


# -------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("options, words", [
    (["--steps", "1000"], ["--steps"]), (["--steps", "3.5"], ["--steps"]), (["--guidance", "nan"], ["--guidance"]),
    (["--guidance"], ["--guidance"]), (["--count", "0"], ["--count"]), (["--seed", "x"], ["--seed"]), (["--size", "0x64"], ["--size"]),
    (["--size", "64x66"], ["--size", "4"]), (["--size", "64x64x3"], ["--size"]), (["--scheduler", "heun"], ["--scheduler", "pndm"]),
    (["--latents", "/nowhere.safetensors"], ["/nowhere.safetensors"]), (["--colour", "red"], ["--colour"]), (["toy"], ["toy"])], ids=str)
def test_options(tmp_path, options, words):
    output = tmp_path / "toy.png"
    refused(generate("--prompt", "a toy", "--output", output, *options, check=False), *words)
    assert not output.exists()


def test_a_model_that_is_not_there(tmp_path):
    refused(generate("--prompt", "a toy", "--output", tmp_path / "toy.png", model="/nowhere", check=False), "/nowhere")


@pytest.mark.parametrize("output", ["toy.jpg", "toy", ".png"])
def test_output_that_is_no_png(tmp_path, output):
    refused(generate("--prompt", "a toy", "--output", output, check=False), "--output")


@pytest.mark.parametrize("tensors, words", [
    ({"noise": np.zeros((1, 4, 16, 16), np.float32)}, ["latents"]), ({"latents": np.zeros((4, 16, 16), np.float32)}, ["latents"]),
    ({"latents": np.zeros((1, 3, 16, 16), np.float32)}, ["latents", "4"]), ({"latents": np.zeros((3, 4, 16, 16), np.float32)}, ["3"]),
    ({"latents": np.zeros((1, 4, 16, 16), np.int32)}, ["latents"]), ({"latents": np.zeros((1, 4, 0, 16), np.float32)}, ["latents"])])
def test_latents_that_do_not_fit(tmp_path, tensors, words):
    path = tmp_path / "latents.safetensors"
    save_file(tensors, path)
    refused(generate("--prompt", "a toy", "--latents", path, "--output", tmp_path / "toy.png", check=False), str(path), *words)


def test_latents_of_another_size_than_asked_for(tmp_path):
    path = tmp_path / "latents.safetensors"
    save_file({"latents": np.zeros((1, 4, 16, 16), np.float32)}, path)
    refused(generate("--prompt", "a toy", "--latents", path, "--size", "96x64", "--output", tmp_path / "toy.png", check=False), "--size")


def test_words_that_do_not_fit(tmp_path):
    common = ["--prompt", "a toy", "--output", tmp_path / "toy.png"]
    wide = make_word(tmp_path, "wide", 1, width=768)
    refused(generate(*common, "--embedding", wide, check=False), "wide.safetensors", "768", "96")
    known = make_word(tmp_path, "toy<w>", 1).rename(tmp_path / "known.safetensors")
    save_file({"toy</w>": np.zeros((1, 96), np.float32)}, known)
    refused(generate(*common, "--embedding", known, check=False), "known.safetensors", "toy</w>")
    word = make_word(tmp_path, "sks", 2)
    refused(generate(*common, "--embedding", word, "--embedding", word, check=False), "sks.safetensors")
    save_file({"a": np.zeros((1, 96), np.float32), "b": np.zeros((1, 96), np.float32)}, tmp_path / "two.safetensors")
    refused(generate(*common, "--embedding", tmp_path / "two.safetensors", check=False), "two.safetensors")


def test_no_place_for_the_output(tmp_path):
    (tmp_path / "file").write_text("")
    refused(generate("--prompt", "a toy", "--output", tmp_path / "file" / "toy.png", check=False), "--output", "file")


@pytest.mark.parametrize("count, folder", [(1, "toy.png"), (3, "toy-0002.png")])
def test_a_folder_where_a_picture_should_go_is_found_before_anything_is_drawn(tmp_path, count, folder):
    (tmp_path / folder).mkdir()
    refused(generate("--prompt", "a toy", "--count", count, "--output", tmp_path / "toy.png", check=False), "--output", folder, "is a folder")
    assert [p.name for p in tmp_path.iterdir()] == [folder]


def test_a_folder_that_takes_no_files_is_found_before_anything_is_drawn():
    done = generate("--prompt", "a toy", "--output", "/proc/toy.png", check=False)  # root may not write there either
    assert done.returncode == 1 and "--output" in done.stderr and "loading" not in done.stderr


@pytest.mark.parametrize("option", ["--prompt", "--negative"])
def test_prompts_that_are_no_text(tmp_path, option):
    prompt = [] if option == "--prompt" else ["--prompt", "a toy"]
    refused(generate(*prompt, option, "a \udcff toy", "--output", tmp_path / "toy.png", check=False), option, "UTF-8")


@pytest.mark.parametrize("steps, guidance", [(3, 1), (2, 4)])
def test_a_runs_pictures_are_those_that_generate_makes_of_its_word(tmp_path, steps, guidance):
    """output.sample_steps and output.guidance mean what --steps and --guidance do."""
    config, output = write_recipe(tmp_path, quant__bits=16, optim__steps=2, output__sample_every=1, output__save_every=1,
                                  output__prompts=["a {} on the beach"], output__sample_steps=steps, output__guidance=guidance)
    run(program("zoodip"), "train", config)
    generate("--prompt", "a sks on the beach", "--embedding", output / "learned_embeds-steps-1.safetensors", "--steps", steps,
             "--guidance", guidance, "--output", tmp_path / "sks.png")
    assert pixels(tmp_path / "sks.png") == pixels(output / "samples/step-1-1.png")


def test_a_runs_pictures_need_not_stay_as_they_were_when_it_resumes(tmp_path):
    config, output = write_recipe(tmp_path, optim__steps=1, output__prompts=[], data__resolution=16)
    run(program("zoodip"), "train", config)
    resumed = run(program("zoodip"), "train", config, "--resume", "--set", "optim.steps=2", "--set", "output.sample_steps=1",
                  "--set", "output.guidance=0", "--set", 'output.prompts=["a {}"]')
    assert "resuming after step 1" in resumed.stderr and "generating 2 pictures in 1 steps each" in resumed.stderr
    assert not (output / "samples").exists()


def test_more_steps_than_the_model_has_timesteps_are_refused_before_the_run(tmp_path):
    config, output = write_recipe(tmp_path)
    refused(run(program("zoodip"), "train", config, "--set", "output.sample_steps=1000", check=False), "--set: output.sample_steps", "is 1000", "999")
    assert not output.exists()
    run(program("zoodip"), "train", config, "--set", "output.sample_steps=1000", "--set", "output.prompts=[]", "--set", "optim.steps=1")
