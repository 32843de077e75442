"""`raydet bench data`: what a training sample costs before the network sees it, by back end and stage, beside peers.

Everything is done in this process, on one core: it is work per core that is compared, not transport between processes.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from PIL import Image

from raydet.bench.timing import has, in_turn, machine
from raydet.config import Config, override
from raydet.data import Index, open_split
from raydet.data.columns import Ints, spread_over
from raydet.data.images.dali_decoder import installed
from raydet.data.images.resample import cut
from raydet.data.loading.batch_dataset import Maker, collated
from raydet.data.loading.samples import finished, opened, plan_sample, shrink, stated_size
from raydet.data.storage.cache import cache_dir
from raydet.data.storage.files import Blob
from raydet.exceptions import ConfigError, DataError
from raydet.recipes import recipe
from raydet.training.memory import keep_freed_memory
from raydet.training.state import resolve_model

SIZE = (500, 375)
"""Width and height of the images that are made: ImageNet's median."""
_IMAGES = 64
_BATCH = 32
_VERSION = 1


def bench_data(
    name: str, changes: Mapping[str, Any], rounds: int = 5, images_per_s: float | None = None, peers: bool = True
) -> dict[str, Any]:
    """Time training samples, from file to batch, by each back end and peer in turn.

    Args:
        name: recipe whose input size and augmentation are used; AutoAugment and jitter are off unless `changes` say so.
        changes: settings; with data.root the images are the user's, else photos of SIZE are made.
        images_per_s: what a GPU takes; the report says how many cores feed it.

    Returns:
        `rows` (back end, ms of CPU time per image: median, least, most; images/s and core; ratio to torch), `stages`
        (share of the torch back end's time), and `bytes` of a file.

    Raises:
        ConfigError: a setting that cannot be used, or a back end that is not installed. DataError: the data.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    cfg = _config(name, changes)
    index = open_split(cfg, "train")
    every = index.train_rows(cfg)
    rows = every[spread_over(len(every), _IMAGES)]
    sides: dict[str, Callable[[], object]] = {"torch": _ours(cfg, index, rows)}
    if installed():
        sides["dali-cpu"] = _ours(override(cfg, {"data.backend": "dali-cpu"}), index, rows)
    if peers and cfg.data.format in ("coco", "folder"):
        sides |= _peers(cfg, index, rows)
    times = in_turn(sides, torch.device("cpu"), rounds)
    per_image = {side: [1e3 * s / len(rows) for s in (t.median, t.least, t.most)] for side, t in times.items()}
    return {
        "recipe": name,
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "images": len(rows),
        "rounds": rounds,
        "bytes": _mean_bytes(index, rows),
        "rows": [
            {"backend": side, "ms": ms, "least_ms": least, "most_ms": most, "images_per_s_core": 1e3 / ms}
            | {"torch_over_it": per_image["torch"][0] / ms}
            | ({} if images_per_s is None else {"cores": math.ceil(images_per_s * ms / 1e3)})
            for side, (ms, least, most) in per_image.items()
        ],
        "stages": stages(cfg, index, rows, rounds),
    }


def print_table(found: Mapping[str, Any]) -> None:
    """Print what `bench_data` returned."""
    size = f"{found['bytes'] / 1e3:.0f} kB a file"
    print(f"{found['recipe']}, {found['images']} images ({size}), {found['rounds']} rounds, {found['machine']}")
    for row in found["rows"]:
        spread = f"{row['least_ms']:.2f} to {row['most_ms']:.2f}"
        cores = f"  {row['cores']} cores feed the GPU" if "cores" in row else ""
        ratio = f"torch / it {row['torch_over_it']:.2f}"
        rate = f"{row['images_per_s_core']:6.0f} images/s a core"
        print(f"{row['backend']:<9} {row['ms']:6.2f} ms CPU an image ({spread})  {rate}  {ratio}{cores}")
    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in found["stages"].items())
    print(f"stages of torch: {shares}")


def stages(cfg: Config, index: Index, rows: Ints, rounds: int) -> dict[str, float]:
    """Return the share of the torch back end's time that each stage takes."""
    spent = dict.fromkeys(("header", "draw", "decode", "cut and resize", "vary, place, truth", "batch"), 0.0)
    size = int(cfg.model.image_size or 0)
    for epoch in range(rounds):
        pixels_BHW3 = np.empty((len(rows), size, size, 3), np.uint8)
        samples = []
        for i, row in enumerate(rows.tolist()):
            clock = [process_time()]
            with opened(cfg, index.image(row), stated_size(index, row)) as image_file:
                clock.append(process_time())
                made = plan_sample(cfg, index, epoch, row, image_file)
                clock.append(process_time())
                image, factor = image_file.load(shrink(made))
                clock.append(process_time())
                content_HW3 = cut(made.view, image, cfg.augment.interpolation, factor)
                clock.append(process_time())
            samples.append(finished(cfg, index, made, content_HW3, pixels_BHW3[i]))
            clock.append(process_time())
            for stage, start, end in zip(spent, clock, clock[1:], strict=False):
                spent[stage] += end - start
        start = process_time()
        collated(cfg, epoch, pixels_BHW3, samples, {})
        spent["batch"] += process_time() - start
    total = sum(spent.values())
    return {stage: seconds / total for stage, seconds in spent.items()}


def _config(name: str, changes: Mapping[str, Any]) -> Config:
    cfg = override(recipe(name), {"data.workers": 0, "augment.autoaugment": None, "augment.color_jitter": 0.0})
    if "data.root" not in changes:
        root = str(make_photos())
        coco = {"data.format": "coco", "data.train": "photos.json", "data.train_images": "train/photos"}
        detects = cfg.task == "detection"
        made = coco if detects else {"data.format": "folder", "data.train": "train", "data.val": "train"}
        cfg = override(cfg, {"data.root": root, "data.class_ids": "contiguous", **made})
    cfg = override(cfg, changes)
    if cfg.data.backend != "torch":
        raise ConfigError("data.backend: all of this machine's back ends are timed; leave it away")
    return resolve_model(cfg)


def make_photos() -> Path:
    """Return a folder of 64 JPEGs cut from scikit-learn's two photos, with random boxes; made if it is not there.

    Raises:
        DataError: scikit-learn is not installed.
    """
    root = cache_dir() / f"bench-photos-v{_VERSION}"
    if root.is_dir():
        return root
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        hint = 'pip install "raydet[demo]", or name images of your own: --data.root FOLDER'
        raise DataError("scikit-learn is not installed", rule="DIR-E01", hint=hint) from None
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng, fresh = np.random.default_rng(0), root.with_name(f"{root.name}-{uuid4().hex}")
    (fresh / "train" / "photos").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(_IMAGES):
        photo, share = photos[i % 2], rng.uniform(0.85, 1)
        factor = share * min(photo.width / SIZE[0], photo.height / SIZE[1])
        width, height = int(SIZE[0] * factor), int(SIZE[1] * factor)
        x, y = int(rng.integers(0, photo.width - width + 1)), int(rng.integers(0, photo.height - height + 1))
        part = photo.crop((x, y, x + width, y + height)).resize(SIZE, Image.Resampling.BICUBIC)
        part.save(fresh / "train" / "photos" / f"{i:03}.jpg", quality=90)
        images.append({"id": i, "file_name": f"{i:03}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for _ in range(7):  # COCO's mean
            w, h = rng.uniform(16, 180, 2)
            box = [rng.uniform(0, SIZE[0] - w), rng.uniform(0, SIZE[1] - h), w, h]
            of = {"id": len(annotations), "image_id": i, "category_id": 1 + len(annotations) % 80}
            annotations.append({**of, "bbox": box, "area": w * h, "iscrowd": 0})
    classes = [{"id": i, "name": f"class {i}"} for i in range(1, 81)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": classes})
    (fresh / "photos.json").write_text(text)
    fresh.rename(root)
    return root


def _ours(cfg: Config, index: Index, rows: Ints) -> Callable[[], object]:
    maker, epochs = Maker(cfg, index, rows), iter(range(10**9))

    def make() -> None:
        epoch = next(epochs)
        for start in range(0, len(rows), _BATCH):
            batch = maker[epoch, rows[start : start + _BATCH]]
            if isinstance(batch, DataError):
                raise batch

    return make


def _mean_bytes(index: Index, rows: Ints) -> float:
    sources = [index.image(int(row)) for row in rows]
    return float(np.mean([len(s.data) if isinstance(s, Blob) else s.stat().st_size for s in sources]))


def _peers(cfg: Config, index: Index, rows: Ints) -> dict[str, Callable[[], object]]:
    if cfg.task == "classification" and has("timm"):
        return {"timm": _timm(cfg, index, rows)}
    if cfg.task == "detection" and has("effdet"):
        return {"effdet": _effdet(cfg, index, rows)}
    return {}


def _timm(cfg: Config, index: Index, rows: Ints) -> Callable[[], object]:
    """timm's training transform on its data set, to the 8-bit batch that its loader hands to the GPU."""
    from timm.data import ImageDataset, create_transform
    from timm.data.loader import fast_collate

    augment = cfg.augment
    transform = create_transform(
        cfg.model.image_size,
        is_training=True,
        use_prefetcher=True,
        scale=augment.crop_area,
        ratio=augment.crop_ratio,
        hflip=augment.hflip,
        color_jitter=None,
        interpolation=augment.interpolation,
    )
    images = ImageDataset(index.file, transform=transform)
    wanted = rows.tolist()

    def make() -> None:
        for start in range(0, len(wanted), _BATCH):
            fast_collate([images[row] for row in wanted[start : start + _BATCH]])

    return make


def _effdet(cfg: Config, index: Index, rows: Ints) -> Callable[[], object]:
    """effdet's training transform on its data set, to the 8-bit batch that its loader hands to the GPU."""
    from effdet.data.dataset import DetectionDatset
    from effdet.data.loader import DetectionFastCollate
    from effdet.data.parsers import CocoParserCfg, create_parser
    from effdet.data.transforms import transforms_coco_train

    parser = create_parser("coco", cfg=CocoParserCfg(ann_filename=index.file))
    transform = transforms_coco_train(cfg.model.image_size, cfg.augment.interpolation, use_prefetcher=True)
    images = DetectionDatset(Path(index.files.place), parser=parser, transform=transform)
    collate, wanted = DetectionFastCollate(), rows.tolist()

    def make() -> None:
        for start in range(0, len(wanted), _BATCH):
            collate([images[row] for row in wanted[start : start + _BATCH]])

    return make
