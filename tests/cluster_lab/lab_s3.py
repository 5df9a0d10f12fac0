"""The whole demo on s3://: the bytes of the demo on a path, with a good network and with one that drops and delays.

Run by `make cluster-test`: three times the demo, a quarter of an hour on two cores.
"""

from pathlib import Path
from typing import Any

import pytest
from support.bystander import Bystander, outcomes
from support.s3_server import KINDS, S3Server

from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage

SHARE_OF_REQUESTS = 0.03


@pytest.mark.timeout(3600)
def test_the_demo_on_s3(bucket: str, s3: S3Server, tmp_path: Path, lookbeyond: Any) -> None:
    on_a_path = Storage(str(tmp_path / "path"))
    assert lookbeyond("demo", "--storage", on_a_path.uri, timeout=1200).returncode == 0
    expected = outcomes(on_a_path)
    print(f"on a path: {len(expected)} steps")
    for name, share in (("undisturbed", 0.0), ("troubled", SHARE_OF_REQUESTS)):
        on_s3 = Storage(f"s3://{bucket}/{name}")
        if share:
            s3.trouble.begin(share, seed=11)
        try:
            process = lookbeyond.start("demo", "--storage", on_s3.uri)
            bystander = Bystander(on_s3, process, kill=bool(share))
            bystander.start()
            _, err = process.communicate()
            bystander.join()
            assert not share or set(s3.trouble.made) == set(KINDS)
            print(f"{name}: {dict(s3.trouble.made)}; looked at {len(bystander.seen_steps)} times")
        finally:
            s3.trouble.end()
        assert process.returncode == 0, err
        assert bool(bystander.killed) == bool(share)
        assert bystander.damaged == {}
        assert outcomes(on_s3) == expected
        found = verify(on_s3, repair=False)
        assert (found.damaged, found.steps) == ({}, len(expected))
