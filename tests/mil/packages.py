"""Packages made with coremltools' Builder directly, without our frontend."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.mil.environment import coremltools
from edgepack.mil.program import Program

Body = Callable[..., Any]


def builder() -> Any:
    """coremltools' Builder."""
    coremltools()
    from coremltools.converters.mil.mil import Builder

    return Builder


def save_package(body: Body, inputs: Mapping[str, NDArray[Any]], folder: Path, ios: int = 17) -> Path:
    """A package whose function applies ``body`` to inputs shaped and typed like these, saved without passes of ours or theirs."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Function, types

    held = {np.dtype("float32"): types.fp32, np.dtype("float16"): types.fp16, np.dtype("int32"): types.int32}
    places = {name: builder().placeholder(shape=array.shape, dtype=held[array.dtype]) for name, array in inputs.items()}
    program = ct.converters.mil.mil.Program()
    target = getattr(ct.target, f"iOS{ios}")
    with Function(places, opset_version=target) as function:
        found = body(**function.inputs)
        function.set_outputs(list(found) if isinstance(found, list | tuple) else [found])
    program.add_function("main", function)
    ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        package_dir=str(folder / "m.mlpackage"),
    )
    return folder / "m.mlpackage"


def interpret(body: Body, /, release: int = 17, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """What the interpreter gives for the package of ``body``, in output order."""
    with tempfile.TemporaryDirectory() as folder:
        program = Program.load(save_package(body, inputs, Path(folder), release))
        found = program.run(inputs)
        return [found[output.name] for output in program.outputs]


def infer(body: Body, /, release: int = 17, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """What coremltools' own ``value_inference`` gives for constants."""
    ct = coremltools()
    from coremltools.converters.mil.mil import Function

    with Function({"unused": builder().placeholder(shape=(1,))}, opset_version=getattr(ct.target, f"iOS{release}")) as function:
        found = body(**{name: builder().const(val=array) for name, array in inputs.items()})
        values = [output.val for output in (found if isinstance(found, list | tuple) else [found])]
        function.set_outputs([builder().identity(x=function.inputs["unused"])])
    assert all(value is not None for value in values), "coremltools infers no value here"
    return [np.asarray(value) for value in values]
