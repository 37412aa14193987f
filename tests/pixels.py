"""Pixels as zoodip reads them (the helper `picture`) and as Pillow does, and pictures to read: noise, PNGs of any form."""
import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

from conftest import program, run


def picture(*arguments):
    return run(program("tests/picture"), *arguments, check=False)


def ours(path, *arguments):
    out = path.parent / "out.png"
    done = picture(path, out, *arguments)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return np.array(Image.open(out))


def pillow(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a palette with several alphas
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def same_as_pillow(path):
    np.testing.assert_array_equal(ours(path), np.array(pillow(path)))


def noise(height, width, channels=3, seed=0):
    """Smooth shapes with noise: they do not compress to nothing, and do not hide a filter's mistakes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), dtype=np.uint8)
    smooth = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height, :width].astype(int)
    mixed = np.clip(smooth + rng.integers(-40, 41, smooth.shape), 0, 255).astype(np.uint8)
    return mixed if channels > 1 else mixed[:, :, 0]


# PNG, built chunk by chunk, so that every depth and color type is covered


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def packed(values, depth):
    """Rows of samples [height, width * channels] as PNG packs them, each after filter type 0."""
    rows = b""
    for row in values:
        bits = "".join(format(int(v), f"0{depth}b") for v in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return rows


def png(values, depth, color, interlaced=False, before=b"", after=b""):
    height, width, channels = values.shape
    assert channels == CHANNELS[color]
    if interlaced:
        passes = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        data = b"".join(packed(p.reshape(p.shape[0], -1), depth) for p in passes if p.size)
    else:
        data = packed(values.reshape(height, -1), depth)
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(data)) + after
            + chunk(b"IEND", b""))


def encoded(pixels, kind, **options):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def over(path, color):
    """Pillow's picture, laid over an opaque color."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, color), image).convert("RGB"))
