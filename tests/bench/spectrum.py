#!/usr/bin/env python3
"""How many directions of a word hold what it can change, at the true size of Stable Diffusion 1.5's text encoder (768 wide, 12 layers,
77 positions): the smallest k whose eigenvalues hold a share of the trace of JtJ, J = d(keys and values of the UNet's 16
cross-attentions)/d(word). In PyTorch, by forward mode through the text encoder alone.

    .venv/bin/python tests/bench/spectrum.py                        all of it
    .venv/bin/python tests/bench/spectrum.py --only "alpha 3"       one kind of weights

No trained weights: "start" has transformers' initial weights, "alpha A" the same with each matrix's singular values s_i ~
i^(-1/(2(A - 1))), its norm kept. Their squares then have a density that falls as a power -A, as in trained networks (2 to 4; Martin
and Mahoney, arXiv 1810.01075). Singular vectors are random. Token rows have an rms of 0.014.
"""
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import layer_norm, linear
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arguments import arguments  # noqa: E402
from conftest import SD15  # noqa: E402

WIDTH, LENGTH, AT, HEADS = 768, 77, 5, 12  # AT: the word's place in the captions
CROSS = [320] * 5 + [640] * 5 + [1280] * 6  # channels of the UNet's cross-attentions
ROWS, LONG = 0.014, 70  # rms of token rows; tokens of the long caption
WEIGHTS = {"start": None, "alpha 4": 4, "alpha 3": 3, "alpha 2": 2}
SHARES = (0.9, 0.99, 0.999)


def power_law(w, alpha):
    """A matrix with other singular values."""
    u, s, v = torch.linalg.svd(w, full_matrices=False)
    law = torch.arange(1, len(s) + 1).pow(-1 / (2 * (alpha - 1)))
    return u * (law * s.norm() / law.norm()) @ v


class Model:
    def __init__(self, alpha):
        torch.manual_seed(0)
        shape = {**SD15["text"], "max_position_embeddings": LENGTH, "vocab_size": 100}
        self.text = CLIPTextModel(CLIPTextConfig(**shape, bos_token_id=98, eos_token_id=99)).requires_grad_(False)
        maps = [torch.nn.Linear(WIDTH, channels, bias=False).weight.detach() for channels in CROSS for _ in range(2)]
        if alpha:
            maps = [power_law(w, alpha) for w in maps]
            for name, p in self.text.named_parameters():
                if p.dim() == 2 and "embedding" not in name:
                    p.copy_(power_law(p, alpha))
        values, vectors = torch.linalg.eigh(sum(w.T @ w for w in maps))
        self.root = vectors * values.clamp_min(0).sqrt()
        self.weights = dict(self.text.named_parameters())
        next(w for name, w in self.weights.items() if name.endswith("token_embedding.weight")).normal_(std=ROWS)

    def ids(self, tokens):
        """A start, words, ends."""
        ids = torch.full((LENGTH,), 99)
        ids[0], ids[1:tokens + 1] = 98, torch.arange(1, tokens + 1)
        return ids

    def part(self, layer, name, of):
        prefix = next(key for key in self.weights if f"layers.{layer}.{name}." in key).rpartition(".")[0]
        return of(self.weights[prefix + ".weight"], self.weights[prefix + ".bias"])

    def outer(self, name):
        return next(w for key, w in self.weights.items() if key.endswith(name))

    def hidden(self, x):
        """transformers' CLIPTextModel from token embeddings [LENGTH, WIDTH] on, in operations that forward mode and vmap know."""
        def norm(layer, name):
            return self.part(layer, name, lambda w, b: layer_norm(x, (WIDTH,), w, b))

        def apply(layer, name, y):
            return self.part(layer, name, lambda w, b: linear(y, w, b))
        x = x + self.outer("position_embedding.weight")
        mask = torch.full((LENGTH, LENGTH), -torch.inf).triu(1)
        for layer in range(SD15["text"]["num_hidden_layers"]):
            y = norm(layer, "layer_norm1")
            q, k, v = (apply(layer, f"self_attn.{name}_proj", y).view(LENGTH, HEADS, -1).transpose(0, 1) for name in "qkv")
            y = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + mask, -1) @ v
            x = x + apply(layer, "self_attn.out_proj", y.transpose(0, 1).reshape(LENGTH, WIDTH))
            y = apply(layer, "mlp.fc1", norm(layer, "layer_norm2"))
            x = x + apply(layer, "mlp.fc2", y * torch.sigmoid(1.702 * y))
        return layer_norm(x, (WIDTH,), self.outer("final_layer_norm.weight"), self.outer("final_layer_norm.bias"))

    def spectrum(self, ids, vectors, chunk=48):
        """Eigenvalues of JtJ, largest first."""
        table = self.outer("token_embedding.weight")[ids]
        assert (self.hidden(table) - self.text(ids[None]).last_hidden_state[0]).abs().max() < 1e-3
        dim = vectors * WIDTH

        def columns(word):
            x = torch.cat([table[:AT], word.view(vectors, WIDTH), table[AT + vectors:]])
            return (self.hidden(x) @ self.root)[AT:]
        word, units = table[AT:AT + vectors].flatten(), torch.eye(dim)
        found = torch.empty(dim, (LENGTH - AT) * WIDTH)
        for first in range(0, dim, chunk):
            found[first:first + chunk] = torch.func.vmap(lambda u: torch.func.jvp(columns, (word,), (u,))[1])(units[first:first + chunk]).flatten(1)
        return torch.linalg.eigvalsh((found @ found.T).double()).flip(0)


def main():
    p = arguments("Measure the spectrum of a word's Jacobian.", __doc__)
    p.add_argument("--only", choices=WEIGHTS, nargs="*", default=list(WEIGHTS))
    p.add_argument("--vectors", type=int, nargs="*", default=[1, 2])
    a = p.parse_args()
    torch.set_grad_enabled(False)
    print("| weights | vectors | tokens | " + " | ".join(f"{100 * s:.3g} %" for s in SHARES) + " | first 16 hold | seconds |\n|" + " --- |" * 8)
    for kind in a.only:
        model = Model(WEIGHTS[kind])
        for vectors in a.vectors:
            for tokens in (AT + vectors - 1, LONG):
                began = time.perf_counter()
                held = (values := model.spectrum(model.ids(tokens), vectors)).cumsum(0) / values.sum()
                ranks = [int((held < share).sum()) + 1 for share in SHARES]
                print(f"| {kind} | {vectors} | {tokens} | " + " | ".join(map(str, ranks)) + f" | {held[15]:.0%} | {time.perf_counter() - began:.0f} |", flush=True)


if __name__ == "__main__":
    main()
