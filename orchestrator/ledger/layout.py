"""Where everything lies on a storage: every path of it is made here, and nowhere else.

    steps/KIND/KEY.json                  the manifest of a finished step
    shards/STREAM/SHARD.json             the record of a finished shard
    shards/STREAM/SHARD-ATTEMPT.arrow    what one attempt at a shard wrote
    models/KEY-ATTEMPT.SUFFIX            what one attempt at a step without shards wrote, such as a network
    images/DIGEST.arrow                  the images of an image set, in their order
    lists/DIGEST.txt                     the labelled images of a fine-tuning
    inputs/FILES/DIGEST.arrow            the SHA-256 of files of a data set as they were read
    inputs/FILES/seen-FOLDER.arrow       size and time of these files as they were last seen in a folder
    leases/KEY/GENERATION.json           who works on a step
    checkpoints/KEY.pt, KEY.arrow        where a training or K-means goes on after a kill
    checkpoints/KEY.outcome.json         what a training has come to, until its step is declared finished
    checkpoints/KEY.stopped.json         why a fine-tuning was given up
    history/KEY.json                     loss and speed of a training
    results/NAME.json, figures/NAME*.png, figures/NAME.json, report/NAME.*     for people, by the name of the experiment
    tune/                                what Ray Tune writes of trials, where the storage is a path

KEY in a file's name is the first digits of the step's key; manifests and leases have the whole of it.
"""

import re
import secrets
from pathlib import PurePosixPath

from workloads.own_output import MARK

STEPS, SHARDS, MODELS, IMAGES, LISTS, INPUTS = "steps", "shards", "models", "images", "lists", "inputs"
LEASES, CHECKPOINTS, HISTORY = "leases", "checkpoints", "history"
RESULTS, FIGURES, REPORT = "results", "figures", "report"
TUNE = "tune"

_STOPPED = ".stopped.json"
_SEEN = "seen-"
_UNFINISHED = ".part"
_ATTEMPT_BYTES = 6
_ATTEMPT = re.compile(rf"({SHARDS}/\w+|{MODELS})/\w+-[0-9a-f]{{{2 * _ATTEMPT_BYTES}}}(\.\w+)+", re.ASCII)
_DATA = re.compile(rf"({SHARDS}|{MODELS})(/\w[\w.-]*)+", re.ASCII)


def short(digest: str) -> str:
    """As much of a key or digest as is in the name of a file."""
    return digest[:32]


def manifest_path(kind: str, key: str) -> str:
    """The manifest of a step."""
    return f"{STEPS}/{kind}/{key}.json"


def stream_folder(stream: str) -> str:
    """The folder of a stream's shards."""
    return f"{SHARDS}/{short(stream)}"


def record_path(stream: str, digest: str) -> str:
    """The record of a shard."""
    return f"{stream_folder(stream)}/{short(digest)}.json"


def shard_path(stream: str, digest: str) -> str:
    """A new file for one attempt at a shard."""
    return f"{stream_folder(stream)}/{short(digest)}-{secrets.token_hex(_ATTEMPT_BYTES)}.arrow"


def model_path(key: str, suffix: str) -> str:
    """A new file for one attempt at a step without shards."""
    return f"{MODELS}/{short(key)}-{secrets.token_hex(_ATTEMPT_BYTES)}.{suffix}"


def data_path(path: str) -> str:
    """The path of a shard's or model's file, as somebody else wrote it down.

    Raises:
        ValueError: it may lie elsewhere; what a document names is read, and deleted when it is damaged.
    """
    if not _DATA.fullmatch(path):
        raise ValueError(f"{path!r} lies outside of the folders {SHARDS} and {MODELS}")
    return path


def is_attempt_at(record: str, path: str) -> bool:
    """Whether a file was written by an attempt at the shard of a record."""
    return path.startswith(f"{record.removesuffix('.json')}-")


def is_model(path: str) -> bool:
    """Whether a file was written by a step without shards."""
    return path.startswith(f"{MODELS}/")


def is_attempt(path: str) -> bool:
    """Whether a file counts only where it is named: an attempt at a shard or model, or at any file on a path."""
    return path.endswith(_UNFINISHED) or _ATTEMPT.fullmatch(path) is not None


def listing_path(digest: str) -> str:
    """The images of an image set."""
    return f"{IMAGES}/{short(digest)}.arrow"


def labelled_list_path(sha256: str) -> str:
    """The labelled images of a fine-tuning."""
    return f"{LISTS}/{short(sha256)}.txt"


def inputs_folder(files: str) -> str:
    """What is known of the images, or of the label files, of a pool."""
    return f"{INPUTS}/{short(files)}"


def contents_path(files: str, sha256: str) -> str:
    """The contents of files as they were read."""
    return f"{inputs_folder(files)}/{short(sha256)}.arrow"


def seen_path(files: str, folder: str) -> str:
    """Size and time of files as they were last seen in a folder."""
    return f"{inputs_folder(files)}/{_SEEN}{short(folder)}.arrow"


def is_seen(path: str) -> bool:
    """Whether a file says what was last seen in a folder."""
    return PurePosixPath(path).name.startswith(_SEEN)


def lease_folder(key: str) -> str:
    """The leases of a step."""
    return f"{LEASES}/{key}"


def lease_path(key: str, generation: int) -> str:
    """One lease of a step."""
    return f"{lease_folder(key)}/{generation}.json"


def leased_key(path: str) -> str:
    """The step whose lease lies on a path."""
    return PurePosixPath(path).parent.name


def state_path(key: str) -> str:
    """The state of an unfinished training."""
    return f"{CHECKPOINTS}/{short(key)}.pt"


def is_training_state(path: str) -> bool:
    """Whether a file is the state of an unfinished training."""
    return path.startswith(f"{CHECKPOINTS}/") and path.endswith(".pt")


def cluster_state_path(key: str) -> str:
    """The state of an unfinished K-means."""
    return f"{CHECKPOINTS}/{short(key)}.arrow"


def outcome_path(key: str) -> str:
    """What a training has come to."""
    return f"{CHECKPOINTS}/{short(key)}.outcome.json"


def stop_mark_path(key: str) -> str:
    """Why a fine-tuning was given up."""
    return f"{CHECKPOINTS}/{short(key)}{_STOPPED}"


def is_stop_mark(path: str) -> bool:
    """Whether a file says why a fine-tuning was given up."""
    return path.endswith(_STOPPED)


def history_path(key: str) -> str:
    """Loss and speed of a training, while it runs and after."""
    return f"{HISTORY}/{short(key)}.json"


def results_path(name: str) -> str:
    """The results of an experiment."""
    return f"{RESULTS}/{name}.json"


def figure_path(name: str, part: str = "") -> str:
    """A sheet of pictures of an experiment: the first, or the one of a page or subject."""
    return f"{FIGURES}/{name}{f'-{part}' if part else ''}.png"


def trials_path(name: str) -> str:
    """What TensorBoard shows of the trainings of an experiment."""
    return f"{TUNE}/{name}"


def gallery_path(name: str) -> str:
    """The pictures of an experiment one by one."""
    return f"{FIGURES}/{name}.json"


def figures_mark() -> str:
    """What keeps the sheets from being taken for images, where the storage is a folder of somebody's pictures."""
    return f"{FIGURES}/{MARK}"


def stem(path: str) -> str:
    """The name of a file without its folder and its last suffix: a key, a digest, or an experiment's name."""
    return PurePosixPath(path).stem
