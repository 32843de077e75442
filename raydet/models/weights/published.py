"""Published weights by name, `effdet:NAME` and `torchvision:NAME`: where they lie, and which a model starts from.

Addresses as in effdet 0.4.1 (model_config), torchvision 0.29.2 and timm 1.0.31; a file's name ends with the first eight
digits of its SHA-256, which are checked.
"""

import os
import sys
import urllib.request
from pathlib import Path

import torch

from raydet.exceptions import ConfigError

_EFFDET = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/"
_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
PUBLISHED = {
    **{
        f"effdet:{name}": f"{_EFFDET}{file}.pth"
        for name, file in {
            "efficientdet_d0": "efficientdet_d0-f3276ba8",
            "efficientdet_d1": "efficientdet_d1-bb7e98fe",
            "tf_efficientdet_d0": "tf_efficientdet_d0_34-f153e0cf",
            "tf_efficientdet_d1": "tf_efficientdet_d1_40-a30f94af",
            "tf_efficientdet_d2": "tf_efficientdet_d2_43-8107aa99",
            "tf_efficientdet_d3": "tf_efficientdet_d3_47-0b525f35",
            "tf_efficientdet_d4": "tf_efficientdet_d4_49-f56376d9",
            "tf_efficientdet_d5": "tf_efficientdet_d5_51-c79f9be6",
            "tf_efficientdet_d6": "tf_efficientdet_d6_52-4eda3773",
            "tf_efficientdet_d7": "tf_efficientdet_d7_53-6d1d7a95",
            "tf_efficientdet_d7x": "tf_efficientdet_d7x-f390b87c",
            "tf_efficientdet_lite0": "tf_efficientdet_lite0-dfacfc78",
            "tf_efficientdet_lite1": "tf_efficientdet_lite1-6dc7ab30",
            "tf_efficientdet_lite2": "tf_efficientdet_lite2-86c5d55b",
            "tf_efficientdet_lite3": "tf_efficientdet_lite3-506852cb",
            "tf_efficientdet_lite4": "tf_efficientdet_lite4-391ddabc",
        }.items()
    },
    **{
        f"torchvision:efficientnet_{size}": f"{_TORCHVISION}efficientnet_{size}{file}.pth"
        for size, file in {
            "b0": "_rwightman-7f5810bc",
            "b1": "-c27df63c",
            "b2": "_rwightman-c35c1473",
            "b3": "_rwightman-b3899882",
            "b4": "_rwightman-23ab8bcd",
            "b5": "_lukemelas-1a07897c",
            "b6": "_lukemelas-24a108a5",
            "b7": "_lukemelas-c5b4e57e",
        }.items()
    },
    **{
        f"timm:tf_efficientnet_{size}": f"{_TIMM}tf_efficientnet_{size}-{digest}.pth"
        for size, digest in {
            "lite0": "0aa007d2",
            "lite1": "bde8b488",
            "lite2": "dcccb7df",
            "lite3": "b733e338",
            "lite4": "741542c3",
        }.items()
    },
}
_MOST_BYTES = 1 << 30
_TIMEOUT_S = 10.0


def published_for(model: str) -> str | None:
    """Return the name of the published weights that fit a model (padding follows them), or None."""
    plain = model.removeprefix("tf_")
    names = (f"effdet:{model}", f"effdet:tf_{plain}", f"torchvision:{model}", f"timm:tf_{plain}")
    return next((name for name in names if name in PUBLISHED), None)


def cache_path(name: str) -> Path:
    """Return where a published file is kept, and where one that was fetched by hand belongs."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED[name].rpartition("/")[2]


def fetch(name: str) -> Path:
    """Return the file of published weights, downloaded with progress if it is not there yet.

    Raises:
        ConfigError: it cannot be had; says where it lies and where to put it. Also with RAYDET_OFFLINE=1.
    """
    path, url = cache_path(name), PUBLISHED[name]
    if path.is_file():
        return path
    hand = f"put {url} at {path}"
    if os.environ.get("RAYDET_OFFLINE", "0") not in ("", "0"):
        raise ConfigError(f"{name} is not on this machine and RAYDET_OFFLINE is set: {hand}")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
        if size > _MOST_BYTES:
            raise ConfigError(f"{name}: {url} has {size} bytes, more than weights have")
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"weights   {url}", file=sys.stderr, flush=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem[-8:], progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:  # no network, no right to write; another SHA-256
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{name} cannot be downloaded ({reason}): {hand}, or start from random weights: --model.weights none"
        ) from error
    return path
