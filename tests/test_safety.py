"""Nothing is unpickled or run that came out of a file, files of settings and weights are bounded, and secrets are not shown."""

from __future__ import annotations

import ast
import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from taudl_dist import cli
from taudl_dist.config import load_yaml
from taudl_dist.errors import UsageError, UserError
from taudl_dist.model.weights import read_state
from taudl_dist.progress import clean, log

ROOT = Path(__file__).parents[1]
UNPICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
RUNNING = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "tarfile.extractall",
    "torch.hub.load",
    "numpy.fromfile",
    "pandas.read_pickle",
}
KNOWN = {
    "taudl_dist/model/export.py": {"torch.export.load"},  # reads back what the same call has just written
    "data_tools/unit_process.py": {"import pickle"},  # on a pipe between a process and its own child
}


def sources() -> Iterator[tuple[str, ast.AST]]:
    for folder in ("taudl_dist", "data_tools", "jobs"):
        for path in (ROOT / folder).rglob("*.py"):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.split(".")[0] in UNPICKLING)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLING:
            yield f"from {node.module}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).replace("np.", "numpy.").replace("pd.", "pandas.")
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in RUNNING or name.endswith((".extractall", ".read_pickle", "torch.export.load")):
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if given.get("allow_pickle", "False") != "False":
            yield f"{name}(allow_pickle)"
        if given.get("shell", "False") != "False":
            yield f"{name}(shell)"
        if name.startswith("yaml.") and name.split(".")[1] in ("load", "load_all", "unsafe_load", "full_load"):
            loader = ast.unparse(node.args[1]) if len(node.args) > 1 else given.get("Loader", "")
            if loader not in ("_yaml_loader()", "yaml.SafeLoader"):
                yield f"{name} with {loader or 'no loader'}"


def test_no_source_unpickles_or_runs_what_a_file_says() -> None:
    found = {path: set(dangers(tree)) - KNOWN.get(path, set()) for path, tree in sources()}
    assert len(found) > 100
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import dill as json",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "numpy.load(path, allow_pickle=flag)",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "subprocess.run(line, shell=True)",
        "eval(text)",
        "archive.extractall(folder)",
        "os.system(line)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert list(dangers(ast.parse(code)))


def bounded(action: Callable[[], object], *, room_bytes: int = 512 * 2**20) -> str:
    """The class of error an action raises in a child with little memory, or the signal that ended it."""
    said, say = os.pipe()
    child = os.fork()
    if not child:
        size = int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + room_bytes,) * 2)
        try:
            action()
            name = "nothing"
        except BaseException as error:
            name = type(error).__name__
        os.write(say, name.encode())
        os._exit(0)
    os.close(say)
    with os.fdopen(said) as answer:
        text = answer.read()
    _, code = os.waitpid(child, 0)
    return text or f"died of {code}"


def laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(),
        "a: &a [*a]",
        "[" * 200_000,
        "a: " + "9" * 10_000,
        "a: 2026-99-99",
        "!!python/object/apply:os.system ['touch /tmp/taudl-was-here']",
        "!!python/name:os.system",
        "a: b: c: d",
        "\x00",
        "x" * 2_000_000,
    ],
)
def test_settings_that_mean_harm_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert bounded(lambda: load_yaml(path)) == "UsageError"
    assert not Path("/tmp/taudl-was-here").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/taudl-was-here",)


def test_weights_that_mean_harm_are_refused(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    torch.save({"a": torch.zeros(2**26)}, tmp_path / "zeros.pth")
    with (
        zipfile.ZipFile(tmp_path / "zeros.pth") as flat,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in flat.namelist():
            bomb.writestr(entry, flat.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**20
    (tmp_path / "header.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    (tmp_path / "big.safetensors").write_bytes((2**31).to_bytes(8, "little") + b"{}")
    claim = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (tmp_path / "claim.safetensors").write_bytes(len(claim).to_bytes(8, "little") + claim)
    deep = b"[" * 1_000_000
    (tmp_path / "deep.safetensors").write_bytes(len(deep).to_bytes(8, "little") + deep)
    for name in (
        "evil.pth",
        "bomb.pth",
        "header.safetensors",
        "big.safetensors",
        "claim.safetensors",
        "deep.safetensors",
    ):
        assert bounded(lambda name=name: read_state(tmp_path / name)) == "UserError", name  # type: ignore[misc]
    assert not Path("/tmp/taudl-was-here").exists()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("at http://ann:secret@host:5000/x", "at http://***@host:5000/x"),
        ("postgresql+psycopg://ann:s%40cret@db/mlflow failed", "postgresql+psycopg://***@db/mlflow failed"),
        ("https://token-only@host", "https://***@host"),
        ("postgresql://ann:se/cret@db/mlflow", "postgresql://***@db/mlflow"),
        ("mysql://db/x?user=ann&password=secret&ssl=1", "mysql://db/x?user=ann&password=***&ssl=1"),
        ("two: a://b:c@d e://f:g@h", "two: a://***@d e://***@h"),
        ("mail ann@host and s3://bucket/a@b", "mail ann@host and s3://bucket/a@b"),
        ("http://host:5000", "http://host:5000"),
        ("camera \x1b[2J\x07 of\r\n\tthat", "camera ?[2J? of?\n\tthat"),
    ],
)
def test_what_is_shown_holds_no_credentials_and_no_control_characters(
    said: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert clean(said) == shown
    log(said)
    assert capsys.readouterr().err == f"{shown}\n"


def test_errors_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("no answer from http://ann:secret@host")

    assert cli.run_guarded(fail, "train") == 1
    assert capsys.readouterr().err == "taudl train: error: no answer from http://***@host\n"


@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:secret@host:5000",
        "https://secret@host",
        "HTTPS://secret@host",
        "postgresql://ann:secret@db/mlflow",
        "postgresql+psycopg://ann:se/secret@db/mlflow",
        "mysql://db/mlflow?user=ann&password=secret",
    ],
)
def test_a_run_is_refused_whose_address_holds_a_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taudl_dist import tracking
    from taudl_dist.config import Config, TrackingConfig

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for config in (Config(out=str(tmp_path)), Config(out=str(tmp_path), tracking=TrackingConfig(uri=uri))):
        with pytest.raises(UsageError) as refused:
            tracking.tracking_uri(config)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "uri", ["http://host:5000/a@b", "postgresql://ann@db:5432/mlflow", "sqlite:////a:b@c/mlflow.db"]
)
def test_other_addresses_are_taken(uri: str, tmp_path: Path) -> None:
    from taudl_dist import tracking
    from taudl_dist.config import Config, TrackingConfig

    assert tracking.tracking_uri(Config(out=str(tmp_path), tracking=TrackingConfig(uri=uri))) == uri
