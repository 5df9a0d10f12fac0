import pytest

from workloads.training.waiting import WATCHED_STEPS, WaitWatch


@pytest.mark.parametrize(("waited", "warned"), [(0.05, 0), (0.3, 1)])
def test_a_device_that_waits_for_its_images_is_warned_of_once(waited, warned, caplog):
    watch = WaitWatch(3)
    for _ in range(WATCHED_STEPS):
        watch.note(0.9, 1.0)
    for _ in range(3 * WATCHED_STEPS):
        watch.note(waited, 1.0)
    messages = [record.message for record in caplog.records]
    assert len(messages) == warned
    assert all(
        "waits for its images 30 % of the time, with 3 threads that load them" in message for message in messages
    )
