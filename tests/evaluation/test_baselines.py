"""What the baselines see."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from taudl_dist.batches.pipeline import CorruptImageError
from taudl_dist.errors import UserError
from taudl_dist.evaluation.baselines import colour_histogram, untrained_model
from taudl_dist.model import load_model


def test_histograms_are_shares_and_tell_colours_apart(picture):
    red, dark_red, green = colour_histogram(
        [
            picture(c, brightness=b, seed=s)
            for c, b, s in [((230, 40, 40), 1, 0), ((230, 40, 40), 0.9, 1), ((40, 200, 60), 1, 2)]
        ]
    )
    assert red.shape == (768,)
    assert (red**2).sum() == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(red - dark_red) < np.linalg.norm(red - green)


def test_stripes_know_above_from_below():
    def two_halves(upper, lower):
        image = Image.new("RGB", (48, 96), lower)
        image.paste(upper, (0, 0, 48, 48))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()

    first, second = colour_histogram([two_halves("red", "blue"), two_halves("blue", "red")])
    assert first @ second < 0.1  # the same colours, elsewhere
    assert first[: 768 // 2] @ second[768 // 2 :] == pytest.approx(0.5, abs=0.1)


def test_a_damaged_image_has_its_position(picture):
    with pytest.raises(CorruptImageError) as error:
        colour_histogram([picture((9, 9, 9), brightness=1, seed=0), b"no image"])
    assert error.value.position == 1


def test_untrained_is_what_the_run_began_with(run):
    model = untrained_model(run)
    saved = load_model(run)  # this run took no step
    for mine, theirs in zip(model.state_dict().values(), saved.state_dict().values()):
        assert torch.equal(mine, theirs)
    assert not model.training


def test_untrained_needs_a_run_folder(tmp_path):
    with pytest.raises(UserError, match=r"no config\.yaml"):
        untrained_model(tmp_path)
