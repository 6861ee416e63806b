"""`taudl train`: precedence of settings, short names, messages, exit codes, time of --help."""

import subprocess
import sys
from pathlib import Path

import pytest

from taudl_dist.cli import main
from taudl_dist.commands.train import parse_config
from taudl_dist.config import Config, flatten, resolve, to_dict

FILE = "recipe: pctd\nseed: 3\nworkers: 2\noptim: {lr: 1e-3, clip_norm: 5}\nloss: {sigma: 3}\n"

PRECEDENCE = [
    # words, expected settings, remark
    ("", {"recipe": "best", "loss.detach_numerator": True, "optim.lr": 3.5e-4}, "defaults and the default recipe"),
    ("--recipe paper", {"loss.detach_numerator": False, "loss.pctd_reduction": "mean"}, "another recipe"),
    ("--recipe=jcc", {"loss.joint_labels": True, "loss.ccta_weight": 0.0}, "with an equals sign"),
    ("recipe=jcc", {"loss.joint_labels": True, "recipe": "jcc"}, "as an override"),
    (
        "--config F",
        {"recipe": "pctd", "loss.ccta_weight": 0.0, "optim.lr": 1e-3, "seed": 3, "workers": "2"},
        "file over defaults",
    ),
    (
        "--config F --recipe paper",
        {"recipe": "paper", "loss.ccta_weight": 0.7, "loss.sigma": 3.0},
        "a flag's recipe, the file's values",
    ),
    ("--config F --optim.lr 2", {"optim.lr": 2.0, "optim.clip_norm": 5.0}, "flag over file, beside file"),
    ("--config F optim.lr=2", {"optim.lr": 2.0, "optim.clip_norm": 5.0}, "override over file"),
    ("--config F --seed 0", {"seed": 0}, "a flag equal to the default wins over the file"),
    (
        "--recipe pctd --loss.ccta-weight 0.7",
        {"loss.ccta_weight": 0.7},
        "a flag equal to the default wins over the recipe",
    ),
    ("loss.ccta_weight=0.7 --recipe pctd", {"loss.ccta_weight": 0.7}, "so does an override"),
    ("--model small --weights w.pth", {"model.name": "small", "model.weights": "w.pth"}, "short names"),
    ("--model=small --model.feature_dim 8", {"model.name": "small", "model.feature_dim": 8}, "short and long"),
    ("--resume optim.lr=1e-4", {"resume": True, "optim.lr": 1e-4}, "a switch before an override"),
    ("--loss.squared loss.sigma=1", {"loss.squared": True, "loss.sigma": 1.0}, "a nested switch before an override"),
    ("loss.squared=true", {"loss.squared": True}, "a truth value as an override"),
    ("workers=1:4", {"workers": "1:4"}, "not sixty-four, as YAML would have it"),
    ("--workers 1:4", {"workers": "1:4"}, "an elastic range"),
    ("--out a=b", {"out": "a=b"}, "a value with an equals sign"),
    ("--data d --steps 20 --precision bf16", {"data": "d", "steps": 20, "precision": "bf16"}, "the public flags"),
]


@pytest.mark.parametrize(("words", "expected"), [row[:2] for row in PRECEDENCE], ids=[row[2] for row in PRECEDENCE])
def test_precedence(words: str, expected: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "F").write_text(FILE)
    config = parse_config([str(tmp_path / "F") if word == "F" else word for word in words.split()])
    flat = flatten(to_dict(config))
    assert {key: flat[key] for key in expected} == expected


def test_a_resumed_run_needs_only_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", "--print-config", "--seed", "5", "--stop-at", "7", "--model", "small", "--out", str(tmp_path)])
        == 0
    )
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    config = parse_config(["--out", str(tmp_path), "--resume", "--workers", "2"])
    assert (config.seed, config.model.name, config.workers, config.resume, config.stop_at) == (5, "small", "2", True, 0)
    assert parse_config(["--out", str(tmp_path)]).seed == 0


def test_a_run_resumed_under_another_recipe_has_the_losses_of_that_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--print-config", "--recipe", "official-code", "--seed", "5"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    for words in (["--recipe", "pctd"], ["recipe=pctd"]):
        config = parse_config(["--out", str(tmp_path), "--resume", *words])
        assert (config.seed, config.recipe, config.loss) == (5, "pctd", resolve({"recipe": "pctd"}).loss)


def test_printed_config_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", "--recipe", "jcc", "--workers", "1:2", "optim.lr=1e-5"]) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    config = parse_config(["--config", str(tmp_path / "c.yaml")])
    assert (config.loss.joint_labels, config.workers, config.optim.lr) == (True, "1:2", 1e-5)
    assert isinstance(config, Config)


WRONG = [
    ("--optim.lrr 3", "--optim.lr"),
    ("optim.lrr=3", "did you mean optim.lr?"),
    ("optim.lr=-1", "config optim.lr: found -1"),
    ("--optim.lr -1", "above 0"),
    ("--seed x", "--seed"),
    ("--recipe pctdd", "pctd"),
    ("--workers 0", "--workers 0"),
    ("--config missing.yaml", "no such file"),
    ("--recipe jcc loss.pctd_reduction=camera_sum", "loss.pctd_reduction=mean"),
    ("stray", "stray"),
    ("--steps 3", "--data is missing"),
    ("--data d", "--out is missing"),
    ("--data d --out r --workers 3 --launcher process", "torchrun"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_usage_exits_with_2_and_a_helpful_message(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.process_time(); from taudl_dist.cli import main; code = main(['train', '--help']);"
        "heavy = {'torch', 'ray', 'mlflow', 'nvidia'} & set(sys.modules);"
        "print(time.process_time() - start, heavy, code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, rest = done.stderr.strip().split(" ", 1)
    assert rest == "set() 0"
    assert float(seconds) < 1.0  # 0.2 s on an idle core; the limit leaves room for a busy one
    for word in ("--resume", "--optim.lr", "--config", "Example", "--data"):
        assert word in done.stdout
