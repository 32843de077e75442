import pytest
import torch
import torch.nn.functional as F

from raydet.models.layers import (
    SALT_DROP_PATH,
    AveragePool,
    Conv2dSame,
    DepthwiseSeparable,
    MBConv,
    Norm,
    activation,
    conv2d,
    drop_path_scales,
    dropout,
    max_pool_half,
    sample_uniform,
)

SEEDS_B = torch.arange(4096) * 7919 + 2**40


def test_uniform_draws_have_the_moments_and_the_histogram_of_a_uniform():
    draws = sample_uniform(SEEDS_B, 1, 64).flatten().double()
    n = draws.numel()
    assert draws.min() >= 0 and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5  # four standard errors
    assert abs(draws.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    counts = torch.histc(draws, 100, 0, 1)
    chi2 = ((counts - n / 100) ** 2 / (n / 100)).sum()
    assert chi2 < 99 + 4 * (2 * 99) ** 0.5


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(lambda: (sample_uniform(SEEDS_B, 1, 8), sample_uniform(SEEDS_B, 2, 8)), id="salts"),
        pytest.param(lambda: (sample_uniform(SEEDS_B, 1, 8), sample_uniform(SEEDS_B + 1, 1, 8)), id="next seed"),
        pytest.param(lambda: (sample_uniform(SEEDS_B, 1, 8), sample_uniform(SEEDS_B + 2**32, 1, 8)), id="high bits"),
        pytest.param(lambda: sample_uniform(SEEDS_B, 1, 16).chunk(2, 1), id="elements"),
        pytest.param(lambda: sample_uniform(torch.arange(8192), 1, 8).chunk(2), id="small seeds"),
    ],
)
def test_draws_are_uncorrelated(pair):
    a, b = (x.flatten().double() for x in pair())
    assert not torch.equal(a, b)
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
    assert abs(correlation) < 4 / a.numel() ** 0.5


def test_draws_of_a_sample_do_not_depend_on_its_place_in_the_batch():
    order = torch.randperm(len(SEEDS_B))
    assert torch.equal(sample_uniform(SEEDS_B, 3, 5)[order], sample_uniform(SEEDS_B[order], 3, 5))


def test_draws_are_pinned():
    # Checkpoints and runs of other versions depend on these values: never change them, add a new function.
    draws = sample_uniform(torch.tensor([0, 1, -1, 2**62]), 1, 2) * 2**24
    assert draws.long().tolist() == [[11832281, 9463374], [3645122, 1734308], [6163100, 6546216], [15924699, 5745982]]


@pytest.mark.slow
def test_draws_are_made_on_any_device_without_a_copy_to_the_host():
    assert sample_uniform(torch.zeros(3, dtype=torch.int64, device="meta"), 1, 4).shape == (3, 4)
    compiled = torch.compile(sample_uniform, fullgraph=True, backend="eager")
    assert torch.equal(compiled(SEEDS_B, 1, 4), sample_uniform(SEEDS_B, 1, 4))


@pytest.mark.parametrize("seeds_B", [SEEDS_B, None], ids=["seeds", "generator"])
def test_drop_path_drops_block_i_of_n_at_rate_i_over_n(seeds_B):
    scales = drop_path_scales(torch.empty(len(SEEDS_B), 3, 1, 1), 0.4, 8, seeds_B)
    for i, scale_B111 in enumerate(scales):
        rate = 0.4 * i / 8
        dropped = (scale_B111 == 0).double().mean().item()
        assert abs(dropped - rate) <= 4 * (rate * (1 - rate) / len(SEEDS_B)) ** 0.5
        assert torch.allclose(scale_B111[scale_B111 != 0], torch.tensor(1 / (1 - rate)))


def test_drop_path_and_dropout_draw_from_different_salts():
    dropped = sample_uniform(SEEDS_B, SALT_DROP_PATH, 4) < 0.5
    zeroed = dropout(torch.ones(len(SEEDS_B), 4), 0.5, SEEDS_B) == 0
    assert abs((dropped == zeroed).double().mean() - 0.5) < 4 * 0.5 / dropped.numel() ** 0.5


def test_dropout_by_seed_keeps_the_mean_and_the_dtype():
    kept = dropout(torch.ones(len(SEEDS_B), 16, dtype=torch.bfloat16), 0.25, SEEDS_B)
    assert kept.dtype == torch.bfloat16
    assert set(kept.float().unique().tolist()) == {0.0, torch.tensor(1 / 0.75).bfloat16().item()}
    assert abs((kept == 0).double().mean() - 0.25) < 4 * (0.25 * 0.75 / kept.numel()) ** 0.5


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (9, 12), (1, 2), (15, 4)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_is_tensorflows(size, kernel):
    conv = conv2d(4, 6, kernel, stride=2, padding="same")
    assert isinstance(conv, Conv2dSame)
    x = torch.randn(2, 4, *size)
    # By the definition: ceil(size / stride) outputs, output i reads from i * stride - before.
    outputs = [-(-n // 2) for n in size]
    total = [max((o - 1) * 2 + kernel - n, 0) for o, n in zip(outputs, size, strict=True)]
    before = [t // 2 for t in total]
    padded = torch.zeros(2, 4, size[0] + total[0], size[1] + total[1])
    padded[:, :, before[0] : before[0] + size[0], before[1] : before[1] + size[1]] = x
    y = conv(x)
    assert list(y.shape[2:]) == outputs
    torch.testing.assert_close(y, F.conv2d(padded, conv.weight, None, 2))


@pytest.mark.parametrize("size", [(2, 2), (8, 6), (7, 9), (5, 4), (1, 1)])
def test_same_max_pool_equals_padding_with_minus_infinity(size):
    x = torch.randn(1, 3, *size) - 5  # all negative: a zero from padding would show
    total = [(-(-n // 2) - 1) * 2 + 3 - n for n in size]
    padded = F.pad(
        x,
        (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2),
        value=-torch.inf,
    )
    assert torch.equal(max_pool_half(x, "same"), F.max_pool2d(padded, 3, 2))
    assert torch.equal(max_pool_half(x, "symmetric"), F.max_pool2d(x, 3, 2, 1))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (8, 8)])
def test_average_pool_is_the_mean_while_training_too(size):
    pool, x = AveragePool(), torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        y = pool.train(training)(x)
        torch.testing.assert_close(y, x.mean((2, 3), keepdim=True))
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, torch.full_like(x, 1 / (size[0] * size[1])))


def test_average_pool_of_halves_does_not_overflow():
    x = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)  # the sum is 409600
    assert AveragePool().train()(x).item() == 100


def test_activations_by_name():
    x = torch.tensor([-3.0, 0.5, 9.0])
    assert torch.equal(activation("silu")(x), F.silu(x))
    assert torch.equal(activation("relu6")(x), torch.tensor([0.0, 0.5, 6.0]))
    assert not activation("relu6").inplace and not activation("silu").inplace
    with pytest.raises(ValueError, match="act must be 'silu' or 'relu6', got 'swish'"):
        activation("swish")


BLOCKS = {
    "MBConv": lambda act, squeezed: MBConv(8, 16, 8, 3, 1, squeezed, "symmetric", Norm(1e-3, 0.1), act),
    "first stage": lambda act, squeezed: DepthwiseSeparable(8, 8, 3, 1, squeezed, "same", Norm(1e-3, 0.1), act),
}


@pytest.mark.parametrize("squeezed", [2, None])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_pool_product_sum_and_activation_of_a_block_is_a_module_called_once(block, squeezed):
    net, calls = BLOCKS[block]("silu", squeezed).eval(), []
    leaves = {name: module for name, module in net.named_modules() if not list(module.children())}
    for name, module in leaves.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: calls.append(name))
    net(torch.randn(1, 8, 4, 4))
    assert sorted(calls) == sorted(leaves)
    # Nothing but what the modules do is left to the block: as many operations as modules.
    graph = torch.export.export(net, (torch.randn(1, 8, 4, 4),)).graph
    assert sum(node.op == "call_function" for node in graph.nodes) == len(leaves) - (squeezed is None)


@pytest.mark.parametrize("block", BLOCKS)
def test_relu6_leaves_no_silu(block):
    program = torch.export.export(BLOCKS[block]("relu6", 2).eval(), (torch.randn(1, 8, 4, 4),))
    assert "silu" not in str(program.graph) and "silu" in str(_exported(BLOCKS[block]("silu", 2)).graph)


def _exported(net):
    return torch.export.export(net.eval(), (torch.randn(1, 8, 4, 4),))
