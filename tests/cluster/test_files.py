"""The files of cluster/ against the schemas of what reads them, and against each other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.cluster import crd

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCRIPTS = [
    *CLUSTER.glob("*.sh"),
    CLUSTER / "slurm.sbatch",
    *(ROOT / "tests").glob("cluster*/*.sh"),
    ROOT / ".ci" / "run",
]
KUBERAY = {path.stem: list(yaml.safe_load_all(path.read_text())) for path in (CLUSTER / "kuberay").glob("*.yaml")}
LAUNCHER = ["aws", "gcp"]
TEXTS = [path for path in CLUSTER.rglob("*") if path.is_file()]
ORIGINAL = ROOT.parent / "shared" / "data" / "kuberay"


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_under_shellcheck(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, "--shell=bash", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_a_folder_that_holds_something_else_is_not_taken_and_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for word, said in (("start", f"{tmp_path} holds something else"), ("stop", "no cluster of mine")):
        command = [CLUSTER / "local.sh", word]
        done = subprocess.run(
            command, env={**os.environ, "STATE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, said in done.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberay_takes_them(name: str) -> None:
    [resource] = KUBERAY[name]
    assert crd.problems(resource) == []


SPOILT = [
    (["spec", "rayVersoin"], "2.60.0", "rayVersoin"),  # unknown at the top
    (
        ["spec", "headGroupSpec", "template", "spec", "containers", 0, "imagePulPolicy"],
        "Never",
        "imagePulPolicy",
    ),  # deep down
    (["spec", "workerGroupSpecs", 0, "maxReplicas"], "8", "'8' is not of type 'integer'"),
    (["spec", "authOptions", "mode"], "tokens", "'tokens' is not one of"),
    (["spec", "headGroupSpec", "rayStartParams", "num-cpus"], 0, "0 is not of type 'string'"),  # a trap of YAML
]


@pytest.mark.parametrize(("path", "value", "message"), SPOILT, ids=lambda value: str(value)[:20])
def test_kuberay_would_refuse_these(path: list[Any], value: Any, message: str) -> None:
    [resource] = yaml.safe_load_all((CLUSTER / "kuberay" / "raycluster.yaml").read_text())
    place = resource
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    [problem] = crd.problems(resource)
    assert message in problem


@pytest.mark.skipif(
    not ORIGINAL.is_dir(), reason=f"KubeRay's own files are not at {ORIGINAL}; the small copy of them is used"
)
def test_the_small_schemas_are_kuberays() -> None:
    import json

    assert json.loads(crd.SMALL.read_text()) == crd.shrink(ORIGINAL)


@pytest.mark.parametrize("name", sorted(set(KUBERAY) - {"raycluster", "rayjob"}))
def test_kubernetes_takes_them(name: str) -> None:
    for resource in KUBERAY[name]:
        kubernetes_validate.validate(resource, "1.35", strict=True)


def test_a_job_gets_the_cluster_of_the_other_file() -> None:
    assert KUBERAY["rayjob"][0]["spec"]["rayClusterSpec"] == KUBERAY["raycluster"][0]["spec"]


@pytest.mark.parametrize(
    "group", KUBERAY["raycluster"][0]["spec"]["workerGroupSpecs"], ids=lambda group: group["groupName"]
)
def test_pods_are_drained_before_they_are_killed(group: dict[str, Any]) -> None:
    pod = group["template"]["spec"]
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    drain_s = int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    assert 30 < drain_s < pod["terminationGracePeriodSeconds"]
    assert "kill -TERM" in pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]


@pytest.mark.skipif(
    not shutil.which("pgrep"),
    reason="runs the hook itself, which calls pgrep: in our image (procps), not on this machine",
)
def test_the_drain_hook_finds_the_ray_that_blocks(tmp_path: Path) -> None:
    """`ray start --block` under a shell that keeps SIGTERM for itself, as in a pod."""
    hook = KUBERAY["raycluster"][0]["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["lifecycle"]
    [shell, flag, line] = hook["preStop"]["exec"]["command"]
    marker = f"ray start-{tmp_path.name}"  # not the Ray of anybody else on this machine
    program = tmp_path / marker
    program.write_text(
        "import signal, sys, time\nprint('up', flush=True)\nsignal.signal(15, lambda *_: sys.exit(7))\ntime.sleep(60)\n"
    )
    command = f"trap '' TERM; {shlex.quote(sys.executable)} {shlex.quote(str(program))} --block; echo code $?"
    # the trap would be inherited, so Python sets its own handler first
    with subprocess.Popen(["bash", "-c", command], text=True, stdout=subprocess.PIPE) as pod:
        assert pod.stdout
        assert pod.stdout.readline() == "up\n"
        subprocess.run([shell, flag, line.replace("ray start", marker)], check=True, timeout=20)
        assert pod.stdout.readline() == "code 7\n"


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_takes_them(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()))
    validate_config(config)
    assert "dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_launcher_would_refuse_an_unknown_key() -> None:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "aws.yaml").read_text()) | {"idle_timeout": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(config))


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray, python = _pins()["ray"], "3.11"
    assert f"Python {python}" in (ROOT / "constraints.txt").read_text().splitlines()[0]
    assert project["requires-python"] == f">={python}"
    tag = f"{project['version']}-ray{ray}-py{python.replace('.', '')}"
    texts = {path: path.read_text() for path in TEXTS}
    images = {
        (path.name, image)
        for path, text in texts.items()
        for image in re.findall(r"registry\.example/taudl:(\S+)", text)
    }
    assert {image for _, image in images} == {tag}
    assert {name for name, _ in images} == {
        "README.md",
        "Dockerfile",
        "aws.yaml",
        "gcp.yaml",
        "raycluster.yaml",
        "rayjob.yaml",
        "mlflow.yaml",
    }
    assert KUBERAY["raycluster"][0]["spec"]["rayVersion"] == ray
    assert f"FROM python:{python}-slim" in texts[CLUSTER / "Dockerfile"]


def test_the_image_installs_pinned_versions_of_all_it_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {name.lower().replace("_", "-") for name in _pins()}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    names = {re.split(r"[\[<>=!~ ]", entry)[0].lower().replace("_", "-") for entry in wanted}
    assert names <= pins
    assert '--constraint constraints.txt ".[cluster]"' in (CLUSTER / "Dockerfile").read_text()


def test_the_image_gets_what_it_copies() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    allowed = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed or f"!{name}/" in allowed


def test_the_entrypoint_of_the_rayjob_is_one(tmp_path: Path) -> None:
    python, script, *flags = shlex.split(KUBERAY["rayjob"][0]["spec"]["entrypoint"])
    assert python == "python"
    assert script.startswith("/opt/taudl/")
    job = ROOT / script.removeprefix("/opt/taudl/")
    result = subprocess.run(
        [sys.executable, job, *flags, "--print-config"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stderr
    config = yaml.safe_load(result.stdout)
    assert (config["data"], config["workers"], config["resume"]) == ("/storage/dataset", "1:8", True)
    assert config["parallel"]["device"] == "gpu"  # no GPU is there when it begins


def test_no_credentials_and_tokens_everywhere() -> None:
    for path in TEXTS:
        text = path.read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|RAY_AUTH_TOKEN=[^$ \n]", text), path
        assert path.name == "README.md" or "RAY_AUTH_MODE=disabled" not in text, path
        assert not re.search(r"://(?!USER:PASSWORD@)[^/\s:]+:[^/\s@$]+@", text), path
    for name in ("local.sh", "slurm.sbatch"):
        assert "export RAY_AUTH_MODE=token" in (CLUSTER / name).read_text()
    assert KUBERAY["raycluster"][0]["spec"]["authOptions"] == {"mode": "token"}


def test_the_readme_names_each_file_and_the_marker() -> None:
    readme = (CLUSTER / "README.md").read_text()
    assert "`grep -rn EDIT cluster/`" in readme
    for path in TEXTS:
        if path.name not in ("README.md", "Dockerfile.dockerignore"):
            assert path.name in readme, path
    unmarked = {path.name for path in TEXTS if "EDIT" not in path.read_text()}
    assert unmarked == {"Dockerfile", "Dockerfile.dockerignore", "spot_notice.sh"}  # nothing to edit in them
