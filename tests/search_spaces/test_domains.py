"""What a domain holds is what Optuna's own distribution holds; lists go to text and back."""

from typing import Any

import numpy as np
import pytest
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from raydet.exceptions import ConfigError
from raydet.search_spaces.domains import bounds, holds, plain_choice, to_changes, to_plain

DOMAINS = {
    "uniform": tune.uniform(0.1, 0.7),
    "loguniform": tune.loguniform(0.1, 0.7),
    "quniform": tune.quniform(0.2, 0.8, 0.2),
    "randint": tune.randint(1, 5),
    "lograndint": tune.lograndint(1, 5),
}


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("value", [0, 0.1, 0.2, 0.3, 0.4, 0.7, 0.71, 0.8, 1, 4, 5, -1])
def test_a_number_is_held_where_optuna_holds_it(name: str, value: float) -> None:
    domain = DOMAINS[name]
    theirs = OptunaSearch.convert_search_space({"key": domain})["key"]
    if name.endswith("int") and not isinstance(value, int):
        assert not holds(domain, value)
    else:
        assert holds(domain, value) == theirs._contains(value)


@pytest.mark.parametrize("name", DOMAINS)
def test_bounds_are_held_and_can_be_drawn(name: str) -> None:
    domain = DOMAINS[name]
    low, high = bounds(domain)
    assert holds(domain, low) and holds(domain, high)
    drawn = [domain.sample(random_state=np.random.default_rng(seed)) for seed in range(100)]
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in drawn)


@pytest.mark.parametrize("value", [True, None, "0.5", [0.5]])
def test_what_is_no_number_is_not_held_by_a_range(value: Any) -> None:
    assert not any(holds(domain, value) for domain in DOMAINS.values())


def test_a_choice_tells_true_from_one_and_none_from_zero() -> None:
    assert holds(tune.choice([1, None]), 1)
    assert not holds(tune.choice([1, None]), True)
    assert not holds(tune.choice([1, None]), 0)
    assert bounds(plain_choice([True, 1, None, 0, 0.0], "")) == [True, 1, None, 0]


def test_numpys_numbers_become_plain_ones() -> None:
    (value,) = bounds(plain_choice([np.float32(0.5)], ""))
    assert type(value) is float
    with pytest.raises(ConfigError, match="at least one value"):
        plain_choice([], "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("augment.scale", (0.1, 2.0)),
        ("model.freeze", ()),
        ("model.freeze", ("backbone",)),
        ("quantization.skip", ("stem", "predict")),
        ("schedule.noise", (0.4, 0.9)),
        ("schedule.noise", None),
        ("schedule.milestones", (3, 6)),
        ("model.name", "a,b"),
        ("optim.lr", 0.1),
    ],
)
def test_a_list_is_text_in_a_space_and_itself_in_a_configuration(key: str, value: Any) -> None:
    plain = to_plain(value, tune.choice([0]))
    assert not isinstance(plain, tuple)
    assert to_changes({key: plain}) == {key: value}


def test_a_whole_float_is_a_whole_number_among_whole_numbers() -> None:
    assert type(to_plain(5.0, tune.randint(0, 9))) is int
    assert to_plain(5.5, tune.randint(0, 9)) == 5.5
    assert type(to_plain(5.0, tune.uniform(0, 9))) is float
