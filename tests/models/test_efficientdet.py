import functools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raydet import models
from tests.models.on_meta import on_meta


def _effdet(name, height, width):
    effdet = pytest.importorskip("effdet")
    config = effdet.get_efficientdet_config(name)
    config.image_size = (height, width)
    config.head_bn_level_first = False  # an order of the keys; `weights` turns it round
    return effdet.EfficientDet(config, pretrained_backbone=False)


def _flat(maps, values):
    """effdet's own flattening, with its codes (ty, tx, th, tw)."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values) for x in maps], 1)


def _codes_swapped(state):
    state = dict(state)
    for leaf in ("weight", "bias"):
        key = f"box_net.predict.conv_pw.{leaf}"
        rows = [anchor * 4 + i for anchor in range(9) for i in (1, 0, 3, 2)]
        state[key] = state[key][rows]
    return state


@pytest.mark.parametrize(
    ("name", "height", "width", "dtype", "tolerance"),
    [
        ("efficientdet_d0", 128, 256, torch.float32, 1e-5),
        ("tf_efficientdet_d0", 128, 128, torch.float32, 1e-5),
        ("efficientdet_lite0", 128, 128, torch.float32, 1e-5),
        ("tf_efficientdet_lite0", 128, 256, torch.float32, 1e-5),
        *(
            pytest.param(f"tf_efficientdet_lite{i}", 128, 128, torch.float32, 1e-5, marks=pytest.mark.slow)
            for i in range(1, 5)
        ),
        pytest.param("efficientdet_d1", 128, 128, torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("efficientdet_d2", 128, 128, torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("efficientdet_d4", 128, 128, torch.float32, 1e-5, marks=pytest.mark.slow),
        # Plain sums under random statistics make outputs of 1e5 whose rounding differences grow with the depth.
        pytest.param("tf_efficientdet_d7x", 256, 256, torch.float64, 1e-5, marks=pytest.mark.soak),
    ],
)
@torch.no_grad()
def test_equals_effdet_with_effdets_weights(name, height, width, dtype, tolerance, randomise):
    theirs = randomise(_effdet(name, height, width)).to(dtype)
    ours = models.build(name).eval().to(dtype)
    ours.load_state_dict(_codes_swapped(theirs.state_dict()))
    images = torch.randn(2 if dtype == torch.float32 else 1, 3, height, width, dtype=dtype)
    classes, boxes = theirs(images)
    wanted_codes = _flat(boxes, 4)[..., [1, 0, 3, 2]]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        logits_BAC, codes_BA4 = ours.to(memory_format=memory_format)(images.contiguous(memory_format=memory_format))
        for ours_BAX, theirs_BAX in ((logits_BAC, _flat(classes, 90)), (codes_BA4, wanted_codes)):
            torch.testing.assert_close(ours_BAX, theirs_BAX, atol=tolerance, rtol=tolerance)


@functools.cache
def _both_on_meta(name):
    with on_meta():
        return _effdet(name, 512, 512), models.build(name)


OF_EACH_KIND = pytest.mark.parametrize(
    "name",
    [
        "efficientdet_d0",
        "tf_efficientdet_d0",
        "tf_efficientdet_lite0",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("tf_efficientdet_d3", "efficientdet_d4", "tf_efficientdet_d7", "tf_efficientdet_d7x"),
                *("efficientdet_lite0", "tf_efficientdet_lite1", "tf_efficientdet_lite4"),
            )
        ),
    ],
)


@pytest.mark.slow
@OF_EACH_KIND
def test_keys_and_shapes_are_effdets(name):
    theirs, ours = _both_on_meta(name)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@OF_EACH_KIND
def test_stochastic_depth_and_norms_are_effdets(name):
    theirs, ours = _both_on_meta(name)
    last = getattr(theirs.backbone.blocks[-2][-1].drop_path, "drop_prob", 0.0)
    blocks = sum(len(stage) for stage in ours.backbone.blocks)
    # The last block of all has no shortcut in some nets; the last but one stage's has.
    number = blocks - len(ours.backbone.blocks[-1]) - 1
    assert math.isclose(last, ours.backbone.drop_path * number / blocks)
    theirs, ours = (
        {n: (m.eps, m.momentum) for n, m in x.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for x in (theirs, ours)
    )
    assert ours == theirs


def test_anchors_come_by_level_row_column_and_anchor_with_the_class_last():
    model = models.build("efficientdet_demo", 3).eval()
    values = torch.arange(9 * 3, dtype=torch.float32)
    with torch.no_grad():
        model.class_net.predict.conv_pw.weight.zero_()
        model.class_net.predict.conv_pw.bias.copy_(values)
        logits_BAC, codes_BA4 = model(torch.randn(1, 3, 64, 96))
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert logits_BAC.shape == (1, cells * 9, 3) and codes_BA4.shape == (1, cells * 9, 4)
    assert torch.equal(logits_BAC, values.reshape(9, 3).repeat(cells, 1)[None])


@torch.no_grad()
def test_a_row_of_cells_runs_along_the_width():
    model = models.build("efficientdet_demo", 1).eval()
    images = torch.zeros(1, 3, 256, 512)
    logits = model(images)[0]
    images[:, :, 100, 300] = 50.0  # cell (12, 37) of the 32 x 64 at stride 8
    moved = (model(images)[0] - logits)[0, : 32 * 64 * 9].abs().reshape(32, 64, 9).sum(2)
    row, column = divmod(int(moved.argmax()), 64)
    assert abs(row - 12) <= 2 and abs(column - 37) <= 2


def test_first_probability_is_one_percent():
    model = models.build("efficientdet_demo", 4)
    bias = model.class_net.predict.conv_pw.bias
    torch.testing.assert_close(torch.sigmoid(bias), torch.full_like(bias, 0.01))


@pytest.mark.parametrize("size", [(128, 100), (100, 128), (48, 64)])
def test_a_size_that_does_not_divide_is_refused(size):
    model = models.build("efficientdet_demo", 2)
    with pytest.raises(ValueError, match=rf"divisible by 32 .*got {size[0]}x{size[1]}"):
        model(torch.zeros(1, 3, *size))


def test_every_parameter_gets_a_gradient():
    # With the drop path on: what a block adds must not hang on the branch alone.
    model = models.build("efficientdet_demo", 3, drop_path=0.2)
    logits_BAC, codes_BA4 = model(torch.randn(4, 3, 64, 64), torch.arange(4))
    (logits_BAC.square().sum() + codes_BA4.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.slow
def test_channels_last_is_kept_and_changes_no_value_nor_gradient():
    # In float64: many gradients before a BN are sums that cancel, of which float32 leaves only noise.
    model = models.build("efficientdet_demo", 3)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        copied = models.build("efficientdet_demo", 3)
        copied.load_state_dict(model.state_dict())
        copied.to(torch.float64, memory_format=memory_format)
        maps = []
        for part in (copied.fpn.cell[-1], copied.backbone.blocks[3]):
            part.register_forward_hook(lambda module, inputs, output, maps=maps: maps.append(output))
        outputs = copied(images.contiguous(memory_format=memory_format))
        sum(x.square().sum() for x in outputs).backward()
        results.append((outputs, [p.grad for p in copied.parameters()]))
        assert all(x.is_contiguous(memory_format=memory_format) for x in maps[0])
    torch.testing.assert_close(results[0], results[1], atol=1e-9, rtol=1e-9)


@pytest.mark.soak
def test_compiles_without_a_break_and_equals_eager():
    model = models.build("efficientdet_demo", 3, drop_path=0.2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images, seeds_B = torch.randn(2, 3, 64, 64), torch.tensor([3, 4])
    torch.testing.assert_close(compiled(images, seeds_B), model(images, seeds_B))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "efficientdet_demo",
        *(pytest.param(n, marks=pytest.mark.soak) for n in ("efficientdet_d0", "tf_efficientdet_d7x")),
    ],
)
def test_runs_on_fake_tensors(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = models.build(name, 7)
        logits_BAC, codes_BA4 = model(torch.empty(2, 3, 512, 256), torch.zeros(2, dtype=torch.int64))
    levels = range(model.min_level, model.max_level + 1)
    anchors = 9 * sum((512 >> level) * (256 >> level) for level in levels)
    assert logits_BAC.shape == (2, anchors, 7) and codes_BA4.shape == (2, anchors, 4)


@pytest.mark.slow
def test_exports_and_gives_the_same():
    model = models.build("efficientdet_demo", 3).eval().to(memory_format=torch.channels_last)
    images = torch.randn(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"min_level": 2}, "min_level must be 3, 4 or 5 and max_level above it, got 2 and 5"),
        ({"max_level": 3}, "max_level above it, got 3 and 3"),
        ({"fusion": "mean"}, "fusion must be 'attention' or 'sum', got 'mean'"),
        ({"padding": "valid"}, "padding must be 'symmetric' or 'same', got 'valid'"),
        ({"act": "swish"}, "act must be 'silu' or 'relu6', got 'swish'"),
    ],
)
def test_bad_values_are_refused_with_the_value(fields, message):
    with pytest.raises(ValueError, match=message):
        models.build("efficientdet_demo", **fields)


@pytest.mark.parametrize(("min_level", "max_level"), [(3, 4), (4, 6), (5, 6), (3, 7)])
def test_any_range_of_levels(min_level, max_level):
    model = models.build("efficientdet_demo", 2, min_level=min_level, max_level=max_level).eval()
    logits_BAC, _ = model(torch.randn(1, 3, 128, 128))
    assert logits_BAC.shape[1] == 9 * sum((128 >> level) ** 2 for level in range(min_level, max_level + 1))


def test_other_anchors_change_the_outputs():
    model = models.build("efficientdet_demo", 2, aspect_ratios=((1.0, 1.0), (2.0, 0.5)), num_scales=1).eval()
    logits_BAC, codes_BA4 = model(torch.randn(1, 3, 32, 32))
    assert logits_BAC.shape == (1, 2 * 21, 2) and codes_BA4.shape == (1, 2 * 21, 4)


@pytest.mark.parametrize("name", ["efficientdet_lite0", *(f"tf_efficientdet_lite{i}" for i in range(5))])
def test_anchors_fusion_and_preprocessing_of_the_lite_ones_are_effdets(name):
    effdet = pytest.importorskip("effdet")
    config, variant = effdet.get_efficientdet_config(name), models.MODELS[name]
    assert variant.anchor_scale == config.anchor_scale
    assert variant.fusion == ("sum" if config.fpn_name == "bifpn_sum" else "attention")
    backbone = models.MODELS[variant.backbone]
    assert backbone.mean == tuple(config.get("mean", (0.485, 0.456, 0.406)))
    assert -(-config.image_size[0] // 128) * 128 == variant.image_size


@pytest.mark.parametrize(("act", "silus"), [(None, True), ("relu6", False)])
def test_one_field_changes_every_activation_of_backbone_pyramid_and_heads(act, silus):
    model = models.build("efficientdet_demo", 2, act=act).eval()
    with torch.no_grad(), _Operators() as called:
        model(torch.randn(1, 3, 64, 64))
    assert ("aten.silu.default" in called.names) == silus and ("aten.hardtanh.default" in called.names) != silus


class _Operators(TorchDispatchMode):
    """Notes the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))
