import pytest
import torch
import torch.nn.functional as F

from raydet.models.bifpn import BiFPN, Combine, Node, cell_nodes
from raydet.models.layers import Norm

NORM = Norm(1e-3, 0.01)


def test_nodes_of_p3_to_p7_are_the_papers():
    nodes = cell_nodes(3, 7)
    assert [node.inputs for node in nodes] == [
        (3, 4),
        (2, 5),
        (1, 6),
        (0, 7),
        (1, 7, 8),
        (2, 6, 9),
        (3, 5, 10),
        (4, 11),
    ]
    assert [node.level for node in nodes] == [6, 5, 4, 3, 4, 5, 6, 7]


def test_nodes_of_two_levels():
    assert cell_nodes(3, 4) == (Node(3, (0, 1)), Node(4, (1, 2)))


@pytest.mark.parametrize(("min_level", "max_level"), [(3, 5), (3, 8), (4, 7), (3, 7)])
def test_wiring_equals_effdets(min_level, max_level):
    config = pytest.importorskip("effdet.config.fpn_config")
    theirs = config.bifpn_config(min_level, max_level).nodes
    ours = cell_nodes(min_level, max_level)
    assert [(n.level, list(n.inputs)) for n in ours] == [(n.feat_level, list(n.inputs_offsets)) for n in theirs]


@pytest.mark.parametrize("fusion", ["attention", "sum"])
def test_combine_equals_the_stacked_definition(fusion):
    levels = (3, 4, 5, 4)
    combine = Combine(
        Node(4, (1, 3, 0, 2)), levels, (8,) * 4, 8, fusion=fusion, padding="symmetric", bias=False, norm=NORM
    )
    maps = [torch.randn(2, 8, 2 ** (7 - level), 2 ** (6 - level) * 3) for level in levels]
    shares = torch.ones(4)
    if fusion == "attention":
        with torch.no_grad():
            combine.edge_weights.copy_(torch.tensor([0.7, -0.5, 0.2, 1.1]))
        positive = combine.edge_weights.relu()
        shares = positive / (positive.sum() + 1e-4)
    inputs = [maps[1], maps[3], F.max_pool2d(maps[0], 3, 2, 1), F.interpolate(maps[2], scale_factor=2, mode="nearest")]
    torch.testing.assert_close(combine(maps), (torch.stack(inputs, -1) * shares).sum(-1))


def test_sum_fusion_has_no_weights():
    fpn = _pyramid(fusion="sum")
    assert not [key for key in fpn.state_dict() if "edge_weights" in key]


@pytest.mark.parametrize("redundant_bias", [True, False])
def test_redundant_bias_is_everywhere_or_nowhere(redundant_bias):
    keys = _pyramid(redundant_bias=redundant_bias).state_dict()
    convs = [key for key in keys if key.endswith(("conv.conv.weight", "conv_pw.weight"))]
    biased = [key for key in convs if key.replace("weight", "bias") in keys]
    assert biased == (convs if redundant_bias else [])


def test_the_given_list_is_not_changed():
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 16), (6, 8), (10, 4))]
    given = [*maps]
    assert len(_pyramid()(given)) == 5
    assert len(given) == 3 and all(a is b for a, b in zip(given, maps, strict=True))


def test_channels_last_stays_channels_last():
    maps = [
        torch.randn(2, c, s, s).contiguous(memory_format=torch.channels_last) for c, s in ((4, 16), (6, 8), (10, 4))
    ]
    for x in _pyramid()(maps):
        assert x.is_contiguous(memory_format=torch.channels_last)


def _pyramid(fusion="attention", redundant_bias=False):
    return BiFPN(
        (4, 6, 10),
        8,
        min_level=3,
        max_level=7,
        cells=2,
        fusion=fusion,
        padding="symmetric",
        redundant_bias=redundant_bias,
        norm=NORM,
    )
