"""raydet as a Ray job, and as a guest of a cluster: one of a single CPU, with a token and ports of its own.

Never `ray stop` here: it would end every Ray of the user.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from raydet.config import Config, load, override
from raydet.runs import checkpoint_store
from tests.commands import (
    LIMIT_S,
    ROOT,
    begun,
    descendants,
    environment,
    kill,
    psutil,
    raydet,
    running,
    until,
    words,
)

pytestmark = pytest.mark.slow

TOKEN = "f" * 64
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cluster:
    """A head node that runs jobs."""

    env: Mapping[str, str]
    """Environment of its clients."""
    address: str
    client: JobSubmissionClient


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    for each in with_sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in with_sockets]
    for each in with_sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    port, dashboard, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN, RAY_USAGE_STATS_ENABLED="0")
    del env["PYTHONPATH"]  # the code comes with the job
    env |= {"PATH": f"{BIN}{os.pathsep}{env['PATH']}", "HOME": folder}
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    place = [f"--temp-dir={folder}", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    command = [str(BIN / "ray"), "start", "--head", "--block", *ports, *place]
    with open(f"{folder}/head.txt", "w") as log:
        head = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        client = until(lambda: answering(f"http://127.0.0.1:{dashboard}", head), "the head node")
        yield Cluster(env, f"127.0.0.1:{port}", client)
    finally:
        for process in [*descendants(head.pid), psutil.Process(head.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def answering(url: str, head: "subprocess.Popen[bytes]") -> JobSubmissionClient | None:
    assert head.poll() is None, "the head node has ended"
    with suppress(ConnectionError, RuntimeError):
        return JobSubmissionClient(url, headers={"Authorization": f"Bearer {TOKEN}"})
    return None


def fit_words(cfg: Config) -> list[str]:
    return ["python", "-m", "raydet", "fit", *words(cfg)]


@pytest.mark.soak
def test_a_submitted_job_trains_to_its_end(classification: Config, cluster: Cluster, tmp_path: Path) -> None:
    """The README's command, from the checkout: 2 workers on a cluster with 1 CPU."""
    cfg = override(classification, {"scaling.num_workers": 2})
    submit = [str(BIN / "ray"), "job", "submit", f"--address={cluster.client.get_address()}", "--working-dir", "."]
    done = subprocess.run(
        [*submit, "--", *fit_words(cfg), "--json"],
        cwd=ROOT,
        env=dict(cluster.env),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "run"
    last = checkpoint_store.newest(folder / "checkpoints")
    assert last is not None and last.step == 16
    (result,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert result["run"] == str(folder) and Path(result["last"]) == last.path
    assert done.stdout.count("epoch 2/2  train loss") == 1  # no line of a worker's comes twice


@pytest.mark.soak
def test_the_example_submits_a_job_and_ends_with_its_code(
    classification: Config, cluster: Cluster, tmp_path: Path
) -> None:
    script = [sys.executable, str(ROOT / "examples" / "submit_job.py"), cluster.client.get_address()]
    settings = words(override(classification, {"scaling.num_workers": 1, "schedule.epochs": 1}))
    outcomes = (2, ["--optim.lr", "-1"], "raydet: optim.lr must be > 0"), (0, [], "epoch 1/1")
    for code, extra, message in outcomes:
        command = [*script, *settings, *extra]
        done = subprocess.run(command, cwd=ROOT, env=dict(cluster.env), capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == code, done.stdout + done.stderr
        assert message in done.stdout and "Traceback" not in done.stdout
        assert (tmp_path / "runs").exists() == (code == 0)
    assert (tmp_path / "runs" / "run" / "result.json").is_file()


@pytest.mark.soak
def test_a_driver_outside_a_job_joins_the_cluster_from_any_folder(
    classification: Config, cluster: Cluster, tmp_path: Path
) -> None:
    """An elastic run, begun by three workers; it goes on with the one that there is room for, and the same batch."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**cluster.env, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address}
    cfg = override(classification, {"data.batch_size": 4, "optim.batch_size": None, "scaling.num_workers": 3})
    folder = begun(cfg)
    cfg = override(cfg, {"scaling.num_workers": (1, 2)})
    done = raydet("fit", *words(cfg), cwd=elsewhere, env=env)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stderr.splitlines()].count("run") == 1 and "Traceback" not in done.stderr
    assert list(elsewhere.iterdir()) == []
    last = checkpoint_store.newest(folder / "checkpoints")
    assert last is not None and last.step == 10 and load(folder / "config.json").global_batch == 12


@pytest.mark.soak
def test_a_search_whose_driver_is_killed_leaves_nothing_on_the_cluster_and_goes_on(
    classification: Config, cluster: Cluster, tmp_path: Path
) -> None:
    env = {**cluster.env, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster.address}
    cfg = override(classification, {"scaling.num_workers": 1, "schedule.epochs": 6, "scaling.cpus_per_worker": 1})
    told = ["tune", *words(cfg), "--set", "optim.lr=loguniform(1e-4, 1e-1)", "--num-samples", "2"]
    metrics = Path(cfg.run.storage_path) / cfg.run.name / "trials" / "0001" / "metrics.jsonl"
    with running(told, tmp_path, env) as process:
        until(lambda: metrics.is_file(), "an epoch of the first trial")
        kill(process.pid)
    before = metrics.read_text()
    done = raydet(*told, "--json", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 2 and metrics.read_text().startswith(before)
    look = (
        "import ray; from ray.util.placement_group import placement_group_table as table\n"
        f"ray.init(address={cluster.address!r}, log_to_driver=False, logging_level='ERROR')\n"
        "print([g['state'] for g in table().values() if g['state'] != 'REMOVED'], ray.available_resources()['CPU'])"
    )
    found = ""
    for _ in range(20):  # what the driver's job held goes some seconds after it
        found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, env=env, check=True).stdout
        if found.strip() == "[] 1.0":
            break
    assert found.strip() == "[] 1.0"


@pytest.mark.ray
def test_workers_that_find_no_room_in_the_cluster_are_refused(
    classification: Config, cluster: Cluster, tmp_path: Path
) -> None:
    cfg = override(classification, {"scaling.num_workers": 1, "scaling.cpus_per_worker": 4})
    cfg = override(cfg, {"scaling.address": cluster.address})
    done = raydet("fit", *words(cfg), env={**cluster.env, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "room for 0 workers of 4 CPU; its nodes have 1 CPU" in done.stderr
    assert not (tmp_path / "runs").exists()
