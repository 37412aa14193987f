"""What tests/gpu and tests/bench compute on paper is compared with the real thing: the layer list with diffusers and
transformers, the roofline's operations with PyTorch's own count. The folder for a GPU machine goes as far as its driver."""
import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from math import log2
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from conftest import BUILD, NIGHTLY, ROOT, program, run, write_recipe

sys.path[:0] = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "bench")]
import families  # noqa: E402
import gpu_model  # noqa: E402
import library  # noqa: E402
import model  # noqa: E402
import ncu  # noqa: E402
import peers  # noqa: E402
import proof  # noqa: E402
import roofline  # noqa: E402
import scaling  # noqa: E402

NEEDS = "peers"


def network(part, config):
    """A network without memory for its weights."""
    with torch.device("meta"):
        if part == "text":
            return CLIPTextModel(CLIPTextConfig(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})).eval()
        return (UNet2DConditionModel if part == "unet" else AutoencoderKL)(**{k: v for k, v in config.items() if k != "_class_name"}).eval()


@pytest.mark.parametrize("part, config, layers", [("text", model.TEXT, model.text_layers), ("unet", model.UNET, model.unet_layers),
                                                  ("vae", model.VAE, model.vae_layers)], ids=["text", "unet", "vae"])
def test_the_random_model_has_stable_diffusions_tensors(part, config, layers):
    theirs = {name.removeprefix("text_model."): tuple(t.shape) for name, t in network(part, config).state_dict().items()
              if not name.endswith("position_ids")}
    assert {name.removeprefix("text_model."): shape for name, shape in layers(config).items()} == theirs


SMALL = dict(text=dict(model.TEXT, vocab_size=1571, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2),
             unet=dict(model.UNET, block_out_channels=[32, 64], cross_attention_dim=32, layers_per_block=1, sample_size=8, norm_num_groups=8,
                       down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"]),
             vae=dict(model.VAE, block_out_channels=[16, 32], layers_per_block=1, norm_num_groups=8, sample_size=16,
                      down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return model.write_model(tmp_path_factory.mktemp("small") / "model", **SMALL)


def test_a_random_model_is_read_by_its_peers_and_by_us(small, tmp_path):
    for kind, part in ((CLIPTextModel, "text_encoder"), (UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        network, info = kind.from_pretrained(small / part, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert all(torch.isfinite(p).all() for p in network.parameters())
    config, _ = write_recipe(tmp_path, model=str(small), data__resolution=16, output__prompts=[])
    assert '"evaluations_per_second"' in run(program("zoodip"), "bench", config, "--evaluations", 1).stdout


def test_the_roofline_counts_the_operations_that_pytorch_counts():
    step = roofline.Step(bits=8, bandwidth=1, peak=1)
    roofline.text_encoder(step, roofline.SD15_TEXT, 1)
    roofline.UNet(step, roofline.SD15_UNET, 1, 64).walk()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        hidden = network("text", model.TEXT)(torch.zeros(1, 77, dtype=torch.int64)).last_hidden_state
        network("unet", model.UNET)(torch.zeros(1, 4, 64, 64), torch.zeros(1), hidden)
    causal = step.families["text: attention"].useful  # half of what PyTorch counts
    assert sum(w.useful for w in step.families.values()) + causal == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_profiles_families_have_the_operations_of_the_roofline(small):
    counted = families.operations(small, 3, 512)
    text, unet = (json.loads((small / part / "config.json").read_text()) for part in ("text_encoder", "unet"))
    step = roofline.Step(bits=8, bandwidth=1, peak=1)
    roofline.text_encoder(step, text, 3)
    roofline.UNet(step, unet, 3, 64).walk()
    assert sum(counted.values()) == pytest.approx(sum(w.useful for w in step.families.values()))
    assert all(counted[family] > 0 for family in ("linear layers", "convolutions", "attention"))


@pytest.mark.parametrize("calls, found", [
    (["tile", "winograd_task", "pool_run", "cpu_conv", "op_conv", "unet_forward"], ("convolutions", "float products")),
    (["winograd_source", "winograd_task", "op_conv"], ("convolutions", "Winograd's transforms")),
    (["tile512.constprop.0", "multiply512", "multiply_task", "op_linear"], ("linear layers", "products of codes")),
    (["memmove", "encode", "encode_task", "op_linear"], ("linear layers", "to codes")),
    (["memmove", "op_copy", "unet_forward"], ("copies and other ops", "rest")), ([], ("rest", "rest"))])
def test_a_sample_belongs_to_the_op_and_the_innermost_kind_of_work(calls, found):
    assert (families.family_of(calls), families.kind_of(calls)) == found


@pytest.mark.parametrize("peer", ["torch", "channels_last"])
def test_a_peer_measures_a_steps_lanes(small, peer):
    row = peers.measure(peer, argparse.Namespace(model=small, lanes=2, evaluations=3, size=64, threads=1))
    assert row["name"] == peers.TITLES[peer] and row["evaluations"] == 4 and row["seconds"] > 0


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="units of other processors are not measured")
def test_peaks_of_wider_units_are_higher():
    rows = [json.loads(line) for line in run(program("tests/peaks")).stdout.splitlines()]
    best = {(row["numbers"], row["unit"]): row["best"] for row in rows}
    assert all(0 < row["median"] <= row["best"] for row in rows)
    for narrow, wide in ((("fp32", "avx2"), ("fp32", "avx512")), (("int8", "avx-vnni"), ("int8", "avx512-vnni"))):
        assert wide not in best or narrow not in best or best[wide] > 0.9 * best[narrow]


def test_the_scaling_model_finds_its_terms_again_and_draws_them(tmp_path):
    """0.1 ms alone, rounds of 0.05 ms, plus 0.01 ms for each further rank on a core, on 4 cores."""
    seconds = {ranks: 1e-3 * (0.1 + log2(ranks) * (0.05 + 0.01 * max(0, ranks / 4 - 1))) for ranks in (1, 2, 4, 8, 16, 32, 64)}
    found = scaling.fit(seconds, cores=4)
    assert found == pytest.approx([0.1e-3, 0.05e-3, 0.01e-3])
    scaling.draw(seconds, found, tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").size == (720, 440)


def test_messages_between_gpus_take_longer_over_a_network_and_grow_with_its_depth():
    one, two, eight, many = (scaling.messages(ranks, per_node=8) for ranks in (1, 2, 8, 64))
    assert one == 0 < two < eight < many < 1e-3
    assert scaling.evaluation_seconds(8) < 8 * scaling.evaluation_seconds(1)  # weights are read once for all lanes


@pytest.mark.parametrize("options", [(), ("--together",), ("--way", "int8")], ids=["row after row", "together", "int8"])
def test_the_references_step_runs(small, options, monkeypatch, capsys):
    """By itself, and here, where PyTorch is loaded already, in its other ways."""
    words = [str(ROOT / "tests/gpu/reference.py"), str(small), "--size", "16", "--seconds", "0.01", *options]
    if options:
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(words[0], run_name="__main__")
        said = capsys.readouterr().out
    else:
        said = run(sys.executable, *words).stdout
    assert json.loads(said.splitlines()[-1])["steps_per_second"] > 0


def measuring(tmp_path, monkeypatch, **more):
    """A session whose page goes to tmp_path."""
    monkeypatch.setattr(proof, "PAGE", tmp_path / "results" / "gpu.md")
    return proof.Session(argparse.Namespace(**{**dict(build=tmp_path, gpu="0", limit=60, spent=0), **more}))


def test_the_plan_of_training_is_found_in_what_inspect_prints(tmp_path, monkeypatch):
    session = measuring(tmp_path, monkeypatch)
    session.build = BUILD
    config, _ = write_recipe(tmp_path)
    planned = proof.planned_bytes(session, config)
    plan = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]
    assert planned == plan["train"]["bytes"]


def test_a_gpu_is_measured_with_the_papers_recipe(tmp_path, monkeypatch):
    """Whatever configs/toybox.json recommends, so that pages can be compared."""
    config = json.loads(measuring(tmp_path, monkeypatch).config("case", zo__n=8, optim__steps=16).read_text())
    assert config["zo"] == {"n": 8, "tau": 16, "nu": 0.001} and config["optim"] == {"steps": 16, "lr": 0.03}
    assert config["device"] == "cuda" and config["output"]["dir"] == str(tmp_path / "gpu" / "runs" / "case" / "out")


def test_a_gpu_gets_the_tests_that_start_no_ranks():
    files = {path.name for path in proof.tests_for_a_gpu()}
    assert {"test_cuda.py", "test_cuda_ops.py", "test_cuda_tangents.py", "test_cuda_tangent_ops.py", "test_cuda_tangent_runs.py"} < files
    assert not files & {"test_cuda_queue.py", "test_cuda_ranks.py", "test_cuda_standin.py", "test_cuda_compiled.py"}


def test_the_page_is_whole_after_each_part_and_names_what_was_skipped_and_what_is_wrong(tmp_path, monkeypatch):
    session = measuring(tmp_path, monkeypatch, limit=100)
    session.part("First", lambda s: s.run(["echo", "measured"], 10).stdout)
    assert "## First\n\nmeasured" in proof.PAGE.read_text()
    session.part("Second", lambda s: s.run(["there-is-no-such-tool"], 10))
    session.part("Third", lambda s: s.needs(200))
    page = proof.PAGE.read_text()
    assert "measured" in page and "there-is-no-such-tool is missing" in page and "Skipped: it takes 200 s" in page
    assert session.failed == ["Second"]


NAMES = ["void <unnamed>::product_kernel<(<unnamed>::operand)0, (tile_kind)1, (int)64, (int)128, (bool)1>(<unnamed>::product_args)",
         "void (anonymous namespace)::copy<int4>((anonymous namespace)::copy_args<int4>)", "<unnamed>::update_kernel(<unnamed>::update_args)"]


def profile(launches):
    """What ncu writes for (name, grid, time, unit, tensor pipe) of each launch."""
    lines = ["==PROF== Connected to process 7", '"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"']
    for i, (name, grid, time, unit, tensor) in enumerate(launches):
        for metric, kind, value in ((ncu.TIME, unit, time), (ncu.GRID, "", grid), (ncu.TENSOR, "%", tensor)):
            lines.append(f'"{i}","7","{name}","{metric}","{kind}","{value}"')
    return "\n".join(lines)


PROFILE = profile([(NAMES[0], 99, "5", "ms", "9"), (NAMES[2], 1, "8.00", "us", "0"),  # what comes before the last step, and its end
                   (NAMES[1], 4, "2,500", "ns", "0"), (NAMES[0], "1,024", "3", "us", "20"), (NAMES[0], "1,024", "0.005", "ms", "40"),
                   (NAMES[2], 1, "2", "us", "n/a"), (NAMES[1], 4, "7", "ms", "0")])


def test_kernel_times_are_those_of_the_last_step_summed_by_kernel_and_grid(tmp_path):
    step = ncu.summed(ncu.last_step(ncu.read_launches(PROFILE.splitlines())))
    assert [k[:3] for k in step] == [("product_kernel<0, 1, 64, 128, 1>", 1024, 2), ("copy<int4>", 4, 1), ("update_kernel", 1, 1)]
    assert [k.us for k in step] == pytest.approx([8, 2.5, 2]) and step[0].tensor == 30
    ncu.write(tmp_path / "kernels.csv", step)
    assert ncu.read(tmp_path / "kernels.csv") == step
    assert [row[0] for row in ncu.rows(step, most=1)] == ["`product_kernel<0, 1, 64, 128, 1>`", "2 more"]
    assert ncu.rows(step, most=1)[0][5] == "64.0 %"


@pytest.fixture
def profiled(tmp_path, monkeypatch):
    """The part of the page about an ncu that does what these lines of shell say, its log's name in $log."""
    def page(script):
        tool = tmp_path / "ncu"
        tool.write_text(f'#!/bin/sh\nwhile [ "$1" != --log-file ]; do shift; done\nlog=$2\n{script}\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        session = measuring(tmp_path, monkeypatch, limit=100)
        monkeypatch.setattr(session, "big_config", lambda n, way: "config.json")
        session.step_seconds[2, 8, "pairs"] = 0.02
        session.part("Kernels", lambda s: proof.time_per_kernel(s, 2))
        assert not session.failed
        return proof.PAGE.read_text()
    return page


@pytest.mark.parametrize("script", ["echo no such option; exit 1", "echo ==ERROR== ERR_NVGPUCTRPERM >$log"])
def test_an_ncu_that_may_not_measure_costs_its_part_alone_and_is_quoted(profiled, script):
    page = profiled(script)
    assert "Skipped: ncu measured no step: " in page and script.split()[2] in page


def test_the_page_shows_what_ncu_measured_of_a_step(tmp_path, profiled):
    (tmp_path / "said").write_text(PROFILE)
    page = profiled(f'cp "{tmp_path}/said" "$log"')
    assert "4 launches, 0.0 ms; without ncu a step takes 20.0 ms" in page
    assert len(ncu.read(tmp_path / "results" / "kernels-2-pairs.csv")) == 3


def test_the_page_lays_a_measured_step_beside_the_model(tmp_path, monkeypatch):
    """An H100's step at n = 2 that took twice what is expected of it, and a kernel of it; then another GPU."""
    session = measuring(tmp_path, monkeypatch)
    monkeypatch.setattr(proof, "smi", lambda s, field: ["NVIDIA H100 80GB HBM3"])
    expected = gpu_model.step(2, way="halves")
    session.step_seconds = {(2, 8, "halves"): 2 * expected.seconds()}
    session.profiles[2, "halves"] = [ncu.Kernel("rounded_kernel<0, 1>", 60, 7, 2500.0, 1), ncu.Kernel("rounded_kernel<0, 2>", 30, 3, 500.0, 1)]
    page = proof.beside_the_model(session)
    assert f"| 2 | 8 bits | halves | {2e3 * expected.seconds():.1f} | {1e3 * expected.seconds():.1f} | -50 % |" in page
    times, us = expected.by_function()["rounded_kernel"]
    assert f"| `rounded_kernel` | 10 | 3.00 | {times} | {us / 1e3:.2f} |" in page
    monkeypatch.setattr(proof, "smi", lambda s, field: ["NVIDIA L4"])
    with pytest.raises(proof.Skip):
        proof.beside_the_model(session)


def test_a_gpus_slopes_by_tangents_are_compared_with_the_cpus(tmp_path, monkeypatch):
    session = measuring(tmp_path, monkeypatch)
    said = {("cuda", "halves"): [[], [1.0, 2.02]], ("cpu", "halves"): [[], [1.0, 2.0]], ("cuda", "pairs"): [[1.0], []], ("cpu", "pairs"): [[1.0], []]}
    monkeypatch.setattr(proof, "metrics", lambda s, device, way: said[device, way])
    assert "0.89 % of their rms" in proof.agreement(session)
    said["cuda", "halves"] = [[], [1.0, 2.2]]
    with pytest.raises(proof.Wrong):
        proof.agreement(session)


def test_the_libraries_are_asked_for_the_operations_of_the_roofline():
    asked = sum(times * library.operations(*shape) for shape, times in library.shapes(3).items())
    step = roofline.Step(bits=8, bandwidth=1, peak=1)
    roofline.text_encoder(step, roofline.SD15_TEXT, 3)
    roofline.UNet(step, roofline.SD15_UNET, 3, 64).walk()
    assert asked == pytest.approx(sum(w.useful for w in step.families.values()) + step.families["text: attention"].useful)


@pytest.mark.parametrize("shape, result", [(("linear", 5, 7, 3, None), (5, 7)), (("conv 3 x 3", 3 * 16, 8, 4, None), (3, 8, 4, 4)),
                                           (("conv 3 x 3", 16, 8, 4, None), (1, 8, 4, 4)), (("attention", 3, 9, 5, (40, False)), (3, 8, 9, 5)),
                                           (("attention", 3, 9, 9, (24, True)), (3, 12, 9, 2))])
def test_the_libraries_compute_these_shapes(shape, result):
    assert library.work(*shape, 3, device="cpu", dtype=torch.float32)().shape == result


def test_library_times_are_added_up_over_a_step(tmp_path):
    rows = [library.Row(lanes, "linear", 1, 2, 3, 4, 500.0 * lanes, 6.0) for lanes in library.LANES]
    library.write(tmp_path / "library.csv", rows)
    assert library.read(tmp_path / "library.csv") == rows
    assert library.total(rows, 3) == pytest.approx((6.0, 6.0))
    assert len(library.table_rows(rows)) == 1 and len(library.table_rows(rows)[0]) == len(library.HEAD)


# -------------------------------------------------------------------------------- the folder for a GPU machine


PREPARE, GO = ROOT / "tests" / "gpu" / "prepare", ROOT / "tests" / "gpu" / "go"
NVCC = shutil.which("nvcc", path=f"{os.environ['PATH']}:{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin")
FAST = {"NVCC_APPEND_FLAGS": "-Xcicc=-O0 -Xptxas=-O0"}  # kernels that will not run: built in a sixth of the time
needs_nvcc = pytest.mark.skipif(not NVCC or bool(shutil.which("nvidia-smi")), reason="no nvcc, or a driver")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """prepare's second run and its folder."""
    folder = tmp_path_factory.mktemp("taken along") / "a kit"
    for _ in range(2):
        done = run(PREPARE, "--no-wheels", "--build", BUILD / "kit", folder, env=FAST)
    return done, folder


@pytest.fixture
def elsewhere(tmp_path):
    """Runs a folder's go where there is nothing but it, a shell's tools, Python alone, and a GPU by name."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in ("bash", "cat", "chmod", "cp", "dirname", "getconf", "gzip", "ln", "mkdir", "mktemp", "rm", "tar", "tee", "timeout", "tr"):
        (bare / tool).symlink_to(shutil.which(tool))
    (bare / "python3").symlink_to(Path(sys.executable).resolve())
    (bare / "nvidia-smi").write_text('#!/bin/bash\necho "A GPU by name, 1.2, 3456"\n')
    (bare / "nvidia-smi").chmod(0o755)
    (tmp_path / "tmp").mkdir()

    def go(folder, *arguments, tools=(), **more):
        path = os.pathsep.join([str(bare), *tools])
        env = {"PATH": path, "TMPDIR": str(tmp_path / "tmp"), "CUDA_HOME": str(tmp_path), "OUT": "some results", **more}
        done = subprocess.run([shutil.which("bash"), folder / "go", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
        assert not list((tmp_path / "tmp").iterdir()), "go leaves nothing but its results"
        return done, tmp_path / "some results"

    return go


@needs_nvcc
def test_the_folder_for_a_gpu_machine_is_small_and_made_anew_without_building(prepared):
    done, folder = prepared
    assert sum(f.stat().st_size for f in folder.rglob("*")) <= 56 * 2**20
    assert f"{folder} is ready" in done.stdout and not done.stderr
    assert "Building" not in (BUILD / "kit" / "build.log").read_text()


@needs_nvcc
def test_it_measures_up_to_the_missing_driver_on_a_machine_that_has_nothing(prepared, elsewhere):
    done, out = elsewhere(prepared[1], "smoke")
    page, log = (out / "gpu.md").read_text(), (out / "log").read_text()
    assert done.returncode == 1, done.stdout
    assert done.stdout == log and log.endswith(page)
    titles = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert titles == [title for title, _ in proof.SMOKE]
    machine, agreement, speed, ops, beside, memcheck, times = page.split("\n## ")[1:]
    commit = run("git", "log", "-1", "--format=%h").stdout.strip()
    assert "| GPU | A GPU by name |" in machine and f"| commit | {commit}" in machine and "no NVIDIA driver answers" in machine
    assert "no NVIDIA driver answers" in agreement and "no NVIDIA driver answers" in speed
    assert "torch" in ops and all("Skipped: " in part for part in (ops, beside, memcheck, times))


def cannot_start(prepared, tmp_path):
    """The folder, with a zoodip that wants a newer glibc."""
    folder = tmp_path / "cannot start"
    shutil.copytree(prepared[1], folder)
    (folder / "programs" / "zoodip").write_text("#!/bin/bash\necho GLIBC_9.9 not found >&2\nexit 1\n")
    return folder


@needs_nvcc
def test_what_cannot_be_built_in_place_of_programs_that_do_not_start_ends_it_at_once(prepared, tmp_path, elsewhere):
    done, out = elsewhere(cannot_start(prepared, tmp_path), "smoke")
    assert done.returncode == 3
    assert "building here, since the carried programs do not start: GLIBC_9.9 not found" in done.stdout
    assert "go: nvcc is missing: install NVIDIA's CUDA toolkit, 12.4 or newer" in done.stdout
    assert [f.name for f in out.iterdir()] == ["log"]


@needs_nvcc
def test_a_build_there_asks_for_compilers_and_cmake_alone(prepared, tmp_path, elsewhere):
    (tmp_path / "bin" / "nvcc").symlink_to("/bin/true")
    done, _ = elsewhere(prepared[1], "smoke", GO_BUILD="1")
    assert done.returncode == 3 and "building here, since GO_BUILD is set" in done.stdout
    assert done.stdout.rstrip().endswith("apt-get install cmake gcc g++")


@needs_nvcc
def test_the_folder_has_the_sources_and_all_libraries_of_a_build_there(prepared, tmp_path):
    carried = prepared[1] / "libraries"
    with tarfile.open(prepared[1] / "tree.tar.gz") as tree:
        tree.extractall(tmp_path, filter="data")
    options = (tmp_path / "OPTIONS").read_text().splitlines()
    assert "-DCMAKE_CUDA_ARCHITECTURES=90-real" in options
    run("cmake", "-B", tmp_path / "build", "-S", tmp_path, *options, f"-DCMAKE_PREFIX_PATH={carried}", "-DZOODIP_CUDA=OFF",
        env={"PATH": f"{carried / 'bin'}:{os.environ['PATH']}", "CPATH": str(carried / "include")})
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    for name in ("bin/pkg-config", "lib/libcjson", "lib/libutf8proc", "lib/libpng", "lib/libjpeg", "lib/libwebp", "lib/libwebpdemux", "lib/libz", "lib/libcrypto"):
        assert f"={carried}/{name}" in cache
    assert "GNU Make" in run(carried / "bin" / "make", "--version").stdout
    headers = run("gcc", "-M", f"-I{carried / 'include'}", f"-I{tmp_path / 'src'}", *(tmp_path / "src").rglob("*.c"), cwd=tmp_path).stdout
    assert not [word for word in headers.split() if re.search(r"^/usr/.*(cJSON|utf8proc|png|jpeg|jconfig|jerror|webp|openssl|zlib|zconf)", word)]


@needs_nvcc
@pytest.mark.skipif(not NIGHTLY, reason="a minute on two cores: by tests/run.sh --nightly")
def test_programs_that_do_not_start_are_built_there(prepared, tmp_path, elsewhere):
    done, out = elsewhere(cannot_start(prepared, tmp_path), "450", tools=[os.environ["PATH"]], CUDA_HOME=str(Path(NVCC).parents[1]), **FAST)
    assert done.returncode == 1, done.stdout
    assert "the carried programs do not start" in done.stdout and "no NVIDIA driver answers" in done.stdout
    assert "built on this machine in" in (out / "gpu.md").read_text() and "Built target zoodip" in (out / "build.log").read_text()


@pytest.mark.parametrize("arguments, said", [(["quickly"], "go: quickly: expected smoke, full or seconds"), ([""], "expected smoke, full or seconds")])
def test_go_refuses_other_words(tmp_path, elsewhere, arguments, said):
    (tmp_path / "kit").mkdir()
    shutil.copy(GO, tmp_path / "kit")
    done, out = elsewhere(tmp_path / "kit", *arguments)
    assert done.returncode == 2 and said in done.stderr and not out.exists()


@pytest.mark.parametrize("arguments, said", [(["--fast"], "prepare: --fast: no such option"), (["--python", "three"], "prepare: --python three: expected"),
                                             (["--architectures", "9.0"], "prepare: --architectures 9.0: expected"), (["a", "b"], "one FOLDER at a time"),
                                             (["--build"], "prepare: --build needs a value")])
def test_prepare_refuses_what_it_does_not_know(arguments, said):
    done = run(PREPARE, *arguments, check=False)
    assert done.returncode == 2 and said in done.stderr


@needs_nvcc
def test_prepare_leaves_a_folder_with_other_things_alone(tmp_path):
    (tmp_path / "letter").write_text("dear")
    done = run(PREPARE, tmp_path, check=False)
    assert done.returncode == 2 and "holds other things" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["letter"]


@pytest.mark.parametrize("script, said", [("run.sh", "nvidia-smi is missing"), ("prepare", "nvcc is missing: install NVIDIA's CUDA toolkit")])
def test_a_machine_that_lacks_what_nothing_goes_without_is_refused_by_name(tmp_path, script, said):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    done = run(shutil.which("bash"), ROOT / "tests/gpu" / script, check=False, env={"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)})
    assert done.returncode == 2 and done.stderr.startswith(f"{script}: {said}") and done.stderr.count("\n") == 1


def test_prepare_names_the_packages_that_are_missing(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    (tmp_path / "nvcc").symlink_to("/bin/true")
    done = run(shutil.which("bash"), PREPARE, tmp_path / "kit", check=False, env={"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)})
    assert done.returncode == 2 and not (tmp_path / "kit").exists()
    for package in ("cmake", "g++", "binutils", "libcjson-dev", "zlib1g-dev"):
        assert package in done.stderr.split("apt-get install ")[1].split()
