"""What a run has before it, told to its progress: images and trainings at once, their seconds as soon as the plan has
reckoned them beside the work.
"""

import threading

from orchestrator.execution.progress import Ahead, Progress
from orchestrator.ledger.manifests import Ledger
from orchestrator.planning.estimate import GUESS, cores_here, estimate
from orchestrator.planning.plan import Plan
from orchestrator.steps.step import Pool, ShardedStep
from orchestrator.storage.store import Storage
from workloads.errors import InputError


def foretell(made: Plan, storage: Storage, progress: Progress, address: str | None) -> None:
    """Tell the progress of a run what is before it; says, too, that Ray is being started."""
    if progress.is_shown:
        progress.ahead(ahead(made, Ledger(storage)))
        # Nobody waits for it, and a run that ends before it does not either.
        threading.Thread(target=_reckon, args=(made, storage, progress), daemon=True).start()
    if address:
        progress.wait("joining Ray", f"at {address}")
    else:
        progress.wait("starting Ray", "takes some seconds")


def ahead(made: Plan, ledger: Ledger) -> list[Ahead]:
    """Images and trainings of the pending steps by title; what several steps share counts once."""
    titles: dict[str, list[Ahead]] = {}
    pieces: dict[str, dict[str, tuple[int, bool]]] = {}
    for step in made.pending:
        own = titles.setdefault(step.title, [])
        if step.pool is Pool.TRAIN:
            own.append(Ahead(step.title, 1, trains=True))
        elif isinstance(step, ShardedStep):
            left = {piece.name for piece in step.pieces(ledger)}
            known = pieces.setdefault(step.title, {})
            for shard in step.images.shards:
                name = step.piece_name(shard)
                pending = name in left or known.get(name, (0, False))[1]
                known[name] = shard.stop - shard.start, pending
        else:
            own.append(Ahead(step.title, step.images.count))
    for title, known in pieces.items():
        total = sum(images for images, _ in known.values())
        titles[title].append(Ahead(title, total, total - sum(images for images, pending in known.values() if pending)))
    return [
        Ahead(title, sum(one.units for one in parts), sum(one.done for one in parts), parts[0].trains)
        for title, parts in titles.items()
    ]


def _reckon(made: Plan, storage: Storage, progress: Progress) -> None:
    try:
        costs = estimate(made, storage)
    except (InputError, OSError, KeyError):
        # A bar without a time is all that is lost; what is wrong is for the run to say.
        return
    seconds: dict[str, float] = {}
    for step in made.steps.values():
        seconds[step.title] = seconds.get(step.title, 0.0) + costs.seconds_by_step.get(step.key, 0.0)
    progress.reckoned(seconds, cores_here(), is_guess=costs.uncertainty == GUESS)
