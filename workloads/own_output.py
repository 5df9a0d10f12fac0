"""The mark of folders that the product fills: what lies in them is never taken for somebody's pictures."""

from pathlib import Path

from workloads.bucket_paths import AnyPath

MARK = ".lookbeyond"


def mark(folder: Path, content: str) -> None:
    """Make the folder where it is missing, and mark it with what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(f"{content}\n", encoding="utf-8")


def read_mark(folder: AnyPath) -> str | None:
    """What the folder is marked with; None where it is not marked."""
    try:
        return (folder / MARK).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, ValueError):
        return None
