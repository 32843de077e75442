"""The verbs for what is trained and for data: their flags, and what they call.

Torch and Ray are imported after the words are read, so that help and mistakes come at once.
"""

import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from raydet.cli.parser import VerbParser, print_result
from raydet.config import Config, override
from raydet.exceptions import ConfigError

_PLACE = ("data.format", "data.root", "data.train", "data.val", "data.test")
"""Where a data set lies; what a recipe says of it does not count."""
_FEW = 8
"""Images that are predicted without a progress bar."""
_MODEL = "a checkpoint, a run's folder (its best one), an exported ONNX file, or a recipe with foreign model.weights"


def evaluate(words: list[str]) -> None:
    """Score a model on a split."""
    parser = VerbParser(
        "evaluate",
        "Score a model on a split: COCO's figures and AP per class, or top-1 and top-5.",
        examples=(
            "raydet evaluate runs/demo_detection",
            "raydet evaluate runs/demo_detection --evaluation.nms_iou 0.6 --json",
            "raydet evaluate runs/demo_detection --split train --out scored",
        ),
    )
    parser.add_argument("checkpoint", help=_MODEL)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val", help="which images")
    parser.add_argument("--out", metavar="FOLDER", help="folder for metrics.json and a detector's predictions.json")
    options, changes = parser.parse(words)
    from raydet.inference import evaluate

    print_result(evaluate.evaluate(options.checkpoint, changes, split=options.split, out=options.out), options.json)


def predict(words: list[str]) -> int:
    """Find things in images; return the exit code: 0, or 65 for images that cannot be read."""
    parser = VerbParser(
        "predict",
        "Find things in images, draw them, and write predictions.json in COCO's results format.",
        examples=(
            "raydet predict runs/demo_detection photo.jpg --out found",
            "raydet predict runs/demo_detection photos --recursive --score 0.5",
            "raydet predict runs/demo_detection 'photos/2026-*.jpg' --class-agnostic-nms",
        ),
    )
    what = "files, folders, quoted patterns, .txt lists of files"
    once = "drop boxes that overlap a better one of another class too"
    ids = "COCO file whose image ids to write (default: those of the run's own data set for images in it)"
    parser.add_argument("checkpoint", help=_MODEL)
    parser.add_argument("images", nargs="+", help=what)
    parser.add_argument("--out", default="predictions", help="folder for drawings, predictions.json and images.json")
    parser.add_argument("--score", type=float, default=0.3, help="least probability of a detection shown, 0 to 1")
    parser.add_argument("--recursive", action="store_true", help="take the images in sub-folders too")
    parser.add_argument("--max-detections", type=int, help="detections per image (default: evaluation.max_detections)")
    parser.add_argument("--class-agnostic-nms", action="store_true", help=once)
    parser.add_argument("--annotations", metavar="FILE", help=ids)
    options, changes = parser.parse(words)
    if options.max_detections is not None:
        changes["evaluation.max_detections"] = options.max_detections
    if options.class_agnostic_nms:
        changes["evaluation.class_agnostic_nms"] = True
    from raydet.inference.predict import Predictions, describe
    from raydet.terminal.progress_bar import Counter

    run = Predictions(
        options.checkpoint,
        options.images,
        changes,
        score_threshold=options.score,
        out=options.out,
        recursive=options.recursive,
        annotations=options.annotations,
    )
    lines = []
    with Counter("predict   images", len(run), sys.stderr if len(run) > _FEW else StringIO()) as tick:
        for answer in run:
            line = describe(answer, threshold=options.score)
            if options.json:
                lines.append(line)
            else:
                print(line, flush=True)
            tick(1)
    if options.json:
        print_result({"out": options.out, "answers": lines, "unreadable": run.unreadable}, True)
    else:
        print(f"images in {options.out}")
    if run.numbered:
        lost = f"{run.numbered} of {len(run)} images are not in the data set of the others; their ids follow its last"
        print(f"raydet: {lost}", file=sys.stderr)
    if run.failure is not None:
        print(f"raydet: {run.failure}", file=sys.stderr)
        return run.failure.exit_code
    return 0


def export(words: list[str]) -> None:
    """Write a model as an ONNX file."""
    parser = VerbParser(
        "export",
        "Write a trained model, FP32 or quantized, as an ONNX file checked against PyTorch.",
        examples=(
            "raydet export runs/demo_classification digits.onnx",
            "raydet export runs/demo_detection boxes.onnx --nms --images 64",
            "raydet export runs/demo_detection boxes.onnx --target tensorrt",
        ),
    )
    parser.add_argument("checkpoint", help="a checkpoint, a run's folder, or a recipe with foreign model.weights")
    parser.add_argument("out", help="the file, *.onnx")
    parser.add_argument("--target", default="onnxruntime", help="tensorrt, or onnxruntime (for CPUs)")
    parser.add_argument("--nms", action="store_true", help="detectors: boxes, scores, classes come out, suppressed")
    made_up = "held-out images that the check looks at; made-up: 512 of no data set, where the data are not"
    parser.add_argument("--images", type=Literal["made-up"] | int, default=512, help=made_up)  # type: ignore[arg-type]
    options, changes = parser.parse(words)
    from raydet.inference import export

    how = {"target": options.target, "nms": options.nms, "images": options.images}
    report = export.export(options.checkpoint, options.out, changes, **how)
    print_result(report.figures(), options.json)


def bench(words: list[str]) -> None:
    """Time something."""
    from raydet.bench import WHAT, run

    parser = VerbParser(
        "bench",
        "Time what raydet does: a training step, single operations, data, all of it on a GPU, what Ray adds, INT8.",
        examples=(
            "raydet bench step --recipe demo_detection --rounds 3",
            "raydet bench ops --only assign_anchors ema_update",
            "raydet bench data --recipe demo_classification --images-per-s 500",
            "raydet bench quantization runs/demo_classification --out int8",
            "raydet bench own-data /data/shop --model.weights lite0.pth --rounds 3",
        ),
    )
    compiled = "ops: torch.compile's form too; takes minutes on a CPU (default: on a GPU only)"
    parser.add_argument("what", choices=WHAT, help=f"one of {', '.join(WHAT)}")
    parser.add_argument(
        "sources", nargs="*", help="quantization: an FP32 checkpoint or run, or names of models; own-data: a data set"
    )
    parser.add_argument("--qat", metavar="RUN", help="quantization: the run that quantization-aware training gave")
    parser.add_argument("--vs", choices=("effdet", "timm"), help="step: time this library's in turn with ours")
    parser.add_argument("--batch", type=int, default=4, help="step: images")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed; own-data: seeds")
    parser.add_argument(
        "--recipe", default="efficientdet_d0_coco", help="step, data, own-data: whose model and settings"
    )
    parser.add_argument("--images-per-s", type=float, help="data: what a GPU takes; tells the cores that feed it")
    parser.add_argument("--compiled", action="store_true", default=None, help=compiled)
    parser.add_argument("--keep-memory", action="store_true", help="step: reuse freed memory, as fit's workers do")
    parser.add_argument("--profile", action="store_true", help="step: what share each of torch's operations takes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="ops: where")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="ops: which; own-data: sides (default: all)")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="gpu, quantization, own-data: folder for figures and Markdown (default: docs/benchmarks of gpu)",
    )
    options, changes = parser.parse(words)
    print_result(dict(run(options, changes)), options.json)


def check(words: list[str]) -> int:
    """Look through a data set; return the exit code: 0, or 65 for one that `fit` would refuse."""
    parser = VerbParser(
        "check",
        "Look through a data set: every annotation, every image, duplicates, leaks between splits, anchors.",
        examples=(
            "raydet check demo_detection",
            "raydet check /data/shop --split train --out report",
            "raydet check /data/shop --recipe efficientdet_d2_coco",
        ),
    )
    parser.add_argument("data", help="a recipe, an annotation file, data.yaml, or a data set's folder")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), help="which (default: all)")
    parser.add_argument(
        "--recipe", help="the recipe that a data set is for (default: efficientdet_d0, or _b0 of classes)"
    )
    written = "report.json, quarantine.txt, duplicates.csv and plots"
    parser.add_argument("--out", default="check", help=f"folder for {written}")
    options, changes = parser.parse(words)
    from raydet.audit import check, report

    audit = check.check(_data_config(options.data, options.recipe, changes), options.split, out=options.out)
    if options.json:
        print_result(report.to_dict(audit), True)
    else:
        print("\n".join(report.lines(audit, Path(options.out))))
    return 0 if audit.verdict is None else 65


def convert(words: list[str]) -> None:
    """Write a data set as COCO or YOLO."""
    parser = VerbParser(
        "convert",
        "Write a data set of any format as COCO or YOLO. `raydet export` is for models.",
        examples=(
            "raydet convert /data/voc /data/voc-as-coco --to coco",
            "raydet convert labels.csv out --to yolo --copy --data.on_bad skip",
        ),
    )
    parser.add_argument("data", help="a recipe, an annotation file, data.yaml, or a data set's folder")
    parser.add_argument("out", help="folder to make; it must not exist, or be empty")
    parser.add_argument("--to", choices=("coco", "yolo"), default="coco", help="the format to write")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of making hard links")
    options, changes = parser.parse(words)
    from raydet.data.convert import convert

    done = convert(_data_config(options.data, None, changes), options.out, options.to, copy=options.copy)
    values: dict[str, Any] = {"out": str(done.dir), "format": done.to}
    values |= {f"{split}_images": count for split, count in done.images.items()}
    values |= {f"{split}_boxes": count for split, count in done.boxes.items()}
    values |= {"crowds_left_out": done.crowds_left_out, "outside_left_out": done.outside_left_out}
    print_result(values, options.json)


def _data_config(name: str, recipe: str | None, changes: Mapping[str, Any]) -> Config:
    """Return the recipe of that name, or the configuration that fits the data set at that path, with `changes`.

    Args:
        recipe: what the data set at a path is for; None: the defaults, of the task that it looks like.
    """
    from raydet import recipes
    from raydet.config import as_flat
    from raydet.data.formats.detect_format import guess

    if name in recipes.RECIPES:
        cfg = recipes.recipe(name)
    elif "://" in name:  # not shown again: it may hold a password
        how = "name a recipe and where its data are: raydet check efficientdet_d0_coco --data.root s3://..."
        raise ConfigError(f"what lies in a store is not guessed; {how} --data.format ... --data.train ...")
    elif "/" in name or Path(name).exists():
        wanted = changes.get("data.format")
        cfg = guess(Path(name).expanduser(), lambda text: print(f"raydet: {text}", file=sys.stderr), wanted)
        if recipe is not None:
            found = {key: value for key, value in as_flat(cfg).items() if key.startswith("data.")}
            plain = as_flat(Config())
            cfg = override(recipes.recipe(recipe), {k: v for k, v in found.items() if v != plain[k] or k in _PLACE})
    else:
        try:
            cfg = recipes.recipe(name)
        except ConfigError as error:  # says which names are near
            raise ConfigError(f"no such file or folder, and {error}") from None
    return override(cfg, changes)
