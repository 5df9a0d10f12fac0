"""The command line.

The model: every command reads an experiment file (or a storage), says what it found on standard output and what it is
doing on standard error. With --json, standard output holds one JSON document and nothing else. Exit codes: 0 done
(all cached included), 1 some cell failed, 2 the user's input is wrong, 130 interrupted. A wrong input is a message,
never a traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator import __version__
from orchestrator.cli.streams import lenient_streams
from orchestrator.execution.errors import HeadLostError, OwnMachineLostError
from orchestrator.planning.budget import BudgetSpentError
from workloads.errors import InputError
from workloads.places import expanded

_DESCRIPTION = """\
Auxiliary labels for semantic segmentation, found across images: features of an existing network are clustered
over all images of a data set, superpixels smooth the clusters into label maps, and PmIoU says how well they match
true classes."""

_EXAMPLES = """\
examples:
  lookbeyond demo                                         the whole method on generated scenes, no download
  lookbeyond init  pictures                               an experiment file for a folder, with masks or without
  lookbeyond check experiments/own-images.yaml dataset.root=pictures   what would fail, before it does
  lookbeyond plan  experiments/own-images.yaml dataset.root=pictures   what would be computed, and how long it takes
  lookbeyond plan  experiments/own-images.yaml --images 5000 --size 1024x2048   the same without the pictures
  lookbeyond run   experiments/own-images.yaml dataset.root=pictures   label maps for any folder of images
  lookbeyond run   experiments/own-images.yaml dataset.root=pictures grid.labels.outliers='[0, 0.05]'
  lookbeyond run   mine.yaml yours.yaml                   several experiments as one plan, shared steps once
  lookbeyond export labels experiments/own-images.yaml labels-out dataset.root=pictures
  lookbeyond predict demo pictures masks --row ours       classes of images that the experiment never saw
  lookbeyond export backbone demo backbone.pth            loads strictly into torchvision's network of that name
  lookbeyond export model demo network --row ours         the network for lookbeyond.load_model, ONNX or torch
  lookbeyond report storage                               tables, plots and provenance of all that was run there
  lookbeyond submit demo --address http://localhost:8265 --storage s3://BUCKET/FOLDER       as a job on a cluster

Any key of the experiment file can be set on the command line as key=value. Values are read as YAML; where a key takes a
text (a path, a name), the word is taken as it stands.
exit codes: 0 done (all cached included), 1 some cell failed, 2 the input is wrong,
130 interrupted (also by SIGTERM and SIGHUP)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with lenient_streams():
        options = _parse(arguments)
        options.words = list(sys.argv[1:] if arguments is None else arguments)
        return _answer(options)


def _answer(options: argparse.Namespace) -> int:
    try:
        # Parsing and --help must not wait for all that the commands import.
        from orchestrator.cli import commands

        _fill_in_homes(options)
        return int(getattr(commands, options.handler)(options))
    except InputError as error:
        for line in str(error).splitlines():
            print(f"lookbeyond: {line}", file=sys.stderr)
        return 2
    except BudgetSpentError as error:
        print(f"lookbeyond: {error}", file=sys.stderr)
        return 1
    except OwnMachineLostError:
        print("lookbeyond: Ray has ended on this machine; the same command goes on from here", file=sys.stderr)
        return 1
    except HeadLostError as error:
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        what = "interrupted" if interrupted else "the head of the Ray cluster has gone"
        print(f"lookbeyond: {what}; the same command goes on from here", file=sys.stderr)
        # Ray's threads still wait for it, and would end this process in their own time and words.
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(130 if interrupted else 1)
    except KeyboardInterrupt:
        print("lookbeyond: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        # What the machine refuses (no permission, no such folder, no room) is for the user to mend.
        where = f"{error.filename}: " if error.filename else ""
        print(f"lookbeyond: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def _fill_in_homes(options: argparse.Namespace) -> None:
    """Fill in ``~`` where a shell has left it, as in quotes or behind ``=``: else a folder of that name is made.

    Raises:
        InputError: nobody knows that home folder.
    """
    for name in ("experiment", "folder", "images", "output", "rates", "cluster_config"):
        given = getattr(options, name, None)
        if isinstance(given, str) and given.startswith("~") and not Path(given).exists():
            setattr(options, name, str(expanded(given, name)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; key=value pairs may stand anywhere, also behind options, where argparse alone refuses them."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    if len(overrides) < len(rest) or (overrides and not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if overrides:
        options.overrides = [*options.overrides, *overrides]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookbeyond",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lookbeyond {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(commands, "demo", "the whole method on generated scenes, no download")
    _add_overrides(demo)
    _add_storage(demo)
    _add_until(demo)
    _add_cluster(demo)
    _add_json(demo)

    _add_beginnings(commands)

    check = _command(commands, "check", "look at data set and weights: what would fail, before it does")
    _add_experiment(check)
    _add_storage(check)
    _add_json(check)
    check.add_argument(
        "--images",
        type=_count,
        default=200,
        metavar="N",
        help="decode at most N images of each pool (default 200)",
    )

    _add_plan(commands)

    run = _command(commands, "run", "run what is not done yet; the same command resumes and extends")
    _add_experiment(run, several=True)
    _add_storage(run)
    _add_until(run)
    _add_cluster(run)
    _add_json(run)

    _add_submit(commands)

    explain = _command(commands, "explain", "why each step would run again")
    _add_experiment(explain)
    _add_storage(explain)

    _add_predict(commands)
    _add_export(commands)

    report = _command(commands, "report", "tables, plots, pictures, cost and provenance as HTML, CSV and Markdown")
    report.add_argument(
        "experiment",
        metavar="STORAGE_OR_EXPERIMENT",
        help="a storage: all its experiments; an experiment file, or demo: its own results",
    )
    _add_overrides(report)
    _add_storage(report)
    report.add_argument(
        "--output", metavar="FOLDER", help="folder or URI to write to (default: the folder report of the storage)"
    )
    _add_json(report)

    verify = _command(commands, "verify", "check the SHA-256 of every shard of a storage")
    verify.add_argument("storage", help="path or URI of the storage")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="forget what is damaged, so that `run` computes it again, and sweep leftovers",
    )
    verify.add_argument(
        "--inputs",
        action="store_true",
        help="read the data sets again as well and name the files that are not what was read",
    )
    _add_json(verify)
    return parser


def _add_submit(commands: "argparse._SubParsersAction") -> None:
    submit = _command(commands, "submit", "run an experiment as a job on a cluster, follow it, return its exit code")
    _add_experiment(submit)
    _add_storage(submit)
    _add_until(submit)
    submit.add_argument(
        "--address",
        required=True,
        metavar="URL",
        help="job server of the cluster, e.g. http://localhost:8265 behind `ray dashboard cluster.yaml`",
    )
    submit.add_argument("--no-wait", action="store_true", help="return when the job has started")
    submit.add_argument(
        "--retries", type=_count, default=0, metavar="N", help="submit a failed job again, up to N times (default 0)"
    )
    submit.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="FILE",
        help="send this file, too, although its name is that of a secret, as .env and *.pem are; may be repeated",
    )
    submit.add_argument(
        "--limit",
        type=_count,
        default=100,
        metavar="MB",
        help="refuse to send more than this; Ray's job server takes no more than 100 MB (default 100)",
    )


def _add_beginnings(commands: "argparse._SubParsersAction") -> None:
    init = _command(commands, "init", "look at a folder of images, and masks if there are any, and write an experiment")
    init.add_argument("folder", help="folder of images, at any depth, with or without masks")
    init.add_argument(
        "-o", "--output", default="experiment.yaml", metavar="FILE", help="file to write (default experiment.yaml)"
    )
    keys = _command(commands, "keys", "every key of an experiment file, with type, default and meaning")
    keys.add_argument("prefix", nargs="?", default="", help="only keys that begin so, e.g. labels.superpixels")
    _add_json(keys)


def _add_plan(commands: "argparse._SubParsersAction") -> None:
    plan = _command(
        commands, "plan", "cells, distinct steps, cached and to run; estimated time, bytes, GPU-hours, money"
    )
    _add_experiment(plan)
    _add_storage(plan)
    _add_json(plan)
    plan.add_argument(
        "--rates",
        metavar="FILE",
        help="YAML with `rates` (by name, as --json prints them) and `prices` (core_hour, gpu_hour, currency)",
    )
    plan.add_argument(
        "--images", type=_count, metavar="N", help="plan for N images that need not be there; takes --size, too"
    )
    plan.add_argument("--size", metavar="HxW", help="height and width of those images, e.g. 1024x2048")
    plan.add_argument(
        "--device", choices=["cpu", "cuda"], help="where networks run (default: as steps did here before, else cpu)"
    )
    calibrate = _command(
        commands, "calibrate", "measure this machine in seconds, for the estimates of `plan` and `run`"
    )
    calibrate.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what to measure (default cpu)")
    _add_json(calibrate)


def _add_predict(commands: "argparse._SubParsersAction") -> None:
    predict = _command(commands, "predict", "classes, or labels, of images that the experiment never saw")
    predict.add_argument("experiment", help="experiment file (YAML), or demo")
    predict.add_argument(
        "images", help="folder of images at any depth, glob, or table (.csv, .parquet); also s3://, gs://"
    )
    predict.add_argument("output", help="folder to write to; made if it does not exist")
    _add_overrides(predict)
    _add_storage(predict)
    _add_cell(predict)
    predict.add_argument(
        "--what",
        choices=["classes", "labels"],
        default="classes",
        help="classes by the fine-tuned network, or auxiliary labels by the clusters (default classes)",
    )
    predict.add_argument("--no-overlays", action="store_true", help="leave out the images with their classes laid over")
    predict.add_argument("--confidence", action="store_true", help="write the probability of every pixel's class, too")
    _add_address(predict)


def _add_export(commands: "argparse._SubParsersAction") -> None:
    export = _command(commands, "export", "take results away in common formats")
    what = export.add_subparsers(required=True, metavar="WHAT")
    labels = _command(
        what, "labels", "label maps as PNGs or in the format of another tool, and a legend", handler="export_labels"
    )
    labels.add_argument("experiment", help="experiment file (YAML), or demo")
    labels.add_argument("output", help="folder to write to; made if it does not exist")
    _add_overrides(labels)
    _add_storage(labels)
    _add_cell(labels)
    labels.add_argument(
        "--pool",
        choices=["train", "val"],
        default="train",
        help="train: the images of dataset.pool (default); val: those of dataset.val",
    )
    labels.add_argument(
        "--format",
        choices=["png", "coco", "cvat", "mmseg"],
        default="png",
        help="indexed PNGs, COCO with RLE, CVAT's segmentation mask 1.1, or mmsegmentation's layout (default png)",
    )

    model = _command(
        what, "model", "a fine-tuned network as a whole, what it takes and gives, and a card", handler="export_model"
    )
    model.add_argument("experiment", help="experiment file (YAML), or demo")
    model.add_argument("output", help="folder to write to; made if it does not exist")
    _add_overrides(model)
    _add_storage(model)
    _add_cell(model)
    model.add_argument(
        "--format",
        choices=["safetensors", "onnx", "torch-export", "torchvision"],
        default="safetensors",
        help="what lookbeyond.load_model reads, ONNX (extra onnx), a program of torch.export, or a state dict of "
        "torchvision's DeepLabV3 (default safetensors)",
    )

    backbone = _command(
        what,
        "backbone",
        "a trained backbone as a state dict in its publisher's names, and a card",
        handler="export_backbone",
    )
    backbone.add_argument("experiment", help="experiment file (YAML), or demo")
    backbone.add_argument("output", help="file to write, e.g. backbone.pth; the card is written beside it as JSON")
    _add_overrides(backbone)
    _add_storage(backbone)
    _add_cell(backbone)
    backbone.add_argument(
        "--stage",
        choices=["pretrain", "finetune"],
        default="pretrain",
        help="take the backbone after pre-training or after fine-tuning (default pretrain)",
    )


def _command(
    commands: "argparse._SubParsersAction", name: str, text: str, handler: str = ""
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(handler=handler or name)
    return command


def _add_experiment(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    command.add_argument("experiment", help="experiment file (YAML), or demo")
    _add_overrides(command, several=several)


def _add_overrides(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    further = "further experiment files, all run as one plan; " if several else ""
    command.add_argument(
        "overrides",
        nargs="*",
        # Without a default argparse names it among what is required.
        default=[],
        metavar="more.yaml | key=value" if several else "key=value",
        help=f"{further}set a key of the experiment, e.g. labels.images=100",
    )


def _add_storage(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--storage",
        default=os.environ.get("LOOKBEYOND_STORAGE") or "storage",
        metavar="URI",
        help="where shards and results lie: a path, s3:// or gs:// (default: $LOOKBEYOND_STORAGE or ./storage)",
    )


def _add_cell(command: argparse.ArgumentParser) -> None:
    which = command.add_mutually_exclusive_group()
    which.add_argument("--row", metavar="NAME", help="which row of the experiment; the beginning of its name is enough")
    which.add_argument("--cell", type=int, metavar="N", help="which cell, counted from 0 (default: the only one)")


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a whole number of 1 or more")
    return number


def _add_until(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--until",
        choices=["labels", "pretrain", "finetune"],
        default="finetune",
        help="last stage to run (default: the last that the experiment has)",
    )


def _add_cluster(command: argparse.ArgumentParser) -> None:
    _add_address(command)
    command.add_argument(
        "--cluster-config",
        metavar="FILE",
        help="file of `ray up`: what the cluster may grow to, so that a run waits for it (sets compute.cluster_config)",
    )
    command.add_argument(
        "--select-best",
        type=_count,
        metavar="N",
        help="train only the cells of the N best labellings by PmIoU (default: train all)",
    )


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to use, 'auto' for the one on this machine (default: start one)",
    )
    command.add_argument(
        "--dashboard", action="store_true", help="with a cluster of its own: Ray's dashboard on localhost"
    )


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document on standard output, nothing else")
