"""What people type by habit from other programs, or by mistake: one line that says what to type instead."""

import shlex

import pytest

from raydet.cli import main as cli


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.mark.parametrize(
    ("verb", "meant"),
    [
        *(("train", "fit"), ("fti", "fit")),
        *((verb, "evaluate") for verb in ("val", "validate", "test", "eval")),
        *((verb, "predict") for verb in ("detect", "infer", "inference")),
        *((verb, "tune") for verb in ("search", "hpo", "sweep")),
        *(("onnx", "export"), ("benchmark", "bench")),
    ],
)
def test_another_programs_verb_is_answered_with_ours(verb: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([verb, "demo_classification"]) == cli.USAGE
    assert capsys.readouterr().err.endswith(f"did you mean `raydet {meant}`?\n")


DEMO = "fit demo_classification "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # a setting as other programs have it
        (DEMO + "epochs=3", "epochs=3: a setting is written --section.field value; did you mean --schedule.epochs 3?"),
        ("fit epochs=3", "did you mean --schedule.epochs 3?"),
        (DEMO + "lr=0.1", "did you mean --optim.lr 0.1?"),
        (DEMO + "optim.lr=0.1", "did you mean --optim.lr 0.1?"),
        (DEMO + "--optim.lr 0.1 epochs=3", "epochs=3: a setting is written"),
        (DEMO + "data=shop/data.yaml", "did you mean --data.format yolo --data.root shop?"),
        (DEMO + "--epochs 3", "--epochs: no such flag; did you mean --schedule.epochs 3?"),
        (DEMO + "--lr=0.1", "--lr: no such flag; did you mean --optim.lr 0.1?"),
        (DEMO + "--epoch 3", "did you mean --schedule.epochs 3?"),
        (DEMO + "--imgsz 640", "did you mean --model.image_size 640?"),
        (DEMO + "--batch 8", "did you mean --data.batch_size 8 or --optim.batch_size 8?"),
        (DEMO + "--batch-size 8", "did you mean --data.batch_size 8 or --optim.batch_size 8?"),
        (DEMO + "--workers 2", "did you mean --data.workers 2 or --scaling.num_workers 2?"),
        (DEMO + "--device cuda", "did you mean --scaling.use_gpu true|false?"),
        (DEMO + "--amp --json", "did you mean --precision.mode {fp32,tf32,bf16,fp16}?"),
        ("fit --recipe demo_classification", "a recipe is written without a flag: raydet fit demo_classification"),
        # a name that is not there
        (DEMO + "--optim.lrr 1", "--optim.lrr: no such setting; did you mean --optim.lr 1?"),
        (DEMO + "--optim.epochs 1", "did you mean --schedule.epochs 1?"),
        (DEMO + "--optim 1", "--optim is a section; set its fields, e.g. --optim.name"),
        (DEMO + "--jsn", "--jsn: no such flag; did you mean --json?"),
        ("export a b.onnx --tagret x", "--tagret: no such flag; did you mean --target?"),
        (DEMO + "--qwertz 1", "--qwertz: no such flag; see `raydet fit --help`"),
        ("fit demo_clasification", "no recipe 'demo_clasification'; did you mean demo_classification"),
        # words too few or too many
        ("fit", "name a data set or a recipe, or --from a run; see `raydet fit --help`"),
        ("predict runs/demo", "required: images; see `raydet predict --help`"),
        (DEMO + "stray", "unexpected word 'stray'; a setting is written --section.field value"),
        (DEMO + "--optim.lr", "--optim.lr needs a value (FLOAT)"),
        (DEMO + "--optim.lr --json", "--optim.lr needs a value (FLOAT)"),
        (DEMO + "--run.name --x", "--run.name needs a value (TEXT); one that begins with -- is written --run.name=--x"),
        ("predict a b --out --x", "--out needs a value (TEXT); one that begins with -- is written --out=--x"),
        (DEMO + "--dry-run=true", "--dry-run takes no value, got --dry-run=true"),
        # values
        (DEMO + "--optim.lr fast", "optim.lr must be a number, got 'fast'"),
        (DEMO + "--optim.lr -1", "optim.lr must be > 0, got -1.0"),
        (DEMO + "--optim.lr -1e-3", "optim.lr must be > 0, got -0.001"),
        (DEMO + "--schedule.epochs 1.5", "schedule.epochs must be a whole number, got '1.5'"),
        (DEMO + "--optim.name adam", "optim.name must be one of sgd, rmsprop, adamw, got 'adam'; did you mean adamw?"),
        (DEMO + "--augment.scale 1", "augment.scale must be 2 values (a number, a number), got (1.0,)"),
        (DEMO + "--run.name=--x/", "run.name must be 1 to 64 of A-Z"),
        ("predict a b --score high", "--score must be a number, got 'high'"),
        ("evaluate runs/demo --split vall", "--split must be one of train, val, test, got 'vall'; did you mean val?"),
        (
            "bench stp",
            "what must be one of step, ops, data, gpu, ray, quantization, own-data, got 'stp'",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(shlex.split(line)) == cli.USAGE
    err = capsys.readouterr().err
    assert err.startswith("raydet: ") and message in err and len(err.splitlines()) == 1


def test_a_flag_may_stand_anywhere_and_be_written_with_dashes_or_underscores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["fit", "--schedule.warmup-epochs", "0", "--dry_run", "demo_classification", "--json"]) == 0
    assert '"schedule.warmup_epochs": 0.0' in capsys.readouterr().out
