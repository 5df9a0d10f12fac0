"""What the campaign of faults does to a storage between two starts, without Ray: nothing of it is run, all is made."""

import random
import time
from pathlib import Path

from support.without_ray import run

from benchmarks.faults.kills import EXPERIMENT, outcomes
from benchmarks.faults.mischief import damage, plant
from orchestrator.ledger.layout import cluster_state_path, lease_path, state_path
from orchestrator.ledger.leases import Leases
from orchestrator.ledger.manifests import Ledger
from orchestrator.ledger.verification import verify
from orchestrator.storage.store import Storage

DOCUMENT = EXPERIMENT | {
    "dataset": EXPERIMENT["dataset"] | {"num_train": 4, "num_val": 2},
    "rows": [{"row": "labels", "set": {"pretrain": None, "finetune": None}}],
}


def test_what_is_planted_is_neither_run_nor_believed(tmp_path: Path) -> None:
    place, executed = tmp_path / "storage", tmp_path / "executed"
    storage = Storage(str(place))
    undisturbed = run(DOCUMENT, Storage(str(tmp_path / "undisturbed")), until="labels")
    done = run(DOCUMENT, storage, until="labels")
    assert plant(tmp_path / "nothing", executed, random.Random(0)) is None
    assert damage(tmp_path / "nothing", random.Random(0)) is None
    # The run was ended while it clustered; somebody has the lease of that.
    ledger, roles = Ledger(storage), done.plan.cells[0].roles
    for role in ("cluster", "label", "label_val", "score"):
        ledger.forget(roles[role].kind, roles[role].key)
    storage.replace(lease_path(roles["cluster"].key, 0), b"{}")
    chance = random.Random(0)
    states, kinds = [state(roles["cluster"].key) for state in (state_path, cluster_state_path)], set[str | None]()
    while len(kinds) < 9 or not all(map(storage.exists, states)):
        kinds.add(plant(place, executed, chance))
    assert None not in kinds
    assert len({damage(place, chance) for _ in range(30)}) > 5
    again = run(DOCUMENT, storage, until="labels")
    assert again.failed == [] and not executed.exists()
    # What was fitted is what an undisturbed run fits.
    assert outcomes(storage) == outcomes(Storage(str(tmp_path / "undisturbed")))
    assert undisturbed.plan.steps.keys() == again.plan.steps.keys()
    # A lease for ever is one of a silent run.
    leases, deadline = Leases(storage, 0.2), time.monotonic() + 30
    while not leases.acquire(roles["cluster"].key):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    leases.close()
    found = verify(storage, repair=True)
    assert found.damaged and not executed.exists()
    assert verify(storage, repair=False).damaged == {}
