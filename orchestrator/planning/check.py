"""What would fail, before it does: data set, ground truth, weights, clusters, storage.

The model: a check reads a sample of every pool that the experiment uses, loads every extractor once and runs it on one
image, and collects everything that is wrong instead of stopping at the first. Nothing is computed or written for good.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from orchestrator.planning.budget import require_prices
from orchestrator.planning.cells import PlannedCell, of_pool
from orchestrator.planning.first_weights import unfit_weights
from orchestrator.planning.plan import make_plan
from orchestrator.planning.quarantine import too_many_broken
from orchestrator.spec.experiment import DatasetEntry, ExtractorEntry
from orchestrator.spec.grid import Cell, expand
from orchestrator.steps.cluster import ClusterStep
from orchestrator.steps.extraction import ExtractorSource
from orchestrator.storage.store import Storage
from workloads.configs.clustering import KMeansConfig
from workloads.datasets import Dataset, Survey, open_dataset, survey
from workloads.datasets.files import FileDataset
from workloads.devices import MPS, torch_device
from workloads.errors import BrokenImageError, InputError
from workloads.formats import counted


@dataclass
class CheckReport:
    """What was looked at (facts), what will not work (problems), and what may surprise (warnings)."""

    name: str
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    surveys: list[Survey] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "experiment": self.name,
            "ok": not self.problems,
            "facts": self.facts,
            "warnings": self.warnings,
            "problems": self.problems,
            "pools": [one.to_json() for one in self.surveys],
        }

    def print(self, console: Console) -> None:
        """One line each, problems last."""
        for style, lines in ((None, self.facts), ("yellow", self.warnings), ("red", self.problems)):
            for line in lines:
                console.print(line, style=style, markup=False, soft_wrap=True)
        console.print(self._verdict(), markup=False)

    def _verdict(self) -> str:
        if self.problems:
            return counted(len(self.problems), "problem")
        if self.warnings:
            return f"nothing is in the way; {counted(len(self.warnings), 'line')} above to look at"
        return "nothing wrong was found"


def check_experiment(document: dict[str, Any], storage: Storage, images: int) -> CheckReport:
    """Check everything an experiment depends on; `images` bounds how many images of a pool are decoded.

    Raises:
        InputError: the experiment file itself is wrong.
    """
    cells = expand(document)
    report = CheckReport(cells[0].entry.name)
    try:
        storage.check_writable()
        report.facts.append(f"storage {storage.uri} is writable")
    except InputError as error:
        report.problems.append(str(error))
    compute = cells[0].entry.compute
    if compute.max_cost is not None:
        _collect(report, lambda: require_prices(compute.cluster_config))
    if compute.device == MPS:
        _collect(report, lambda: torch_device(MPS))
    datasets: dict[Any, Dataset | None] = {}
    for cell in cells:
        entry = cell.entry.dataset
        if (entry.config, entry.root) in datasets:
            continue
        datasets[entry.config, entry.root] = None
        try:
            dataset = open_dataset(entry.config, entry.root)
            datasets[entry.config, entry.root] = dataset
            trained = _trained_pools(entry, cells)
            pools = dict.fromkeys([entry.config.pool, entry.config.val, *trained])
            needed = {entry.config.val, *trained}
            _survey_pools(dataset, tuple(pools), needed, images, cell.entry.compute.quarantine_limit, report)
            _check_training(dataset, trained, entry.config.val, report)
        except InputError as error:
            report.problems.append(str(error))
    if None in datasets.values():
        return report
    # What is wrong with images hides nothing that is wrong with the rest.
    try:
        made = make_plan(document, storage, write_listings=False)
    except InputError as error:
        report.problems.extend(map(str, error.each))
        return _without_repeats(report)
    planned = made.cells
    report.warnings.extend(made.warnings)
    report.problems.extend(str(cell.error) for cell in planned if cell.error)
    report.problems.extend(map(str, unfit_weights(planned).values()))
    _try_extractors(planned, datasets, report)
    return _without_repeats(report)


def _without_repeats(report: CheckReport) -> CheckReport:
    """Several cells, or the data set and the plan of it, may have one thing wrong."""
    report.problems[:] = dict.fromkeys(report.problems)
    return report


def _collect(report: CheckReport, call: Callable[[], object]) -> None:
    try:
        call()
    except InputError as error:
        report.problems.append(str(error))


def _trained_pools(entry: DatasetEntry, cells: list[Cell]) -> list[str]:
    """The pools of a data set that its cells fine-tune on."""
    trained = [cell.entry.finetune for cell in cells if cell.entry.dataset == entry]
    return [one.pool or entry.config.pool for one in trained if one is not None]


def _check_training(dataset: Dataset, trained: list[str], val: str, report: CheckReport) -> None:
    """What makes a fine-tuning or its score mean nothing."""
    if trained and dataset.num_classes is not None and dataset.num_classes < 2:
        report.problems.append(
            f"{dataset.name} has {counted(dataset.num_classes, 'class', 'classes')}, and a network is fine-tuned to "
            "tell them apart; allowed: 2 or more (a value that is ignored is none)"
        )
    if not isinstance(dataset, FileDataset) or val not in dataset.pools:
        return
    scored = {str(dataset.image_path(val, one.id)) for one in dataset.entries(val)}
    for pool in dict.fromkeys(trained):
        if pool in dataset.pools:
            both = [one.id for one in dataset.entries(pool) if str(dataset.image_path(pool, one.id)) in scored]
            if both:
                where = f"in {pool} and in {val}" if pool != val else f"in {pool}, which is trained on and scored"
                report.warnings.append(
                    f"{counted(len(both), 'image')} {where}, as {both[0]}: scores are of what was trained on"
                )


def _survey_pools(
    dataset: Dataset,
    pools: tuple[str, ...],
    needed: set[str],
    images: int,
    quarantine_limit: float,
    report: CheckReport,
) -> None:
    """Read a sample of each pool; those that are `needed` have to have a labelled pixel."""
    for index, pool in enumerate(pools):
        if index and (pool not in dataset.pools or not dataset.labelled(pool)):
            # Of a fine-tuning's pool the plan says it.
            if index == 1:
                report.warnings.append(f"{dataset.name} has no labelled pool {pool!r}: labels are made, PmIoU is not")
            continue
        try:
            found = survey(dataset, pool, limit=images)
        except InputError as error:
            raise of_pool(error, "val" if index else "pool") from None
        report.surveys.append(found)
        sizes = ", ".join(f"{height}x{width}" for (height, width), _ in found.sizes.most_common(3))
        more = f" and {counted(len(found.sizes) - 3, 'other size')}" if len(found.sizes) > 3 else ""
        left = dataset.left_out(pool)
        left_out = f"; {left} more in its folder have no mask or are not listed" if left else ""
        seen = f"{counted(found.available, 'image')}, {found.examined} read"
        report.facts.append(f"{dataset.name} {pool}: {seen}, {sizes}{more}{left_out}")
        for note, count in found.conversions.items():
            are = "is" if count == 1 else "are"
            report.warnings.append(f"{pool}: {counted(count, 'image')} {are} {note}, converted to 8-bit RGB")
        report.warnings.extend(f"{pool}: {image_id} is broken: {reason}" for image_id, reason in found.broken[:10])
        if too_many := too_many_broken(len(found.broken), found.available, pool, quarantine_limit):
            report.problems.append(too_many)
        report.problems.extend(f"{pool}: {message}" for _, message in found.label_errors[:10])
        report.warnings.extend(f"{pool}: {line}" for line in dataset.passed_over(pool))
        report.warnings.extend(
            f"{pool}: {counted(count, 'label file')} {doubt}" for doubt, count in found.label_doubts.items()
        )
        report.warnings.extend(f"{pool}: {line}" for line in _like_masks(found))
        if found.counted_from_one:
            first, last = dataset.classes[0], dataset.classes[-1]
            report.warnings.append(
                f"{pool}: {counted(found.counted_from_one, 'label file')} without a pixel of {first}, the first class, "
                f"but with some of {last}, the last, and of ignored ones: are values counted from 1?"
            )
        if found.labelled and not any(found.class_pixels.values()) and not found.label_errors:
            files = counted(found.available, "label file")
            none = f"{pool}: no pixel of any class in what was read ({found.examined} of {files})"
            certain = pool in needed and found.examined == found.available
            (report.problems if certain else report.warnings).append(none)
        if found.labelled:
            classes = counted(dataset.num_classes or 0, "class", "classes")
            report.facts.append(f"{pool}: {classes}, {found.ignored_share:.1%} of pixels ignored")
            # Of files that were refused nobody knows what is in them.
            if found.absent_classes and not found.label_errors:
                report.warnings.append(f"{pool}: no pixel of {', '.join(found.absent_classes)} in what was read")


def _like_masks(found: Survey) -> Iterator[str]:
    """What makes pictures look like masks that were taken for pictures."""
    if len(found.like_masks) > 1:
        yield (
            f"{len(found.like_masks)} of {found.examined} pictures have so few colours that they look like masks, as "
            f"{found.like_masks[0]}; `lookbeyond init FOLDER` finds which masks are of which pictures"
        )
    if found.same_stem:
        one, other = found.same_stem[0]
        yield f"{len(found.same_stem)} names occur twice, as {one} and {other}: are some of them masks?"


def _try_extractors(cells: list[PlannedCell], datasets: dict[Any, Dataset | None], report: CheckReport) -> None:
    from orchestrator.steps.feature_shards import load_extractor

    tried: set[ExtractorEntry] = set()
    for planned in cells:
        extractor = planned.cell.entry.labels.extractor
        # A network that is trained on the way is not there yet.
        if planned.error or "sample" not in planned.roles or extractor.finetune is not None or extractor in tried:
            continue
        tried.add(extractor)
        entry = planned.cell.entry.dataset
        try:
            loaded = load_extractor(ExtractorSource(extractor.config, extractor.weights, "cpu"))
            dataset = datasets[entry.config, entry.root]
            assert dataset is not None, "nothing is planned on a data set that cannot be opened"
            picture = _first_image(dataset, entry.config.pool, loaded.minimum_size)
            shape = loaded.features([picture]).shape
            report.facts.append(
                f"{extractor.config.arch}, {loaded.identity[:24]}: image {picture.shape[0]}x{picture.shape[1]} gives "
                f"{shape[1]} channels on {shape[2]}x{shape[3]} places"
            )
            if loaded.report is not None:
                report.facts.append(f"  {loaded.report}")
            report.warnings.extend(_too_small(report.surveys, loaded.minimum_size, extractor.config.arch))
            report.problems.extend(_too_few_samples(cells, extractor, shape[2] * shape[3], report.surveys))
        except InputError as error:
            report.problems.append(str(error))


def _too_few_samples(
    cells: list[PlannedCell], extractor: ExtractorEntry, places: int, surveys: list[Survey]
) -> Iterator[str]:
    """One line for every number of clusters that is larger than the sample can be, where all images have one size."""
    for planned in cells:
        cluster = planned.roles.get("cluster")
        if not isinstance(cluster, ClusterStep) or cluster.sample.extractor != extractor:
            continue
        sizes = [found.sizes for found in surveys if found.pool == cluster.images.pool]
        if any(len(found) != 1 for found in sizes) or not isinstance(cluster.config, KMeansConfig):
            continue
        most = cluster.images.count * min(cluster.sample.sampling.pixels_per_image, places)
        if cluster.num_clusters > most:
            images = f"{cluster.images.count} images with {places} feature places each"
            yield (
                f"labels.clustering: K = {cluster.num_clusters} is larger than the sample can be: {images}; "
                f"allowed: 1 to {most}"
            )


def _too_small(surveys: list[Survey], minimum: int, arch: str) -> Iterator[str]:
    """One line for every pool with images below the size that an extractor needs."""
    for found in surveys:
        small = {size: count for size, count in found.sizes.items() if min(size) < minimum}
        if small:
            shown = ", ".join(f"{height}x{width}" for height, width in list(small)[:3])
            yield (
                f"{found.pool}: {counted(sum(small.values()), 'image')} smaller than {minimum}x{minimum}, which {arch} "
                f"needs ({shown}); quarantined"
            )


def _first_image(dataset: Dataset, pool: str, minimum: int) -> Any:
    for entry in dataset.entries(pool):
        try:
            picture = dataset.read_image(pool, entry.id)
        except BrokenImageError:
            continue
        if min(picture.shape[:2]) >= minimum:
            return picture
    raise InputError(f"{pool!r} has no image that can be read and is {minimum}x{minimum} or larger", key="dataset.pool")
