"""What a session does when all trials have been tried."""

import io
from pathlib import Path

import pytest

from raydet.tuning.session import Session
from tests.tuning.search.test_study import evaluated, new


def session_of(tmp_path: Path, *trials: tuple[str, tuple[float, ...]]) -> Session:
    session = Session(new(tmp_path, num_samples=len(trials)), io.StringIO())
    for state, scores in trials:
        number = session.study.ask()
        assert number is not None
        evaluated(session.setting, number, *scores)
        session.study.end(number, state, seconds=1.0)  # type: ignore[arg-type]
    return session


@pytest.mark.parametrize(
    ("trials", "number"),
    [
        ([("finished", (0.1, 0.2, 0.3)), ("stopped", (0.4,)), ("stopped", (0.2, 0.5))], 3),
        ([("finished", (0.1, 0.2, 0.6)), ("stopped", (0.4,)), ("stopped", (0.2, 0.5))], None),
        ([("finished", (0.1, 0.2, 0.5)), ("stopped", (0.5,))], None),
        ([("failed", ()), ("stopped", (0.5,)), ("stopped", ())], 2),
        ([("finished", (0.1, 0.2, 0.3)), ("diverged", (0.9,))], None),
    ],
)
def test_the_best_continues_if_it_was_stopped(
    tmp_path: Path, trials: list[tuple[str, tuple[float, ...]]], number: int | None
) -> None:
    assert session_of(tmp_path, *trials).cut_short() == number


@pytest.mark.slow
def test_where_nothing_is_left_no_ray_is_started(tmp_path: Path) -> None:
    session = session_of(tmp_path, ("finished", (0.1, 0.2, 0.3)), ("stopped", (0.2,)))
    assert session.run().best is not None
    assert "nothing left to try" in session.out.getvalue()  # type: ignore[attr-defined]
