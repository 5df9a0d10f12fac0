"""Exported networks are used without a storage, and predict what they predicted before."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lookbeyond
from workloads.configs.networks import SegmentorConfig
from workloads.configs.training import EvaluationConfig
from workloads.errors import InputError
from workloads.networks.model_files import ModelDescription, NamedClass, write_model
from workloads.networks.random_weights import draw_weights
from workloads.networks.segmentors import Segmentor, build_segmentor
from workloads.scoring.evaluation import predict

CONFIG = SegmentorConfig(backbone="resnet18", head_channels=8, atrous_rates=(1, 2, 3), output_stride=16)
CLASSES = (NamedClass(name="ground", colour=(1, 2, 3)), NamedClass(name="sky", colour=(4, 5, 6)))
EVALUATION = EvaluationConfig(image_size=(48, 64), flip=True)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Segmentor]:
    network = build_segmentor(CONFIG, len(CLASSES), seed=3).eval()
    # So that both classes win somewhere.
    draw_weights(network, seed=0)
    write_model(tmp_path, network, ModelDescription(network=CONFIG, classes=CLASSES, evaluation=EVALUATION))
    return tmp_path, network


def test_files_pictures_and_arrays_give_the_classes_of_the_network(written: tuple[Path, Segmentor]) -> None:
    folder, network = written
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    expected = predict(network, [pixels], EVALUATION)[0]
    assert len(np.unique(expected)) == 2
    for place in (folder, folder / "model.safetensors", str(folder / "model.json")):
        model = lookbeyond.load_model(place)
        for image in (pixels, Image.fromarray(pixels), folder / "picture.png", str(folder / "picture.png")):
            assert np.array_equal(model.predict(image), expected)
    assert model.classes == ("ground", "sky") and model.palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.allclose(model.probabilities(pixels).sum(axis=0), 1, atol=1e-5)
    grey = model.predict(np.full((40, 56), 7, np.uint8))
    assert np.array_equal(grey, model.predict(np.full((40, 56, 3), 7, np.uint8)))


def test_what_does_not_belong_together_is_refused(written: tuple[Path, Segmentor]) -> None:
    folder, _ = written
    description = json.loads((folder / "model.json").read_text())
    for change, message in (
        ({"sha256": "0" * 64}, "is not the file that model.json was written with"),
        ({"network": description["network"] | {"head_channels": 16}}, "does not fit its description: classifier"),
        ({"classes": []}, "describes no network: classes"),
        ({"version": 2}, "describes no network: version"),
    ):
        (folder / "model.json").write_text(json.dumps(description | change))
        with pytest.raises(InputError, match=message):
            lookbeyond.load_model(folder)
    (folder / "model.json").unlink()
    with pytest.raises(InputError, match=r"model\.json is missing; give the folder"):
        lookbeyond.load_model(folder / "model.safetensors")


def test_what_is_no_image_is_refused(written: tuple[Path, Segmentor]) -> None:
    model = lookbeyond.load_model(written[0])
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), torch.zeros(3).numpy()):
        with pytest.raises(InputError, match=r"is no image; uint8 of shape \(H, W, 3\)"):
            model.predict(image)
    with pytest.raises(InputError, match="no file"):
        model.predict("nowhere.png")
