"""A run that may cost so much and no more."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.cluster.budget import within_budget
from orchestrator.planning.budget import BudgetSpentError, Spending, price_of, require_prices
from workloads.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_what_is_up_is_added_up() -> None:
    spending = Spending(1.0)
    assert not spending.add(1800, [0.5, 0.25, None])
    assert spending.spent == 0.375
    assert spending.add(3600, [0.625])
    assert "have cost 1.00 of compute.max_cost 1; the same command goes on" in str(spending.error())


@pytest.mark.parametrize("label", ["", "dear", "-1", "nan", "inf", None])
def test_what_is_no_price_is_none(label: str | None) -> None:
    assert price_of({"lookbeyond.price": label}) is None
    assert price_of({}) is None


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/gcp.yaml", "clusters/kuberay-job.yaml"])
def test_the_files_that_come_with_the_project_have_prices(name: str) -> None:
    require_prices(REPOSITORY / name)


def test_a_budget_without_prices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"compute\.max_cost adds up .*give compute\.cluster_config"):
        require_prices(None)
    text = (REPOSITORY / "cluster.yaml").read_text()
    (tmp_path / "cluster.yaml").write_text(text.replace('labels: {lookbeyond.price: "0.35"}', "labels: {}"))
    with pytest.raises(InputError, match=r"cluster\.yaml has none for cpu_64gb; give each the label lookbeyond\.price"):
        require_prices(tmp_path / "cluster.yaml")


def test_a_run_that_has_spent_it_is_interrupted() -> None:
    """Though it waits, and with a cluster that no longer answers after its first word, and costs what it did."""
    asked = 0

    def prices() -> list[float | None]:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise ConnectionError
        return [3600.0, 3600.0]

    # As in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(BudgetSpentError, match=r"of compute\.max_cost 0\.1;"), within_budget(0.1, prices, 0.01):
            threading.Event().wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked > 1


def test_a_run_that_has_ended_is_not_interrupted_by_prices_that_come_late() -> None:
    asked, ended = threading.Event(), threading.Event()

    def prices() -> list[float | None]:
        asked.set()
        ended.wait()
        return [1e9]

    with within_budget(1.0, prices, 0.01) as spending:
        asked.wait()
    assert spending is not None and spending.spent == 0
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "budget":
            thread.join()
    assert spending.spent > 1


def test_a_budget_is_refused_where_nobody_could_be_interrupted() -> None:
    def run() -> None:
        with within_budget(1.0, list):
            pass

    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match=r"compute\.max_cost: 1\.0"):
        pool.submit(run).result()


def test_an_interruption_within_the_budget_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), within_budget(1e9, lambda: [1.0], 0.01):
        signal.raise_signal(signal.SIGINT)
    with within_budget(None) as spending:
        assert spending is None
