"""What the tests share: where the programs are, how to run them, and models with random weights.

Programs come from the build folder (environment ZOODIP_BUILD, default `build` in the root of the checkout)."""
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from paper import nested, recipe  # noqa: F401: tests take both from here

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("ZOODIP_BUILD", ROOT / "build"))
TOYBOX = ROOT / "dataset" / "toybox"
# What people start besides zoodip; launch/slurm/ has more, for sbatch.
SCRIPTS = ["launch/bundle.sh", "launch/demo.sh", "launch/run.sh", "launch/setup.sh", "launch/slurm/submit.sh", "tests/run.sh", "tests/gpu/run.sh",
           "tests/gpu/prepare", "tests/gpu/go", "tests/fuzz/run.sh", "dataset/get_dreambooth.sh", "dataset/get_model.sh"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HOME", str(ROOT / "build" / "hf"))


# Long repetitions: all of them under tests/run.sh --nightly, else a slice that moves on day by day.
NIGHTLY = "ZOODIP_NIGHTLY" in os.environ
SLICE = int(os.environ.get("ZOODIP_SLICE", time.time() // 86400))


def slice_of(repetitions, count):
    """Today's of so many slices of a list of repetitions; on a GPU, which is quick, all of them."""
    return repetitions if NIGHTLY or ON_GPU else repetitions[SLICE % count::count]


def pytest_report_header():
    return "long repetitions: all" if NIGHTLY else f"long repetitions: one slice, repeated by ZOODIP_SLICE={SLICE}; all with tests/run.sh --nightly"


def pytest_collection_modifyitems(items):
    """A file that is run again as a repetition: ZOODIP_ONE_OF slices."""
    if "ZOODIP_ONE_OF" in os.environ:
        items[:] = slice_of(items, int(os.environ["ZOODIP_ONE_OF"]))


def program(name):
    """Path of zoodip, or of a helper (tests/NAME)."""
    return str(BUILD / name)


CUDA = Path(os.environ.get("ZOODIP_CUDA_PROGRAMS", BUILD / "tests/cuda"))
ON_GPU = "ZOODIP_CUDA_PROGRAMS" in os.environ


def cuda_program(name):
    """Path of zoodip or of a helper with the CUDA device: run by the stand-in for a GPU (tests/cuda/), or, with
    ZOODIP_CUDA_PROGRAMS naming the folder of a build for it, by a GPU."""
    inside = CUDA / "tests" / name
    return str(inside if inside.exists() else CUDA / name)


needs_cuda = pytest.mark.skipif(not Path(cuda_program("zoodip")).exists(), reason="no programs with the CUDA device")


def environment(threads=1):
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "OMPI_MCA_hwloc_base_binding_policy": "none", "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}


STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", re.M)


def unstamped(text):
    """Lines of a log without the times that they begin with."""
    return STAMP.sub("", text)


def run(*command, threads=1, check=True, timeout=600, cwd=ROOT, env=None, stdin=None):
    """Runs a command; returns the finished process with its output as text, `stderr` without its lines' times and `raw_stderr` as it
    is. `check` fails the test with that output."""
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True, timeout=timeout, cwd=cwd,
                          env={**environment(threads), **(env or {})}, errors="replace")
    done.raw_stderr, done.stderr = done.stderr, unstamped(done.stderr)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\nexit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def mpirun(ranks, *command, threads=1, **options):
    """The same on `ranks` ranks, whatever the number of cores. One rank runs without mpirun."""
    if ranks == 1:
        return run(*command, threads=threads, **options)
    return run("mpirun", "--oversubscribe", "-np", str(ranks), *command, threads=threads, **options)


def refused(done, *words):
    """Bad input: exit 2 and one line with these words in it."""
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("zoodip:")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


ISAS = ["generic", "avx2", "avx512"]


def need_isa(isa):
    """Skips the test if this processor lacks an instruction set of ISAS."""
    if isa != "generic" and {"avx2": "avx2", "avx512": "avx512bw"}[isa] not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"no {isa} here")


def agree(ours, theirs, within=2e-6):
    """Two tensors differ by less than that, of the largest value."""
    assert ours.shape == theirs.shape
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error < within, f"largest error {error:.2e} of the largest value"


def write_recipe(folder, **changes):
    """Writes a recipe whose results go to FOLDER/out; returns (config path, output folder)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config, output = folder / "config.json", folder / "out"
    config.write_text(json.dumps(recipe(output, **changes)))
    return config, output


def metrics(output):
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


def learned(output):
    return (Path(output) / "learned_embeds.safetensors").read_bytes()


CHECKPOINT_TENSORS = "embedding", "m", "v", "history", "noise", "best", "basis", "slopes", "outliers"


def change_checkpoint(path, change=lambda facts: None, **tensors):
    """Changes the facts of a checkpoint by change(facts), and tensors, each to (shape, bytes), and its CRC-32 with them."""
    data = Path(path).read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    facts = header.pop("__metadata__")
    change(facts)
    kept = {name: (t["shape"], data[size + t["data_offsets"][0]:size + t["data_offsets"][1]]) for name, t in header.items()} | tensors
    crc = zlib.crc32("".join(facts[key] + "\0" for key in facts if key != "crc32").encode())
    header, numbers = {"__metadata__": facts}, b""
    for name in (name for name in CHECKPOINT_TENSORS if name in kept):
        shape, more = kept[name]
        if more or name in CHECKPOINT_TENSORS[:5]:
            crc = zlib.crc32(struct.pack("<2q", *shape) + more, crc)
        header[name] = dict(dtype="F32", shape=shape, data_offsets=[len(numbers), len(numbers) + len(more)])
        numbers += more
    facts["crc32"] = f"{crc:08x}"
    text = json.dumps(header, separators=(",", ":")).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + numbers)


def losses_of(output):
    """The losses of all steps."""
    return [m["losses"] for m in metrics(output)]


def train_alone(folder, **changes):
    """A whole run on one rank: (the learned word, the losses of all steps)."""
    config, output = write_recipe(folder, **changes)
    run(program("zoodip"), "train", config)
    return learned(output), losses_of(output)


# Four Stable Diffusions that differ in every dimension. Each: text encoder, UNet, VAE settings.
SHAPES = {
    "plain": dict(
        text=dict(hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, hidden_act="quick_gelu"),
        unet=dict(block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
                  down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")),
        vae=dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)),
    "deep": dict(
        text=dict(hidden_size=48, intermediate_size=100, num_hidden_layers=3, num_attention_heads=3, hidden_act="gelu"),
        unet=dict(block_out_channels=(24, 40, 56), layers_per_block=2, norm_num_groups=4, attention_head_dim=(2, 5, 7),
                  down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                  up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True),
        vae=dict(block_out_channels=(12, 20, 36), layers_per_block=2, norm_num_groups=4)),
    "stacked": dict(
        text=dict(hidden_size=40, intermediate_size=64, num_hidden_layers=1, num_attention_heads=5, hidden_act="quick_gelu"),
        unet=dict(block_out_channels=(20, 30, 50), layers_per_block=1, norm_num_groups=5, attention_head_dim=5,
                  transformer_layers_per_block=2, flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-6,
                  down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                  up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
        vae=dict(block_out_channels=(10, 15, 25, 5), layers_per_block=1, norm_num_groups=5)),
    "wide": dict(
        text=dict(hidden_size=72, intermediate_size=33, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu"),
        unet=dict(block_out_channels=(33, 66, 99, 66), layers_per_block=2, norm_num_groups=3, attention_head_dim=3,
                  down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                  up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
        vae=dict(block_out_channels=(18, 6), layers_per_block=3, norm_num_groups=6)),
}

SD15 = dict(
    text=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu",
              vocab_size=49408),
    unet=dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, norm_num_groups=32, attention_head_dim=8,
              sample_size=64, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
              up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
    vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, norm_num_groups=32))

SD21 = dict(  # of as many layers, larger weights would magnify each other's rounding
    std=0.03,
    text=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu", vocab_size=49408),
    unet=dict(SD15["unet"], attention_head_dim=(5, 10, 20, 20), sample_size=96, use_linear_projection=True, upcast_attention=True),
    vae=dict(SD15["vae"], scaling_factor=0.18215))

# All of SD 1.5's widths, also those of joined skips, in a third of its weights: one layer a block, one block of 1280, a narrow VAE.
SD15_WIDTHS = dict(
    text=SD15["text"],
    unet=dict(SD15["unet"], block_out_channels=(320, 640, 1280), layers_per_block=1,
              down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
              up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2),
    vae=dict(SHAPES["plain"]["vae"], block_out_channels=(8, 8, 8, 16)))


def make_model(folder, shape, dtype="float32", seed=0, parts=("text_encoder", "unet", "vae")):
    """Writes a diffusers folder with random weights; tokenizer and scheduler are toybox's. Returns its path."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = Path(folder)
    torch.manual_seed(seed)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(TOYBOX / "model" / part, folder / part, dirs_exist_ok=True)
    shutil.copy(TOYBOX / "model" / "model_index.json", folder / "model_index.json")
    kind = getattr(torch, dtype)
    if "text_encoder" in parts:
        text = CLIPTextModel(CLIPTextConfig(**{**dict(vocab_size=1571, max_position_embeddings=77, bos_token_id=1569,
                                                      eos_token_id=1570, pad_token_id=1570), **shape["text"]}))
        for name, p in text.named_parameters():
            p.data.normal_(std=shape.get("std", 0.15) if p.dim() > 1 else 0.1).add_(1.0 if "norm" in name and "weight" in name else 0.0)
        text.to(kind).save_pretrained(folder / "text_encoder")
    if "unet" in parts:
        unet = UNet2DConditionModel(**{**dict(sample_size=8, in_channels=4, out_channels=4,
                                              cross_attention_dim=shape["text"]["hidden_size"]), **shape["unet"]})
        unet.to(kind).save_pretrained(folder / "unet")
    if "vae" in parts:
        blocks = len(shape["vae"]["block_out_channels"])
        vae = AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, sample_size=64,
                            down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
                            **shape["vae"])
        vae.to(kind).save_pretrained(folder / "vae")
    return folder


def unpack_without_a_compiler():
    """quanto splits bytes into codes in C++ that it compiles on first use, which needs minutes, ninja and Python's headers; this
    does the same in two lines of PyTorch."""
    import torch
    from optimum.quanto.library.extensions import get_extension

    def unpack(packed, bits):
        return torch.cat([(packed >> (bits * i)) & (2**bits - 1) for i in range(8 // bits)]).to(torch.uint8)
    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=unpack)


@pytest.fixture(scope="session", autouse=True)
def quanto_without_a_compiler():
    """Files that use quanto import it at the top, so it is loaded by now."""
    if "optimum.quanto" in sys.modules:
        unpack_without_a_compiler()


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """PyTorch on one thread: the products of small networks only wait for one another on more, several times as long."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def all_threads(one_thread):
    """And on all of them, for a network of true size."""
    import torch
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toybox():
    return TOYBOX


@pytest.fixture(scope="session")
def random_models(tmp_path_factory):
    """name -> folder of a model of that shape, made on first use."""
    made = {}

    def get(name, dtype="float32"):
        if (name, dtype) not in made:
            made[name, dtype] = make_model(tmp_path_factory.mktemp(f"{name}-{dtype}"), SHAPES[name], dtype, seed=len(made))
        return made[name, dtype]
    return get
