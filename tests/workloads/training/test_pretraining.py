import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import workloads.training.loop
from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import ContrastConfig
from workloads.configs.recipes import pretraining_recipe
from workloads.configs.superpixels import SuperpixelConfig
from workloads.configs.training import OptimiserConfig, PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError
from workloads.labels.superpixels import superpixels
from workloads.networks.segmentors import build_segmentor, load_pretrained, pretrained_state
from workloads.training.batches import Sample, Slot
from workloads.training.pretraining import (
    PixelContrast,
    build_objective,
    pretrained_scope,
    pretraining_loop,
    pretraining_network,
)

torch.set_num_threads(1)
NETWORK = SegmentorConfig(backbone="mobilenet_v2", output_stride=8, head_channels=16, atrous_rates=(1, 2, 3))
VIEWS = ViewsConfig(crop_mode="fixed", crop=(49, 49), scale=(0.9, 1.3), rotation=(-20, 20), cutout=(0, 8))


class Quarters:
    """Images of four patches of distinct colour; the map holds their label, or one superpixel per patch."""

    def __init__(self, number=4, labels=3):
        self.ids = [f"q{n}" for n in range(number)]
        self.labels = labels

    def load(self, image_id):
        rng = np.random.default_rng(int(image_id[1:]))
        labels = rng.integers(0, self.labels, (2, 2)).repeat(32, 0).repeat(32, 1).astype(np.uint16)
        colours = np.array([[220, 40, 40], [40, 200, 40], [40, 40, 220]])
        image = colours[labels % 3] + rng.integers(-20, 21, (64, 64, 3))
        return Sample(image.clip(0, 255).astype(np.uint8), labels)


def config(contrast=None, **changes):
    base = {"steps": 3, "batch_size": 2, "segmentor": NETWORK, "views": VIEWS}
    return PretrainConfig(**{**base, "contrast": contrast or ContrastConfig(anchors_per_image=24), **changes})


def loop(configuration, source=None, num_clusters=None, **options):
    network = pretraining_network(configuration)
    return pretraining_loop(network, source or Quarters(), configuration, num_clusters=num_clusters, **options)


def test_same_labels_come_together_and_others_apart():
    easy = ViewsConfig(
        crop_mode="fixed",
        crop=(33, 33),
        scale=(0.9, 1.1),
        rotation=(0, 0),
        cutout=(0, 0),
        jitter=(0, 0, 0, 0),
        grayscale=0,
    )
    configuration = config(
        ContrastConfig(anchors_per_image=24, temperature=0.5),
        steps=24,
        batch_size=4,
        views=easy,
        optimiser=OptimiserConfig(learning_rate=0.05, schedule="constant"),
    )
    reports = list(loop(configuration).run())
    gap = [report.shown["positive_cosine"] - report.shown["negative_cosine"] for report in reports]
    assert np.mean(gap[-3:]) > np.mean(gap[:3]) + 0.2
    assert np.mean([report.loss for report in reports[-3:]]) < np.mean([report.loss for report in reports[:3]])
    assert reports[0].shown["anchors"] > 70


@pytest.mark.parametrize(
    "configuration",
    [
        config(ContrastConfig(anchors_per_image=16, positives="superpixel")),
        config(ContrastConfig(anchors_per_image=16, positives="pixel", pixel_cell=8)),
        config(ContrastConfig(anchors_per_image=16, positives="pixel", negatives="image")),
        config(scope="backbone"),
        config(precision="bfloat16"),
        config(objective="moco"),
        config(objective="pixpro"),
    ],
    ids=["superpixel", "pixel", "intra-image", "backbone", "bfloat16", "moco", "pixpro"],
)
def test_every_objective_trains_what_it_says_and_nothing_else(configuration):
    small = configuration.model_copy(
        update={
            "moco": configuration.moco.model_copy(update={"queue": 16}),
            "pixpro": configuration.pixpro.model_copy(update={"hidden_channels": 16, "embedding_dim": 8}),
        }
    )
    run = loop(small)
    before = {name: tensor.clone() for name, tensor in run.objective.segmentor.named_parameters()}
    reports = list(run.run())
    assert all(np.isfinite(report.loss) for report in reports)
    if small.objective == "contrast":
        assert all(report.shown["anchors"] > 0 for report in reports)
    moved = {
        name for name, tensor in run.objective.segmentor.named_parameters() if not torch.equal(tensor, before[name])
    }
    trained = set(pretrained_state(run.objective.segmentor, pretrained_scope(small)))
    assert moved <= trained
    assert "backbone.features.0.0.weight" in moved
    assert ("classifier.1.weight" in moved) == (pretrained_scope(small) == "segmentor")
    assert not any(name.startswith(("classifier.4", "aux_classifier")) for name in moved)


def test_no_gradient_is_missing_so_that_ddp_need_not_wait():
    for changes in ({}, {"scope": "backbone"}, {"objective": "moco"}, {"objective": "pixpro"}):
        run = loop(config(**changes))
        next(run.run())
        missing = [n for n, p in run.objective.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing


def test_pretrained_network_enters_fine_tuning():
    run = loop(config())
    list(run.run())
    network = build_segmentor(NETWORK, 11, seed=5)
    kept = load_pretrained(network, pretrained_state(run.objective.segmentor, pretrained_scope(run.config)))
    assert all(name.startswith(("classifier.4", "aux_classifier")) for name in kept)
    assert torch.equal(network.classifier[1].weight, run.objective.segmentor.classifier[1].weight)


@pytest.mark.parametrize("objective", ["contrast", "moco", "pixpro"])
def test_a_killed_run_continues_with_the_same_bits(objective):
    configuration = config(
        ContrastConfig(anchors_per_image=24, memory_per_label=12, memory_update_per_label=5),
        objective=objective,
        steps=4,
    )
    configuration = configuration.model_copy(
        update={
            "moco": configuration.moco.model_copy(update={"queue": 7}),
            "pixpro": configuration.pixpro.model_copy(update={"hidden_channels": 16, "embedding_dim": 8}),
        }
    )
    undisturbed = loop(configuration, num_clusters=3)
    expected = [report.loss for report in undisturbed.run()]
    killed = loop(configuration, num_clusters=3)
    losses = [report.loss for report in killed.run(until=2)]
    file = io.BytesIO()
    torch.save(killed.state_dict(), file)
    file.seek(0)
    continued = loop(configuration, num_clusters=3)
    continued.load_state_dict(torch.load(file, weights_only=True))
    losses += [report.loss for report in continued.run()]
    assert losses == expected
    for name, tensor in undisturbed.objective.state_dict().items():
        assert torch.equal(tensor, continued.objective.state_dict()[name]), name


def test_memory_gives_keys_of_earlier_steps():
    remembering = config(ContrastConfig(anchors_per_image=24, memory_per_label=30, memory_update_per_label=8), steps=3)
    run = loop(remembering, num_clusters=3)
    with_memory = [report.loss for report in run.run()]
    without = [report.loss for report in loop(config(ContrastConfig(anchors_per_image=24))).run()]
    assert with_memory[0] == without[0], "nothing is remembered yet"
    assert with_memory[1] != without[1]
    assert int(run.objective.memory.filled.max()) > 8
    with pytest.raises(InputError, match="number of labels"):
        loop(remembering)


def test_a_batch_of_one_label_gives_no_anchor_and_no_loss():
    run = loop(config(), Quarters(labels=1))
    before = run.objective.segmentor.backbone.features[0][0].weight.clone()
    reports = list(run.run(until=1))
    assert (reports[0].loss, reports[0].shown["anchors"]) == (0.0, 0.0)
    after = run.objective.segmentor.backbone.features[0][0].weight
    assert (after - before).abs().max() < 1e-4, "weight decay only"


def test_inputs_do_not_depend_on_who_makes_them():
    first = build_objective(pretraining_network(config()), config(), num_images=4)
    second = build_objective(pretraining_network(config(seed=0)), config(), num_images=4)
    slot = Slot("q1", 3, (49, 49))
    torch.manual_seed(1)
    one = first.inputs(Quarters().load("q1"), slot)
    first.inputs(Quarters().load("q0"), slot._replace(image_id="q0"))
    torch.manual_seed(2)
    two = second.inputs(Quarters().load("q1"), slot)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = first.inputs(Quarters().load("q1"), slot._replace(epoch=4))
    assert not torch.equal(one["views"], other["views"])


def test_anchors_carry_the_labels_under_their_cells():
    objective = build_objective(pretraining_network(config()), config(), num_images=4)
    assert isinstance(objective, PixelContrast)
    made = objective.inputs(Quarters().load("q2"), Slot("q2", 0, (49, 49)))
    assert made["views"].shape == (2, 3, 49, 49)
    assert made["cells"].shape == made["labels"].shape == (24,)
    held = made["labels"] >= 0
    assert held.any()
    assert set(made["labels"][held].tolist()) <= set(Quarters().load("q2").labels.reshape(-1).tolist())
    assert int(made["cells"].max()) < 2 * 7 * 7


def test_dropout_is_off():
    objective = build_objective(pretraining_network(config()), config(), num_images=4)
    assert [part.p for part in objective.modules() if isinstance(part, nn.Dropout) and part.p] == []


def test_bad_maps_are_named():
    objective = build_objective(pretraining_network(config()), config(), num_images=4, num_clusters=2)
    image = np.zeros((64, 64, 3), np.uint8)
    slot = Slot("street", 0, (49, 49))
    with pytest.raises(InputError, match="street: label 2 in the label map; allowed: 0 to 1, and 65535"):
        objective.inputs(Sample(image, np.full((64, 64), 2, np.uint16)), slot)
    with pytest.raises(InputError, match="street: no label map"):
        objective.inputs(Sample(image, None), slot)
    with pytest.raises(InputError, match=r"\(64, 64\), its label map \(32, 64\)"):
        objective.inputs(Sample(image, np.zeros((32, 64), np.uint16)), slot)
    with pytest.raises(InputError, match="crop 49x49 is larger"):
        objective.inputs(Sample(image[:, :30], np.zeros((64, 30), np.uint16)), slot)


class Grid(Quarters):
    """The map holds square superpixels."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def load(self, image_id):
        place = np.arange(64) // self.side
        ids = place[:, None] * (place[-1] + 1) + place
        return Sample(super().load(image_id).image, ids.astype(np.uint16))


STILL = ViewsConfig(crop_mode="fixed", crop=(49, 49), scale=(1, 1), rotation=(0, 0), cutout=(0, 0))


def test_a_superpixel_smaller_than_a_cell_is_what_lies_at_the_cells_centre():
    superpixels = config(ContrastConfig(anchors_per_image=24, positives="superpixel"), views=STILL)
    objective = build_objective(pretraining_network(superpixels), superpixels, num_images=4)
    made = objective.inputs(Grid(5).load("q0"), Slot("q0", 0, (49, 49)))
    # No square of 5 pixels has more than half of the 64 pixels around a cell; the majority would leave none.
    assert (made["labels"] >= 0).sum() >= 4


def test_a_training_that_learns_from_nothing_ends_and_one_that_learns_from_little_warns(caplog, monkeypatch):
    monkeypatch.setattr(workloads.training.loop, "WATCHED_STEPS", 2)
    superpixels = config(ContrastConfig(anchors_per_image=24, positives="superpixel"), views=STILL, steps=5)
    with pytest.raises(InputError, match=r"^the training learns nothing: 0 % of the 24 anchor slots of an image .*"):
        list(loop(superpixels.model_copy(update={"views": STILL.model_copy(update={"flip": 0})}), Grid(1)).run())
    sparse = config(ContrastConfig(anchors_per_image=1000, positives="superpixel"), views=STILL, steps=5)
    reports = list(loop(sparse, Grid(12)).run())
    warnings = [record.getMessage() for record in caplog.records if "learns from little" in record.getMessage()]
    assert len(warnings) == 1
    assert "% of the 1000 anchor slots of an image (positives 'superpixel', cells of 8 pixels)" in warnings[0]
    assert all(0 <= report.shown["images_without_positive"] < 1 for report in reports)


def test_superpixels_of_the_default_are_large_enough_to_be_positives_of_small_images():
    recipe = pretraining_recipe("small")
    changes = {
        "contrast": recipe.contrast.model_copy(update={"positives": "superpixel"}),
        "segmentor": recipe.segmentor.model_copy(update={"output_stride": 16}),
    }
    recipe = recipe.model_copy(update=changes)
    objective = PixelContrast(pretraining_network(recipe), recipe)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    image = np.asarray(Image.fromarray(noise).resize((480, 360), Image.Resampling.BICUBIC))

    def filled(segments):
        sample = Sample(image, superpixels(image, segments))
        return float((objective.inputs(sample, Slot("image", 0, recipe.views.crop))["labels"] >= 0).float().mean())

    assert filled(SuperpixelConfig()) > 2 * filled(SuperpixelConfig(n_segments=2000, compactness=3))
