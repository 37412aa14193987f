"""The ranks of a node share one copy of the weights, even of weights quantized at load: the memory that the kernel counts as
theirs (Pss of /proc/PID/smaps_rollup, shared pages divided among their users) is one copy and a little more for every rank."""
import re
from pathlib import Path

import pytest

from conftest import make_model, write_recipe
from live import kill, rank_processes, start, steps, until

NEEDS = "peers"
MIDDLE = dict(  # 50 million weights in the UNet: 50 MB in int8
    text=dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4, hidden_act="quick_gelu"),
    unet=dict(block_out_channels=(128, 256, 512), layers_per_block=1, norm_num_groups=32, attention_head_dim=8,
              down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
              up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")),
    vae=dict(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4))


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("middle"), MIDDLE, "float16")


def megabytes(folder, model, ranks):
    """The sum of the ranks' Pss while they learn, in MB."""
    config, output = write_recipe(folder, model=str(model), data__resolution=16, zo__n=3, optim__steps=100000, output__prompts=[],
                                  output__checkpoint_every=0, quant__bits=8)
    process = start(ranks, "train", config)
    try:
        until(lambda: steps(output) >= 2, process)
        counted = [int(re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{p}/smaps_rollup").read_text(), re.M)[1]) / 1e3 for p in rank_processes(config)]
    finally:
        kill(process, config)
    assert len(counted) == ranks
    print(f"{ranks} ranks: {sum(counted):.0f} MB, {', '.join(f'{mb:.0f}' for mb in counted)}")
    return sum(counted)


def test_four_ranks_take_the_memory_of_one_and_a_share_each(tmp_path, middle):
    alone, four = megabytes(tmp_path / "1", middle, 1), megabytes(tmp_path / "4", middle, 4)
    weights = sum(p.stat().st_size for p in (middle / "unet").glob("*.safetensors")) / 2e6
    assert four < alone + weights, "three ranks more take less than one copy more"
