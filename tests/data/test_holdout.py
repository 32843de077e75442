"""A validation split drawn from the training split: its share, its stability, and what stays together."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data import ClassificationIndex, open_split
from raydet.exceptions import DataError


def photo(seed: int) -> Image.Image:
    """An image like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)


def folder(root: Path, counts: dict[str, int], name: str = "{i:03d}.png") -> Config:
    for number, (label, count) in enumerate(counts.items()):
        (root / label).mkdir(parents=True)
        for i in range(count):
            photo(1000 * number + i).save(root / label / name.format(i=i, label=label))
    places = {"data.format": "folder", "data.root": str(root), "data.train": ".", "data.val": "."}
    return override(Config(), places | {"model.name": "efficientnet_b0", "data.val_fraction": 0.2})


def split(cfg: Config) -> tuple[set[str], set[str]]:
    train, val = (open_split(cfg, which) for which in ("train", "val"))
    assert isinstance(train, ClassificationIndex) and train.class_names == val.class_names
    return set(train.names.tolist()), set(val.names.tolist())


def test_each_class_is_divided_and_nothing_is_on_both_sides(tmp_path: Path) -> None:
    cfg = folder(tmp_path / "set", {"cat": 30, "dog": 10, "owl": 2})
    train, val = split(cfg)
    assert not train & val and len(train | val) == 42
    assert [sum(name.startswith(label) for name in val) for label in ("cat", "dog", "owl")] == [6, 2, 1]
    assert split(cfg) == (train, val) != split(override(cfg, {"run.seed": cfg.run.seed + 1}))


def test_what_is_drawn_goes_by_content_and_not_by_name(tmp_path: Path) -> None:
    cfg = folder(tmp_path / "set", {"cat": 20, "dog": 20})
    before = {(tmp_path / "set" / name).read_bytes() for name in split(cfg)[1]}
    for path in sorted((tmp_path / "set").rglob("*.png")):
        path.rename(path.with_name(f"{path.parent.name}{path.stem[::-1]}x.png"))
    assert {(tmp_path / "set" / name).read_bytes() for name in split(cfg)[1]} == before


def test_copies_near_copies_and_crops_of_one_photo_stay_together(tmp_path: Path) -> None:
    cfg = folder(tmp_path / "copies", {"cat": 20})
    for i in range(0, 20, 2):
        photo(i).save(tmp_path / "copies" / "cat" / f"near{i}x.png", compress_level=0)
        photo(i).resize((96, 72)).save(tmp_path / "copies" / "cat" / f"larger{i}x.png")
    train, val = split(cfg)
    for i in range(0, 20, 2):
        names = {f"cat/{i:03d}.png", f"cat/near{i}x.png", f"cat/larger{i}x.png"}
        assert names <= train or names <= val
    cfg = folder(tmp_path / "crops", {"cat": 40})
    for i, path in enumerate(sorted((tmp_path / "crops").rglob("*.png"))):
        path.rename(path.with_name(f"photo{i // 4}_{i % 4}.png"))
    train, val = split(cfg)
    assert val and len({name.partition("_")[0] for name in val}) * 4 == len(val)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    cfg = folder(tmp_path / "set", {"cat": 1})
    with pytest.raises(DataError, match=r"too few to hold some of them back \(data\.val_fraction\)"):
        open_split(cfg, "val")
