"""The reference's training step, built from the reference packages: torch.optim.Adam on an fp32 row, scikit-learn's scaler and
PCA, and the real diffusers and transformers modules for the losses. Written from the published algorithm (arXiv 2503.14868,
section 4)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from transformers import CLIPTextModel, CLIPTokenizer


def removed_directions(history, nu):
    """Principal directions after those that hold a fraction 1 - nu of the variance; the last one of centred data is not a
    direction."""
    h = StandardScaler().fit_transform(history.astype(np.float64))
    pca = PCA(min(len(h) - 1, h.shape[1]), svd_solver="full").fit(h)
    k = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) > 1 - nu))
    return torch.tensor(pca.components_[k + 1:])


class Learner:
    """Updates an embedding [vectors, width] from losses and directions, treating all vectors as one long row."""

    def __init__(self, start, lr, eps, tau, nu):
        self.shape, self.eps, self.tau, self.nu = start.shape, eps, tau, nu
        self.row = torch.nn.Parameter(torch.as_tensor(start, dtype=torch.float32).flatten().clone())
        self.adam = torch.optim.Adam([self.row], lr=lr, betas=(0.9, 0.999), eps=1e-3)
        self.history, self.removed = [], torch.zeros(0, self.row.numel(), dtype=torch.float64)

    def step(self, losses, directions):
        """losses [n + 1, batch], directions [n, vectors, width] -> the new embedding."""
        z = torch.as_tensor(directions).flatten(1).double()
        loss = torch.as_tensor(losses, dtype=torch.float64).mean(1)
        n, d = len(z), self.row.numel() - len(self.removed)
        gradient = ((loss[1:] - loss[0]) / self.eps) @ z / (n * ((d + n - 1) / n) ** 0.5)
        self.row.grad = (gradient - (gradient @ self.removed.T) @ self.removed).float()
        self.adam.step()
        return self.row.detach().reshape(self.shape).clone()

    def remember(self, embedding):
        """Adds the updated embedding to the history. A separate function, so that a replay can use the embeddings of the run it
        follows: the directions of least variance magnify the last bit of a history a thousandfold, and PyTorch's Adam, whose
        square root is not exactly rounded, sometimes differs in the last bit."""
        self.history.append(embedding.flatten().numpy().copy())
        if len(self.history) == self.tau:
            self.removed = removed_directions(np.stack(self.history), self.nu)
            self.history = []


class FrozenModel:
    """The frozen model and the pictures of a subject: losses of given embeddings on given draws."""

    def __init__(self, model, pictures, placeholder, vectors):
        model = Path(model)
        load = {"torch_dtype": torch.float32}
        self.text = CLIPTextModel.from_pretrained(model / "text_encoder", **load).eval()
        self.unet = UNet2DConditionModel.from_pretrained(model / "unet", **load).eval()
        self.vae = AutoencoderKL.from_pretrained(model / "vae", **load).eval()
        self.schedule = DDPMScheduler.from_pretrained(model / "scheduler")
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.tokenizer.add_tokens([placeholder] + [f"{placeholder}_{i}" for i in range(1, vectors)])
        self.first = self.tokenizer.convert_tokens_to_ids(placeholder)
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.table = self.text.get_input_embeddings().weight
        self.pictures = [np.asarray(Image.open(p).convert("RGB"), dtype=np.float32) / 127.5 - 1 for p in sorted(pictures)]

    def word(self, word):
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        assert len(ids) == 1
        return self.table[ids[0]].detach().clone()

    @torch.no_grad()
    def losses(self, embedding, draws, eps):
        """embedding [vectors, width]; draws: tensors of one step -> losses [n + 1, batch]."""
        latents = []
        for picture, flip, posterior in zip(draws["picture"], draws["flip"], draws["posterior"]):
            pixels = torch.from_numpy(self.pictures[int(picture)].copy()).permute(2, 0, 1)[None]
            distribution = self.vae.encode(pixels.flip(3) if flip else pixels).latent_dist
            latents.append(distribution.mean[0] + distribution.std[0] * posterior)
        latents = torch.stack(latents) * self.vae.config.scaling_factor
        timestep = draws["timestep"].long()
        noisy = self.schedule.add_noise(latents, draws["noise"], timestep)
        rows = [embedding, *(embedding + eps * z for z in draws["directions"])]
        hidden = torch.cat([self.hidden(row, draws["input_ids"].long()) for row in rows])
        lanes = len(rows)
        predicted = self.unet(noisy.repeat(lanes, 1, 1, 1), timestep.repeat(lanes), hidden).sample
        errors = predicted - draws["noise"].repeat(lanes, 1, 1, 1)
        return errors.double().square().flatten(1).mean(1).reshape(lanes, -1)

    def hidden(self, rows, ids):
        self.table.data[self.first:self.first + len(rows)] = rows
        return self.text(ids).last_hidden_state
