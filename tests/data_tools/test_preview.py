"""The page to look at: self-contained, bounded, and safe whatever cameras are called."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from data_tools.preview import _sizes, write_preview
from data_tools.shards import ImportTracklet, write_dataset
from taudl_dist.cli import main
from taudl_dist.dataset import Sample
from taudl_dist.errors import UsageError, UserError


def jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 48), (value, 40, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def dataset(tmp_path):
    tracklets = [
        ImportTracklet(camera=camera, split=split, name=str(n), frames=[(f, jpeg(9 * n)) for f in range(1 + n)], person_id=n)
        for camera in ("<script>alert(1)</script>", "cam2") for split in ("train", "both") for n in range(12)
    ]  # fmt: skip
    return write_dataset(tmp_path / "dataset", tracklets, settings={}, source={})


def test_the_page(dataset, tmp_path):
    page = write_preview(dataset, tmp_path / "page.html", tracklets=5).read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere
    sheets = [base64.b64decode(found) for found in re.findall(r"image/jpeg;base64,([^\"]+)", page)]
    assert len(sheets) == 6  # 2 cameras, 3 splits
    assert all(Image.open(io.BytesIO(sheet)).height == 5 * 98 for sheet in sheets)  # 5 of 12 tracklets each
    again = write_preview(dataset, tmp_path / "again.html", tracklets=5)
    assert again.read_text() == page


def test_as_a_command(dataset, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["preview", str(dataset), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and out.is_file()
    assert main(["preview", str(dataset), "--out", str(tmp_path / "nowhere" / "page.html")]) == 1


def test_a_corrupt_image_is_named(dataset, tmp_path):
    for tar in (dataset / "shards").glob("*.tar"):
        content = bytearray(tar.read_bytes())
        content[512:612] = bytes(100)
        tar.write_bytes(content)
    with pytest.raises(UserError, match="does not decode"):
        write_preview(dataset, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_no_tracklets_and_boxes_that_are_none(dataset, tmp_path):
    with pytest.raises(UsageError, match="--tracklets 0: expected at least 1"):
        write_preview(dataset, tmp_path / "page.html", tracklets=0)
    sample = Sample(key="a-1", frames=[0], jpegs=[jpeg(1)], meta={"boxes": [["a", 1, 2]]}, members={})
    with pytest.raises(UserError, match=r"tracklet a-1: its boxes .* are damaged"):
        _sizes(sample)
