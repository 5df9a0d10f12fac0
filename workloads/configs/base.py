"""The type of everything that decides a result.

A `HashedConfig` is hashed into the key of the step that uses it, so equal ones give equal bytes. How a step is run
(workers, devices, hosts, paths) is never part of one. The failure this guards against: a path, a region or a worker
count leaking into the identity of a result, so that the same work is done twice, or different work is taken for equal.
"""

from pydantic import BaseModel, ConfigDict


class HashedConfig(BaseModel):
    """A frozen, strict piece of configuration that takes part in keys; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)
