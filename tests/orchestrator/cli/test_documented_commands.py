"""Every command of the README and of `lookbeyond --help` that can run without a network or a cluster does what it says.

They run one after the other in one folder, as a reader would type them, on a few small pictures and without Ray. What
they read in the documents' words is there: a folder `pictures`, the files of `experiments/`, a demo that is as the real
one but for its sizes. A command that is not known here fails the test.
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.command_line import Commands, write_camvid

from orchestrator.cli import commands
from orchestrator.cli.parser import _EXAMPLES
from orchestrator.spec.grid import expand
from orchestrator.spec.loading import load_experiment

REPOSITORY = Path(__file__).resolve().parents[3]
README = (REPOSITORY / "README.md").read_text()
# What stands for something of the reader's.
STANDS_FOR = {"FILE": "mine.yaml", "STORAGE": "storage", "FOLDER": "pictures"}
# A cluster is needed, or it takes seconds and is tested by itself.
NOT_HERE = {"submit", "calibrate"}
# They train for minutes or hours, one on data that is not here; `init`, `run` and `predict` have tests of their own.
TOO_LONG = ("OWN.yaml", "dataset.root=CamVid")
SIZES = {"image_size": [64, 96], "crop": [49, 81], "crop_mode": "fixed"}


def documented(text: str) -> list[list[str]]:
    """The commands of indented lines, without what is said of them after two spaces; shell variables are filled in."""
    text = re.sub(r"\\\n\s+", "", text)
    variables: dict[str, str] = {}
    found = []
    for line in re.findall(r"^ {2,}(\S.*)$", text, re.MULTILINE):
        if assigned := re.fullmatch(r"([A-Z]+)='(.*)'", line):
            variables[assigned[1]] = assigned[2]
        if line.startswith("lookbeyond "):
            command = re.split(r"\s{2,}", re.sub(r"^(lookbeyond \w+) {1,3}(?=\S)", r"\1 ", line))[0]
            for name, value in variables.items():
                command = command.replace(f"${name}", value)
            words = [STANDS_FOR.get(word, word) for word in shlex.split(command)[1:] if word != "[PREFIX]"]
            found.append(words)
    return found


def small_demo(folder: Path) -> Path:
    """The demo, with its rows, at a size of seconds."""
    demo = yaml.safe_load(commands._DEMO.read_text())
    demo["dataset"] |= {"num_train": 8, "num_val": 2, "image_size": [64, 96]}
    demo["labels"]["sampling"]["pixels_per_image"] = 20
    del demo["pretrain"]["epochs"]
    demo["pretrain"] |= {"steps": 2, "batch_size": 2, "views": SIZES}
    demo["finetune"] |= {"steps": 2, "batch_size": 2, "fraction": 0.5, "augmentation": SIZES}
    demo["finetune"]["evaluation"] = {"image_size": [64, 96]}
    path = folder / "demo-small.yaml"
    path.write_text(yaml.safe_dump(demo))
    return path


@pytest.fixture
def reader(command: Commands, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands in a folder that has what the documents speak of."""
    shutil.copytree(REPOSITORY / "experiments", command.folder / "experiments")
    shutil.copy(REPOSITORY / "cluster.yaml", command.folder)
    for name in ("mine.yaml", "yours.yaml"):
        shutil.copy(command.folder / "small.yaml", command.folder / name)
    (command.folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(random.integers(0, 256, (64, 96, 3), np.uint8)).save(
            command.folder / "pictures" / f"{number}.png"
        )
    monkeypatch.setattr(commands, "_DEMO", small_demo(command.folder))
    monkeypatch.delenv("LOOKBEYOND_STORAGE", raising=False)
    return command


def test_the_commands_are_found() -> None:
    """Of a page like the README, with what is said beside them, continued lines and variables."""
    lines = ("N='{arch: filters}'", "lookbeyond run   FILE a=1   does it", "lookbeyond demo        runs")
    page = "text\n\n" + "".join(f"    {line}\n" for line in (*lines, 'lookbeyond plan x \\\n      b="$N"'))
    assert documented(page) == [["run", "mine.yaml", "a=1"], ["demo"], ["plan", "x", "b={arch: filters}"]]
    assert len(documented(README)) > 10 and len(documented(_EXAMPLES)) > 10


def test_every_documented_command_works(reader: Commands) -> None:
    failed = []
    done: set[tuple[str, ...]] = set()
    # The demo and the small experiment first: others use what they leave.
    for words in (["demo"], ["run", "mine.yaml"], *documented(_EXAMPLES), *documented(README)):
        if words[0] in NOT_HERE or set(TOO_LONG) & set(words) or tuple(words) in done:
            continue
        done.add(tuple(words))
        answer = reader(*words)
        if answer.code:
            failed.append(f"lookbeyond {' '.join(words)}\n{answer.err}")
    assert not failed, "\n".join(failed)
    for made in ("experiment.yaml", "masks/legend.json", "labels-out/legend.json", "backbone.pth"):
        assert (reader.folder / made).exists(), made


def test_the_experiments_of_the_readme_are_experiments(reader: Commands) -> None:
    write_camvid(reader.folder / "CamVid")
    found = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found
    for number, text in enumerate(found):
        (reader.folder / f"{number}.yaml").write_text(text)
        assert expand(load_experiment(reader.folder / f"{number}.yaml", []))
        assert reader("plan", f"{number}.yaml").code == 0
