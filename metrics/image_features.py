"""Feature extractors for distances between sets of images, by name.

Each has its own name for the distance, so that numbers of different extractors are never taken for one another. Images
are resized by clean-fid's antialiased bicubic filter (Parmar, Zhang & Zhu 2022, arXiv:2104.11222).
"""

from __future__ import annotations

import difflib
import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from PIL import Image

from metrics.efficientnet_lite import IMAGE_SIZE, NUM_FEATURES, load_efficientnet_lite0

BATCH = 32
INCEPTION_FILE = "inception-2015-12-05.pt"
OFFLINE_CHOICE = 'config_name="efficientnet_lite0" gives another distance, of another name, without a download'
TIMEOUT = 30  # seconds without a byte


@dataclass
class FeatureExtractor:
    """What turns images into feature vectors.

    Attributes:
        distance_name: what the Frechet distance of these features is called.
        num_features: dimension of a vector.
        resize: uint8 [H, W, 3] -> float32 [S, S, 3], values 0 to 255.
        network: float32 [B, 3, S, S], values 0 to 255 -> [B, num_features].
        device: where the network runs.
    """

    distance_name: str
    num_features: int
    resize: Callable[[np.ndarray], np.ndarray]
    network: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device

    def __call__(self, images: Iterable) -> np.ndarray:
        """Features float32 [N, num_features] of PIL images, paths, or uint8 arrays [H, W, 3] of any sizes."""
        found, batch = [np.empty((0, self.num_features), np.float32)], []
        for index, image in enumerate(images):
            batch.append(self.resize(_pixels(image, index)))
            if len(batch) == BATCH:
                found.append(self._features(batch))
                batch = []
        if batch:
            found.append(self._features(batch))
        return np.concatenate(found)

    @torch.no_grad()
    def _features(self, batch: list[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).to(self.device)
        return self.network(pixels).float().cpu().numpy()


def _pixels(image, index: int) -> np.ndarray:
    """An image as uint8 [H, W, 3]."""
    if isinstance(image, (str, os.PathLike)):
        with Image.open(image) as opened:
            return np.asarray(opened.convert("RGB"))
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        found = f"{array.dtype} of shape {list(array.shape)}"
        raise ValueError(f"image {index} is {found}: it must be uint8 [H, W, 3], a PIL image or a path")
    return array


def load_extractor(name: str) -> FeatureExtractor:
    """`inception`, clean-fid's own, or `efficientnet_lite0`, whose weights come with a package.

    Raises ValueError for another name and FileNotFoundError where Inception's weights can be neither found nor fetched.
    """
    makers = {"inception": _inception, "efficientnet_lite0": _efficientnet_lite0}
    if name not in makers:
        nearest = difflib.get_close_matches(name, makers, n=1, cutoff=0.0)[0]
        raise ValueError(f"no feature extractor {name!r} (did you mean {nearest!r}?): there are {', '.join(makers)}")
    return makers[name](torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _inception(device: torch.device) -> FeatureExtractor:
    from cleanfid.features import build_feature_extractor
    from cleanfid.resize import build_resizer

    _ensure_inception_weights(Path("./" if platform.system() == "Windows" else "/tmp"))  # where clean-fid looks
    network = build_feature_extractor("clean", device=device, use_dataparallel=False)
    return FeatureExtractor("fid_clean", 2048, build_resizer("clean"), network, device)


def _ensure_inception_weights(folder: Path) -> None:
    """Let clean-fid fetch the weights where they are not there yet, whole or not at all."""
    from cleanfid.downloads_helper import check_download_inception, inception_url

    path = folder / INCEPTION_FILE
    if path.exists():
        return
    if parse_flag_from_env("HF_HUB_OFFLINE"):
        raise FileNotFoundError(
            f"FID needs Inception's weights at {path} and HF_HUB_OFFLINE is set: put {inception_url} there, or "
            f"{OFFLINE_CHOICE}"
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder) as staging, _socket_timeout(TIMEOUT):
            Path(check_download_inception(fpath=staging)).replace(path)
    except OSError as error:
        reason = f"{type(error).__name__}: {error}"
        raise FileNotFoundError(
            f"FID needs Inception's weights at {path}; fetching {inception_url} failed ({reason}). Put the file there, "
            f"or {OFFLINE_CHOICE}"
        ) from error


@contextmanager
def _socket_timeout(seconds: float):
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _efficientnet_lite0(device: torch.device) -> FeatureExtractor:
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (IMAGE_SIZE, IMAGE_SIZE))
    network = load_efficientnet_lite0().to(device)
    return FeatureExtractor("frechet_efficientnet_lite0", NUM_FEATURES, resize, network, device)
