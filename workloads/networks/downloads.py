"""Files behind a URL, fetched once into the folder where torch keeps its own.

A name and a password in the URL are sent to its host alone, as a browser would, and are neither in the name of the file
nor in a message.
"""

import base64
import hashlib
import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from workloads.errors import InputError
from workloads.places import cache_folder

TIMEOUT_SECONDS = 30.0


def downloaded(url: str, file_name: str, hash_prefix: str | None) -> Path:
    """The file of this name in the cache, fetched when it is not there; the first digits of its SHA-256 may be known.

    Raises
    ------
    InputError
        It cannot be fetched, or is another file.
    """
    path = cache_folder() / file_name
    if path.is_file():
        return path
    try:
        _fetch(url, path, hash_prefix)
    except (OSError, http.client.HTTPException, ValueError) as error:
        # An HTTPError says its code itself; any other URLError hides the reason inside.
        hidden = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
        reason = getattr(error, "reason", error) if hidden else error
        raise InputError(
            f"{url} could not be downloaded ({reason})",
            key="weights",
            value=url,
            allowed="fetch it on a machine with network access and give its path",
        ) from None
    return path


def _fetch(url: str, path: Path, hash_prefix: str | None) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    copy = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(_request(url), timeout=TIMEOUT_SECONDS) as answer,
        ):
            shutil.copyfileobj(answer, file)
            length = answer.headers.get("Content-Length")
        size = copy.stat().st_size
        if length is not None and size != int(length):
            raise ValueError(f"the connection ended after {size} of {length} bytes")
        with copy.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if hash_prefix is not None and not found.startswith(hash_prefix):
            raise ValueError(f"its SHA-256 begins with {found[: len(hash_prefix)]}, and not with {hash_prefix}")
        copy.replace(path)
    finally:
        copy.unlink(missing_ok=True)


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    given, found, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host, fragment="")))
    if found:
        # Not sent to where the host redirects to.
        encoded = base64.b64encode(urllib.parse.unquote(given).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    return request
