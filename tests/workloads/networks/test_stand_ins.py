"""Stand-ins: read as the published files are, the same everywhere, and never taken for the real thing."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from workloads.configs.networks import SegmentorConfig
from workloads.errors import InputError
from workloads.networks.checkpoints import read_checkpoint
from workloads.networks.segmentors import build_segmentor, initialise
from workloads.networks.stand_ins import NOTES, stand_in
from workloads.networks.weight_identity import weights_identity
from workloads.networks.weights import load_backbone

FORMATS = {
    "moco": "MoCo v2",
    "pixpro": "PixPro",
    "imagenet": "torchvision",
    "voc": "torchvision segmentation network",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checkpoints"


def backbone() -> nn.Module:
    network = torchvision.models.mobilenet_v2(weights=None)
    network.features = network.features[:18]
    return network


@pytest.mark.parametrize("kind", FORMATS)
def test_it_is_read_in_the_format_of_its_publisher(kind: str) -> None:
    network = backbone()
    report = load_backbone(network, f"stand-in:{kind}", "mobilenet_v2")
    assert (report.format, report.matched, report.missing) == (FORMATS[kind], 255, ())
    assert kind in NOTES


def test_every_kind_has_values_of_its_own_and_the_same_ones_again(cache: Path) -> None:
    def written(kind: str) -> bytes:
        load_backbone(backbone(), f"stand-in:{kind}", "mobilenet_v2")
        (file,) = cache.iterdir()
        content = read_checkpoint(file).tensors["features.17.conv.2.weight"].numpy().tobytes()
        file.unlink()
        return content

    first = written("moco")
    assert written("moco") == first
    assert written("pixpro") != first


def test_the_backbone_of_a_network_that_is_trained_starts_from_it() -> None:
    config = SegmentorConfig(backbone="resnet18", head_channels=8)
    report = initialise(build_segmentor(config, num_classes=2), "file", "stand-in:moco")
    assert report is not None and (report.format, report.matched) == ("MoCo v2", 100)


def test_its_identity_says_what_it_is_without_a_file(cache: Path) -> None:
    identities = [weights_identity(arch, "stand-in:moco") for arch in ("resnet18", "resnet50", "vgg19")]
    assert identities == ["stand-in:moco:resnet18:1", "stand-in:moco:resnet50:1", "stand-in:moco:vgg19:1"]
    assert not cache.exists()


def test_what_there_is_no_stand_in_for_is_refused() -> None:
    with pytest.raises(InputError, match="'stand-in:simclr' is not known; allowed: stand-in:moco, stand-in:pixpro"):
        weights_identity("resnet18", "stand-in:simclr")
    with pytest.raises(InputError, match="no stand-in 'stand-in:moco' for arch segmentor"):
        weights_identity("segmentor", "stand-in:moco")
    assert stand_in("moco.pth") is None
