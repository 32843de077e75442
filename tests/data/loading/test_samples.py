"""From file and truth to the network's input."""

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.loading.samples import EVAL, fill_colour, input_size, sample, sample_seed
from raydet.exceptions import DataError
from tests.data.makers import make_image


def index_of(cfg: Config) -> DetectionIndex:
    index = open_split(cfg, "train")
    assert isinstance(index, DetectionIndex)
    return index


def test_training_sample_depends_on_seed_epoch_and_row_alone(coco: Config) -> None:
    index = index_of(coco)
    one, again = sample(coco, index, 3, 5), sample(coco, index, 3, 5)
    assert np.array_equal(one.pixels_HW3, again.pixels_HW3)
    others = [sample(coco, index, 4, 5), sample(override(coco, {"run.seed": 1}), index, 3, 5)]
    assert not any(np.array_equal(one.pixels_HW3, other.pixels_HW3) for other in others)


def test_training_truth_leaves_out_crowds_and_small_boxes_and_keeps_the_largest(coco: Config) -> None:
    index = index_of(coco)
    whole = override(coco, {"augment.scale": (1.0, 1.0), "augment.hflip": 0.0})
    first = sample(whole, index, 0, 0)
    assert first.boxes_K4 is not None and first.classes_K is not None
    assert first.boxes_K4.tolist() == pytest.approx(np.array([[4, 3.2, 28, 19.6], [12, 3.2, 36.8, 19.6]]), abs=1e-4)
    assert sample(override(whole, {"data.max_boxes": 1}), index, 0, 0).classes_K.tolist() == [1]
    assert len(sample(override(whole, {"data.min_box": 24.5}), index, 0, 0).boxes_K4) == 0
    index.crowd[0] = True
    assert sample(whole, index, 0, 0).classes_K.tolist() == [1]


def test_evaluation_sample_tells_scale_and_size_of_the_file(coco: Config) -> None:
    one = sample(coco, index_of(coco), EVAL, 2)
    assert (one.scale, one.size) == ((0.8, 0.8), (80, 60))
    assert (one.pixels_HW3[48:] == (124, 116, 104)).all()


def test_image_of_another_size_than_told_is_refused_and_swapping_is_named(coco: Config) -> None:
    index = index_of(coco)
    make_image(0, (80, 60)).save(index.image(1))
    make_image(0, (61, 80)).save(index.image(2))
    with pytest.raises(DataError, match=r"1\.jpg: image 11: the image is 60 x 80, .* says 80 x 60 .*\n.*EXIF"):
        sample(coco, index, 0, 1)
    with pytest.raises(DataError, match="COCO-E22") as caught:
        sample(coco, index, EVAL, 2)
    assert caught.value.hint is None


def test_exif_turned_images_fit_annotations_of_the_turned_size(coco: Config) -> None:
    index = index_of(coco)
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(0, (80, 60)).save(index.image(1), exif=exif)
    make_image(2, (60, 80)).save(index.image(2), exif=exif)
    with pytest.raises(DataError, match=r"data\.exif"):
        sample(override(coco, {"data.exif": False}), index, EVAL, 1)
    for exif_, turned in (("auto", (1,)), (True, (1,)), ("auto", (2,))):
        cfg = override(coco, {"data.exif": exif_, "augment.scale": (0.2, 0.3)})
        assert sample(cfg, index, EVAL, turned[0]).size == (80, 60)
        assert sample(cfg, index, 0, turned[0]).pixels_HW3.shape == (64, 64, 3)
    with pytest.raises(DataError, match="COCO-E22"):
        sample(override(coco, {"data.exif": True}), index, EVAL, 2)


def test_classification_samples_have_labels_and_vary_in_colour(folders: Config) -> None:
    index = open_split(folders, "train")
    one = sample(folders, index, 0, 9)
    assert (one.label, one.pixels_HW3.shape) == (2, (32, 32, 3))
    plain = override(folders, {"augment.autoaugment": None, "augment.color_jitter": 0.0})
    assert not np.array_equal(one.pixels_HW3, sample(plain, index, 0, 9).pixels_HW3)
    assert np.array_equal(sample(folders, index, EVAL, 9).pixels_HW3, sample(plain, index, EVAL, 9).pixels_HW3)


def test_seeds_are_63_bits_and_all_different() -> None:
    seeds = {sample_seed(s, e, r) for s in range(10) for e in range(-1, 10) for r in range(100)}
    assert len(seeds) == 10 * 11 * 100
    assert min(seeds) >= 0 and max(seeds) < 2**63


def test_unresolved_image_size_and_fill_colour() -> None:
    with pytest.raises(ValueError, match="image_size"):
        input_size(Config())
    assert fill_colour(override(Config(), {"augment.fill": 7})) == (7, 7, 7)
