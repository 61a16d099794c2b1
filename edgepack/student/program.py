"""Running a student, whatever it is made of: as its author meant it, in float64, and captured to ONNX."""

from __future__ import annotations

import copy
import inspect
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.hub.graph import OPSET
from edgepack.student.sizes import checked as checked_sizes
from edgepack.student.spec import ImagePreprocessing, StudentDescription, StudentError, TensorSpec, refuse_unfitting_labels
from edgepack.student.state import checked

Feed = Mapping[str, NDArray[Any]]
Arrays = dict[str, NDArray[Any]]


class Program(Protocol):
    """A model that can be run and captured. Feeds and results are by name, one sample each, in the student's layout."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs with dtype and shape filled in."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs with dtype and shape filled in."""

    @property
    def parameters(self) -> int:
        """Number of weights."""

    def example(self) -> Arrays:
        """The example inputs."""

    def run(self, feed: Feed) -> Arrays:
        """The student as its author runs it, in its own precision."""

    def run_float64(self, feed: Feed) -> Arrays:
        """The same computation with every float in float64: the truth that parity is measured against."""

    def capture(self, path: Path) -> None:
        """Write it as one ONNX file with embedded weights."""


@dataclass(frozen=True)
class Student:
    """The model to export.

    Args:
        module: a ``torch.nn.Module``, a ``torch.export.ExportedProgram`` or the path of an .onnx file.
        example_inputs: positional arguments of ``forward``, tensors; empty for an .onnx file, whose examples are drawn from its shapes.
        inputs, outputs: a TensorSpec or a name for each, in the order of ``forward``; empty for the names the model itself carries.
        name: short name, used in reports.
        preprocessing: how an image file becomes the (single) input; None when samples arrive as tensors.
        labels: class names in the order of the first output's last axis.
        licence: of the weights, an SPDX expression.
        files: files, relative to the student's own, that it depends on and that Python does not see being opened (it sees most). When
            one changes, a build looks at everything again.
        exporter: makes the captured onnx_ir model in place of ``torch.onnx.export``: float32, opset 7 to 25, inputs and outputs in the
            order of ``forward``.
        state: inputs that take in the next step what outputs gave in this one, input name -> output name (docs/state.md).
        sizes: symbolic dimensions that every artifact takes in a range, symbol -> (smallest, largest), both included (docs/sizes.md).
    """

    module: Any
    example_inputs: Sequence[Any] = ()
    inputs: Sequence[TensorSpec | str] = ()
    outputs: Sequence[TensorSpec | str] = ()
    name: str = "student"
    preprocessing: ImagePreprocessing | None = None
    labels: Sequence[str] = ()
    licence: str = "unspecified"
    files: Sequence[str | Path] = ()
    exporter: Callable[[], Any] | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def program(self) -> Program:
        """The runnable form, made once.

        Raises:
            StudentError: the module, its examples and its specs do not fit together.
        """
        inputs, outputs = _specs(self.inputs), _specs(self.outputs)
        if isinstance(self.module, (str, Path)):
            if len(self.example_inputs):
                raise StudentError("example_inputs were given for an .onnx file, whose examples are drawn", "leave example_inputs out")
            return OnnxProgram(Path(self.module), inputs, outputs)
        return TorchProgram(self.module, _tensors(self.example_inputs), inputs, outputs, self.exporter)

    def describe(self, source: str) -> StudentDescription:
        """Everything but the weights; ``source`` says where the student came from."""
        program = self.program
        inputs = tuple(self._with_range(spec) for spec in program.inputs)
        labels = tuple(str(label) for label in self.labels)
        refuse_unfitting_labels(labels, program.outputs)
        state = checked(self.state, inputs, program.outputs)
        example = {name: array.shape for name, array in program.example().items()} if self.sizes else {}
        sizes = checked_sizes(self.sizes, inputs, example) if self.sizes else {}
        return StudentDescription(
            self.name, source, inputs, program.outputs, self.preprocessing, labels, self.licence, program.parameters, state, sizes
        )

    def _with_range(self, spec: TensorSpec) -> TensorSpec:
        if spec.value_range is not None or self.preprocessing is None or len(self.program.inputs) != 1:
            return spec
        return TensorSpec(spec.name, spec.dtype, spec.shape, spec.layout, self.preprocessing.value_range)


class TorchProgram:
    """A ``torch.nn.Module`` or ExportedProgram, in eval mode."""

    def __init__(
        self,
        module: Any,
        example: tuple[Any, ...],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        exporter: Callable[[], Any] | None = None,
    ) -> None:
        import torch

        self._exporter = exporter
        self._exported = module if isinstance(module, torch.export.ExportedProgram) else None
        self._module = _evaluated(module)
        # Copies: torch.export takes two examples that are one tensor for one input.
        self._example = tuple(tensor.clone() for tensor in example or _exported_example(module))
        if not self._example:
            raise StudentError("the student has no example inputs", "pass example_inputs=(tensor, ...) to Student")
        keys, results = self._forward(self._module, self._example)
        self.inputs = _fill(inputs or _exported_inputs(module, len(self._example)), self._example, "input")
        self.outputs = _fill(_in_order_of(keys, outputs), results, "output")
        _refuse_shared_names((*self.inputs, *self.outputs))
        self._refuse_non_finite(results)

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self._module.parameters())

    def example(self) -> Arrays:
        return {spec.name: tensor.detach().cpu().numpy() for spec, tensor in zip(self.inputs, self._example, strict=True)}

    def run(self, feed: Feed) -> Arrays:
        return self._run(self._module, feed, lambda tensor: tensor)

    def run_float64(self, feed: Feed) -> Arrays:
        from edgepack.student.double import everything_in_float64

        double = self._double()
        with everything_in_float64():
            return self._run(double, feed, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def capture(self, path: Path) -> None:
        import onnx
        import onnx_ir as ir

        model = self._exporter() if self._exporter is not None else self._captured()
        _name_ends(model.graph, [spec.name for spec in self.inputs], [spec.name for spec in self.outputs])
        _forget_origins(model)
        onnx.save(ir.to_proto(model), path)

    def _captured(self) -> Any:
        """The onnx_ir model that torch.onnx.export makes."""
        import torch

        source, example, dynamic = (self._exported, (), None) if self._exported is not None else self._capture_arguments()
        try:
            program = torch.onnx.export(
                source,
                example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                verbose=False,
            )
        except Exception as error:
            raise StudentError(
                f"torch.onnx.export cannot capture the student ({one_line(error)})", "see the log; rewrite that part of forward"
            ) from error
        return program.model

    def _capture_arguments(self) -> tuple[Any, tuple[Any, ...], Any]:
        """Symbolic sizes are captured at 2 or more, since torch.export takes a size of 1 for a constant."""
        example, dynamic = list(self._example), []
        for index, spec in enumerate(self.inputs):
            symbolic = {axis: size for axis, size in enumerate(spec.shape or ()) if isinstance(size, str)}
            for axis in symbolic:
                example[index] = example[index].repeat_interleave(2, axis) if example[index].shape[axis] == 1 else example[index]
            dynamic.append(symbolic or None)
        return self._module, tuple(example), _as_taken(self._module, dynamic) if any(dynamic) else None

    def _double(self) -> Any:
        if not hasattr(self, "_double_module"):
            self._double_module = copy.deepcopy(self._module).double()
        return self._double_module

    def _run(self, module: Any, feed: Feed, convert: Callable[[Any], Any]) -> Arrays:
        import torch

        arguments = tuple(convert(torch.from_numpy(np.ascontiguousarray(feed[spec.name]))) for spec in self.inputs)
        _, results = self._forward(module, arguments)
        return {spec.name: tensor.numpy() for spec, tensor in zip(self.outputs, results, strict=True)}

    @staticmethod
    def _forward(module: Any, arguments: tuple[Any, ...]) -> tuple[list[str], list[Any]]:
        """(names, tensors) in the order in which they are exported; names are the keys of a flat dict, else output_0, output_1, ..."""
        import torch
        from torch.utils._pytree import tree_leaves

        try:
            # Not inference_mode: there a view of a plain tensor attribute cannot be promoted to float64.
            with torch.no_grad():
                returned = module(*arguments)
                leaves = tree_leaves(returned)
        except Exception as error:
            raise StudentError(
                f"the student's forward raised {one_line(error)}", "make forward(*example_inputs) run in eval mode"
            ) from error
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if len(tensors) != len(leaves) or not tensors:
            raise StudentError("the student returns something that is not a tensor", "return tensors, or a tuple or dict of them")
        is_flat = isinstance(returned, Mapping) and len(returned) == len(leaves)
        keys = [str(key) for key in returned] if is_flat else [f"output_{index}" for index in range(len(leaves))]
        return keys, [tensor.detach().clone() for tensor in tensors]

    def _refuse_non_finite(self, results: Sequence[Any]) -> None:
        for name, tensor in self._module.state_dict().items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise StudentError(f"weight '{name}' holds NaN", "load weights from a training run that did not diverge")
        for spec, tensor in zip(self.outputs, results, strict=True):
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise StudentError(f"output '{spec.name}' is not finite on the example inputs", "check the weights and the examples")


class OnnxProgram:
    """An .onnx file; no torch needed."""

    def __init__(self, path: Path, inputs: tuple[TensorSpec, ...] = (), outputs: tuple[TensorSpec, ...] = ()) -> None:
        import onnx

        from edgepack.hub.external import ModelFileError
        from edgepack.hub.reading import load_model

        if not path.is_file():
            raise StudentError(f"student file {path} does not exist", "give the path of an .onnx file")
        try:
            self._model = load_model(path)
            onnx.checker.check_model(self._model)
            self._refuse_non_finite()
            weights = {tensor.name for tensor in self._model.graph.initializer}
            taken = [_onnx_spec(value) for value in self._model.graph.input if value.name not in weights]
            given = [_onnx_spec(value) for value in self._model.graph.output]
        except StudentError:
            raise
        except ModelFileError as error:
            raise StudentError(error.cause, error.hint) from error
        except Exception as error:
            raise StudentError(f"{path} is not a valid ONNX model ({one_line(error)})", "check it with onnx.checker") from error
        self.inputs, self.outputs = _merge(inputs, taken, "input"), _merge(outputs, given, "output")
        if not self.outputs:
            raise StudentError(f"{path} has no output", "export it again")
        _refuse_shared_names((*self.inputs, *self.outputs))
        self._session: Any = None

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(tensor.dims)) for tensor in self._model.graph.initializer)

    def example(self) -> Arrays:
        random = np.random.default_rng(0)
        return {spec.name: _draw(spec, random) for spec in self.inputs}

    def run(self, feed: Feed) -> Arrays:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            try:
                self._session = onnxruntime.InferenceSession(self._model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise StudentError(f"onnxruntime cannot load the student ({one_line(error)})", "re-export the model") from error
        return dict(zip((spec.name for spec in self.outputs), self._session.run(None, dict(feed)), strict=True))

    def run_float64(self, feed: Feed) -> Arrays:
        from edgepack.hub.reference import Float64Run

        if not hasattr(self, "_float64"):
            self._float64 = Float64Run(self._model)
        result: Arrays = self._float64(feed)
        return result

    def capture(self, path: Path) -> None:
        import onnx

        onnx.save(self._model, path)

    def _refuse_non_finite(self) -> None:
        import onnx

        for tensor in self._model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise StudentError(f"weight '{tensor.name}' holds NaN", "load weights from a training run that did not diverge")


def _name_ends(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs the student's names; a value inside that has one of them (the exporter names them "relu") gives way.

    Raises:
        StudentError: the capture lost an input or output.
    """
    ends, names = [*graph.inputs, *graph.outputs], [*inputs, *outputs]
    if (len(graph.inputs), len(graph.outputs)) != (len(inputs), len(outputs)):
        raise StudentError(
            f"the captured graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, not {len(inputs)} and {len(outputs)}",
            "let forward use every input, and return tensors it computes",
        )
    inside = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    taken = {value.name for value in inside} | set(names)
    for value in inside:
        if value.name in names:
            taken.add(_rename_apart(value, taken))
    for value, name in zip(ends, names, strict=True):
        value.name = name


def _forget_origins(model: Any) -> None:
    """Drop what the exporter notes of every node: stack traces, with lines and folders of the machine that captured it."""
    holders = [model, model.graph, *model.graph.inputs, *model.graph.initializers.values()]
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.doc_string = None
            holders += [node, *node.outputs]
    for holder in holders:
        holder.metadata_props.clear()


def _rename_apart(value: Any, taken: set[str]) -> str:
    name = next(candidate for count in itertools.count(1) if (candidate := f"{value.name}_{count}") not in taken)
    value.name = name
    return name


def _as_taken(module: Any, dynamic: Sequence[Any]) -> tuple[Any, ...]:
    """One entry for each parameter of ``forward``, as torch.export counts them: those that ``*arguments`` takes are one entry together."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(dynamic)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*dynamic[:named], tuple(dynamic[named:]))


def _tensors(given: Sequence[Any]) -> tuple[Any, ...]:
    """The example inputs, once they are known to be a sequence of tensors on the CPU that numpy can hold."""
    import torch

    if isinstance(given, torch.Tensor):
        raise StudentError("example_inputs is one tensor, not a sequence of them", "write example_inputs=(tensor,)")
    for index, item in enumerate(given):
        if not isinstance(item, torch.Tensor):
            raise StudentError(f"example input {index} is a {type(item).__name__}", "give tensors; wrap the module if forward takes others")
        if item.device.type != "cpu":
            raise StudentError(f"example input {index} is on {item.device}", "move the module and its examples to the CPU with .cpu()")
        if item.dtype == torch.bfloat16:
            raise StudentError(f"example input {index} is bfloat16, which numpy and the runtimes lack", "convert the student with .float()")
    return tuple(given)


def _refuse_shared_names(specs: Sequence[TensorSpec]) -> None:
    counts = Counter(spec.name for spec in specs)
    shared = [name for name, count in counts.items() if count > 1 or not name]
    if shared:
        raise StudentError(f"the name '{shared[0]}' stands for {counts[shared[0]]} tensors", "give each input and output its own name")


def _specs(given: Sequence[TensorSpec | str]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item) if isinstance(item, str) else item for item in given)


def _evaluated(module: Any) -> Any:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return module.module()
    if isinstance(module, torch.jit.ScriptModule):
        raise StudentError("the student is a TorchScript module, which torch.export refuses", "pass the nn.Module it was made from")
    if not isinstance(module, torch.nn.Module):
        raise StudentError(f"the student's module is a {type(module).__name__}", "pass a torch.nn.Module or the path of an .onnx file")
    elsewhere = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers()) if tensor.device.type != "cpu"}
    if elsewhere:
        raise StudentError(f"the student's weights are on {min(elsewhere)}", "move the module and its examples to the CPU with .cpu()")
    return module.eval()


def _exported_example(module: Any) -> tuple[Any, ...]:
    import torch

    if not isinstance(module, torch.export.ExportedProgram) or not module.example_inputs:
        return ()
    positional, keywords = module.example_inputs
    if keywords:
        raise StudentError(f"the program was exported with keyword arguments ({', '.join(keywords)})", "export it with positional ones")
    return _tensors(positional)


def _exported_inputs(module: Any, count: int) -> tuple[TensorSpec, ...]:
    import torch

    exported = isinstance(module, torch.export.ExportedProgram)
    names = module.graph_signature.user_inputs if exported else [f"input_{index}" for index in range(count)]
    return tuple(TensorSpec(str(name)) for name in names)


def _in_order_of(keys: list[str], specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Specs in the order of what forward returns: by key when they name the keys, by position when they give names of their own.

    Raises:
        StudentError: some names are keys and some are not, so that neither reading is safe.
    """
    by_name = {spec.name: spec for spec in specs}
    if not specs:
        return tuple(TensorSpec(key) for key in keys)
    if set(by_name) == set(keys):
        return tuple(by_name[key] for key in keys)
    if set(by_name) & set(keys):
        unknown = ", ".join(name for name in by_name if name not in keys) or ", ".join(key for key in keys if key not in by_name)
        raise StudentError(f"forward returns {', '.join(keys)}, and the outputs name only some of them ({unknown})", "name every key")
    return specs


def _fill(specs: tuple[TensorSpec, ...], tensors: Sequence[Any], kind: str) -> tuple[TensorSpec, ...]:
    """Specs completed from real tensors, and checked against them."""
    if len(specs) != len(tensors):
        names = ", ".join(spec.name for spec in specs)
        raise StudentError(f"the student has {len(tensors)} {kind}s but {len(specs)} are named ({names})", f"name each {kind} once")
    return tuple(
        _complete(spec, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), kind)
        for spec, tensor in zip(specs, tensors, strict=True)
    )


def _complete(spec: TensorSpec, shape: tuple[int, ...], dtype: str, kind: str) -> TensorSpec:
    declared = spec.shape if spec.shape is not None else shape
    agrees = len(declared) == len(shape) and all(isinstance(want, str) or want == have for want, have in zip(declared, shape, strict=True))
    if not agrees or (spec.dtype or dtype) != dtype:
        raise StudentError(
            f"{kind} '{spec.name}' is declared {spec.dtype or dtype}{list(declared)} but is {dtype}{list(shape)}", "correct its TensorSpec"
        )
    _refuse_wrong_layout(spec, len(shape), kind)
    return TensorSpec(spec.name, dtype, declared, spec.layout, spec.value_range)


def _refuse_wrong_layout(spec: TensorSpec, rank: int, kind: str) -> None:
    if spec.layout and len(spec.layout) != rank:
        raise StudentError(f"{kind} '{spec.name}' has layout '{spec.layout}' but {rank} dimensions", "give one letter a dimension")


def _merge(given: tuple[TensorSpec, ...], found: list[TensorSpec], kind: str) -> tuple[TensorSpec, ...]:
    """An .onnx file's own specs, with layouts and ranges of the declared ones of the same name."""
    extra = {spec.name for spec in given} - {spec.name for spec in found}
    if extra:
        raise StudentError(f"the model has no {kind} '{sorted(extra)[0]}'", f"its {kind}s are {', '.join(spec.name for spec in found)}")
    by_name = {spec.name: spec for spec in given}
    return tuple(_agreed(by_name[spec.name], spec, kind) if spec.name in by_name else spec for spec in found)


def _agreed(given: TensorSpec, found: TensorSpec, kind: str) -> TensorSpec:
    """A declared spec of an .onnx file: sizes may be given for its symbolic dimensions, everything else must be what it holds."""
    shape, held = given.shape if given.shape is not None else found.shape, found.shape or ()
    fits = len(shape or ()) == len(held) and all(
        isinstance(have, str) or want == have for want, have in zip(shape or (), held, strict=True)
    )
    if not fits or (given.dtype or found.dtype) != found.dtype:
        raise StudentError(
            f"{kind} '{found.name}' is declared {given.dtype or found.dtype}{list(shape or ())} but is {found.dtype}{list(held)}",
            "correct its TensorSpec",
        )
    _refuse_wrong_layout(given, len(held), kind)
    return TensorSpec(found.name, found.dtype, shape, given.layout, given.value_range)


def _onnx_spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    if not kind.elem_type or not kind.HasField("shape"):
        raise StudentError(f"'{value.name}' is not a tensor of known rank", "export the model with shapes")
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}_{axis}" for axis, dim in enumerate(kind.shape.dim)
    )
    if any(isinstance(size, int) and size < 1 for size in shape):
        raise StudentError(f"'{value.name}' is declared with shape {list(shape)}", "name its open dimensions, or give their sizes")
    return TensorSpec(value.name, str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))), shape)


def _draw(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    """An example for an input of which only the shape is known: uniform in its range or standard normal; ones for integers."""
    shape = [1 if isinstance(size, str) else size for size in spec.shape or ()]
    dtype = np.dtype(spec.dtype or "float32")
    if dtype.kind != "f":
        return np.ones(shape, dtype)
    if spec.value_range is not None:
        return random.uniform(*spec.value_range, size=shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
