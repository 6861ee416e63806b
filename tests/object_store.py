"""An S3 server on loopback (moto's) behind a proxy that can answer as a bad network or a bad store does."""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

BUCKET = "corpus"
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
STATUS = {"SlowDown": 503, "InternalError": 500, "AccessDenied": 403, "NoSuchKey": 404}
AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
FAULTS = (*STATUS, "close", "short", "garbage", "stall", "drip")
"""Error replies by code; a connection closed in mid-body; a shorter body that says so; wrong bytes; silence; a byte now and then."""


class ObjectStore:
    """The store. `fault(method, key, count)`, set by a test, names the fault of a request or nothing; count: requests like it before."""

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer
        from werkzeug.serving import WSGIRequestHandler

        WSGIRequestHandler.disable_nagle_algorithm = True  # or each answer's body waits 40 ms for its header's receipt
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self._upstream = self._moto.get_host_and_port()
        address = "http://{}:{}".format(*self._upstream)
        self._client = boto3.client(
            "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self._lock = threading.Lock()
        self.stall_s = 1.5
        self.reset()
        self._send("PUT", f"/{BUCKET}")

    def reset(self) -> None:
        """No faults and no memory of requests."""
        self.fault: Callable[[str, str, int], str | None] = lambda *_: None
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent_bytes = 0
        self.busy = self.busiest = 0

    def fail(self, fault: str, *, method: str | None = "GET", suffix: str = "", times: float = float("inf")) -> None:
        """The first `times` requests of each object whose key ends like this go wrong."""

        def chosen(made: str, key: str, count: int) -> str | None:
            return fault if made == (method or made) and key.endswith(suffix) and count < times else None

        self.fault = chosen

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def uri(self, folder: str) -> str:
        """How taudl is told of a folder here."""
        return f"s3://{BUCKET}/{folder}?endpoint_override={self.endpoint}&region=us-east-1"

    def upload(self, source: Path, folder: str) -> str:
        """Stores every file of a folder; the URI of the copy."""
        for path in sorted(source.rglob("*")):
            if path.is_file():
                self.put(f"{folder}/{path.relative_to(source)}", path.read_bytes())
        return self.uri(folder)

    def put(self, key: str, data: bytes) -> None:
        status, _, reply = self._send("PUT", f"/{BUCKET}/{key}", data, {"Authorization": AUTHORIZATION})
        assert status == 200, reply

    def has(self, key: str) -> bool:
        return self._send("HEAD", f"/{BUCKET}/{key}")[0] == 200

    def get(self, key: str) -> bytes:
        status, _, reply = self._send("GET", f"/{BUCKET}/{key}", None, {"Authorization": AUTHORIZATION})
        assert status == 200, reply
        return reply

    def objects(self, folder: str) -> dict[str, int]:
        """Bytes of each object below a folder, by its path in it."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        found = [one for page in pages for one in page.get("Contents", [])]
        return {one["Key"].removeprefix(f"{folder}/"): one["Size"] for one in found if not one["Key"].endswith("/")}

    def delete(self, key: str) -> None:
        self._send("DELETE", f"/{BUCKET}/{key}", None, {"Authorization": AUTHORIZATION})

    def stop(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    def _send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()

    @contextlib.contextmanager
    def _counted(self, method: str, path: str) -> Iterator[str | None]:
        """Notes a request; what shall go wrong with it."""
        key = path.partition("?")[0].removeprefix(f"/{BUCKET}/")
        with self._lock:
            fault = self.fault(method, key, self.requests[method, key])
            self.requests[method, key] += 1
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            yield fault
        finally:
            with self._lock:
                self.busy -= 1

    def _handler(store: ObjectStore) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                with store._counted(self.command, self.path) as fault, contextlib.suppress(OSError):
                    self.answer(fault)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

            def answer(self, fault: str | None) -> None:
                sent = self.body()
                if fault == "stall":
                    time.sleep(store.stall_s)
                if fault in STATUS:
                    self.reply(STATUS[fault], [], ERROR.format(code=fault).encode())
                    return
                dropped = ("host", "transfer-encoding", "content-length")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                status, answer, body = store._send(self.command, self.path, sent or None, headers)
                if fault == "garbage":
                    body = bytes(len(body))
                if fault == "short" and self.command == "GET":
                    body = body[: len(body) // 2]
                    answer = [(name, value) for name, value in answer if name.lower() != "content-length"]
                self.reply(status, answer, body, fault)

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass
                return b"".join(parts)

            def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str | None = None) -> None:
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                        self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "HEAD" or status == 204:
                    return
                with store._lock:
                    store.sent_bytes += len(body)
                if fault == "close":
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                elif fault == "drip":
                    for position in range(min(len(body), int(store.stall_s / 0.05))):
                        self.wfile.write(body[position : position + 1])
                        time.sleep(0.05)
                    self.close_connection = True
                else:
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Keeps the log of requests out of the output of the tests."""

        return Handler
