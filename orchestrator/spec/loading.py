"""Reading an experiment file: the files it extends, the size it is run at, and the command line's overrides.

The model: a document is merged from pieces, each into those before it: the file named by `extends`, the file itself,
the size (one of `sizes`), the overrides. Rows, columns and the grid come last and make cells of it (`grid`), so they
win. A piece that changes the data set drops those options of the former one that the new one does not have. The
failure this guards against: seven tables that repeat one base, and differ where nobody meant them to.
"""

import copy
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.spec.entries import is_text
from orchestrator.spec.experiment import ExperimentEntry
from orchestrator.spec.merging import merged, nested, set_key
from orchestrator.spec.rows import sized_parts
from orchestrator.spec.strict_yaml import YamlError, load_yaml
from workloads.datasets import dataset_options
from workloads.errors import InputError

# What a size may not change: what the file is, and the parts that have sizes of their own.
_UNSIZED = ("name", "extends", "size", "sizes", "rows", "columns")
# Where experiments usually lie, and what only an experiment file has.
_FOLDER = "experiments"
_TELLING = ("dataset", "extends", "labels", "pretrain", "finetune", "rows", "grid")
# Overrides of these come before the size is merged.
_BEFORE_SIZE = ("size", "sizes", "rows", "columns")


def load_experiment(
    path: str | Path, overrides: Iterable[str], values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read an experiment file with what it extends, at its size, and lay ``key=value`` pairs over it, then keys with
    `values` that need no reading.

    Returns:
        A document without `extends` and `sizes`; its rows and columns are those of its `size`.

    Raises:
        InputError: no such file, not YAML, not a mapping, files that extend each other in a circle, an unknown size,
        rows or columns that are none, or an override that is not ``key=value``.
    """
    path = Path(path)
    document = _with_bases(path, ())
    document.setdefault("name", name_after(path))
    pairs = [*(_parsed(override) for override in overrides), *copy.deepcopy(dict(values or {})).items()]
    return _laid_over(document, pairs)


def load_document(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """As `load_experiment`, of what a file would hold and of values that need no reading; both are left as they are.

    A file that it extends is looked for from the current folder.

    Raises:
        InputError: as `load_experiment`.
    """
    place = Path("experiment.yaml")
    own = _extended(copy.deepcopy(dict(document)), place, ())
    own.setdefault("name", place.stem)
    return _laid_over(own, list(copy.deepcopy(dict(overrides)).items()))


def _laid_over(document: dict[str, Any], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    early = [pair for pair in pairs if pair[0].split(".")[0] in _BEFORE_SIZE]
    for key, value in early:
        set_key(document, key, value)
    document = _at_size(document)
    # The data set first: its own options may be given before its name.
    late = sorted((pair for pair in pairs if pair not in early), key=lambda pair: pair[0] != "dataset.name")
    for key, value in late:
        _override(document, key, value)
    return document


def name_after(path: Path) -> str:
    """The name of an experiment whose file gives none: that of the file, in the letters a name is made of."""
    plain = unicodedata.normalize("NFKD", path.stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.") or "experiment"


def _with_bases(path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The file's document merged into those that it extends; a name belongs to one file and is not handed on."""
    if path.resolve() in extended_by:
        circle = " -> ".join(str(one.name) for one in (*extended_by, path.resolve()))
        raise InputError(f"{circle} is a circle", key="extends")
    return _extended(_read(path), path, extended_by)


def _extended(document: dict[str, Any], path: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """A document merged into the files that it extends; `path` is where it stands."""
    if "sizes" in document:
        document["sizes"] = _sizes(document["sizes"])
    base = document.pop("extends", None)
    if base is None:
        return document
    if not isinstance(base, str):
        allowed = f"give the path of one experiment file, relative to {path}"
        raise InputError(key="extends", value=base, allowed=allowed)
    try:
        below = _with_bases(path.parent / base, (*extended_by, path.resolve()))
    except InputError as error:
        raise (error if error.key == "extends" else error.read_from("extends")) from None
    below.pop("name", None)
    return _merged(below, document)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"experiment file {path} does not exist{_there_are(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"experiment file {path} cannot be read: {error}") from None
    try:
        document = load_yaml(text)
    except YamlError as error:
        raise InputError(f"experiment file {path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"experiment file {path} must hold a mapping of keys, got {type(document).__name__}")
    return document


def _there_are(path: Path) -> str:
    """The experiment files beside a missing one, and those in the folder experiments."""
    found = {one.resolve(): one for folder in (path.parent, Path(_FOLDER)) for one in sorted(folder.glob("*.y*ml"))}
    likely = [one for one in found.values() if _is_experiment(one)]
    if not likely:
        return "; `lookbeyond init FOLDER` writes one for a folder of images"
    names = [one.name if one.parent == path.parent else str(one) for one in likely]
    stems = [one.stem for one in likely]
    near = difflib.get_close_matches(path.stem, stems, n=1, cutoff=0.7)
    meant = f"; did you mean {names[stems.index(near[0])]}?" if near else ""
    listed = f"{', '.join(names[:16])}{', ...' if len(names) > 16 else ''}"
    return f"{meant} There are {listed}" if meant else f"; there are {listed}"


def _is_experiment(path: Path) -> bool:
    """Whether a YAML file is one that can be run: clusters and what is only extended lie beside."""
    try:
        document = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlError):
        return False
    return isinstance(document, dict) and any(key in document for key in _TELLING)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A document with changes, of its data set, too."""
    name = changes["dataset"].get("name") if isinstance(changes.get("dataset"), dict) else None
    return merged(base if name is None else _of_dataset(base, name), changes)


def _of_dataset(document: dict[str, Any], name: Any) -> dict[str, Any]:
    """The document for another data set: of the former one's options only those that the new one has; no root."""
    dataset = document.get("dataset")
    if not isinstance(dataset, dict) or dataset.get("name") in (None, name):
        return document
    kept = {option: dataset[option] for option in dataset if option in ("order_seed", *dataset_options(name))}
    return {**document, "dataset": kept}


def _sizes(sizes: Any) -> dict[str, dict[str, Any]]:
    """The sizes of one file, with dotted keys written as mappings."""
    if not isinstance(sizes, dict) or not all(isinstance(changes, dict | None) for changes in sizes.values()):
        raise InputError(key="sizes", value=sizes, allowed="give a mapping of names to mappings of keys")
    for size, changes in sizes.items():
        for key in changes or {}:
            if not isinstance(key, str) or key.split(".")[0] in _UNSIZED:
                refused = f"a size cannot set {', '.join(_UNSIZED)}"
                raise InputError("{key} is not allowed", key=f"sizes.{size}.{key}", allowed=refused)
    return {str(size): nested(changes or {}) for size, changes in sizes.items()}


def _at_size(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its size merged, and its rows and columns as they are at that size."""
    sizes = _sizes(document.pop("sizes", {}))
    size = document.get("size")
    if size is not None and size not in sizes:
        allowed = f"allowed: {', '.join(sizes)}" if sizes else "the experiment has no sizes"
        raise InputError(key="size", value=size, allowed=allowed)
    if size is not None:
        document = _merged(document, sizes[size])
    return document | sized_parts(document, size, tuple(sizes))


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} must be key=value, for example labels.images=100")
    if is_text(ExperimentEntry, key) and not (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""):
        # The name of a folder is what it looks like: no comment, no number, no list.
        return key, text or None
    try:
        return key, load_yaml(text)
    except YamlError as error:
        raise InputError(f"override {override!r}: the value is not YAML: {error}") from None


def _override(document: dict[str, Any], key: str, value: Any) -> None:
    first, _, rest = key.partition(".")
    match first:
        case "grid" if rest:
            document["grid"] = _with_grid_key(document.get("grid") or {}, rest, value)
            return
        case "dataset" if rest == "name":
            document |= _of_dataset(document, value)
        case "weights" if rest:
            known = document.get("weights")
            if not isinstance(known, dict) or rest not in known:
                raise _no_such_weights(key, known if isinstance(known, dict) else {})
        case "extends":
            raise InputError(f"override {key}={value}: a file says itself what it extends")
    set_key(document, key, value)


def _no_such_weights(key: str, known: dict[str, Any]) -> InputError:
    near = difflib.get_close_matches(key, [f"weights.{name}" for name in known], n=1, cutoff=0.6)
    allowed = f"allowed: {', '.join(known)}" if known else None
    return InputError("unknown key {key}", key=key, allowed=f"did you mean {near[0]}?" if near else allowed)


def _with_grid_key(grid: Any, key: str, value: Any) -> Any:
    """The grid with a key set: of a union of grids, in each of them. `expand` refuses what is not a grid."""
    if isinstance(grid, list):
        return [_with_grid_key(product, key, value) for product in grid]
    return {**grid, key: value} if isinstance(grid, dict) else grid
