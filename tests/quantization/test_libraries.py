"""The one place that knows the libraries: what is missing, what is switched, in which type is computed."""

import subprocess
import sys

import pytest
import torch

from raydet import models
from raydet.config import Quantization
from raydet.exceptions import QuantizationNotAvailable
from raydet.quantization import exporting, quantize
from raydet.quantization.libraries import fake_quantize, make_quantizer

LIBRARIES = {
    "pytorch-quantization": ("pytorch_quantization", r"needs pytorch-quantization==2.1.3 \(2.2.x on PyPI is an empty"),
    "modelopt": ("modelopt", r"needs nvidia-modelopt>=0.47"),
}


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_library_that_is_not_installed_is_named_with_the_remedy(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, text = LIBRARIES[backend]
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(QuantizationNotAvailable, match=rf"backend '{backend}' {text}.*pip install raydet\[qat\]"):
        quantize(models.build("efficientnet_demo"), Quantization(backend=backend))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("backend", LIBRARIES)
def test_half_precision_keeps_all_levels_of_the_grid(backend: str) -> None:
    quantizer = make_quantizer(Quantization(backend=backend), (), torch.device("cpu"))  # type: ignore[arg-type]
    quantizer.get_buffer("_amax").fill_(1.0)
    x = torch.linspace(-1, 1, 4001)
    with torch.autocast("cpu", torch.bfloat16):
        y = fake_quantize(quantizer, x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, quantizer(x.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("backend", LIBRARIES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_has_two_to_the_bits_levels(backend: str, bits: int) -> None:
    quantizer = make_quantizer(Quantization(backend=backend, bits=bits), (), torch.device("cpu"))  # type: ignore[arg-type]
    quantizer.get_buffer("_amax").fill_(1.0)
    levels = quantizer(torch.linspace(-2, 2, 5001)).unique()
    assert len(levels) == 2**bits and levels.max() == 1


def test_the_switch_for_export_is_put_back_also_after_a_failure() -> None:
    model = models.build("efficientnet_demo")
    quantize(model, Quantization())
    cls = type(model.conv_stem.input_quantizer)
    with pytest.raises(KeyError), exporting(model):
        assert cls.use_fb_fake_quant
        raise KeyError
    assert not cls.use_fb_fake_quant


@pytest.mark.soak
def test_nothing_is_said_on_import_and_no_layer_of_torch_is_changed() -> None:
    code = (
        "import torch; before = torch.nn.Conv2d, torch.nn.Linear\n"
        "from raydet import models; from raydet.config import Quantization; from raydet.quantization import quantize\n"
        f"for backend in {tuple(LIBRARIES)}:\n"
        "    quantize(models.build('efficientnet_demo'), Quantization(backend=backend))\n"
        "    assert before == (torch.nn.Conv2d, torch.nn.Linear), backend"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
