"""`taudl export`: a trained network as one file that runs without this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taudl_dist.commands import parse


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """A trained network as one file that runs without taudl: images (B, 3, height, width) in, features (B, D) out, for any B.

    The file is read back and its features compared with torch's before it gets its name. Size, mean and std that an image must be
    given stand in its metadata (`custom_metadata_map` of onnxruntime; the extra file taudl.json of torch.export).

    With --register, instead or too, the model becomes a version in the registry of the run's MLflow, which
    `mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(images)` loads.

    Example: taudl export --model RUN --out model.onnx

    Example: taudl export --model RUN/best --register reid --alias champion
    """

    model: str
    """A run folder, RUN/best, a folder with model.safetensors, or that file."""
    out: str = ""
    """File to write; its ending decides: .onnx, or .pt2 for torch.export."""
    register: str = ""
    """Name of a registered model in MLflow of which this becomes a version; made if there is none."""
    alias: str = ""
    """Alias that the version gets, and another version loses; empty: champion."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print what was written as one JSON object."""


def main(argv: Sequence[str]) -> None:
    """Exports, and says how far the file's features are from torch's."""
    args = parse(ExportArgs, argv, command="export")
    _check(args)
    written = export(args.model, args.out, overwrite=args.overwrite) if args.out else {}
    registered = register(args.model, args.register, alias=args.alias or "champion") if args.register else {}
    if args.json:
        print(json.dumps({**written, **({"registered": registered} if registered else {})}))
        return
    if written:
        _say(written)
    if registered:
        print(
            f"{registered['uri']}: version {registered['version']} of {registered['name']}, in {registered['mlflow']}"
        )


def _check(args: ExportArgs) -> None:
    from taudl_dist.errors import UsageError

    if not args.out and not args.register:
        raise UsageError("nothing to do: give --out FILE.onnx, or --register NAME")
    if args.alias and not args.register:
        raise UsageError("--alias is of a version in MLflow's registry: add --register NAME, or leave it out")
    if args.overwrite and not args.out:
        raise UsageError("--overwrite has no meaning without --out")


def register(model: str | Path, name: str, *, alias: str) -> dict[str, Any]:
    """Makes the model of a run a version of a registered model, with an alias; see `taudl_dist.tracked_models.register`."""
    from taudl_dist import tracked_models
    from taudl_dist.evaluation.evaluate import weights_path
    from taudl_dist.training.saved import run_of

    folder = weights_path(model).parent
    return tracked_models.register(folder, run_of(folder), name=name, alias=alias)


def _say(written: dict[str, Any]) -> None:
    print(
        f"{written['path']}: {written['num_bytes']:,} bytes, images {written['height']} x {written['width']} ->"
        f" {written['feature_dim']} numbers; largest difference from torch {written['largest_difference']:.2g}, where the"
        f" largest feature is {written['largest_feature']:.3g}"
    )


def export(model: str | Path, out: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Writes the network of a run and returns what was written, with the metadata.

    Raises:
        UserError: no model, a file in the way, or features that differ.
    """
    kind = _kind(Path(out))
    from data_tools.atomic import whole_file
    from taudl_dist.commands.output import check_output
    from taudl_dist.evaluation.evaluate import model_digest, weights_path
    from taudl_dist.model import load_model
    from taudl_dist.model.export import export_facts, write_export

    out = check_output(out, overwrite=overwrite)
    weights = weights_path(model)
    network = load_model(weights)
    described = json.loads(weights.with_name("model.json").read_text())
    facts = export_facts(network, **{**described, "model_digest": model_digest(model)})
    with whole_file(out) as temporary:
        compared = write_export(network, temporary, kind=kind, facts=facts)
    return {"path": str(out), "num_bytes": out.stat().st_size, **compared, **facts}


def _kind(out: Path) -> str:
    from taudl_dist.errors import UsageError
    from taudl_dist.model.export import FORMATS

    kind = out.suffix[1:].lower()
    if kind not in FORMATS:
        raise UsageError(
            f"--out {out}: found the ending {out.suffix!r}, expected {' or '.join(f'.{name}' for name in FORMATS)}"
        )
    return kind
