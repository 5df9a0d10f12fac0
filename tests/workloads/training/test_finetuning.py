import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig, FinetuneConfig, OptimiserConfig
from workloads.configs.views import ViewsConfig
from workloads.errors import InputError
from workloads.networks.segmentors import build_segmentor, load_pretrained, pretrained_state
from workloads.scoring.evaluation import class_counts
from workloads.scoring.metrics import mean_iou
from workloads.training.batches import Sample, Slot
from workloads.training.finetuning import Finetuning, class_pixels, finetuning_loop, log_inverse_weights

torch.set_num_threads(1)
NETWORK = SegmentorConfig(
    backbone="mobilenet_v2", output_stride=16, head_channels=16, atrous_rates=(1, 2, 3), dropout=0.0
)
CONFIG = FinetuneConfig(
    steps=110,
    batch_size=4,
    segmentor=NETWORK,
    augmentation=ViewsConfig(
        crop_mode="fixed",
        crop=(49, 49),
        scale=(0.9, 1.2),
        rotation=(0, 0),
        jitter=(0.1, 0.1, 0.1, 0),
        grayscale=0,
        cutout=(0, 0),
    ),
    optimiser=OptimiserConfig(learning_rate=0.02),
)


class Blocks:
    """Images of 32-pixel blocks whose colour is their class."""

    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])

    def __init__(self, number=4, unlabelled=()):
        self.ids = [str(n) for n in range(number)]
        self.unlabelled = unlabelled

    def load(self, image_id):
        rng = np.random.default_rng(int(image_id))
        labels = rng.integers(0, 3, (2, 2)).repeat(32, 0).repeat(32, 1).astype(np.uint8)
        noise = rng.integers(-30, 31, (64, 64, 3))
        image = (self.colours[labels] + noise).clip(0, 255).astype(np.uint8)
        return Sample(image, np.full_like(labels, 255) if image_id in self.unlabelled else labels)


def test_a_few_images_are_learnt():
    network = build_segmentor(NETWORK, 3)
    before = mean_iou(class_counts(network, Blocks(), EvaluationConfig())).miou
    losses = [report.loss for report in finetuning_loop(network, Blocks(), CONFIG).run()]
    after = mean_iou(class_counts(network, Blocks(), EvaluationConfig())).miou
    # Fewer steps than this leave the running statistics of batch normalisation behind the weights.
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert after > max(60.0, before + 20)


def batch_of(objective, source):
    made = [objective.inputs(source.load(i), Slot(i, 0, (49, 49))) for i in source.ids]
    return {name: torch.stack([one[name] for one in made]) for name in made[0]}


def test_loss_is_cross_entropy_plus_a_share_of_the_auxiliary_one():
    objective = Finetuning(build_segmentor(NETWORK, 3), CONFIG).train()
    batch = batch_of(objective, Blocks(2, unlabelled=("1",)))
    loss = objective(batch)
    logits = objective.segmentor(batch["image"])
    known = batch["labels"] >= 0
    expected = [
        F.cross_entropy(scores.permute(0, 2, 3, 1)[known], batch["labels"][known])
        for scores in logits
        if scores is not None
    ]
    assert len(expected) == 2
    torch.testing.assert_close(loss, expected[0] + 0.4 * expected[1], rtol=1e-4, atol=1e-4)


def test_classes_weigh_by_the_logarithm_of_their_share():
    first = np.array([[0, 0, 0, 2]], np.uint8)
    second = np.array([[0, 0, 255, 255], [0, 2, 0, 0]], np.uint8)  # 8 of 10 labelled pixels are 0, 2 are 2.
    expected = [1 / np.log(1.02 + 0.8), 1 / np.log(1.02), 1 / np.log(1.02 + 0.2)]
    np.testing.assert_allclose(log_inverse_weights(class_pixels([first, second], 3)), expected, rtol=1e-6)
    unlabelled = np.full((2, 2), 255, np.uint8)
    assert len(set(log_inverse_weights(class_pixels([unlabelled], 3)).tolist())) == 1


def test_a_weighted_loss_is_the_weighted_mean_over_pixels():
    weights = torch.tensor([0.5, 2.0, 7.0])
    objective = Finetuning(build_segmentor(NETWORK, 3), CONFIG, class_weights=weights).train()
    batch = batch_of(objective, Blocks(2))
    loss = objective(batch)
    logits = objective.segmentor(batch["image"])
    means = [F.cross_entropy(scores, batch["labels"], weight=weights, ignore_index=-1) for scores in logits]
    torch.testing.assert_close(loss, means[0] + 0.4 * means[1], rtol=1e-4, atol=1e-4)
    assert "class_weights" not in objective.state_dict()


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0])])
def test_a_batch_without_a_labelled_pixel_has_zero_loss_with_a_graph(weights):
    objective = Finetuning(build_segmentor(NETWORK, 3), CONFIG, class_weights=weights).train()
    loss = objective(batch_of(objective, Blocks(2, unlabelled=("0", "1"))))
    assert float(loss.detach()) == 0.0
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in objective.parameters())


def test_bad_ground_truth_is_named():
    objective = Finetuning(build_segmentor(NETWORK, 2), CONFIG)
    with pytest.raises(InputError, match="0: label 2 in the ground truth; allowed: 0 to 1, and 255"):
        batch_of(objective, Blocks(1))
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="a: no ground truth"):
        objective.inputs(Sample(image, None), Slot("a", 0, (49, 49)))
    with pytest.raises(InputError, match=r"\(64, 64\), its ground truth \(64, 63\)"):
        objective.inputs(Sample(image, np.zeros((64, 63), np.uint8)), Slot("a", 0, (49, 49)))


def test_an_image_smaller_than_the_crop_is_padded_with_pixels_that_no_label_is_known_of():
    objective = Finetuning(build_segmentor(NETWORK, 3), CONFIG)
    small = Sample(np.full((20, 30, 3), 200, np.uint8), np.ones((20, 30), np.uint8))
    made = objective.inputs(small, Slot("a", 0, (129, 129)))
    known = made["labels"] >= 0
    assert 0 < known.float().mean() < 0.5
    assert set(made["labels"].unique().tolist()) == {-1, 1}


@pytest.mark.parametrize("scope", ["segmentor", "backbone"])
def test_layers_that_were_loaded_learn_at_the_rate_itself_and_new_ones_head_factor_times_as_fast(scope):
    network = build_segmentor(NETWORK, 3)
    pretrained = pretrained_state(build_segmentor(NETWORK, 1, seed=1), scope)
    new = set(load_pretrained(network, pretrained))
    config = CONFIG.model_copy(update={"optimiser": OptimiserConfig(learning_rate=0.01, head_factor=10)})
    run = finetuning_loop(network, Blocks(), config, loaded=frozenset(pretrained))
    next(run.run())
    rates = {id(parameter): group["lr"] for group in run.optimiser.param_groups for parameter in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.1 if name in new else 0.01), name
    assert ("classifier.1.weight" in new) == (scope == "backbone")
