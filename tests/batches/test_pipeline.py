from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from taudl_dist.batches.pipeline import MEAN, STD, CorruptImageError, DecodePipeline, jpeg_size
from taudl_dist.errors import UserError
from taudl_dist.model import backbone

WHOLE = np.array([0, 0, 1, 1], np.float32)


def jpeg(width, height, *, seed=0, mode="RGB", **options):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR).convert(mode).save(
        buffer, "JPEG", **options
    )
    return buffer.getvalue()


def decode(pipeline, jpegs, windows=None, flips=None):
    windows = np.tile(WHOLE, (len(jpegs), 1)) if windows is None else windows
    return pipeline.decode(jpegs, windows, np.zeros(len(jpegs), bool) if flips is None else flips)


@pytest.fixture(scope="module")
def pipeline():
    return DecodePipeline(8, 64, 32, "cpu", num_threads=1)


@pytest.mark.parametrize(
    "options", [{}, {"mode": "L"}, {"progressive": True}, {"quality": 30}, {"exif": b"Exif\0\0" + b"\xff" * 300}]
)
@pytest.mark.parametrize(("width", "height"), [(64, 128), (1, 1), (301, 7)])
def test_jpeg_size(width, height, options):
    assert jpeg_size(jpeg(width, height, **options)) == (width, height)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a JPEG"),
        (b"GIF89a", "not a JPEG: it starts with b'GIF8'"),
        (b"\xff\xd8", "damaged"),
        (jpeg(64, 64)[:150], "no frame header"),
        (b"\xff\xd8\xff\xe0\x00\x00" + b"\x00" * 40, "damaged"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03", "65535 x 65535"),  # a decompression bomb
        (b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x00\x10\x03", "16 x 0"),
        (b"\xff\xd8" + b"\xff" * 1000, "damaged"),
    ],
)
def test_jpeg_size_of_something_else(data, words):
    with pytest.raises(UserError, match=words):
        jpeg_size(data)


def test_size_and_normalisation(pipeline):
    """At its own size an image is only decoded and normalised."""
    data = jpeg(32, 64, quality=95)
    (image,) = decode(pipeline, [data])
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float64) / 255
    expected = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    assert image.dtype == torch.float32 and image.shape == (3, 64, 32)
    assert np.abs(image.numpy() - expected).max() < 3 / 255 / min(STD)  # decoders round differently


def test_resizes_like_a_bilinear_filter(pipeline):
    data = jpeg(90, 130, quality=95)
    (image,) = decode(pipeline, [data])
    resized = Image.open(io.BytesIO(data)).resize((32, 64), Image.Resampling.BILINEAR)
    expected = ((np.asarray(resized, np.float64) / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert np.abs(image.numpy() - expected).mean() < 0.01


def test_windows_are_exact_pixels_and_flips_mirror(pipeline):
    data = jpeg(60, 100, quality=95)
    window = np.array([[7 / 60, 13 / 100, 32 / 60, 64 / 100]], np.float32)
    plain, mirrored = decode(pipeline, [data] * 2, np.repeat(window, 2, axis=0), [False, True])
    pixels = np.asarray(Image.open(io.BytesIO(data)), np.float64)[13:77, 7:39] / 255
    assert np.abs(plain.numpy() - ((pixels - MEAN) / STD).transpose(2, 0, 1)).max() < 3 / 255 / min(STD)
    assert torch.equal(mirrored, plain.flip(-1))


def test_an_image_does_not_depend_on_batch_size_neighbours_or_threads(pipeline):
    jpegs = [jpeg(20 + 9 * i, 50 + 13 * i, seed=i) for i in range(8)]
    flips = np.arange(8) % 2 == 0
    together = decode(pipeline, jpegs, flips=flips)
    alone = [decode(pipeline, jpegs[i : i + 1], flips=flips[i : i + 1])[0] for i in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert torch.equal(decode(DecodePipeline(30, 64, 32, num_threads=3), jpegs, flips=flips), together)


def test_results_keep_their_memory(pipeline):
    first = decode(pipeline, [jpeg(40, 80, seed=1)])
    copy = first.clone()
    decode(pipeline, [jpeg(40, 80, seed=2)])
    assert torch.equal(first, copy)


@pytest.mark.parametrize("position", [0, 2])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:40], lambda _: b"hello"])
def test_a_damaged_image_is_named_and_the_pipeline_lives_on(pipeline, position, damage):
    good = [jpeg(64, 128, seed=i, quality=95) for i in range(3)]
    before = decode(pipeline, good)
    bad = list(good)
    bad[position] = damage(bad[position])
    with pytest.raises(CorruptImageError, match=f"image {position} of the batch") as caught:
        decode(pipeline, bad)
    assert caught.value.position == position
    assert torch.equal(decode(pipeline, good), before)


def test_works_from_another_thread(pipeline):
    results = []
    thread = threading.Thread(target=lambda: results.append(decode(pipeline, [jpeg(50, 90)])))
    thread.start()
    thread.join()
    assert torch.equal(results[0], decode(pipeline, [jpeg(50, 90)]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_graph_agrees_with_cpu(pipeline):
    jpegs = [jpeg(64, 128, seed=i, quality=95) for i in range(5)]
    windows, flips = np.tile(np.array([0.125, 0.0625, 0.75, 0.875], np.float32), (5, 1)), np.arange(5) % 2 == 0
    on_gpu = decode(DecodePipeline(8, 64, 32, "cuda"), jpegs, windows, flips)
    assert on_gpu.is_cuda
    assert (on_gpu.cpu() - decode(pipeline, jpegs, windows, flips)).abs().mean() < 0.05


def test_the_model_file_states_what_images_were_normalised_with() -> None:
    assert (MEAN, STD) == (backbone.IMAGE_MEAN, backbone.IMAGE_STD)
