"""The experiment file: what is wrong is named with its key, its value and what is allowed, all at once."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.experiment import ExperimentEntry, parse_entry
from orchestrator.spec.loading import load_experiment
from orchestrator.spec.merging import set_key
from workloads.configs.clustering import DbscanConfig, KMeansConfig
from workloads.datasets import ScenesConfig
from workloads.errors import InputError


def entry(**keys: Any) -> ExperimentEntry:
    return parse_entry({"name": "test", "dataset": {"name": "scenes"}} | keys)


def refusal(**keys: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        entry(**keys)
    return str(caught.value).splitlines()


def write(folder: Path, text: str, name: str = "camvid-k.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_minimal_experiment_has_defaults() -> None:
    made = entry()
    assert made.dataset.config == ScenesConfig()
    assert made.labels.extractor.config.arch == "filters"
    assert isinstance(made.labels.clustering, KMeansConfig)
    assert made.labels.clustering.k_per_class == 1.5
    assert made.labels.superpixels is not None
    assert made.labels.superpixels.n_segments == 500
    assert made.labels.sampling.pixels_per_image == 200
    assert made.labels.outliers == 0.05


def test_paths_and_options_go_where_they_belong() -> None:
    made = entry(
        dataset={"name": "camvid", "root": "data/camvid", "order_seed": 3, "pool": "train"},
        labels={"extractor": {"arch": "mobilenet_v2", "weights": "w.pth", "output_stride": 8}},
    )
    assert (made.dataset.root, made.dataset.order_seed) == ("data/camvid", 3)
    assert "root" not in made.dataset.config.model_dump()
    assert made.labels.extractor.weights == "w.pth"
    assert made.labels.extractor.config.output_stride == 8
    assert "weights" not in made.labels.extractor.config.model_dump()


@pytest.mark.parametrize(
    ("keys", "wrong", "near"),
    [
        ({"labels": {"image": 5}}, "labels.image", "labels.images"),
        ({"sed": 5}, "sed", "seed"),
        ({"dataset": {"name": "scenes", "image_sise": [64, 64]}}, "dataset.image_sise", "dataset.image_size"),
        (
            {"labels": {"clustering": {"method": "kmeans", "k_per_clas": 1}}},
            "labels.clustering.k_per_clas",
            "labels.clustering.k_per_class",
        ),
        (
            {"labels": {"extractor": {"output_strides": 8}}},
            "labels.extractor.output_strides",
            "labels.extractor.output_stride",
        ),
        (
            {"labels": {"superpixels": {"n_segment": 100}}},
            "labels.superpixels.n_segment",
            "labels.superpixels.n_segments",
        ),
        ({"shard_images": 8}, "shard_images", "compute.shard_images"),
        ({"compute": {"wokers": 2}}, "compute.wokers", "compute.workers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_key_names_the_nearest_known_one(keys: dict[str, Any], wrong: str, near: str) -> None:
    assert refusal(**keys) == [f"unknown key {wrong}; did you mean {near}?"]


def test_an_unknown_key_like_no_other_is_just_unknown() -> None:
    assert refusal(zzzzzz=1) == ["unknown key zzzzzz"]


@pytest.mark.parametrize(
    ("keys", "key", "option"),
    [
        ({"labels": {"clustering": {"method": "kmeans", "eps": 0.5}}}, "labels.clustering.eps: 0.5", "kmeans"),
        ({"labels": {"clustering": {"method": "dbscan", "k": 5}}}, "labels.clustering.k: 5", "dbscan"),
        ({"dataset": {"name": "camvid", "num_train": 5}}, "dataset.num_train: 5", "camvid"),
    ],
    ids=["kmeans", "dbscan", "camvid"],
)
def test_an_option_of_another_method_is_not_called_unknown(keys: dict[str, Any], key: str, option: str) -> None:
    assert refusal(**keys) == [f"{key} is not allowed; {option} has no such option"]


@pytest.mark.parametrize(
    ("keys", "start", "allowed"),
    [
        ({"labels": {"images": "many"}}, "labels.images: 'many' is not allowed", "integer"),
        ({"labels": {"images": 0}}, "labels.images: 0 is not allowed", "greater than or equal to 1"),
        ({"labels": {"images": 2.5}}, "labels.images: 2.5 is not allowed", "integer"),
        ({"labels": {"outliers": 1}}, "labels.outliers: 1 is not allowed", "less than 1"),
        ({"labels": {"outliers": float("nan")}}, "labels.outliers: nan is not allowed", "finite"),
        ({"labels": {"source": "pixels"}}, "labels.source: 'pixels' is not allowed", "'superpixel' or 'pixel'"),
        ({"labels": {"extractor": {"arch": "resnet"}}}, "labels.extractor.arch: 'resnet' is not allowed", "resnet18"),
        ({"labels": {"superpixels": 500}}, "labels.superpixels: 500 is not allowed", "n_segments"),
        ({"labels": None}, "labels: None is not allowed", "images"),
        ({"compute": {"device": "tpu"}}, "compute.device: 'tpu' is not allowed", "'cpu', 'cuda' or 'mps'"),
        ({"name": "../escape"}, "name: '../escape' is not allowed", "pattern"),
        ({"seed": -1}, "seed: -1 is not allowed", "greater than or equal to 0"),
        ({"dataset": "camvid"}, "dataset: 'camvid' is not allowed", "name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_named_with_what_is_allowed(keys: dict[str, Any], start: str, allowed: str) -> None:
    (line,) = refusal(**keys)
    assert line.startswith(start)
    assert allowed in line.removeprefix(start)


def test_a_value_of_two_types_has_no_type_in_its_key() -> None:
    lines = refusal(labels={"clustering": {"method": "dbscan", "eps": "knea"}})
    assert all(line.startswith("labels.clustering.eps: 'knea' is not allowed; ") for line in lines)
    assert any("'knee' or 'target_k'" in line for line in lines)


@pytest.mark.parametrize("dataset", [{"name": "cityscape"}, {}], ids=["unknown", "missing"])
def test_a_wrong_data_set_lists_those_there_are(dataset: dict[str, Any]) -> None:
    (line,) = refusal(dataset=dataset)
    assert line.startswith("dataset.name: ")
    for name in ("camvid", "cityscapes", "nyuv2", "ade20k", "folder", "scenes"):
        assert name in line


def test_a_wrong_method_lists_those_there_are() -> None:
    (line,) = refusal(labels={"clustering": {"method": "kmean"}})
    assert line == "labels.clustering.method: 'kmean' is not known; allowed: 'kmeans', 'dbscan'"


def test_several_errors_come_at_once() -> None:
    lines = refusal(sed=1, labels={"images": 0, "outliers": 2, "sampling": {"pixel_per_image": 3}})
    assert len(lines) == 4
    assert {line.split(";")[0] for line in lines} == {
        "unknown key sed",
        "labels.images: 0 is not allowed",
        "labels.outliers: 2 is not allowed",
        "unknown key labels.sampling.pixel_per_image",
    }


def test_a_missing_data_set_is_missing() -> None:
    with pytest.raises(InputError, match=r"^dataset is missing$"):
        parse_entry({"name": "test"})


def test_clusters_are_said_in_one_way() -> None:
    clustering = entry(labels={"clustering": {"k": 12}}).labels.clustering
    assert isinstance(clustering, KMeansConfig)
    assert (clustering.k, clustering.k_per_class) == (12, None)
    (line,) = refusal(labels={"clustering": {"k": 12, "k_per_class": 2.0}})
    assert "k 12 and k_per_class 2.0 are both given; one is allowed" in line
    assert isinstance(entry(labels={"clustering": {"method": "dbscan"}}).labels.clustering, DbscanConfig)


def test_positives_are_those_of_the_labels() -> None:
    contrast = {"recipe": "small", "contrast": {"positives": "superpixel"}}
    assert refusal(pretrain=contrast) == [
        "pretrain.contrast.positives: 'superpixel' differs from labels.source 'auxiliary'; "
        "it follows labels.source, so leave it out"
    ]
    assert entry(pretrain=contrast, labels={"source": "superpixel"}).pretrain is not None


def test_batches_are_cut_at_shard_edges() -> None:
    assert refusal(compute={"shard_images": 6}) == [
        "compute.shard_images: 6 must be a multiple of labels.extractor.batch_size (4)"
    ]
    entry(compute={"shard_images": 6}, labels={"extractor": {"batch_size": 3}})


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    path = write(tmp_path, "dataset: {name: scenes}\n")
    assert load_experiment(path, []) == {"name": "camvid-k", "dataset": {"name": "scenes"}}


def test_overrides_are_merged_into_the_file_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "name: base\ndataset: {name: scenes, seed: 1}\nlabels: {images: 10, superpixels: null}\n")
    overrides = ["labels.images=100", "dataset.image_size=[64, 96]", "labels.clustering.k=7", "labels.outliers=0.1"]
    made = parse_entry(load_experiment(path, overrides))
    assert made.labels.images == 100
    assert made.dataset.config == ScenesConfig(seed=1, image_size=(64, 96))
    assert made.labels.clustering == KMeansConfig(k=7)
    assert made.labels.outliers == 0.1
    assert made.labels.superpixels is None


def test_a_null_becomes_a_mapping_when_something_below_it_is_set(tmp_path: Path) -> None:
    path = write(tmp_path, "dataset: {name: scenes}\nlabels: {superpixels: null}\n")
    superpixels = parse_entry(load_experiment(path, ["labels.superpixels.n_segments=50"])).labels.superpixels
    assert superpixels is not None
    assert superpixels.n_segments == 50
    assert parse_entry(load_experiment(path, ["labels.superpixels=null"])).labels.superpixels is None


def test_setting_a_key_leaves_what_is_shared_alone() -> None:
    shared = {"images": 5}
    document: dict[str, Any] = {"labels": shared}
    set_key(document, "labels.images", 7)
    assert document["labels"]["images"] == 7
    assert shared == {"images": 5}


def test_a_key_cannot_pass_through_a_value(tmp_path: Path) -> None:
    path = write(tmp_path, "dataset: {name: scenes}\nlabels: {images: 10}\n")
    with pytest.raises(InputError, match=r"^key labels\.images\.first: labels\.images is 10, not a mapping$"):
        load_experiment(path, ["labels.images.first=3"])


@pytest.mark.parametrize("override", ["labels.images", "=5", "labels.images=[1", ""])
def test_an_override_that_is_none_is_shown(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "dataset: {name: scenes}\n")
    with pytest.raises(InputError, match="override ") as caught:
        load_experiment(path, [override])
    assert repr(override) in str(caught.value)


def test_a_grid_key_is_set_in_every_part_of_the_grid(tmp_path: Path) -> None:
    single = write(tmp_path, "dataset: {name: scenes}\ngrid: {seed: [0, 1]}\n", "single.yaml")
    union = write(tmp_path, "dataset: {name: scenes}\ngrid: [{seed: [0]}, {labels.images: [5]}]\n", "union.yaml")
    none = write(tmp_path, "dataset: {name: scenes}\n", "none.yaml")
    override = ["grid.labels.images=[3, 4]"]
    assert load_experiment(single, override)["grid"] == {"seed": [0, 1], "labels.images": [3, 4]}
    assert load_experiment(union, override)["grid"] == [
        {"seed": [0], "labels.images": [3, 4]},
        {"labels.images": [3, 4]},
    ]
    assert load_experiment(none, override)["grid"] == {"labels.images": [3, 4]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold a mapping of keys, got list"),
        ("", "must hold a mapping of keys, got NoneType"),
        ("name: [unclosed\n", "is not YAML"),
        ("name: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
    ids=["list", "empty", "unclosed", "object"],
)
def test_a_file_that_is_no_experiment_says_what_it_is(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_experiment(write(tmp_path, text), [])
    assert "camvid-k.yaml" in str(caught.value)


def test_a_file_that_is_not_there_names_its_neighbours_and_what_is_in_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"mine\.yaml does not exist; `lookbeyond init FOLDER` writes one"):
        load_experiment("mine.yaml", [])
    write(tmp_path, "dataset: {name: scenes}", "table1.yaml")
    write(tmp_path, "rows: []", "table2.yml")
    write(tmp_path, "provider: {type: aws}", "cluster.yaml")
    (tmp_path / "experiments").mkdir()
    write(tmp_path / "experiments", "extends: ../table1.yaml", "roofs.yaml")
    there = r"There are table1\.yaml, table2\.yml, experiments/roofs\.yaml$"
    with pytest.raises(InputError, match=rf"table3\.yaml does not exist; did you mean table[12]\.ya?ml\? {there}"):
        load_experiment("table3.yaml", [])
    with pytest.raises(InputError, match=rf"roof\.yaml does not exist; did you mean experiments/roofs\.yaml\? {there}"):
        load_experiment("roof.yaml", [])
    with pytest.raises(InputError, match=r"there are experiments/roofs\.yaml$"):
        load_experiment(tmp_path / "nowhere" / "zzz.yaml", [])


def test_a_folder_or_bytes_are_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_experiment(tmp_path, [])
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"picture\.yaml"):
        load_experiment(tmp_path / "picture.yaml", [])
