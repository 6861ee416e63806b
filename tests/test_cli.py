"""The command line: what it finds, how it fails, how quickly it answers; and that the README speaks of flags that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from taudl_dist import cli
from taudl_dist.errors import UsageError, UserError

HEAVY = ("torch", "ray", "mlflow", "av", "nvidia", "matplotlib", "sklearn", "pandas")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("argv", "code"),
    [([], 2), (["--help"], 0), (["--version"], 0), (["trian"], 2), (["info", "--no-such-flag"], 2)],
)
def test_exit_codes(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]):
    assert cli.main(argv) == code
    streams = capsys.readouterr()
    assert bool(streams.out) == (code == 0)  # results on stdout, complaints on stderr


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]):
    cli.main(["trian"])
    assert "did you mean `taudl train`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("bad data"), 1),
        (UsageError("bad flags"), 2),
        (OSError(28, "No space left on device", "/x"), 1),
        (KeyboardInterrupt(), 130),
        (SystemExit(2), 2),
        (SystemExit(None), 0),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(error: BaseException, code: int):
    def command() -> int:
        raise error

    assert cli.run_guarded(command, "x") == code


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run_guarded(lambda: 1 // 0, "x")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_imports_nothing_heavy(command: str):
    """Seconds depend on the machine; what makes them is what is imported."""
    script = (
        f"import sys; from taudl_dist.cli import main; main([{command!r}, '--help']); print('IMPORTED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    imported = done.stdout.rpartition("IMPORTED")[2].split()
    assert not [name for name in HEAVY if name in imported]
    assert f"usage: taudl {command}" in done.stdout


def test_the_readme_names_commands_and_flags_that_exist():
    blocks = "\n".join(re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    lines = re.findall(r"^taudl (\w+) (.*)$", blocks, re.MULTILINE)
    assert len(lines) >= 8
    for command, rest in lines:
        shown = subprocess.run(
            [sys.executable, "-m", "taudl_dist.cli", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        short = {"--model": "--model.name", "--weights": "--model.weights"} if command == "train" else {}
        for flag in re.findall(r"--[\w.-]+", rest.partition("#")[0]):
            assert short.get(flag, flag) in shown, f"README: taudl {command} has no {flag}"
