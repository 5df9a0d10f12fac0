"""How urgent the steps of a plan are: how long the longest chain is of which each is the first.

The model: a step takes as long an image as steps of its name did that the plan knows to be done, else as is assumed
before anything was. Only the order counts, so what `plan` reckons from operations is not asked for: counting them takes
longer than many a run.
"""

from collections import defaultdict
from collections.abc import Iterable

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.plan import Plan
from orchestrator.steps.kinds import BY_NAME


def longest_paths(plan: Plan, *, cores: float) -> dict[str, float]:
    """Seconds from the start of each pending step to the end of the last that waits for it, by key.

    What has shards is spread over at most so many cores.
    """
    measured = _measured(plan.done.values())
    followers: dict[str, list[str]] = defaultdict(list)
    paths: dict[str, float] = {}
    for step in plan.pending:
        for key in step.input_keys.values():
            followers[key].append(step.key)
    # In plan order inputs come before what needs them.
    for step in reversed(plan.pending):
        each = measured.get(step.rate_name(step.meaning), step.assumed_rate.seconds)
        width = max(1.0, min(cores, len(step.images.shards))) if step.stream else 1.0
        behind = max((paths[key] for key in followers[step.key] if key in paths), default=0.0)
        paths[step.key] = step.image_passes * each / width + behind
    return paths


def _measured(manifests: Iterable[Manifest]) -> dict[str, float]:
    """Seconds an image (and epoch) by the name of the rate."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for manifest in manifests:
        images = manifest.results.get("images_trained") or manifest.provenance.get("images", {}).get("used", 0)
        kind = BY_NAME.get(manifest.kind)
        if images and kind is not None:
            entry = sums[kind.rate_name(manifest.meaning)]
            entry[0] += manifest.provenance.get("work_seconds") or manifest.provenance.get("wall_seconds", 0.0)
            entry[1] += images
    return {name: seconds / images for name, (seconds, images) in sums.items()}
