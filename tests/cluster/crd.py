"""KubeRay's schemas of RayCluster and RayJob, made small, and a validation that refuses unknown fields as `kubectl --validate=strict` does.

`python -m tests.cluster.crd FOLDER` makes kuberay_crds.json anew from KubeRay's CustomResourceDefinitions (Apache License 2.0,
https://github.com/ray-project/kuberay, ray-operator/config/crd/bases): version v1 alone, without descriptions, equal parts once.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SMALL = Path(__file__).with_name("kuberay_crds.json")
_SHARED_CHARS = 200
"""Equal parts of a schema that are longer than this are kept once."""


def problems(resource: dict[str, Any]) -> list[str]:
    """What KubeRay's API would not take, as `path: message`; empty if all is well."""
    document = json.loads(SMALL.read_text())
    schema = {"$ref": f"#/kinds/{resource['kind']}", **document}
    validator = jsonschema.Draft202012Validator(schema)
    return sorted(f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource))


def shrink(folder: Path) -> dict[str, Any]:
    """The document of kuberay_crds.json from a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml."""
    kinds = {}
    for name in ("rayclusters", "rayjobs"):
        definition = yaml.load((folder / f"ray.io_{name}.yaml").read_text(), Loader=yaml.CSafeLoader)["spec"]
        version = next(version for version in definition["versions"] if version["name"] == "v1")
        kinds[definition["names"]["kind"]] = _strict(version["schema"]["openAPIV3Schema"], top=True)
    counts = collections.Counter(_text(part) for kind in kinds.values() for part in _parts(kind))
    names: dict[str, str] = {}
    shared: dict[str, Any] = {}
    kinds = {kind: _folded(schema, counts, names, shared) for kind, schema in kinds.items()}
    source = "KubeRay's CustomResourceDefinitions, Apache License 2.0, made small by tests/cluster/crd.py"
    return {"$comment": source, "kinds": kinds, "$defs": shared}


def _strict(schema: Any, *, top: bool = False) -> Any:
    """JSON Schema of a structural OpenAPI schema: no descriptions, no unknown fields, numbers or strings where Kubernetes takes both."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result: dict[str, Any] = {
        key: schema[key] for key in ("type", "enum", "required", "minimum", "maximum") if key in schema
    }
    if "properties" in schema:
        result["properties"] = {name: _strict(part) for name, part in schema["properties"].items()}
        if top:
            result["properties"]["metadata"] = {"type": "object"}
        result["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _strict(schema["additionalProperties"])
    if "items" in schema:
        result["items"] = _strict(schema["items"])
    return result


def _parts(schema: Any) -> Iterator[Any]:
    yield schema
    children = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for child in children:
        if isinstance(child, dict):
            yield from _parts(child)


def _folded(schema: Any, counts: collections.Counter[str], names: dict[str, str], shared: dict[str, Any]) -> Any:
    text = _text(schema)
    if text in names:
        return {"$ref": f"#/$defs/{names[text]}"}
    folded = dict(schema)
    if "properties" in schema:
        folded["properties"] = {
            name: _folded(part, counts, names, shared) for name, part in schema["properties"].items()
        }
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            folded[key] = _folded(schema[key], counts, names, shared)
    if counts[text] > 1 and len(text) > _SHARED_CHARS:
        names[text] = f"d{len(names)}"
        shared[names[text]] = folded
        return {"$ref": f"#/$defs/{names[text]}"}
    return folded


def _text(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True)


if __name__ == "__main__":
    SMALL.write_text(json.dumps(shrink(Path(sys.argv[1])), separators=(",", ":"), sort_keys=True) + "\n")
