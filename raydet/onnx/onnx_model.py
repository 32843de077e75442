"""An exported ONNX file as a model: read, checked, run by ONNX Runtime.

Nothing in a file is believed. ONNX Runtime runs a graph of its own operators, never code; what could reach beyond the
file is refused here: tensors in other files, operators of other makers, and operators that load something.
"""

import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raydet import ops
from raydet.data.loading.samples import input_size
from raydet.exceptions import CheckpointError, ConfigError, QuantizationNotAvailable
from raydet.onnx import saturation
from raydet.onnx.graph import INPUT
from raydet.onnx.metadata import Metadata, read

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
_LIMIT_BYTES = 2**31 - 1
"""A protobuf message is no longer."""
_DEPTH = 8
"""Graphs within graphs; raydet writes none."""
_CUDA = "CUDAExecutionProvider"


class OnnxGraph(nn.Module):
    """A graph as a module: images_B3HW to its output, to a tuple of several.

    It computes where ONNX Runtime was set up to, with as many threads as torch had when it was opened, in inference
    only: its outputs have no gradient.
    """

    def __init__(self, data: bytes, path: Path, *, use_gpu: bool = False, unfused: bool = False) -> None:
        """Open a graph; the arguments are those of `open_session`.

        Raises:
            CheckpointError: ONNX Runtime does not take the graph. ConfigError: no GPU that it could run on.
        """
        super().__init__()
        self.path = path
        self._session = open_session(data, path, use_gpu=use_gpu, unfused=unfused)

    def forward(self, images_B3HW: Tensor) -> Any:
        """Return what the graph makes of the images, on their device.

        Raises:
            CheckpointError: ONNX Runtime cannot run the graph.
        """
        array_B3HW = images_B3HW.detach().float().cpu().numpy()
        try:
            made = self._session.run(None, {INPUT: array_B3HW})
        except Exception as error:  # its own kinds, which have no base class in common
            raise CheckpointError(f"{self.path}: ONNX Runtime: {error}") from error
        outputs = tuple(torch.from_numpy(array).to(images_B3HW.device) for array in made)
        return outputs[0] if len(outputs) == 1 else outputs


class OnnxModel(OnnxGraph):
    """The graph behind a network's interface: images_B3HW to logits_BC, (logits_BAC, codes_BA4) or BatchDetections."""

    def __init__(
        self, data: bytes, about: Metadata, path: Path, *, use_gpu: bool = False, unfused: bool = False
    ) -> None:
        """Open a graph that `about` describes; the other arguments are those of `open_session`.

        Raises:
            CheckpointError: ONNX Runtime does not take the graph, or it is not what `about` says. ConfigError: no GPU.
        """
        super().__init__(data, path, use_gpu=use_gpu, unfused=unfused)
        self.about = about
        self.name = about.cfg.model.name
        self.num_classes = len(about.class_names)
        self.side = input_size(about.cfg)
        anchors = about.anchors
        self.min_level = 0 if anchors is None else anchors.min_level
        self.max_level = 0 if anchors is None else anchors.max_level
        self.anchor_scale = 0.0 if anchors is None else anchors.anchor_scale
        self._check_interface()

    def _check_interface(self) -> None:
        try:
            inputs = [(i.name, i.type, i.shape[1:]) for i in self._session.get_inputs()]
            names = tuple(output.name for output in self._session.get_outputs())
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.path}: the names of its inputs and outputs are not UTF-8") from error
        wanted = [(INPUT, "tensor(float)", [3, self.side, self.side])]
        if inputs != wanted:
            raise CheckpointError(f"{self.path}: its inputs are {inputs}, its metadata make them {wanted}")
        if names != self.about.outputs:
            raise CheckpointError(f"{self.path}: its outputs are {names}, its metadata name {self.about.outputs}")

    def forward(self, images_B3HW: Tensor) -> Any:
        """Return what the graph makes of the images, on their device.

        Raises:
            ValueError: images of another size than the file's. CheckpointError: ONNX Runtime cannot run the graph.
        """
        if images_B3HW.shape[1:] != (3, self.side, self.side):
            wanted = f"[batch, 3, {self.side}, {self.side}]"
            raise ValueError(f"images must be {wanted}, as {self.path} has them, got {list(images_B3HW.shape)}")
        made = super().forward(images_B3HW)
        return as_found(made, len(images_B3HW)) if self.about.detects else made


def as_found(rows_N7: Tensor, images: int) -> ops.BatchDetections:
    """Return the rows of `raydet.onnx.postprocess.DETECTIONS` as one table an image."""
    image_N = rows_N7[:, 0].long()
    counts_B = image_N.bincount(minlength=images)
    place_N = torch.arange(len(image_N), device=image_N.device) - (counts_B.cumsum(0) - counts_B)[image_N]
    shape = (images, int(counts_B.max()) if len(counts_B) else 0)
    found = ops.BatchDetections(
        rows_N7.new_zeros(*shape, 4), rows_N7.new_zeros(shape), image_N.new_full(shape, -1), counts_B.clone()
    )
    found.boxes_BD4[image_N, place_N] = rows_N7[:, 1:5]
    found.scores_BD[image_N, place_N] = rows_N7[:, 5]
    found.classes_BD[image_N, place_N] = rows_N7[:, 6].long()
    return found


def load(path: Path) -> tuple[bytes, Metadata]:
    """Return an exported file's bytes and what it says of itself, after looking for what must not be in it.

    Raises:
        ConfigError: no file there, or onnx is not installed. CheckpointError: no file that raydet has exported.
    """
    require_onnx(str(path))
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    size = path.stat().st_size
    if size > _LIMIT_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; an ONNX file has at most {_LIMIT_BYTES}")
    data = path.read_bytes()
    return data, parse(data, path)


def parse(data: bytes, path: Path) -> Metadata:
    """Return what a file's bytes say of themselves, after looking for what must not be in them.

    Raises:
        CheckpointError: as `load`.
    """
    from onnx import ModelProto

    if not data:
        raise CheckpointError(f"{path} is empty; export the model again")
    try:
        model = ModelProto.FromString(data)
    except Exception as error:  # protobuf's own kind, which has no types
        raise CheckpointError(f"{path} is no ONNX file, or a truncated one: {error}") from error
    about = read(model, path)
    check_graph(model, path)
    return about


def warn_if_slow(about: Metadata) -> None:
    """Warn of an INT8 graph that is not for ONNX Runtime on a CPU."""
    if about.target == "tensorrt" and about.cfg.quantization is not None:
        warnings.warn(
            "a quantized file for TensorRT: ONNX Runtime gives it float convolutions; expect it slower than fp32 "
            "(for speed on a CPU export with --target onnxruntime)",
            RuntimeWarning,
            stacklevel=2,
        )


def warn_if_saturating(data: bytes, about: Metadata, path: Path) -> None:
    """Warn of an INT8 file that this CPU computes wrongly: one that needs VNNI, see `raydet.onnx.saturation`."""
    from onnx import ModelProto

    if about.target != "onnxruntime" or about.cfg.quantization is None:
        return
    layers = saturation.saturating_layers(ModelProto.FromString(data))
    if layers:
        warnings.warn(
            f"{path} needs a CPU with VNNI: here sums of uint8 x int8 products saturate in {len(layers)} layers "
            "and the results are wrong; export the checkpoint again (`raydet export`): its file will fit any CPU",
            RuntimeWarning,
            stacklevel=2,
        )


def require_onnx(what: str) -> None:
    """Raise QuantizationNotAvailable unless onnx and ONNX Runtime are installed."""
    try:
        import_module("onnx")
        import_module("onnxruntime")
    except ImportError as error:
        raise QuantizationNotAvailable(
            f"{what} needs onnx and onnxruntime; pip install raydet[qat]. The import says: {error}"
        ) from error


def open_session(
    data: bytes, path: Path, *, use_gpu: bool = False, unfused: bool = False, profile: str | None = None
) -> Any:
    """Return ONNX Runtime's session on a graph, with as many threads as torch has.

    Args:
        data: the file's bytes.
        path: for messages.
        use_gpu: run on CUDA.
        unfused: run the graph as it is written, Q/DQ around operators in floats, which no CPU's INT8 kernels touch:
            what the file says, at the speed of floats.
        profile: where a profile goes, without its suffix; None: none is kept.

    Raises:
        CheckpointError: it does not take the graph. ConfigError: no GPU that it could run on.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if use_gpu and _CUDA not in available:
        raise ConfigError(
            f"scaling.use_gpu=true, but this onnxruntime runs on {', '.join(available)} only; "
            "pip install onnxruntime-gpu, or leave scaling.use_gpu false"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    if unfused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    options.log_severity_level = 3  # errors; they are raised all the same
    # It rounds float biases of convolutions to integers, so that the file is another one: the logits' rms difference to
    # PyTorch's was 1.8 % instead of 0.9 %, at 3 % of the speed (demo detector, Xeon, 1.31.1, n 120, 2026-11-22).
    off = ["WeightBiasQuantization"]
    providers = [_CUDA, "CPUExecutionProvider"] if use_gpu else ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(
            data, options, providers=providers, disabled_optimizers=off, enable_fallback=0
        )
    except Exception as error:  # its own kinds, which have no base class in common
        raise CheckpointError(f"{path}: ONNX Runtime does not take it: {str(error)[:300]}") from error
    if use_gpu and _CUDA not in session.get_providers():  # CUDA or cuDNN is missing; it goes on without a word
        raise ConfigError(
            "scaling.use_gpu=true, but onnxruntime cannot start its CUDA provider; are CUDA and cuDNN there?"
        )
    return session


def check_graph(model: "onnx.ModelProto", path: Path) -> None:
    """Raise CheckpointError for a graph that reaches beyond its file, or that needs operators of other makers."""
    if len(model.functions):
        raise CheckpointError(f"{path} defines operators of its own; raydet runs none")
    for node in _nodes(model.graph, path, 0):
        if node.domain not in ("", "ai.onnx"):  # ONNX Runtime's own, too: one of them reads files (EPContext)
            raise CheckpointError(f"{path} uses the operator {node.domain}.{node.op_type}; raydet runs only ONNX's own")


def _nodes(graph: "onnx.GraphProto", path: Path, depth: int) -> Iterator["onnx.NodeProto"]:
    """Yield the nodes of a graph and of those within it; every tensor met on the way is checked."""
    if depth > _DEPTH:
        raise CheckpointError(f"{path}: graphs within graphs, more than {_DEPTH} deep")
    _check_inside(graph.initializer, path)
    _check_inside([part for one in graph.sparse_initializer for part in (one.values, one.indices)], path)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
            _check_inside([part for one in sparse for part in (one.values, one.indices)], path)
            _check_inside([attribute.t, *attribute.tensors], path)
            for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _nodes(inner, path, depth + 1)


def _check_inside(tensors: Any, path: Path) -> None:
    for tensor in tensors:
        if tensor.data_location == 1 or len(tensor.external_data):  # TensorProto.EXTERNAL
            raise CheckpointError(f"{path} keeps tensor {tensor.name!r} in another file; raydet reads one file only")
