"""Image files as JPEG: copied, encoded, or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.benchmarks.images import Frames, encoder, image, read_image
from taudl_dist.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)


def content(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("tail", [b"", b"\0\0", b"camera data" * 20], ids=["none", "padding", "long"])
def test_a_jpeg_stays_as_it_is(tmp_path, tail):
    path = tmp_path / "one.JPG"
    path.write_bytes(content("JPEG") + tail)
    assert image(path)() == path.read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_png_is_encoded(tmp_path, mode):
    picture = Image.fromarray(PIXELS // 64 * 64).resize((32, 64), Image.Resampling.NEAREST).convert(mode)
    picture.save(tmp_path / "one.png")
    jpeg = read_image(tmp_path / "one.png")
    with Image.open(io.BytesIO(jpeg)) as decoded:
        assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", (32, 64))
        difference = np.asarray(decoded, int) - np.asarray(picture.convert("RGB"), int)
    assert np.abs(difference).mean() < 6
    assert jpeg == read_image(tmp_path / "one.png")
    assert "quality 95, 4:4:4" in encoder()["jpeg"]


def bad(tmp_path):
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    jpeg, png = content("JPEG"), content("PNG")
    return {
        "empty.jpg": b"",
        "start.jpg": b"\xff\xd8" + b"x" * 100,
        "cut.jpg": jpeg[: len(jpeg) * 2 // 3],
        "disguised.jpg": png,
        "cut.png": png[: len(png) // 2],
        "text.png": b"<html>404</html>",
        "missing.png": None,
        "loop.jpg": None,
        "folder.jpg": None,
    }


@pytest.mark.parametrize("case", range(9))
def test_what_is_no_image(tmp_path, case):
    name, data = list(bad(tmp_path).items())[case]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    kind = "PNG" if name.endswith("png") else "JPEG"
    with pytest.raises(UserError, match=rf"^\S+{name}: not a readable {kind} \(.+\); the copy is damaged"):
        read_image(tmp_path / name)


def test_frames_of_a_folder(tmp_path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(content("JPEG") + name.encode())
    frames = Frames(tmp_path, ["b.jpg", "a.jpg"])
    assert len(frames) == 2 and [number for number, _ in frames] == [0, 1]
    assert [jpeg()[-5:] for _, jpeg in frames] == [b"b.jpg", b"a.jpg"]
