"""Networks on the storage: state dicts that load with ``weights_only=True``."""

import io

import torch

from orchestrator.ledger.shards import ShardRecord
from orchestrator.storage.store import Storage


def write_tensors(storage: Storage, path: str, state: dict[str, torch.Tensor]) -> ShardRecord:
    """A state dict as a file that loads with ``weights_only=True``."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, buffer)
    data = buffer.getvalue()
    storage.replace(path, data)
    return ShardRecord.of(path, data, rows=len(state), columns=["state_dict"], images=0)


def read_tensors(storage: Storage, path: str) -> dict[str, torch.Tensor]:
    """The state dict that `write_tensors` wrote."""
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(storage.read(path)), weights_only=True)
    return state
