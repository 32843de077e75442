"""TensorBoard's HParams: what is written can be read, once, beside the run's own events."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2

from raydet.tuning.report.hparams import write_hparams
from raydet.tuning.trials.rows import Search
from tests.tuning.made import made, weighed


@pytest.fixture
def search(tmp_path: Path) -> Search:
    search = made(tmp_path / "mine", 12)
    for row in search.rows:
        row.folder.mkdir(parents=True)
    return search


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def events(path: Path) -> list[Any]:
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("Q", data, at)
        found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def read(path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the values and the numbers of a file."""
    values: dict[str, Any] = {}
    numbers = {}
    for event in events(path):
        for value in event.summary.value:
            if value.HasField("metadata"):
                plugin = plugin_hparams_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for key, shown in plugin.session_start_info.hparams.items():
                    values[key] = getattr(shown, shown.WhichOneof("kind"))
            else:
                numbers[value.tag] = value.simple_value
    return values, numbers


def test_values_and_score_of_a_trial_are_read_back(search: Search) -> None:
    write_hparams(search)
    row = search.rows[0]
    values, numbers = read(files(row.folder)[0])
    assert set(values) == set(row.params)
    assert values["optim.lr"] == row.params["optim.lr"]
    assert numbers == {"search/top1": pytest.approx(row.score)}


def test_further_objectives_are_numbers_too(search: Search) -> None:
    search = weighed(search, latency_ms=4.0)
    write_hparams(search)
    _, numbers = read(files(search.rows[0].folder)[0])
    assert numbers["search/latency_ms"] == pytest.approx(search.rows[0].values["latency_ms"])


def test_ended_trials_with_a_score_get_a_file_and_no_other(search: Search) -> None:
    rows = (*search.rows[:-1], replace(search.rows[-1], state="running"))
    write_hparams(replace(search, rows=rows))
    for row in rows:
        assert len(files(row.folder)) == (row.state in ("finished", "stopped", "diverged")), row.state


def test_a_second_call_leaves_everything_as_it_is(search: Search) -> None:
    write_hparams(search)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for row in search.rows for path in files(row.folder)}
    write_hparams(search)
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for row in search.rows for path in files(row.folder)
    }


def test_a_choice_of_several_types_is_text_in_all_trials(search: Search) -> None:
    write_hparams(search)
    found = {read(files(row.folder)[0])[0]["ema.decay"] for row in search.rows if row.state == "finished"}
    assert found >= {"None", "0.99"}


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("optim.decay_bn=choice(True, False)", {bool}),
        ("augment.crop_area=choice('0.08,1.0', '0.7,1.0')", {str}),
        ("data.batch_size=lograndint(1, 4096)", {float}),
        ("ema.warmup=choice(True)", {bool}),
    ],
)
def test_each_type_of_value_is_read_back_as_it_was(tmp_path: Path, text: str, types: set[type]) -> None:
    search = made(tmp_path / "mine", 4, space=None, sets=[text])
    for row in search.rows:
        row.folder.mkdir(parents=True)
    write_hparams(search)
    shown = [next(iter(read(files(row.folder)[0])[0].values())) for row in search.rows]
    assert {type(value) for value in shown} == types
    assert shown == [next(iter(row.params.values())) for row in search.rows]


def test_the_file_is_for_owner_and_group_and_is_read_after_the_runs_own(search: Search) -> None:
    own = search.rows[0].folder / "events.out.tfevents.0000000100.abc"
    own.touch()
    write_hparams(search)
    first, second = files(search.rows[0].folder)
    assert first == own
    assert second.stat().st_mode & 0o777 == 0o640


def test_no_start_of_a_session_is_written_for_it_would_wipe_the_curves(search: Search) -> None:
    write_hparams(search)
    assert not any(event.HasField("session_log") for event in events(files(search.rows[0].folder)[0]))


def test_trials_without_a_folder_are_passed_over(tmp_path: Path) -> None:
    search = made(tmp_path / "mine", 4)
    write_hparams(search)
    assert not search.folder.exists()
