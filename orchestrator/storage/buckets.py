"""A storage on s3:// or gs://: whole objects, and conditional requests where several may write.

The model: an object appears when its upload ends, never before and never in part; large ones go up in parts that only
the last request makes an object. `create` asks the service itself to refuse where there is one (If-None-Match: * on
S3, generation 0 on Google). How objects are read, and what refusals mean, is in `workloads.buckets`. The failures this
guards against: two creators that both believe they won, an upload cut short that is read as whole.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, PreconditionError

from orchestrator.storage.files import Change, Content, Fetching, FileFacts
from workloads.buckets import BucketReader, Ranges

if TYPE_CHECKING:
    from obstore import UpdateVersion

_PART_BYTES = 8 << 20


class Bucket(BucketReader):
    """The objects of a bucket below a prefix. Paths are relative to it and use forward slashes."""

    kind = "storage"

    def open(self, path: str, fetching: Fetching) -> pa.NativeFile:
        """The object, fetched in ranges as they are read."""
        size = self._ask(lambda: obstore.head(self._store, path)["size"])

        def fetch(start: int, end: int) -> bytes:
            return fetching(lambda: self.read_range(path, start, end))

        return pa.PythonFile(Ranges(fetch, size), mode="r")

    def replace(self, path: str, data: Content) -> None:
        """Write the object whole, in place of what may be there."""
        self._ask(lambda: self._put(path, data), writes=True)

    write_nondurable = replace

    def create(self, path: str, data: Content) -> bool:
        """Write the object whole if there is none. False when there is one, which an earlier try may have made."""
        try:
            self._ask(lambda: obstore.put(self._store, path, _view(data), mode="create"), writes=True)
        except AlreadyExistsError:
            return False
        return True

    def update(self, path: str, change: Change) -> bool:
        """Write what `change` makes of the object, if nobody else has removed or rewritten it in between."""
        while (updated := self._update_once(path, change)) is None:
            # By another, or by an earlier try whose answer was lost: what stands there now tells.
            pass
        return updated

    def _update_once(self, path: str, change: Change) -> bool | None:
        try:
            found = self._ask(lambda: obstore.get(self._store, path))
            changed = change(self._ask(lambda: found.bytes().to_bytes()))
        except FileNotFoundError:
            return False
        if changed is None:
            return False
        seen: UpdateVersion = {"e_tag": found.meta["e_tag"]}
        if found.meta["version"] is not None:
            seen["version"] = found.meta["version"]
        try:
            self._ask(lambda: obstore.put(self._store, path, _view(changed), mode=seen), writes=True)
        except PreconditionError:
            return None
        return True

    def delete(self, path: str) -> None:
        """Remove the object if it is there."""
        try:
            self._ask(lambda: obstore.delete(self._store, path))
        except FileNotFoundError:
            return

    def files(self, directory: str, *, deep: bool) -> Iterator[FileFacts]:
        """The objects of a directory, or of the whole tree below it; none where there are none."""
        for found in self.objects(directory, deep=deep):
            yield FileFacts(found.path, found.size, found.modified)

    def _put(self, path: str, data: Content) -> Any:
        return obstore.put(self._store, path, _view(data), chunk_size=_PART_BYTES, max_concurrency=4)


def _view(data: Content) -> memoryview:
    return memoryview(data).cast("B")
