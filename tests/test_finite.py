"""Not a number, or infinite, is never hidden: weights, words, checkpoints, losses and pictures that are not finite are refused
by name, and a run that meets one keeps what it had."""
import json
import re
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import TOYBOX, learned, mpirun, program, refused, run, write_recipe

MODEL = TOYBOX / "model"
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "I64": 8}
BITS = {"F32": {"nan": 0x7FC00001, "inf": 0xFF800000}, "F16": {"nan": 0x7C01, "inf": 0xFC00}, "BF16": {"nan": 0xFF81, "inf": 0x7F80}}


TINY = dict(optim__steps=8, output__prompts=[], output__checkpoint_every=2, output__save_every=2, zo__n=2, zo__tau=4)


def read_tensors(path):
    """{name: [dtype, shape, bytes]} of a safetensors file."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    at = 8 + length
    return {n: [t["dtype"], t["shape"], data[at + t["data_offsets"][0] : at + t["data_offsets"][1]]] for n, t in header.items()}


def write_tensors(path, tensors, blanks=0):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode() + b" " * blanks
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def spoil(path, name, what="nan", place=-1):
    """One number of a tensor, of the last place if no other is given, becomes nan or infinite."""
    tensors = read_tensors(path)
    dtype, _, content = tensors[name]
    size, data = SIZES[dtype], bytearray(content)
    at = place % (len(data) // size) * size
    data[at : at + size] = BITS[dtype][what].to_bytes(size, "little")
    tensors[name][2] = bytes(data)
    write_tensors(path, tensors)


def copy_model(folder, source=MODEL):
    return shutil.copytree(source, folder / "model")


def name_like(path, end):
    return next(name for name in read_tensors(path) if name.endswith(end))


# ---------------------------------------------------------------------------- the pass over the weights


def contents(model, threads=1):
    return run(program("tests/contents"), model, threads).stdout.strip()


def test_contents_are_the_crc_of_the_tensors_and_of_nothing_else(tmp_path):
    crc = 0
    for part in (TEXT, UNET, VAE):
        crc = zlib.crc32(part.split("/")[0].encode() + b"\0", crc)
        for name, (dtype, shape, content) in sorted(read_tensors(MODEL / part).items()):
            crc = zlib.crc32(f"{name}\0{dtype}\0".encode() + struct.pack(f"<{len(shape)}q", *shape) + content, crc)
    assert contents(MODEL) == contents(MODEL, 3) == f"{crc:08x}"
    # another path, another order of the tensors, blanks after the header, two shards under another variant's name
    model = copy_model(tmp_path)
    write_tensors(model / VAE, dict(reversed(read_tensors(MODEL / VAE).items())), blanks=32)
    tensors = list(read_tensors(MODEL / UNET).items())
    shards = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.fp16.safetensors": dict(tensors[i::2]) for i in range(2)}
    for shard, held in shards.items():
        write_tensors(model / "unet" / shard, held)
    (model / UNET).unlink()
    (model / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    assert contents(model) == f"{crc:08x}"
    # one bit, a name, a shape
    changed = read_tensors(MODEL / TEXT)
    name = list(changed)[3]
    dtype, shape, content = changed[name]
    for other in ({name: [dtype, shape, bytes([content[0] ^ 1]) + content[1:]]}, {name: [dtype, [1, *shape], content]}):
        write_tensors(model / TEXT, {**changed, **other})
        assert contents(model) != f"{crc:08x}"


def test_pieces_of_a_large_tensor_count_in_their_order(tmp_path):
    """Pieces have 4 MiB: one just short of, of, and beyond several."""
    for part in (TEXT, UNET, VAE):
        (tmp_path / part).parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    tensors = {str(count): ["F32", [count], rng.standard_normal(count, np.float32).tobytes()] for count in ((1 << 20) - 1, 1 << 20, (5 << 20) + 3)}
    crc = 0
    for part in (TEXT, UNET, VAE):
        held = tensors if part == UNET else {}
        write_tensors(tmp_path / part, held)
        crc = zlib.crc32(part.split("/")[0].encode() + b"\0", crc)
        for name, (dtype, shape, content) in sorted(held.items()):
            crc = zlib.crc32(f"{name}\0{dtype}\0".encode() + struct.pack("<q", *shape) + content, crc)
    assert contents(tmp_path) == contents(tmp_path, 4) == f"{crc:08x}"
    for place in (0, (1 << 20) - 1, 1 << 20, (5 << 20) + 2):
        write_tensors(tmp_path / UNET, tensors)
        spoil(tmp_path / UNET, str((5 << 20) + 3), "inf", place)
        done = run(program("tests/contents"), tmp_path, 4, check=False)
        assert done.returncode == 2 and f"tensor {(5 << 20) + 3}: holds a value that is not a number" in done.stderr


# ---------------------------------------------------------------------------- weights are refused by name


WEIGHTS = [(UNET, "conv_out.weight"), (UNET, "conv_out.bias"), (UNET, "mid_block.resnets.0.norm1.weight"), (VAE, "encoder.conv_in.weight"),
           (VAE, "decoder.conv_out.weight"), (TEXT, "token_embedding.weight"), (TEXT, "fc1.weight"), (TEXT, "final_layer_norm.bias")]


@pytest.mark.parametrize("part, end", WEIGHTS)
def test_a_weight_is_refused_before_any_work(tmp_path, part, end):
    model = copy_model(tmp_path)
    name = name_like(model / part, end)
    spoil(model / part, name, "inf" if "bias" in end else "nan")
    said = [f"{model / part}: tensor {name}: holds a value that is not a number"]
    config, output = write_recipe(tmp_path, model=str(model), optim__steps=2)
    for bits in (4, 8, 16, 32):
        refused(run(program("zoodip"), "train", config, "--set", f"quant.bits={bits}", check=False), *said)
        if part != UNET:
            break
    assert not output.exists()
    refused(run(program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--steps", 2, "--output", tmp_path / "x.png", check=False), *said)
    refused(run(program("zoodip"), "quantize", "--model", model, "--output", tmp_path / "q", check=False), *said)
    assert not (tmp_path / "q").exists() and not (tmp_path / "x.png").exists()
    if end == "conv_out.weight":
        config.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [{"name": "a"}]}))
        refused(run(program("zoodip"), "run", config, check=False), *said)
        config.write_text(json.dumps(json.loads(config.read_text())["defaults"]))
        refused(run(program("zoodip"), "bench", config, check=False), *said)


@pytest.mark.parametrize("bits, ends", [(8, ["_scale"]), (4, ["_scale", "_shift"])])
def test_a_scale_or_shift_of_a_quantized_layer_is_refused(tmp_path, bits, ends):
    run(program("zoodip"), "quantize", "--model", MODEL, "--output", tmp_path / "model", "--bits", bits)
    for end in ends:
        whole = (tmp_path / "model" / UNET).read_bytes()
        name = name_like(tmp_path / "model" / UNET, f"attn1.to_q.weight.{end}")
        spoil(tmp_path / "model" / UNET, name)
        config, output = write_recipe(tmp_path, model=str(tmp_path / "model"), optim__steps=2)
        refused(run(program("zoodip"), "train", config, check=False), f"tensor {name}: holds a value that is not a number")
        assert not output.exists()
        (tmp_path / "model" / UNET).write_bytes(whole)


def test_the_types_that_weights_have(tmp_path):
    """The least number that is not finite, and the largest that is, in both signs, at every place of a word of 8 bytes."""
    edges = {"F32": (0x7F7FFFFF, 0x7F800000), "F16": (0x7BFF, 0x7C00), "BF16": (0x7F7F, 0x7F80)}
    for part in (TEXT, VAE):
        (tmp_path / part).parent.mkdir()
        write_tensors(tmp_path / part, {})
    (tmp_path / UNET).parent.mkdir()
    for dtype, (most, least) in edges.items():
        size = SIZES[dtype]
        for sign in (0, 1 << (8 * size - 1)):
            finite = (most | sign).to_bytes(size, "little") * 11
            write_tensors(tmp_path / UNET, {"a": [dtype, [11], finite]})
            contents(tmp_path)
            for place in (0, 1, 2, 3, 10):
                data = finite[: place * size] + (least | sign).to_bytes(size, "little") + finite[(place + 1) * size :]
                write_tensors(tmp_path / UNET, {"a": [dtype, [11], data], "b": ["I64", [1], b"\xff" * 8]})
                done = run(program("tests/contents"), tmp_path, 1, check=False)
                assert done.returncode == 2 and "tensor a: " in done.stderr, (dtype, sign, place)


# ---------------------------------------------------------------------------- words, checkpoints, latents


def write_word(path, value, dtype="F32"):
    numbers = np.full(96, 0.01, np.float32 if dtype == "F32" else np.float64)
    numbers[95] = value
    write_tensors(path, {"sks": [dtype, [1, 96], numbers.tobytes()]})


@pytest.mark.parametrize("value, dtype", [(np.nan, "F32"), (-np.inf, "F32"), (np.nan, "F64"), (1e300, "F64")])
def test_a_word_is_refused(tmp_path, value, dtype):
    write_word(tmp_path / "word.safetensors", value, dtype)
    done = run(program("zoodip"), "generate", "--model", MODEL, "--prompt", "a sks", "--embedding", tmp_path / "word.safetensors", "--steps", 2,
               "--output", tmp_path / "x.png", check=False)
    refused(done, f"{tmp_path}/word.safetensors: tensor sks: holds a value that is not a number")
    assert not (tmp_path / "x.png").exists()


def test_starting_latents_are_refused(tmp_path):
    numbers = np.zeros((1, 4, 8, 8), np.float32)
    numbers[0, 3, 7, 7] = np.inf
    write_tensors(tmp_path / "l.safetensors", {"latents": ["F32", [1, 4, 8, 8], numbers.tobytes()]})
    done = run(program("zoodip"), "generate", "--model", MODEL, "--prompt", "a toy", "--latents", tmp_path / "l.safetensors", "--steps", 2,
               "--output", tmp_path / "x.png", check=False)
    refused(done, "tensor latents: holds a value that is not a number")


def test_four_bits_that_cannot_hold_a_range_are_refused(tmp_path):
    """Finite numbers of 16 bits whose difference is not: the scale would be infinite."""
    model = copy_model(tmp_path)
    tensors = read_tensors(model / UNET)
    name = name_like(model / UNET, "attn1.to_q.weight")
    dtype, shape, content = tensors[name]
    assert dtype == "F16"
    tensors[name][2] = struct.pack("<2e", 60000, -60000) + content[4:]
    write_tensors(model / UNET, tensors)
    done = run(program("zoodip"), "quantize", "--model", model, "--output", tmp_path / "q", "--bits", 4, "--quiet", check=False)
    refused(done, f"tensor {name}: its numbers are too far apart")
    run(program("zoodip"), "quantize", "--model", model, "--output", tmp_path / "q8", "--bits", 8)
    config, _ = write_recipe(tmp_path, model=str(model), **TINY)
    refused(run(program("zoodip"), "train", config, "--set", "quant.bits=4", "--quiet", check=False), f"tensor {name}: its numbers are too far apart")
    # as far from one another, but not in one group
    assert len(content) > 2 * 256
    tensors[name][2] = struct.pack("<e", 60000) + content[2:-2] + struct.pack("<e", -60000)
    write_tensors(model / UNET, tensors)
    run(program("zoodip"), "train", config, "--set", "quant.bits=4", "--overwrite")


def test_a_weight_that_half_a_float_cannot_hold_is_refused(tmp_path):
    model = copy_model(tmp_path)
    tensors = read_tensors(model / UNET)
    _, shape, content = tensors["conv_in.weight"]
    numbers = np.frombuffer(content, np.float16).astype(np.float32)
    config, output = write_recipe(tmp_path, model=str(model), **TINY)
    for largest, fits in ((65519, True), (-65520, False)):
        numbers[-1] = largest
        write_tensors(model / UNET, {**tensors, "conv_in.weight": ["F32", shape, numbers.tobytes()]})
        for bits in (16, 8):
            arguments = ["--set", f"quant.bits={bits}", "--set", f"output.dir={tmp_path}/{bits}{fits}", "--quiet"]
            done = run(program("zoodip"), "train", config, *arguments, check=False)
            if fits or bits == 8:
                assert done.returncode == 0, done.stderr
            else:
                refused(done, f"{model / UNET}: tensor conv_in.weight: holds a value that is infinite in 16 bits")


# ---------------------------------------------------------------------------- training ends before it saves


def spoil_run(config, what, step, rank=0, value="nan", ranks=1, *more):
    return mpirun(ranks, program("tests/spoil"), config, what, step, rank, value, *more, check=False, timeout=60)


def files_of(output):
    return {p.relative_to(output): p.read_bytes() for p in output.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 8 steps to its end, and one to its fourth step."""
    ends = {}
    for steps in (4, 8):
        config, output = write_recipe(tmp_path_factory.mktemp("whole"), **{**TINY, "optim__steps": steps})
        run(program("tests/spoil"), config, "nothing", 0, 0, 0)
        ends[steps] = learned(output)
    return ends


@pytest.mark.parametrize("what, value, said", [
    ("loss", "nan", "the loss of picture {} is not a number"), ("loss", "inf", "the loss of picture {} is infinite"),
    ("loss", "1e39", "the loss of picture {} is infinite"), ("loss", "1e37", "the first moment holds"), ("embedding", "nan", "the embedding holds"), ("first", "-inf", "the first moment holds"),
    ("second", "inf", "the second moment holds"), ("validation", "nan", "the validation loss of picture {} is not a number")])
def test_a_run_ends_before_it_saves_and_resumes_to_the_same_bits(tmp_path, whole, what, value, said):
    """A fault in step 6, after which everything would be saved; the checkpoint and the word of step 4 stay."""
    config, output = write_recipe(tmp_path, **TINY, output__validate_every=3 if what == "validation" else 0)
    done = spoil_run(config, what, 6, value=value)
    picture = "dataset/toybox/subjects/bear5/0"
    assert done.returncode == 1 and "step 6: rank 0: " + said.format(picture)[:40] in done.stderr, done.stderr
    assert "{}" not in said or said.split("{}")[1] in done.stderr and ".png" in done.stderr
    assert {p.name for p in (output / "checkpoints").iterdir()} == {"step-2.safetensors", "step-4.safetensors"}
    assert not list(output.glob("learned_embeds-steps-6*"))
    run(program("tests/spoil"), config, "nothing", 0, 0, 0, "resume")
    assert (output / "learned_embeds-last.safetensors").read_bytes() == whole[8]


def test_the_rank_whose_loss_it_is_is_named_and_all_end(tmp_path):
    def spoil(case):
        what, step, rank, value = case
        config, _ = write_recipe(tmp_path / f"{what} {step}", **TINY)
        return spoil_run(config, what, step, rank, value, 3)

    cases = [(what, step, rank, value) for step in (1, 5) for what, rank, value in (("loss", 1, "nan"), ("second", 2, "inf"))]
    with ThreadPoolExecutor(len(cases)) as pool:  # mpirun takes its time to end
        ends = list(pool.map(spoil, cases))
    for (what, step, rank, _), done in zip(cases, ends):
        said = "loss of picture dataset/toybox/subjects/bear5/" if what == "loss" else "second moment holds"
        assert done.returncode == 1 and f"step {step}: rank {rank}: the {said}" in done.stderr, done.stderr
        assert len([line for line in done.stderr.splitlines() if line.startswith("spoil:")]) == 1


@pytest.mark.parametrize("what, rank, value, said", [("loss", 1, "nan", r"slope of picture \S+/0\d.png along direction 2 is not a number"),
                                                     ("loss", 0, "-inf", r"slope of picture \S+/0\d.png along direction 1 is infinite"),
                                                     ("primal", 0, "inf", r"loss of picture \S+/0\d.png is infinite")])
def test_a_slope_is_named_by_its_picture_and_direction(tmp_path, what, rank, value, said):
    """Two ranks with three tangents each, of two pictures: picture 1's directions are parted between them."""
    config, output = write_recipe(tmp_path, **{**TINY, "zo__derivative": "tangent", "optim__batch_size": 3})
    done = spoil_run(config, what, 5, rank, value, 2)
    assert done.returncode == 1 and re.search(f"step 5: rank {rank}: the {said}, so nothing of this step is saved", done.stderr), done.stderr
    assert {p.name for p in (output / "checkpoints").iterdir()} == {"step-2.safetensors", "step-4.safetensors"}


def test_a_checkpoint_that_is_not_finite_gives_way_to_an_older_one(tmp_path, whole):
    """Its CRC-32 is right."""
    config, output = write_recipe(tmp_path, **TINY)
    assert spoil_run(config, "loss", 6).returncode == 1
    path = output / "checkpoints" / "step-4.safetensors"
    shutil.copytree(output, tmp_path / "as it was")
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    tensors = read_tensors(path)
    for name, place in (("m", 3), ("embedding", 0), *((("best", 5),) if "best" in tensors else ())):
        shutil.rmtree(output)
        shutil.copytree(tmp_path / "as it was", output)
        spoiled = {n: [*t[:2], bytearray(t[2])] for n, t in tensors.items()}
        spoiled[name][2][4 * place : 4 * place + 4] = struct.pack("<f", np.nan)
        facts = header["__metadata__"]
        crc = 0
        for key in (k for k in facts if k != "crc32"):
            crc = zlib.crc32(facts[key].encode() + b"\0", crc)
        for tensor in (name for name in ("embedding", "m", "v", "history", "noise", "best") if name in spoiled):
            crc = zlib.crc32(struct.pack("<2q", *spoiled[tensor][1]) + bytes(spoiled[tensor][2]), crc)
        new = {"__metadata__": {**facts, "crc32": f"{crc:08x}"}}
        blob = b""
        for n, (dtype, shape, content) in spoiled.items():
            new[n] = {"dtype": dtype, "shape": shape, "data_offsets": [len(blob), len(blob) + len(content)]}
            blob += content
        text = json.dumps(new).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + blob)
        done = run(program("zoodip"), "train", config, "--resume")
        assert f"step-4.safetensors: tensor {name}: holds a value that is not a number" in done.stderr
        assert "resuming after step 2" in done.stderr and learned(output) == whole[8]


def test_a_job_that_is_not_a_number_fails_and_the_others_go_on(tmp_path):
    """Two words of one model: positions and the row of "dog" are finite, their sum is not."""
    model = copy_model(tmp_path)
    table, positions = (name_like(model / TEXT, end) for end in ("token_embedding.weight", "position_embedding.weight"))
    dog = json.loads((model / "tokenizer/vocab.json").read_text())["dog</w>"]
    tensors = read_tensors(model / TEXT)
    for name, rows in ((table, [dog]), (positions, slice(None))):
        dtype, shape, content = tensors[name]
        numbers = np.frombuffer(content, np.float16).astype(np.float32).reshape(shape)
        numbers[rows, 0] = 3.4e38
        tensors[name] = ["F32", shape, numbers.tobytes()]
    write_tensors(model / TEXT, tensors)
    config, output = write_recipe(tmp_path, model=str(model), **{**TINY, "output__prompts": ["a {}"], "output__sample_steps": 2})
    jobs = [{"name": "good"}, {"name": "bad", "token": {"initializer": "dog"}}, {"name": "also"}]
    config.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": jobs}))
    done = mpirun(2, program("zoodip"), "run", config, "--groups", 1, check=False, timeout=120)
    assert done.returncode == 1 and "1 of 3 jobs failed, first bad: step 1: rank 0: the loss of picture " in done.stderr, done.stderr
    assert learned(output / "good") == learned(output / "also")
    states = {job["name"]: job["state"] for job in json.loads((output / "summary.json").read_text())["jobs"]}
    assert states["bad"] == "failed" and states["good"] == states["also"] != "failed"
    assert not (output / "bad/learned_embeds.safetensors").exists()


def test_a_validation_that_rises_is_said_once(tmp_path):
    config, output = write_recipe(tmp_path, **TINY, output__validate_every=3)
    done = spoil_run(config, "validation", 6, 0, 1e3)
    assert done.returncode == 0 and done.stderr.count("more than twice the") == 1 and "step 6: the validation loss" in done.stderr, done.stderr
    assert "more than twice" not in run(program("zoodip"), "train", config, "--set", f"output.dir={tmp_path / 'good'}").stderr


# ---------------------------------------------------------------------------- models that are finite, but too large


def enlarge(path, *names):
    """Tensors that are as they were but for a factor, which makes their largest number as large as fp32 allows."""
    tensors = read_tensors(path)
    for name in names:
        dtype, shape, content = tensors[name]
        numbers = np.frombuffer(content, np.float16).astype(np.float32)
        numbers = numbers / abs(numbers).max() * np.float32(3.4e38)
        assert dtype == "F16" and np.isfinite(numbers).all()
        tensors[name] = ["F32", shape, numbers.tobytes()]
    write_tensors(path, tensors)


def test_a_unet_that_overflows_ends_training_and_its_pictures_are_not_written(tmp_path):
    model = copy_model(tmp_path)
    enlarge(model / UNET, "conv_out.weight")
    config, output = write_recipe(tmp_path, model=str(model), **TINY)
    done = run(program("zoodip"), "train", config, "--set", "quant.bits=32", check=False)
    assert done.returncode == 1 and "step 1: rank 0: the loss of picture dataset/toybox/subjects/bear5/" in done.stderr, done.stderr
    assert re.search(r"; the network's op \d+ \(op_conv \[\d+, 16, 16, 4\]\) made the first such number; ", done.stderr), done.stderr
    for scheduler in ("pndm", "ddim", "dpm++"):
        done = run(program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--steps", 3, "--count", 2, "--scheduler", scheduler,
                   "--output", tmp_path / "x.png", check=False)
        assert done.returncode == 1 and f"{tmp_path}/x-0001.png: is not written: the picture is not a number" in done.stderr, done.stderr
    assert not list(tmp_path.glob("*.png"))


def test_a_vae_that_overflows_is_named(tmp_path):
    model = copy_model(tmp_path)
    enlarge(model / VAE, "encoder.conv_in.weight", "decoder.conv_out.weight")
    config, output = write_recipe(tmp_path, model=str(model), **TINY)
    done = mpirun(2, program("zoodip"), "train", config, check=False)
    assert done.returncode == 1 and "subjects/bear5/00.png: its latents hold a value that is not a number" in done.stderr, done.stderr
    done = run(program("zoodip"), "generate", "--model", model, "--prompt", "a toy", "--steps", 2, "--output", tmp_path / "x.png", check=False)
    assert done.returncode == 1 and f"{tmp_path}/x.png: is not written: the picture is not a number" in done.stderr, done.stderr
    assert not (tmp_path / "x.png").exists()


def test_a_run_whose_pictures_are_not_numbers_keeps_its_word(tmp_path):
    model = copy_model(tmp_path)
    enlarge(model / VAE, "decoder.conv_out.weight")
    keys = {**TINY, "output__prompts": ["a {}"], "output__sample_steps": 2, "output__sample_every": 4}
    config, output = write_recipe(tmp_path, model=str(model), **keys)
    done = mpirun(2, program("zoodip"), "train", config, check=False)
    assert done.returncode == 1 and '"a {}" with toy: the picture is not a number' in done.stderr, done.stderr
    assert "training continues without this sample" in done.stderr
    word = np.frombuffer(next(iter(read_tensors(output / "learned_embeds.safetensors").values()))[2], np.float32)
    assert np.isfinite(word).all() and not list(output.rglob("*.png"))
