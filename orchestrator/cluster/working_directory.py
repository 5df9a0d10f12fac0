"""The folder that is sent with a job: which of its files, how large they are, and the archive they travel in.

What is measured is what is sent, since one walk decides both. `.gitignore` and `.rayignore` of a folder and of those
above it are read as git reads its own: the last line that names a file decides, the folder's own before those above.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pathspec import GitIgnoreSpec

from workloads.errors import InputError

# Those of Ray, whatever the ignore files say.
_NEVER_SENT = {".git", ".venv", "venv", "__pycache__"}
_IGNORE_FILES = (".gitignore", ".rayignore")
_NAMED = 8


@dataclass(frozen=True)
class WorkingDirectory:
    """Files by their place in the archive."""

    folder: Path
    files: dict[Path, Path]
    holds_code: bool

    @staticmethod
    def of(folder: Path, packages: Sequence[Path]) -> "WorkingDirectory":
        """What a folder sends; the packages go with it unless it holds them already."""
        files = {path.relative_to(folder): path for path in _files(folder, ())}
        holds_code = all((folder / package.name).is_dir() for package in packages)
        if not holds_code:
            for package in packages:
                files |= {path.relative_to(package.parent): path for path in _files(package, ())}
        return WorkingDirectory(folder, files, holds_code)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    def refuse_large(self, limit: int) -> None:
        """Refuse to send more than `limit` bytes.

        Raises:
            InputError: with the largest files and folders.
        """
        sizes = {place: path.stat().st_size for place, path in self.files.items()}
        total = sum(sizes.values())
        if total <= limit:
            return
        tops: Counter[str] = Counter()
        for path, size in sizes.items():
            tops[path.parts[0] + ("/" if len(path.parts) > 1 else "")] += size
        lines = [
            f"{self.folder} would send {_megabytes(total)} in {len(sizes)} files, more than --limit {limit / 1e6:.0f} "
            "(MB); name what the job does not need in .gitignore or .rayignore. The largest:"
        ]
        largest = sorted(sizes.items(), key=lambda item: -item[1])
        lines += [f"  {_megabytes(size)}  {path}" for path, size in largest[:_NAMED] if size > limit / 100]
        folders = [(name, size) for name, size in tops.most_common(_NAMED) if name.endswith("/") and size > limit / 100]
        lines += [f"  {_megabytes(size)}  {name} in all" for name, size in folders]
        raise InputError("\n".join(lines))

    def refuse_missing(self, names: Sequence[str]) -> None:
        """Refuse to leave out files that the job needs.

        Raises:
            InputError: one of them lies outside of the folder, is given by its full path, or is ignored.
        """
        for name in names:
            if Path(name) not in self.files:
                raise InputError(
                    f"{name} would not be sent with the job: it must lie below {self.folder}, be given relative to it, "
                    "and not be named by .gitignore or .rayignore"
                )

    def pack(self, archive: Path) -> None:
        """Write the archive; the same files make the same bytes, so that a cluster that has them is sent nothing."""
        with ZipFile(archive, "w", ZIP_DEFLATED) as opened:
            for place in sorted(self.files):
                facts = ZipInfo.from_file(self.files[place], place.as_posix(), strict_timestamps=False)
                facts.date_time = (1980, 1, 1, 0, 0, 0)
                facts.compress_type = ZIP_DEFLATED
                opened.writestr(facts, self.files[place].read_bytes())


def _files(folder: Path, above: tuple[tuple[Path, GitIgnoreSpec], ...]) -> Iterator[Path]:
    lines = [
        line
        for name in _IGNORE_FILES
        if (folder / name).is_file()
        for line in (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    # The folder's own lines before those of the folders above.
    rules = ((folder, GitIgnoreSpec.from_lines(lines)), *above) if lines else above
    for path in sorted(folder.iterdir()):
        if path.name in _NEVER_SENT or _is_ignored(path, rules):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not (path.is_symlink() and folder.resolve().is_relative_to(path.resolve())):
            yield from _files(path, rules)


def _is_ignored(path: Path, rules: Sequence[tuple[Path, GitIgnoreSpec]]) -> bool:
    for base, rule in rules:
        name = path.relative_to(base).as_posix() + ("/" if path.is_dir() else "")
        said = rule.check_file(name).include
        if said is not None:
            return said
    return False


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
