"""Superpixels: small connected regions of one image, within which all pixels get one auxiliary label.

A map of ids 0..n-1 without gaps, a function of the image's pixels and the configuration alone, so it is computed once
per image whatever the labelling. Ids begin at 0 and leave no gaps, which would shift votes by one or waste the memory
of counts.

SLIC [1]_ as implemented by scikit-image. The paper gives the number of superpixels (Table 3: 200, 500, 2000) but not
the algorithm or its settings. 2000 at compactness 3 are ours: on images of 360x480 the only setting of those tried at
which voting gains with features of every output stride; see docs/superpixels.md.

References
----------
.. [1] Achanta et al., "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods", PAMI 2012.
"""

import numpy as np
from skimage.segmentation import slic

from workloads.configs.superpixels import MAX_SUPERPIXELS, SuperpixelConfig
from workloads.errors import InputError


def superpixels(image: np.ndarray, config: SuperpixelConfig) -> np.ndarray:
    """Cut an image into superpixels.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        RGB, of any size from 1 x 1.
    config : SuperpixelConfig
        How.

    Returns
    -------
    ndarray of uint16, shape (H, W)
        Ids 0..n-1, every one of them present.

    Raises
    ------
    InputError
        When the image is not uint8 RGB, or comes out with more than 65535 superpixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise InputError(f"image: {image.dtype} {image.shape}; non-empty uint8 (H, W, 3) is needed")
    segments = slic(
        image.astype(np.float32) / 255,
        n_segments=config.n_segments,
        compactness=config.compactness,
        sigma=config.sigma,
        max_num_iter=config.iterations,
        start_label=0,
        channel_axis=-1,
    )
    present = np.bincount(segments.ravel()) > 0
    number = int(present.sum())
    if number > MAX_SUPERPIXELS:
        raise InputError(
            f"n_segments {config.n_segments} gives {number} superpixels for an image of {segments.shape[0]} x "
            f"{segments.shape[1]}; at most {MAX_SUPERPIXELS} fit 16-bit maps"
        )
    return (np.cumsum(present) - 1).astype(np.uint16)[segments]
