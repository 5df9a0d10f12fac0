"""Extractors: the right layer, size and weights, nothing computed in vain, and no features that are not numbers."""

import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from workloads.configs.extraction import ExtractorConfig, FilterBankConfig
from workloads.configs.networks import SegmentorConfig
from workloads.errors import InputError
from workloads.features import extractors
from workloads.features.extractors import build_extractor
from workloads.grid import CellGrid
from workloads.labels.auxiliary import assign
from workloads.networks.checkpoints import save_checkpoint
from workloads.networks.segmentors import build_segmentor

DATA = os.environ.get("LOOKBEYOND_DATA")


def pictures(count: int, height: int = 65, width: int = 97) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8) for i in range(count)]


def normalised(images: list[np.ndarray]) -> torch.Tensor:
    """ImageNet's input by torchvision's own transform."""
    transform = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return torch.stack([transform(torchvision.transforms.functional.to_tensor(image)) for image in images])


def with_statistics(network: nn.Module) -> nn.Module:
    """Running statistics of a real network are never 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.uniform_(-0.1, 0.1, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("arch", "output_stride", "channels", "stride", "size"),
    [
        ("filters", 8, 41, 8, (9, 13)),
        ("filters", 16, 41, 16, (5, 7)),
        ("mobilenet_v2", 16, 320, 16, (5, 7)),
        ("mobilenet_v2", 8, 320, 8, (9, 13)),
        ("resnet18", 32, 512, 32, (3, 4)),
        ("resnet50", 8, 2048, 8, (9, 13)),
        ("vgg19", 16, 512, 16, (4, 6)),
        ("vgg19", 8, 512, 8, (8, 12)),
        ("deeplabv3_resnet50", 16, 256, 16, (5, 7)),
    ],
)
def test_shape_and_length(arch, output_stride, channels, stride, size):
    config = ExtractorConfig(arch=arch, output_stride=output_stride)
    extractor = build_extractor(config, None if arch == "filters" else "random", "cpu")
    features = extractor.features(pictures(2))
    assert (extractor.channels, extractor.stride) == (channels, stride)
    assert features.shape == (2, channels, *size)
    assert features.dtype == torch.float32 and extractor.report is None
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, *size))


def test_features_are_torchvisions_own(tmp_path):
    network = with_statistics(torchvision.models.resnet18(weights=None))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    config = ExtractorConfig(arch="resnet18", output_stride=32, normalize=False)
    extractor = build_extractor(config, str(tmp_path / "a.pth"), "cpu")
    images = pictures(3)
    with torch.inference_mode():
        whole = create_feature_extractor(network, ["layer2", "layer4"])
        expected = whole(normalised(images))
    torch.testing.assert_close(extractor.features(images), expected["layer4"], rtol=1e-3, atol=1e-3)
    assert extractor.report is not None and extractor.report.matched == 100
    assert extractor.identity == f"sha256:{extractor.report.sha256}"
    early = build_extractor(config.model_copy(update={"layer": "layer2"}), str(tmp_path / "a.pth"), "cpu")
    assert (early.channels, early.stride) == (128, 8)
    torch.testing.assert_close(early.features(images), expected["layer2"], rtol=1e-3, atol=1e-3)


def test_mobilenet_up_to_its_last_convolution(tmp_path):
    network = with_statistics(torchvision.models.mobilenet_v2(weights=None))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    images = pictures(1)
    for layer, end, channels in ((None, 18, 320), ("features.18", 19, 1280), ("features.3.conv.1.0", None, 144)):
        config = ExtractorConfig(arch="mobilenet_v2", output_stride=32, layer=layer, normalize=False)
        extractor = build_extractor(config, str(tmp_path / "a.pth"), "cpu")
        assert extractor.channels == channels
        if end is not None:
            with torch.inference_mode():
                expected = network.features[:end](normalised(images))
            torch.testing.assert_close(extractor.features(images), expected, rtol=1e-3, atol=1e-4)


def test_deeplab_is_torchvisions_own_at_the_stride_it_was_trained_at(tmp_path):
    network = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    with_statistics(network)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    images = pictures(1, 33, 49)
    with torch.inference_mode():
        backbone = network.backbone(normalised(images))["out"]
        expected = {
            "backbone.layer4": backbone,
            "classifier.0": network.classifier[0](backbone),
            None: nn.Sequential(*list(network.classifier)[:4])(backbone),
        }
    for layer, features in expected.items():
        config = ExtractorConfig(arch="deeplabv3_resnet50", output_stride=8, layer=layer, normalize=False)
        extractor = build_extractor(config, str(tmp_path / "a.pth"), "cpu")
        scale = float(features.abs().max())
        assert scale > 0
        torch.testing.assert_close(extractor.features(images), features, rtol=1e-3, atol=1e-4 * scale)
    assert extractor.report is not None
    assert set(extractor.report.skipped) >= {"classifier.4.weight", "aux_classifier.0.weight"}


def test_deeplabs_atrous_rates_span_the_same_pixels_at_every_stride():
    for output_stride, rate in ((8, 12), (16, 6), (32, 3)):
        config = ExtractorConfig(arch="deeplabv3_resnet50", output_stride=output_stride)
        network, _ = extractors._network(config, output_stride)
        assert network.get_submodule("classifier.0.convs.1.0").dilation == (rate, rate)


@pytest.mark.parametrize("head", ["deeplabv3", "pspnet", "fcn"])
def test_a_network_that_this_project_fine_tuned(tmp_path, head):
    trained = SegmentorConfig(head=head, backbone="resnet18", output_stride=16, head_channels=32)
    network = build_segmentor(trained, num_classes=5, seed=3)
    with_statistics(network)
    save_checkpoint(tmp_path / "a.pth", f"{head}_resnet18", "segmentor", network.state_dict(), {"labels": 37})
    config = ExtractorConfig(arch="segmentor", network=trained, output_stride=16, normalize=False)
    extractor = build_extractor(config, str(tmp_path / "a.pth"), "cpu")
    images = pictures(2)
    with torch.inference_mode():
        expected = network.representation(normalised(images))
    assert extractor.channels == 32
    torch.testing.assert_close(extractor.features(images), expected, rtol=1e-3, atol=1e-4)


def test_nothing_is_computed_after_the_layer():
    extractor = build_extractor(ExtractorConfig(arch="resnet18", layer="layer2"), "random", "cpu")
    called = []
    for name in ("layer2", "layer3", "layer4", "fc"):
        module = extractor.network.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    extractor.features(pictures(1))
    extractor.features(pictures(1))
    assert called == ["layer2", "layer2"]


def test_building_never_downloads(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    for arch in ("mobilenet_v2", "deeplabv3_resnet50"):
        build_extractor(ExtractorConfig(arch=arch), "random", "cpu")


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = ExtractorConfig(arch="mobilenet_v2", batch_size=2)
    first = build_extractor(config, "random", "cpu").features(pictures(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(build_extractor(config, "random", "cpu").features(pictures(2)), first)
    other = config.model_copy(update={"seed": 1})
    assert not torch.allclose(build_extractor(other, "random", "cpu").features(pictures(2)), first, atol=1e-2)


def test_a_cpu_takes_images_one_by_one_so_that_none_depends_on_its_neighbours():
    extractor = build_extractor(ExtractorConfig(arch="resnet18", batch_size=2), "random", "cpu")
    sizes = []
    extractor.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0]))
    images = pictures(3)
    together = extractor.features(images)
    assert sizes == [1, 1, 1]
    for position, image in enumerate(images):
        assert torch.equal(together[position], extractor.features([image])[0])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18"])
def test_lower_precision_is_close_and_comes_back_as_float32(arch, precision):
    config = ExtractorConfig(arch=arch)
    exact = build_extractor(config, "random", "cpu").features(pictures(1))
    rough = build_extractor(config.model_copy(update={"precision": precision}), "random", "cpu").features(pictures(1))
    assert rough.dtype == torch.float32
    similarity = (exact * rough).sum(dim=1)
    assert float(similarity.min()) > 0.98
    assert not torch.equal(exact, rough)


def test_resizing_is_antialiased():
    # One-pixel stripes are plain grey once shrunk with antialiasing, and stripes again without.
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[::2] = 255
    grey = np.full((64, 64, 3), 128, dtype=np.uint8)
    config = ExtractorConfig(filter_bank=FilterBankConfig(position=0.0), output_stride=8, input_size=(64, 64))
    extractor = build_extractor(config, None, "cpu")
    resized, plain = extractor.features([stripes]), extractor.features([grey])
    assert resized.shape == plain.shape == (1, 41, 8, 8)
    assert float((resized * plain).sum(dim=1)[:, 2:-2, 2:-2].min()) > 0.99


class TestRefusals:
    @pytest.mark.parametrize(
        ("arch", "layer", "message"),
        [
            ("resnet18", "layer5", r"resnet18 has no layer 'layer5'; the nearest are .*layer4"),
            ("mobilenet_v2", "feature.17", r"no layer 'feature\.17'; the nearest are .*features\.17"),
            ("resnet18", "fc", "gives no feature map"),
            ("resnet18", "avgpool", "gives no feature map"),
            ("deeplabv3_resnet50", "aux_classifier", "no layer 'aux_classifier'"),
        ],
    )
    def test_layers_that_cannot_be_used(self, arch, layer, message):
        with pytest.raises(InputError, match=message):
            build_extractor(ExtractorConfig(arch=arch, layer=layer), "random", "cpu")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"arch": "resnet34"}, "resnet34"),
            ({"output_stride": 4}, "output_stride"),
            ({"input_size": (16, 480)}, r"input_size: \[16, 480\] is too small; both sides must be 32 or more"),
            ({"arch": "resnet18", "filter_bank": {"position": 0.5}}, "belong to arch filters"),
            ({"arch": "segmentor"}, "network"),
            ({"arch": "resnet18", "network": {}}, "belongs to segmentor"),
            ({"arch": "filters", "layer": "layer4"}, "arch filters has one layer"),
        ],
    )
    def test_configurations_that_make_no_sense(self, options, message):
        with pytest.raises(ValidationError, match=message):
            ExtractorConfig(**options)

    def test_weights_that_are_not_said(self):
        with pytest.raises(InputError, match="resnet18 needs 'random'"):
            build_extractor(ExtractorConfig(arch="resnet18"), None, "cpu")

    @pytest.mark.parametrize("arch", ["filters", "resnet18"])
    def test_small_images(self, arch):
        extractor = build_extractor(ExtractorConfig(arch=arch), None if arch == "filters" else "random", "cpu")
        assert extractor.minimum_size == 32
        extractor.features(pictures(1, 32, 33))
        with pytest.raises(InputError, match=f"image of 31 x 200 pixels is too small for arch {arch}; both .* 32"):
            extractor.features(pictures(1, 31, 200))

    def test_images_of_several_sizes_or_types(self):
        extractor = build_extractor(ExtractorConfig(), None, "cpu")
        with pytest.raises(ValueError, match=r"of one size, not \[\(40, 40, 3\), \(40, 48, 3\)\]"):
            extractor.features([*pictures(1, 40, 40), *pictures(1, 40, 48)])
        with pytest.raises(ValueError, match="must be uint8"):
            extractor.features([np.zeros((40, 40, 3), dtype=np.float32)])
        with pytest.raises(ValueError, match="must be uint8"):
            extractor.features([np.zeros((40, 40), dtype=np.uint8)])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_numbers(self, tmp_path, value):
        tensors = with_statistics(torchvision.models.resnet18(weights=None)).state_dict()
        tensors["layer3.0.conv1.weight"][0, 0, 0, 0] = value
        torch.save(tensors, tmp_path / "a.pth")
        with pytest.raises(InputError, match=r"NaN or infinity in 1 of \d+ tensors \(layer3\.0\.conv1\.weight\)"):
            build_extractor(ExtractorConfig(arch="resnet18"), str(tmp_path / "a.pth"), "cpu")

    def test_the_image_that_overflows_is_named(self, monkeypatch):
        extractor = build_extractor(ExtractorConfig(arch="resnet18", batch_size=2), "random", "cpu")
        run = extractors._run_until

        def poisoned(network, layer, images):
            features = run(network, layer, images)
            features[images.amax(dim=(1, 2, 3)) < 0] = float("nan")
            return features

        monkeypatch.setattr(extractors, "_run_until", poisoned)
        black = np.zeros((65, 97, 3), dtype=np.uint8)
        with pytest.raises(InputError, match="not finite: image 3 of the batch"):
            extractor.features([*pictures(3), black])

    def test_features_that_vanished(self, tmp_path):
        tensors = with_statistics(torchvision.models.resnet18(weights=None)).state_dict()
        for name in ("layer4.1.bn1", "layer4.1.bn2", "layer4.0.bn2", "layer4.0.downsample.1"):
            tensors[f"{name}.weight"].zero_()
        torch.save(tensors, tmp_path / "a.pth")
        extractor = build_extractor(ExtractorConfig(arch="resnet18"), str(tmp_path / "a.pth"), "cpu")
        with pytest.raises(InputError, match="features are all zero"):
            extractor.features(pictures(1))


@pytest.mark.skipif(DATA is None, reason="LOOKBEYOND_DATA is not set: real networks are not at hand")
@pytest.mark.parametrize(
    ("name", "skipped"), [("mobilenet_v2_imagenet_fp16.pth", 8), ("deeplabv3_mobilenet_v2_voc_fp16.pth", 8)]
)
def test_real_networks(name, skipped):
    path = Path(str(DATA)) / "weights" / name
    if not path.is_file():
        pytest.skip(f"no {name} under LOOKBEYOND_DATA")
    extractor = build_extractor(ExtractorConfig(arch="mobilenet_v2", output_stride=16), str(path), "cpu")
    report = extractor.report
    assert report is not None
    assert (report.matched, report.missing, report.unexpected) == (51 * 5, (), ())
    assert len(report.skipped) == skipped
    assert all(each.startswith(("head.", "features.18.", "classifier.")) for each in report.skipped)
    features = extractor.features(pictures(1, 353, 481))
    assert features.shape == (1, 320, 23, 31)
    assert extractor.stride == 16


def constant(network):
    """Every weight positive and alike, so that what a dot does to the features lies around it evenly."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, torch.nn.ReLU6):
            # Everything alike adds up to far more than 6, where no dot would show.
            module.max_val = math.inf


@pytest.mark.parametrize(
    ("arch", "output_stride", "origin"),
    [
        ("filters", 16, 7.5),
        ("filters", 8, 3.5),
        ("resnet18", 16, 0.0),
        ("mobilenet_v2", 16, 0.0),
        ("vgg19", 16, 7.5),
        ("vgg19", 8, 7.5),
    ],
)
def test_a_bright_dot_is_found_where_it_is(arch, output_stride, origin):
    config = ExtractorConfig(arch=arch, output_stride=output_stride, normalize=False)
    extractor = build_extractor(config, None if arch == "filters" else "random", "cpu")
    if arch != "filters":
        constant(extractor.network)
    # No side is of the form 16 n + 1, for which any placing with the corners aligned would do.
    size = (232, 248)
    assert extractor.grid(size) == CellGrid(output_stride, origin)
    plain = np.full((*size, 3), 128, np.uint8)
    base = extractor.features([plain])[0]
    away = []
    for step in range(0, 16, 4):
        row, column = 104 + step, 120 - step
        dotted = plain.copy()
        dotted[row - 2 : row + 3, column - 2 : column + 3] = 255
        answer = (extractor.features([dotted])[0] - base).abs().sum(0, keepdim=True)
        # One cluster's distance is the interpolated answer turned upside down.
        _, distance = assign(answer - answer.max(), size, extractor.grid(size))
        weight = distance.max() - distance
        weight /= weight.sum()
        centre = [float((weight.sum(1 - axis) * np.arange(size[axis])).sum()) for axis in (0, 1)]
        away.append((centre[0] - row, centre[1] - column))
    assert np.abs(np.mean(away, axis=0)).max() < 1.5, away


def test_a_segmentation_network_is_read_at_the_stride_it_was_trained_at_unless_another_is_given():
    trained = SegmentorConfig(backbone="mobilenet_v2", output_stride=16)
    assert ExtractorConfig(arch="deeplabv3_resnet50").output_stride == 8
    assert ExtractorConfig(arch="segmentor", network=trained).output_stride == 16
    assert ExtractorConfig.model_validate({"arch": "segmentor", "network": {}}).output_stride == 8
    assert ExtractorConfig(arch="segmentor", network=trained, output_stride=32).output_stride == 32
    assert ExtractorConfig(arch="resnet50").output_stride == ExtractorConfig().output_stride == 16
    spelt_out = ExtractorConfig(arch="deeplabv3_resnet50", output_stride=8)
    assert spelt_out == ExtractorConfig.model_validate({"arch": "deeplabv3_resnet50", "output_stride": None})


def test_mirrored_surroundings_leave_no_frame_along_the_border():
    def features(image, reflect):
        config = ExtractorConfig(arch="resnet18", layer="layer2", output_stride=8, reflect=reflect, normalize=False)
        return build_extractor(config, "random", "cpu").features([image])[0]

    (image,) = pictures(1)
    assert features(image, 2).shape == features(image, 0).shape
    padded = np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="reflect")
    torch.testing.assert_close(features(image, 2), features(padded, 0)[:, 2:-2, 2:-2])
    plain = np.full_like(image, 90)
    framed, even = features(plain, 0), features(plain, 7)
    assert (framed - framed[:, 4:5, 4:5]).abs().max() > 0.05 * framed.abs().max()
    torch.testing.assert_close(even, even[:, 4:5, 4:5].expand_as(even), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"reflect 99 mirrors 792 pixels of an image of .*; allowed: at most"):
        features(image, 99)
