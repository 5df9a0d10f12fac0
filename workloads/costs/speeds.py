"""The speed of a machine, and what counted work takes at it.

The model: an operation of a network takes time for its multiplications, for the bytes that it reads and writes, and for
being started; grouped convolutions do the former at a rate of their own. The four rates are measured by `calibration`,
for each direction and precision. Without a measurement there are guesses, and whoever uses them says so.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field

from workloads.configs.base import Config
from workloads.costs.work import NetworkPass, Operation, Work

Device = Literal["cpu", "cuda"]


class PassCost(NamedTuple):
    """What the forward pass of a batch consists of, counted."""

    dense: float
    grouped: float
    bytes: float
    operations: float


class NetworkSpeed(Config):
    """Seconds of each part of a pass."""

    dense: float = Field(ge=0, description="a floating-point operation of a convolution or product")
    grouped: float = Field(ge=0, description="a floating-point operation of a grouped convolution")
    bytes: float = Field(ge=0, description="a byte read or written")
    operations: float = Field(ge=0, description="an operation being started")

    def seconds(self, cost: PassCost) -> float:
        """Of a pass."""
        return sum(getattr(self, name) * amount for name, amount in cost._asdict().items())


class Speeds(Config):
    """What one core of a machine, or a GPU, does; by direction and precision, e.g. "forward float32"."""

    host: str = Field("", description="the machine; empty: a guess")
    device: str = Field("", description="its processor or GPU")
    torch: str = Field("", description="version it was measured with")
    networks: dict[str, NetworkSpeed]
    operations: dict[Operation, float] = Field(default_factory=dict, description="seconds of one core, see `Operation`")

    def of_pass(self, one: NetworkPass, cost: PassCost) -> float:
        """Seconds of a pass."""
        return self.networks[direction(one.training, one.precision)].seconds(cost)

    def of_operations(self, work: Work) -> float:
        """Core-seconds of everything that is no pass, what is in common included."""
        own = sum(self.operations[name] * amount for name, amount in work.amounts.items())
        return own + (self.of_operations(work.in_common) if work.in_common is not None else 0.0)

    def of_passes(self, work: Work, costs: Mapping[NetworkPass, PassCost]) -> float:
        """Seconds of all passes, what is in common included."""
        own = sum(self.of_pass(one, costs[one]) * times for one, times in work.passes)
        return own + (self.of_passes(work.in_common, costs) if work.in_common is not None else 0.0)


def direction(training: bool, precision: str) -> str:
    """The name of a speed."""
    return f"{'training' if training else 'forward'} {precision}"
