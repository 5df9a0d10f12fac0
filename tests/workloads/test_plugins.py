"""Plug-ins of other packages: found by name without being imported, and one that is broken hurts nobody else."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from workloads import plugins
from workloads.configs.extraction import ExtractorConfig
from workloads.configs.networks import SegmentorConfig, imagenet_weights
from workloads.errors import InputError
from workloads.networks.segmentors import build_segmentor, loads_into, publishers_backbone

CODE = """
import torch
from torch import nn
from workloads.networks.segmentors import Stages

class Tiny(nn.Module):
    channels = (4, 6)
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=8, padding=1)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
    def forward(self, x):
        middle = self.first(x)
        return Stages(middle, self.second(middle))
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Backbones `tiny`, and `broken`, whose module cannot be imported."""
    (tmp_path / "their_plugins.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        EntryPoint("tiny", "their_plugins:Tiny", plugins.SEGMENTORS_GROUP),
        EntryPoint("broken", "their_missing_module:Net", plugins.SEGMENTORS_GROUP),
        EntryPoint("broken", "their_missing_module:net", plugins.EXTRACTORS_GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [one for one in found if one.group == group])
    for cached in (plugins._found, plugins.plugin):
        cached.cache_clear()
    yield
    for cached in (plugins._found, plugins.plugin):
        cached.cache_clear()
    sys.modules.pop("their_plugins", None)


def test_a_backbone_of_a_package_is_part_of_a_network(added: None) -> None:
    import torch

    config = SegmentorConfig(backbone="tiny", head="fcn", head_channels=8, auxiliary_head=False)
    assert "their_plugins" not in sys.modules, "a name is known without an import"
    network = build_segmentor(config, num_classes=3).eval()
    assert network(torch.zeros(1, 3, 32, 40)).main.shape == (1, 3, 32, 40)
    taken = publishers_backbone(network)
    assert set(taken.state) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert taken.untrained == []
    assert loads_into("tiny") == "their_plugins.Tiny()"
    with pytest.raises(InputError, match="init: no ImageNet weights are known of tiny"):
        imagenet_weights("tiny")


def test_a_broken_one_is_left_out_and_named_where_it_is_used(added: None, caplog: pytest.LogCaptureFixture) -> None:
    assert list(plugins.loaded(plugins.SEGMENTORS_GROUP)) == ["tiny"]
    said = r"plug-in 'broken' of package their_missing_module \(.*Net\) cannot be loaded: ModuleNotFound"
    with pytest.raises(InputError, match=said):
        build_segmentor(SegmentorConfig(backbone="broken"), num_classes=3)
    assert "it is left out" in caplog.text


def test_names_of_plug_ins_are_among_what_is_allowed(added: None) -> None:
    assert ExtractorConfig(arch="broken", output_stride=8).arch == "broken"
    with pytest.raises(ValueError, match="mobilenet_v2, broken, tiny, or timm/NAME"):
        SegmentorConfig(backbone="tinny")
