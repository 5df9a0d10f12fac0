"""Credentials of a URL are shown nowhere, whatever the text around them."""

import pytest

from workloads.errors import GroupedInputError, InputError
from workloads.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:SECRET@host:80/a/w.pth", "https://***@host:80/a/w.pth"),
        ("https://SECRET@host/w", "https://***@host/w"),
        ("https://me:SECRET/SECRET@host/w", "https://***@host/w"),
        ("https://me@corp.com:SECRET@host/w", "https://***@host/w"),
        ("see https://h/w.pth?token=SECRET&x=SECRET; or not", "see https://h/w.pth?token=***&x=***; or not"),
        ("https://h/w.pth?SECRET", "https://h/w.pth?***"),
        ("{'w': 'https://h/x?sig=SECRET%3D,SECRET'}", "{'w': 'https://h/x?sig=***'}"),
        ('{"w": "https://h/x?sig=SECRET"}', '{"w": "https://h/x?sig=***"}'),
        ("https://h:80/w#access_token=SECRET", "https://h:80/w#access_token=***"),
        ("s3://SECRET:SECRET@bucket/x", "s3://***@bucket/x"),
        ("https://h/w@2/x.pth http://[::1]:80/@", "https://h/w@2/x.pth http://[::1]:80/@"),
        ("http://localhost:8265, me@host, a?b=c", "http://localhost:8265, me@host, a?b=c"),
    ],
)
def test_credentials_of_urls_become_asterisks(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


def test_errors_show_none() -> None:
    error = InputError(value="https://me:SECRET@h/w", key="weights", allowed="not https://h/?k=SECRET")
    told = error.read_from("https://h/e.yaml?t=SECRET")
    for each in (error, error.below("labels"), told, GroupedInputError([error])):
        assert "SECRET" not in str(each) and "***" in str(each)
