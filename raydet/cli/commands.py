"""The verbs of the command line, each with its own flags; whatever else begins with -- is a setting. No tyro here."""

from pathlib import Path

from raydet.cli.parser import new_parser, parse, print_result
from raydet.config import Config, override
from raydet.exceptions import ConfigError


def evaluate(words: list[str]) -> None:
    """Score a model on a split."""
    parser = new_parser(
        "evaluate", "Score a checkpoint, a run's best one, an exported ONNX file, or foreign model.weights."
    )
    parser.add_argument("checkpoint")
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    options, rest = parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.config.arguments import parse_changes
    from raydet.inference import evaluate

    print_result(evaluate.evaluate(options.checkpoint, parse_changes(rest), split=options.split), options.json)


def predict(words: list[str]) -> None:
    """Find things in images."""
    parser = new_parser("predict", "Find things in images; draw them and write COCO results.")
    parser.add_argument("checkpoint")
    parser.add_argument("images", nargs="+", help="image files, or folders of them")
    parser.add_argument("--out", default="predictions", help="folder for the images and predictions.json")
    parser.add_argument("--score", type=float, default=0.3, help="least probability of a detection that is shown")
    options, rest = parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.config.arguments import parse_changes
    from raydet.inference import predict

    answers = predict.predict(
        options.checkpoint, options.images, parse_changes(rest), score_threshold=options.score, out=options.out
    )
    lines = [predict.describe(answer) for answer in answers]
    if options.json:
        print_result({"out": options.out, "answers": lines}, True)
    else:
        print("\n".join([*lines, f"images in {options.out}"]))


def export(words: list[str]) -> None:
    """Write a model as an ONNX file."""
    parser = new_parser("export", "Write a trained model, float or quantized, as an ONNX file checked against PyTorch.")
    parser.add_argument("checkpoint", help="a checkpoint, a run's folder, or a recipe with foreign model.weights")
    parser.add_argument("out", help="the file, *.onnx")
    parser.add_argument("--target", default="onnxruntime", help="tensorrt, or onnxruntime (for CPUs)")
    parser.add_argument("--nms", action="store_true", help="detectors: boxes, scores, classes come out, suppressed")
    parser.add_argument("--images", type=int, default=512, help="held-out images that the check looks at")
    options, rest = parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.config.arguments import parse_changes
    from raydet.inference import export

    how = {"target": options.target, "nms": options.nms, "images": options.images}
    report = export.export(options.checkpoint, options.out, parse_changes(rest), **how)
    print_result(report.figures(), options.json)


def bench(words: list[str]) -> None:
    """Time something."""
    from raydet.bench import WHAT, run

    parser = new_parser("bench", "Time what raydet does.")
    parser.add_argument("what", choices=WHAT, help="a step, operations, data, all on a GPU, what Ray adds, INT8")
    parser.add_argument("sources", nargs="*", help="quantization: a float checkpoint or run, or names of models")
    parser.add_argument("--qat", help="quantization: the run that quantization-aware training gave")
    parser.add_argument("--vs", choices=("effdet", "timm"), help="step: time this library's in turn with ours")
    parser.add_argument("--batch", type=int, default=4, help="step: images")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--recipe", default="efficientdet_d0_coco", help="step, data: whose model and settings")
    parser.add_argument("--images-per-s", type=float, help="data: what a GPU takes; says how many cores feed it")
    parser.add_argument("--compiled", action="store_true", default=None, help="torch.compile's form too; takes minutes")
    parser.add_argument("--keep-memory", action="store_true", help="step: keep freed memory, as fit's workers do")
    parser.add_argument("--profile", action="store_true", help="step: what share each of torch's operations takes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="ops: where")
    parser.add_argument("--only", nargs="+", metavar="OP", help="ops: which; all by default")
    parser.add_argument("--out", help="gpu (docs/benchmarks), quantization (nowhere): folder for figures and Markdown")
    options, rest = parse(parser, words)
    if options.help:
        return print(parser.format_help())
    from raydet.config.arguments import parse_changes

    print_result(dict(run(options, parse_changes(rest))), options.json)


def check(words: list[str]) -> int:
    """Look through a data set; return the exit code: 0, or 65 for one that `fit` would refuse."""
    parser = new_parser("check", "Look through a data set: every annotation, every image, doubles, leaks, anchors.")
    parser.add_argument("data", help="a recipe, an annotation file, data.yaml, or a data set's folder")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), help="which; all by default")
    parser.add_argument("--out", default="check", help="folder for report.json, quarantine.txt and plots")
    options, rest = parse(parser, words)
    if options.help:
        print(parser.format_help())
        return 0
    from raydet.audit import check, report

    audit = check.check(_data_config(options.data, rest), options.split, out=options.out)
    if options.json:
        print_result(report.to_dict(audit), True)
    else:
        print("\n".join(report.lines(audit, Path(options.out))))
    return 0 if audit.verdict is None else 65


def _data_config(name: str, rest: list[str]) -> Config:
    """The recipe of that name, or the configuration that fits the data set at that path, with the changes in `rest`."""
    from raydet import recipes
    from raydet.config.arguments import parse_changes
    from raydet.data.formats.detect_format import guess

    if name in recipes.RECIPES:
        cfg = recipes.recipe(name)
    elif "://" in name:  # not shown again: it may hold a password
        how = "name a recipe and where its data are: raydet check efficientdet_d0_coco --data.root s3://..."
        raise ConfigError(f"what lies in a store is not guessed; {how} --data.format ... --data.train ...")
    elif "/" in name or Path(name).exists():
        cfg = guess(Path(name).expanduser())
    else:
        try:
            cfg = recipes.recipe(name)
        except ConfigError as error:  # says which names are near
            raise ConfigError(f"no such file or folder, and {error}") from None
    return override(cfg, parse_changes(rest))
