"""What all tests share: one thread, no token or cluster of the user's, toy data sets, small configurations."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from raydet.config import Config, override
from raydet.recipes import recipe

torch.set_num_threads(1)  # on a busy machine a second thread costs more than it gives
os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 64)  # so that no test writes into ~/.ray
os.environ.pop("RAY_ADDRESS", None)  # so that no test joins a cluster of the user's


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that share a Ray last, for a Ray that is there would serve those that want one of their own."""
    for item in items:
        if _shares_ray(item):
            item.add_marker(pytest.mark.ray)
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=_shares_ray)


def _shares_ray(item: pytest.Item) -> bool:
    return "shared_ray" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[None]:
    """A local Ray of two CPUs for every test that needs none of its own: raydet uses the one that is there.

    Started as raydet starts its own; a Ray of another test must have ended. Its tests run after all others.
    """
    from raydet.driver.ray_session import ray_session

    with ray_session(override(recipe("demo_classification"), {"scaling.num_workers": 2})):
        os.environ.pop("RAY_ADDRESS")  # as above: only a test that says so joins it as a cluster
        yield


@pytest.fixture(scope="session")
def toy_detection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 10 validation images with digits, COCO layout."""
    pytest.importorskip("sklearn")
    from raydet.data.formats.demo.datasets import make_detection

    return make_detection(tmp_path_factory.mktemp("toy") / "detection", train=24, val=10)


@pytest.fixture(scope="session")
def toy_classification(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 30 validation images of a digit each, one folder per class."""
    pytest.importorskip("sklearn")
    from raydet.data.formats.demo.datasets import make_classification

    return make_classification(tmp_path_factory.mktemp("toy") / "classification", train=60, val=30)


@pytest.fixture(scope="session")
def trained_classifier(toy_classification: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run of `classification`, killed after its first epoch. To be read or copied, as those below."""
    from tests.commands import begun

    return begun(_small("demo_classification", toy_classification, tmp_path_factory.mktemp("trained")))


@pytest.fixture
def begun_run(classification: Config, trained_classifier: Path) -> Path:
    """The run of `classification`, killed after its first epoch."""
    return Path(shutil.copytree(trained_classifier, Path(classification.run.storage_path) / classification.run.name))


@pytest.fixture(scope="session")
def trained_detector(toy_detection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a detector's run of one epoch."""
    cfg = _small("demo_detection", toy_detection, tmp_path_factory.mktemp("trained"))
    return _one_epoch(override(cfg, {"evaluation.recalibrate_bn": 0}))


@pytest.fixture(scope="session")
def quantized_classifier(
    trained_classifier: Path, toy_classification: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of an epoch of quantization-aware training that starts from `trained_classifier`."""
    cfg = _small("demo_classification", toy_classification, tmp_path_factory.mktemp("trained"))
    changes = {"model.weights": str(trained_classifier), "quantization.batches": 2, "optim.lr": 1e-4}
    return _one_epoch(override(cfg, changes))


def _one_epoch(cfg: Config) -> Path:
    from tests.workers import trained

    return trained(override(cfg, {"schedule.epochs": 1}), Path(cfg.run.storage_path) / cfg.run.name)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A COCO set of 12 training and 4 validation images, all different, all sound."""
    from tests.data.makers import write_shop

    return write_shop(tmp_path / "shop")


@pytest.fixture
def labels_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file for the figure of labels, which takes longer than the training; tests/visualization draws it."""
    monkeypatch.setattr("raydet.visualization.preview.labels_figure", lambda path, *_: path.touch())


@pytest.fixture
def detection(toy_detection: Path, tmp_path: Path, labels_not_drawn: None) -> Config:
    """A detector's run of 2 epochs of 6 steps of 4 images, in this process."""
    return _small("demo_detection", toy_detection, tmp_path)


@pytest.fixture
def classification(toy_classification: Path, tmp_path: Path, labels_not_drawn: None) -> Config:
    """A classifier's run of 2 epochs of 8 steps of 8 images, in this process."""
    return _small("demo_classification", toy_classification, tmp_path)


def _small(name: str, root: Path, tmp_path: Path) -> Config:
    changes = {
        "data.root": str(root),
        "data.workers": 0,
        "schedule.epochs": 2,
        "scaling.num_workers": 0,
        "run.name": "run",
        "run.storage_path": str(tmp_path / "runs"),
        "run.log_steps": 2,
    }
    if name == "demo_detection":
        changes |= {"model.image_size": 64, "evaluation.recalibrate_bn": 8}
    return override(recipe(name), changes)
