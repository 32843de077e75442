"""What a search may take at most."""

import pytest

from raydet.tuning.search.allowance import Allowance


@pytest.mark.parametrize(("trials", "epochs", "rungs"), [(12, 3, (1, 2)), (20, 10, (1, 4)), (50, 300, (19, 76))])
def test_it_is_half_of_all_epochs(trials: int, epochs: int, rungs: tuple[int, ...]) -> None:
    assert Allowance(trials, epochs, rungs).most == trials * epochs // 2


@pytest.mark.parametrize("trials", [1, 2, 3, 8])
def test_in_a_small_search_one_trial_goes_to_its_end_and_one_more_is_kept_for_the_best(trials: int) -> None:
    allowance = Allowance(trials, 10, (2, 5))
    assert all(allowance.grant(2, epoch) for epoch in (2, 5)), "from the start"
    for number in range(1, trials + 1):
        allowance.started(number)
    assert not allowance.grant(3, 2)
    assert allowance.most == 10 + (trials - 1) * 2 + 8 + 8


def test_trial_1_costs_the_others_nothing() -> None:
    with_default, without = Allowance(12, 3, (1, 2)), Allowance(12, 3, (1, 2))
    assert all(with_default.grant(1, epoch) for epoch in (1, 2))
    without.started(1)
    for number in range(2, 13):
        assert with_default.grant(number, 1) == without.grant(number, 1)


def test_one_rung_is_paid_for_once() -> None:
    allowance = Allowance(12, 3, (1, 2))
    assert all(allowance.grant(2, 1) for _ in range(50)) and allowance.grant(2, 2)


def test_what_is_left_grows_with_the_trials() -> None:
    allowance = Allowance(20, 3, (1, 2))
    allowance.started(1)
    early = [number for number in range(2, 11) if allowance.grant(number, 1)]
    late = [number for number in range(11, 21) if allowance.grant(number, 1)]
    assert (early, len(late)) == ([2, 3, 4, 7], 2)
