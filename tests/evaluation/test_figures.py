"""Pictures by pixel facts: known colours at known places, the same bytes every time."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from taudl_dist.evaluation import figures
from taudl_dist.evaluation.figures import BORDER, CAPTION, GAP, IMAGE_HEIGHT, IMAGE_WIDTH, MARGIN, QUERY_GAP

FRAMED = IMAGE_WIDTH + 2 * BORDER
ROW = IMAGE_HEIGHT + 2 * BORDER + CAPTION + GAP


def encoded(colour, size=(40, 90)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def opened(png):
    return Image.open(io.BytesIO(png)).convert("RGB")


def column(rank):
    """Left edge of the gallery image at a rank, from 0."""
    return MARGIN + FRAMED + QUERY_GAP + rank * (FRAMED + GAP)


def test_rank_list_frames_tell_right_from_wrong():
    row = figures.RankList(
        query=encoded("gray"),
        gallery=[encoded("yellow"), encoded("cyan")],
        is_match=[False, True],
        distances=[0.25, 1.5],
    )
    picture = opened(figures.rank_lists([row, row]))
    for top in (MARGIN, MARGIN + ROW):
        for corner in ((0, 0), (FRAMED - 1, 0), (0, IMAGE_HEIGHT + 2 * BORDER - 1)):
            assert picture.getpixel((MARGIN + corner[0], top + corner[1])) == figures.QUERY
            assert picture.getpixel((column(0) + corner[0], top + corner[1])) == figures.WRONG
            assert picture.getpixel((column(1) + corner[0], top + corner[1])) == figures.RIGHT
        middle = top + IMAGE_HEIGHT // 2
        assert picture.getpixel((column(0) + FRAMED // 2, middle)) == (255, 255, 0)
        assert picture.getpixel((column(1) + FRAMED // 2, middle)) == (0, 255, 255)
        gap = np.asarray(picture)[top : top + ROW, MARGIN + FRAMED : column(0)]
        assert (gap == 255).all()
        below = np.asarray(picture)[top + IMAGE_HEIGHT + 2 * BORDER : top + ROW, column(1) : column(1) + FRAMED]
        assert (below < 128).any()  # the distance is written there


def test_rank_lists_of_different_lengths_leave_the_rest_white():
    short = figures.RankList(query=encoded("gray"), gallery=[encoded("red")], is_match=[True], distances=[0.1])
    long = figures.RankList(
        query=encoded("gray"), gallery=[encoded("red")] * 3, is_match=[True] * 3, distances=[0.1] * 3
    )
    picture = np.asarray(opened(figures.rank_lists([short, long])))
    assert (picture[MARGIN : MARGIN + ROW, column(1) :] == 255).all()
    assert not (picture[MARGIN + ROW :, column(1) :] == 255).all()


def test_contact_sheet_has_a_row_a_tracklet():
    sheet = np.asarray(opened(figures.contact_sheet({"a": [encoded("red"), encoded("lime")], "b": [encoded("blue")]})))
    left = 12 + 120
    assert sheet[20, left + 5].tolist() == [255, 0, 0]
    assert sheet[20, left + IMAGE_WIDTH + GAP + 5].tolist() == [0, 255, 0]
    assert sheet[20 + IMAGE_HEIGHT + GAP, left + 5].tolist() == [0, 0, 255]
    assert (sheet[20 : 20 + 20, :left] < 128).any()  # the caption


def shares(count):
    values = np.random.default_rng(0).uniform(0.1, 0.6, (count, count))
    np.fill_diagonal(values, np.nan)
    return values


CURVES = {
    "cmc": lambda: figures.cmc_curve({"model": np.linspace(0.2, 0.9, 50), "other": [0.1]}),
    "losses": lambda: figures.loss_curves(
        {"step": np.arange(40), "loss": np.arange(40.0), "pctd": np.ones(40), "ccta": np.full(40, np.nan)}
    ),
    "distances": lambda: figures.distance_histogram(np.array([0.1, 0.2]), np.array([0.5, 0.9, 0.9])),
    "only one person": lambda: figures.distance_histogram(np.array([0.1, 0.3]), np.array([])),
    "runs": lambda: figures.curves_of_runs(
        {
            "loss": {"a": (np.arange(3000.0), np.arange(3000.0)), "b": (np.arange(2.0), np.ones(2))},
            "rank1": {"b": (np.array([9.0]), np.array([0.5]))},
        },
        colours={"a": 0, "b": 0},
    ),
    "camera pairs": lambda: figures.camera_matrix(shares(4), cameras=[f"cam{number}" for number in range(4)]),
    "many cameras": lambda: figures.camera_matrix(
        shares(90), cameras=[f"north entrance {number}" for number in range(90)]
    ),
    "no pairs": lambda: figures.camera_matrix(shares(3) * 0, cameras=["a", "b", "c"]),
    "one distance": lambda: figures.distance_histogram(np.array([0.5]), np.array([0.5])),
}


@pytest.mark.parametrize("draw", CURVES.values(), ids=CURVES)
def test_curves_are_the_same_bytes_every_time(draw):
    first = draw()
    assert first == draw()
    assert b"Matplotlib" not in first
    assert opened(first).width > 500


def test_camera_matrix_is_dark_where_many_pairs_are_and_grey_where_none_can_be():
    values = np.array([[np.nan, 0.9], [0.1, np.nan]])
    picture = np.asarray(opened(figures.camera_matrix(values, cameras=["a", "b"])), np.int64)
    is_grey = (picture == 0xEE).all(2)
    rows, columns = np.nonzero(is_grey)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    quarter = (bottom - top) // 4, (right - left) // 4
    dark, pale = (
        picture[top + quarter[0] // 2, right - quarter[1]],
        picture[bottom - quarter[0] // 2, left + quarter[1]],
    )
    assert dark.sum() < 300
    assert pale.sum() > 600


def test_long_captions_are_shortened():
    name = "a camera with a very long name"
    sheet = np.asarray(opened(figures.contact_sheet({f"{name}\ntracklet 7": [encoded("red")]})))
    assert (sheet[:, MARGIN + 117 : MARGIN + 120] == 255).all()  # between text and images
    short = np.asarray(opened(figures.contact_sheet({"cam\ntracklet 7": [encoded("red")]})))
    assert (short < 128).any()


def test_distance_histogram_is_green_left_and_red_right():
    picture = np.asarray(opened(figures.distance_histogram(np.full(50, 0.1), np.full(50, 0.9))), np.int64)
    greenish = picture[..., 1] - picture[..., 0] > 60
    reddish = picture[..., 0] - picture[..., 1] > 60
    plot = slice(150, 380)  # below the legend
    assert np.nonzero(greenish[plot])[1].mean() < picture.shape[1] / 3
    assert np.nonzero(reddish[plot])[1].mean() > picture.shape[1] * 2 / 3


def test_metrics_of_a_resumed_and_killed_run(tmp_path):
    lines = [{"step": 0, "loss": 3.0, "pctd": 3.0, "ccta": 1.0}, {"step": 1, "loss": 9.0, "pctd": 2.0, "ccta": 1.0},
             {"step": 1, "loss": 2.0, "pctd": 2.0}]  # fmt: skip
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "lo')
    metrics = figures.read_metrics(path)
    assert metrics["step"].tolist() == [0, 1]
    assert metrics["loss"].tolist() == [3, 2]
    assert np.isnan(metrics["ccta"][1])
