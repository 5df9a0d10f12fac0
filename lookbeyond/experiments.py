"""Experiments from Python: plan them, run them, and take their results as types and arrays."""

import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from orchestrator.cli.running import carry_out
from orchestrator.execution.in_process import run_in_process
from orchestrator.ledger.manifests import Ledger, Manifest
from orchestrator.ledger.shards import read_maps
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.results.cells import CellResult, Metrics, Results, Status, experiment_names, read_results
from orchestrator.spec.loading import load_document, load_experiment
from orchestrator.spec.naming import describe
from orchestrator.steps.kinds import BY_ROLE
from orchestrator.storage.store import Storage
from workloads.errors import InputError
from workloads.ignored import IGNORE_LABEL

if TYPE_CHECKING:
    import torch

AnyExperiment = str | os.PathLike[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell of an experiment that was run. Made by `run` and `open_results`.

    Attributes
    ----------
    result : CellResult
        All that is known of it, as types: status, metrics, steps, seconds, quarantined images.
    storage : str
        Where its steps lie.
    name : str
        What tells it from the other cells.
    """

    result: CellResult
    storage: str
    name: str

    @property
    def row(self) -> str | None:
        """Its row in the table; None where the experiment has none."""
        return self.result.row

    @property
    def values(self) -> dict[str, Any]:
        """The keys that the grid sets, with its values of them."""
        return self.result.values

    @property
    def status(self) -> Status:
        """How it ended."""
        return self.result.status

    @property
    def metrics(self) -> Metrics:
        """Its figures: ``metrics.pmiou``, ``metrics.miou`` and others, in percent."""
        return self.result.metrics

    def label_maps(self, pool: Literal["train", "val"] = "train") -> Iterator[tuple[str, np.ndarray]]:
        """The auxiliary labels of its images, one image after the other.

        Parameters
        ----------
        pool : {"train", "val"}, default="train"
            Labels of the images that are trained on, or of those that are scored.

        Yields
        ------
        image : str
            The image's id.
        labels : ndarray of uint16, shape (H, W)
            0 to K - 1; 65535 (`lookbeyond.IGNORED`) where no label could be found.

        Raises
        ------
        InputError
            The cell has no such labels, or they are not done.
        """
        for record in self._manifest("label" if pool == "train" else "label_val").shards:
            yield from read_maps(Storage(self.storage), record.path)

    def predictions(self) -> Iterator[tuple[str, np.ndarray]]:
        """The classes that its network predicts for a few images of the validation pool.

        Yields
        ------
        image : str
            The image's id.
        classes : ndarray of uint8, shape (H, W)
            Places in the data set's classes.
        """
        manifest = self._manifest("finetune")
        for image, classes in read_maps(Storage(self.storage), manifest.file("predictions").path):
            yield image, classes.astype(np.uint8)

    def network(self, stage: Literal["pretrain", "finetune"] = "finetune") -> "dict[str, torch.Tensor]":
        """The weights of the network that it trained; `load_model` reads whole networks that were exported.

        Parameters
        ----------
        stage : {"pretrain", "finetune"}, default="finetune"
            After which training.

        Returns
        -------
        dict of str to torch.Tensor
            The state dict, on the CPU.

        Raises
        ------
        InputError
            The cell has no such training, or it is not done.
        """
        # Imported where a network is asked for: torch takes a while.
        from orchestrator.steps.tensors import read_tensors

        return read_tensors(Storage(self.storage), self._manifest(stage).file("network").path)

    def _manifest(self, role: str) -> Manifest:
        """The record of the step of a role.

        Raises
        ------
        InputError
            There is none.
        """
        key = self.result.steps.get(role)
        if key is None:
            has = ", ".join(self.result.steps) or "none"
            raise InputError(f"cell {self.name} has no step {role}", allowed=f"its steps: {has}")
        manifest = Ledger(Storage(self.storage)).manifest(BY_ROLE[role].kind, key)
        if manifest is None:
            why = self.result.why or "it is not on the storage any more"
            raise InputError(f"step {role} of cell {self.name} is not done on {self.storage} ({why})")
        return manifest


@dataclass(frozen=True)
class ExperimentResults(Sequence[Cell]):
    """The cells of an experiment, in its order. Made by `run` and `open_results`.

    Attributes
    ----------
    results : Results
        All that is known, as types.
    storage : str
        Where the steps lie.

    Examples
    --------
    >>> import lookbeyond
    >>> results = lookbeyond.open_results("camvid-k", storage="storage")    # doctest: +SKIP
    >>> max(results, key=lambda cell: cell.metrics.pmiou).values            # doctest: +SKIP
    {'labels.clustering.k_per_class': 1.5}
    """

    results: Results
    storage: str

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.results.experiment["name"])

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells."""
        every = self.results.cells
        return tuple(Cell(one, self.storage, describe(one, every)) for one in every)

    def row(self, name: str) -> Cell:
        """The only cell of a row.

        Raises
        ------
        InputError
            There is no such row, or it has several cells.
        """
        found = [cell for cell in self.cells if cell.row == name]
        if len(found) != 1:
            rows = ", ".join(dict.fromkeys(str(cell.row) for cell in self.cells))
            raise InputError(f"{len(found)} cells of {self.name} have the row {name!r}", allowed=f"rows: {rows}")
        return found[0]

    def __getitem__(self, index: Any) -> Any:
        return self.cells[index]

    def __len__(self) -> int:
        return len(self.results.cells)


def plan(experiment: AnyExperiment, overrides: Mapping[str, Any] | None = None, *, storage: str = "storage") -> Plan:
    """The cells of an experiment, the distinct steps behind them, and which of these are done.

    Parameters
    ----------
    experiment : str, PathLike or mapping
        An experiment file, or what one would hold.
    overrides : mapping of str to value, optional
        Dotted keys and their values, as ``key=value`` of the command line.
    storage : str, default="storage"
        A path, s3:// or gs://. Nothing is written there.

    Returns
    -------
    Plan
        ``plan(...).counts()`` says per kind of step how many are distinct, cached and to run.

    Raises
    ------
    InputError
        The experiment is wrong; the message says where.

    Examples
    --------
    >>> import lookbeyond
    >>> scenes = {"name": "small", "dataset": {"name": "scenes", "num_train": 4, "num_val": 2}}
    >>> made = lookbeyond.plan(scenes, {"labels.clustering": {"k": 3}}, storage="nowhere")
    >>> made.counts()["label"]
    {'named': 2, 'distinct': 2, 'cached': 0, 'to_run': 2}
    """
    return make_plan(_document(experiment, overrides), Storage(storage), write_listings=False)


def run(
    experiment: AnyExperiment,
    overrides: Mapping[str, Any] | None = None,
    *,
    storage: str = "storage",
    until: Literal["labels", "pretrain", "finetune"] = "finetune",
    address: str | None = None,
) -> ExperimentResults:
    """Run what is not done of an experiment, as ``lookbeyond run`` does; the same call resumes and extends.

    Parameters
    ----------
    experiment : str, PathLike or mapping
        An experiment file, or what one would hold.
    overrides : mapping of str to value, optional
        Dotted keys and their values, as ``key=value`` of the command line.
    storage : str, default="storage"
        Where steps and results go: a path, s3:// or gs://.
    until : {"labels", "pretrain", "finetune"}, default="finetune"
        Last stage to run.
    address : str, optional
        Ray cluster to use; one is started on this machine where none is given.

    Returns
    -------
    ExperimentResults
        Cells that failed are among them: their `status` and `result.error` say so.

    Raises
    ------
    InputError
        The experiment is wrong; the message says where.
    """
    options = Namespace(storage=storage, until=until, address=address, dashboard=False)
    options.cluster_config = options.select_best = None
    (outcome,) = carry_out([_document(experiment, overrides)], options)
    return ExperimentResults(outcome.results, Storage(storage).uri)


def open_results(experiment: str | os.PathLike[str] | None = None, *, storage: str = "storage") -> ExperimentResults:
    """The results of an experiment that was run; neither its file nor its data are needed.

    Parameters
    ----------
    experiment : str or PathLike, optional
        The experiment's name, or its file; may be left out where the storage holds the results of one.
    storage : str, default="storage"
        Where it was run.

    Returns
    -------
    ExperimentResults
        Its cells.

    Raises
    ------
    InputError
        There are no such results; the message names those that are there.
    """
    place = Storage(storage)
    if experiment is None:
        names = experiment_names(place)
        if len(names) != 1:
            there = ", ".join(names) or "none at all"
            raise InputError(f"which experiment of storage {place.uri} is meant must be said; there are: {there}")
        name = names[0]
    elif Path(experiment).suffix in (".yaml", ".yml"):
        name = str(load_experiment(os.fspath(experiment), ())["name"])
    else:
        name = os.fspath(experiment)
    return ExperimentResults(read_results(place, name), place.uri)


def label_maps(
    images: str | os.PathLike[str] | Sequence[np.ndarray],
    k: int,
    *,
    overrides: Mapping[str, Any] | None = None,
    storage: str | None = None,
    device: str = "auto",
) -> dict[str, np.ndarray]:
    """Auxiliary labels of images, made in this process: features, clusters over all images, superpixels that vote.

    For more than some hundred images `run` does the same on all cores, and with everything else that an experiment has.

    Parameters
    ----------
    images : str, PathLike or sequence of ndarray of uint8, shape (H, W, 3)
        A folder of images, s3:// or gs://, or RGB arrays.
    k : int
        The number of labels.
    overrides : mapping of str to value, optional
        Dotted keys of the experiment, for example ``{"labels.extractor": {"arch": "resnet18", "weights": FILE}}``. By
        default features are those of a filter bank, which needs no weights.
    storage : str, optional
        Where what is made is kept and found again; forgotten where none is given.
    device : str, default="auto"
        Where features are extracted.

    Returns
    -------
    dict of str to ndarray of uint16, shape (H, W)
        By the image's path below the folder, or its number: 0 to ``k - 1``; 65535 (`lookbeyond.IGNORED`) where no label
        could be found.

    Raises
    ------
    InputError
        There are no images, or an override is wrong.

    Examples
    --------
    >>> import lookbeyond, numpy as np
    >>> halves = np.zeros((2, 64, 96, 3), np.uint8)
    >>> halves[:, :, 48:] = np.random.default_rng(0).integers(0, 255, (2, 64, 48, 3))
    >>> made = lookbeyond.label_maps(halves, 2, overrides={"labels.superpixels.n_segments": 20})
    >>> made["0"].shape, bool(made["0"][5, 5] != made["0"][5, 90])
    ((64, 96), True)
    """
    with tempfile.TemporaryDirectory() as folder:
        root = os.fspath(images) if isinstance(images, str | os.PathLike) else _written(images, Path(folder, "images"))
        in_memory = not isinstance(images, str | os.PathLike)
        document = {"name": "labels", "dataset": {"name": "folder", "root": root}, "labels": {"clustering": {"k": k}}}
        place = Storage(storage or str(Path(folder, "storage")))
        made = make_plan(load_document(document, overrides or {}), place, write_listings=True, until="labels")
        if len(made.cells) != 1:
            raise InputError(f"{len(made.cells)} cells", key="grid", allowed="labels are those of one cell; use run")
        failed = run_in_process(made, place, device)
        if failed:
            raise InputError(next(iter(failed.values())))
        shards = made.done[made.cells[0].roles["label"].key].shards
        found = [pair for record in shards for pair in read_maps(place, record.path)]
    return {
        image.removesuffix(".png") if in_memory else image: labels.copy() for image, labels in sorted(found, key=_id)
    }


def _id(pair: tuple[str, np.ndarray]) -> str:
    return pair[0]


def _written(images: Sequence[np.ndarray], folder: Path) -> str:
    folder.mkdir()
    digits = len(str(max(len(images) - 1, 0)))
    for number, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"image {number} is {what}", key="images", allowed="uint8 of shape (H, W, 3), RGB")
        Image.fromarray(image).save(folder / f"{number:0{digits}}.png")
    return str(folder)


def _document(experiment: AnyExperiment, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    if isinstance(experiment, Mapping):
        return load_document(experiment, overrides or {})
    return load_experiment(os.fspath(experiment), (), overrides or {})


IGNORED = IGNORE_LABEL
"""The value of pixels without a label, in label maps."""
