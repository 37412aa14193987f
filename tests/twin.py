"""The reference's training step, built from the reference packages: torch.optim.Adam on an fp32 row, scikit-learn's scaler and
PCA, and the real diffusers and transformers modules for the losses. Written from the published algorithm (arXiv 2503.14868,
section 4)."""

from pathlib import Path

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
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


def estimate(slopes, directions, scale):
    """The gradient from slopes [batch, n] and directions [n, dim], which all pictures share, or [batch n, dim], n for each
    picture; scale: what it is divided by, of the number of directions."""
    slopes = torch.as_tensor(slopes, dtype=torch.float64)
    slopes = slopes.mean(0) if len(directions) == slopes.shape[1] else slopes.flatten()
    return slopes @ directions.double() / scale(len(directions))


def papers_scale(dimensions):
    return lambda n: n * ((dimensions + n - 1) / n) ** 0.5


class Learner:
    """Updates an embedding [vectors, width] from slopes and directions, treating all vectors as one long row."""

    def __init__(self, start, lr, tau, nu):
        self.shape, self.tau, self.nu = start.shape, tau, nu
        self.row = torch.nn.Parameter(torch.as_tensor(start, dtype=torch.float32).flatten().clone())
        self.adam = torch.optim.Adam([self.row], lr=lr, betas=(0.9, 0.999), eps=1e-3)
        self.history, self.removed = [], torch.zeros(0, self.row.numel(), dtype=torch.float64)

    def without_removed(self, gradient):
        return gradient - (gradient @ self.removed.T) @ self.removed

    def step(self, slopes, directions):
        """slopes [batch, n]: of each picture's loss along its directions; directions [n, vectors, width], which all pictures
        share, or [batch n, ..], n for each picture -> the new embedding."""
        gradient = estimate(slopes, torch.as_tensor(directions).flatten(1), papers_scale(self.row.numel() - len(self.removed)))
        self.row.grad = self.without_removed(gradient).float()
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


class CoordinatesLearner(Learner):
    """The same with Adam in the coordinates of a basis [rank, dim] of orthonormal rows, which other rows may replace."""

    def __init__(self, start, lr, tau, nu):
        super().__init__(start, lr, tau, nu)
        self.e, self.lr, self.basis = self.row.detach().clone(), lr, None

    def use(self, basis):
        if self.basis is None:
            self.row = torch.nn.Parameter(torch.zeros(len(basis)))
            self.adam = torch.optim.Adam([self.row], lr=self.lr, betas=(0.9, 0.999), eps=1e-3)
        elif not torch.equal(self.basis, basis):
            turn, state = (basis.double() @ self.basis.double().T), self.adam.state[self.row]
            state["exp_avg"] = (turn @ state["exp_avg"].double()).float()
            state["exp_avg_sq"] = (turn.square() @ state["exp_avg_sq"].double()).float()
        self.basis = basis

    def step(self, slopes, weights):
        """weights [n or batch n, rank]: the directions are weights @ basis; None: the basis' rows, for each picture -> the new
        embedding."""
        basis = self.basis.double()
        if weights is None:
            y = torch.as_tensor(slopes, dtype=torch.float64).mean(0)
        else:
            y = estimate(slopes, weights, papers_scale(len(basis)))
        if len(self.removed):
            y = self.without_removed(y @ basis) @ basis.T
        self.row.data.zero_()
        self.row.grad = y.float()
        self.adam.step()
        self.e = (self.e.double() + self.row.detach().double() @ basis).float()
        return self.e.reshape(self.shape).clone()


class FrozenModel:
    """The frozen model and the pictures of a subject: losses of given embeddings, and their slopes, on given draws."""

    def __init__(self, model, pictures, placeholder, vectors, resolution=None):
        """resolution: of photos that are square and have another; None: they have it."""
        model = Path(model)
        load = {"torch_dtype": torch.float32}
        # the eager attention is the one that knows forward mode
        self.text = CLIPTextModel.from_pretrained(model / "text_encoder", attn_implementation="eager", **load).eval()
        self.unet = UNet2DConditionModel.from_pretrained(model / "unet", **load).eval()
        self.unet.set_attn_processor(AttnProcessor())
        self.vae = AutoencoderKL.from_pretrained(model / "vae", **load).eval()
        self.schedule = DDPMScheduler.from_pretrained(model / "scheduler")
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.tokenizer.add_tokens([placeholder] + [f"{placeholder}_{i}" for i in range(1, vectors)])
        self.first = self.tokenizer.convert_tokens_to_ids(placeholder)
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.table = self.text.get_input_embeddings().weight
        photos = [Image.open(p).convert("RGB") for p in sorted(pictures)]
        if resolution:
            photos = [photo.resize((resolution, resolution), Image.Resampling.BICUBIC) for photo in photos]
        self.pictures = [np.asarray(photo, dtype=np.float32) / 127.5 - 1 for photo in photos]
        self.masks = None  # or of each picture its grey values [height, width] from 0 to 1

    def word(self, word):
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        assert len(ids) == 1
        return self.table[ids[0]].detach().clone()

    @torch.no_grad()
    def losses(self, embedding, draws, eps, own=False):
        """embedding [vectors, width]; draws: tensors of one step, directions [n, vectors, width], or if pictures have their
        own [batch n, ..] -> losses [n + 1, batch]."""
        noisy, timestep, target, batch = *self.noisy(draws), len(draws["picture"])
        rows = [embedding.expand(batch, *embedding.shape), *(embedding + eps * z for z in per_direction(draws, batch, own))]
        lanes, ids = len(rows), draws["input_ids"].long()
        errors = self.errors(torch.cat(rows), ids.repeat(lanes, 1), noisy.repeat(lanes, 1, 1, 1), timestep.repeat(lanes),
                             target.repeat(lanes, 1, 1, 1), self.weights(draws).repeat(lanes, 1, 1, 1))
        return errors.reshape(lanes, -1)

    @torch.no_grad()
    def slopes(self, embedding, draws, own=False):
        """By PyTorch's forward mode -> losses [batch], slopes [batch, n]."""
        noisy, timestep, target, batch = *self.noisy(draws), len(draws["picture"])
        slopes = []
        for z in per_direction(draws, batch, own):
            with forward_ad.dual_level():
                rows = forward_ad.make_dual(embedding.expand(batch, *embedding.shape).contiguous(), z.contiguous())
                errors = self.errors(rows, draws["input_ids"].long(), noisy, timestep, target, self.weights(draws))
                losses, slope = forward_ad.unpack_dual(errors)
                slopes.append(slope)
        return losses, torch.stack(slopes, 1)

    def noisy(self, draws):
        """Noisy latents, timesteps and what the network should predict, [batch]."""
        latents = []
        for picture, flip, posterior in zip(draws["picture"], draws["flip"], draws["posterior"]):
            pixels = torch.from_numpy(self.pictures[int(picture)].copy()).permute(2, 0, 1)[None]
            distribution = self.vae.encode(pixels.flip(3) if flip else pixels).latent_dist
            latents.append(distribution.mean[0] + distribution.std[0] * posterior)
        latents = torch.stack(latents) * self.vae.config.scaling_factor
        timestep = draws["timestep"].long()
        velocity = self.schedule.config.prediction_type == "v_prediction"
        target = self.schedule.get_velocity(latents, draws["noise"], timestep) if velocity else draws["noise"]
        return self.schedule.add_noise(latents, draws["noise"], timestep), timestep, target

    def errors(self, rows, ids, noisy, timestep, target, weights):
        """The loss of each lane, in double."""
        predicted = self.unet(noisy, timestep, self.hidden(rows, ids)).sample
        return ((predicted - target).double().square() * weights).flatten(1).mean(1)

    def weights(self, draws):
        """[batch, 1, height, width] of the latents, as kohya's sd-scripts makes them of masks."""
        if self.masks is None:
            return torch.ones(len(draws["picture"]), 1, 1, 1)
        masks = [self.masks[int(picture)].flip(1) if flip else self.masks[int(picture)] for picture, flip in zip(draws["picture"], draws["flip"])]
        return torch.nn.functional.interpolate(torch.stack(masks)[:, None], size=draws["noise"].shape[2:], mode="area")

    def hidden(self, rows, ids):
        """Of each text [length] with the word's rows [vectors, width] of its own."""
        def put_rows(_, inputs, output):
            place = (ids - self.first).clamp(0, rows.shape[1] - 1)[..., None].expand(*ids.shape, rows.shape[2])
            ours = (ids >= self.first) & (ids < self.first + rows.shape[1])
            return torch.where(ours[..., None], rows.gather(1, place), output)
        hook = self.text.get_input_embeddings().register_forward_hook(put_rows)
        hidden = self.text(ids).last_hidden_state
        hook.remove()
        return hidden


def per_direction(draws, batch, own):
    """For each direction i = 1..n those of the pictures [batch, vectors, width], which are the same unless they have their own."""
    z = draws["directions"]
    return (z.reshape(batch, -1, *z.shape[1:]) if own else z.expand(batch, *z.shape)).transpose(0, 1)
