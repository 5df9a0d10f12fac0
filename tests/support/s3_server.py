"""An S3 server on loopback in this process, and the trouble a network and a service can make in front of it.

The model: moto's server behind two layers. `AsS3Does` mends where moto is not like S3: conditional writes are decided
one at a time, and the root element of one answer has S3's name, without which pyarrow takes every upload of Ray Train
for failed. `Trouble` answers 500 or 503, waits, or drops the connection before or after the request took effect, at
seeded points and off unless asked for.
"""

import json
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

REGION = "us-east-1"
KINDS = ("500", "503", "delay", "drop before", "drop after")


@dataclass
class AsS3Does:
    """One change at a time, as S3 promises of conditional writes, and the end of an upload in parts by S3's own name.

    Google's XML interface is S3's in other words: its condition and its kind of signature are put into S3's.
    """

    inner: Application
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ.get("HTTP_AUTHORIZATION", "").startswith("AWS4"):
            scope = f"testing/20260101/{REGION}/s3/aws4_request"
            environ["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        generation = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
        if generation == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        elif generation is not None:
            environ["HTTP_IF_MATCH"] = f'"{generation}"'
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self.inner(environ, lambda status, headers: start_response(status, _with_generation(headers)))
        started: list[Any] = []
        with self._lock:
            body = b"".join(self.inner(environ, lambda *answer: started.extend(answer)))
        body = body.replace(b"CompleteMultipartUploadResponse", b"CompleteMultipartUploadResult")
        status, headers = started[:2]
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start_response(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def _with_generation(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Google's number of an object's content, which is what S3 calls its ETag."""
    return [*headers, *(("x-goog-generation", value.strip('"')) for name, value in headers if name.lower() == "etag")]


@dataclass
class Trouble:
    """Makes trouble for a share of the requests, one kind after the other, up to a number of times."""

    inner: Application
    rate: float = 0.0
    cap: int = 0
    kinds: tuple[str, ...] = KINDS
    made: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    _random: random.Random = field(default_factory=random.Random)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, rate: float, *, seed: int, cap: int = 1000, kinds: tuple[str, ...] = KINDS) -> None:
        """Make trouble from now on."""
        with self._lock:
            self.rate, self.cap, self.kinds = rate, cap, kinds
            self.made.clear()
            self._random.seed(seed)

    def end(self) -> None:
        """Make no more of it."""
        self.rate = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind = self._draw()
        if kind is not None and kind.isdecimal():
            start_response(f"{kind} Trouble", [("Content-Length", "0")])
            return []
        if kind == "delay":
            time.sleep(0.3)
        if kind == "drop before":
            return self._drop(environ, start_response)
        answer = self.inner(environ, start_response if kind != "drop after" else lambda *_: None)
        if kind == "drop after":
            b"".join(answer)
            return self._drop(environ, start_response)
        return answer

    def _draw(self) -> str | None:
        with self._lock:
            self.requests += 1
            if sum(self.made.values()) >= self.cap or self._random.random() >= self.rate:
                return None
            kind = self.kinds[sum(self.made.values()) % len(self.kinds)]
            self.made[kind] += 1
            return kind

    @staticmethod
    def _drop(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start_response("200 OK", [])
        return []


@dataclass
class S3Server:
    """A running server: where it is, and its trouble."""

    endpoint: str
    trouble: Trouble

    def environment(self) -> dict[str, str]:
        """The variables by which a process finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(
                {
                    "gcs_base_url": self.endpoint,
                    "disable_oauth": True,
                    "client_email": "",
                    "private_key": "",
                    "private_key_id": "",
                }
            ),
        }

    def make_bucket(self, name: str) -> str:
        """Make a bucket; its name."""
        with urlopen(Request(f"{self.endpoint}/{name}", method="PUT"), timeout=60):
            return name


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[S3Server]:
    """A server on a free port of an address, with this process's variables set so that it is found."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = AsS3Does(DomainDispatcherApplication(create_backend_app))
    trouble = Trouble(application)
    server = make_server(host, 0, trouble, threaded=True)
    running = S3Server(f"http://{host}:{server.server_port}", trouble)
    before = {name: os.environ.get(name) for name in running.environment()}
    os.environ.update(running.environment())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
