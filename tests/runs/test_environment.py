"""No secret is written down (docs/faults.md S8), and env.json is an allow-list."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydet.runs import environment as environment_module
from raydet.runs.environment import environment, redact, redact_text
from raydet.runs.run_log import RunLog

CANARIES = {
    "password": "hunter2",
    "db_password": "hunter3",
    "aws_secret_access_key": "wJalrXUtnFEMI/K7MDENG",
    "token": "deadbeefcafe",
    "clientSecret": "hunter4",
    "k": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Zm9vYmFyYmF6;EndpointSuffix=core",
    "wandb_api_key": "0123456789abcdef0123456789abcdef01234567",
    "a": "AKIAIOSFODNN7EXAMPLE",
    "b": "hf_abcdefghijklmnopqrstuvwx",
    "c": "https://user:pa55word@host/path",
    "d": "s3://b/k?X-Amz-Signature=feedfacefeed&x=1",
    "e": "https://acc.blob.core.windows.net/c?sv=1&sig=abc%2Fdefghij",
    "f": "Authorization: Bearer abcdefgh12345678",
    "g": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "h": "export WANDB_API_KEY=0123456789abcdef",
    "i": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "j": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
}


SECRETS = [
    "hunter2",
    "hunter3",
    "hunter4",
    "Zm9vYmFyYmF6",
    "wJalrXUtnFEMI",
    "deadbeefcafe",
    "0123456789abcdef",
    "AKIAIOSFODNN7EXAMPLE",
    "hf_abcdef",
    "pa55word",
    "feedface",
    "abc%2Fdef",
    "abcdefgh12345678",
    "ghp_abcdef",
    "eyJhbGci",
    "MIIEpAIB",
]


def test_no_secret_reaches_the_log(tmp_path: Path) -> None:
    run = RunLog(tmp_path, "detection")
    run.parameters(CANARIES | {"nested": {"list": [CANARIES["c"], {"token": "deadbeefcafe"}]}})
    text = (tmp_path / "log.json").read_text()
    assert [s for s in SECRETS if s in text] == []
    assert text.count(environment_module.HIDDEN) >= len(CANARIES)
    assert "host/path" in text and "x=1" in text, "only the secret goes"


def test_ordinary_settings_are_kept() -> None:
    settings = {
        "optim.lr": 0.1,
        "data.root": "/data/coco",
        "run.name": "keyboard-token_mix",
        "model.weights": "hf://owner/repo/model.safetensors",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "author": "x",
        "keep": 3,
        "num_tokens": 5,
        "monkey": "see",
        "url": "https://host:8080/path?size=3",
        "token": None,
        "use_auth": True,
    }
    assert redact(settings) == settings
    assert redact_text("loss: 0.5, epoch: 3, key: value") == "loss: 0.5, epoch: 3, key: value"


def test_env_json_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_CANARY", "canary-value")
    monkeypatch.setenv("USER", "someone")
    env = environment()
    assert set(env) == {"raydet", "git_commit", "python", "platform", "cpu_count", "gpus", "packages"}
    text = json.dumps(env)
    assert "canary" not in text and "someone" not in text and os.uname().nodename not in text
    assert isinstance(env["packages"], dict) and env["packages"]["torch"]


def test_looking_at_the_environment_loads_neither_torch_nor_ray() -> None:
    code = "import sys, raydet.runs.run_log as log; log.environment(); "
    code += "print([m for m in ('torch', 'ray') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr


def test_the_commit_is_the_checkouts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    assert environment_module.git_commit(tmp_path) is None
    git("init")
    assert environment_module.git_commit(tmp_path) is None
    git("commit", "--allow-empty", "-m", "first")
    assert environment_module.git_commit(tmp_path) == git("rev-parse", "HEAD") != ""
    (tmp_path / "site-packages").mkdir()  # installed inside of someone else's checkout
    assert environment_module.git_commit(tmp_path / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    assert environment_module.git_commit(tmp_path) is None
