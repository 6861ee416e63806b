"""Cameras are named by files."""

from pathlib import Path

import pytest

from data_tools.camera_name import camera_name
from taudl_dist.errors import UserError


@pytest.mark.parametrize("stem", ["cam1", "a.b c,d", "T\u00fcr 3", "\u5165\u53e3", "x" * 250, "{0}%s<b>"])
def test_any_letters(stem):
    assert camera_name(Path("videos") / f"{stem}.mp4") == stem


@pytest.mark.parametrize("stem", ["a\nb", "a\tb", "a\udcffb", "\x7f"])
def test_what_no_table_can_hold(stem):
    with pytest.raises(UserError, match="rename the file"):
        camera_name(Path("videos") / f"{stem}.mp4")
