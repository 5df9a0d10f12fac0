"""Experiment files that extend each other, have sizes and are overridden: which layer wins, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.experiment import parse_entry
from orchestrator.spec.grid import expand
from orchestrator.spec.loading import load_experiment
from workloads.errors import InputError


def write(folder: Path, **files: str) -> Path:
    """Write NAME.yaml for every name, and return the last."""
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        expand(load_experiment(path, overrides))
    (line,) = str(caught.value).splitlines()
    return line


def test_a_file_is_merged_into_what_it_extends_mapping_by_mapping(tmp_path: Path) -> None:
    base = "title: base\ndataset: {name: scenes, seed: 1}\nlabels: {images: 5, superpixels: {n_segments: 50}}\n"
    path = write(tmp_path, base=base, over="extends: base.yaml\nlabels: {superpixels: {compactness: 5}, outliers: 0}\n")
    assert load_experiment(path, []) == {
        "name": "over",
        "title": "base",
        "dataset": {"name": "scenes", "seed": 1},
        "labels": {"images": 5, "superpixels": {"n_segments": 50, "compactness": 5}, "outliers": 0},
    }


def test_extends_is_relative_to_the_file_and_may_go_on(tmp_path: Path) -> None:
    write(tmp_path, a="name: first\ndataset: {name: scenes}\nseed: 1\nlabels: {images: 1}\n")
    write(tmp_path / "inner", b="extends: ../a.yaml\nseed: 2\n")
    path = write(tmp_path / "inner" / "deep", c="extends: ../b.yaml\nlabels: {outliers: 0.1}\n")
    document = load_experiment(path, [])
    assert document["seed"] == 2
    assert document["labels"] == {"images": 1, "outliers": 0.1}
    # Two files of one name would write to one results file.
    assert document["name"] == "c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nowhere.yaml", "extends: experiment file .*nowhere.yaml does not exist; .*path.yaml"),
        ("extends: [path.yaml]", r"extends: \['path.yaml'\] is not allowed; give the path of one experiment file"),
        ("extends: path.yaml", "extends: path.yaml -> path.yaml is a circle"),
        ("extends: other.yaml", "extends: path.yaml -> other.yaml -> path.yaml is a circle"),
    ],
    ids=["missing", "list", "itself", "each other"],
)
def test_a_wrong_extends_is_one_message(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, other="extends: path.yaml\n", path=text)
    with pytest.raises(InputError, match=f"^{message}"):
        load_experiment(path, [])


SIZES = """
dataset: {name: scenes, image_size: [64, 96], seed: 3}
labels: {images: 100, outliers: 0.1}
size: paper
sizes:
  paper: {}
  small: {labels.images: 10, labels: {superpixels: null}, dataset: {num_val: 4}}
"""


@pytest.mark.parametrize("place", ["file", "override"])
def test_the_size_is_merged_into_the_base(tmp_path: Path, place: str) -> None:
    path = write(tmp_path, sized=SIZES if place == "override" else SIZES.replace("size: paper", "size: small"))
    large, small = (load_experiment(path, [f"size={size}"]) for size in ("paper", "small"))
    assert large["labels"] == {"images": 100, "outliers": 0.1}
    assert small["labels"] == {"images": 10, "outliers": 0.1, "superpixels": None}
    assert small["dataset"] == {"name": "scenes", "image_size": [64, 96], "seed": 3, "num_val": 4}
    assert load_experiment(path, []) == (large if place == "override" else small)
    assert small["size"] == "small"
    assert "sizes" not in small


def test_sizes_of_two_files_are_joined_key_by_key(tmp_path: Path) -> None:
    over = "extends: base.yaml\nsizes: {small: {labels: {images: 3}}, tiny: {labels.images: 1}}\n"
    path = write(tmp_path, base=SIZES, over=over)
    assert load_experiment(path, ["size=small"])["labels"] == {"images": 3, "outliers": 0.1, "superpixels": None}
    assert load_experiment(path, ["size=tiny"])["labels"] == {"images": 1, "outliers": 0.1}


def test_overrides_win_over_the_size(tmp_path: Path) -> None:
    path = write(tmp_path, sized=SIZES)
    for overrides in (["labels.images=7", "size=small"], ["size=small", "labels.images=7"]):
        assert load_experiment(path, overrides)["labels"]["images"] == 7
    assert load_experiment(path, ["sizes.small.labels.images=8", "size=small"])["labels"]["images"] == 8


def test_a_wrong_size_names_the_allowed_ones(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, sized=SIZES), "size=smal") == "size: 'smal' is not allowed; allowed: paper, small"
    none = write(tmp_path, none="dataset: {name: scenes}\n")
    assert refusal(none, "size=small") == "size: 'small' is not allowed; the experiment has no sizes"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("[small]", "sizes: .* is not allowed; give a mapping of names to mappings of keys"),
        ("{small: 3}", "sizes: .* is not allowed; give a mapping of names to mappings of keys"),
        ("{small: {name: x}}", "sizes.small.name is not allowed; a size cannot set name, extends"),
        ("{small: {rows: []}}", "sizes.small.rows is not allowed"),
        ("{small: {labels.image: 3}}", r"unknown key labels.image; did you mean labels.images\?"),
    ],
)
def test_wrong_sizes_are_one_message(tmp_path: Path, sizes: str, message: str) -> None:
    path = write(tmp_path, wrong=f"dataset: {{name: scenes}}\nsize: small\nsizes: {sizes}\n")
    with pytest.raises(InputError, match=f"^{message}"):
        expand(load_experiment(path, []))


@pytest.mark.parametrize("order", [1, -1])
def test_another_data_set_keeps_only_the_options_that_it_has(tmp_path: Path, order: int) -> None:
    text = "dataset: {name: scenes, root: old, image_size: [64, 96], num_val: 4, pool: val, order_seed: 5}\n"
    path = write(tmp_path, scenes=text)
    entry = parse_entry(load_experiment(path, ["dataset.name=camvid", "dataset.root=new"][::order]))
    assert (entry.dataset.config.name, entry.dataset.config.pool) == ("camvid", "val")
    assert (entry.dataset.root, entry.dataset.order_seed) == ("new", 5)
    # The former root is no place of the new data set; options of the new one are still checked.
    assert parse_entry(load_experiment(path, ["dataset.name=camvid"])).dataset.root is None
    assert refusal(path, "dataset.name=camvid", "dataset.num_val=4").startswith("dataset.num_val: 4 is not allowed")
    assert refusal(path, "dataset.name=camvi").startswith("dataset.name: 'camvi' is not known; allowed: ")


def test_the_same_data_set_again_keeps_everything(tmp_path: Path) -> None:
    path = write(tmp_path, scenes="dataset: {name: scenes, image_size: [64, 96]}\n")
    assert load_experiment(path, ["dataset.name=scenes"])["dataset"] == {"name": "scenes", "image_size": [64, 96]}


def test_a_recipe_of_the_data_set_follows_its_name(tmp_path: Path) -> None:
    text = "dataset: {name: cityscapes}\npretrain: {recipe: dataset, steps: 5}\nfinetune: {recipe: dataset}\n"
    path = write(tmp_path, own=text)
    crops = {"cityscapes": (713, 713), "nyuv2": (473, 473), "camvid": (353, 353)}
    for name, crop in crops.items():
        entry = parse_entry(load_experiment(path, [f"dataset.name={name}"]))
        assert entry.finetune is not None and entry.pretrain is not None
        assert entry.finetune.config.augmentation.crop == crop
        assert (entry.pretrain.config.steps, entry.pretrain.config.epochs) == (5, None)
    other = parse_entry(load_experiment(path, ["finetune.recipe=nyuv2"])).finetune
    assert other is not None and other.config.augmentation.crop == (473, 473)
    assert refusal(path, "dataset.name=scenes") == (
        "pretrain.recipe: 'dataset' is not allowed; data set scenes has no recipe of its own; allowed: "
        "cityscapes, ade20k, nyuv2, camvid, small"
    )


NAMED = """
dataset: {name: scenes}
weights: {moco: null, imagenet: IMAGENET1K_V1}
labels: {extractor: {arch: resnet50, weights: $moco}}
finetune: {recipe: small, init: imagenet, weights: $imagenet}
"""


def test_one_option_gives_weights_to_all_that_name_them(tmp_path: Path) -> None:
    path = write(tmp_path, named=NAMED)
    entry = parse_entry(load_experiment(path, ["weights.moco=moco.pth"]))
    assert entry.labels.extractor.weights == "moco.pth"
    assert entry.finetune is not None and entry.finetune.weights == "IMAGENET1K_V1"
    # Not at hand is no mistake of the file: only what needs the weights cannot be run.
    assert parse_entry(load_experiment(path, [])).labels.extractor.weights == "$moco"


def test_a_name_that_weights_do_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, named=NAMED)
    assert refusal(path, "weights.mocco=x") == "unknown key weights.mocco; did you mean weights.moco?"
    near = "labels.extractor.weights: '$mocco' is not allowed; did you mean $moco?"
    assert refusal(path, "labels.extractor.weights=$mocco") == near
    far = "finetune.weights: '$zzz' is not allowed; weights names moco, imagenet"
    assert refusal(path, "finetune.weights=$zzz") == far
    assert load_experiment(path, ["weights.moco=3"])["weights"]["moco"] == "3"


def test_a_file_says_itself_what_it_extends(tmp_path: Path) -> None:
    path = write(tmp_path, base="dataset: {name: scenes}\n")
    assert "a file says itself what it extends" in refusal(path, "extends=other.yaml")


@pytest.mark.parametrize("key", ["titel", "layot", "row", "size.small"])
def test_an_unknown_key_beside_the_table_keys_is_refused(tmp_path: Path, key: str) -> None:
    document: dict[str, Any] = load_experiment(write(tmp_path, base="dataset: {name: scenes}\n"), [])
    known = {"titel": "title", "layot": "layout", "row": "rows", "size.small": "sizes"}
    with pytest.raises(InputError, match=rf"^unknown key {key}; did you mean {known[key]}\?$"):
        expand(document | {key: "x"})


@pytest.mark.parametrize(
    "word", ["my #1 photos", "a: b", "[old]", "2024", "{x}", "*p", "@home", "%p", "no", "'q", "1.0", "null", "- x", "~"]
)
def test_the_name_of_a_folder_is_taken_as_it_stands(tmp_path: Path, word: str) -> None:
    path = write(tmp_path, own="dataset: {name: folder}")
    assert load_experiment(path, [f"dataset.root={word}"])["dataset"]["root"] == word
    quoted = "'" + word.replace("'", "''") + "'"
    assert load_experiment(path, [f"dataset.root={quoted}"])["dataset"]["root"] == word
    assert load_experiment(path, ["dataset.root="])["dataset"]["root"] is None


def test_an_override_gives_a_key_once(tmp_path: Path) -> None:
    path = write(tmp_path, own="dataset: {name: folder}")
    with pytest.raises(InputError, match="key 'arch' is given twice"):
        load_experiment(path, ["labels.extractor={arch: filters, arch: resnet18}"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my experiment", "my-experiment"),
        ("été", "ete"),
        ("_x", "x"),
        ("exp(1)", "exp-1"),
        ("v1.2", "v1.2"),
        ("日本", "experiment"),
    ],
)
def test_an_experiment_without_a_name_has_that_of_its_file(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / f"{file}.yaml").write_text("dataset: {name: scenes}\n")
    assert load_experiment(tmp_path / f"{file}.yaml", [])["name"] == name
