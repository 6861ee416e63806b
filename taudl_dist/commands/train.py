"""`taudl train`: settings from defaults, recipe, file and flags; then one call of the library."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from taudl_dist.config import Config, flatten, load_yaml, merge, resolve, to_dict
from taudl_dist.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrainArgs(Config):
    """Train a re-identification model on a dataset.

    Settings come from the defaults, then --recipe, then --config FILE, then what stands on the command line: flags as listed
    below, or `name=value`. With --resume the settings of the run go between recipe and file, so --out is all it needs.

    Example: taudl train --data dataset --out runs/first --workers 2 --model small optim.lr=1e-3

    Short names: --model NAME is --model.name, --weights FILE is --model.weights, --evaluate-every N is --evaluation.every, and
    --evaluate-data DATASET is --evaluation.data.
    """

    config: str = ""
    """YAML file of settings, with the names listed here; `--print-config` writes one."""
    print_config: bool = False
    """Print the resolved settings as YAML, and do nothing."""
    json: bool = False
    """Print the result as one JSON object."""


Args = TypeVar("Args", bound=TrainArgs)


def main(argv: Sequence[str]) -> int | None:
    args = parse_args(argv, TrainArgs, command="train")
    config = as_config(args)
    if args.print_config:
        from taudl_dist.training.run_folder import config_yaml

        print(config_yaml(config), end="")
        return None
    from taudl_dist.training import Interrupted, train

    try:
        run = train(config)
    except Interrupted as stopped:
        print(f"taudl train: {stopped}", file=sys.stderr)
        return stopped.exit_code
    if _is_first_rank():
        from taudl_dist.training import summary

        print(_as_json(summary(run)) if args.json else _as_text(summary(run)))
    return None


def parse_config(argv: Sequence[str]) -> Config:
    """The configuration of a command line: defaults < recipe < resumed run < --config FILE < flags and name=value.

    Raises:
        UsageError: an unknown key or a value that cannot be.
        SystemExit: an unknown flag (2), or --help (0).
    """
    return as_config(parse_args(argv, TrainArgs, command="train"))


def parse_args(argv: Sequence[str], kind: type[Args], *, command: str) -> Args:
    """The flags of a command line over the settings they are laid upon; `kind` may add flags to those of `taudl train`."""
    import inspect

    import tyro

    tokens, overrides = _split(argv)
    base = resolve(_underneath(tokens, overrides))
    default = kind(**_fields(base))
    return tyro.cli(kind, args=tokens, prog=f"taudl {command}", default=default, description=inspect.getdoc(kind))


def split_words(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags, with short names written out, and name=value words, for a command that has flags of its own beside the settings."""
    import json

    tokens, overrides = _split(argv)
    return tokens, [f"{name}={json.dumps(value)}" for name, value in flatten(overrides).items()]


def given_settings(argv: Sequence[str], *, command: str) -> dict[str, Any]:
    """The settings that a command line names, flat: in --config FILE, in name=value words and in flags; defaults are not among them.

    Raises:
        UsageError: as `parse_config`; or --print-config, which has no meaning elsewhere.
    """
    args = parse_args(argv, TrainArgs, command=command)
    if args.print_config:
        raise UsageError(f"--print-config belongs to `taudl train`, not to `taudl {command}`; leave it out")
    tokens, overrides = _split(argv)
    named = {**flatten(load_yaml(args.config) if args.config else {}), **flatten(overrides)}
    names = named.keys() | {_setting(token) for token in tokens if token.startswith("--")}
    return {name: value for name, value in flatten(to_dict(as_config(args))).items() if name in names}


def _setting(flag: str) -> str:
    """The setting that a flag names: --batch.images=64 is batch.images, and --loss.no-squared loss.squared."""
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    return ".".join(part.removeprefix("no_") for part in name.split("."))


def _underneath(tokens: list[str], overrides: dict[str, Any]) -> dict[str, Any]:
    """Settings below the flags: a resumed run's, those of --config, and name=value; and the recipe, which decides defaults."""
    given = {name: _value_of(tokens, name) for name in ("config", "recipe", "out")}
    settings = load_yaml(given["config"]) if given["config"] else {}
    settings = merge(settings, overrides)
    out = given["out"] or settings.get("out")
    saved = Path(str(out)) / "config.yaml"
    if ("--resume" in tokens or settings.get("resume")) and out and saved.is_file():
        run = load_yaml(saved)
        forgotten = {"resume", "stop_at", "out"}
        recipe = given["recipe"] or settings.get("recipe")
        if recipe and recipe != run.get("recipe"):
            forgotten.add("loss")  # another recipe decides it anew
        run = {key: value for key, value in run.items() if key not in forgotten}
        settings = merge(run, settings)
    return {**settings, "recipe": given["recipe"]} if given["recipe"] else settings


def _split(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Flags with short names written out, and name=value words as a nested mapping."""
    short = {
        "--model": "--model.name",
        "--weights": "--model.weights",
        "--evaluate-every": "--evaluation.every",
        "--evaluate-data": "--evaluation.data",
    }
    tokens: list[str] = []
    overrides: dict[str, Any] = {}
    for word in argv:
        name, equals, value = word.partition("=")
        expected_by_flag = (
            bool(tokens) and tokens[-1].startswith("--") and "=" not in tokens[-1] and not _is_switch(tokens[-1])
        )
        if (
            not word.startswith("-")
            and equals
            and name.replace(".", "").replace("_", "").isalnum()
            and not expected_by_flag
        ):
            tree: Any = _literal(value)
            for part in reversed(name.split(".")):
                tree = {part: tree}
            overrides = merge(overrides, tree)
        else:
            tokens.append(short.get(name, name) + equals + value)
    return tokens, overrides


def _literal(text: str) -> Any:
    """A number, true, false, or the text itself; not YAML, which reads 1:4 as sixty-four."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_switch(flag: str) -> bool:
    """Whether a flag stands alone: --resume, --parallel.two-pass, and their --no-... forms."""
    settings = flatten(to_dict(Config()))
    switches = {name for name, value in settings.items() if isinstance(value, bool)} | {"print_config", "json", "help"}
    return _setting(flag) in switches


def _value_of(tokens: list[str], name: str) -> str | None:
    """The last value of a flag, read ahead of the parser, which needs it for its defaults."""
    found = None
    for place, word in enumerate(tokens):
        if word == f"--{name}" and place + 1 < len(tokens):
            found = tokens[place + 1]
        elif word.startswith(f"--{name}="):
            found = word.partition("=")[2]
    return found


def _fields(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}


def as_config(args: TrainArgs) -> Config:
    """The settings among the flags."""
    return Config(**_fields(args))


def _is_first_rank() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _as_json(result: dict[str, Any]) -> str:
    import json

    return json.dumps(result)


def _as_text(result: dict[str, Any]) -> str:
    from taudl_dist import tracking

    lines = [f"run      {result['run']}", f"steps    {result['steps']}"]
    if "loss" in result:
        lines.append(f"loss     {result['loss']:.4f} (pctd {result['pctd']:.4f}, ccta {result['ccta']:.4f})")
    lines.append(f"mlflow   {tracking.address(result['mlflow']) if result['mlflow'] else 'not tracked'}")
    return "\n".join(lines)
