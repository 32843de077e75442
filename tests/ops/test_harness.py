"""The harness finds the mistakes it is for, accuses no right kernel, and rounds half types as torch does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from raydet.ops import raw
from tests.ops import harness
from tests.ops.harness import ORDERS, run

THREADS = 256
# All in one source, so that g++ runs once. Each takes floats x (0, 1, 2, ...) and y (zeros), and has s[256] and t.
RIGHT = {
    "tree": """s[t] = x[t]; __syncthreads();
        for (int d = 128; d; d >>= 1) { if (t < d) s[t] += s[t + d]; __syncthreads(); } if (t == 0) *y = s[0];""",
    "prelude_sum": "float v = block_sum(x[t]); if (t == 0) *y = v;",
    "votes": """unsigned odd = __ballot_sync(EVERY_LANE, t & 1);
        int some = __any_sync(EVERY_LANE, t == 3), every = __all_sync(EVERY_LANE, t < 256);
        int half = __syncthreads_count(t < 128), any = __syncthreads_or(t == 9), all = __syncthreads_and(t < 200);
        if (t) return;
        *y = (odd == 0xaaaaaaaau) + 10 * some + 100 * every + 1000 * half + 1000000 * any + 2000000 * all;""",
    "shuffles": """if (t >= 32) return; float v = t, up = __shfl_up_sync(EVERY_LANE, v, 1);
        float down = __shfl_down_sync(EVERY_LANE, v, 1), fifth = __shfl_sync(EVERY_LANE, v, 5);
        double far = __shfl_xor_sync(EVERY_LANE, (double)v, 16);
        y[t] = up + 100 * down + 10000 * fifth + 1000000 * far;""",
    "lanes_that_left": "if (t % 32 == 5) return; int n = __popc(__ballot_sync(EVERY_LANE, 1)); if (t == 0) *y = n;",
    "halves_then_whole_warps": """unsigned half = t & 16 ? 0xffff0000u : 0xffffu, odd = 0u;
        if (t & 16) odd = __ballot_sync(half, t & 1);
        unsigned all = __ballot_sync(EVERY_LANE, 1);
        if (!(t & 16)) odd = __ballot_sync(half, t & 1);
        y[t] = (all == EVERY_LANE) + 2 * __popc(odd);""",
    "integer_atomics": "atomicAdd((unsigned long long*)y, 3ull * t); atomicMax((unsigned*)y + 2, (unsigned)t);",
}
WRONG = {
    "no_barrier_after_load": """s[t] = x[t];
        for (int d = 128; d; d >>= 1) { if (t < d) s[t] += s[t + d]; __syncthreads(); } if (t == 0) *y = s[0];""",
    "no_barrier_in_loop": """s[t] = x[t]; __syncthreads();
        for (int d = 128; d; d >>= 1) { if (t < d) s[t] += s[t + d]; } if (t == 0) *y = s[0];""",
    "float_atomics": "atomicAdd(y, x[t] * 0.1f + 1e-3f * t * t);",
    "uninitialised_shared": "if (t < 128) s[t] = 1.0f; __syncthreads(); y[t] = s[t];",
    "never_written_shared": "__shared__ unsigned flag; y[t] = flag;",
}
REFUSED = {
    "divergent_barrier": ("if (t < 128) __syncthreads();\n else __syncthreads();", "barrier reached from AT and AT"),
    "lane_that_never_comes": (
        "if (t != 5) *y = __shfl_sync(EVERY_LANE, 1, 0); else __syncthreads();",
        "deadlock: others never come to AT",
    ),
    "shuffle_from_inactive_lane": (
        "if (t >= 250) return; *y = __shfl_down_sync(EVERY_LANE, x[t], 16);",
        "shuffle from an inactive lane at AT",
    ),
    "shuffle_from_outside_the_mask": (
        "if (t < 16) *y = __shfl_sync(0xffffu, x[t], 20); __syncthreads();",
        "shuffle from an inactive lane at AT",
    ),
    "masks_that_differ": (
        "*y = __ballot_sync(t % 2 ? EVERY_LANE - 1u : EVERY_LANE, 1);",
        "lanes of a warp named different masks at AT",
    ),
    "empty_mask": ("*y = __ballot_sync(0u, 1);", "a lane is not in the mask it names at AT"),
    "not_in_own_mask": ("*y = __ballot_sync(1u, 1);", "a lane is not in the mask it names at AT"),
    "lines_that_differ": (
        "if (t % 2) *y = __ballot_sync(EVERY_LANE, 1);\n else *y = __ballot_sync(EVERY_LANE, 1);",
        "a warp's lanes meet at AT and AT",
    ),
    "misaligned": ("*(float4*)(y + 1) = make_float4(1, 2, 3, 4);", "misaligned or null address at AT"),
    "null": ("float* nowhere = y - (size_t)y / 4; *nowhere = 1;", "misaligned or null address at AT"),
    "beyond_array": ("s[t + (int)x[1]] = 1.0f; *y = s[t];", "index beyond its array at AT"),
    "wide_shift": ("*y = 1u << (t + (int)x[1]);", "shift by more bits than there are at AT"),
    "division_by_zero": ("*y = 7 / (int)x[t];", "integer division by zero at AT"),
}
LAST_BLOCK = {"last_block_to_write": "if (t == 0) *y = blockIdx.x;"}
BODIES = {**RIGHT, **WRONG, **LAST_BLOCK, **{name: body for name, (body, _) in REFUSED.items()}}
HEAD = 'extern "C" __global__ void {}(const float* x, float* y) {{ __shared__ float s[256]; int t = threadIdx.x;'
CONVERSIONS = """
extern "C" __global__ void halves(const float* x, __half* h, __nv_bfloat16* b, i64 count) {
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) { h[i] = __float2half(x[i]); b[i] = __float2bfloat16(x[i]); }
}
extern "C" __global__ void floats(const __half* h, const __nv_bfloat16* b, float* from_h, float* from_b, i64 count) {
  for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
    from_h[i] = __half2float(h[i]);
    from_b[i] = __bfloat162float(b[i]);
  }
}
"""
SOURCE = "".join(f"{HEAD.format(name)}\n{body} }}\n" for name, body in BODIES.items()) + CONVERSIONS
FLOATS = {"x": torch.float32, "y": torch.float32}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "kernels.cu"
    path.write_text(SOURCE)
    return path


def outcome(source: Path, name: str, order: int, block: int = THREADS, grid: int = 1) -> Tensor:
    kernel = raw.Kernel(str(source), name, FLOATS)
    x, y = torch.arange(THREADS, dtype=torch.float32), torch.zeros(THREADS)
    run(kernel, (grid,), (block,), [x.data_ptr(), y.data_ptr()], order)
    return y


def expected() -> dict[str, Tensor]:
    lane, zeros = torch.arange(32.0), torch.zeros(THREADS)
    shuffled = (lane - 1).clamp(min=0) + 100 * (lane + 1).clamp(max=31) + 50_000 + 1_000_000 * ((lane + 16) % 32)
    largest = torch.tensor([3 * 255 * 128, 0, 255, 0], dtype=torch.int32).view(torch.float32)  # little-endian
    first = {"tree": 32640.0, "prelude_sum": 32640.0, "votes": 1_128_111.0, "lanes_that_left": 31.0}
    return {
        **{name: zeros.index_fill(0, torch.tensor(0), value) for name, value in first.items()},
        "halves_then_whole_warps": torch.full((THREADS,), 17.0),
        "shuffles": torch.cat([shuffled, zeros[32:]]),
        "integer_atomics": torch.cat([largest, zeros[4:]]),
    }


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_kernel_gives_its_result_in_every_order(source: Path, name: str) -> None:
    for order in ORDERS:
        assert torch.equal(outcome(source, name, order).view(torch.int32), expected()[name].view(torch.int32)), order


@pytest.mark.parametrize("name", WRONG)
def test_a_race_or_uninitialised_memory_gives_other_bits_in_another_order(source: Path, name: str) -> None:
    bits = [outcome(source, name, order).view(torch.int32) for order in ORDERS]
    assert not all(torch.equal(bits[0], other) for other in bits[1:])


def test_blocks_run_in_another_order_too(source: Path) -> None:
    last = [int(outcome(source, "last_block_to_write", order, grid=100)[0]) for order in ORDERS]
    assert last[:2] == [99, 0] and len(set(last)) == len(ORDERS)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_would_hang_on_is_an_error_that_names_the_line(source: Path, name: str) -> None:
    pattern = REFUSED[name][1].replace("AT", r"\w+:\d+")
    for order in ORDERS:
        with pytest.raises(RuntimeError, match=f"^{name}: {pattern}$"):
            outcome(source, name, order)


def test_the_line_named_is_the_sources(source: Path) -> None:
    first = 1 + next(n for n, line in enumerate(SOURCE.splitlines(), 1) if "divergent_barrier" in line)
    with pytest.raises(RuntimeError, match=rf":{first} and \w+:{first + 1}$"):
        outcome(source, "divergent_barrier", 0)


def test_a_launch_after_an_error_is_right_again(source: Path) -> None:
    with pytest.raises(RuntimeError):
        outcome(source, "lane_that_never_comes", 0)
    assert torch.equal(outcome(source, "tree", 0), expected()["tree"])


def test_more_threads_than_a_block_can_have_are_refused(source: Path) -> None:
    with pytest.raises(RuntimeError, match="more than 1024 threads"):
        outcome(source, "tree", 0, block=1056)


def test_a_grid_higher_than_a_gpus_is_refused(source: Path) -> None:
    kernel = raw.Kernel(str(source), "tree", FLOATS)
    with pytest.raises(RuntimeError, match="tree: a grid has more than 65535 blocks along y or z"):
        run(kernel, (1, 65536), (THREADS,), [0, 0])


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_that_is_not_full_meets_without_the_rest(source: Path, order: int) -> None:
    assert outcome(source, "lanes_that_left", order, block=20)[0] == 19


def test_parameters_that_are_not_the_sources_are_named(source: Path) -> None:
    kernel = raw.Kernel(str(source), "tree", {"x": torch.float32, "y": "int32"})
    with pytest.raises(TypeError, match="tree: parameters are pi, in the source pp"):
        run(kernel, (1,), (32,), [0, 0])


def test_a_missing_compiler_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernel = raw.Kernel(str(source), "tree", FLOATS, (("NOT", "built_before"),))
    with pytest.raises(FileNotFoundError, match=r"no-such-compiler is missing.*install it"):
        run(kernel, (1,), (32,), [0, 0])


@pytest.mark.slow
def test_what_the_compiler_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_FLAGS", (*harness._FLAGS, "-fsyntax-only"))
    path = tmp_path / "wrong.cu"
    path.write_text('extern "C" __global__ void wrong(float* y) {\n  *y = no_such_name;\n}\n')
    with pytest.raises(RuntimeError, match=r"wrong:2:\d+: error: 'no_such_name' was not declared"):
        run(raw.Kernel(str(path), "wrong", {"y": torch.float32}), (1,), (32,), [0])


def test_floats_become_half_types_as_torchs_do(source: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, 2**32, (300_000,), generator=generator)
    # From 2^-27 to 2^16, where float16 is 0, subnormal, normal, infinite: its values, halfway ones, next to them.
    near = (torch.arange(0x32000000, 0x47C00000, 1 << 12).unsqueeze(1) + torch.tensor([-1, 0, 1])).flatten()
    bits = torch.cat([random, near, near + 2**31, torch.tensor([0, 2**31, 0x7F800000, 0xFF800000, 1, 0x7F7FFFFF])])
    x = torch.where(bits < 2**31, bits, bits - 2**32).to(torch.int32).view(torch.float32)
    half, bfloat = torch.empty(len(x), dtype=torch.float16), torch.empty(len(x), dtype=torch.bfloat16)
    parameters = {"x": torch.float32, "h": torch.float16, "b": torch.bfloat16, "count": "int64"}
    pointers = [x.data_ptr(), half.data_ptr(), bfloat.data_ptr()]
    run(raw.Kernel(str(source), "halves", parameters), (1,), (32,), [*pointers, len(x)])
    nan = x.isnan()
    for ours, theirs in ((half, x.half()), (bfloat, x.bfloat16())):
        assert torch.equal(ours.view(torch.int16)[~nan], theirs.view(torch.int16)[~nan])
        assert ours[nan].isnan().all()


def test_all_codes_of_half_types_become_floats_as_torchs_do(source: Path) -> None:
    codes = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    from_half, from_bfloat = torch.empty(2**16), torch.empty(2**16)
    parameters = {"h": torch.float16, "b": torch.bfloat16, "from_h": torch.float32, "from_b": torch.float32}
    pointers = [codes.data_ptr(), codes.data_ptr(), from_half.data_ptr(), from_bfloat.data_ptr()]
    run(raw.Kernel(str(source), "floats", {**parameters, "count": "int64"}), (1,), (32,), [*pointers, 2**16])
    for ours, theirs in ((from_half, codes.view(torch.float16)), (from_bfloat, codes.view(torch.bfloat16))):
        assert torch.equal(ours.isnan(), theirs.isnan())
        bits = [values.nan_to_num(0.0, torch.inf, -torch.inf).view(torch.int32) for values in (ours, theirs.float())]
        assert torch.equal(*bits)


def test_what_torch_leaves_uninitialised_is_not_a_number() -> None:
    with harness.on_host():
        assert torch.empty(3).isnan().all()
    assert raw.on_host is None and not torch.are_deterministic_algorithms_enabled()
