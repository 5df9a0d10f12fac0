"""The type of everything that does not decide a result: paths, devices, worker counts. Never part of a key."""

from pydantic import BaseModel, ConfigDict


class RuntimeConfig(BaseModel):
    """A piece of configuration that does not decide a result and is never part of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
