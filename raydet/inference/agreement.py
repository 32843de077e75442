"""Whether an exported graph answers as the PyTorch model does: on the same images, by the figures that users know."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from raydet.data import Batch, DetectionIndex
from raydet.data.columns import Ints
from raydet.distributed import WorkerGroup
from raydet.tasks.classification import Classification
from raydet.tasks.detection import Detection, DetectionScorer, concatenated, truth_of
from raydet.tasks.metrics import SplitDetections, average_precision

_GROUPS = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near two models' answers are; the model is the judge, the file is judged."""

    images: int
    rms: float
    """Root mean square of the logits' differences, relative to that of the model's logits."""
    differing: int | None
    """Images that get another class; None: a detector's."""
    ap: tuple[float, float] | None
    """AP of the model and of the file; None: a classifier's, or there is no truth to score against."""
    ap_chance: float
    """Standard error of the two APs' difference: how far it may be from 0 by the choice of the images."""
    made_up: bool
    """The images were made up: what an answer to them should be, nobody knows."""

    @property
    def argmax(self) -> float | None:
        """Share of the images that get the same class; None: a detector's."""
        return None if self.differing is None else 1 - self.differing / self.images


@dataclass(frozen=True, slots=True)
class Opened:
    """An exported file, opened in one way."""

    graph: nn.Module
    """The network: images_B3HW to logits_BC, or to logits and codes."""
    detecting: nn.Module | None = None
    """The same with detection in it, whose AP then counts; None: there is none."""


class _Tally:
    """What is counted of one opened file."""

    def __init__(self, opened: Opened, scorer: DetectionScorer | None) -> None:
        self.opened, self.scorer = opened, scorer
        self.squares = torch.zeros(2, dtype=torch.float64)
        self.differing = 0

    def add(self, inputs_B3HW: Tensor, ours: Any, batch: Batch) -> None:
        theirs = self.opened.graph(inputs_B3HW)
        our_logits, their_logits = _logits(ours), _logits(theirs)
        self.squares += torch.stack([(their_logits - our_logits).square().sum(), our_logits.square().sum()])
        if our_logits.ndim == 2:  # a classifier's
            self.differing += int((our_logits.argmax(1) != their_logits.argmax(1)).sum())
        if self.scorer is not None:
            self.scorer.add(theirs if self.opened.detecting is None else self.opened.detecting(inputs_B3HW), batch)


@torch.no_grad()
def compare(
    model: nn.Module, files: Sequence[Opened], task: Detection | Classification, index: Any, batches: Iterable[Batch]
) -> list[Agreement]:
    """Return how far each of `files` answers as `model` does, all on the same images.

    Args:
        model: in eval mode, on the CPU.
        files: the exported network, opened in one way or more.
        task: theirs, on the CPU.
        index: the split that the batches are of, all of it; None: images without truth, no AP.
        batches: at least one.
    """
    # Without a box there is no AP.
    scored = isinstance(task, Detection) and index is not None and len(index.boxes) > 0

    def scorer() -> DetectionScorer | None:
        return DetectionScorer(cast("Detection", task), index) if scored else None

    own, tallies, images = scorer(), [_Tally(opened, scorer()) for opened in files], 0
    for batch in batches:
        inputs = task.inputs(batch)
        outputs = model(inputs)
        images += len(inputs)
        if own is not None:
            own.add(outputs, batch)
        for tally in tallies:
            tally.add(inputs, outputs, batch)
    own_ap = None if own is None else own.result(WorkerGroup())["AP"]
    return [_agreement(own, own_ap, tally, images, task, index is None) for tally in tallies]


def _agreement(
    own: DetectionScorer | None,
    own_ap: float | None,
    tally: _Tally,
    images: int,
    task: Detection | Classification,
    made_up: bool,
) -> Agreement:
    difference, size = tally.squares.tolist()
    ap, chance = None, 0.0
    if own is not None and own_ap is not None and tally.scorer is not None:
        ap = own_ap, tally.scorer.result(WorkerGroup())["AP"]
        chance = _chance([own, tally.scorer])
    return Agreement(
        images=images,
        rms=(difference / max(size, 1e-30)) ** 0.5,
        differing=None if isinstance(task, Detection) else tally.differing,
        ap=ap,
        ap_chance=chance,
        made_up=made_up,
    )


def _chance(scorers: list[DetectionScorer]) -> float:
    """Return the standard error of the difference in AP, by a jackknife that leaves out a tenth of the images in turn.

    Efron & Stein 1981 (doi:10.1214/aos/1176345462). Images in the split's order: near ones, often alike, are spread.
    """
    index, found = scorers[0].index, [concatenated(scorer.found) for scorer in scorers]
    groups = min(_GROUPS, len(index))
    group_N = np.arange(len(index)) % groups
    differences = []
    for group in range(groups if groups > 1 else 0):
        left = index.select(np.flatnonzero(group_N != group))
        if not isinstance(left, DetectionIndex) or not len(left.boxes):
            continue  # no AP without a box
        truth = truth_of(left)
        ours, theirs = (average_precision(truth, _of_images(one, left.ids)).figures["AP"] for one in found)
        differences.append(theirs - ours)
    return float(np.std(differences) * (groups - 1) ** 0.5) if differences else 0.0


def _of_images(found: SplitDetections, ids: Ints) -> SplitDetections:
    wanted = np.isin(found.image_ids, ids)
    return SplitDetections(*(getattr(found, field.name)[wanted] for field in fields(SplitDetections)))


def _logits(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return (outputs if isinstance(outputs, Tensor) else outputs[0]).double()
