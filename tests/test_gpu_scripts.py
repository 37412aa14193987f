"""What tests/gpu and tests/bench work out on paper is held against the real thing: the layer list against diffusers and
transformers, the roofline's operations against PyTorch's own count."""
import argparse
import json
import shutil
import sys
from math import log2

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from conftest import BUILD, ROOT, program, run, write_recipe

sys.path[:0] = [str(ROOT / "tests" / "gpu"), str(ROOT / "tests" / "bench")]
import proof  # noqa: E402
import model  # noqa: E402
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


def test_the_scaling_model_finds_its_terms_again_and_draws_them(tmp_path):
    """0.1 ms alone, rounds of 0.05 ms, and of 0.01 ms more for each rank a core beyond the first, on 4 cores."""
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
def test_the_references_step_runs(small, options):
    said = run(sys.executable, ROOT / "tests/gpu/reference.py", small, "--size", 16, "--seconds", 0.01, *options).stdout
    assert json.loads(said.splitlines()[-1])["steps_per_second"] > 0


def test_the_plan_is_found_in_what_inspect_prints(tmp_path):
    session = proof.Session(argparse.Namespace(build=tmp_path, gpu="0", limit=60, spent=0))
    session.build = BUILD
    config, _ = write_recipe(tmp_path)
    planned = proof.planned_bytes(session, config)
    plan = json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]
    assert planned == max(plan["encode pictures"]["bytes"], plan["train"]["bytes"])


def test_a_machine_without_a_gpu_is_refused_by_name(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    done = run(shutil.which("bash"), ROOT / "tests/gpu/run.sh", check=False, env={"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (2, "run.sh: nvidia-smi is missing\n")
