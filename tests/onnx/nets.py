"""Nets whose answers mean something, made in seconds, and ONNX Runtime's answers to compare with theirs."""

import copy
from functools import cache

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydet import models
from raydet.config import Quantization
from raydet.onnx.targets import Target, build
from raydet.quantization import calibrate, quantize

CLASSES = 4
SIDE = 32


def patterns(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images_B3HW and classes_B: one bright quarter in each noisy image."""
    generator = torch.Generator().manual_seed(seed)
    classes_B = torch.randint(CLASSES, (count,), generator=generator)
    images_B3HW = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    half = SIDE // 2
    for image_3HW, label in zip(images_B3HW, classes_B.tolist(), strict=True):
        top, left = half * (label // 2), half * (label % 2)
        image_3HW[:, top : top + half, left : left + half] += 1.0
    return images_B3HW, classes_B


@cache
def _trained(act: models.layers.Activation) -> nn.Module:
    torch.manual_seed(0)
    net = models.build("efficientnet_demo", CLASSES, act=act, drop_path=0.0, dropout=0.0, bn_momentum=0.2)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for step in range(25):
        images_B3HW, classes_B = patterns(32, step)
        optimizer.zero_grad()
        F.cross_entropy(net(images_B3HW), classes_B).backward()
        optimizer.step()
    return net.eval()


def classifier(act: models.layers.Activation = "silu") -> nn.Module:
    """Return a classifier that has learned `patterns`."""
    return copy.deepcopy(_trained(act))


@torch.no_grad()
def settled(name: str, side: int, seed: int = 0, **arguments: object) -> nn.Module:
    """Return a net with random weights, BatchNorm's statistics those of its inputs, outputs of a spread near 1."""
    torch.manual_seed(seed)
    net = models.build(name, CLASSES, drop_path=0.0, **arguments)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.3)
    for name, parameter in net.named_parameters():
        if name.endswith("edge_weights"):
            parameter.uniform_(-0.2, 2)
    net.train()
    for _ in range(2):
        net(torch.randn(8, 3, side, side))
    outputs = net.eval()(torch.randn(2, 3, side, side))
    lasts = (
        [net.classifier] if isinstance(outputs, Tensor) else [n.predict.conv_pw for n in (net.class_net, net.box_net)]
    )
    for last, output in zip(lasts, [outputs] if isinstance(outputs, Tensor) else outputs, strict=True):
        last.weight.mul_(1 / output.std())
    return net


def quantized(net: nn.Module, images_B3HW: Tensor, **settings: object) -> nn.Module:
    """Return a calibrated copy with fake-quantizers."""
    net, cfg = copy.deepcopy(net), Quantization(**settings)
    quantize(net, cfg)
    calibrate(net, [images_B3HW], cfg)
    return net


@cache
def exported(target: Target) -> tuple[nn.Module, onnx.ModelProto]:
    """Return a classifier with fake-quantizers, not to be changed, and its graph."""
    images_B3HW = patterns(64, seed=1000)[0]
    net = quantized(classifier(), images_B3HW)
    return net, build(net, images_B3HW, target=target, batches=[images_B3HW])


def run(proto: onnx.ModelProto, images_B3HW: Tensor, **session: object) -> list[Tensor]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    runtime = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"], **session)
    return [torch.from_numpy(np.asarray(y)) for y in runtime.run(None, {"images": images_B3HW.numpy()})]


@torch.no_grad()
def answers(net: nn.Module, images_B3HW: Tensor) -> list[Tensor]:
    outputs = net(images_B3HW)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def error(found: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest rms difference of an output, as a share of its spread."""
    return max(float((a - b).pow(2).mean().sqrt() / b.std()) for a, b in zip(found, expected, strict=True))


def agreement(found: Tensor, expected: Tensor) -> float:
    return float((found.argmax(-1) == expected.argmax(-1)).float().mean())
