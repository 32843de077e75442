"""What a run's files say may be gone, cut or forged: it continues, or says in one line why not."""

import json
from pathlib import Path
from typing import Any

import pytest

from raydet.config import Config, override
from raydet.driver.continued_run import begun_config
from raydet.driver.fit import fit
from raydet.driver.plan import make_plan
from raydet.exceptions import CheckpointError, ConfigError, RaydetError
from raydet.inference.evaluate import evaluate
from raydet.io.jsonable import JSON
from raydet.runs import checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, '{"schedule": {"epo', "[" * 100_000])
def test_a_config_that_is_gone_or_cut_is_taken_from_the_newest_checkpoint(
    text: str | None, classification: Config, begun_run: Path
) -> None:
    file = begun_run / "config.json"
    begun = file.read_text()
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.warns(RuntimeWarning, match="the one in step_00000008 is used"):
        assert begun_config(begun_run) == begun_config(begun_run)
    with pytest.warns(RuntimeWarning), pytest.raises(ConfigError, match=r"optim\.lr was"):
        make_plan(override(classification, {"optim.lr": 0.5}))
    with pytest.warns(RuntimeWarning):
        assert fit(classification).last.name == "step_00000016"
    again, before = json.loads(file.read_text()), json.loads(begun)
    again["run"].pop("storage_path"), before["run"].pop("storage_path")  # the run was moved
    assert again == before


def test_a_config_larger_than_any_is_not_read(begun_run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * 10_000_001)
    with pytest.raises(ConfigError, match="larger than any configuration"):
        begun_config(tmp_path)


def forge(folder: Path, **changes: JSON) -> None:
    """Rewrite a checkpoint's state.json, with sums that fit."""
    path = next((folder / "checkpoints").glob("step_*"))
    found = checkpoint.peek(path)
    state: dict[str, Any] = {**found.state(), **changes}
    tensors = {name: found.tensors(name) for name in found.names}
    metrics = found.metrics
    checkpoint.remove(path)
    checkpoint.write(path.parent, found.step, tensors, json.dumps(state), metrics)


FORGED: dict[str, dict[str, JSON]] = {
    "a configuration of another shape": {"config": [1, 2]},
    "no configuration": {"config": None},
    "an absurd configuration": {"config": {"model": {"name": "efficientdet_d99"}}},
    "a configuration of text": {"config": {"optim": "fast"}},
    "classes of another shape": {"classes": {"names": "abc", "ids": None}},
    "no classes": {"classes": 3},
    "sums of another length": {"sums": [1.0] * 999},
    "an epoch of text": {"epoch": {"a": 1}},
    "a scaler of numbers": {"scaler": 5},
    "an epoch without end": {"epoch": 10**400},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:damaged checkpoint skipped")
@pytest.mark.parametrize(
    "what", [name if i % 3 == 0 else pytest.param(name, marks=pytest.mark.soak) for i, name in enumerate(FORGED)]
)
def test_a_forged_state_is_refused_in_one_line_or_harmless(what: str, classification: Config, begun_run: Path) -> None:
    forge(begun_run, **FORGED[what])
    for verb in (lambda: fit(classification), lambda: evaluate(begun_run, {"data.workers": 0})):
        try:
            verb()
        except RaydetError as error:
            assert isinstance(error, CheckpointError | ConfigError) and len(str(error).splitlines()) <= 2


def test_more_state_than_there_is_any_use_for_is_not_read(
    classification: Config, begun_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_JSON_LIMIT_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"larger than any state|not a file of at most 1000 bytes"):
        checkpoint.read(next((begun_run / "checkpoints").glob("step_*"))).state()
