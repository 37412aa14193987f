"""`zoodip generate --prompt-syntax a1111`: weights in brackets, chunks of 75 tokens, BREAK. Ids and weights are compared with
AUTOMATIC1111's own functions (tests/a1111.py), pictures with diffusers' from the embeddings that these give."""
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import a1111
from conftest import TOYBOX, program, refused, run
from test_diffusers import assert_same_picture, pipeline
from test_generate import generate, make_word, picture

NEEDS = "peers"
MODEL = TOYBOX / "model"
GRASS = "a red ball on the green grass, "
MANY = GRASS * 14 + "a toy"  # more than a chunk


def read(pairs, *embeddings, model=MODEL):
    """What the program makes of [negative, prompt] pairs."""
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    return [json.loads(line) for line in run(program("tests/prompts"), model, *embeddings, stdin=lines).stdout.splitlines()]


def flat(both):
    return [[number for ids, _ in one for number in ids] for one in both], [[weight for _, weights in one for weight in weights] for one in both]


def assert_read(pairs, pipe, *embeddings, words={}):
    for pair, ours in zip(pairs, read(pairs, *embeddings), strict=True):
        both = a1111.both_chunks(*pair, pipe.tokenizer, words)
        ids, weights = (sum(numbers, []) for numbers in flat(both))
        assert ours.get("ids") == ids, pair
        assert np.allclose(ours["weights"], weights, rtol=1e-6, atol=0), pair
        assert ours["chunks"] == len(both[0]) and ours["padded"] == (len({len(a1111.chunks(text, pipe.tokenizer, words)) for text in pair}) > 1)


@pytest.fixture(scope="module")
def plain():
    return pipeline()


# -------------------------------------------------------------------------------- ids and weights


PROMPTS = ["", "a toy", "(a toy)", "((a)) toy", "(a toy:1.3)", "(a toy: 0.5 )", "[a] toy", "[[a]] (toy:-1)", r"\(a toy\)", r"\[a\] \\ toy\x", "(a (toy:1.5) on [grass])",
           "(a toy", "a) toy", "[a (toy", "a ] toy", "(a:b) toy", "a: toy :1.3) (b", "(a:+1.5)(toy:.5)(on:2.)", "()", "(:1.2)", "[]", "a BREAK toy", "BREAK", "BREAK BREAK a",
           "a BREAK", "aBREAK toy", "(a BREAK toy:1.2)", "(BREAK:1)", "a\nBREAK\n toy", "BREAK_ toy éBREAK", "a,BREAK,toy", "it's (1:2)", "(ein süßer Hund:1.25), 猫",
           MANY, "(" + MANY + ")", "toy " * 75, "toy " * 76, "toy, " * 37 + "a toy", "toy, " * 37 + "toy on", "toy " * 60 + ", " + "a " * 15,
           "toy " * 54 + ", " + "a " * 21, "toy " * 55 + ", " + "a " * 20, "toy " * 75 + ",", "red" + "," * 90, MANY * 5]


def test_brackets_and_chunks_are_automatic1111s(plain):
    assert_read([[negative, prompt] for prompt in PROMPTS for negative in ("", "a dark toy, [blurry]")], plain)


def test_prompts_at_random(plain):
    pieces = ["(", ")", "[", "]", "\\", "\\(", ":1.3)", ":0.9)", ": ", " ", ",", "BREAK", " BREAK ", "toy", " a red toy", ", grass", "ü", "\n", "9"] + ["on the green grass, "] * 6
    chance = random.Random(7)
    prompts = ["".join(chance.choice(pieces) for _ in range(chance.randint(1, 120))) for _ in range(400)]
    refused_ones = [i for i, found in enumerate(read([["", p] for p in prompts])) if "error" in found]  # [toy: 9]
    prompts = [p for i, p in enumerate(prompts) if i not in refused_ones]
    assert len(prompts) > 300
    assert_read([["", p] for p in prompts], plain)


def test_a_learned_word_is_never_cut(tmp_path):
    many, one = make_word(tmp_path, "many", 20), make_word(tmp_path, "one", 1, seed=1)
    pipe = pipeline()
    for path in (many, one):
        pipe.load_textual_inversion(str(path))
    first = pipe.tokenizer.convert_tokens_to_ids("many")
    words = {"many": list(range(first, first + 20))}
    prompts = ["(many:1.3) one", "toy " * 55 + "many", "toy " * 56 + "(many)", "many " * 5, "toy " * 60 + ", a many toy", "toy " * 36 + "a, many " + "on " * 40, "one " * 80]
    assert_read([["", prompt] for prompt in prompts], pipe, many, one, words=words)
    huge = make_word(tmp_path, "huge", 76, seed=2)
    assert "76 vectors" in read([["", "a huge"]], huge)[0]["error"]


# -------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("prompt, negative", [
    ("a photo of a (sks:1.4) on the [beach]", "(dark:1.2)"),
    (GRASS * 13 + "BREAK (a sks:1.3), " + GRASS * 3, "a dark toy"),
    ("a toy", "(a dark toy, " + GRASS * 14 + ":1.1)"),
], ids=["weights", "chunks", "a long negative prompt"])
def test_pictures_of_weighed_prompts(tmp_path, prompt, negative):
    word, pipe, output = make_word(tmp_path, "sks", 3), pipeline(), tmp_path / "ours.png"
    pipe.load_textual_inversion(str(word))
    first = pipe.tokenizer.convert_tokens_to_ids("sks")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    save_file({"latents": latents.numpy()}, tmp_path / "latents.safetensors")
    with torch.no_grad():
        both = [a1111.embeds(done, pipe.text_encoder) for done in a1111.both_chunks(negative, prompt, pipe.tokenizer, {"sks": [first, first + 1, first + 2]})]
        theirs = pipe(prompt_embeds=both[1], negative_prompt_embeds=both[0], latents=latents, num_inference_steps=8).images[0]
    generate("--prompt-syntax", "a1111", "--prompt", prompt, "--negative", negative, "--embedding", word, "--steps", 8, "--latents", tmp_path / "latents.safetensors",
             "--output", output)
    assert_same_picture(np.asarray(theirs), np.asarray(Image.open(output)))


def test_a_prompt_without_weights_draws_what_plain_syntax_does(tmp_path):
    for options in ([], ["--negative", "a dark toy"], ["--guidance", 1]):
        assert picture(tmp_path, "a toy: red", *options) == picture(tmp_path, "a toy: red", *options, "--prompt-syntax", "a1111")
    assert picture(tmp_path, r"\(a\) toy", "--prompt-syntax", "a1111") == picture(tmp_path, "(a) toy")
    assert picture(tmp_path, MANY, "--prompt-syntax", "a1111") != picture(tmp_path, MANY, "--quiet")


# -------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize("prompt, part", [("a (toy:1.3)", "(toy:1.3)"), ("((a red toy)) b", "((a red toy))"), ("a (b (c:1.1) d)", "(c:1.1)"), ("(a:1.1) (b:1.2)", "(a:1.1)")])
def test_weights_in_plain_syntax_are_taken_literally_and_that_is_said_once(tmp_path, prompt, part):
    def said(*options):
        return [line for line in generate(*options, "--steps", 1, "--output", tmp_path / "x.png").stderr.splitlines() if "literally" in line]
    assert said("--prompt", prompt) == [f'zoodip: --prompt: "{part}" is taken literally; --prompt-syntax a1111 weighs it']
    assert said("--prompt", prompt, "--prompt-syntax", "a1111") == []
    assert len(said("--prompt", prompt, "--negative", prompt)) == 1


@pytest.mark.parametrize("prompt", ["a toy (red)", "a:1.3) toy", r"\(a:1.3\)", "(a) (b))", "a [toy]", "(a(b)) c"])
def test_brackets_that_are_no_weight_are_not_worth_a_word(tmp_path, prompt):
    assert "literally" not in generate("--prompt", prompt, "--steps", 1, "--output", tmp_path / "x.png").stderr


@pytest.mark.parametrize("prompt, words", [
    ("[a:toy:0.5]", ["[a:toy:0.5]", "changes at a step"]), ("a [toy:10] b", ["[toy:10]"]), ("[(a:1.1):[b]: 0.25 ]", ["changes at a step"]), ("[a::3]", ["changes"]),
    ("[red|green] toy", ["[red|green]", "alternate"]), ("a [[x|y]]", ["[x|y]"]), ("a toy AND a cat", ["AND"]), ("a <lora:toy:0.8>", ["<lora:toy:0.8>", "networks"]),
    ("(a:1.2.3)", ["1.2.3"]), ("(a:.)", ["number"]), ("a \udcff toy", ["UTF-8"])], ids=str)
def test_what_is_not_supported_is_refused(tmp_path, prompt, words):
    refused(generate("--prompt", prompt, "--prompt-syntax", "a1111", "--output", tmp_path / "x.png", check=False), "--prompt", *words)


@pytest.mark.parametrize("prompt", [r"\[a:toy:0.5\]", "[a:toy]", "a|b (c|d)", "SAND ANDY", "a < b: c > d", "[a:b:c:0.5]", "(a:0.5)"])
def test_what_looks_like_it_but_is_not(tmp_path, prompt):
    generate("--prompt", prompt, "--negative", "a AND b, <lora:x:1>", "--prompt-syntax", "a1111", "--steps", 1, "--output", tmp_path / "x.png")


def test_another_syntax_is_refused(tmp_path):
    refused(generate("--prompt", "a", "--prompt-syntax", "compel", "--output", tmp_path / "x.png", check=False), "--prompt-syntax", "compel", "plain", "a1111")
