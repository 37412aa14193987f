"""Safetensors: what Python's package writes is read here, and vice versa."""

import json
import struct

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import program, run

NEEDS = "peers"
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
          torch.uint8, torch.bool]


def rewrite(path, out, **options):
    return run(program("tests/safetensors"), path, out, **options)


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {f"{str(t)[6:]}.weight": torch.randint(0, 2, (3, 5, 2), generator=generator).to(t) for t in DTYPES}
    made["scalar"] = torch.tensor(2.5)
    made["nothing"] = torch.zeros(0, 4)
    made["ein Gerät „neu“ \\ \" \u2028"] = torch.randn(7, generator=generator)
    return made


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def test_python_reads_what_is_written_from_what_python_wrote(tmp_path):
    save_file(tensors(), tmp_path / "in.safetensors", metadata={"format": "pt", "note": "two\nlines"})
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert_same(load_file(tmp_path / "out.safetensors"), tensors())
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "two\nlines"}


def test_written_data_starts_at_a_cache_line(tmp_path):
    save_file(tensors(), tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    length, = struct.unpack("<Q", (tmp_path / "out.safetensors").read_bytes()[:8])
    assert (8 + length) % 64 == 0


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors") == {}


def test_shards_are_one_file_to_the_reader(tmp_path):
    names = sorted(tensors())
    shards = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({n: tensors()[n] for n in held}, tmp_path / shard)
    index = tmp_path / "a.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1},
                                 "weight_map": {n: shard for shard, held in shards.items() for n in held}}))
    rewrite(index, tmp_path / "out.safetensors")
    assert_same(load_file(tmp_path / "out.safetensors"), tensors())


def test_half_numbers_keep_their_bits(tmp_path):
    every = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16))
    save_file({"h": every.view(torch.float16), "b": every.clone().view(torch.bfloat16)}, tmp_path / "in.safetensors")
    rewrite(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    back = load_file(tmp_path / "out.safetensors")
    assert torch.equal(back["h"].view(torch.int16), every) and torch.equal(back["b"].view(torch.int16), every)
