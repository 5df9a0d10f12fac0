import dataclasses
import functools
import io
import shutil
import threading

import numpy as np
import pytest
import torch

from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import FinetuneConfig, OptimiserConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import BrokenImageError, InputError
from workloads.networks.segmentors import build_segmentor
from workloads.training.batches import Order, Sample
from workloads.training.finetuning import finetuning_loop
from workloads.training.loop import LossNotFiniteError, Machine
from workloads.training.optimisation import learning_rate_factor

torch.set_num_threads(1)
NETWORK = SegmentorConfig(backbone="mobilenet_v2", output_stride=16, head_channels=8)
VIEWS = ViewsConfig(crop_mode="fixed", crop=(49, 49), scale=(0.8, 1.5), rotation=(-10, 10), cutout=(0, 5))


class Stripes:
    """Images of three grey levels and their classes."""

    def __init__(self, number=5):
        self.ids = [f"image{i}" for i in range(number)]

    def load(self, image_id):
        rng = np.random.default_rng(int(image_id[5:]))
        labels = rng.integers(0, 3, 8).astype(np.uint8).repeat(8)[None].repeat(64, 0)
        image = np.stack([80 * labels] * 3, -1) + rng.integers(0, 20, (64, 64, 3), dtype=np.uint8)
        return Sample(image.astype(np.uint8), labels)


def config(**changes):
    base = {"steps": 4, "batch_size": 2, "segmentor": NETWORK, "augmentation": VIEWS}
    return FinetuneConfig(**{**base, **changes})


def loop(configuration=None, source=None, **options):
    configuration = configuration or config()
    network = build_segmentor(configuration.segmentor, 3, seed=configuration.seed)
    return finetuning_loop(network, source or Stripes(), configuration, **options)


def test_an_epoch_holds_every_image_once_and_seeds_differ():
    order = Order([f"i{n}" for n in range(10)], batch_size=4, seed=1)
    places = [place for step in range(5) for place in order.batch(step)]
    for epoch in (0, 1):
        assert sorted(name for name, e in places if e == epoch) == sorted(order.ids)
    assert [name for name, _ in places[:10]] != [name for name, _ in places[10:]]
    other = Order(order.ids, batch_size=4, seed=2)
    assert [other.batch(step) for step in range(3)] != [order.batch(step) for step in range(3)]
    assert config(steps=None, epochs=2).total_steps(num_images=5) == 5
    assert config(steps=None, epochs=0.1).total_steps(num_images=5) == 1


def test_schedules_by_hand():
    poly = OptimiserConfig(power=0.9)
    assert learning_rate_factor(poly, 0, 100) == 1.0
    assert learning_rate_factor(poly, 75, 100) == pytest.approx(0.25**0.9)
    warm = OptimiserConfig(schedule="cosine", warmup_steps=4, final_share=0.1)
    assert [learning_rate_factor(warm, step, 104) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert learning_rate_factor(warm, 54, 104) == pytest.approx(0.55)
    assert learning_rate_factor(OptimiserConfig(schedule="constant"), 99, 100) == 1.0


def test_the_head_has_its_own_learning_rate():
    run = loop(config(optimiser=OptimiserConfig(learning_rate=0.01, head_factor=10)))
    next(run.run())
    backbone, rest = run.optimiser.param_groups
    assert backbone["lr"] == pytest.approx(0.01)
    assert rest["lr"] == pytest.approx(0.1)
    assert len(backbone["params"]) == len(list(run.objective.segmentor.backbone.parameters()))


def saved_and_read(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_killed_run_continues_with_the_same_bits():
    undisturbed = loop()
    expected = [report.loss for report in undisturbed.run()]
    killed = loop()
    first = [report.loss for report in killed.run(until=2)]
    state = saved_and_read(killed.state_dict())
    torch.manual_seed(12345)
    continued = loop(equal_copy(killed.config))
    continued.load_state_dict(state)
    assert continued.step == 2
    rest = [report.loss for report in continued.run()]
    assert first + rest == expected
    for name, tensor in undisturbed.objective.state_dict().items():
        assert torch.equal(tensor, continued.objective.state_dict()[name]), name


def test_a_state_from_between_two_reports_continues_with_the_same_reports():
    undisturbed = [(report.step, report.loss) for report in loop().run(report_every=3)]
    killed, states = loop(), {}
    list(killed.run(report_every=3, between=lambda: states.update({killed.step: saved_and_read(killed.state_dict())})))
    assert 2 in states
    assert not states.keys() & {step for step, _ in undisturbed}
    continued = loop()
    continued.load_state_dict(states[2])
    assert [(report.step, report.loss) for report in continued.run(report_every=3)] == undisturbed


def equal_copy(configuration):
    return type(configuration).model_validate(configuration.model_dump())


def test_one_seed_gives_one_result_whoever_loads():
    first, second = loop(), loop(machine=Machine(prefetch=1, loader_threads=3))
    losses = [report.loss for report in first.run()]
    assert losses == [report.loss for report in second.run()]
    assert losses != [report.loss for report in loop(config(seed=1)).run()]


def test_the_cores_beside_a_gpu_load_images():
    assert Machine.of(torch.device("cuda"), 8).loader_threads == 7
    assert Machine.of(torch.device("cuda"), 1).loader_threads == 1
    assert Machine.of(torch.device("cpu"), 8) == Machine()


def test_loading_takes_one_thread_and_leaves_the_trainings_own_alone():
    seen = set()

    class Asking(Stripes):
        def load(self, image_id):
            seen.add((threading.current_thread().name, torch.get_num_threads()))
            return super().load(image_id)

    torch.set_num_threads(2)
    try:
        list(loop(source=Asking()).run())
        assert seen == {("batches", 1)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_state_is_a_copy():
    run = loop()
    next(run.run())
    state = run.state_dict()
    before = state["objective"]["segmentor.backbone.features.0.0.weight"].clone()
    list(run.run())
    assert torch.equal(state["objective"]["segmentor.backbone.features.0.0.weight"], before)


def test_states_of_other_runs_are_refused():
    run = loop()
    state = run.state_dict()
    with pytest.raises(InputError, match="another configuration"):
        loop(config(batch_size=4)).load_state_dict(state)
    with pytest.raises(InputError, match="not a training state"):
        run.load_state_dict({"step": 3})
    del state["objective"]["segmentor.backbone.features.0.0.weight"]
    with pytest.raises(InputError, match="another architecture"):
        run.load_state_dict(state)


def test_a_loss_that_is_not_finite_stops_with_step_and_images_before_the_update():
    run = loop(config(steps=5))
    reports = run.run()
    next(reports)
    bias = run.objective.segmentor.classifier[-1].bias
    with torch.no_grad():
        bias[0] = float("inf")
    weight = run.objective.segmentor.backbone.features[0][0].weight.clone()
    with pytest.raises(LossNotFiniteError, match="at step 1; images of the batch: image") as caught:
        list(reports)
    assert caught.value.image_ids == tuple(run.image_ids(1))
    assert torch.equal(run.objective.segmentor.backbone.features[0][0].weight, weight)
    assert run.step == 1
    with pytest.raises(LossNotFiniteError):
        run.state_dict()


@pytest.mark.parametrize("loader_threads", [1, 3])
def test_a_broken_image_is_named_by_the_training_thread(loader_threads):
    class Broken(Stripes):
        def load(self, image_id):
            if image_id == "image3":
                raise BrokenImageError(image_id, "truncated")
            return super().load(image_id)

    with pytest.raises(BrokenImageError, match="image3: truncated"):
        list(loop(config(steps=None, epochs=1), Broken(), machine=Machine(loader_threads=loader_threads)).run())


@pytest.mark.parametrize("loader_threads", [1, 3])
def test_leaving_a_run_early_stops_what_loads(loader_threads):
    reports = loop(config(steps=50), machine=Machine(loader_threads=loader_threads)).run()
    next(reports)
    reports.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("batches", "samples"))]


def test_reports_cover_the_interval():
    reports = list(loop(config(steps=5)).run(report_every=2))
    single = [report.loss for report in loop(config(steps=5)).run()]
    assert [report.step for report in reports] == [2, 4, 5]
    assert reports[0].loss == pytest.approx(np.mean(single[:2]))
    assert reports[-1].loss == pytest.approx(single[4])
    assert reports[-1].epoch == pytest.approx(2.0)
    assert 0 <= reports[0].wait_share <= 1
    assert reports[0].images_per_second > 0
    assert set(reports[0].shown) == {"pixel_accuracy", "main_loss"}


def test_bfloat16_trains_near_float32():
    plain = [report.loss for report in loop().run()]
    half = [report.loss for report in loop(config(precision="bfloat16")).run()]
    assert half != plain
    assert half == pytest.approx(plain, rel=0.1)


def test_compiled_trains_as_it_is_and_resumes(monkeypatch):
    # In float32 every step multiplies the rounding of the one before; float64 tells rounding from mistakes.
    network = NETWORK.model_copy(update={"backbone": "resnet18"})
    compiled = config(compile=True, precision="float64", segmentor=network)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"compile is true.*\(no-such-compiler\); allowed: false"):
        loop(compiled)
    monkeypatch.delenv("CXX")
    # Traced and differentiated as ever, but not written as C++, which takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    plain = [report.loss for report in loop(compiled.model_copy(update={"compile": False})).run()]
    undisturbed = loop(compiled)
    assert [report.loss for report in undisturbed.run()] == pytest.approx(plain, rel=1e-6)
    assert undisturbed.objective.segmentor.backbone._compiled_call_impl is not None
    killed = loop(compiled)
    list(killed.run(until=2))
    continued = loop(compiled)
    continued.load_state_dict(saved_and_read(killed.state_dict()))
    list(continued.run())
    for name, value in undisturbed.objective.state_dict().items():
        assert torch.equal(continued.objective.state_dict()[name], value), name


def test_layout_changes_the_last_bits_only_without_dropout():
    still = config(steps=1, batch_size=4, segmentor=NETWORK.model_copy(update={"dropout": 0.0}))
    plain = [report.loss for report in loop(still, machine=Machine(channels_last=False)).run()]
    assert plain == pytest.approx([report.loss for report in loop(still).run()], rel=1e-3)


def test_wrong_lengths_and_batches_are_refused():
    with pytest.raises(ValueError, match="exactly one"):
        config(epochs=3)
    with pytest.raises(ValueError, match="exactly one"):
        config(steps=None)

    @dataclasses.dataclass
    class Three:
        rank = 0
        size = 3

    with pytest.raises(InputError, match="batch_size is 4 with 3 workers"):
        loop(config(batch_size=4), workers=Three())
    with pytest.raises(InputError, match="no image"):
        loop(source=Stripes(0))
    with pytest.raises(InputError, match="batch_size is 1"):
        loop(config(batch_size=1))
