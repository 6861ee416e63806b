"""A small world for evaluation: people of one colour each, seen by two cameras of which one is darker."""

import io

import numpy as np
import pytest
from PIL import Image

from taudl_dist.config import Config, ModelConfig

COLOURS = {1: (230, 40, 40), 2: (40, 200, 60), 3: (50, 60, 220), 4: (220, 210, 50)}


def picture(colour, *, brightness, seed):
    """A person: a plain body on noise, as JPEG bytes."""
    pixels = np.random.default_rng(seed).integers(90, 130, (32, 16, 3))
    pixels[4:28, 4:12] = np.array(colour) * brightness
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture(name="picture")
def picture_fixture():
    return picture


def tracklets():
    """Four people to train on, the same looks to test on, a distractor, and person 9 whom only one camera saw."""
    from data_tools.shards import ImportTracklet

    for camera, brightness in (("cam1", 1.0), ("cam2", 0.9)):
        for person, colour in COLOURS.items():
            for split, length in (("train", 5), ("query" if camera == "cam1" else "gallery", person)):
                frames = [(f, picture(colour, brightness=brightness, seed=100 * person + f)) for f in range(length)]
                yield ImportTracklet(
                    camera=camera, split=split, name=f"{person}", frames=frames,
                    person_id=person if split != "train" else None,
                )  # fmt: skip
    grey = [(0, picture((128, 128, 128), brightness=1, seed=1))]
    yield ImportTracklet(camera="cam2", split="gallery", name="0", frames=grey, person_id=0)
    yield ImportTracklet(camera="cam1", split="query", name="9", frames=grey, person_id=9)


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory):
    """The world as a dataset folder; not to be changed."""
    from data_tools.shards import write_dataset

    return write_dataset(tmp_path_factory.mktemp("world") / "dataset", tracklets(), settings={}, source={})


@pytest.fixture
def dataset(dataset_path):
    from taudl_dist.dataset import open_dataset

    return open_dataset(dataset_path)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder as training leaves it, of a network that was not trained."""
    import json

    import yaml

    from taudl_dist.config import BatchConfig, to_dict
    from taudl_dist.model import build_model, save_model

    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    config = Config(model=ModelConfig(name="small", feature_dim=16), batch=BatchConfig(height=32, width=16), seed=5)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "loss": 3 / (s + 1), "pctd": 2.0, "ccta": 1.0}) + "\n" for s in range(5))
    )
    model = build_model(config.model, seed=config.seed)
    model.image_size = (32, 16)
    save_model(model, folder, extra={"step": 5})
    return folder
