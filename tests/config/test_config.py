import json
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from raydet.config import Config, as_flat, differences, from_dict, load, override, to_dict
from raydet.config.field_docs import field_docs
from raydet.config.field_types import field_type_of, field_types
from raydet.exceptions import ConfigError
from raydet.recipes import RECIPES, recipe


def message(changes: dict[str, object], cfg: Config | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        override(cfg or Config(), changes)
    return str(error.value)


def test_override_changes_only_what_it_is_told() -> None:
    cfg = override(Config(), {"optim.lr": 0.5, "scaling.num_workers": [1, 4], "model": {"freeze": ["backbone"]}})
    assert (cfg.optim.lr, cfg.scaling.num_workers, cfg.model.freeze) == (0.5, (1, 4), ("backbone",))
    assert set(differences(Config(), cfg)) == {"optim.lr", "scaling.num_workers", "model.freeze"}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("optim.lrr", "optim.lr"),
        ("data.batchsize", "data.batch_size"),
        ("batch_size", "data.batch_size or optim.batch_size"),
        ("epochs", "schedule.epochs"),
        ("model.nam", "model.name"),
        ("augmentation.hflip", "augment.hflip"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key: str, nearest: str) -> None:
    text = message({key: 1})
    assert text.startswith(f"{key}: no such field; did you mean {nearest}")
    assert text.endswith("?") and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", "fast"),
        ("optim.lr", -1),
        ("optim.lr", float("nan")),
        ("optim.lr", True),
        ("optim.name", "lamb"),
        ("schedule.epochs", 1.5),
        ("schedule.epochs", "12"),
        ("schedule.epochs", 0),
        ("model.image_size", True),
        ("augment.scale", [1.0]),
        ("augment.scale", [2.0, 0.1]),
        ("augment.fill", "pink"),
        ("augment.fill", 256),
        ("ema.decay", 1.5),
        ("scaling.num_workers", 0.5),
        ("scaling.num_workers", [4, 1]),
        ("run.name", "../escape"),
        ("run.name", ".."),
        ("run.name", "x" * 65),
        ("schedule.noise", [0.9, 0.4]),
        ("schedule.warmup_epochs", 0.5),
        ("data.workers", -1),
        ("optim", 3),
        ("optim.lr.deeper", 3),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_dotted_name(key: str, value: object) -> None:
    assert key.removesuffix(".deeper") in message({key: value})


def test_numpy_scalars_and_whole_numbers_are_taken() -> None:
    cfg = override(Config(), {"optim.lr": np.float32(0.5), "schedule.epochs": np.int64(3), "optim.weight_decay": 0})
    assert (cfg.optim.lr, cfg.schedule.epochs, cfg.optim.weight_decay) == (0.5, 3, 0.0)
    assert type(cfg.optim.lr) is float and type(cfg.schedule.epochs) is int


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.name": "efficientnet_b0"}, "data.format"),
        ({"model.sync_bn": True}, "SyncBatchNorm"),
        ({"precision.mode": "fp16"}, "scaling.use_gpu"),
        ({"scaling.gpus_per_worker": 0.0}, "scaling.gpus_per_worker must be in"),
        ({"scaling.gpus_per_worker": 0.5, "scaling.num_workers": 2}, "scaling.gpus_per_worker must be in"),
        ({"model.name": "efficientnet_b0", "data.format": "folder", "model.backbone_weights": "x"}, "model.weights"),
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused(changes: dict[str, object], named: str) -> None:
    assert named in message(changes)


def test_an_optional_section_can_be_set_in_part_and_switched_off() -> None:
    cfg = recipe("efficientnet_b0_qat")
    assert override(cfg, {"quantization.batches": 3}).quantization.batches == 3
    assert override(cfg, {"quantization": None}).quantization is None
    assert override(Config(), {"quantization.percentile": 99.9}).quantization.percentile == 99.9


@pytest.mark.parametrize("name", RECIPES)
def test_config_json_loads_to_an_equal_config(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_dict(recipe(name))))
    assert load(tmp_path / "config.json") == recipe(name)


def test_a_config_file_of_another_format_or_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ("", "[]", "{", '{"format": 99}', '{"optim": {"lrr": 1}}'):
        path.write_text(text)
        with pytest.raises(ConfigError):
            load(path)
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.json")


def test_old_config_json_still_loads() -> None:
    """A file as version 0.1.0 wrote it; a renamed field must come with a new format number and a way to read this."""
    text = (Path(__file__).parents[1] / "files" / "config_format1.json").read_text()
    cfg = from_dict(json.loads(text))
    assert cfg == recipe("efficientdet_d0_coco_8x150")


def test_every_field_and_section_has_a_doc_string() -> None:
    docs = field_docs(Config)
    wanted = {*field_types(Config), *(key.partition(".")[0] for key in field_types(Config))}
    assert [key for key in sorted(wanted) if not docs.get(key)] == []


def test_flat_keys_are_those_that_override_takes() -> None:
    flat = as_flat(Config())
    assert override(Config(), {k: v for k, v in flat.items() if v is not None}) == Config()
    assert to_dict(Config())["optim"]["lr"] == flat["optim.lr"]


def test_a_section_that_is_off_differs_from_one_that_is_on_in_its_fields() -> None:
    off, on = Config(), override(Config(), {"quantization.bits": 4})
    assert differences(off, on)["quantization.bits"] == (None, 4)
    assert differences(on, off)["quantization.bits"] == (4, None)
    assert "quantization" not in differences(off, on)


@pytest.mark.parametrize(
    ("hint", "spelt", "shown"),
    [
        (float, "a number", "FLOAT"),
        (int | None, "a whole number or none", "INT|none"),
        (Literal["a", "b"], "one of a, b", "{a,b}"),
        (Literal["mean"] | int, "mean or a whole number", "mean|INT"),
        (tuple[float, float] | None, "2 values (a number, a number) or none", "FLOAT FLOAT|none"),
        (tuple[str, ...], "a list of text", "TEXT ..."),
    ],
)
def test_a_type_is_spelt_out_in_errors_and_short_in_help(hint: object, spelt: str, shown: str) -> None:
    kind = field_type_of(hint)
    assert (kind.spelt(), kind.shown()) == (spelt, shown)
    with pytest.raises(ConfigError, match=re.escape(f"x must be {spelt}, got {{}}")):
        kind.check({}, "x")
