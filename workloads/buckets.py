"""Reading the objects of a bucket on s3:// or gs://: what data sets need of it, and what a storage adds writing to.

Requests that meet a hiccup are repeated here at once; longer outages are for `workloads.storage_retries`. Credentials,
region and endpoint come from the usual variables and roles, never from the URI. The failure this guards against: a
secret in a log, and a refusal that is waited for as if it would pass.
"""

import errno
import importlib.util
import io
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from workloads.errors import InputError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3CredentialProvider

SCHEMES = ("s3", "gs")

# Read ahead: a small file is one request, a large one a request per few images.
_WINDOW_BYTES = 1 << 20
# A connection is given up after 30 s without a byte; a large object as a whole may take long. Plain HTTP only where the
# endpoint says so.
_CLIENT: "ClientConfig" = {"connect_timeout": "5s", "read_timeout": "30s", "timeout": "1h", "allow_http": True}
_HICCUPS: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}

_PASSES = {408, 409, 425, 429}
_NO_ROOM = 507

Answer = TypeVar("Answer")


class ObjectFacts(NamedTuple):
    """An object: its path below the prefix, its size in bytes and when it was written (Unix time)."""

    path: str
    size: int
    modified: float


class BucketReader:
    """The objects of a bucket below a prefix. Paths are relative to it and use forward slashes."""

    kind = "bucket"
    """What messages call it."""

    def __init__(self, uri: str) -> None:
        """No request is made yet.

        Raises
        ------
        InputError
            The URI names no bucket, or holds what belongs into variables.
        """
        parts = urlsplit(uri)
        self.name = parts.netloc
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise InputError(
                f"{self.kind} {shown} was given with credentials or options in its URI; allowed is {parts.scheme}://"
                "BUCKET/FOLDER, with credentials, region and endpoint in the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS)"
            )
        if not self.name:
            raise InputError(f"{self.kind} {shown} names no bucket; give {parts.scheme}://BUCKET/FOLDER")
        self.uri = shown.rstrip("/")
        prefix = parts.path.strip("/") or None
        try:
            self._store = _store(parts.scheme, self.name, prefix)
        except (BaseError, ValueError) as error:
            raise InputError(f"{self.kind} {self.uri} cannot be used: {reason_of(error)}") from None

    def is_there(self) -> bool:
        """Whether there is an object."""
        return any(self._ask(lambda: next(iter(obstore.list(self._store, chunk_size=1)), [])))

    def exists(self, path: str) -> bool:
        """Whether there is an object at the path."""
        try:
            self._ask(lambda: obstore.head(self._store, path))
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str) -> bytes:
        """The whole object.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        return self._ask(lambda: obstore.get(self._store, path).bytes().to_bytes())

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes start to end (exclusive) of an object."""
        return self._ask(lambda: obstore.get_range(self._store, path, start=start, end=end).to_bytes())

    def objects(self, directory: str, *, deep: bool) -> Iterator[ObjectFacts]:
        """The objects of a directory, or of the whole tree below it; none where there are none."""
        yield from self._ask(lambda: self._list(directory)) if deep else self.folder(directory)[0]

    def folder(self, directory: str) -> tuple[list[ObjectFacts], list[str]]:
        """The objects of a directory, and the paths of the directories in it."""
        found = self._ask(lambda: obstore.list_with_delimiter(self._store, directory or None))
        return [_facts(one) for one in found["objects"]], list(found["common_prefixes"])

    def _list(self, directory: str) -> list[ObjectFacts]:
        return [_facts(found) for page in obstore.list(self._store, directory or None) for found in page]

    def _ask(self, request: Callable[[], Answer], *, writes: bool = False) -> Answer:
        """The answer of the service, with its refusals as errors that say whether waiting helps."""
        try:
            return request()
        except (AlreadyExistsError, PreconditionError):
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._refused(f"there is no bucket {self.name}") from None
            if writes:
                # The end of an upload whose answer was lost, asked for again: there is no such upload any more.
                raise OSError(errno.EIO, reason_of(error)) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", self.uri) from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._refused(reason_of(error)) from None
        except BaseError as error:
            reason, status = reason_of(error), _status(error)
            if status == 404:
                raise self._refused(f"there is no bucket {self.name}") from None
            if status == _NO_ROOM:
                raise OSError(errno.ENOSPC, reason) from None
            if status is not None and 300 <= status < 500 and status not in _PASSES:
                raise self._refused(reason) from None
            raise OSError(errno.EIO, reason) from None

    def _refused(self, reason: str) -> InputError:
        return InputError(f"{self.kind} {self.uri} cannot be used: {reason}")


class Ranges(io.RawIOBase):
    """An object as a file: a window of it is in memory, and moves to where is read."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        """`fetch` gives bytes start to end (exclusive)."""
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._window = b""
        self._start = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to where the next read begins."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes: as many as asked for, or all that are left."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        start, end = self._position, self._position + wanted
        if not self._start <= start <= end <= self._start + len(self._window):
            # Near its end a file is read backwards (length of the footer, footer, batches): the window ends with it.
            self._start = min(start, max(0, self._size - _WINDOW_BYTES))
            self._window = self._fetch(self._start, min(max(end, self._start + _WINDOW_BYTES), self._size))
        self._position = end
        return self._window[start - self._start : end - self._start]


def reason_of(error: BaseException) -> str:
    """What went wrong in a few words; the answer's body may hold more than is for a log."""
    text = str(error).split("\n\nDebug source")[0]
    said = [found[1] for name in ("Code", "Message") if (found := re.search(rf"<{name}>([^<]*)</{name}>", text))]
    status = re.search(r"status code: (\d{3}[\w ]*)", text)
    if status:
        return ": ".join([status[1].strip(), *said])
    return text.rsplit(" - ", 1)[-1].splitlines()[0][:200]


def _facts(found: Any) -> ObjectFacts:
    return ObjectFacts(found["path"], found["size"], found["last_modified"].timestamp())


def _store(scheme: str, bucket: str, prefix: str | None) -> S3Store | GCSStore:
    if scheme == "gs":
        return GCSStore(bucket, prefix=prefix, client_options=_CLIENT, retry_config=_HICCUPS)
    provider = _credentials_of_a_profile()
    return S3Store(bucket, prefix=prefix, client_options=_CLIENT, retry_config=_HICCUPS, credential_provider=provider)


def _credentials_of_a_profile() -> "S3CredentialProvider | None":
    """What ``aws configure`` or ``aws sso login`` left, where boto3 is there to read it; None: variables and roles."""
    try:
        shared = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser().exists()
    except RuntimeError:  # a container's user without a home folder
        shared = False
    has_profile = "AWS_PROFILE" in os.environ or shared
    if "AWS_ACCESS_KEY_ID" in os.environ or not has_profile or importlib.util.find_spec("boto3") is None:
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


def _status(error: BaseException) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None
