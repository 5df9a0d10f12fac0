"""How strong a recipe is by itself: mIoU of networks that are fine-tuned at once, at steps on the way, without Ray.

A baseline must be as strong as a plain script, or whatever is compared with it gains by that. One training at a time,
on CamVid, from each of the weights; its state is kept beside the figures after each of the steps, so that the same
command goes on where it was ended.

    LOOKBEYOND_DATA=data python -m benchmarks.studies.recipe_strength --states /tmp/strength --at 150 300
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measuring import WEIGHTS, Aim, add_data_option, put, table, verdict
from orchestrator.steps.jobs import Source
from orchestrator.steps.true_labels import TrueLabels
from workloads.configs.recipes import RECIPES, finetuning_recipe
from workloads.configs.training import FinetuneConfig
from workloads.datasets import Dataset
from workloads.datasets.camvid import CamvidConfig
from workloads.datasets.fractions import labelled_list
from workloads.networks.segmentors import build_segmentor, initialise
from workloads.scoring.evaluation import class_counts
from workloads.scoring.metrics import mean_iou
from workloads.seeding import stable_hash
from workloads.training.finetuning import finetuning_loop
from workloads.training.loop import Loop

# A plain script of 70 lines with 37 labelled images: mIoU on val after so many of 600 steps, one seed.
PLAIN = {
    "voc": {150: 49.6, 300: 53.3, 450: 55.7, 600: 56.3},
    "imagenet": {150: 42.2, 300: 47.1, 450: 48.6, 600: 50.0},
}
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
        scores = score(config, weights, at, options)
        rows.append([weights, *(f"{scores[step]:.1f}" for step in at)])
        shared = [step for step in at if step in PLAIN.get(weights, {})]
        comparable = (options.number, options.val, steps) == (37, "val", 600)
        if shared and comparable:
            behind.append(PLAIN[weights][shared[-1]] - scores[shared[-1]])
    print("\n" + table(["first weights", *(f"after {step}" for step in at)], rows))
    return verdict([(AIM, max(behind))] if behind else [])


def score(config: FinetuneConfig, weights: str, at: Sequence[int], options: argparse.Namespace) -> dict[int, float]:
    """mIoU after each of the steps, from a state where one was kept."""
    camvid = CamvidConfig(pool=options.pool, val=options.val)
    root = str(options.data / "camvid")
    train, val = (Source(camvid, root, pool) for pool in (options.pool, options.val))
    dataset = train.open()
    listed = labelled_list(_ids(dataset, options.pool), number=options.number)
    network = build_segmentor(config.segmentor, len(dataset.classes), stable_hash(config.seed, "network") % 2**63)
    if weights != "random":
        initialise(network, "file", str(options.data / WEIGHTS[weights]))
    loop = finetuning_loop(network, TrueLabels(train, listed.ids), config)
    judged = TrueLabels(val, _ids(dataset, options.val))
    found: dict[int, float] = {}
    for step in at:
        path = (
            options.states
            / f"{weights}-{options.pool}-{options.number}-{stable_hash(config.model_dump_json())}-{step}.pt"
        )
        if path.exists():
            kept = torch.load(path, weights_only=True)
            loop.load_state_dict(kept["state"])
            found[step] = kept["miou"]
        else:
            for _ in loop.run(until=step):
                pass
            found[step] = _miou(loop, judged, config)
            torch.save({"state": loop.state_dict(), "miou": found[step]}, path)
        put({"weights": weights, "step": step, "steps": loop.total_steps, "miou": round(found[step], 2)})
    return found


def _ids(dataset: Dataset, pool: str) -> list[str]:
    return [entry.id for entry in dataset.entries(pool)]


def _miou(loop: Loop, judged: TrueLabels, config: FinetuneConfig) -> float:
    return mean_iou(class_counts(loop.objective.segmentor, judged, config.evaluation)).miou


if __name__ == "__main__":
    sys.exit(main())
