"""A small experiment whose feature extractor is itself fine-tuned ("DeepLabV3 (*)")."""

from typing import Any

CROP = {"image_size": [64, 96], "crop": [49, 65]}
EXPERIMENT: dict[str, Any] = {
    "name": "star",
    "dataset": {"name": "scenes", "image_size": [64, 96], "num_train": 12, "num_val": 4},
    "labels": {
        "extractor": {"weights": "finetuned", "output_stride": 8, "batch_size": 2},
        "sampling": {"pixels_per_image": 20},
        "superpixels": {"n_segments": 40},
    },
    "pretrain": {"recipe": "small", "steps": 2, "batch_size": 2, "views": CROP},
    "finetune": {
        "recipe": "small",
        "steps": 2,
        "batch_size": 2,
        "augmentation": CROP,
        "evaluation": {"image_size": [64, 96]},
        "evaluation_multi_scale": None,
    },
    "compute": {"shard_images": 4},
    "grid": {"finetune.fraction": [0.25, 0.5]},
}
