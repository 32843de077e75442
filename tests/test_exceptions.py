"""One tree of errors, each with its exit code; and the names that users build on."""

import dataclasses
import inspect
import pickle
from pathlib import Path

import pytest

import raydet
from raydet import exceptions
from raydet.exceptions import RaydetError

TREE = {
    name: kind
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
}
CODES = {
    **dict.fromkeys(("RaydetError", "Cancelled", "LostWorkers", "RunFailed", "NonFiniteLoss"), 1),
    **dict.fromkeys(("CalibrationError", "NotCalibratedError", "ExportError"), 1),
    **dict.fromkeys(("ConfigError", "QuantizationNotAvailable"), 2),
    **dict.fromkeys(("Refused", "UnsafeWeights"), 3),
    **dict.fromkeys(("DataError", "CheckpointError", "WeightsError", "CheckpointMismatch"), 65),
    "StorageFull": 75,
    "Stopped": 143,
}


def test_every_error_is_a_raydet_error_with_the_documented_exit_code() -> None:
    assert {name: kind.exit_code for name, kind in TREE.items()} == CODES
    assert all(issubclass(kind, RaydetError) and kind.__doc__ for kind in TREE.values())


def test_only_lost_workers_are_helped_by_a_restart() -> None:
    assert [name for name, kind in TREE.items() if kind.restart_helps] == ["LostWorkers"]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (exceptions.ConfigError, ValueError),
        (exceptions.DataError, ValueError),
        (exceptions.CheckpointError, ValueError),
        (exceptions.StorageFull, OSError),
        (exceptions.NonFiniteLoss, FloatingPointError),
        (exceptions.ExportError, RuntimeError),
    ],
)
def test_an_error_is_also_the_built_in_one_that_it_was(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.DataError("what", rule="COCO-E01", file="a.json", record="image 3", hint="do this"),
        exceptions.StorageFull(Path("/disk"), 5_000_000, 1_000_000),
        exceptions.NonFiniteLoss("the loss is nan"),
    ],
)
def test_an_error_comes_whole_out_of_another_process(error: RaydetError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_users_catch_errors_by_the_names_of_the_package() -> None:
    with pytest.raises(raydet.DataError):
        raise exceptions.DataError("what", rule="COCO-E01")
    assert raydet.RaydetError is RaydetError and raydet.ConfigError is exceptions.ConfigError


def test_the_public_names_are_those_released() -> None:
    """A name may be added here on purpose; none may go."""
    errors = {"RaydetError", "ConfigError", "DataError", "CheckpointError", "WeightsError", "ExportError"}
    errors |= {"StorageFull", "NonFiniteLoss", "Refused", "RunFailed", "Stopped"}
    verbs = {"fit", "tune", "evaluate", "predict", "export", "check", "convert"}
    assert set(raydet.__all__) == errors | verbs | {
        "Config",
        "override",
        "parse_overrides",
        "recipe",
        "rank_calibrations",
        "open_split",
        "draw_comparison",
        "contact_sheet",
        "Result",
        "TuneResult",
        "__version__",
    }
    assert all(getattr(raydet, name) is not None for name in raydet.__all__)


def test_the_results_of_verbs_have_the_fields_released() -> None:
    from raydet.inference.export import ExportReport
    from raydet.inference.predict import Classes, Detections

    def fields(kind: type) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)}

    assert {"metrics", "best", "last", "dir", "config"} <= fields(raydet.Result)
    assert {"config", "metrics", "dir", "best", "search"} <= fields(raydet.TuneResult)
    assert {"path", "target", "size_bytes", "float_bytes", "agreement", "here", "trtexec"} <= fields(ExportReport)
    assert {"boxes_K4", "scores_K", "names"} <= fields(Detections)
    assert {"probabilities_K", "names"} <= fields(Classes)
