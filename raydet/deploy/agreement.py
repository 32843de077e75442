"""Whether an exported graph answers as the PyTorch model does: on the same pictures, by the figures that users know."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from raydet.data import Batch, CocoIndex
from raydet.data.columns import Ints
from raydet.deploy.pictures import part
from raydet.metrics import Detections, average_precision
from raydet.peers import Peers
from raydet.tasks import Classification, Detection, DetectionScorer, concatenated, truth_of

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
    """Standard error of the two APs' difference: how far it may be from 0 by the choice of the pictures."""
    made_up: bool
    """The pictures were made up: what an answer to them should be, nobody knows."""

    @property
    def argmax(self) -> float | None:
        """Share of the images that get the same class; None: a detector's."""
        return None if self.differing is None else 1 - self.differing / self.images


@torch.no_grad()
def compare(
    model: nn.Module,
    graph: nn.Module,
    detecting: nn.Module | None,
    task: Detection | Classification,
    index: Any,
    batches: Iterable[Batch],
) -> Agreement:
    """Return how far `graph` answers as `model` does.

    Args:
        model: in eval mode, on the CPU.
        graph: the exported network: logits, or logits and codes.
        detecting: the same with detection in it, whose AP then counts; None: there is none.
        task: theirs, on the CPU.
        index: the split that the batches are of, all of it; None: pictures without truth, no AP.
        batches: at least one.
    """
    detector = isinstance(task, Detection)
    # Without a box there is no AP.
    scored = isinstance(task, Detection) and index is not None and len(index.boxes) > 0
    scorers = [DetectionScorer(cast("Detection", task), index) for _ in range(2 if scored else 0)]
    squares = torch.zeros(2, dtype=torch.float64)
    images = differing = 0
    for batch in batches:
        inputs = task.inputs(batch)
        outputs, theirs = model(inputs), graph(inputs)
        ours_logits, their_logits = (_logits(o) for o in (outputs, theirs))
        squares += torch.stack([(their_logits - ours_logits).square().sum(), ours_logits.square().sum()])
        images += len(inputs)
        if not detector:
            differing += int((ours_logits.argmax(1) != their_logits.argmax(1)).sum())
        for scorer, answer in zip(scorers, (outputs, theirs if detecting is None else detecting(inputs)), strict=False):
            scorer.add(answer, batch)
    ours, our_size = squares.tolist()
    ap = [scorer.result(Peers())["AP"] for scorer in scorers]
    return Agreement(
        images=images,
        rms=(ours / max(our_size, 1e-30)) ** 0.5,
        differing=None if detector else differing,
        ap=(ap[0], ap[1]) if ap else None,
        ap_chance=_chance(scorers) if scorers else 0.0,
        made_up=index is None,
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
        left = part(index, np.flatnonzero(group_N != group))
        if not isinstance(left, CocoIndex) or not len(left.boxes):
            continue  # no AP without a box
        truth = truth_of(left)
        ours, theirs = (average_precision(truth, _of_images(one, left.ids)).figures["AP"] for one in found)
        differences.append(theirs - ours)
    return float(np.std(differences) * (groups - 1) ** 0.5) if differences else 0.0


def _of_images(found: Detections, ids: Ints) -> Detections:
    wanted = np.isin(found.image_ids, ids)
    return Detections(*(getattr(found, field.name)[wanted] for field in fields(Detections)))


def _logits(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return (outputs if isinstance(outputs, Tensor) else outputs[0]).double()
