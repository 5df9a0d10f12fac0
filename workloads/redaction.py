"""Credentials in URLs, kept out of everything that is written or said.

Weights may lie behind a URL with a name and a password, or with a signature in its query. The URL is used as it was
given, and shown without them: a log, a results file and a report travel further than whoever wrote the experiment.
"""

import re

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s\"'<>\\`]+)")
_HOST = re.compile(r"[^/?#]*")
_PORT = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")
# What ends a sentence is no part of the last value.
_VALUE = re.compile(r"=[^&]*?(?=[;,.:)]*(&|$))")
_HIDDEN = "***"


def redacted(text: str) -> str:
    """The text with names, passwords and the values of queries in all its URLs replaced by asterisks."""
    return _URL.sub(_shown, text) if "://" in text else text


def _shown(url: re.Match[str]) -> str:
    rest = url["rest"]
    if "@" in rest:
        host = _HOST.match(rest)
        assert host is not None
        inside = host[0].rpartition("@")
        if inside[1]:
            rest = f"{_HIDDEN}@{rest[len(inside[0]) + 1 :]}"
        elif not _PORT.fullmatch(host[0]):
            # A password with a slash in it: what stands before the host ends at the last @.
            rest = f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    for mark in "?#":
        before, found, after = rest.partition(mark)
        if found and (mark == "?" or "=" in after):
            rest = before + found + (_VALUE.sub(f"={_HIDDEN}", after) if "=" in after else _HIDDEN)
    return url["scheme"] + rest
