"""Checkpoints: the whole state comes back bit for bit, or the file is refused."""

import json
import os
import re

import pytest

from conftest import change_checkpoint, program, run

QUICK = True
RECIPE = '{"seed":1,"zo.n":2,"model":"toybox"}'
STEPS = [3, 7, 16, 52]  # history empty or part full; no noise rows or some


def checkpoint(*arguments, **environment):
    return run(program("tests/checkpoint"), *arguments, check=False, env=environment)


def write(folder, *steps, keep=0, recipe=RECIPE, **environment):
    done = checkpoint("write", folder, recipe, keep, *steps, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def names(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("step", STEPS)
def test_what_was_written_comes_back(folder, step):
    written = write(folder, step)
    assert checkpoint("resume", folder, RECIPE).stdout.splitlines() == written
    assert checkpoint("read", RECIPE, folder / f"step-{step}.safetensors").stdout.splitlines() == written


def test_it_is_a_safetensors_file_that_says_what_it_is(folder):
    safetensors = pytest.importorskip("safetensors")
    write(folder, 52)
    with safetensors.safe_open(folder / "step-52.safetensors", "np") as file:
        shapes = {name: file.get_tensor(name).shape for name in file.keys()}
        facts = file.metadata()
    assert shapes == {"embedding": (1, 24), "m": (1, 24), "v": (1, 24), "history": (3, 24), "noise": (0, 24)}
    assert re.fullmatch("[0-9a-f]{8}", facts.pop("crc32"))
    assert facts == {"format": "zoodip checkpoint 2", "step": "52", "updates": "52", "recipe": RECIPE, "model": "m", "pictures": "3, p",
                     "order": "o", "captions": "c", "device": "d"}


@pytest.mark.parametrize("step, updates", [("-2", "-2"), ("x2", "x2"), ("02", "02"), ("53", "52")])
def test_a_step_that_is_no_number_is_refused(folder, step, updates):
    """Its CRC-32 is right."""
    write(folder, 52)
    change_checkpoint(folder / "step-52.safetensors", lambda facts: facts.update(step=step, updates=updates))
    done = checkpoint("resume", folder, RECIPE)
    assert done.stdout == "none\n" and f"its step is {step} and its updates are {updates}" in done.stderr


def test_no_folder_and_an_empty_one_are_no_checkpoint(folder):
    assert checkpoint("resume", folder, RECIPE).stdout == "none\n"
    folder.mkdir()
    (folder / "step-9.safetensors.tmp").write_text("half written")
    (folder / "step-x.safetensors").write_text("")
    assert checkpoint("resume", folder, RECIPE).stdout == "none\n"


def test_the_newest_by_number_wins(folder):
    written = write(folder, 9, 10, 100)
    assert checkpoint("resume", folder, RECIPE).stdout.splitlines() == written[-1:]


def test_keep_leaves_the_newest(folder):
    write(folder, 8, 9, 10, 11, keep=2)
    assert names(folder) == ["step-10.safetensors", "step-11.safetensors"]


def test_an_abandoned_runs_later_checkpoints_go(folder):
    write(folder, 100, 200)
    written = write(folder, 5)
    assert names(folder) == ["step-5.safetensors"]
    assert checkpoint("resume", folder, RECIPE).stdout.splitlines() == written


def read_damaged(tmp_path, versions):
    """Each version read; returns a line for each."""
    paths = []
    for i, data in enumerate(versions):
        paths.append(tmp_path / f"damaged-{i}.safetensors")
        paths[-1].write_bytes(data)
    lines = []
    for i in range(0, len(paths), 500):
        lines += checkpoint("read", RECIPE, *paths[i:i + 500]).stdout.splitlines()
    assert len(lines) == len(versions), "the reader died"
    return lines


def test_a_short_file_is_refused(folder, tmp_path):
    write(folder, 16)
    data = (folder / "step-16.safetensors").read_bytes()
    lengths = [*range(0, len(data), 64), len(data) - 1, len(data) - 4]
    for line in read_damaged(tmp_path, [data[:n] for n in lengths] + [data + b"\0"]):
        assert line.startswith("refused 2, unchanged: ") and "damaged-" in line


def test_a_flipped_bit_is_refused_or_changes_nothing(folder, tmp_path):
    written, = write(folder, 16)
    data = (folder / "step-16.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    # every bit of the header, and one of every byte of the numbers
    flips = [(at, 1 << bit) for at in range(start) for bit in range(8)] + [(at, 1 << at % 8) for at in range(start, len(data))]
    versions = [data[:at] + bytes([data[at] ^ bit]) + data[at + 1:] for at, bit in flips]
    for (at, _), line in zip(flips, read_damaged(tmp_path, versions)):
        assert line.startswith("refused 2, unchanged: ") or (line == written and at < start), (at, line)


def test_resume_skips_what_is_damaged_and_says_so(folder):
    written = write(folder, 3, 16, 52)
    newest, middle = folder / "step-52.safetensors", folder / "step-16.safetensors"
    newest.write_bytes(newest.read_bytes()[:-8])
    damaged = bytearray(middle.read_bytes())
    damaged[-100] ^= 4
    middle.write_bytes(damaged)
    done = checkpoint("resume", folder, RECIPE)
    assert done.stdout.splitlines() == written[:1]
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["warning", "warning"]
    assert "step-52" in done.stderr and "step-16" in done.stderr and "CRC-32" in done.stderr


def test_another_recipe_is_an_error_that_names_the_key(folder):
    write(folder, 3)
    write(folder, 16, recipe=RECIPE.replace('"zo.n":2', '"zo.n":5'))
    done = checkpoint("resume", folder, RECIPE)
    assert done.returncode == 2 and "step-16" in done.stderr and "zo.n is 5 there and 2 here" in done.stderr


@pytest.mark.parametrize("theirs, ours, said", [
    ({"zo": {"n": 2, "eps": 0.001}}, {"zo": {"n": 2, "eps": 0.01}}, "zo.eps is 0.001 there and 0.01 here"),
    ({"data": {"images": ["a" * 200]}}, {"data": {"images": ["a" * 199 + "b"]}}, "data.images is "),
    ({"seed": 1}, {}, "seed is 1 there and not given here"),
    ({}, {"seed": 1}, "another recipe: seed is not given there and 1 here; expected"),
    ("no JSON", {"seed": 1}, "made with another recipe; expected")])
def test_the_first_key_that_differs_is_named_with_its_group(folder, theirs, ours, said):
    write(folder, 3, recipe=theirs if isinstance(theirs, str) else json.dumps(theirs))
    done = checkpoint("resume", folder, json.dumps(ours))
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("ours, said", [
    (dict(MODEL="n"), "another model (weights or settings)"),
    (dict(PICTURES="3, q", ORDER="q"), "other pictures, masks or data.background"),
    (dict(PICTURES="2, q", ORDER="q", CAPTIONS="q"), "other pictures (3 there and 2 here)"),
    (dict(ORDER="q", CAPTIONS="q"), "the same pictures in another order, which is that of their names or of data.images"),
    (dict(CAPTIONS="q"), "other captions"),
    (dict(CAPTIONS="q", MODEL="n"), "other captions, another model (weights or settings)")])
def test_other_contents_are_an_error_that_says_which(folder, ours, said):
    write(folder, 3)
    done = checkpoint("resume", folder, RECIPE, **ours)
    assert done.returncode == 2
    assert done.stderr == f"checkpoint: {folder}/step-3.safetensors: made with {said}; expected the same, another output.dir, or --overwrite\n"


def test_all_that_differs_is_said_in_one_line(folder):
    write(folder, 3)
    done = checkpoint("resume", folder, RECIPE.replace("2", "7"), PICTURES="5, q", MODEL="n")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "another recipe: zo.n is 2 there and 7 here, other pictures (3 there and 5 here), another model" in done.stderr


def test_another_device_is_said_and_not_refused(folder):
    written = write(folder, 3, DEVICE="cpu, avx2")
    done = checkpoint("resume", folder, RECIPE, DEVICE="NVIDIA H100")
    assert done.stdout.splitlines() == written
    assert done.stderr == (f"warning: {folder}/step-3.safetensors: made on cpu, avx2, and this is NVIDIA H100: bits will differ from those "
                           "of a run on one\n")
    assert checkpoint("resume", folder, RECIPE, DEVICE="cpu, avx2").stderr == ""


@pytest.mark.parametrize("number, word", [(1, "an earlier format, 1"), (3, "a later format, 3"), (12, "a later format, 12")])
def test_another_format_is_refused_by_that_word(folder, number, word):
    """Whatever else it holds: the file of another format need not have this one's metadata."""
    write(folder, 3, 16)
    path = folder / "step-16.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header["__metadata__"] = {"format": f"zoodip checkpoint {number}", "step": "16"}
    header = json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size:])
    done = checkpoint("resume", folder, RECIPE)
    assert done.returncode == 2 and f"step-16.safetensors: a checkpoint of {word}; this zoodip continues from format 2" in done.stderr


def test_another_shape_is_an_error(folder):
    write(folder, 16)
    done = checkpoint("resume", folder, RECIPE, DIM="25")
    assert done.returncode == 2 and "shape" in done.stderr


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = checkpoint("write", tmp_path / "file" / "checkpoints", RECIPE, 0, 3)
    assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1 and "file" in done.stderr
