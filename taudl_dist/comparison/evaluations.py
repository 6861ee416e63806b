"""Results of `taudl evaluate --json`, given as files, attached to the runs whose weights they are about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from taudl_dist.comparison.run import DIGEST_LENGTH, Run
from taudl_dist.errors import UserError


def with_files(runs: Sequence[Run], paths: Sequence[str]) -> list[Run]:
    """The runs with the numbers of the files; a file wins over what MLflow holds.

    Raises:
        UserError: a file that is no such result, or of weights that no run has.
    """
    by_weights = {run.weights_sha256: position for position, run in enumerate(runs) if run.weights_sha256}
    runs = list(runs)
    for path in paths:
        result = _read(path)
        position = by_weights.get(result["model_digest"])
        if position is None:
            raise UserError(
                f"--evaluations {path}: it is about weights {result['model_digest'][:12]} (--model {result['model']}), which"
                " none of the runs ended with; leave it out, or name that run"
            )
        numbers = {k: float(v) for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        digest = result["dataset_digest"][:DIGEST_LENGTH]
        runs[position] = replace(runs[position], evaluations=numbers, evaluated_on=frozenset({digest}))
    return runs


def _read(path: str) -> dict[str, Any]:
    try:
        result = json.loads(Path(path).read_text())
        is_result = all(isinstance(result[name], str) for name in ("model_digest", "dataset_digest", "model"))
    except FileNotFoundError:
        raise UserError(f"--evaluations {path}: no such file") from None
    except (ValueError, KeyError, TypeError):
        is_result = False
    if not is_result:
        raise UserError(
            f"--evaluations {path}: found something else, expected one JSON object of `taudl evaluate --json`"
        )
    return result
