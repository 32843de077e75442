"""Before a run starts: what is resolved, what is refused, what a claimed folder holds and what it leaves."""

import json
import multiprocessing
import os
import shutil
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from raydet.config import Config, load, override, to_dict
from raydet.driver.continued_run import continued
from raydet.driver.lone_images import check_lone_images
from raydet.driver.plan import describe_start, make_plan
from raydet.driver.run_folder import claimed
from raydet.exceptions import CheckpointError, ConfigError, Refused
from raydet.recipes import recipe
from raydet.runs.result import read_result, write_result
from tests.commands import begun, until
from tests.workers import trained


def test_a_plan_knows_images_classes_and_steps(classification: Config, detection: Config) -> None:
    plan = make_plan(classification)
    assert (plan.train_images, plan.val_images, plan.steps_per_epoch) == (60, 30, 8)
    assert plan.cfg.model.num_classes == len(plan.classes) == 10 and plan.continues is None and not plan.finished
    assert make_plan(override(classification, {"data.drop_last": True})).steps_per_epoch == 7
    assert make_plan(detection).steps_per_epoch == 6
    assert "train     2 epochs of 8 steps of 8 images, 16 steps in all" in describe_start(plan)


def test_planning_writes_nothing(classification: Config, tmp_path: Path) -> None:
    make_plan(classification)
    assert not (tmp_path / "runs").exists()


def test_paths_are_resolved_against_the_working_directory(
    classification: Config, toy_classification: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_classification.parent)
    cfg = override(classification, {"data.root": toy_classification.name, "run.storage_path": "here"})
    plan = make_plan(cfg)
    assert plan.cfg.data.root == str(toy_classification)
    assert plan.folder == toy_classification.parent / "here" / "run"


@pytest.mark.parametrize("key", ["run.storage_path", "data.root", "model.weights"])
def test_a_job_refuses_relative_paths(key: str, classification: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    make_plan(classification)
    with pytest.raises(ConfigError, match=rf"{key} must be absolute in a Ray job.*got 'relative'"):
        make_plan(override(classification, {key: "relative"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_classes": 3}, "model.num_classes=3, but data.train=train has 10"),
        ({"data.batch_size": 61, "optim.batch_size": 61, "data.drop_last": True}, "not one step"),
        ({"scaling.num_workers": (1, 9)}, "leaves some workers without one"),
        ({"model.weights": "/no/such"}, "model.weights: no such file or folder"),
        ({"run.storage_path": "s3://bucket"}, "run.storage_path must be a folder"),
        ({"model.anchor_scale": 3.0}, "section model: efficientnet_demo has no field 'anchor_scale'"),
        ({"quantization.batches": 2}, "model.weights=none: quantization-aware training starts from a trained model"),
        ({"quantization.skip": ("stern",), "model.weights": "."}, "no group or part 'stern'; did you mean stem"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, object], message: str, classification: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(override(classification, changes))
    assert not (tmp_path / "runs").exists()


def test_what_is_left_out_stands_in_the_line_of_the_data(shop: Path) -> None:
    path = shop / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 12]
    path.write_text(json.dumps(content))
    cfg = override(recipe("demo_detection"), {"data.root": str(shop), "run.name": "run"})
    names = {f"data.{split}": f"annotations/instances_{split}.json" for split in ("train", "val")}
    plan = make_plan(override(cfg, names))
    assert plan.left_out == {"without a box": 3} and plan.train_images == 9
    lines = describe_start(plan)
    assert "data      9 of 12 training (3 without a box left out) and 4 validation images" in lines[2]
    assert any("3 of 12 images" in line and "(BOX-W01)" in line for line in lines)


def test_a_single_image_that_becomes_a_single_pixel_is_refused(
    detection: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"data.batch_size": 1, "optim.batch_size": None}
    tiny = override(detection, {**one, "model.name": "efficientdet_d0", "model.image_size": 128})
    with pytest.raises(ConfigError, match=r"single image at a time.*efficientdet_d0 makes a single pixel.*=128"):
        check_lone_images(tiny, 10)
    check_lone_images(override(detection, one), 10)  # of 64 px the demo network makes more than a pixel
    monkeypatch.setattr("raydet.driver.lone_images._takes_one", lambda *_: False)
    for changes in ({"data.batch_size": 2}, {"data.batch_size": 2, "optim.batch_size": 6}):
        check_lone_images(override(tiny, changes), 10)
    shared = {"data.batch_size": 2, "optim.batch_size": 2, "scaling.num_workers": 2}
    for changes in ({"data.batch_size": 2, "optim.batch_size": 3}, shared):  # 2 and 1 of three; one of two each
        with pytest.raises(ConfigError, match="single image"):
            check_lone_images(override(tiny, changes), 10)
    with pytest.raises(ConfigError, match="single image"):
        make_plan(override(detection, one))


def test_a_run_of_before_exif_auto_keeps_the_images_it_began_with(classification: Config, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_dict(override(classification, {"data.exif": False}))))
    assert classification.data.exif == "auto" and continued(classification, tmp_path).data.exif is False
    with pytest.raises(ConfigError, match=r"data\.exif was False, now True"):
        continued(override(classification, {"data.exif": True}), tmp_path)


@pytest.mark.slow
def test_a_run_is_taken_up_where_it_was_left(classification: Config, begun_run: Path) -> None:
    plan = make_plan(classification)
    assert plan.continues is not None and (plan.continues.epoch, plan.continues.step) == (1, 8)
    assert not plan.finished and "continue  after epoch 1, step 8, from step_00000008" in describe_start(plan)


@pytest.mark.slow
def test_the_number_of_workers_may_change_and_the_global_batch_stays(classification: Config) -> None:
    cfg = override(classification, {"data.batch_size": 3, "optim.batch_size": None, "scaling.num_workers": 2})
    assert make_plan(cfg).cfg.global_batch == 6
    begun(cfg)
    for workers in (1, 3, (1, 2), 0):
        plan = make_plan(override(cfg, {"scaling.num_workers": workers}))
        assert plan.cfg.global_batch == 6 and plan.steps_per_epoch == 10
        with claimed(plan):
            assert load(plan.folder / "config.json") == plan.cfg


@pytest.mark.slow
def test_weights_are_looked_for_only_by_a_run_that_starts(
    classification: Config, trained_classifier: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(next((trained_classifier / "checkpoints").iterdir()), tmp_path / "weights"))
    cfg = override(classification, {"model.weights": str(weights)})
    assert make_plan(cfg).loaded[0].loaded
    begun(cfg)
    shutil.rmtree(weights)
    assert make_plan(cfg).loaded == ()


@pytest.mark.slow
def test_a_network_that_is_not_built_as_its_weights_were_is_told(detection: Config, tmp_path: Path) -> None:
    first = trained(override(detection, {"schedule.epochs": 1, "model.anchor_scale": 2.0}), tmp_path / "first")
    cfg = override(detection, {"run.name": "second", "model.weights": str(first)})
    assert make_plan(override(cfg, {"model.anchor_scale": 2.0})).loaded[0].notes == ()
    told = "the weights were trained with model.anchor_scale=2.0, the model has 3.0"
    assert make_plan(cfg).loaded[0].notes == (told,)
    assert told in "\n".join(describe_start(make_plan(cfg)))
    relu6 = override(cfg, {"model.anchor_scale": 2.0, "model.act": "relu6"})
    assert make_plan(relu6).loaded[0].notes == ("the weights were trained with model.act=silu, the model has relu6",)


@pytest.mark.slow
def test_weights_of_other_classes_are_said_also_if_they_are_as_many(
    detection: Config, trained_detector: Path, toy_detection: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(toy_detection, tmp_path / "other"))
    for path in (root / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["categories"][3]["name"] = "drei"
        path.write_text(json.dumps(content))
    cfg = override(detection, {"run.name": "second", "model.weights": str(trained_detector)})
    assert make_plan(cfg).loaded[0].notes == ()
    plan = make_plan(override(cfg, {"data.root": str(root)}))
    said = "trained on other classes: class 3 is '3' in the weights, 'drei' in the data; the head is taken as it is"
    assert said in plan.loaded[0].notes[0] and said in "\n".join(describe_start(plan))


@pytest.mark.slow
def test_weights_of_a_damaged_checkpoint_are_refused(classification: Config, begun_run: Path) -> None:
    path = next((begun_run / "checkpoints").glob("step_*")) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        make_plan(override(classification, {"run.name": "second", "model.weights": str(begun_run)}))


def test_a_setting_that_changes_what_is_learnt_is_refused_by_name(classification: Config, begun_run: Path) -> None:
    before = (begun_run / "config.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        make_plan(override(classification, {"optim.lr": 0.5, "run.seed": 7}))
    assert "optim.lr was 0.003, now 0.5; run.seed was 42, now 7" in str(caught.value)
    assert (begun_run / "config.json").read_bytes() == before


def test_settings_that_change_nothing_learnt_may_differ(classification: Config, begun_run: Path) -> None:
    changes = {"data.workers": 1, "run.keep": 9, "run.max_failures": 0, "scaling.cpus_per_worker": 1}
    assert make_plan(override(classification, changes)).continues is not None


def test_a_moved_run_is_still_the_run(classification: Config, begun_run: Path, tmp_path: Path) -> None:
    shutil.move(begun_run, tmp_path / "moved")
    plan = make_plan(override(classification, {"run.storage_path": str(tmp_path), "run.name": "moved"}))
    assert plan.continues is not None


def test_a_folder_that_is_no_run_is_refused(classification: Config, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="exists and is not a run of raydet"):
        make_plan(classification)


def test_a_folder_that_a_kill_left_before_its_config_is_a_new_run(classification: Config, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    for name in (".lock", ".tmp-0123"):
        (tmp_path / "runs" / "run" / name).touch()
    assert make_plan(classification).continues is None


# --- the claim


def test_a_claimed_folder_holds_config_and_environment(classification: Config) -> None:
    plan = make_plan(classification)
    with claimed(plan):
        assert load(plan.folder / "config.json") == plan.cfg
        assert "torch" in json.loads((plan.folder / "env.json").read_text())["packages"]
    assert plan.folder.stat().st_mode & 0o007 == 0  # not for other users of the machine


def test_a_run_that_fails_before_it_trains_leaves_nothing(classification: Config, tmp_path: Path) -> None:
    plan = make_plan(override(classification, {"run.storage_path": str(tmp_path / "deep" / "er")}))
    with pytest.raises(ConfigError, match="too few"), claimed(plan):
        raise ConfigError("too few machines")
    assert not (tmp_path / "deep").exists()


def test_what_lay_there_before_stays_when_a_run_fails(classification: Config, tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(ConfigError), claimed(make_plan(classification)):
        raise ConfigError("too few machines")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_a_run_that_fails_while_it_trains_stays(trained_classifier: Path) -> None:
    assert (trained_classifier / "log.json").exists() and (trained_classifier / "checkpoints").is_dir()


@pytest.mark.parametrize("path", ["/proc/nothing", "/etc/hostname"])
def test_a_place_that_cannot_be_written_is_named(path: str, classification: Config) -> None:
    with (
        pytest.raises(ConfigError, match=f"run.storage_path: {path}"),
        claimed(make_plan(override(classification, {"run.storage_path": path}))),
    ):
        pass


def test_this_process_cannot_claim_a_run_twice(classification: Config) -> None:
    plan = make_plan(classification)
    with claimed(plan):
        with pytest.raises(Refused, match="by this process already"), claimed(plan):
            pass
        assert (plan.folder / "config.json").exists()
    with claimed(plan):
        pass


def _hold(plan_cfg: Config, held: Event, release: Event) -> None:
    with claimed(make_plan(plan_cfg)):
        if os.fork() == 0:  # as a loader process, that outlives the one that claimed
            release.wait(60)
            os._exit(0)
        held.set()
        os._exit(1)  # dies without letting go


def test_a_claim_ends_with_its_process_even_if_a_forked_child_lives_on(classification: Config) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(classification, held, release))
    holder.start()
    try:
        assert held.wait(60)
        until(lambda: not holder.is_alive(), "the end of its first process")
        with claimed(make_plan(classification)):
            pass
    finally:
        release.set()


def test_a_result_is_strict_json_and_marks_the_end(classification: Config, begun_run: Path) -> None:
    assert read_result(begun_run) is None
    write_result(begun_run, 8, {"top1": 0.5, "AP": float("nan")})
    assert read_result(begun_run) == {"step": 8, "metrics": {"top1": 0.5, "AP": None}}
    assert make_plan(classification).finished
    (begun_run / "result.json").write_text("{")
    assert not make_plan(classification).finished
