"""Addresses: what is allowed in data.root, and that no secret of it is ever repeated."""

import pickle
from pathlib import Path

import pytest

from raydet.config import Config, override
from raydet.data.formats.open_split import open_split
from raydet.data.storage.address import connect, is_remote, parse
from raydet.data.storage.object_store import Remote
from raydet.exceptions import DataError


@pytest.mark.parametrize(
    ("root", "rule"),
    [
        ("http://169.254.169.254/latest/meta-data", "REMOTE-E01"),
        ("https://host/set", "REMOTE-E01"),
        ("file:///etc", "REMOTE-E01"),
        ("ftp://host/set", "REMOTE-E01"),
        ("hdfs://host/set", "REMOTE-E01"),
        ("s3a://bucket/set", "REMOTE-E01"),
        ("\x1b[31m://bucket", "REMOTE-E01"),
        ("s3://", "REMOTE-E03"),
        ("s3:///set", "REMOTE-E03"),
        ("s3://bucket/../other", "REMOTE-E03"),
        ("s3://bucket/a?allow_bucket_creation=true", "REMOTE-E03"),
        ("s3://bucket/a?region=a&region=b", "REMOTE-E03"),
        ("s3://bucket/a#b", "REMOTE-E03"),
        ("s3://[bucket/a", "REMOTE-E03"),
        ("abfs://container/set", "REMOTE-E03"),
    ],
)
def test_other_addresses_are_refused_with_the_reason(root: str, rule: str, coco: Config) -> None:
    with pytest.raises(DataError) as caught:
        open_split(override(coco, {"data.root": root}), "train")
    assert caught.value.rule == rule
    assert caught.value.hint


@pytest.mark.parametrize(
    "root",
    [
        "s3://AKIAABCDEFGHIJKLMNOP:CANARY@bucket/set",
        "s3://CANARY@bucket/set",
        "s3://AKIAABCDEFGHIJKLMNOP:CAN/CANARY@bucket/set",
        "s3://AKIAABCDEFGHIJKLMNOP:CAN#CANARY@bucket/set",
        "s3://bucket/set?access_key=CANARY",
        "s3://bucket/set?secret_key=CANARY&region=x",
        "s3://bucket/set?X-Amz-Signature=CANARY",
        "s3://bucket/set?endpoint_override=me:CANARY@host",
        "gs://CANARY@bucket/set",
        "abfs://container:CANARY@account.dfs.core.windows.net/set",
        "abfs://container@account.dfs.core.windows.net/set?sig=CANARY",
        "https://me:CANARY@host/set",
    ],
)
def test_credentials_in_an_address_are_refused_and_never_repeated(root: str, tmp_path: Path, coco: Config) -> None:
    with pytest.raises(DataError) as caught:
        open_split(override(coco, {"data.root": root}), "train")
    assert caught.value.rule in ("REMOTE-E02", "REMOTE-E01")
    assert "CANARY" not in repr((str(caught.value), caught.value.__reduce__()))
    assert caught.value.__cause__ is None
    assert not list(tmp_path.rglob("cache/*"))


def test_an_address_keeps_its_options_when_names_are_joined() -> None:
    files = Remote(parse("s3://bucket/some/set?endpoint_override=minio:9000&scheme=http"))
    below = pickle.loads(pickle.dumps(files.child("images/train")))
    assert below.address.path == "bucket/some/set/images/train"
    assert below.address.options == (("endpoint_override", "minio:9000"), ("scheme", "http"))
    assert below.place == "s3://bucket/some/set/images/train"
    assert (
        parse("abfs://box@acc.dfs.core.windows.net/set").url("a.jpg") == "abfs://box@acc.dfs.core.windows.net/set/a.jpg"
    )


def test_folders_and_demo_sets_are_not_remote() -> None:
    assert [is_remote(root) for root in (".", "/a/b", "demo://detection", "s3://b", "http://b")] == [
        *(False, False, False),
        *(True, True),
    ]


@pytest.mark.parametrize("root", ["gs://bucket/set?anonymous=true", "abfs://box@acc.dfs.core.windows.net/set"])
def test_the_other_stores_connect_with_what_pyarrow_has(root: str) -> None:
    assert connect(parse(root)).type_name in ("gcs", "abfs")
