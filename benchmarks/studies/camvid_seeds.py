"""PmIoU on CamVid over K, superpixels, two networks and several seeds, as a Markdown table of mean and spread.

The seed decides the sampled pixels and the first centres. All cells of one network are labelled in one pass, so five
seeds cost little more than one (about 8 minutes on two cores for everything). Beside each figure stands that of an
independent plain script (one seed, scikit-learn and scikit-image) and whether it lies within our smallest and largest,
widened by one standard deviation.

    LOOKBEYOND_DATA=data python -m benchmarks.studies.camvid_seeds --storage /tmp/seeds
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import WEIGHTS, Aim, add_data_option, put, run_project, table, verdict
from orchestrator.results.statistics import Spread

AIM = Aim("PmIoU of the plain script - mean over seeds, points either way, most of all figures", most=2)

# Measured once with a plain single-process script on the same images (output stride 16, 353 x 481, no outliers), the
# middle row at K = 16 where 1.5 x 11 rounded half up is 17.
PLAIN = {
    "imagenet": {"none": {11: 20.9, 17: 20.7, 22: 20.1}, "SLIC 500": {11: 20.9, 17: 20.7, 22: 19.8}},
    "voc": {"none": {11: 25.3, 17: 27.7, 22: 23.4}, "SLIC 500": {11: 24.7, 17: 26.6, 22: 22.3}},
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--experiment", type=Path, default=Path(__file__).parents[2] / "experiments/camvid-k.yaml")
    parser.add_argument("--storage", type=Path, help="keep the labels there, and go on from what is there")
    parser.add_argument("override", nargs="*", help="further key=value pairs, e.g. labels.images=100")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        run = run_project(
            options.experiment,
            [
                f"dataset.root={options.data / 'camvid'}",
                f"grid.labels.extractor.weights={[str(options.data / path) for path in WEIGHTS.values()]}",
                f"grid.seed={options.seeds}",
                *options.override,
            ],
            options.storage or Path(temporary),
        )
    figures: dict[tuple[str, int, str], list[float]] = {}
    names = {Path(path).name: name for name, path in WEIGHTS.items()}
    for cell in run.cells:
        network = names[Path(cell.values["labels.extractor.weights"]).name]
        segments = describe(cell.values["labels.superpixels"])
        num_clusters, pmiou = cell.metrics.num_clusters, cell.metrics.pmiou
        assert num_clusters is not None and pmiou is not None, "a run without failures has scored every cell"
        figures.setdefault((network, num_clusters, segments), []).append(pmiou)
    rows, differences = [], []
    for (network, num_clusters, segments), values in figures.items():
        spread = Spread.of(values)
        assert spread is not None
        mean, deviation = spread.mean, spread.deviation or 0.0
        plain = PLAIN[network].get(segments, {}).get(num_clusters)
        if plain is not None:
            differences.append(abs(plain - mean))
        within = plain is not None and min(values) - deviation <= plain <= max(values) + deviation
        put(
            {"network": network, "num_clusters": num_clusters, "superpixels": segments, "pmiou": values, "plain": plain}
        )
        rows.append(
            [
                network,
                num_clusters,
                segments,
                spread.text(1),
                f"{min(values):.1f} to {max(values):.1f}",
                "" if plain is None else plain,
                "" if plain is None else "yes" if within else f"no ({plain - mean:+.1f} from the mean)",
            ]
        )
    print()
    headings = ["network", "K", "superpixels", "PmIoU, mean ± std", "range", "plain script, one seed", "within"]
    print(table(headings, rows))
    print(f"\n{len(run.cells)} cells in {run.seconds:.0f} s")
    return verdict([(AIM, max(differences))] if differences else [])


def describe(superpixels: dict[str, Any] | None) -> str:
    """A superpixel setting in short; compactness only where it is not the default of 10."""
    if superpixels is None:
        return "none"
    compactness = superpixels.get("compactness", 10)
    return f"SLIC {superpixels['n_segments']}" + (f", compactness {compactness}" if compactness != 10 else "")


if __name__ == "__main__":
    sys.exit(main())
