"""A fine-tuned network as a folder that others use: the network in a format of theirs, what it takes and gives, a card.

The failure this guards against: weights whose preparation of images, classes and origin nobody knows any more.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.ledger.manifests import Manifest
from orchestrator.planning.cells import PlannedCell, StepNotDoneError
from orchestrator.planning.plan import Plan
from orchestrator.spec.experiment import ExperimentEntry
from orchestrator.spec.naming import describe
from orchestrator.steps.finetune import FinetuneStep
from orchestrator.steps.tensors import read_tensors
from orchestrator.storage.store import Storage
from workloads.configs.networks import TIMM
from workloads.datasets import Dataset, open_dataset
from workloads.errors import InputError
from workloads.formats import figure
from workloads.networks.model_files import DESCRIPTION, WEIGHTS, ModelDescription, NamedClass, write_model
from workloads.networks.segmentors import build_segmentor
from workloads.own_output import mark, read_mark
from workloads.redaction import redacted
from workloads.scoring.windows import input_size

Form = Literal["safetensors", "onnx", "torch-export", "torchvision"]
CARD = "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """What was exported: the name of its cell, its mIoU, and the files."""

    cell: str
    miou: float | None
    files: tuple[str, ...]


def export_model(plan: Plan, planned: PlannedCell, form: Form, storage: Storage, output: Path) -> ExportedModel:
    """Write the network that a cell fine-tuned, its description and its card into a folder.

    Args:
        plan: the experiment, with the manifests of what is done.
        planned: the cell; it has a fine-tuning.
        form: the format of the weights.
        storage: where the network lies.
        output: folder to write to; it is made.

    Raises:
        InputError: the fine-tuning is not done, the folder holds other files, or the network has no such form.
    """
    step = planned.roles["finetune"]
    assert isinstance(step, FinetuneStep)
    manifest = plan.done.get(step.key)
    if manifest is None:
        raise StepNotDoneError.of("the finetune step", storage.uri)
    held = f"network of step {step.key} as {form}"
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and read_mark(output) != held)):
        raise InputError(f"{output} holds other files; give an empty or a new folder")
    network = build_segmentor(step.config.segmentor, step.num_classes)
    network.load_state_dict(read_tensors(storage, manifest.file("network").path))
    entry = planned.cell.entry
    dataset = open_dataset(entry.dataset.config, Path(entry.dataset.root) if entry.dataset.root else None)
    name = describe(planned.cell, [one.cell for one in plan.cells])
    miou = manifest.results.get("miou")
    description = ModelDescription(
        network=step.config.segmentor,
        classes=tuple(
            NamedClass(name=label, colour=(int(colour[0]), int(colour[1]), int(colour[2])))
            for label, colour in zip(dataset.classes, dataset.palette, strict=True)
        ),
        evaluation=step.config.evaluation,
        written_as=form,
        input_size=_size(step, dataset) if form in ("onnx", "torch-export") else None,
        made={
            "experiment": plan.name,
            "cell": name,
            "miou": miou,
            "step": step.key,
            "licences": _licences(entry),
            "results": manifest.results,
            "provenance": manifest.provenance,
        },
    )
    mark(output, held)
    description = write_model(output, network.eval(), description)
    (output / CARD).write_text(redacted(_card(description, manifest, step)), encoding="utf-8")
    return ExportedModel(name, miou, (WEIGHTS[form], DESCRIPTION, CARD))


def _size(step: FinetuneStep, dataset: Dataset) -> tuple[int, int]:
    """The size that an image is predicted at, of data whose images differ that of the first."""
    evaluation = step.config.evaluation
    if evaluation.window is not None:
        return evaluation.window
    if evaluation.image_size is not None:
        return evaluation.image_size
    pool = step.judged.pool
    first = dataset.read_image(pool, dataset.entries(pool)[0].id)
    return input_size((first.shape[0], first.shape[1]), evaluation, 1.0)


def _licences(entry: ExperimentEntry) -> dict[str, str]:
    """Licences of the published weights that the network, or the labels that it was pre-trained on, come from."""
    used: list[str] = []
    extractor = entry.labels.extractor
    if entry.pretrain is not None and entry.labels.source == "auxiliary" and extractor.weights != "random":
        used.append(extractor.config.arch)
    if entry.pretrain is not None and entry.pretrain.config.init != "random":
        used.append(entry.pretrain.config.segmentor.backbone)
    if entry.pretrain is None and entry.finetune is not None and entry.finetune.init != "random":
        used.append(entry.finetune.config.segmentor.backbone)
    return {arch: found for arch in dict.fromkeys(used) if (found := _licence(arch)) is not None}


def _licence(arch: str) -> str | None:
    if not arch.startswith(TIMM):
        return None
    import timm

    config = timm.get_pretrained_cfg(arch.removeprefix(TIMM))
    return str(config.license) if config is not None and config.license else None


def _card(description: ModelDescription, manifest: Manifest, step: FinetuneStep) -> str:
    """What a person must know of the network, in Markdown."""
    made: dict[str, Any] = description.made
    network = description.network
    score = "not known" if made["miou"] is None else f"{figure(made['miou'])} % single scale"
    several = manifest.results.get("miou_multi_scale")
    size = "their own size"
    evaluation = description.evaluation
    if description.input_size is not None:
        size = (
            f"{description.input_size[0]} x {description.input_size[1]} pixels (height x width), the one size it takes"
        )
    elif evaluation.image_size is not None:
        size = f"{evaluation.image_size[0]} x {evaluation.image_size[1]} pixels (height x width)"
    elif evaluation.base_size is not None:
        size = f"{evaluation.base_size} pixels on the longer side"
    lines = [
        f"# {network.head} on {network.backbone}, {len(description.classes)} classes",
        "",
        f"Made by lookbeyond: experiment `{made['experiment']}`, {made['cell']}, step `{made['step']}`.",
        f"mIoU on pool `{step.judged.pool}`: {score}"
        + (f", {figure(several)} % at several scales" if several is not None else "")
        + f". Fine-tuned on {len(step.labelled.ids)} labelled images of pool `{step.source.pool}`"
        + (", after pre-training." if step.pretrained else f", from init `{step.init}`."),
        "",
        f"- Input: RGB in 0 to 1, less {list(description.mean)}, over {list(description.std)}; resized to {size}.",
        f"- Output: scores of the classes in this order: {', '.join(one.name for one in description.classes)}.",
        f"- `{DESCRIPTION}` says the same to programs, with the classes' colours and how it was evaluated.",
        *(
            f"- {arch}: licence {said} of its weights, which may bind what derives from them."
            for arch, said in made["licences"].items()
        ),
        "",
        _use(description),
        "",
    ]
    return "\n".join(lines)


def _use(description: ModelDescription) -> str:
    file = WEIGHTS[description.written_as]
    match description.written_as:
        case "safetensors":
            code = "import lookbeyond\nclasses = lookbeyond.load_model(FOLDER).predict(IMAGE)"
        case "onnx":
            code = f'import onnxruntime\nsession = onnxruntime.InferenceSession("{file}")\n'
            code += 'classes = session.run(["scores"], {"images": images})[0].argmax(axis=1)'
        case "torch-export":
            code = f'import torch\nclasses = torch.export.load("{file}").module()(images).argmax(dim=1)'
        case "torchvision":
            code = "import torch, torchvision\nnetwork = torchvision.models.segmentation.deeplabv3_resnet50(\n"
            code += "    weights=None, weights_backbone=None, "
            code += f"num_classes={len(description.classes)}, aux_loss={description.network.auxiliary_head})\n"
            code += f'network.load_state_dict(torch.load("{file}", weights_only=True))\n'
            code += "# Its last upsampling is by half a cell another one, so borders of classes differ by as much."
    return f"```python\n{code}\n```"
