"""Fine-tuning with the contrast beside it: one network, two losses, and images that follow from the step alone."""

import numpy as np
import torch

from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import ContrastConfig
from workloads.configs.training import FinetuneConfig, JointConfig, PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.networks.segmentors import build_segmentor
from workloads.training.batches import Sample, Slot
from workloads.training.finetuning import Finetuning
from workloads.training.joint import JointTraining, Unlabelled
from workloads.training.loop import Loop
from workloads.training.pretraining import PixelContrast

torch.set_num_threads(1)
NETWORK = SegmentorConfig(
    head="fcn", backbone="mobilenet_v2", output_stride=8, head_channels=16, auxiliary_head=False, dropout=0.0
)
VIEWS = ViewsConfig(crop_mode="fixed", crop=(49, 49), scale=(0.9, 1.2), rotation=(0, 0), cutout=(0, 0))
CONFIG = FinetuneConfig(steps=3, batch_size=2, segmentor=NETWORK, augmentation=VIEWS)
JOINT = JointConfig(weight=0.5, contrast=ContrastConfig(anchors_per_image=24, embedding_dim=16))


class Quarters:
    """Images of four patches, labelled by patch."""

    def __init__(self, names, kind):
        self.ids, self.kind = list(names), kind
        self.loaded = []

    def load(self, image_id):
        self.loaded.append(image_id)
        rng = np.random.default_rng(ord(image_id))
        labels = rng.permutation(4).reshape(2, 2).repeat(32, 0).repeat(32, 1)
        image = labels[..., None] * 60 + rng.integers(0, 20, (64, 64, 3))
        return Sample(image.astype(np.uint8), labels.astype(self.kind))


def objective(joint=JOINT, unlabelled=None):
    source = unlabelled or Quarters("uvwxyz", np.uint16)
    return JointTraining(build_segmentor(NETWORK, 4), CONFIG, Unlabelled(source, 4, joint)).train()


def batch_of(made_by, source, places):
    slots = [Slot(source.ids[place % len(source.ids)], 0, (49, 49), place) for place in places]
    made = [made_by.inputs(source.load(slot.image_id), slot) for slot in slots]
    return {name: torch.stack([one[name] for one in made]) for name in made[0]}


def test_the_loss_is_the_cross_entropy_and_a_share_of_the_contrast():
    joint = objective()
    batch = batch_of(joint, Quarters("ab", np.uint8), (0, 1))
    alone = Finetuning(joint.segmentor, CONFIG)
    contrast = PixelContrast(joint.segmentor, PretrainConfig(steps=1, segmentor=NETWORK, contrast=JOINT.contrast), 4)
    contrast.projection.load_state_dict(joint.contrast.projection.state_dict())
    views = {name: batch[f"contrast_{name}"] for name in ("views", "cells", "labels")}
    expected = alone(batch) + 0.5 * contrast(views)
    torch.testing.assert_close(joint(batch), expected)
    assert joint.shown["contrast_loss"] > 0
    assert joint.shown["anchors_filled"] > 0.9


def test_the_unlabelled_images_of_a_step_follow_from_the_step_and_all_have_their_turn():
    def seen(places):
        source = Quarters("uvwxyz", np.uint16)
        batch_of(objective(unlabelled=source), Quarters("abc", np.uint8), places)
        return source.loaded

    whole = seen(range(6))
    assert sorted(whole) == list("uvwxyz")
    assert seen(range(2, 4)) == whole[2:4]
    assert sorted(seen(range(6, 12))) == sorted(whole)


def test_both_losses_train_the_network_and_the_projection_is_new():
    joint = objective(JOINT.model_copy(update={"contrast": ContrastConfig(anchors_per_image=24, memory_per_label=20)}))
    before = {name: tensor.clone() for name, tensor in joint.state_dict().items()}
    loop = Loop(joint, Quarters("ab", np.uint8), CONFIG)
    reports = list(loop.run())
    assert [report.step for report in reports] == [1, 2, 3]
    assert all(report.shown["contrast_loss"] > 0 < report.shown["main_loss"] for report in reports)
    after = loop.objective.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"segmentor.classifier.0.weight", "contrast.projection.0.weight", "contrast.memory.filled"} <= moved
    rates = [(group["factor"], len(group["params"])) for group in loop.optimiser.param_groups]
    new = [name for name, _ in joint.named_parameters() if not name.startswith("segmentor.backbone.")]
    assert rates[1] == (10.0, len(new))
