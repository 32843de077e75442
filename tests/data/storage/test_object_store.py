"""Data sets in object stores: what is allowed, what is fetched, what is said when a store fails."""

import io
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydet.config import Config, override
from raydet.data.formats.index import DetectionIndex
from raydet.data.formats.open_split import open_split
from raydet.data.storage import object_store
from raydet.data.storage.address import parse
from raydet.data.storage.files import Blob
from raydet.data.storage.object_store import Remote
from raydet.exceptions import DataError
from tests.data.makers import make_image, truth, write_coco
from tests.data.s3_stub import Stub, serving


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(object_store, "_wait", lambda attempt: None)
    with serving() as made:
        made.buckets["shop"] = {}
        yield made


def jpeg(seed: int, hw: tuple[int, int] = (60, 80)) -> bytes:
    file = io.BytesIO()
    make_image(seed, hw).save(file, "JPEG", quality=95)
    return file.getvalue()


def upload(stub: Stub, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stub.buckets["shop"][f"{prefix}/{path.relative_to(folder)}"] = path.read_bytes()


def files(stub: Stub, path: str = "shop/set") -> Remote:
    return Remote(parse(stub.root(path)))


def test_remote_coco_gives_the_samples_of_the_local_one(stub: Stub, coco: Config) -> None:
    upload(stub, Path(coco.data.root), "a b/set+1")
    far = override(coco, {"data.root": stub.root("shop/a b/set+1")})
    here, there = open_split(coco, "train"), open_split(far, "train")
    assert isinstance(here, DetectionIndex) and isinstance(there, DetectionIndex)
    assert there.file == "s3://shop/a b/set+1/annotations/instances_train.json"
    assert np.array_equal(here.boxes, there.boxes) and here.class_names == there.class_names
    blob, path = there.image(3), here.image(3)
    assert isinstance(blob, Blob) and isinstance(path, Path)
    assert blob.data == path.read_bytes()
    assert (here.files.forkable, there.files.forkable) == (True, False)


def test_remote_class_folders_are_listed_page_by_page(stub: Stub, folders: Config) -> None:
    stub.most_listed = 5
    upload(stub, Path(folders.data.root), "set")
    stub.buckets["shop"]["set/train/ant/notes.txt"] = b"x"
    here, there = (
        open_split(override(folders, {"data.root": root}), "train")
        for root in (folders.data.root, stub.root("shop/set"))
    )
    assert there.names.tolist() == here.names.tolist()
    assert np.array_equal(here.labels, there.labels)
    assert there.warnings == ["1 files: no images, left out; ant/notes.txt (DIR-W05)"]
    stub.buckets["shop"]["set/train/dog/notes.txt"] = b"x"
    with pytest.raises(DataError, match=r"1 of 4 class folders") as caught:
        open_split(override(folders, {"data.root": stub.root("shop/set")}), "train")
    assert caught.value.rule == "DIR-E02"


def test_an_annotation_file_is_fetched_again_only_when_it_changed(stub: Stub) -> None:
    stub.buckets["shop"]["set/a.json"] = b"one"
    first = files(stub).fetch("a.json")
    asked = len(stub.requests)
    assert files(stub).fetch("a.json") == first
    assert not any(request.startswith("GET shop/set") for request in stub.requests[asked:])
    stub.buckets["shop"]["set/a.json"] = b"two"
    second = files(stub).fetch("a.json")
    assert (first.read_bytes(), second.read_bytes(), second.name) == (b"one", b"two", "a.json")


@pytest.mark.slow
def test_a_large_file_comes_in_parts_and_nothing_is_left_of_a_broken_one(
    stub: Stub, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(object_store, "_CHUNK", 1000)
    monkeypatch.setattr(object_store, "_LARGE_BYTES", 2000)
    stub.buckets["shop"]["set/big"] = bytes(range(256)) * 20
    assert files(stub).fetch("big").read_bytes() == bytes(range(256)) * 20
    assert "fetching s3://shop/set/big" in capsys.readouterr().err
    stub.buckets["shop"]["set/big"] = b"x" * 5000
    remote_files = files(stub)
    remote_files.fetch("big")
    stub.buckets["shop"]["set/big"] = b"y" * 5000
    monkeypatch.setattr(Remote, "_part", lambda *_: (_ for _ in ()).throw(OSError("HTTP status 500")))
    with pytest.raises(DataError, match="REMOTE-E07"):
        remote_files.fetch("big")
    assert len([p for p in own_cache.rglob("*") if p.is_file()]) == 2


def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.buckets["shop"]["set/big"] = b"x" * 5000
    monkeypatch.setattr(object_store, "_MOST_FILE", 4999)
    monkeypatch.setattr(object_store, "_MOST_IMAGE", 4999)
    for call, rule in ((files(stub).fetch, "REMOTE-E08"), (files(stub).image, "IMG-E01")):
        with pytest.raises(DataError, match="at most") as caught:
            call("big")
        assert caught.value.rule == rule
    assert not any(request.startswith("GET") for request in stub.requests)


@pytest.mark.parametrize("fault", [[500, 500], ["sound", "cut", "sound", "cut"], [500, "sound", "cut"]])
def test_a_store_that_stumbles_twice_is_asked_a_third_time(stub: Stub, fault: list[int | str]) -> None:
    stub.buckets["shop"]["set/1.jpg"] = jpeg(1)
    far = files(stub)
    assert far.exists("1.jpg")
    stub.faults["set/1.jpg"] = fault  # each try is a HEAD, which may be sound, and a GET
    assert far.image("1.jpg").data == jpeg(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "bucket", "message"),
    [
        (403, "shop", "refuses access"),
        (404, "shop", "no such file in the bucket"),
        (500, "shop", "breaks off or fails"),
        ("hang", "shop", "no answer within"),
        (None, "shut", "no such bucket: shut"),
    ],
)
def test_why_a_image_is_not_given_is_told_apart(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, fault: int | str | None, bucket: str, message: str
) -> None:
    stub.buckets["shop"]["set/1.jpg"] = jpeg(1)
    stub.faults["set/1.jpg"] = [] if fault is None else [fault] * 9
    monkeypatch.setattr(object_store, "TIMEOUT_S", 0.2 if fault == "hang" else 30)
    waits: list[int] = []
    monkeypatch.setattr(object_store, "_wait", waits.append)
    with pytest.raises(DataError, match=message) as caught:
        files(stub, f"{bucket}/set").image("1.jpg")
    assert caught.value.rule == "IMG-E01"
    assert str(caught.value.file) == f"s3://{bucket}/set/1.jpg"
    assert "AKIA" not in str(caught.value)
    assert waits == ([0, 1] if fault in (500, "hang") else [])


def test_missing_credentials_are_told_from_those_that_do_not_suffice(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub.faults["*"] = [403] * 9
    with pytest.raises(DataError, match=r"refuses access \(REMOTE-E04\)\n.*AWS_PROFILE"):
        files(stub).fetch("a.json")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match="no credentials were found on this machine"):
        files(stub).fetch("a.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "../1.jpg",
        "a/../../1.jpg",
        "/etc/passwd",
        "s3://other/1.jpg",
        "file:///etc/passwd",
        "..\\1.jpg",
        "a\0b",
        "C:\\x",
    ],
)
def test_names_from_the_data_stay_behind_the_address(stub: Stub, name: str) -> None:
    stub.buckets["shop"] |= {"1.jpg": jpeg(1), "etc/passwd": b"x"}
    for call in (files(stub).image, files(stub).fetch, files(stub).exists, files(stub).child):
        with pytest.raises(DataError):
            call(name)
    assert stub.requests == []


def test_wrong_remote_paths_say_what_is_there(stub: Stub, coco: Config) -> None:
    upload(stub, Path(coco.data.root), "set")
    far = override(coco, {"data.root": stub.root("shop/set"), "data.train": "annotations/x.json"})
    with pytest.raises(
        DataError, match=r"x\.json: no such file in the bucket \(data\.train\).*\n.*annotations/, train/"
    ):
        open_split(far, "train")
    far = override(coco, {"data.root": stub.root("shop/set"), "data.train_images": "pics"})
    with pytest.raises(DataError, match=r"looked for pics .*\nThere is annotations/, train/"):
        open_split(far, "train")


def test_malformed_remote_annotations_are_named_by_their_address(stub: Stub, coco: Config, tmp_path: Path) -> None:
    content = truth(11)
    content["annotations"][3]["bbox"] = [1, 2, 3]
    write_coco(Path(coco.data.root), content, images=False)
    upload(stub, Path(coco.data.root), "set")
    with pytest.raises(DataError, match=r"^s3://shop/set/annotations/instances_train\.json: annotation 103.*COCO-E14"):
        open_split(override(coco, {"data.root": stub.root("shop/set")}), "train")


def _read_in_child(files: Remote, name: str, answers: "multiprocessing.Queue[int]") -> None:
    answers.put(len(files.image(name).data))


@pytest.mark.slow
def test_a_fresh_process_connects_by_itself(stub: Stub) -> None:
    stub.buckets["shop"]["set/1.jpg"] = jpeg(1)
    far = files(stub)
    far.image("1.jpg")
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[int] = context.Queue()
    child = context.Process(target=_read_in_child, args=(far, "1.jpg", answers))
    child.start()
    assert answers.get(timeout=60) == len(jpeg(1))
    child.join()


def test_one_call_in_ten_may_fail_without_a_image_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyarrow import fs

    rng, failed = np.random.default_rng(0), []
    local = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())

    class Flaky:
        def open_input_file(self, path: str) -> object:
            if rng.random() < 0.1:
                failed.append(path)
                raise OSError("AWS Error SLOW_DOWN")
            return local.open_input_file(path)

    (tmp_path / "shop").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "shop" / "1.png")
    monkeypatch.setattr(object_store, "connect", lambda address: Flaky())
    monkeypatch.setattr(object_store, "_wait", lambda attempt: None)
    far = Remote(parse("s3://shop"))
    for _ in range(200):
        assert far.image("1.png").data == (tmp_path / "shop" / "1.png").read_bytes()
    assert 10 <= len(failed) <= 35


def test_a_forked_process_makes_a_connection_of_its_own(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.buckets["shop"]["set/1.jpg"] = jpeg(1)
    made: list[object] = []
    original = object_store.connect
    monkeypatch.setattr(object_store, "connect", lambda address: made.append(address) or original(address))
    far = files(stub)
    assert made == []
    far.image("1.jpg")
    far.image("1.jpg")
    assert len(made) == 1
    monkeypatch.setattr("os.getpid", lambda: -1)
    far.image("1.jpg")
    assert len(made) == 2


def test_a_file_that_changes_while_it_is_fetched_is_not_kept(
    stub: Stub, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.buckets["shop"]["set/a.json"] = b"one"
    original = Remote._part

    def part(self: Remote, path: str, start: int, count: int) -> bytes:
        data = original(self, path, start, count)
        stub.buckets["shop"]["set/a.json"] = b"two"
        return data

    monkeypatch.setattr(Remote, "_part", part)
    with pytest.raises(DataError, match="changed while it was fetched"):
        files(stub).fetch("a.json")
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []
