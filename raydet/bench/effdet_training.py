"""effdet 0.4.1 trained as its own train.py trains by default, on a CPU: the other side of `raydet bench own-data`.

Its model, train bench, labeler, loss, loader, transforms and COCO parser; SGD with momentum 0.9, learning rate 0.01,
weight decay 4e-5 not on biases and norms, gradient norm clipped at 10, linear warm-up of 5 epochs from 1e-4 and a
cosine to 1e-5, no EMA. Its prefetcher needs CUDA, so pixels are normalized here.

    python -m raydet.bench.effdet_training COCO --weights FILE --size 384 --epochs 19 --batch 8 --seed 0
"""

import argparse
import contextlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydet import models
from raydet.bench.step import effdets_sgd
from raydet.config import Config, override
from raydet.models import weights
from raydet.training.resume import as_weights_want
from raydet.training.schedule import learning_rate

_SETTINGS = {
    "optim.lr": 0.01,
    "optim.momentum": 0.9,
    "optim.weight_decay": 4e-5,
    "optim.grad_clip": 10.0,
    "schedule.warmup_epochs": 5.0,
    "schedule.warmup_lr": 1e-4,
    "schedule.min_lr": 1e-5,
}


def main() -> None:
    """Train, keep the epoch that is best on the validation split, and print its COCO figures on the test split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco", type=Path, help="folder with annotations/instances_{train,val,test}.json")
    parser.add_argument("--model", default="tf_efficientdet_lite0")
    parser.add_argument("--weights", help="of the backbone; none: random")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seeded in (random.seed, np.random.seed, torch.manual_seed):
        seeded(options.seed)
    with contextlib.redirect_stdout(sys.stderr):  # pycocotools prints
        found = _train(options)
    print(json.dumps(found))


def _train(options: argparse.Namespace) -> dict[str, Any]:
    splits = {name: _dataset(options.coco, name) for name in ("train", "val", "test")}
    classes = len(splits["train"].parser.cat_ids)
    bench, mean, std = _bench(options, classes)
    train = _loader(splits["train"], options, training=True, mean=mean)
    cfg = override(Config(), {**_SETTINGS, "schedule.epochs": options.epochs})
    optimizer = effdets_sgd(bench, cfg.optim)
    best, kept, curve = -1.0, None, []
    for epoch in range(options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, epoch)
        bench.train()
        for images, target in _batches(train, mean, std):
            loss = bench(images, target)["loss"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(bench.parameters(), _SETTINGS["optim.grad_clip"])
            optimizer.step()
        score = _score(bench, splits["val"], options, mean, std)
        curve.append(round(score["AP50"], 4))
        print(f"epoch {epoch + 1}/{options.epochs}  loss {loss.item():.3f}  val {score}", file=sys.stderr, flush=True)
        if score["AP"] > best:
            best, kept = score["AP"], {name: value.clone() for name, value in bench.state_dict().items()}
    if kept is not None:
        bench.load_state_dict(kept)
    return {**_score(bench, splits["test"], options, mean, std), "val_AP50": curve}


def _bench(options: argparse.Namespace, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return effdet's train bench with the weights in its backbone, and the mean and deviation of pixels they want."""
    from effdet import create_model

    side = (options.size, options.size)
    how = {"pretrained": False, "pretrained_backbone": False, "image_size": side, "num_classes": classes}
    bench = create_model(options.model, bench_task="train", bench_labeler=True, **how)
    cfg = override(Config(), {"model.name": options.model})
    if options.weights is not None:
        ours = models.build(options.model, classes)
        weights.load(ours, options.weights, backbone_only=True)
        backbone = {name: value for name, value in ours.state_dict().items() if name.startswith("backbone.")}
        left = bench.model.load_state_dict(backbone, strict=False)
        if left.unexpected_keys:
            raise SystemExit(f"effdet has no {left.unexpected_keys[:3]}")
        cfg = as_weights_want(override(cfg, {"model.backbone_weights": options.weights}))
    mean, std = cfg.data.mean or (0.5, 0.5, 0.5), cfg.data.std or (0.5, 0.5, 0.5)
    return bench, *(255 * torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))


def _dataset(coco: Path, split: str) -> Any:
    from effdet.data.dataset import DetectionDatset
    from effdet.data.parsers import CocoParserCfg, create_parser

    file = coco / "annotations" / f"instances_{split}.json"
    return DetectionDatset(coco / split, parser=create_parser("coco", cfg=CocoParserCfg(ann_filename=str(file))))


def _loader(dataset: Any, options: argparse.Namespace, *, training: bool, mean: Tensor) -> Any:
    from effdet.data import create_loader
    from effdet.data.transforms import transforms_coco_eval, transforms_coco_train

    transform = transforms_coco_train if training else transforms_coco_eval
    how = {"interpolation": "random"} if training else {}
    shares = tuple((mean / 255).flatten().tolist())
    return create_loader(
        dataset,
        input_size=options.size,
        batch_size=options.batch,
        is_training=training,
        use_prefetcher=False,
        num_workers=0,
        transform_fn=transform(options.size, use_prefetcher=True, mean=shares, **how),
    )


def _batches(loader: Any, mean: Tensor, std: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for images, target in loader:
        yield images.float().sub_(mean).div_(std), target


@torch.no_grad()
def _score(bench: nn.Module, dataset: Any, options: argparse.Namespace, mean: Tensor, std: Tensor) -> dict[str, float]:
    from pycocotools.cocoeval import COCOeval

    bench.eval()
    ids, rows = dataset.parser.img_ids, []
    for images, target in _batches(_loader(dataset, options, training=False, mean=mean), mean, std):
        for index, found in zip(target["img_idx"].tolist(), bench(images, target)["detections"].tolist(), strict=True):
            for x1, y1, x2, y2, confidence, label in found:
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": ids[index], "category_id": int(label), "bbox": box, "score": confidence})
    with contextlib.redirect_stdout(io.StringIO()):
        scorer = COCOeval(dataset.parser.coco, dataset.parser.coco.loadRes(rows), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return {"AP": float(scorer.stats[0]), "AP50": float(scorer.stats[1]), "AP75": float(scorer.stats[2])}


if __name__ == "__main__":
    main()
