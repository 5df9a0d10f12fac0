"""Networks in other formats give the classes of the network that they were written from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.errors import InputError
from workloads.networks.model_files import DESCRIPTION, WEIGHTS, ModelDescription, NamedClass, write_model
from workloads.networks.random_weights import draw_weights
from workloads.networks.segmentors import build_segmentor
from workloads.scoring.evaluation import predict

SIZE = (65, 96)
CLASSES = tuple(NamedClass(name=f"class {number}", colour=(number, 0, 0)) for number in range(6))
CONFIGS = {
    "deeplabv3": SegmentorConfig(backbone="resnet18", head_channels=16, output_stride=16),
    "pspnet": SegmentorConfig(head="pspnet", backbone="timm/test_efficientnet", head_channels=16, output_stride=16),
}


def description(config: SegmentorConfig, form: str) -> ModelDescription:
    evaluation = EvaluationConfig(image_size=SIZE)
    made = {"network": config, "classes": CLASSES, "evaluation": evaluation, "written_as": form, "input_size": SIZE}
    return ModelDescription.model_validate(made)


@pytest.mark.parametrize(("form", "head"), [("onnx", "pspnet"), ("torch-export", "deeplabv3")])
def test_twenty_images_get_the_classes_of_the_network(form: str, head: str, tmp_path: Path) -> None:
    network = build_segmentor(CONFIGS[head], len(CLASSES), seed=1).eval()
    draw_weights(network, seed=0)
    write_model(tmp_path, network, description(CONFIGS[head], form))
    random = np.random.default_rng(2)
    # Coarse blocks, so that several classes win somewhere.
    images = [np.kron(random.integers(0, 256, (5, 6, 3)), np.ones((13, 16, 1))).astype(np.uint8) for _ in range(20)]
    expected = predict(network, images, EvaluationConfig(image_size=SIZE))
    assert len(np.unique(expected)) > 1
    # As the description says, and nothing of ours.
    said = json.loads((tmp_path / DESCRIPTION).read_text())
    inputs = (np.stack(images) / 255 - said["mean"]) / said["std"]
    inputs = inputs.transpose(0, 3, 1, 2).astype(np.float32)
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
        session = onnxruntime.InferenceSession(tmp_path / WEIGHTS[form], providers=["CPUExecutionProvider"])
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"])[5] == "class 5"
        scores = session.run(["scores"], {"images": inputs})[0]
    else:
        program = torch.export.load(tmp_path / WEIGHTS[form])
        scores = program.module()(torch.from_numpy(inputs)).detach().numpy()
    assert (scores.argmax(axis=1) != expected).mean() < 1e-3


def test_torchvisions_network_takes_the_weights_strictly(tmp_path: Path) -> None:
    config = SegmentorConfig()
    network = build_segmentor(config, len(CLASSES)).eval()
    write_model(tmp_path, network, description(config, "torchvision"))
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=len(CLASSES), aux_loss=True
    ).eval()
    theirs.load_state_dict(torch.load(tmp_path / WEIGHTS["torchvision"], weights_only=True))
    images = torch.rand(1, 3, 33, 33)
    with torch.inference_mode():
        expected = network.classifier(network.backbone(images).last)
        found = theirs.classifier(theirs.backbone(images)["out"])
    torch.testing.assert_close(found, expected)
    other = CONFIGS["deeplabv3"]
    with pytest.raises(InputError, match="torchvision has no deeplabv3 on resnet18 with 16 channels, output stride 16"):
        write_model(tmp_path, build_segmentor(other, 6), description(other, "torchvision"))
