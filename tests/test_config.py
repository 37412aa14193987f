"""Recipes: one table of keys drives parsing, --set, defaults, errors, --help and the page configs/README.md."""
import json
import re

import pytest

from conftest import ROOT, program, run

QUICK = True
README = (ROOT / "configs" / "README.md").read_text()
SMALLEST = {"model": "m", "data": {"images": "photos"}, "token": {"initializer": "toy"}, "output": {"dir": "out"}}


def flat(tree, prefix=""):
    """{"zo": {"n": 2}} -> {"zo.n": 2}"""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.fixture
def config(tmp_path):
    """Calls the reader: (recipe or text, sets...) -> (exit code, effective config or None, error line)."""

    def call(recipe=SMALLEST, *sets, flag=None):
        path = tmp_path / "config.json"
        if isinstance(recipe, (bytes, str)):
            path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
        else:
            path.write_text(json.dumps(recipe))
        done = run(program("tests/config"), *([flag] if flag else []), path, *sets, check=False)
        error = done.stderr.removeprefix("config: ").replace(str(path), "FILE").strip()
        return done.returncode, done.stdout, error

    return call


def effective(config, *sets, recipe=SMALLEST):
    code, out, error = config(recipe, *sets)
    assert code == 0, error
    return dict(flat(json.loads(out)))


def documented():
    """key -> default (JSON text, or "required") as the page says."""
    return dict(re.findall(r"^\| `([a-z0-9_.]+)` \| `?(.+?)`? \| ", README.split("| key |")[1], re.MULTILINE))


def test_page_help_and_program_name_the_same_keys_and_defaults(config):
    keys = effective(config)
    page = documented()
    assert set(page) == set(keys)
    help_text = run(program("tests/config"), "--help").stdout
    listed = dict(re.findall(r"^  (\S+) +\S.*\n +(?:default )?(.+)$", help_text, re.MULTILINE))
    assert set(listed) == set(keys)
    for key, text in page.items():
        assert listed[key] == text, key
        if text != "required":
            assert keys[key] == json.loads(text), key


def test_page_and_help_name_the_same_schedules():
    listed = re.search(r"^  optim\.schedule .*\((.+)\)$", run(program("tests/config"), "--help").stdout, re.MULTILINE).group(1).split(", ")
    row = re.search(r"^\| `optim\.schedule` \| .+? \| (.+?) \|", README, re.MULTILINE).group(1)
    assert listed == re.findall(r"`(.+?)`", row)


def test_required_keys_are_those_that_the_page_names(config):
    required = [key for key, text in documented().items() if text == "required"]
    assert required == ["model", "data.images", "token.initializer", "output.dir"]
    for key in required:
        group, _, name = key.rpartition(".")
        lacking = json.loads(json.dumps(SMALLEST))
        del (lacking[group] if group else lacking)[name]
        code, _, error = config(lacking)
        assert code == 2 and error.startswith(f"FILE: {key}: is missing, expected ")
        code, _, error = config(SMALLEST, f"{key}=null")
        assert code == 2 and error.startswith(f"--set: {key}: is missing, expected ")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda p: p.name)
def test_shipped_recipes_are_read_as_written(path):
    done = run(program("tests/config"), path)
    read, written = dict(flat(json.loads(done.stdout))), dict(flat(json.loads(path.read_text())))
    written["data.images"] = [written["data.images"]]
    assert {key: read[key] for key in written} == written
    assert f"`{path.name}`" in README


@pytest.mark.parametrize("set_, key, value", [
    ("zo.n=4", "zo.n", 4),
    ("zo.eps=1e-2", "zo.eps", 0.01),
    ("optim.steps=1e3", "optim.steps", 1000),
    ("data.flip=false", "data.flip", False),
    ("data.fit=squash", "data.fit", "squash"),
    ('data.fit="squash"', "data.fit", "squash"),
    ("data.property=style", "data.property", "style"),
    ("optim.schedule=cosine", "optim.schedule", "cosine"),
    ("zo.timesteps=[0, 1000]", "zo.timesteps", [0, 1000]),
    ("data.images=a folder/of=mine", "data.images", ["a folder/of=mine"]),
    ('data.images=["a.png", "b.jpg"]', "data.images", ["a.png", "b.jpg"]),
    ("token.placeholder=123", "token.placeholder", "123"),
    ("token.initializer=true", "token.initializer", "true"),
    ("token.placeholder=wörtchen", "token.placeholder", "wörtchen"),
    ("output.prompts=[]", "output.prompts", []),
    ("seed=9007199254740991", "seed", 9007199254740991),
    ('zo={"n": 7}', "zo.n", 7),
    ("output.prompts=null", "output.prompts",
     ["a photo of a {}", "a photo of a {} on the beach", "a photo of a {} in the snow", "a painting of a {}"]),
])
def test_set_takes_json_or_plain_text(config, set_, key, value):
    default = effective(config)
    changed = effective(config, set_)
    assert changed[key] == value
    assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in default.items() if k != key}


def test_later_sets_win_over_earlier_ones_and_over_the_file(config):
    recipe = {**SMALLEST, "zo": {"n": 3, "tau": 9}}
    assert effective(config, recipe=recipe)["zo.n"] == 3
    keys = effective(config, "zo.n=4", "zo.n=5", recipe=recipe)
    assert (keys["zo.n"], keys["zo.tau"]) == (5, 9)


def test_a_dotted_name_in_the_file_is_the_nested_key(config):
    assert effective(config, recipe={**SMALLEST, "zo.n": 6})["zo.n"] == 6


def test_effective_config_reads_back_to_itself(config):
    code, out, _ = config(SMALLEST, "zo.eps=0.1234567890123456", 'token.placeholder="\\u00e9\\"<"', "seed=77")
    assert code == 0
    assert config(out)[1] == out


WRONG_SETS = [
    # what the user sets, what the line says
    ("zo.nn=4", "--set: zo.nn: unknown key; did you mean zo.n?"),
    ("lr=4", "--set: lr: unknown key; did you mean optim.lr?"),
    ("optim.tau=4", "--set: optim.tau: unknown key; did you mean zo.tau?"),
    ("use_ccc=true", "--set: use_ccc: unknown key; did you mean use_cc?"),
    ("zo=3", "--set: zo: expected an object"),
    ("foo", "expected KEY=VALUE"),
    ("=3", "expected KEY=VALUE"),
    ("zo.n=0", "--set: zo.n: is 0, expected a whole number from 1 to 1024"),
    ("zo.n=2.5", "zo.n: is 2.5, expected a whole number"),
    ("zo.n=two", 'zo.n: is "two", expected a whole number'),
    ("zo.n=", 'zo.n: is "", expected a whole number'),
    ("zo.n=[2]", "zo.n: is a list of 1, expected a whole number"),
    ("seed={}", "seed: is an object, expected a whole number"),
    ("seed=-1", "seed: is -1, expected a whole number from 0"),
    ("seed=1e300", "seed: is 1e+300"),
    ("zo.eps=nan", "zo.eps: is \"nan\", expected a number from 1e-09 to 10"),
    ("zo.eps=1e999", "zo.eps: is inf, expected a number"),
    ("zo.eps=0", "zo.eps: is 0, expected a number"),
    ("zo.sides=3", "zo.sides: is 3, expected a whole number from 1 to 2"),
    ("zo.tau=1", "zo.tau: is 1, expected 0"),
    ("zo.nu=1.5", "zo.nu: is 1.5, expected a number"),
    ("zo.timesteps=[900, 500]", "zo.timesteps: [900, 500] is empty, expected a half-open range"),
    ("zo.timesteps=[500, 500]", "zo.timesteps: [500, 500] is empty, expected a half-open range"),
    ("zo.timesteps=[500]", "zo.timesteps: is a list of 1, expected a list of two whole numbers"),
    ("zo.timesteps=500", "zo.timesteps: is 500, expected a list of two whole numbers"),
    ("zo.timesteps=[1.5, 2]", "zo.timesteps: is 1.5, expected a list of two whole numbers"),
    ("optim.steps=0", "optim.steps: is 0, expected a whole number from 1"),
    ("optim.beta1=1", "optim.beta1: is 1, expected a number"),
    ("optim.schedule=cosin", '"cosine"'),
    ("quant.bits=7", "quant.bits: is 7, expected 4, 8, 16 or 32"),
    ("quant.tangents=12", 'quant.tangents: is 12, expected 8, 16, 32 or "auto"'),
    ("data.flip=1", "data.flip: is 1, expected true or false"),
    ("data.fit=zoom", 'data.fit: is "zoom", expected "crop" or "squash"'),
    ("data.images=[]", "data.images: is a list of 0, expected a text, or a list of 1 to"),
    ('data.images=["a", ""]', 'data.images: is "", expected a text'),
    ("data.images={}", "data.images: is an object"),
    ("device=tpu", 'device: is "tpu", expected "auto", "cpu" or "cuda"'),
    ("token.placeholder=", 'token.placeholder: is "", expected a text'),
    ("token.placeholder=a b", 'token.placeholder: "a b" contains white space'),
    ("token.placeholder=a\u00a0b", "contains white space"),
    ("model=" + "x" * 5000, "model: is \"xxx"),
    ('zo={"n": 1, "n": 2}', "zo.n: is given twice"),
]


@pytest.mark.parametrize("set_, line", WRONG_SETS, ids=[s[:24] for s, _ in WRONG_SETS])
def test_wrong_value_gets_one_line_and_exit_2(config, set_, line):
    code, out, error = config(SMALLEST, set_)
    assert code == 2 and out == ""
    assert line in error and "\n" not in error


@pytest.mark.parametrize("typed, meant", [
    ("zo.sdies", "zo.sides"), ("output.checkpointkeep", "output.checkpoint_keep"), ("tokn.vectors", "token.vectors"),  # slips
    ("lr", "optim.lr"), ("n", "zo.n"), ("batch_size", "optim.batch_size"), ("zo.lr", "optim.lr"), ("optim.eps_", "optim.eps"),
    ("optim.learning_rate", "optim.lr"), ("learning_rate", "optim.lr"), ("max_train_steps", "optim.steps"), ("steps", "optim.steps"),
    ("train_batch_size", "optim.batch_size"), ("placeholder_token", "token.placeholder"), ("token_string", "token.placeholder"),
    ("initializer_token", "token.initializer"), ("init_word", "token.initializer"), ("num_vectors", "token.vectors"),
    ("num_vectors_per_token", "token.vectors"), ("resolution", "data.resolution"), ("train_data_dir", "data.images"),
    ("output_dir", "output.dir"), ("lr_scheduler", "optim.schedule"), ("lr_warmup_steps", "optim.warmup"),
    ("pretrained_model_name_or_path", "model"), ("save_steps", "output.save_every"), ("learnable_property", "data.property"),
])
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(config, typed, meant):
    code, _, error = config(SMALLEST, f"{typed}=1")
    assert (code, error) == (2, f"--set: {typed}: unknown key; did you mean {meant}?")


@pytest.mark.parametrize("typed", ["zzz", "xyz.abc", "zo.colour", "x", "q" * 100])
def test_a_key_that_is_like_no_other_is_answered_without_a_guess(config, typed):
    code, _, error = config(SMALLEST, f"{typed}=1")
    assert code == 2 and error == f"--set: {typed[:80]}: unknown key; zoodip train --help lists them all"


def test_an_unknown_group_is_answered_with_the_one_that_was_meant(config):
    for typed, meant in [("optimizer", "optim"), ("tokne", "token"), ("outputs", "output")]:
        _, _, error = config({**SMALLEST, typed: {"lr": 1}})
        assert error == f"FILE: {typed}: unknown key; did you mean {meant}?"


@pytest.mark.parametrize("text, line", [
    ("", "FILE: is empty, expected a JSON object"),
    (" \n\t", "FILE: is empty"),
    ("[1]", "FILE: expected a JSON object"),
    ('{\n  "model": "m",\n  "zo": {"n": NaN}\n}', "FILE: line 3, column 15: is not valid JSON"),
    ('{"model": "m"', "is not valid JSON"),
    ('{"model": "m"} x', "FILE: line 1, column 16: is not valid JSON"),
    ("[" * 100000, "is not valid JSON"),
    ('{"zo": ' * 100000, "is not valid JSON"),
    (b'{"model": "\xff"}', "FILE: line 1, column 12: is not UTF-8 text"),
    (b'{"model": "m"}\0{', "FILE: line 1, column 15: is a zero byte"),
    ('{\n"model": "m\\\\\\u0000"}', "FILE: line 2, column 14: is a zero byte"),
    ('{"zo": {"n": 1}, "zo": {"tau": 3}}', "FILE: zo: is given twice"),
    ('{"zo": {"n": 1}, "zo.n": 2}', "FILE: zo.n: is given twice"),
    ('{"seed": 1, "seed": 1}', "FILE: seed: is given twice"),
    ('{"zo": {"nu": 1, "zo": {}}}', "FILE: zo.zo: unknown key"),
    ('{"' + "k" * 3000 + '": 1}', "unknown key"),
    ('{"a\\u001b[2Jb": 1}', "a?[2Jb: unknown key"),
    (b" " * (16 << 20) + b"{}", "expected at most 16777216"),
], ids=range(18))
def test_wrong_file_gets_one_line_with_the_place(config, text, line):
    code, _, error = config(text)
    assert code == 2
    assert line in error and "\n" not in error


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        done = run(program("tests/config"), path, check=False)
        assert done.returncode == 2 and str(path) in done.stderr


def test_recipe_changes_with_what_changes_the_training_and_with_nothing_else(config):
    def recipe(*sets):
        code, out, error = config(SMALLEST, *sets, flag="--recipe")
        assert code == 0, error
        assert "\n" not in out
        return out

    same = recipe()
    for set_ in ["output.dir=elsewhere", "output.save_every=1", "output.checkpoint_keep=9", "device=cpu", "optim.steps=9",
                 "output.prompts=[]", "model=other", "data.images=elsewhere", "data.captions=elsewhere.json"]:
        assert recipe(set_) == same, set_  # what paths lead to is compared by its contents
    for set_ in ["seed=1", "zo.n=3", "zo.eps=0.0010000000000000002", "data.flip=false", "quant.bits=16",
                 "optim.schedule=linear", "zo.timesteps=[500, 901]", "token.placeholder=two\\nlines"]:
        assert recipe(set_) != same, set_
    assert recipe("optim.schedule=linear") != recipe("optim.schedule=linear", "optim.steps=9")
