"""How strong a recipe is by itself: mIoU of networks that are fine-tuned at once, at steps on the way, without Ray.

A baseline must be as strong as a plain script, or whatever is compared with it gains by that. One training at a time,
on CamVid, from each of the weights; its state is kept beside the figures after each of the steps, so that the same
command goes on where it was ended.

The plain script shrinks images and ground truth to 180x240 before it scores, while experiments score at the ground
truth's own 360x480. Both are told; the aim compares like with like, at 180x240.

    LOOKBEYOND_DATA=data python -m benchmarks.studies.recipe_strength --states /tmp/strength --at 150 300
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision.transforms.v2.functional as V

from benchmarks.measuring import WEIGHTS, Aim, add_data_option, put, table, verdict
from orchestrator.steps.jobs import Source as Pool
from orchestrator.steps.true_labels import TrueLabels
from workloads.configs.recipes import RECIPES, finetuning_recipe
from workloads.configs.training import EvaluationConfig, FinetuneConfig
from workloads.datasets import Dataset
from workloads.datasets.camvid import CamvidConfig
from workloads.datasets.fractions import labelled_list
from workloads.networks.segmentors import build_segmentor, initialise
from workloads.scoring.evaluation import class_counts
from workloads.scoring.metrics import mean_iou
from workloads.seeding import stable_hash
from workloads.training.batches import Sample, Source
from workloads.training.finetuning import finetuning_loop
from workloads.training.loop import Loop

# A plain script of 70 lines with 37 labelled images: mIoU on val after so many of 600 steps, one seed.
PLAIN = {
    "voc": {150: 49.6, 300: 53.3, 450: 55.7, 600: 56.3},
    "imagenet": {150: 42.2, 300: 47.1, 450: 48.6, 600: 50.0},
}
PLAIN_SIZE = (180, 240)
AIM = Aim("mIoU below the plain script's at the last step that both have, points, most of all weights", most=1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--recipe", choices=RECIPES, default="small")
    parser.add_argument("--weights", nargs="+", choices=[*WEIGHTS, "random"], default=["voc", "imagenet"])
    parser.add_argument("--number", type=int, default=37, help="labelled images (default 37)")
    parser.add_argument("--pool", default="train", help="pool of the labelled images (default train)")
    parser.add_argument("--val", default="val", help="pool that is judged (default val)")
    parser.add_argument("--steps", type=int, help="length of the schedule (default: the recipe's)")
    parser.add_argument("--at", type=int, nargs="+", help="score after these steps (default: quarters)")
    parser.add_argument("--learning-rate", type=float, help="of the backbone (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--states", type=Path, required=True, help="keep the trainings' states there")
    options = parser.parse_args(arguments)
    config = finetuning_recipe(options.recipe)
    steps = options.steps or config.total_steps(options.number)
    at = sorted(options.at or [steps * quarter // 4 for quarter in (1, 2, 3, 4)])
    optimiser = config.optimiser.model_copy(
        update={"learning_rate": options.learning_rate or config.optimiser.learning_rate}
    )
    config = config.model_copy(update={"seed": options.seed, "epochs": None, "steps": steps, "optimiser": optimiser})
    options.states.mkdir(parents=True, exist_ok=True)
    rows, behind = [], []
    for weights in options.weights:
        scores, own_size = score(config, weights, at, options)
        rows.append([weights, "180x240", *(f"{scores[step]:.1f}" for step in at)])
        rows.append([weights, "its own", *(f"{own_size[step]:.1f}" for step in at)])
        shared = [step for step in at if step in PLAIN.get(weights, {})]
        comparable = (options.number, options.val, steps) == (37, "val", 600)
        if shared and comparable:
            behind.append(PLAIN[weights][shared[-1]] - scores[shared[-1]])
    print("\n" + table(["first weights", "truth at", *(f"after {step}" for step in at)], rows))
    return verdict([(AIM, max(behind))] if behind else [])


@dataclass(frozen=True)
class Shrunk:
    """Labelled images at 180x240, ground truth by its nearest pixel."""

    images: TrueLabels

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the images."""
        return self.images.ids

    def load(self, image_id: str) -> Sample:
        """One image, anti-aliased, and its ground truth."""
        sample = self.images.load(image_id)
        image = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)
        small = V.resize(image, list(PLAIN_SIZE), antialias=True).permute(1, 2, 0).numpy()
        assert sample.labels is not None
        truth = torch.from_numpy(sample.labels.copy())[None]
        return Sample(small, V.resize(truth, list(PLAIN_SIZE), V.InterpolationMode.NEAREST_EXACT)[0].numpy())


def score(
    config: FinetuneConfig, weights: str, at: Sequence[int], options: argparse.Namespace
) -> tuple[dict[int, float], dict[int, float]]:
    """mIoU after each of the steps, at 180x240 and at the truth's own size, from a state where one was kept."""
    camvid = CamvidConfig(pool=options.pool, val=options.val)
    root = str(options.data / "camvid")
    train, val = (Pool(camvid, root, pool) for pool in (options.pool, options.val))
    dataset = train.open()
    listed = labelled_list(_ids(dataset, options.pool), number=options.number)
    network = build_segmentor(config.segmentor, len(dataset.classes), stable_hash(config.seed, "network") % 2**63)
    if weights != "random":
        initialise(network, "file", str(options.data / WEIGHTS[weights]))
    loop = finetuning_loop(network, TrueLabels(train, listed.ids), config)
    judged = TrueLabels(val, _ids(dataset, options.val))
    found: dict[int, float] = {}
    own_size: dict[int, float] = {}
    shrunk = config.evaluation.model_copy(update={"image_size": None})
    for step in at:
        path = (
            options.states
            / f"{weights}-{options.pool}-{options.number}-{stable_hash(config.model_dump_json())}-{step}.pt"
        )
        if path.exists():
            kept = torch.load(path, weights_only=True)
            loop.load_state_dict(kept["state"])
            found[step], own_size[step] = kept["shrunk_miou"], kept["miou"]
        else:
            for _ in loop.run(until=step):
                pass
            found[step] = _miou(loop, Shrunk(judged), shrunk)
            own_size[step] = _miou(loop, judged, config.evaluation)
            torch.save(
                {"state": loop.state_dict(), "miou": own_size[step], "shrunk_miou": found[step]},
                path,
            )
        rounded = {"miou_at_180x240": round(found[step], 2), "miou": round(own_size[step], 2)}
        put({"weights": weights, "step": step, "steps": loop.total_steps, **rounded})
    return found, own_size


def _ids(dataset: Dataset, pool: str) -> list[str]:
    return [entry.id for entry in dataset.entries(pool)]


def _miou(loop: Loop, judged: Source, config: EvaluationConfig) -> float:
    return mean_iou(class_counts(loop.objective.segmentor, judged, config)).miou


if __name__ == "__main__":
    sys.exit(main())
