"""The mark of folders that the product fills: what lies in them is never taken for somebody's pictures."""

from pathlib import Path

from workloads.bucket_paths import AnyPath

MARK = ".lookbeyond"
_PART = ".part"


def mark(folder: Path, content: str) -> None:
    """Make the folder where it is missing, and mark it with what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: half a mark would be that of somebody else.
    part = folder / f"{MARK}{_PART}"
    part.write_text(f"{content}\n", encoding="utf-8")
    part.replace(folder / MARK)


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than what was left of a try to mark it."""
    return all(path.name == f"{MARK}{_PART}" or _is_empty_mark(path) for path in folder.iterdir())


def _is_empty_mark(path: Path) -> bool:
    return path.name == MARK and path.is_file() and not path.stat().st_size


def read_mark(folder: AnyPath) -> str | None:
    """What the folder is marked with; None where it is not marked."""
    try:
        return (folder / MARK).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError):
        return None
