"""Where a dataset lies: a local folder, or a URI of an object store. Never a place for secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from taudl_dist.errors import UsageError

REMOTE_OPTIONS = {
    "s3": ("endpoint_override", "region", "scheme", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
}
"""What may follow the `?` of a URI: address and region of the store, http or https, and access without credentials."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(data: str | Path) -> bool:
    """Whether this names an object store.

    Raises:
        UsageError: a URI that cannot be read.
    """
    if not isinstance(data, str) or not _SCHEME.match(data):
        return False
    scheme = data.split("://")[0].lower()
    if scheme not in (*REMOTE_OPTIONS, "file"):
        raise UsageError(
            f"{_without_secret(data)}: scheme {scheme!r}, expected a local path, file://, {', '.join(f'{s}://' for s in REMOTE_OPTIONS)}"
        )
    return scheme in REMOTE_OPTIONS


def local_path(data: str | Path) -> Path:
    """The path of a local dataset, given as such or as file:///folder."""
    if isinstance(data, str) and data.lower().startswith("file://"):
        uri = urlsplit(data)
        if uri.netloc not in ("", "localhost") or not uri.path:
            raise UsageError(f"{data}: expected file:///folder with three slashes and an absolute path")
        return Path(unquote(uri.path))
    return Path(data)


def absolute(data: str) -> str:
    """The same place, named so that it is found from any working folder."""
    return data if is_remote(data) else str(local_path(data).resolve())


def name(data: str) -> str:
    """The dataset's own name: that of its folder."""
    return split_remote(data)[1].split("/")[-1] if is_remote(data) else local_path(data).name


def split_remote(data: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, bucket/key and options of an object store's URI.

    Raises:
        UsageError: a secret in it, no bucket, or an unknown option.
    """
    uri = urlsplit(data)
    if "@" in uri.netloc:
        raise UsageError(
            f"{_without_secret(data)}: found a user name or a secret before the bucket, and a URI is written to logs and run"
            " folders; give credentials as the store's own tools take them (AWS_PROFILE, AWS_ACCESS_KEY_ID with"
            " AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS)"
        )
    path = f"{uri.netloc}{unquote(uri.path)}".strip("/")
    scheme, options = uri.scheme.lower(), dict(parse_qsl(uri.query, keep_blank_values=True))
    unknown = sorted(set(options) - set(REMOTE_OPTIONS[scheme]))
    if unknown:
        raise UsageError(
            f"{_without_secret(data).split('?')[0]}: unknown option {unknown[0]!r} after the `?`, expected one of"
            f" {', '.join(REMOTE_OPTIONS[scheme])}; credentials never stand in a URI"
        )
    if not uri.netloc or uri.fragment or ".." in path.split("/"):
        raise UsageError(f"{data}: expected {scheme}://BUCKET/FOLDER")
    if options.get("anonymous", "true") not in ("true", "false"):
        raise UsageError(f"{data}: anonymous={options['anonymous']!r}, expected true or false")
    return scheme, path, options


def cache_folder(configured: str) -> Path:
    """The folder for copies of remote files: the configured one, or taudl in the user's cache folder."""
    if configured:
        return Path(configured).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base).absolute() / "taudl"


def _without_secret(data: str) -> str:
    return re.sub(r"://[^/@]*@", "://...@", data)
