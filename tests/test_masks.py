"""Masks beside pictures weigh the loss, as kohya's sd-scripts does it: mean(w d^2), w being the mask, fitted as its picture is and then
averaged over each place of the latent."""
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import TOYBOX, agree, cuda_program, learned, losses_of, metrics, mpirun, needs_cuda, program, refused, run, write_recipe
from test_cuda import planned_and_taken
from test_photos import warnings
from twin import FrozenModel

NEEDS = "peers standin"
BEAR = TOYBOX / "subjects" / "bear5"
# a picture's size, its mask's; the last has none
SIZES = [((90, 70), (90, 70)), ((70, 90), (35, 45)), ((64, 64), (200, 200)), ((101, 67), (53, 35)), ((64, 64), None)]


def fitted(image, fit, side=64):
    if fit == "crop":
        least = min(image.size)
        left, top = (image.width - least) // 2, (image.height - least) // 2
        image = image.crop((left, top, left + least, top + least))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def masked_photos(folder, fit="crop"):
    """Writes pictures and masks of several sizes -> what a model sees of both, with a place's weight from 0 to 1."""
    folder.mkdir(parents=True)
    generator, pictures, masks = np.random.default_rng(4), [], []
    for i, (size, mask_size) in enumerate(SIZES):
        picture = Image.open(BEAR / f"0{i}.png").convert("RGB").resize(size)
        picture.save(folder / f"0{i}.png")
        pictures.append(np.asarray(fitted(picture, fit), dtype=np.float32) / 127.5 - 1)
        mask = Image.new("L", (4, 4), 255)
        if mask_size:
            mask = Image.fromarray(generator.integers(0, 256, (7, 5), dtype=np.uint8)).resize(mask_size)
            mask.save(folder / f"0{i}-{'masklabel' if i == 2 else 'mask'}.png")
        masks.append(torch.from_numpy(np.asarray(fitted(mask, fit), dtype=np.float32) / 255))
    return pictures, masks


def twin_of(folder, fit="crop", vectors=1):
    pictures, masks = masked_photos(folder, fit)
    model = FrozenModel(TOYBOX / "model", [], "sks", vectors)
    model.pictures, model.masks = pictures, masks
    return model


def settings(folder, photos, **changes):
    return write_recipe(folder, **{**dict(
        model=str(TOYBOX / "model"), device="cpu", seed=5, quant__bits=32, data__images=str(photos), data__resolution=64, data__flip=True, use_cc=False, data__captions=None,
        zo__n=2, zo__derivative="tangent", optim__steps=4, optim__batch_size=3, output__save_every=1, output__prompts=[]), **changes})


@pytest.mark.parametrize("derivative, fit", [("tangent", "crop"), ("difference", "squash")])
def test_losses_and_slopes_are_pytorchs(tmp_path, derivative, fit):
    model = twin_of(tmp_path / "photos", fit)
    config, output = settings(tmp_path, tmp_path / "photos", zo__derivative=derivative, data__fit=fit)
    said = run(program("zoodip"), "train", config).stderr
    assert "encoding 5 pictures, 4 with masks" in said and "warning" not in said
    word, seen = model.word("toy")[None], set()
    for step, line in enumerate(metrics(output), 1):
        run(program("tests/draws"), config, step, tmp_path / "draws")
        draws = load_file(tmp_path / "draws")
        seen |= {(int(p) == 4, int(f)) for p, f in zip(draws["picture"], draws["flip"])}
        losses = torch.tensor(line["losses"], dtype=torch.float64).reshape(-1, 3)
        if derivative == "tangent":
            theirs, slopes = model.slopes(word, draws)
            assert (torch.tensor(line["slopes"]).reshape(3, 2) - slopes).abs().max() < 1e-4 * slopes.square().mean().sqrt()
        else:
            theirs = model.losses(word, draws, 1e-3)
        assert ((losses - theirs).abs() / theirs).max() < 1e-5, f"step {step}"
        word = load_file(output / f"learned_embeds-steps-{step}.safetensors")["sks"]
    assert seen >= {(False, 0), (False, 1), (True, 0)}, "not every kind was drawn: the case tests too little"


def test_masks_are_in_looks_and_white_ones_change_nothing(tmp_path):
    masked_photos(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "white")
    shutil.copytree(tmp_path / "photos", tmp_path / "plain")
    for path in (tmp_path / "photos").glob("*-mask*.png"):
        (tmp_path / "plain" / path.name).unlink()
        Image.new("RGB", Image.open(path).size, "white").save(tmp_path / "white" / path.name)
    found = {}
    for name in ("photos", "white", "plain"):
        config, output = settings(tmp_path / f"{name}-run", tmp_path / name, output__validate_every=2)
        run(program("zoodip"), "train", config)
        looks = [line["validation_loss"] for line in metrics(output) if "validation_loss" in line]
        found[name] = torch.tensor(sum(losses_of(output), []) + looks, dtype=torch.float64)
        assert len(looks) == 2
    agree(found["white"], found["plain"], 1e-6)
    assert (found["photos"][:3] <= found["plain"][:3] * (1 + 1e-6)).all() and found["photos"].mean() < 0.7 * found["plain"].mean()


def test_the_same_bits_on_any_number_of_ranks(tmp_path):
    masked_photos(tmp_path / "photos")
    words = set()
    for ranks in (1, 3):
        config, output = settings(tmp_path / str(ranks), tmp_path / "photos")
        mpirun(ranks, program("zoodip"), "train", config)
        words.add(learned(output))
    assert len(words) == 1


def test_a_run_knows_its_masks_by_their_contents(tmp_path):
    masked_photos(tmp_path / "photos")
    config, _ = settings(tmp_path, tmp_path / "photos", output__checkpoint_every=1)
    run(program("zoodip"), "train", config)
    (tmp_path / "photos").rename(tmp_path / "moved")
    more = ["--resume", "--set", f"data.images={tmp_path / 'moved'}", "--set"]
    run(program("zoodip"), "train", config, *more, "optim.steps=5")
    mask = tmp_path / "moved" / "01-mask.png"
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    for _ in range(2):  # another one, then none
        done = run(program("zoodip"), "train", config, *more, "optim.steps=6", check=False)
        assert done.returncode == 2 and "made with other pictures" in done.stderr
        mask.unlink(missing_ok=True)


def test_a_queue_says_if_a_finished_job_has_other_masks_now(tmp_path):
    masked_photos(tmp_path / "photos")
    config, output = settings(tmp_path, tmp_path / "photos")
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps({"defaults": json.loads(config.read_text()), "jobs": [{"name": "a"}, {"name": "b", "data.images": [str(tmp_path / "photos/04.png")]}]}))
    run(program("zoodip"), "run", jobs)
    mask, photo = (tmp_path / "photos" / name for name in ("01-mask.png", "01a.png"))
    for change in (lambda: mask.rename(photo), photo.unlink):  # the same file as a photo, then none
        change()
        said = run(program("zoodip"), "run", jobs, "--resume", check=False).stderr
        assert "a: is finished and stays as it is, with other photos, captions or first word than it has now" in said and " b: is finished" not in said


# -------------------------------------------------------------------------------- which file is a mask


def photos_of(folder, **sizes):
    folder.mkdir()
    for name, size in sizes.items():
        Image.new("RGB", size, "gray").save(folder / (name.replace("__", ".").replace("_mask", "-mask")))
    return folder


def test_a_mask_is_never_a_picture(tmp_path):
    photos = photos_of(tmp_path / "photos", a__png=(80, 80), a_mask__png=(80, 80), b_mask__png=(80, 80), c__jpg=(80, 64), c_mask__png=(40, 32), d_mask__PNG=(8, 8), d__jpeg=(80, 80),
                       e_masklabel__png=(8, 8), g__png=(80, 80), g_mask__jpg=(80, 80))
    told = f'data.images: "%s": not used: b-mask.png, {{}}; a picture NAME.png or NAME.jpg has its mask in NAME-mask.png'
    assert warnings(tmp_path, data__images=str(photos)) == [(told % photos).replace("{}", "d-mask.PNG, e-masklabel.png, g-mask.jpg")]
    listed = [str(photos / name) for name in ("a.png", "a-mask.png", "c.jpg", "b-mask.png")]
    assert warnings(tmp_path, data__images=listed) == [(told % listed[0]).replace(", {}", "")]
    for path in [*photos.glob("[a-g].*"), photos / "g-mask.jpg"]:
        path.unlink()
    config, _ = settings(tmp_path / "none", photos)
    refused(run(program("zoodip"), "train", config, check=False), "no pictures here (", "only ", "a-mask.png, b-mask.png")


def test_a_mask_of_another_shape_or_all_black_is_refused(tmp_path):
    photos = photos_of(tmp_path / "photos", a__png=(120, 80), a_mask__png=(80, 120))
    config, _ = settings(tmp_path, photos)

    def said():
        done = run(program("zoodip"), "train", config, "--quiet", check=False)
        assert not (tmp_path / "out" / "checkpoints").exists()
        return done
    refused(said(), f"{photos}/a-mask.png: has 80x120 pixels, its photo 120x80; expected the same, or the same shape")
    Image.new("L", (61, 40), 0).save(photos / "a-mask.png")
    refused(said(), f"{photos}/a-mask.png: is black all over")
    (photos / "a-mask.png").write_text("no picture")
    refused(said(), f"{photos}/a-mask.png")


def test_transparent_places_do_not_count(tmp_path):
    """Whatever colour lies under them; a mask without white is refused, so this one is of use only if it is black there."""
    photos = photos_of(tmp_path / "photos", a__png=(80, 80))
    config, _ = settings(tmp_path, photos, optim__steps=1)
    for alpha, white in ((0, False), (255, True)):
        Image.new("RGBA", (80, 80), (255, 255, 255, alpha)).save(photos / "a-mask.png")
        done = run(program("zoodip"), "train", config, "--quiet", check=False)
        assert (done.returncode == 0) == white and ("is black all over" in done.stderr) != white


def test_a_mask_lies_over_its_photo_as_it_is_shown(tmp_path):
    """The photo is turned by its EXIF data."""
    photos, exif = tmp_path / "photos", Image.Exif()
    photos.mkdir()
    exif[0x0112] = 6
    Image.new("RGB", (120, 80), "gray").save(photos / "a.jpg", exif=exif)
    Image.new("1", (80, 120), 1).save(photos / "a-mask.png")
    assert warnings(tmp_path, data__images=str(photos)) == []


# -------------------------------------------------------------------------------- on a GPU


@needs_cuda
def test_a_gpu_plans_the_masks_and_finds_the_same_losses(tmp_path, random_models):
    masked_photos(tmp_path / "photos")
    keys = dict(model=str(random_models("plain")), data__resolution=16, zo__derivative="difference")
    found = []
    for device in ("cuda", "cpu"):
        config, output = settings(tmp_path / device, tmp_path / "photos", device=device, optim__steps=1, **keys)
        said = run(cuda_program("zoodip"), "train", config).stderr
        found.append(torch.tensor(losses_of(output)[0], dtype=torch.float64))
        if device == "cuda":
            planned, taken = planned_and_taken(said)
            assert planned == taken == json.loads(run(program("zoodip"), "inspect", config).stdout)["memory_plan"]["bytes"]
    agree(*found, 1e-4)
