"""Codes of boxes against anchors: their definition, and the way back."""

import math

import torch

from raydet.ops.boxes import decode, encode, to_centres

EPS = torch.finfo(torch.float32).eps


def boxes(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 500 - 50
    return torch.cat([corner, corner + torch.rand(*shape, 2, generator=generator) * 200 + 1], dim=-1)


def test_centres_and_sizes_are_those_of_the_box() -> None:
    centre, size = to_centres(torch.tensor([[10.0, 20.0, 30.0, 60.0]]))
    assert centre.tolist() == [[20.0, 40.0]] and size.tolist() == [[20.0, 40.0]]


def test_a_code_is_the_way_in_sizes_of_the_anchor_and_the_log_of_the_growth() -> None:
    code = encode(torch.tensor([30.0, 10.0, 50.0, 90.0]), torch.tensor([10.0, 20.0, 50.0, 60.0]))
    # Two roundings of numbers below 1, and 1e-8 added to each size.
    torch.testing.assert_close(code, torch.tensor([0.25, 0.25, math.log(0.5), math.log(2)]), rtol=0, atol=4 * EPS)


def test_decoding_gives_the_box_back() -> None:
    one, anchors = boxes(0, 7, 1000), boxes(1, 1000)
    # Centres up to 650, and sizes up to 200 through a log and an exp: some ten roundings of less than 1000.
    torch.testing.assert_close(decode(encode(one, anchors), anchors), one, rtol=0, atol=10 * 1000 * EPS)


def test_a_code_of_zeros_is_the_anchor() -> None:
    anchors = boxes(2, 100)
    torch.testing.assert_close(
        decode(torch.zeros(3, 100, 4), anchors), anchors.expand(3, 100, 4), rtol=0, atol=700 * EPS
    )


def test_the_code_of_an_empty_box_is_finite() -> None:
    assert encode(torch.tensor([5.0, 5.0, 5.0, 5.0]), torch.tensor([0.0, 0.0, 10.0, 10.0])).isfinite().all()
