"""Whether other seeds give the same labels, for the cells of which an experiment has repeats."""

import itertools
from collections.abc import Sequence

import numpy as np

from orchestrator.ledger.shards import read_maps
from orchestrator.planning.plan import Plan
from orchestrator.results.cells import CellResult
from orchestrator.spec.naming import repeats
from orchestrator.storage.store import Storage
from workloads.scoring.unlabelled import adjusted_rand_index

_IMAGES = 16


def with_stability(plan: Plan, cells: Sequence[CellResult], storage: Storage) -> list[CellResult]:
    """The cells, those that have repeats with the adjusted Rand index of their labels and those of the next seed."""
    found: dict[int, float | None] = {}
    for group in repeats(cells):
        keys = {id(cell): _labels_of(cell) for cell in group}
        labelled = [cell for cell in group if keys[id(cell)] in plan.done]
        if len({keys[id(cell)] for cell in labelled}) < 2:
            continue
        maps = {key: _first_maps(plan, key, storage) for key in dict.fromkeys(keys[id(cell)] for cell in labelled)}
        for place, cell in enumerate(labelled):
            one, other = maps[keys[id(cell)]], maps[keys[id(labelled[(place + 1) % len(labelled)])]]
            found[id(cell)] = adjusted_rand_index((one[name], other[name]) for name in one if name in other)
    return [
        cell.model_copy(update={"metrics": cell.metrics.model_copy(update={"stability": found[id(cell)]})})
        if id(cell) in found
        else cell
        for cell in cells
    ]


def _labels_of(cell: CellResult) -> str:
    return cell.steps.get("label_val") or cell.steps.get("label") or ""


def _first_maps(plan: Plan, key: str, storage: Storage) -> dict[str, np.ndarray]:
    every = itertools.chain.from_iterable(read_maps(storage, record.path) for record in plan.done[key].shards)
    return dict(itertools.islice(every, _IMAGES))
