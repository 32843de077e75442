"""What an error says, and that it survives the way from a loader process."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import raydet.data
from raydet.data.validation.rules import RULES
from raydet.exceptions import DataError

SOURCES = sorted(Path(raydet.data.__file__).parents[1].rglob("*.py"))


def test_message_names_file_record_rule_and_hint() -> None:
    error = DataError("bbox is missing", file=Path("a.json"), record="annotation 7", rule="COCO-E19", hint="Add it.")
    assert str(error) == "a.json: annotation 7: bbox is missing (COCO-E19)\nAdd it."


def test_message_stays_within_six_lines_whatever_a_name_holds() -> None:
    error = DataError("x\n" * 50, file="a\nb\x1b[31m.jpg", record="r\r\n", rule="IMG-E01", hint="h\n\n\n\n\n\n\n")
    assert len(str(error).splitlines()) <= 6
    assert "\x1b" not in str(error)
    assert "a\\nb" in str(error)


def test_error_survives_pickling() -> None:
    error = DataError("bad", file=Path("a.jpg"), rule="IMG-E04", hint="h")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.rule, again.file) == (str(error), "IMG-E04", Path("a.jpg"))
    assert isinstance(again, ValueError)


def test_every_rule_used_is_explained_and_every_rule_explained_is_used() -> None:
    text = "".join(path.read_text() for path in SOURCES if path.name != "errors.py")
    families = "|".join({rule.split("-")[0] for rule in RULES})
    used = set(re.findall(rf"\b(?:{families})-[EW]\d\d", text))
    assert used == set(RULES)


def test_raydet_data_loads_neither_torch_nor_torchvision_for_indexes_and_geometry() -> None:

    code = (
        "import sys, raydet.data, raydet.data.formats.coco.load, raydet.data.formats.image_folder,"
        "raydet.data.images.geometry,"
        "raydet.data.formats.open_split, raydet.data.loading.sampler;"
        "sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(raydet.data.__file__).parents[2])


def test_every_public_name_resolves() -> None:
    for name in raydet.data.__all__:
        assert getattr(raydet.data, name) is not None
