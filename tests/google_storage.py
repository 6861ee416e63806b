"""A read-only stand-in for Google Cloud Storage: serves a folder; each object's first read is cut short, the first look at one fails.

A process of its own (python tests/google_storage.py FOLDER): pyarrow asks for sizes while it holds Python's lock. Prints its port.
"""

from __future__ import annotations

import json
import sys
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder = Path()
    requests: ClassVar[Counter[tuple[str, bool]]] = Counter()

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        bucket, name = url.path.removeprefix("/storage/v1/b/").split("/o/")
        path = self.folder / bucket / urllib.parse.unquote(name)
        span = self.headers.get("Range")
        self.requests[self.path, span is None] += 1
        is_first = self.requests[self.path, span is None] == 1
        if not path.is_file():
            self.answer(404, b"")
        elif "alt=media" not in url.query and is_first and path.name == "dataset.json":
            self.answer(503, b"")
        elif "alt=media" not in url.query:
            facts = {"kind": "storage#object", "bucket": bucket, "name": name, "generation": "1", "metageneration": "1"}
            self.answer(200, json.dumps({**facts, "size": str(path.stat().st_size)}).encode())
        else:
            first, _, last = (span or "bytes=0-").removeprefix("bytes=").partition("-")
            data = path.read_bytes()[int(first) : int(last) + 1 if last else None]
            self.answer(206 if span else 200, data[: len(data) // 2] if span and is_first else data)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keeps the log of requests out of the output of the tests."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
