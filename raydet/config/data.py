"""Sections on what goes in: the network, the data set, the variation of its images."""

from dataclasses import dataclass
from typing import Literal, get_args

from raydet.config.validators import fraction, positive, require, within

AnnotatedFormat = Literal["voc", "labelme", "cvat", "labelstudio", "createml", "csv"]
"""Formats of annotation tools, which raydet.data.formats.annotated reads."""
ANNOTATED: tuple[AnnotatedFormat, ...] = get_args(AnnotatedFormat)
DETECTION_FORMATS = ("coco", "yolo", "parquet", *ANNOTATED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Which network, and what it starts from."""

    name: str = "efficientdet_d0"
    """Variant, as `raydet.models.build` names it, e.g. efficientnet_b0, efficientnet_widese_b4, tf_efficientdet_d0."""
    num_classes: int | None = None
    """Classes of the head. None: as many as the training set has."""
    image_size: int | None = None
    """Side of the square input in pixels. None: the variant's own (512 for D0, 224 for B0)."""
    weights: str | None = None
    """Start from these weights: a path (file, checkpoint or run folder), `effdet:NAME`, `torchvision:NAME`,
    `timm:NAME` or `hf://owner/repo/file`. Of a classifier a detector takes the backbone."""
    weights_source: Literal["raydet", "effdet"] | None = None
    """Who wrote a detector's `weights` where the file does not say, as safetensors outside a checkpoint's folder: both
    name all tensors alike and code boxes otherwise. None: found out."""
    backbone_weights: str | None = None
    """Detection only: start the backbone from these weights of a classifier, same forms as `weights`."""
    dropout: float | None = None
    """Dropout before the classifier, 0 to 1. None: the variant's."""
    drop_path: float | None = None
    """Stochastic depth of the last block; block i of n gets i/n of it (arXiv:1603.09382). None: the variant's."""
    bn_eps: float | None = None
    """Added to the variance in BatchNorm. None: the variant's (timm 1e-5, tf_ and NVIDIA 1e-3)."""
    bn_momentum: float | None = None
    """Weight of a new batch in BatchNorm's running statistics. None: the variant's (timm 0.1, NVIDIA 0.01)."""
    padding: Literal["symmetric", "same"] | None = None
    """Padding of strided convolutions: k//2 on each side, or TensorFlow's. None: the variant's."""
    redundant_bias: bool | None = None
    """Detection: biases before BatchNorm, as TensorFlow's files have them. None: the variant's."""
    anchor_scale: float | None = None
    """Detection: side of the smallest square anchor, in strides of its level; smaller for smaller boxes. None: the
    variant's (4; tf_efficientdet_d7 5, the lite ones 3)."""
    act: Literal["silu", "relu6"] | None = None
    """Activations, but for squeeze-excite's gate; eight bits cover ReLU6 better and int8 CPUs run it faster. None: the
    variant's (the lite ones relu6, all others silu)."""
    freeze: tuple[str, ...] = ()
    """Parts whose parameters are not trained and whose BatchNorm stays in eval mode, e.g. backbone."""
    freeze_bn: bool = False
    """Keep all BatchNorm statistics as they are (their scale and shift are still trained)."""
    sync_bn: bool = False
    """BatchNorm over all workers' batches (torch SyncBatchNorm; GPUs only)."""

    def __post_init__(self) -> None:
        require(bool(self.name), "model.name must not be empty")
        positive("model", self, "num_classes", "image_size", "bn_eps", "anchor_scale")
        fraction("model", self, "dropout", "drop_path", "bn_momentum")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Where the images are and how they are read."""

    format: Literal["coco", "folder", "yolo", "parquet", AnnotatedFormat] = "coco"
    """coco: annotation JSON and image folders. folder: one folder of images per class (ImageFolder). yolo: data.yaml
    beside images/ and labels/, or obj.names or classes.txt. parquet: rows with the image's bytes and its boxes, or its
    label. voc: an XML file an image. labelme: a JSON file an image. cvat (for images), labelstudio, createml, csv: one
    file for many images."""
    root: str = "."
    """Folder of the data set, also s3://bucket/folder or gs://bucket/folder. `demo://detection` and
    `demo://classification` are made on the spot."""
    train: str = "annotations/instances_train2017.json"
    """Training split under root: the JSON (coco) or the folder (folder)."""
    val: str = "annotations/instances_val2017.json"
    """Validation split, same form."""
    val_fraction: float | None = None
    """Share of the training split that is held back for validation, instead of data.val: drawn by content and run.seed,
    with copies and images of one source on one side. None: data.val is the validation split."""
    test: str | None = None
    """Test split, same form, for `raydet evaluate --split test`."""
    train_images: str | None = None
    """coco: folder of the training images under root. None: found by the JSON's name (instances_X.json -> X)."""
    val_images: str | None = None
    """coco: folder of the validation images. None: found by the JSON's name."""
    test_images: str | None = None
    """coco: folder of the test images. None: found by the JSON's name."""
    class_ids: Literal["contiguous", "raw"] = "contiguous"
    """coco: class i is the i-th category in order of id, or raw: the category with id i + 1, gaps included."""
    backend: Literal["torch", "dali-cpu", "dali-gpu"] = "torch"
    """Who decodes: Pillow (torch) or NVIDIA DALI, on the CPU or on the worker's GPU. The images are the same."""
    batch_size: int = 32
    """Images per worker that go through the network at once. Times the (highest) number of workers it is the global
    batch, unless optim.batch_size asks for more."""
    eval_batch_size: int | None = None
    """Images per worker and batch in evaluation. None: as batch_size."""
    workers: int = 4
    """Loader processes per worker; 0: load in the training process."""
    prefetch: int = 2
    """Batches each loader process holds ready."""
    drop_last: bool = False
    """Drop the last, incomplete global batch of an epoch. False: it is filled up from the epoch's start."""
    skip_empty: bool = True
    """Training: leave out images without a usable box. Evaluation always keeps them."""
    min_box: float = 1.0
    """Training: boxes narrower or lower than this are dropped, in pixels of the file and again of the input."""
    max_boxes: int | None = None
    """Training: at most this many boxes per image, the largest first. None: all."""
    mean: tuple[float, float, float] | None = None
    """Subtracted from each channel's intensity, 0 to 1. None: what the weights were trained with, else ImageNet's."""
    std: tuple[float, float, float] | None = None
    """What the result is divided by. None: as for the mean."""
    exif: Literal["auto"] | bool = "auto"
    """Turn images by their EXIF orientation. auto: where annotations state the size of the turned image and not
    that of the stored one (COCO's state the stored one); where none state a size (YOLO, class folders, predict):
    always. A TIFF is always turned."""
    max_pixels: int = 100_000_000
    """Larger images are refused at their header (decompression bombs)."""
    on_bad: Literal["fail", "skip"] = "fail"
    """An unreadable image or a faulty record ends the run, or is left out (in training replaced by another image) and
    counted."""
    max_bad: float = 0.01
    """on_bad=skip: the share of unreadable images or faulty records above which the run ends all the same."""
    quarantine: str | None = None
    """A list of images to leave out, as `raydet check` writes quarantine.txt: split, name and rule a line, with tabs
    between; or a name a line, for all splits. None: none."""
    on_leak: Literal["warn", "drop"] = "warn"
    """drop: a training image that is in another split too, or nearly (IMG-W15, IMG-W17 of `raydet check`), is left
    out. Each image is looked at once for that, some 300 a second and core, and the result kept. warn: `raydet check`
    says so."""

    def __post_init__(self) -> None:
        positive("data", self, "batch_size", "eval_batch_size", "prefetch", "max_boxes", "max_pixels")
        require(self.workers >= 0, f"data.workers must be >= 0, got {self.workers}")
        require(self.min_box >= 0, f"data.min_box must be >= 0, got {self.min_box}")
        fraction("data", self, "max_bad", "val_fraction")
        for name, least in (("mean", 0.0), ("std", 1e-3)):
            values = getattr(self, name)
            fits = values is None or all(least <= value <= 1 for value in values)
            require(fits, f"data.{name} must be three numbers from {least:g} to 1, got {values}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """How training images are varied; every random number depends on (run.seed, epoch, sample) only."""

    hflip: float = 0.5
    """Probability of a horizontal flip."""
    scale: tuple[float, float] = (0.1, 2.0)
    """Detection: the image is scaled by a factor drawn from this range, 1 = fits the input."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Classification: share of the image's area that the random crop takes."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Classification: width / height of the random crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, in training and evaluation."""
    fill: Literal["mean"] | int = "mean"
    """Detection: colour outside the image, data.mean or a grey level 0 to 255."""
    autoaugment: Literal["imagenet"] | None = None
    """Classification: AutoAugment policy (arXiv:1805.09501), grey fill 128."""
    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation; 0: off."""
    mixup: float = 0.0
    """Classification: alpha of mixup (arXiv:1710.09412); 0: off."""
    eval_margin: int = 32
    """Classification: evaluation resizes the short side to image_size + this, then takes the centre."""

    def __post_init__(self) -> None:
        fraction("augment", self, "hflip")
        within("augment.scale", self.scale, 0.01, 10)
        within("augment.crop_area", self.crop_area, 0.001, 1)
        within("augment.crop_ratio", self.crop_ratio, 0.1, 10)
        for name in ("color_jitter", "mixup", "eval_margin"):
            require(getattr(self, name) >= 0, f"augment.{name} must be >= 0, got {getattr(self, name)}")
        if isinstance(self.fill, int):
            require(0 <= self.fill <= 255, f"augment.fill must be 'mean' or 0 to 255, got {self.fill}")
