"""The configuration tree: who wins, what is refused, and how YAML's numbers are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from taudl_dist.config import RECIPES, Config, flatten, from_dict, load_yaml, merge, resolve, to_dict, worker_range
from taudl_dist.errors import UsageError


def test_the_mapping_wins_over_its_recipe_and_the_recipe_over_defaults():
    assert resolve({"recipe": "pctd"}).loss.ccta_weight == 0
    assert resolve({"recipe": "pctd", "loss": {"ccta_weight": 0.3}}).loss.ccta_weight == 0.3
    assert resolve({"recipe": "paper"}).loss.pctd_reduction == "mean"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_resolves_and_survives_a_round_trip(recipe: str):
    config = resolve({"recipe": recipe})
    assert from_dict(Config, to_dict(config)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": {"imags": 3}}, "batch.imags is unknown: did you mean batch.images"),
        ({"nonsense": 1}, "config key nonsense is unknown"),
        ({"steps": "many"}, "steps: found 'many', expected int"),
        ({"steps": True}, "steps: found True, expected int"),
        ({"steps": 0}, "steps: found 0, expected at least 1"),
        ({"batch": 5}, "config batch: found 5, expected a mapping"),
        ({"recipe": "mine"}, "recipe 'mine': expected one of"),
        ({"recipe": ["best"]}, "expected one of"),
        ({"optim": {"lr": float("nan")}}, "optim.lr: found nan"),
        ({"model": {"name": "vgg"}}, "model.name: found 'vgg', expected one of"),
        ({"recipe": "jcc", "loss": {"pctd_reduction": "camera_sum"}}, "has no meaning"),
        ({"workers": "2:1"}, "--workers 2:1"),
    ],
)
def test_refused(values: dict, message: str):
    with pytest.raises(UsageError, match=message):
        resolve(values)


@pytest.mark.parametrize(("text", "expected"), [("3", (3, 3)), ("1:4", (1, 4)), ("2:2", (2, 2))])
def test_worker_range(text: str, expected: tuple[int, int]):
    assert worker_range(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1:", ":2", "1:2:3", "1.5"])
def test_worker_range_refuses(text: str):
    with pytest.raises(UsageError, match="expected N or MIN:MAX"):
        worker_range(text)


def test_yaml_numbers_are_those_of_yaml_1_2(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("workers: 1:4\nseed: 12\noptim:\n  lr: 1e-4\n  clip_norm: 5\n  decay_start: .5\n")
    values = load_yaml(path)
    assert values == {"workers": "1:4", "seed": 12, "optim": {"lr": 1e-4, "clip_norm": 5, "decay_start": 0.5}}
    assert resolve(values).optim.clip_norm == 5.0


@pytest.mark.parametrize(
    ("text", "message"), [("- 1\n", "expected a mapping"), ("a: [\n", "not a readable YAML"), (None, "no such file")]
)
def test_yaml_that_is_no_config(text: str | None, message: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_yaml(path)


def test_merge_and_flatten():
    assert merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
    assert flatten({"a": {"b": 1}, "d": 3}) == {"a.b": 1, "d": 3}
