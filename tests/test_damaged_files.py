"""No file, however damaged, crashes a reader: thousands of damaged files, each read under AddressSanitizer and
UndefinedBehaviorSanitizer, end in success or in one clear line."""

import io
import json
import os
import random
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from conftest import ROOT, TOYBOX, run

NEEDS = "peers"
SOURCES = ["base/*.c", "cluster/*.c", "files/*.c", "text/*.c", *(f"zo/{name}.c" for name in ("basis", "checkpoint", "ending", "looks", "state", "subspace"))]
LIBRARIES = ["-lcjson", "-lutf8proc", "-lpng", "-ljpeg", "-lwebpdemux", "-lwebp", "-lz", "-lcrypto", "-llapack", "-lpthread", "-lm"]


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """The program tests/helpers/damage.c with the readers it calls, built with sanitizers."""
    path = tmp_path_factory.mktemp("damage") / "damage"
    sources = [str(p) for pattern in SOURCES for p in sorted((ROOT / "src").glob(pattern))]
    run(os.environ.get("CC", "gcc"), "-std=gnu11", "-D_GNU_SOURCE", "-ffp-contract=off", "-g", "-O1",
        "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections",  # what the readers do not call needs more
        "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{ROOT / 'src'}",
        ROOT / "tests/helpers/damage.c", *sources, *LIBRARIES, "-o", path)
    return path


def read_all(driver, kind, paths, seconds=120):
    """Reads the paths; checks that the driver survives and prints just one clean result for each. Returns the results."""
    done = run(driver, kind, stdin="".join(f"{p}\n" for p in paths), check=False, timeout=seconds,
               env={"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1"})
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths), f"died on {paths[len(lines)]}\n{done.stderr[:4000]}"
    assert done.returncode == 0 and done.stderr == "", done.stderr[:4000]
    results = [(int(line.split("\t")[0]), line.split("\t", 1)[1]) for line in lines]
    for path, (code, text) in zip(paths, results):
        assert code in (0, 2), (path, code, text)
        assert code == 0 or str(path.parent) in text or str(path) in text, (path, text)
    return results


INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF]
NUMBERS = [b"-1", b"0", b"1", b"2147483648", b"4294967296", b"9007199254740993", b"18446744073709551616", b"1e999", b"-1e-999",
           b"0.5", b"null", b"[]", b"{}", b'"x"', b"true", b'"\\ud800"', b'"\\u0000"']


def truncations(data, rng):
    some = [rng.randrange(len(data) + 1) for _ in range(60)]
    return [data[:n] for n in sorted({*range(min(40, len(data))), *range(max(0, len(data) - 20), len(data)), *some})]


def flip_bits(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        out[place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def place(data, rng):
    """Half of all damage goes to the first bytes, where the lengths are."""
    return rng.randrange(min(len(data), 200) if rng.random() < 0.5 else len(data))


def lie(data, rng):
    """Replaces a number of 1, 2, 4 or 8 bytes."""
    size, order = rng.choice([1, 2, 4, 8]), rng.choice(["little", "big"])
    at = place(data, rng)
    value = rng.choice(INTERESTING) & (256**size - 1)
    return data[:at] + value.to_bytes(size, order) + data[at + size :]


def splice(data, rng):
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    at = place(data, rng)
    return rng.choice([data[:a] + data[b:], data[:at] + data[a:b] + data[at:], data[:b] + data[a:],
                       data[:at] + data[a:b] + data[at + b - a :], data[:a] + rng.randbytes(b - a) + data[b:]])


def change_number(data, rng):
    """In text: replaces a number, name or word."""
    spots = list(re.finditer(rb'-?\d+\.?\d*|"[^"]*"|true|false|null', data))
    if not spots:
        return splice(data, rng)
    spot = rng.choice(spots)
    return data[: spot.start()] + rng.choice(NUMBERS + [rng.choice(spots)[0]]) + data[spot.end() :]


def damaged(data, count, seed):
    rng = random.Random(seed)
    ways = [flip_bits, lie, splice, change_number]
    return truncations(data, rng) + [rng.choice(ways)(data, rng) for _ in range(count)]


def check(driver, kind, folder, sound, count, suffix="", repair=None):
    """Each intact file is read; each damaged one is handled cleanly, and many of them are noticed."""
    cases = []
    for seed, data in enumerate(sound):
        cases.append(data)
        spoiled = damaged(data, count, seed)
        cases += spoiled
        if repair:
            cases += [repair(case) for case in spoiled]
    paths = []
    for i, case in enumerate(cases):
        paths.append(folder / f"{i}{suffix}")
        paths[-1].write_bytes(case)
    results = read_all(driver, kind, paths)
    by_case = dict(zip(cases, results))
    assert all(by_case[data][0] == 0 for data in sound), [by_case[data] for data in sound]
    assert sum(code == 2 for code, _ in results) > len(results) // 10
    return results


def some_tensors():
    return {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16), "c": torch.tensor(1),
            "empty": torch.zeros(0, 3), "d.bias": torch.zeros(3, dtype=torch.int8)}


def header_lies():
    """Valid JSON with each value of one entry replaced in turn, and the data unchanged."""
    sound = save(some_tensors(), {"format": "pt"})
    length, = struct.unpack("<Q", sound[:8])
    data = sound[8 + length :]
    values = [-1, 0, 1, 2**31, 2**53, 2**63, 1e300, 0.5, None, [], {}, "", "F64", "F8_E4M3", [0, 2**53], [-8, 0], [4, 0],
              [2**32, 2**32], [1] * 9, [0, 1e999], ["1"], [[1]], True]
    for name in json.loads(sound[8 : 8 + length]):
        for key in ("dtype", "shape", "data_offsets", "format"):
            for value in values:
                header = json.loads(sound[8 : 8 + length])
                header[name][key] = value
                text = json.dumps(header).encode()
                yield struct.pack("<Q", len(text)) + text + data
    for numbers in (0, 1, 3, 1000, 40000, 2**28, 2**40, 2**50):  # shape and offsets that agree with each other, not with the file
        for begin in (0, 4, 40000, 2**40):
            entry = {"dtype": "F32", "shape": [numbers], "data_offsets": [begin, begin + 4 * numbers]}
            text = json.dumps({"w": entry}).encode()
            yield struct.pack("<Q", len(text)) + text + bytes(8)


def test_safetensors(driver, tmp_path):
    check(driver, "safetensors", tmp_path, [save(some_tensors(), {"format": "pt"}), save({"w": torch.zeros(1)})], 1200)


def test_safetensors_whose_header_lies(driver, tmp_path):
    paths = []
    for i, case in enumerate(header_lies()):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(case)
    results = read_all(driver, "safetensors", paths)
    assert sum(code == 2 for code, _ in results) > 0.6 * len(results)


def test_sharded_index(driver, tmp_path):
    tensors = some_tensors()
    (tmp_path / "x-1.safetensors").write_bytes(save({k: tensors[k] for k in ("a.weight", "b")}))
    (tmp_path / "x-2.safetensors").write_bytes(save({k: tensors[k] for k in ("c", "d.bias")}))
    index = {"metadata": {"total_size": 60}, "weight_map": {"a.weight": "x-1.safetensors", "b": "x-1.safetensors",
                                                           "c": "x-2.safetensors", "d.bias": "x-2.safetensors"}}
    check(driver, "safetensors", tmp_path, [json.dumps(index, indent=1).encode()], 1200, suffix=".json")


def pixels(channels):
    made = np.random.default_rng(channels).integers(0, 256, (11, 14, channels), dtype=np.uint8)
    return np.repeat(np.repeat(made if channels > 1 else made[:, :, 0], 2, 0), 2, 1)


def encode(image, kind, **options):
    exif = Image.Exif()
    exif[0x010F] = "camera"
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **options)
    return file.getvalue()


def repair_png(data):
    """Puts valid checksums on the chunks, so that the damage gets past them."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        length, = struct.unpack(">I", data[at : at + 4])
        if length > len(data) - at - 12:
            break
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return out + data[at:]


def test_png(driver, tmp_path):
    sound = [encode(Image.fromarray(pixels(3)), "PNG"), encode(Image.fromarray(pixels(4)), "PNG"),
             encode(Image.fromarray(pixels(3)).quantize(30), "PNG", transparency=3),
             encode(Image.fromarray(pixels(1).astype(np.uint16) * 257), "PNG"),
             encode(Image.fromarray(pixels(1)).convert("1"), "PNG")]
    check(driver, "picture", tmp_path, sound, 400, repair=repair_png)


def test_jpeg(driver, tmp_path):
    sound = [encode(Image.fromarray(pixels(3)), "JPEG"), encode(Image.fromarray(pixels(3)), "JPEG", progressive=True),
             encode(Image.fromarray(pixels(1)), "JPEG"), encode(Image.fromarray(pixels(4), mode="CMYK"), "JPEG")]
    check(driver, "picture", tmp_path, sound, 600)


def test_config(driver, tmp_path):
    recipe = {"model": "a model", "data": {"images": ["a.png", "b.png"], "resolution": 64, "fit": "crop", "flip": False},
              "token": {"placeholder": "sks", "initializer": "toy", "vectors": 2}, "seed": 7, "device": "cpu",
              "zo": {"n": 2, "eps": 1e-3, "tau": 16, "nu": 1e-3, "timesteps": [500, 900]},
              "optim": {"steps": 100, "lr": 0.03, "schedule": "cosine"}, "quant": {"bits": 8},
              "output": {"dir": "out", "checkpoint_every": 10, "prompts": ["a {} in the sea"]}}
    check(driver, "config", tmp_path, [json.dumps(recipe, indent=1).encode(), json.dumps({**recipe, "seed": 0}).encode()], 1000)


def test_model_settings(driver, tmp_path):
    text = b'{"layers": 3, "scale": 0.5, "bias": true, "act": "silu", "channels": [1, 2, 3], "blocks": ["a", "b"], "form": "plain"}'
    check(driver, "json", tmp_path, [text], 1500)
    path = tmp_path / "deep.json"
    path.write_bytes(b'{"a":' * 100000)
    assert read_all(driver, "json", [path])[0][0] == 2


def test_checkpoint(driver, tmp_path):
    assert read_all(driver, "make-checkpoint", [tmp_path]) == [(0, "")]
    sound = (tmp_path / "step-7.safetensors").read_bytes()
    results = check(driver, "checkpoint", tmp_path, [sound], 1500)
    assert sum(code == 0 for code, _ in results) < len(results) // 20  # the checksum notices nearly all damage


def small_tokenizer(folder):
    """vocab.json and merges.txt of a few words, like toybox's but quick to read."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    merges = ["a n", "an d</w>", "t h", "th e</w>", "r e", "re d</w>", "p h", "ph o", "o f</w>"]
    words = letters + [x + "</w>" for x in letters] + [m.replace(" ", "") for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(TOYBOX / "model/tokenizer" / name, folder / name)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(dict.fromkeys(words))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return folder


def all_in_one(folder):
    """The same as tokenizer.json alone, which is what transformers 5 saves."""
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained(small_tokenizer(folder / "parts")).save_pretrained(folder / "one")
    return folder / "one"


def check_tokenizer(driver, sound, names, folder, count):
    folders = [sound]
    for name in names:
        for i, case in enumerate(damaged((sound / name).read_bytes(), count, seed=1)):
            folders.append(folder / f"{name}-{i}")
            folders[-1].mkdir()
            for file in sound.iterdir():
                if file.name != name:
                    os.link(file, folders[-1] / file.name)
            (folders[-1] / name).write_bytes(case)
    results = read_all(driver, "tokenizer", folders)
    assert results[0] == (0, "")
    assert sum(code == 2 for code, _ in results) > len(results) // 10


def test_tokenizer_of_vocabulary_and_merges(driver, tmp_path):
    check_tokenizer(driver, small_tokenizer(tmp_path / "sound"), ["vocab.json", "merges.txt", "tokenizer_config.json"], tmp_path, 600)


def test_tokenizer_in_one_file(driver, tmp_path):
    check_tokenizer(driver, all_in_one(tmp_path), ["tokenizer.json"], tmp_path, 1500)
