"""COCO json: images[] with a frame number, annotations[] with bbox (left, top, width, height) and track_id.

The frame is `frame_index`, `frame_id` or `frame` of the image (from 0), else the last number in its file name (from 1).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_tools.track_formats.rows import Hints, Rows
from taudl_dist.errors import UserError

_FRAME_KEYS = ("frame_index", "frame_id", "frame")


def read_coco(path: Path, hints: Hints) -> Rows:
    """All annotations; the camera is the name of the image's video, if there are videos, else the file's stem."""
    content = _load(path)
    try:
        return _rows(path, content, hints)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: an image or annotation lacks a field or holds another kind of value: {error!r}"
        ) from None


def _rows(path: Path, content: dict[str, Any], hints: Hints) -> Rows:
    annotations = content["annotations"]
    if hints.class_id is not None:
        annotations = [note for note in annotations if note["category_id"] == hints.class_id]
    images = {image["id"]: image for image in content["images"]}
    owners = [images[note["image_id"]] for note in annotations]
    box = np.array([note["bbox"] for note in annotations], dtype=np.float64).reshape(len(annotations), 4)
    key, base = _frame_key(content["images"])
    return Rows(
        path=path,
        camera=pa.array(_cameras(path, content, owners, hints), pa.string()),
        track=np.array([note.get("track_id", -1) for note in annotations], dtype=np.float64),
        frame=np.array([_frame(path, image, key) for image in owners], dtype=np.float64),
        frame_base=base if hints.frame_base is None else hints.frame_base,
        box=np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1),
        score=np.array([note.get("score", 1.0) for note in annotations], dtype=np.float64),
        where=lambda row: f"annotation {annotations[row].get('id', row + 1)}",
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a json file: {error}") from None
    missing = [key for key in ("images", "annotations") if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path}: no list {missing[0]!r} in it; expected COCO json with images and annotations")
    return content


def _frame_key(images: list[dict[str, Any]]) -> tuple[str | None, int]:
    key = next((key for key in _FRAME_KEYS if images and key in images[0]), None)
    return key, 1 if key is None else 0


def _frame(path: Path, image: dict[str, Any], key: str | None) -> float:
    numbers = re.findall(r"\d+", Path(str(image.get("file_name", ""))).stem)
    value = image.get(key) if key else numbers[-1] if numbers else None
    if value is None:
        raise UserError(
            f"{path}: image {image.get('id')} has no frame number; expected {', '.join(_FRAME_KEYS)} or a file_name with one"
        )
    return float(value)


def _cameras(path: Path, content: dict[str, Any], owners: list[dict[str, Any]], hints: Hints) -> list[str]:
    videos = {video["id"]: str(video.get("name", video["id"])) for video in content.get("videos", ())}
    names = [videos.get(image.get("video_id"), path.stem) for image in owners]
    if hints.camera is None:
        return names
    if len(set(names)) > 1:
        raise UserError(f"{path}: camera {hints.camera!r} was given for {len(set(names))} videos; leave it out")
    return [hints.camera] * len(names)
