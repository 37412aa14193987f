"""Safetensors: mistakes in a file are named. tests/test_safetensors_package.py compares reading and writing with Python's
package."""

import json
import struct

import pytest

from conftest import program, run

QUICK = True


def rewrite(path, out, **options):
    return run(program("tests/safetensors"), path, out, **options)


def file_of(header, data=bytes(8), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(**changes):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return {"w": {k: v for k, v in entry.items() if v is not None}}


def sharded(folder):
    """Two shards of two tensors each; returns {tensor: its shard}."""
    shards = {"a-1.safetensors": ["scalar", "one"], "a-2.safetensors": ["two", "three"]}
    for shard, held in shards.items():
        entries = {name: {"dtype": "F32", "shape": [], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(held)}
        (folder / shard).write_bytes(file_of(entries))
    return {name: shard for shard, held in shards.items() for name in held}


def write_index(folder, weight_map):
    path = folder / "a.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def refused(path, *words):
    """The file is bad input, and one line says so, with the file's name and these words."""
    done = rewrite(path, path.parent / "out.safetensors", check=False)
    assert done.returncode == 2, done
    assert done.stderr.startswith(f"safetensors: {path}: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert not (path.parent / "out.safetensors").exists()


INDEX_MISTAKES = {
    "a tensor that is not in its shard": (lambda m: {**m, "ghost": "a-1.safetensors"}, "tensor ghost: is missing from"),
    "a tensor in the other shard": (lambda m: {**m, "scalar": "a-2.safetensors"}, "tensor scalar: is missing from"),
    "a shard above the folder": (lambda m: {**m, "scalar": "../a-1.safetensors"}, "tensor scalar: its shard is not the plain name"),
    "a shard by its full path": (lambda m: {**m, "scalar": "/etc/passwd"}, "tensor scalar: its shard is not the plain name"),
    "the folder above": (lambda m: {**m, "scalar": ".."}, "tensor scalar: its shard is not the plain name"),
    "a shard that is no text": (lambda m: {**m, "scalar": 3}, "tensor scalar: its shard is not the plain name"),
    "no tensors": (lambda m: {}, "weight_map: expected"),
    "a list": (lambda m: list(m), "weight_map: expected"),
}


@pytest.mark.parametrize("what", INDEX_MISTAKES)
def test_an_index_with(tmp_path, what):
    change, words = INDEX_MISTAKES[what]
    refused(write_index(tmp_path, change(sharded(tmp_path))), words)


def test_a_missing_shard_is_named(tmp_path):
    index = write_index(tmp_path, {**sharded(tmp_path), "scalar": "a-3.safetensors"})
    done = rewrite(index, tmp_path / "out.safetensors", check=False)
    assert done.returncode == 2 and f"{tmp_path}/a-3.safetensors: cannot open" in done.stderr


TWO = {"v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}

MISTAKES = {
    "nothing": (b"", "is empty"),
    "seven bytes": (b"1234567", "too few"),
    "a header longer than the file": (file_of(one(), length=500), "cut short"),
    "a header of 2^64 - 1 bytes": (file_of(one(), length=2**64 - 1), "is not a safetensors file"),
    "a header of 101 MB": (file_of(one(), length=101 << 20), "is not a safetensors file"),
    "no JSON": (file_of(b"{'w': 1}"), "not valid JSON"),
    "half a JSON": (file_of(json.dumps(one()).encode()[:-3]), "not valid JSON"),
    "something after the JSON": (file_of(json.dumps(one()).encode() + b" {}"), "the header: line 1, column 63: is not valid JSON"),
    "a list": (file_of(b"[]"), "the header: expected a JSON object"),
    "JSON nested too deeply": (file_of(b"[" * 100000), "not valid JSON"),
    "a zero byte in a name": (file_of(b'{"w\\u0000x": 1}'), "the header: line 1, column 4: is a zero byte"),
    "a zero byte after the JSON": (file_of(json.dumps(one()).encode() + b"\0{}"), "the header: line 1, column 62: is a zero byte"),
    "a name that is no UTF-8": (file_of(b'{"\xff": 1}'), "the header: line 1, column 3: is not UTF-8"),
    "a pickle of old": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "is pickled"),
    "a pickle": (b"PK\3\4\0\0\x08\x08\0\0archive/data.pkl", "is pickled, as PyTorch's .bin, .ckpt and .pt are, which are not read"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n",
                          "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    "a name with an escape sequence": (file_of({"\x1b[2J": one()["w"]}), "control characters"),
    "the same tensor twice": (file_of(b'{"v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
                                      b' "v": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}'), "tensor v: is given twice"),
    "a key twice": (file_of(b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
                    "tensor w: dtype is given twice"),
    "an entry that is no object": (file_of({"w": 3}), "tensor w: expected an object"),
    "no dtype": (file_of(one(dtype=None)), "tensor w: dtype is missing"),
    "an unknown dtype": (file_of(one(dtype="F8_E4M3")), "tensor w: dtype F8_E4M3 is not supported, expected one of F64"),
    "no shape": (file_of(one(shape=None)), "tensor w: shape is missing"),
    "a shape that is no list": (file_of(one(shape=2)), "tensor w: shape is missing or not a list"),
    "a negative size": (file_of(one(shape=[-2])), "tensor w: shape holds something that is not a size"),
    "half a size": (file_of(one(shape=[1.5])), "tensor w: shape holds something that is not a size"),
    "nine dimensions": (file_of(one(shape=[1] * 8 + [2])), "tensor w: shape has more than 8"),
    "a product that overflows": (file_of(one(shape=[2**32, 2**32, 2])), "tensor w: shape is too large"),
    "a byte count that overflows": (file_of(one(shape=[2**31, 2**31])), "tensor w: has 8 bytes of data, expected"),
    "no offsets": (file_of(one(data_offsets=None)), "tensor w: data_offsets is missing"),
    "three offsets": (file_of(one(data_offsets=[0, 4, 8])), "tensor w: data_offsets is missing or not a pair"),
    "offsets in the wrong order": (file_of(one(data_offsets=[8, 0])), "tensor w: data_offsets"),
    "a negative offset": (file_of(one(data_offsets=[-8, 0])), "tensor w: data_offsets"),
    "offsets outside the file": (file_of(one(data_offsets=[8, 16])), "tensor w: ends at byte 16 of 8 bytes"),
    "too few bytes": (file_of(one(shape=[3])), "tensor w: has 8 bytes of data, expected 3 numbers of dtype F32"),
    "a cut end": (file_of(one(), bytes(7)), "tensor w: ends at byte 8 of 7 bytes of data: is the file cut short?"),
    "bytes after the last tensor": (file_of(one(), bytes(9)), "has 9 bytes of data, its tensors 8"),
    "overlapping tensors": (file_of({**TWO, "u": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}), "overlaps"),
    "the same data twice": (file_of({**TWO, "u": TWO["w"]}), "overlaps"),
    "a hole": (file_of({"w": TWO["w"]}), "tensor w: the data before it belongs to no tensor"),
    "metadata that is no object": (file_of({"__metadata__": [], **one()}), "__metadata__ is not an object"),
    "metadata that is no text": (file_of({"__metadata__": {"step": 3}, **one()}), "__metadata__: step: expected a string"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_file_with(tmp_path, what):
    content, words = MISTAKES[what]
    path = tmp_path / "in.safetensors"
    path.write_bytes(content)
    refused(path, words)


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "missing.safetensors", "cannot open: No such file")
    refused(tmp_path, "is a folder, expected a file")


def test_a_file_that_is_there_stays_when_the_write_fails(tmp_path):
    (tmp_path / "in.safetensors").write_bytes(file_of(one()))
    (tmp_path / "taken").mkdir()
    done = rewrite(tmp_path / "in.safetensors", tmp_path / "taken", check=False)
    assert done.returncode == 1 and "taken" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.safetensors", "taken"]
