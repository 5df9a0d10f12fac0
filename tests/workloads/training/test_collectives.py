"""Two real processes against one, over gloo."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from workloads.configs.networks import SegmentorConfig
from workloads.configs.objectives import ContrastConfig
from workloads.configs.training import FinetuneConfig, PretrainConfig
from workloads.configs.views import ViewsConfig
from workloads.networks.segmentors import build_segmentor
from workloads.training.batches import Sample
from workloads.training.collectives import ProcessGroup, SingleProcess, share_batch_norm
from workloads.training.finetuning import finetuning_loop
from workloads.training.pretraining import pretraining_loop, pretraining_network

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
NETWORK = SegmentorConfig(
    backbone="mobilenet_v2", output_stride=8, head_channels=8, atrous_rates=(1, 2, 3), dropout=0.0
)
VIEWS = ViewsConfig(crop_mode="fixed", crop=(49, 49), scale=(0.9, 1.3), cutout=(0, 8))
PRETRAIN = PretrainConfig(
    precision="float64",
    steps=3,
    batch_size=4,
    segmentor=NETWORK,
    views=VIEWS,
    contrast=ContrastConfig(anchors_per_image=24, memory_per_label=20, memory_update_per_label=6),
)
FINETUNE = FinetuneConfig(precision="float64", steps=3, batch_size=4, segmentor=NETWORK, augmentation=VIEWS)


class Noise:
    """Images of coloured quarters; a share of their labels is unknown, unequally over the images."""

    def __init__(self, kind, ignore):
        self.ids = [f"n{n}" for n in range(6)]
        self.kind, self.ignore = kind, ignore

    def load(self, image_id):
        rng = np.random.default_rng(int(image_id[1:]))
        labels = rng.integers(0, 3, (2, 2)).repeat(32, 0).repeat(32, 1)
        image = (60 * labels[..., None] + rng.integers(0, 60, (64, 64, 3))).astype(np.uint8)
        labels[rng.random((64, 64)) < 0.1 * int(image_id[1:])] = self.ignore
        return Sample(image, labels.astype(self.kind))


def run(kind, workers, wrap=None):
    if kind == "pretrain":
        network = pretraining_network(PRETRAIN)
        loop = pretraining_loop(network, Noise(np.uint16, 65535), PRETRAIN, num_clusters=3, workers=workers, wrap=wrap)
    else:
        network = build_segmentor(NETWORK, 3)
        weights = torch.tensor([0.5, 1.0, 4.0]) if kind == "balanced finetune" else None
        loop = finetuning_loop(
            network, Noise(np.uint8, 255), FINETUNE, workers=workers, wrap=wrap, class_weights=weights
        )
    losses = [report.loss for report in loop.run()]
    return losses, loop.state_dict()["objective"]


JOBS = ("gather", "norm", "pretrain", "balanced finetune")


def worker(rank, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        for job in JOBS:
            if job == "gather":
                result = gather_gradients(ProcessGroup())
            elif job == "norm":
                result = normalised(ProcessGroup())
            else:
                result = run(job, ProcessGroup(), DistributedDataParallel)
            torch.save(result, f"{folder}/{job} {rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    """What each of two processes found, by job; they start once, as that takes longer than all the jobs."""
    folder = tmp_path_factory.mktemp("workers")
    processes.spawn(worker, (str(folder),), nprocs=2)
    return {job: [torch.load(folder / f"{job} {rank}.pt", weights_only=True) for rank in range(2)] for job in JOBS}


def gather_gradients(workers):
    values = torch.arange(12.0).view(4, 3).sin()
    share = values[2 * workers.rank : 2 * workers.rank + 2].clone().requires_grad_()
    everything = workers.gather(share)
    # Each worker's loss reaches every key, its own and the other's.
    loss = ((workers.rank + 1) * everything @ everything.T).square().sum()
    loss.backward()
    return everything.detach(), share.grad


def test_gathering_carries_the_gradient_of_all_workers(two_workers):
    values = torch.arange(12.0).view(4, 3).sin().requires_grad_()
    for rank in range(2):
        ((rank + 1) * values @ values.T).square().sum().backward()
    found = two_workers["gather"]
    for rank, (everything, gradient) in enumerate(found):
        assert torch.equal(everything, values.detach())
        torch.testing.assert_close(gradient, values.grad[2 * rank : 2 * rank + 2])


def normalised(workers):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    nn.init.normal_(layer[1].weight)
    images = torch.randn(4, 2, 5, 6)
    share = 4 // workers.size
    own = images[workers.rank * share : (workers.rank + 1) * share].clone().requires_grad_()
    shared = share_batch_norm(layer, workers, torch.device("cpu"))
    shared(own).square().sum().backward()
    gradients = [workers.sum(parameter.grad) for parameter in layer.parameters()]
    return own.grad, gradients, layer[1].running_mean, layer[1].running_var, int(layer[1].num_batches_tracked)


def test_batch_normalisation_over_two_workers_is_that_over_the_whole_batch(two_workers):
    whole = normalised(SingleProcess())
    found = two_workers["norm"]
    torch.testing.assert_close(torch.cat([part[0] for part in found]), whole[0], rtol=1e-4, atol=1e-5)
    for part in found:
        for ours, expected in zip(part[1], whole[1], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(part[2:4], whole[2:4])
        assert part[4] == whole[4] == 1


@pytest.mark.parametrize("job", ["pretrain", "balanced finetune"])
def test_two_workers_with_half_the_batch_are_one_with_the_whole(job, two_workers):
    losses, state = run(job, SingleProcess())
    found = two_workers[job]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())
    # What is left is the order of sums. In float64 it stays there; in float32 each step of training
    # multiplies it (a loss of 6 differs by 0.2 after four steps), so only float64 tells rounding from a
    # wrong gradient.
    assert found[0][0] == pytest.approx(losses, rel=1e-6)
    for name, tensor in state.items():
        torch.testing.assert_close(found[0][1][name], tensor, rtol=1e-4, atol=1e-6, msg=name)
