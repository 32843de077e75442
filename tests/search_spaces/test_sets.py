"""Ranges given as text: what each function means, and every way to write one wrong."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydet.exceptions import ConfigError
from raydet.recipes import recipe
from raydet.search_spaces import get, sample, spelt
from raydet.search_spaces.domains import FUNCTIONS
from raydet.search_spaces.sets import parse_set

CFG = recipe("demo_detection_qat")


@pytest.mark.parametrize(
    "line",
    [
        "optim.lr=uniform(0.001, 0.1)",
        "optim.lr=loguniform(0.001, 0.1)",
        "optim.momentum=quniform(0.8, 0.95, 0.05)",
        "schedule.epochs=randint(1, 20)",
        "quantization.batches=lograndint(2, 40)",
        "ema.decay=choice(None, 0.99, 0.999)",
        "optim.name=choice('sgd', 'adamw')",
        "precision.mode=choice('fp32')",
    ],
)
def test_a_range_is_written_as_it_is_read(line: str) -> None:
    key, domain = parse_set(line, CFG)
    assert f"{key}={spelt(domain)}" == line


@pytest.mark.parametrize(
    ("line", "same"),
    [
        (" optim.lr = loguniform( 1e-3,1e-1 ) ", "optim.lr=loguniform(0.001, 0.1)"),
        ("optim.lr=tune.loguniform(1e-3, 1e-1)", "optim.lr=loguniform(0.001, 0.1)"),
        ("optim.weight-decay=uniform(0, 1)", "optim.weight_decay=uniform(0, 1)"),
        ("optim.name=choice(sgd, adamw)", "optim.name=choice('sgd', 'adamw')"),
        ("optim.name=choice([sgd, adamw])", "optim.name=choice('sgd', 'adamw')"),
        ("ema.decay=choice(none, 0.99)", "ema.decay=choice(None, 0.99)"),
        ("optim.decay_bn=choice(true, False)", "optim.decay_bn=choice(True, False)"),
        ("augment.scale=choice((0.8, 1.25), [0.1, 2.0])", "augment.scale=choice('0.8,1.25', '0.1,2.0')"),
        ("schedule.epochs=choice(2, 5, 2)", "schedule.epochs=choice(2, 5)"),
    ],
)
def test_a_range_may_be_written_in_more_ways(line: str, same: str) -> None:
    key, domain = parse_set(line, CFG)
    assert f"{key}={spelt(domain)}" == same


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("optim.lr", r"write KEY=FUNCTION"),
        ("=uniform(0, 1)", r"write KEY=FUNCTION"),
        ("optim.lr=", r"cannot be read"),
        ("optim.lr=uniform(0, ", r"cannot be read"),
        ("optim.lr=" + "(" * 500, r"cannot be read"),
        ("optim.lr=0.1", r"gives no range.*--KEY VALUE"),
        ("optim.lr=[0.1, 0.2]", r"gives no range"),
        ("optim.lr=loguniorm(1e-3, 1e-1)", r"no function 'loguniorm'; did you mean loguniform\?"),
        ("optim.lr=normal(0, 1)", r"no function 'normal'; .*uniform"),
        ("optim.lr=grid_search([1, 2])", r"no function 'grid_search'"),
        ("optim.lr=uniform(low=0, high=1)", r"without names: uniform\(low, high\)"),
        ("optim.lr=uniform(0)", r"uniform\(low, high\) takes 2 values, got 1"),
        ("optim.lr=quniform(0, 1)", r"quniform\(low, high, step\) takes 3 values, got 2"),
        ("optim.lr=uniform(0.1, 0.1)", r"low must be below high, got 0.1 and 0.1"),
        ("optim.lr=loguniform(1e-1, 1e-3)", r"low must be below high, got 0.1 and 0.001"),
        ("optim.lr=loguniform(0, 1)", r"starts above 0, got 0; .*use uniform"),
        ("schedule.epochs=lograndint(-1, 4)", r"starts above 0, got -1"),
        ("schedule.epochs=randint(1, 4.5)", r"needs whole numbers, got 4.5"),
        ("optim.lr=uniform(0, big)", r"needs numbers, got 'big'"),
        ("optim.lr=uniform(0, True)", r"needs numbers, got True"),
        ("optim.lr=uniform(0, 1e999)", r"needs numbers, got inf"),
        ("optim.lr=quniform(0, 1, 0)", r"the step must be > 0"),
        ("optim.lr=quniform(0.01, 1, 0.3)", r"--set .*divisible"),
        ("optim.lr=choice()", r"a choice needs at least one value"),
        ("optim.lr=choice({1: 2})", r"is no value of a choice"),
        ("optim.rl=uniform(0, 1)", r"optim\.rl: no such field; did you mean optim\.lr"),
        ("optim=choice(1)", r"optim is a section; search its fields, e\.g\. optim\.name"),
        ("scaling.num_workers=choice(1, 2)", r"not searched: nothing in scaling changes the trained model"),
        ("run.name=choice(a, b)", r"run\.name is not searched"),
        ("run.seed=randint(1, 9)", r"run\.seed is not searched: a seed that wins is luck"),
    ],
)
def test_a_bad_line_is_refused_with_what_is_wrong(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_set(line, CFG)


def test_nothing_in_a_line_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    write = f"open({str(trace)!r}, 'w')"
    for line in (
        f"optim.lr={write}",
        f"optim.lr=choice({write})",
        f"optim.lr=uniform(0, {write})",
        f"optim.lr=(lambda: {write})()",
        f"optim.lr=choice(*[{write}])",
    ):
        with pytest.raises(ConfigError):
            parse_set(line, CFG)
    assert not trace.exists()


@given(st.text(alphabet="uniformchoce(),=.[]{}'-+1e0 \n\\", max_size=40))
def test_any_text_gives_a_range_or_a_message(text: str) -> None:
    try:
        parse_set(f"optim.lr={text}", CFG)
    except ConfigError as error:
        assert "optim.lr" in str(error)


@given(st.sampled_from([f for f in FUNCTIONS if f != "choice"]), st.lists(st.integers() | st.floats(), max_size=4))
def test_any_numbers_give_a_range_or_a_message(function: str, values: list[float]) -> None:
    line = f"optim.lr={function}({', '.join(map(repr, values))})"
    try:
        _, domain = parse_set(line, CFG)
    except ConfigError:
        return
    assert domain.lower < domain.upper


def test_a_line_adds_a_key_and_replaces_one() -> None:
    space = get("lr", CFG, ["optim.lr=loguniform(1e-4, 1e-2)", "optim.momentum=uniform(0.5, 0.99)"])
    assert spelt(space.domains["optim.lr"]) == "loguniform(0.0001, 0.01)"
    assert space.keys == ["optim.lr", "optim.momentum"]
    assert space.points[0] == {"optim.lr": CFG.optim.lr, "optim.momentum": CFG.optim.momentum}


def test_lines_alone_make_a_space() -> None:
    space = get(None, CFG, ["optim.lr=loguniform(1e-4, 1e-2)"])
    assert space.points == [{"optim.lr": CFG.optim.lr}]
    assert 1e-4 <= sample(space, CFG, 0)["optim.lr"] <= 1e-2


def test_points_that_a_narrower_range_leaves_outside_are_left_out() -> None:
    wide, narrow = get("qat", CFG), get("qat", CFG, ["optim.lr=loguniform(1e-5, 1e-2)"])
    assert [p["optim.name"] for p in wide.points] == ["adamw", "sgd", "rmsprop"]
    assert [p["optim.name"] for p in narrow.points] == ["adamw", "sgd"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("optim.lr=loguniform(0.01, 0.1)", r"optim\.lr is 0\.001 in this configuration, which is trial 1.*--optim\.lr"),
        ("schedule.epochs=choice(5, 10)", r"schedule\.epochs is 2 .*choice\(5, 10\) has no such value"),
        ("quantization.percentile=uniform(99, 99.9)", r"quantization\.percentile is 99\.99 "),
        ("data.max_boxes=randint(1, 9)", r"data\.max_boxes is None "),
    ],
)
def test_a_range_without_the_default_is_refused(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get("lr", CFG, [line])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("schedule.epochs=uniform(1, 5)", r"schedule\.epochs must be a whole number, .*drawn by randint"),
        ("optim.momentum=uniform(0.5, 1.5)", r"optim\.momentum must be 0 to 1, got 1\.5; .*uniform\(0\.5, 1\.5\)"),
        ("optim.name=choice(adamw, sdg)", r"optim\.name must be one of .* did you mean sgd\?"),
        ("augment.scale=choice((0.8, 1.25), (2, 1))", r"augment\.scale must be two numbers in order"),
        ("schedule.per_step=choice(true, false)", r"schedule\.warmup_epochs=.* needs schedule\.per_step"),
        ("precision.compile=choice(true, false)", r"precision\.compile=true does not go with quantization"),
    ],
)
def test_a_value_that_could_be_drawn_and_is_refused_by_the_configuration_is_found_before(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        get("lr_wd", CFG, [line])


def test_a_section_that_is_off_is_not_switched_on_by_a_search() -> None:
    with pytest.raises(ConfigError, match=r"quantization is off in this configuration; switch it on"):
        get("lr", recipe("demo_detection"), ["quantization.batches=choice(5, 10)"])
    with pytest.raises(
        ConfigError, match=r"quantization\.batch: no such field; did you mean quantization\.batches|no such"
    ):
        get("lr", recipe("demo_detection"), ["quantization.batch=choice(5, 10)"])
    with pytest.raises(
        ConfigError, match=r"quantization is a section; search its fields, e\.g\. quantization\.backend"
    ):
        get("lr", recipe("demo_detection"), ["quantization=choice(1)"])
