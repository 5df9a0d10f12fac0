"""Networks that `lookbeyond export model` wrote, ready to predict; no storage and no experiment file is needed."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from workloads.datasets.decode import decode_image
from workloads.errors import InputError
from workloads.networks.model_files import ModelDescription, read_model
from workloads.networks.segmentors import Segmentor
from workloads.places import expanded
from workloads.scoring.evaluation import class_scores

AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


class Model:
    """A segmentation network with all that it takes to use it. Made by `load_model`.

    Attributes
    ----------
    network : Segmentor
        A torch module in evaluation mode; takes normalised float images (B, 3, H, W).
    description : ModelDescription
        How images are prepared, the classes, where the network comes from.
    """

    def __init__(self, network: Segmentor, description: ModelDescription) -> None:
        self.network = network
        self.description = description

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the M classes; a prediction holds their places in this tuple."""
        return tuple(one.name for one in self.description.classes)

    @property
    def palette(self) -> np.ndarray:
        """A colour for every class: uint8 (M, 3), RGB."""
        return np.array([one.colour for one in self.description.classes], dtype=np.uint8)

    def to(self, device: torch.device | str) -> "Model":
        """The same model, its network moved to a device."""
        self.network.to(device)
        return self

    def predict(self, image: AnyImage) -> np.ndarray:
        """The class of every pixel of an image, as the network was evaluated.

        Parameters
        ----------
        image : str, PathLike, PIL.Image.Image or ndarray of uint8, shape (H, W, 3) or (H, W)
            A file, a picture, or RGB or grey values.

        Returns
        -------
        ndarray of uint8, shape (H, W)
            Places in `classes`; at the image's own size.

        Raises
        ------
        InputError
            The file is no image, or the array is something else.

        Examples
        --------
        >>> import lookbeyond                                        # doctest: +SKIP
        >>> model = lookbeyond.load_model("exported")                # doctest: +SKIP
        >>> model.classes[model.predict("picture.jpg")[0, 0]]        # doctest: +SKIP
        'sky'
        """
        return self.probabilities(image).argmax(axis=0).astype(np.uint8)

    def probabilities(self, image: AnyImage) -> np.ndarray:
        """The probability of every class at every pixel: float32 (M, H, W); see `predict`."""
        pixels = torch.from_numpy(_pixels(image)).permute(2, 0, 1)[None]
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            scores: np.ndarray = (
                class_scores(self.network, pixels.to(device), self.description.evaluation)[0].cpu().numpy()
            )
        return scores

    def __repr__(self) -> str:
        network = self.description.network
        return f"Model({network.head} on {network.backbone}, {len(self.classes)} classes)"


def load_model(path: str | os.PathLike[str]) -> Model:
    """A network that `lookbeyond export model` wrote, on the CPU.

    Parameters
    ----------
    path : str or PathLike
        The folder, or the ``model.safetensors`` or ``model.json`` in it.

    Returns
    -------
    Model
        ``load_model(path).predict(image)`` gives classes.

    Raises
    ------
    InputError
        Files are missing, damaged or do not belong together.
    """
    return Model(*read_model(expanded(path, "path")))


def _pixels(image: AnyImage) -> np.ndarray:
    """The image as uint8 (H, W, 3), RGB."""
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise InputError(
                f"an array of {image.dtype} {image.shape} is no image",
                key="image",
                allowed="uint8 of shape (H, W, 3), RGB, or (H, W), grey",
            )
        return np.ascontiguousarray(image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    place = expanded(image, "image")
    if not place.is_file():
        raise InputError(f"no file {place}", key="image", value=str(image))
    return decode_image(place.read_bytes(), Path(place).name)
