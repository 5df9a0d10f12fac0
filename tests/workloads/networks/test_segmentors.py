import argparse

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.segmentation import deeplabv3_resnet50
from torchvision.models.segmentation.fcn import FCNHead

from workloads.configs.networks import SegmentorConfig
from workloads.errors import InputError
from workloads.networks.segmentors import (
    ProjectionHead,
    build_segmentor,
    initialise,
    load_pretrained,
    pretrained_state,
    publishers_backbone,
    upsampled,
)

torch.set_num_threads(1)
BACKBONES = ["resnet50", "resnet18", "mobilenet_v2"]


def parameters(module):
    return sum(tensor.numel() for tensor in module.parameters())


def test_deeplabv3_resnet50_is_torchvisions_tensor_by_tensor():
    reference = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    ours = build_segmentor(SegmentorConfig(), num_classes=21).eval()
    # 42 004 074: the number of parameters that torchvision documents for its released weights.
    assert parameters(ours) == 42_004_074
    ours.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        cells = reference.classifier(reference.backbone(images)["out"])
        torch.testing.assert_close(ours.classifier(ours.backbone(images).last), cells, rtol=1e-4, atol=1e-5)
        # Sides of the form 8 n + 1: hszhao/semseg's placing of the cells; torchvision's is half a cell off at a border.
        expected = F.interpolate(cells, (65, 97), mode="bilinear", align_corners=True)
        torch.testing.assert_close(ours(images).main, expected, rtol=1e-4, atol=1e-5)


def test_pspnet50_has_the_published_layout():
    network = build_segmentor(SegmentorConfig(head="pspnet"), num_classes=21)
    backbone = 25_557_032 - (2048 * 1000 + 1000)  # resnet50 less its classifier
    pyramid = 4 * (2048 * 512 + 2 * 512)
    head = pyramid + 4096 * 512 * 9 + 2 * 512 + 512 * 21 + 21
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    assert parameters(network.backbone) == backbone
    assert parameters(network) == backbone + head + auxiliary == 48_957_802
    assert [branch[0].output_size for branch in network.classifier[0].branches] == [1, 2, 3, 6]
    assert [part.p for part in network.modules() if isinstance(part, nn.Dropout)] == [0.1, 0.1]


def test_fcn_is_torchvisions_head_with_the_width_as_an_option():
    ours = build_segmentor(SegmentorConfig(head="fcn", backbone="mobilenet_v2", head_channels=80), 5).classifier
    theirs = FCNHead(320, 5)
    theirs.load_state_dict(ours.state_dict())
    cells = torch.randn(2, 320, 5, 7)
    torch.testing.assert_close(ours.eval()(cells), theirs.eval()(cells))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", ["deeplabv3", "pspnet", "fcn"])
@pytest.mark.parametrize("stride", [8, 16])
def test_shapes_of_every_combination(backbone, head, stride):
    config = SegmentorConfig(head=head, backbone=backbone, output_stride=stride, head_channels=32)
    network = build_segmentor(config, num_classes=5).train()
    images = torch.randn(2, 3, 65, 97)
    logits = network(images)
    assert logits.main.shape == logits.auxiliary.shape == (2, 5, 65, 97)
    assert network.representation(images).shape == (2, 32, 64 // stride + 1, 96 // stride + 1)
    assert network.eval()(images).auxiliary is None


def test_atrous_rates_follow_the_output_stride():
    assert SegmentorConfig(output_stride=8).rates == (12, 24, 36)
    assert SegmentorConfig(output_stride=16).rates == (6, 12, 18)
    assert SegmentorConfig(atrous_rates=(3, 6, 9)).rates == (3, 6, 9)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_backbone_is_exported_strictly_into_torchvision(backbone):
    network = build_segmentor(SegmentorConfig(backbone=backbone, head_channels=16), num_classes=3, seed=4)
    exported = publishers_backbone(network)
    reference = torchvision.models.get_model(backbone, weights=None)
    reference.load_state_dict(exported.state, strict=True)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(reference.state_dict()[name], tensor)
    assert set(exported.untrained) == set(reference.state_dict()) - set(network.backbone.state_dict())
    assert exported.untrained, "the classifier is named as untrained"


def test_building_never_downloads(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network was fetched while one was built")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    for backbone in BACKBONES:
        network = build_segmentor(SegmentorConfig(backbone=backbone, head_channels=16), num_classes=3)
        assert initialise(network, "random") is None


def test_weights_depend_on_the_seed_alone_and_leave_the_random_state():
    config = SegmentorConfig(backbone="resnet18", head_channels=16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_segmentor(config, 3, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build_segmentor(config, 3, seed=7), build_segmentor(config, 3, seed=8)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(first.classifier[-1].weight, other.classifier[-1].weight)


def test_pretrained_network_enters_everything_below_the_classifier():
    config = SegmentorConfig(backbone="mobilenet_v2", head_channels=16)
    pretrained, target = build_segmentor(config, 3, seed=1), build_segmentor(config, 7, seed=2)
    classifier = target.classifier[-1].weight.clone()
    kept = load_pretrained(target, pretrained_state(pretrained, "segmentor"))
    images = torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        torch.testing.assert_close(
            target.eval().representation(images), pretrained.eval().representation(images), rtol=0, atol=0
        )
    assert torch.equal(target.classifier[-1].weight, classifier)
    assert "classifier.4.weight" in kept


def test_pretrained_backbone_enters_any_head():
    pretrained = build_segmentor(SegmentorConfig(backbone="resnet18", head_channels=16), 3, seed=1)
    target = build_segmentor(SegmentorConfig(backbone="resnet18", head="pspnet", head_channels=24), 7, seed=2)
    head = target.classifier[1].weight.clone()
    load_pretrained(target, pretrained_state(pretrained, "backbone"))
    assert torch.equal(target.backbone.conv1.weight, pretrained.backbone.conv1.weight)
    assert torch.equal(target.classifier[1].weight, head)
    with pytest.raises(InputError, match="not of"):
        load_pretrained(target, {"backbone.conv1.weight": pretrained.backbone.conv1.weight})


@pytest.mark.parametrize(
    "other",
    [
        SegmentorConfig(backbone="mobilenet_v2", head="pspnet", head_channels=16),
        SegmentorConfig(backbone="resnet18", head_channels=16),
        SegmentorConfig(backbone="mobilenet_v2", head_channels=24),
    ],
)
def test_checkpoint_of_another_architecture_is_refused(other):
    target = build_segmentor(SegmentorConfig(backbone="mobilenet_v2", head_channels=16), 3)
    with pytest.raises(InputError, match="not of deeplabv3 on mobilenet_v2"):
        load_pretrained(target, pretrained_state(build_segmentor(other, 3), "segmentor"))


def test_initialisation_refuses_what_does_not_fit():
    network = build_segmentor(SegmentorConfig(backbone="resnet18", head_channels=16), 3)
    with pytest.raises(InputError, match="given"):
        initialise(network, "random", "weights.pth")
    with pytest.raises(InputError, match="needs weights"):
        initialise(network, "file")
    with pytest.raises(InputError, match="resnet50"):
        initialise(network, "moco", "moco.pth")
    with pytest.raises(InputError, match="num_classes"):
        build_segmentor(SegmentorConfig(backbone="resnet18"), 0)


def test_projection_head_is_two_1x1_convolutions():
    head = ProjectionHead(256, 128)
    assert parameters(head) == 256 * 256 + 2 * 256 + 256 * 128 + 128
    assert head(torch.randn(2, 256, 5, 7)).shape == (2, 128, 5, 7)


def test_moco_and_pixpro_enter_from_their_official_layouts(tmp_path):
    config = SegmentorConfig(head_channels=16)
    source = build_segmentor(config, 3, seed=1)
    own = dict(source.backbone.state_dict())
    whole = publishers_backbone(source).state
    moco = {f"module.encoder_q.{name}": tensor for name, tensor in own.items()}
    moco |= {f"module.encoder_q.fc.{name}": torch.zeros(2) for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    moco |= {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in own.items()}
    moco |= {"module.queue": torch.zeros(4, 4), "module.queue_ptr": torch.zeros(1)}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": moco, "optimizer": {}}, tmp_path / "moco.pth")
    pixpro = {f"module.encoder.{name}": tensor for name, tensor in own.items()}
    pixpro |= {"module.projector.linear1.weight": torch.zeros(2), "module.value_transform.weight": torch.zeros(2)}
    pixpro |= {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in own.items()}
    torch.save({"opt": argparse.Namespace(arch="resnet50"), "model": pixpro, "epoch": 400}, tmp_path / "pixpro.pth")
    torch.save(whole, tmp_path / "plain.pth")
    for name in ("moco", "pixpro"):
        network = build_segmentor(config, 3, seed=2)
        report = initialise(network, name, str(tmp_path / f"{name}.pth"))
        assert not report.missing
        assert torch.equal(network.backbone.layer4[2].conv3.weight, source.backbone.layer4[2].conv3.weight)
        with pytest.raises(InputError, match=f"init '{name}'"):
            initialise(network, name, str(tmp_path / "plain.pth"))
    keys_only = {"state_dict": {f"module.encoder_k.{name}": tensor for name, tensor in own.items()}}
    torch.save(keys_only, tmp_path / "keys.pth")
    with pytest.raises(InputError):
        initialise(build_segmentor(config, 3), "moco", str(tmp_path / "keys.pth"))


@pytest.mark.parametrize(("stride", "height", "width"), [(16, 177, 241), (16, 180, 240), (8, 45, 33), (32, 33, 64)])
def test_a_cell_is_put_where_its_convolution_looked(stride, height, width):
    down, right = torch.arange(0, height, stride).float(), torch.arange(0, width, stride).float()
    centres = torch.stack(torch.meshgrid(down, right, indexing="ij"))
    pixels = upsampled(centres[None], stride, (height, width))[0]
    expected = torch.meshgrid(
        torch.arange(height).clamp(max=int(down[-1])), torch.arange(width).clamp(max=int(right[-1])), indexing="ij"
    )
    torch.testing.assert_close(pixels, torch.stack(expected).float())


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_both_heads_give_logits_of_the_size_of_the_image(backbone, stride):
    network = build_segmentor(SegmentorConfig(backbone=backbone, output_stride=stride, head_channels=8), num_classes=2)
    for size in ((65, 97), (60, 100)):
        logits = network.train()(torch.zeros(2, 3, *size))
        assert logits.main.shape == logits.auxiliary.shape == (2, 2, *size)
