"""What the machines of a cluster cost, and what a run may cost.

The model: every kind of machine in the file of a cluster carries its price for an hour as a label, which Ray gives to
the machines that it starts; what is up is added up while a run goes on. A run that has spent what it may is stopped:
what it has done is on the storage. The failure this guards against: a bill that nobody looked at for a weekend.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.planning.cluster_config import node_labels
from workloads.errors import InputError

# Dollars, or whatever one counts in, for an hour of a machine.
PRICE_LABEL = "lookbeyond.price"


class BudgetSpentError(Exception):
    """A run has spent what it may."""


def price_of(labels: Mapping[str, Any]) -> float | None:
    """The price of an hour of a machine with these labels; None where they say none."""
    try:
        price = float(labels[PRICE_LABEL])
    except (KeyError, TypeError, ValueError):
        return None
    return price if math.isfinite(price) and price >= 0 else None


def require_prices(path: str | Path | None) -> None:
    """Refuse a budget for machines of which the cluster's file does not say what they cost.

    Raises:
        InputError: there is no file, or kinds of machines in it have no price.
    """
    if path is None:
        raise InputError(
            "{key} adds up what the machines of a cluster cost",
            key="compute.max_cost",
            allowed=f"give compute.cluster_config, a file with the label {PRICE_LABEL} on every kind of machine",
        )
    without = [name for name, labels in node_labels(path).items() if price_of(labels) is None]
    if without:
        raise InputError(
            f"{{key}} needs prices, and {path} has none for {', '.join(without)}",
            key="compute.max_cost",
            allowed=f'give each the label {PRICE_LABEL}, as in labels: {{{PRICE_LABEL}: "0.45"}}, for an hour',
        )


@dataclass
class Spending:
    """What was spent of a budget since a run began."""

    budget: float
    spent: float = 0.0

    def add(self, seconds: float, prices: Iterable[float | None]) -> bool:
        """Machines of these prices an hour were up for so long; whether the budget is spent. One without a price costs
        nothing: it was there before.
        """
        self.spent += seconds / 3600 * sum(price for price in prices if price is not None)
        return self.spent >= self.budget

    def error(self) -> BudgetSpentError:
        """What to say when it is."""
        return BudgetSpentError(
            f"stopped: this run's machines have cost {self.spent:.2f} of compute.max_cost {self.budget:g}; the same "
            "command goes on from here, with a budget of its own; `ray down` ends the machines"
        )
