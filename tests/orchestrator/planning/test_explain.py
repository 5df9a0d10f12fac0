"""Explaining: for every step one true sentence on why it would run."""

import copy
from pathlib import Path
from typing import Any

import pytest
from support.without_ray import FakeWorker, execute

from orchestrator.planning.explain import explain
from orchestrator.planning.plan import make_plan
from orchestrator.storage.store import Storage

SCENES: dict[str, Any] = {
    "name": "why",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 100, "num_val": 8},
    "labels": {"images": 40, "clustering": {"k": 5}, "superpixels": {"n_segments": 50}, "outliers": 0.05},
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


def changed(**keys: Any) -> dict[str, Any]:
    document = copy.deepcopy(SCENES)
    for key, value in keys.items():
        if key == "seed":
            document["seed"] = value
        else:
            document["labels"][key] = value
    return document


def done(storage: Storage, document: dict[str, Any]) -> None:
    execute(make_plan(document, storage, write_listings=False), storage, FakeWorker(storage))


def reasons(storage: Storage, document: dict[str, Any]) -> dict[str, str]:
    """The reason of every role of the only cell."""
    made = make_plan(document, storage, write_listings=False)
    by_key = {step.key: reason for step, reason in explain(made, storage)}
    assert set(by_key) == set(made.steps)
    return {role: by_key[step.key] for role, step in made.cells[0].roles.items()}


def test_on_a_new_storage_nothing_has_been_done(storage: Storage) -> None:
    found = reasons(storage, SCENES)
    assert found["sample"] == "no sample step has been done on this storage"
    assert found["score"] == "no score step has been done on this storage"


def test_what_is_done_is_cached(storage: Storage) -> None:
    done(storage, SCENES)
    assert set(reasons(storage, SCENES).values()) == {"cached"}


def test_another_number_of_clusters(storage: Storage) -> None:
    done(storage, SCENES)
    found = reasons(storage, changed(clustering={"k": 7}))
    assert found["sample"] == found["superpixels"] == "cached"
    assert found["cluster"].endswith(" in clusters: 5 -> 7")
    assert found["label"] == found["label_val"] == "is computed from cluster, which runs again"
    # The score of these labels; `labels` is the role under which it reads them.
    assert found["score"] == "is computed from labels, which runs again"


def test_another_outlier_share_reaches_the_labels_alone(storage: Storage) -> None:
    done(storage, SCENES)
    found = reasons(storage, changed(outliers=0.1))
    assert found["cluster"] == "cached"
    assert found["label"].endswith(" in outliers: 0.05 -> 0.1")


def test_another_seed_is_named(storage: Storage) -> None:
    done(storage, SCENES)
    found = reasons(storage, changed(seed=3))
    assert found["sample"].endswith(" in seed: 0 -> 3")
    assert found["superpixels"] == "cached"


def test_a_deep_option_is_named_with_its_place(storage: Storage) -> None:
    done(storage, SCENES)
    found = reasons(storage, changed(superpixels={"n_segments": 60}))
    assert found["superpixels"].endswith(" in superpixels.n_segments: 50 -> 60")
    assert found["label"] == "is computed from superpixels, which runs again"


def test_more_images_are_partly_done(storage: Storage) -> None:
    done(storage, SCENES)
    found = reasons(storage, changed(images=80))
    assert found["sample"] == "32 of 80 images done; images: 40 -> 80"
    assert found["superpixels_val"] == "cached"


def test_the_most_alike_of_several_is_compared(storage: Storage) -> None:
    done(storage, SCENES)
    done(storage, changed(seed=1, sampling={"pixels_per_image": 7}))
    found = reasons(storage, changed(seed=1))
    # Both differ in one field; either is a true answer, but never two fields.
    assert found["sample"].count("->") == 1


def test_labels_never_made_from_clusters_that_are_there(storage: Storage) -> None:
    """Clusters of K=7 were fitted by a run that got no further: the labels' inputs are done, and yet others."""
    done(storage, SCENES)
    worker = FakeWorker(storage)
    worker.fail_when = lambda task: RuntimeError("no") if task.kind in ("label", "score") else None
    execute(make_plan(changed(clustering={"k": 7}), storage, write_listings=False), storage, worker)
    found = reasons(storage, changed(clustering={"k": 7}))
    assert found["cluster"] == "cached"
    assert found["label"].startswith("is computed from another cluster than ")
