"""Checkpoint files in the layouts of their publishers, and every way in which a file can be the wrong one."""

import argparse
import functools
import hashlib
import http.server
import json
import logging
import pickle
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from workloads.errors import InputError
from workloads.networks.checkpoints import read_checkpoint, save_checkpoint
from workloads.networks.weight_identity import weights_identity
from workloads.networks.weights import WeightsReport, load_backbone


class Innocent:
    """A class that a checkpoint has no business holding."""


def network(arch: str, seed: int) -> nn.Module:
    """A torchvision network whose every tensor depends on the seed, running statistics included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = torchvision.models.get_model(arch, weights=None)
        for name, tensor in module.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
    return module


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return network("resnet18", seed=1).state_dict()


@pytest.fixture
def module() -> nn.Module:
    return network("resnet18", seed=2)


def written(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without(tensors: dict[str, torch.Tensor], *prefixes: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def assert_backbone_equals(module: nn.Module, published: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        if not name.startswith(("fc.", "classifier.")):
            assert torch.equal(tensor, published[name]), name


RESNET18_TENSORS = 100  # 20 convolutions and 20 batch normalisations of 4 tensors each


def moco_v2(published: dict[str, torch.Tensor]) -> dict[str, object]:
    encoder = without(published, "fc.")
    mlp = {"fc.0.weight": torch.randn(8, 8), "fc.0.bias": torch.randn(8), "fc.2.weight": torch.randn(4, 8)}
    momentum = {name: torch.zeros_like(tensor) for name, tensor in {**encoder, **mlp}.items()}
    queue = {"module.queue": torch.randn(4, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    state_dict = {
        **prefixed("module.encoder_q.", {**encoder, **mlp}),
        **prefixed("module.encoder_k.", momentum),
        **queue,
    }
    return {
        "epoch": 800,
        "arch": "resnet18",
        "state_dict": state_dict,
        "optimizer": {"state": {}, "lr": 0.03},
    }


def pixpro(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder = without(published, "fc.")
    return {
        **prefixed("module.encoder_k.", {name: torch.zeros_like(tensor) for name, tensor in encoder.items()}),
        **prefixed("module.encoder.", encoder),
        "module.projector.linear1.weight": torch.randn(4, 4, 1, 1),
        "module.value_transform.weight": torch.randn(4, 4, 1, 1),
    }


class TestFormats:
    def test_torchvision_state_dict(self, tmp_path, module, published):
        classifier = module.fc.weight.clone()
        path = written(tmp_path / "a.pth", published)
        report = load_backbone(module, path, "resnet18")
        assert_backbone_equals(module, published)
        assert torch.equal(module.fc.weight, classifier)
        assert report == WeightsReport(
            arch="resnet18",
            format="torchvision",
            sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            matched=RESNET18_TENSORS,
            skipped=("fc.weight", "fc.bias"),
        )
        assert "100 tensors matched, 0 missing, 0 unexpected, 2 skipped (fc.weight, fc.bias)" in str(report)
        assert report.sha256 in str(report)

    def test_moco_v2_takes_the_query_encoder(self, tmp_path, module, published):
        report = load_backbone(module, written(tmp_path / "a.pth.tar", moco_v2(published)), "resnet18")
        assert_backbone_equals(module, published)
        assert (report.format, report.matched) == ("MoCo v2", RESNET18_TENSORS)
        assert {"encoder_q.fc.0.weight", "encoder_k.conv1.weight", "queue"} <= set(report.skipped)

    def test_pixpro_as_trained_holds_a_namespace(self, tmp_path, module, published):
        options = argparse.Namespace(arch="resnet18", base_learning_rate=1.0, crop=[0.08, 1.0])
        content = {"opt": options, "model": pixpro(published), "optimizer": {"state": {}}, "epoch": 400}
        report = load_backbone(module, written(tmp_path / "a.pth", content), "resnet18")
        assert_backbone_equals(module, published)
        assert (report.format, report.matched) == ("PixPro", RESNET18_TENSORS)
        assert {"encoder_k.conv1.weight", "projector.linear1.weight"} <= set(report.skipped)

    def test_pixpro_as_published_holds_the_model_alone(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", {"model": pixpro(published)})
        assert load_backbone(module, path, "resnet18").format == "PixPro"
        assert_backbone_equals(module, published)

    def test_data_parallel_prefix(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", {"state_dict": prefixed("module.", published), "epoch": 3})
        assert load_backbone(module, path, "resnet18").format == "torchvision"
        assert_backbone_equals(module, published)

    def test_old_serialisation(self, tmp_path, module, published):
        torch.save(published, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        load_backbone(module, str(tmp_path / "a.pth"), "resnet18")
        assert_backbone_equals(module, published)

    def test_half_precision_becomes_float32(self, tmp_path, module, published):
        half = {name: t.half() if t.is_floating_point() else t for name, t in published.items()}
        load_backbone(module, written(tmp_path / "a.pth", half), "resnet18")
        assert module.conv1.weight.dtype == torch.float32
        assert torch.equal(module.conv1.weight, half["conv1.weight"].float())

    def test_batch_counts_may_be_absent(self, tmp_path, module, published):
        module.bn1.num_batches_tracked.fill_(7)
        old = {name: tensor for name, tensor in published.items() if "num_batches" not in name}
        assert load_backbone(module, written(tmp_path / "a.pth", old), "resnet18").matched == RESNET18_TENSORS
        assert int(module.bn1.num_batches_tracked) == 0

    def test_own_backbone(self, tmp_path, module, published):
        path = tmp_path / "a.pth"
        sha256 = save_checkpoint(path, "resnet18", "backbone", published, {"labels": "abc", "miou": 40.5})
        report = load_backbone(module, str(path), "resnet18")
        assert_backbone_equals(module, published)
        assert (report.format, report.sha256) == ("lookbeyond backbone", sha256)
        assert read_checkpoint(path).card == {"labels": "abc", "miou": 40.5}

    @pytest.mark.parametrize("own", [True, False])
    def test_backbone_of_a_segmentation_network(self, tmp_path, module, published, own):
        backbone = prefixed("backbone.", without(published, "fc."))
        whole = {
            **backbone,
            "classifier.4.weight": torch.randn(3, 8, 1, 1),
            "aux_classifier.0.weight": torch.randn(1),
        }
        path = tmp_path / "a.pth"
        if own:
            save_checkpoint(path, "deeplabv3_resnet18", "segmentor", whole, {})
        else:
            torch.save(whole, path)
        report = load_backbone(module, str(path), "resnet18")
        assert_backbone_equals(module, published)
        assert report.format == ("lookbeyond segmentor" if own else "torchvision segmentation network")
        assert report.skipped == ("classifier.4.weight", "aux_classifier.0.weight")

    def test_mobilenet_without_its_last_convolution_and_with_a_foreign_head(self, tmp_path):
        published = network("mobilenet_v2", seed=1).state_dict()
        foreign = {
            **without(published, "features.18.", "classifier."),
            "head.logits.weight": torch.randn(21, 256),
        }
        path = written(tmp_path / "a.pth", foreign)
        module = network("mobilenet_v2", seed=2)
        with pytest.raises(InputError, match=r"5 missing.*features\.18\.0\.weight"):
            load_backbone(module, path, "mobilenet_v2")
        module.features = module.features[:18]
        report = load_backbone(module, path, "mobilenet_v2")
        assert (report.matched, report.skipped) == (255, ("head.logits.weight",))
        assert torch.equal(module.features[17].conv[2].weight, published["features.17.conv.2.weight"])
        # The same network from a whole classifier: the last convolution is skipped, and says so.
        report = load_backbone(module, written(tmp_path / "b.pth", published), "mobilenet_v2")
        assert (report.matched, len(report.skipped)) == (255, 6 + 2)

    def test_resnet50_in_the_moco_layout(self, tmp_path):
        published = network("resnet50", seed=1).state_dict()
        module = network("resnet50", seed=2)
        report = load_backbone(module, written(tmp_path / "a.pth.tar", moco_v2(published)), "resnet50")
        assert report.matched == 53 * 5
        assert_backbone_equals(module, published)


class TestRefusals:
    """Each wrong file: one message that says what is wrong, and a network that is left as it was."""

    @pytest.fixture(autouse=True)
    def untouched(self, module):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        yield
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())

    def refuse(self, module: nn.Module, path: object, pattern: str, arch: str = "resnet18") -> None:
        with pytest.raises(InputError, match=pattern) as refusal:
            load_backbone(module, str(path), arch)
        assert "\n" not in str(refusal.value)

    def test_a_shallower_resnet_asked_for(self, tmp_path, module):
        path = written(tmp_path / "a.pth", network("resnet34", seed=1).state_dict())
        # Every tensor of a ResNet-18 is in a ResNet-34's file, so what is left over must fail.
        self.refuse(module, path, r"100 of 100 tensors matched, 0 missing.*unexpected \(layer1\.2.*like a resnet34")

    def test_another_kind_of_resnet(self, tmp_path, module):
        with torch.device("meta"):
            shapes = torchvision.models.resnet50(weights=None).state_dict()
        path = written(tmp_path / "a.pth", {name: torch.zeros(()).expand(t.shape) for name, t in shapes.items()})
        self.refuse(
            module,
            path,
            r"does not fit resnet18: \d+ of 100 .*\(file 64x64x1x1, network 64x64x3x3\).*resnet50",
        )

    def test_one_missing_tensor(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", without(published, "layer4.1.bn2.bias"))
        self.refuse(module, path, r"99 of 100 tensors matched, 1 missing or of another shape \(layer4\.1\.bn2\.bias\)")

    def test_a_quantised_tensor(self, tmp_path, module, published):
        weights = {**published, "conv1.weight": published["conv1.weight"].to(torch.int8)}
        self.refuse(module, written(tmp_path / "a.pth", weights), r"conv1\.weight \(file torch\.int8")

    def test_surplus_that_nothing_explains(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", {**published, "neck.weight": torch.zeros(1)})
        self.refuse(module, path, r"0 missing or of another shape, 1 unexpected \(neck\.weight\), 2 skipped")

    def test_every_key_misses(self, tmp_path, module):
        path = written(tmp_path / "a.pth", network("mobilenet_v2", seed=1).state_dict())
        self.refuse(module, path, r"0 of 100 tensors matched.*looks like a mobilenet_v2")

    def test_unknown_keys(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", prefixed("trunk.", published))
        self.refuse(module, path, r"no known format; its first keys are \['trunk\.conv1\.weight'.*MoCo v2, PixPro")

    def test_momentum_encoder_alone(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", {"state_dict": prefixed("module.encoder_k.", published)})
        self.refuse(module, path, "only encoder_k, the momentum copy")

    def test_arbitrary_class(self, tmp_path, module, published):
        path = written(tmp_path / "a.pth", {"model": published, "extra": Innocent()})
        self.refuse(module, path, r"could run code \(.*GLOBAL.*Innocent")

    def test_plain_pickle(self, tmp_path, module):
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"conv1.weight": [1.0]}))
        self.refuse(module, tmp_path / "a.pth", r"not a checkpoint written by torch.save .*, or is damaged")

    def test_truncated(self, tmp_path, module, published):
        path = Path(written(tmp_path / "a.pth", published))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refuse(module, path, "not a checkpoint written by torch.save, or is damaged")

    def test_not_a_checkpoint(self, tmp_path, module):
        (tmp_path / "a.pth").write_text("<html>not found</html>")
        self.refuse(module, tmp_path / "a.pth", r"not a checkpoint written by torch.save .*, or is damaged")

    def test_empty_file(self, tmp_path, module):
        (tmp_path / "a.pth").touch()
        self.refuse(module, tmp_path / "a.pth", r"is empty \(0 bytes\)")
        with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
            weights_identity("resnet18", str(tmp_path / "a.pth"))

    def test_directory(self, tmp_path, module):
        self.refuse(module, tmp_path, "is a directory")

    @pytest.mark.parametrize(
        ("content", "found"), [({}, r"keys \[\]"), ([1, 2], "list"), ({"epoch": 1}, r"keys \['epoch'\]")]
    )
    def test_no_tensors(self, tmp_path, module, content, found):
        self.refuse(module, written(tmp_path / "a.pth", content), f"holds no state dict.*{found}")

    def test_own_file_of_another_architecture(self, tmp_path, module, published):
        save_checkpoint(tmp_path / "a.pth", "resnet50", "backbone", published, {})
        self.refuse(module, tmp_path / "a.pth", "is a backbone of resnet50; the architecture asked for is resnet18")

    def test_own_file_of_a_later_version(self, tmp_path, module, published):
        content = {"format": "lookbeyond", "version": 2, "kind": "backbone", "arch": "resnet18"}
        path = written(tmp_path / "a.pth", {**content, "state_dict": published})
        self.refuse(module, path, "version 2 and kind 'backbone'; known are version 1")

    def test_missing_file_and_misspelt_name(self, tmp_path, module):
        self.refuse(module, tmp_path / "a.pth", "no file .*a.pth.*IMAGENET1K_V1")
        self.refuse(module, "imagenet1k_v1", "no file imagenet1k_v1.*IMAGENET1K_V1")
        self.refuse(module, "IMAGENET1K_V3", r"not torchvision's for resnet18.*ResNet18_Weights\.IMAGENET1K_V1")
        self.refuse(module, "ResNet50_Weights.IMAGENET1K_V1", "not torchvision's for resnet18")
        self.refuse(module, "s3://bucket/a.pth", "scheme that cannot be read; allowed are https, http and file")
        self.refuse(module, "random", "drawn, not loaded")
        self.refuse(module, "", "resnet18 needs 'random', a torchvision weights name")


class TestIdentity:
    def test_of_a_file_is_its_bytes(self, tmp_path, published):
        first = written(tmp_path / "a.pth", published)
        (tmp_path / "b.pth").write_bytes(Path(first).read_bytes())
        identity = weights_identity("resnet18", first)
        assert identity == "sha256:" + hashlib.sha256(Path(first).read_bytes()).hexdigest()
        assert weights_identity("resnet18", str(tmp_path / "b.pth")) == identity
        assert weights_identity("resnet18", (tmp_path / "a.pth").as_uri()) == identity
        with Path(first).open("ab") as file:
            file.write(b"more")
        assert weights_identity("resnet18", first) != identity

    def test_without_a_file(self):
        assert weights_identity("filters", None) == "none"
        assert weights_identity("resnet50", "random") == "random"
        with pytest.raises(InputError, match="filters has no weights"):
            weights_identity("filters", "random")
        with pytest.raises(InputError, match="resnet50 needs 'random'"):
            weights_identity("resnet50", None)

    @pytest.mark.parametrize(
        ("arch", "name", "identity"),
        [
            ("mobilenet_v2", "IMAGENET1K_V1", "MobileNet_V2_Weights.IMAGENET1K_V1"),
            ("mobilenet_v2", "MobileNet_V2_Weights.IMAGENET1K_V2", "MobileNet_V2_Weights.IMAGENET1K_V2"),
            ("vgg19", "IMAGENET1K_V1", "VGG19_Weights.IMAGENET1K_V1"),
            (
                "deeplabv3_resnet50",
                "COCO_WITH_VOC_LABELS_V1",
                "DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1",
            ),
        ],
    )
    def test_of_a_torchvision_name_needs_no_download(self, arch, name, identity):
        assert weights_identity(arch, name) == f"torchvision:{identity}"

    def test_default_is_resolved_and_said(self, caplog):
        with caplog.at_level(logging.WARNING):
            identity = weights_identity("resnet50", "DEFAULT")
        assert identity == f"torchvision:{torchvision.models.ResNet50_Weights.DEFAULT}"
        assert identity.endswith("IMAGENET1K_V2") and "DEFAULT of resnet50 is" in caplog.text


class TestDownload:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))

    @pytest.fixture
    def server(self, tmp_path):
        """Serves tmp_path/served on this machine and counts the requests."""
        requests: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self):
                if "/secret" in self.path and not self.headers.get("Authorization"):
                    self.send_error(401)
                elif self.path.startswith("/short"):
                    self.send_response(200)
                    self.send_header("Content-Length", "100")
                    self.end_headers()
                    self.wfile.write(b"short")
                else:
                    super().do_GET()

            def log_message(self, format, *args):  # noqa: A002
                requests.append(self.path)

        (tmp_path / "served").mkdir()
        handler = functools.partial(Handler, directory=str(tmp_path / "served"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}", requests
            server.shutdown()
            thread.join()

    def test_a_url_is_fetched_once(self, tmp_path, server, module, published):
        url, requests = server
        written(tmp_path / "served" / "a-20200101.pth", published)
        report = load_backbone(module, f"{url}/a-20200101.pth", "resnet18")
        assert_backbone_equals(module, published)
        assert weights_identity("resnet18", f"{url}/a-20200101.pth") == f"sha256:{report.sha256}"
        assert len(requests) == 1

    def test_two_urls_with_one_file_name_are_two_files(self, tmp_path, server):
        url, _ = server
        for folder in "ab":
            (tmp_path / "served" / folder).mkdir()
            written(tmp_path / "served" / folder / "x.pth", {"layer1.weight": torch.full((1,), ord(folder))})
        identities = {weights_identity("resnet18", f"{url}/{folder}/x.pth") for folder in "ab"}
        assert len(identities) == 2

    def test_what_is_not_there(self, tmp_path, server, module):
        url, _ = server
        with pytest.raises(InputError, match=r"could not be downloaded .*404.*give its path"):
            load_backbone(module, f"{url}/a.pth", "resnet18")
        assert not list((tmp_path / "cache").rglob("*.pth*"))

    def test_a_name_and_a_password_are_sent_and_never_said(self, tmp_path, server, module, published, caplog):
        url, _ = server
        (tmp_path / "served" / "secret").mkdir()
        written(tmp_path / "served" / "secret" / "a.pth", published)
        written(tmp_path / "served" / "b.pth", {"layer1.weight": torch.zeros(1)})
        address = url.replace("//", "//me:pass%2Fw@")
        with caplog.at_level(logging.INFO):
            load_backbone(module, f"{address}/secret/a.pth?token=abc", "resnet18")
        assert_backbone_equals(module, published)
        assert "***@127.0.0.1" in caplog.text and "token=***" in caplog.text
        texts = [caplog.text, *(path.name for path in (tmp_path / "cache").rglob("*"))]
        for wrong in (f"{url}/secret/no.pth?token=abc", f"{address}/secret/no.pth", f"{address}/b.pth"):
            with pytest.raises(InputError) as refused:
                load_backbone(module, wrong, "resnet18")
            texts.append(str(refused.value.below("labels.extractor")))
        for text in texts:
            assert "abc" not in text and "pass" not in text and "me:" not in text, text

    def test_half_a_file_is_none(self, tmp_path, server, module):
        url, _ = server
        with pytest.raises(InputError, match=r"could not be downloaded \(.*ended after 5 of 100 bytes"):
            load_backbone(module, f"{url}/short.pth", "resnet18")
        assert not list((tmp_path / "cache").rglob("*.pth*"))

    def test_a_network_that_is_not_reachable(self, module, monkeypatch):
        def unreachable(*args, **kwargs):
            raise urllib.error.URLError("Temporary failure in name resolution")

        monkeypatch.setattr(urllib.request, "urlopen", unreachable)
        with pytest.raises(InputError, match=r"resnet18-\w+\.pth could not be downloaded \(Temporary failure.*path"):
            load_backbone(module, "IMAGENET1K_V1", "resnet18")

    def test_a_torchvision_name_reads_torchvisions_cache(self, tmp_path, module, published):
        url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
        (tmp_path / "cache" / "checkpoints").mkdir(parents=True)
        written(tmp_path / "cache" / "checkpoints" / Path(url).name, published)
        load_backbone(module, "ResNet18_Weights.IMAGENET1K_V1", "resnet18")
        assert_backbone_equals(module, published)


def test_a_card_must_be_plain(tmp_path, published):
    with pytest.raises(InputError, match="card: only plain JSON"):
        save_checkpoint(tmp_path / "a.pth", "resnet18", "backbone", published, {"when": Innocent()})
    with pytest.raises(InputError, match="kind: 'network'"):
        save_checkpoint(tmp_path / "a.pth", "resnet18", "network", published, {})  # type: ignore[arg-type]


def safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    """The format by hand."""
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
    header: dict[str, object] = {"__metadata__": {"by": "somebody"}}
    body = b""
    for name, tensor in tensors.items():
        data = tensor.numpy().tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


WRAPPINGS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled and distributed": lambda state: prefixed("module._orig_mod.", state),
    "lightning": lambda state: {"state_dict": prefixed("model.", state) | {"loss.weight": torch.ones(3)}, "epoch": 3},
    "lightning, compiled": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "dino": lambda state: {
        "teacher": prefixed("backbone.", without(state, "fc.")),
        "student": prefixed("module.backbone.", {name: torch.zeros_like(one) for name, one in state.items()}),
    },
    "mmsegmentation": lambda state: {
        "meta": {"time": "x"},
        "state_dict": prefixed("backbone.", without(state, "fc.")) | {"decode_head.conv_seg.weight": torch.ones(3)},
    },
    "beside an epoch": lambda state: {**state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 1},
    "net": lambda state: {"net": state},
    "numpy scalars": lambda state: {"state_dict": state, "meta": {"epoch": np.float64(3), "seen": np.arange(3)}},
    "sparse": lambda state: {name: one.to_sparse() if one.dim() == 4 else one for name, one in state.items()},
    "parameters": lambda state: {
        name: nn.Parameter(one) if one.is_floating_point() else one for name, one in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_what_wraps_a_network_is_taken_off(
    tmp_path: Path, module: nn.Module, published: dict[str, torch.Tensor], wrapping: str
) -> None:
    path = written(tmp_path / "w.pth", WRAPPINGS[wrapping](published))
    report = load_backbone(module, path, "resnet18")
    assert report.matched == RESNET18_TENSORS
    assert_backbone_equals(module, published)


def test_safetensors_are_read_and_damaged_ones_refused(
    tmp_path: Path, module: nn.Module, published: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "w.safetensors"
    data = safetensors(published)
    path.write_bytes(data)
    assert load_backbone(module, str(path), "resnet18").matched == RESNET18_TENSORS
    assert_backbone_equals(module, published)
    for damaged in (data[:-1], data[:100], b"\xff" * 64, b"<html>404</html>", data.replace(b"F32", b"F8X", 1)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"weights: .*w\.safetensors is not a .safetensors file, or is damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one.to("meta"), "a tensor that is meta"),
        (lambda one: one.to(torch.complex64), "a tensor that is complex"),
        (lambda one: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8), "a tensor that is quantized"),
    ],
    ids=["meta", "complex", "quantized"],
)
def test_tensors_without_real_values_are_refused(
    tmp_path: Path, published: dict[str, torch.Tensor], change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    changed = {name: change(one) if one.dim() == 4 else one for name, one in published.items()}
    with pytest.raises(InputError, match=f"weights: .*{said}.*: conv1.weight; save the network with real, dense"):
        read_checkpoint(Path(written(tmp_path / "w.pth", changed)))
