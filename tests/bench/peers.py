#!/usr/bin/env python3
"""The engines that bench.py measures beside zoodip, each by itself: the evaluations of a step's lanes (text encoder, UNet, squared
error) in one batch, with the weights of a diffusers folder. A first batch is not counted.

    .venv/bin/python tests/bench/peers.py torch MODEL --lanes 3             a line of JSON (one to two minutes on 2 cores)
    build/bench/venv/bin/python tests/bench/peers.py openvino MODEL         the same by OpenVINO
    build/bench/venv/bin/python tests/bench/peers.py --prepare openvino-int8 MODEL      only the files that it needs

    torch, channels_last       eager PyTorch in fp32; UNet and latents with channels last
    openvino, openvino-bf16    OpenVINO, inference precision f32 or bf16
    openvino-int8              OpenVINO, UNet quantized by NNCF (weights and activations) on random inputs, the rest in f32
    openvino-int8-bf16         the same, the rest in bf16

OpenVINO's come from build/bench/venv, which bench.py makes (requirements.txt beside this file). They read MODEL/openvino, made on
first use: 3.9 GB in a minute for fp32, 0.9 GB more in two minutes for int8, which takes 12 GB of memory.
"""
import json
import os
import time
from pathlib import Path

from arguments import arguments

TOKENS, WIDTH, WORDS = 77, 768, 1500
# Of OpenVINO's: the UNet's file, and the precision of what is not in integers.
OPENVINO = {"openvino": ("unet", "f32"), "openvino-bf16": ("unet", "bf16"),
            "openvino-int8": ("unet-int8", "f32"), "openvino-int8-bf16": ("unet-int8", "bf16")}
TITLES = {"torch": "PyTorch fp32", "channels_last": "PyTorch fp32, channels last", "openvino": "OpenVINO fp32",
          "openvino-bf16": "OpenVINO bf16", "openvino-int8": "OpenVINO int8 (NNCF)", "openvino-int8-bf16": "OpenVINO int8 (NNCF), rest bf16"}


def load_torch(model):
    """(text encoder, UNet), as functions of tensors."""
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    class Plain(torch.nn.Module):
        """A network that returns its tensor without a name."""

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, *inputs):
            return self.network(*inputs, return_dict=False)[0]

    text = CLIPTextModel.from_pretrained(f"{model}/text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(f"{model}/unet", torch_dtype=torch.float32)
    return Plain(text).eval(), Plain(unet).eval()


# -------------------------------------------------------------------------------- OpenVINO's files


def save(network, path):
    import openvino
    openvino.save_model(network, path.with_suffix(".xml"), compress_to_fp16=False)
    path.with_suffix(".done").touch()


def convert(model, folder):
    import openvino
    import torch
    text, unet = load_torch(model)
    inputs = torch.randn(1, 4, 64, 64), torch.full((1,), 700), torch.randn(1, TOKENS, WIDTH)
    with torch.inference_mode():
        for name, network, example in (("text", text, torch.zeros(1, TOKENS, dtype=torch.int64)), ("unet", unet, inputs)):
            save(openvino.convert_model(network, example_input=example), folder / name)


def quantize(folder):
    """Two samples of noise are enough for speed; what they do to accuracy is not asked."""
    import nncf
    import numpy
    import openvino
    unet = openvino.Core().read_model(folder / "unet.xml")
    set_shapes(unet, 1, 64)
    random = numpy.random.default_rng(0)
    samples = [tuple(random.standard_normal(shape, numpy.float32) if shape != [1] else numpy.full(1, 700)
                     for shape in ([1, 4, 64, 64], [1], [1, TOKENS, WIDTH])) for _ in range(2)]
    unet = nncf.quantize(unet, nncf.Dataset(samples), subset_size=len(samples), model_type=nncf.ModelType.TRANSFORMER)
    save(unet, folder / "unet-int8")


def set_shapes(unet, lanes, latent):
    unet.reshape(dict(zip(unet.inputs, ([lanes, 4, latent, latent], [lanes], [lanes, TOKENS, WIDTH]))))


def prepared(name, model):
    """Whether its files are there and complete."""
    return (Path(model) / "openvino" / f"{OPENVINO[name][0]}.done").exists()


def prepare(name, model):
    folder = Path(model) / "openvino"
    folder.mkdir(exist_ok=True)
    if not prepared("openvino", model):
        convert(model, folder)
    if not prepared(name, model):
        quantize(folder)


# -------------------------------------------------------------------------------- steps


def torch_step(name, a):
    import torch
    torch.set_num_threads(a.threads)
    text, unet = load_torch(a.model)
    noisy, noise = torch.randn(2, 1, 4, a.size // 8, a.size // 8).unbind()
    noisy = noisy.expand(a.lanes, -1, -1, -1)
    if name == "channels_last":
        unet, noisy = unet.to(memory_format=torch.channels_last), noisy.contiguous(memory_format=torch.channels_last)
    ids, timestep = torch.randint(0, WORDS, (a.lanes, TOKENS)), torch.full((a.lanes,), 700)

    @torch.inference_mode()
    def step():
        hidden = text(ids)
        middle = time.perf_counter()
        (unet(noisy, timestep, hidden) - noise).square().flatten(1).mean(1)
        return middle
    return step


def openvino_step(name, a):
    import numpy
    import openvino
    folder, (file, precision) = Path(a.model) / "openvino", OPENVINO[name]
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": a.threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}

    def compiled(file, set_shapes):
        network = core.read_model(folder / f"{file}.xml")
        set_shapes(network)
        return core.compile_model(network, "CPU", options)
    text = compiled("text", lambda t: t.reshape([a.lanes, TOKENS]))
    unet = compiled(file, lambda u: set_shapes(u, a.lanes, a.size // 8))
    random = numpy.random.default_rng(0)
    noisy, noise = random.standard_normal((2, 1, 4, a.size // 8, a.size // 8), numpy.float32)
    noisy = numpy.repeat(noisy, a.lanes, 0)
    ids, timestep = random.integers(0, WORDS, (a.lanes, TOKENS)), numpy.full(a.lanes, 700)

    def step():
        hidden = text(ids)[0]
        middle = time.perf_counter()
        numpy.square(unet((noisy, timestep, hidden))[0] - noise).mean((1, 2, 3))
        return middle
    return step


def measure(name, a):
    began = time.perf_counter()
    step = (openvino_step if name in OPENVINO else torch_step)(name, a)
    loading = time.perf_counter() - began
    step()
    steps, in_text, began, used = -(-a.evaluations // a.lanes), 0.0, time.perf_counter(), time.process_time()
    for _ in range(steps):
        start = time.perf_counter()
        in_text += step() - start
    seconds = time.perf_counter() - began
    return dict(name=TITLES[name], lanes=a.lanes, evaluations=steps * a.lanes, seconds=seconds, step_seconds=seconds / steps,
                processor_seconds=time.process_time() - used, loading_seconds=loading,
                evaluations_per_second=steps * a.lanes / seconds, text_encoder_share=in_text / seconds)


def main():
    p = arguments("Measure another engine on zoodip's work.", __doc__)
    p.add_argument("peer", choices=TITLES)
    p.add_argument("model", help="a diffusers folder")
    p.add_argument("--prepare", action="store_true", help="make the files that the peer reads, and measure nothing")
    p.add_argument("--lanes", type=int, default=3)
    p.add_argument("--evaluations", type=int, default=6, help="at least so many are measured")
    p.add_argument("--size", type=int, default=512, help="pixels")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    a = p.parse_args()
    if a.peer in OPENVINO:
        prepare(a.peer, a.model)
    if not a.prepare:
        print(json.dumps(measure(a.peer, a)))


if __name__ == "__main__":
    main()
