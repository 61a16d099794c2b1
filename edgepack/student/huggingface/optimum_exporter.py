"""optimum-onnx as the exporter: its own description of an architecture's graph, through torch's TorchScript exporter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.errors import one_line
from edgepack.student.huggingface.offline import transformers_offline
from edgepack.student.huggingface.tasks import SENTENCE, Task
from edgepack.student.spec import StudentError

if TYPE_CHECKING:
    import onnx_ir as ir


def export_with_optimum(model: Any, sizes: Mapping[str, tuple[int, ...]], task: Task) -> ir.Model:
    """The graph that optimum makes of a transformers model, with the student's sizes and the student's order of inputs and outputs.

    Args:
        model: of transformers; sizes: shapes of its inputs, by name in the student's order.

    Raises:
        StudentError: optimum-onnx is not installed, does not know the architecture or the task, or wants other inputs or outputs.
    """
    import onnx
    import onnx_ir as ir

    from edgepack.hub.opsets import at_opset
    from edgepack.hub.pin import pinned

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        try:
            given, answered = _export(model, task, path)
        except StudentError:
            raise
        except Exception as error:
            raise StudentError(f"optimum cannot export the model ({one_line(error)})", _INSTEAD) from error
        _refuse_other_ends(given, answered, list(sizes), [name for name, _ in task.outputs])
        exported = _embedded(ir.from_proto(at_opset(onnx.load(path))))
    graph = exported.graph
    _reorder(graph.inputs, list(sizes))
    _reorder(graph.outputs, [name for name, _ in task.outputs])
    return pinned(exported, sizes)


_INSTEAD = 'set exporter = "torch" in edgepack.toml'


def optimum_config(model: Any, task: Task) -> Any:
    """optimum's description of the graph of a model (OnnxConfig): its inputs, outputs, open dimensions.

    Raises:
        StudentError: optimum-onnx is not installed, or does not know the architecture or the task.
    """
    if task is SENTENCE:
        raise StudentError("optimum's graph ends at the tokens, before the pooling of modules.json", _INSTEAD)
    _, tasks = _optimum()
    kind = model.config.model_type
    try:
        known = tasks.get_supported_tasks_for_model_type(kind, "onnx", library_name="transformers")
    except (KeyError, ValueError):
        known = {}
    if task.name not in known:
        raise StudentError(f"optimum exports '{kind}' for {', '.join(known) or 'no task'}, not for {task.name}", _INSTEAD)
    return tasks.get_exporter_config_constructor("onnx", model=model, task=task.name, library_name="transformers")(model.config)


def _optimum() -> tuple[Callable[..., Any], Any]:
    """optimum's export function and its registry of tasks; importing the first fills the second."""
    transformers_offline()
    try:
        from optimum.exporters.onnx import export
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        raise StudentError(f"exporter optimum needs optimum-onnx ({error})", "pip install 'edgepack[huggingface]'") from error
    return export, TasksManager


# What the hub's converter takes, and LayerNormalization is one node from it on.
_OPSET = 17


def _export(model: Any, task: Task, path: Path) -> tuple[list[str], list[str]]:
    """Write what optimum makes of it; (names of inputs, names of outputs)."""
    config, (export, _) = optimum_config(model, task), _optimum()
    given, answered = export(model, config, path, opset=max(config.DEFAULT_ONNX_OPSET, _OPSET))
    return list(given), list(answered)


def _refuse_other_ends(given: list[str], answered: list[str], inputs: list[str], outputs: list[str]) -> None:
    if set(given) != set(inputs) or not set(outputs) <= set(answered):
        raise StudentError(
            f"optimum's graph takes {', '.join(given)} and answers {', '.join(answered)}; the student {', '.join(inputs)} and "
            f"{', '.join(outputs)}",
            _INSTEAD,
        )


def _embedded(model: ir.Model) -> ir.Model:
    """With weights in memory: the file they lie in is about to go."""
    import onnx_ir as ir

    return ir.external_data.load_to_model(model)


def _reorder(values: Any, names: list[str]) -> None:
    """Graph inputs or outputs in the order of ``names``; those of other names are dropped."""
    held = {value.name: value for value in values}
    values[:] = [held[name] for name in names]
