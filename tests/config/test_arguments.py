"""Command-line words to configuration values."""

import pytest

from raydet.config import Config, as_flat, field_type, override
from raydet.config.arguments import SETTINGS, parse_overrides
from raydet.exceptions import ConfigError
from raydet.recipes import RECIPES, recipe


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        ("--optim.lr 0.1", "optim.lr", 0.1),
        ("--optim.lr=0.1", "optim.lr", 0.1),
        ("--optim.lr 1e-3", "optim.lr", 1e-3),
        ("--optim.lr -1e-3", "optim.lr", -1e-3),
        ("--optim.weight-decay=-1", "optim.weight_decay", -1.0),
        ("--schedule.epochs 12", "schedule.epochs", 12),
        ("--schedule.per_step true", "schedule.per_step", True),
        ("--schedule.per-step no", "schedule.per_step", False),
        ("--data.on_bad skip", "data.on_bad", "skip"),
        ("--optim.grad_clip none", "optim.grad_clip", None),
        ("--model.weights none", "model.weights", None),
        ("--model.weights=a=b.pth", "model.weights", "a=b.pth"),
        ("--augment.scale 0.8 1.25", "augment.scale", (0.8, 1.25)),
        ("--augment.scale 0.8,1.25", "augment.scale", (0.8, 1.25)),
        ("--augment.fill mean", "augment.fill", "mean"),
        ("--augment.fill 114", "augment.fill", 114),
        ("--schedule.milestones 30,60", "schedule.milestones", (30, 60)),
        ("--schedule.noise 0.4 0.9", "schedule.noise", (0.4, 0.9)),
        ("--schedule.noise none", "schedule.noise", None),
        ("--model.freeze backbone", "model.freeze", ("backbone",)),
        ("--scaling.num_workers 2", "scaling.num_workers", 2),
        ("--scaling.num_workers 1,2", "scaling.num_workers", (1, 2)),
        ("--scaling.num_workers 1 2", "scaling.num_workers", (1, 2)),
        ("--quantization none", "quantization", None),
        ("--quantization.batches 3", "quantization.batches", 3),
    ],
)
def test_words_become_the_values_their_fields_want(words: str, key: str, value: object) -> None:
    changes = parse_overrides(words.split())
    assert changes == {key: value} and type(changes[key]) is type(value)
    if "-1" not in words:
        override(Config(), changes)  # and the Config takes them


def test_an_empty_word_is_an_empty_list_and_text_may_hold_spaces() -> None:
    assert parse_overrides(["--model.freeze", "", "--data.root", "/my data/coco"]) == {
        "model.freeze": (),
        "data.root": "/my data/coco",
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_every_recipe_can_be_spelt_out(name: str) -> None:
    cfg = recipe(name)
    words: list[str] = []
    for key, value in as_flat(cfg).items():
        if key in SETTINGS:
            words += [f"--{key}", *(map(str, value or ("",)) if isinstance(value, tuple) else (str(value),))]
    assert override(Config(), {**parse_overrides(words), "recipe": name}) == cfg


def test_of_a_key_given_twice_the_last_value_counts() -> None:
    assert parse_overrides(["--optim.lr", "1", "--data.root", "x", "--optim.lr=2"]) == {
        "optim.lr": 2.0,
        "data.root": "x",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--optim.lrr 1", "--optim.lrr: no such setting; did you mean --optim.lr 1?"),
        ("--optim.lr.deep 1", "--optim.lr.deep: no such setting"),
        ("--quantization.bit 8", "--quantization.bit: no such setting; did you mean --quantization.bits 8?"),
        ("--optim 3", "--optim is a section; set its fields, e.g. --optim.name"),
        ("--optim.lr", "--optim.lr needs a value (FLOAT)"),
        ("--optim.lr --data.root x", "--optim.lr needs a value (FLOAT)"),
        ("--optim.lr 1 2", "unexpected word '2'"),
        ("stray", "unexpected word 'stray'"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(words.split())
    assert message in str(caught.value)


@pytest.mark.parametrize("words", ["--optim.lr fast", "--schedule.epochs 1.5", "--schedule.per_step perhaps"])
def test_a_word_of_the_wrong_type_is_named_by_the_config(words: str) -> None:
    with pytest.raises(ConfigError, match=words.split()[0][2:] + r" must be .*, got '" + words.split()[1]):
        override(Config(), parse_overrides(words.split()))


def test_a_fields_type_is_found_through_optional_sections() -> None:
    assert field_type("quantization.percentile").scalars == field_type("optim.lr").scalars == (float,)
    with pytest.raises(ConfigError, match=r"optim\.lrr: no such field; did you mean optim\.lr\?"):
        field_type("optim.lrr")
