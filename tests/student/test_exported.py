"""A .pt2 of a stranger runs no code and names no operator but a network's; those that torch.export writes still load."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgepack.student.load import load_student
from edgepack.student.spec import StudentError
from tests.student.modules import IMAGE, Of1, network

MODEL, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def saved(path: Path) -> Path:
    """A program with an open size, a weight and a constant."""
    module = Of1(lambda self, x: {"y": self.parts[0](x) + x.shape[0] * self.constant}, torch.nn.Linear(4, 3))
    module.constant = torch.arange(3.0)
    exported = torch.export.export(module, (torch.ones(4, 4),), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=64)},))
    torch.export.save(exported, path)
    return path


def changed(path: Path, changes: dict[str, bytes | Callable[[bytes], bytes]]) -> Path:
    """The archive with members replaced or added."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}
    for name, change in changes.items():
        members[name] = change if isinstance(change, bytes) else change(members[name])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
    return path


def replaced(*pairs: tuple[str, str]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        text = content.decode()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text.encode()

    return change


def edited(edit: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        tree = json.loads(content)
        edit(tree)
        return json.dumps(tree).encode()

    return change


def refusal(path: Path) -> str:
    with pytest.raises(StudentError) as caught:
        load_student(str(path)).program.run({"x": np.ones((4, 4), np.float32)})
    assert "\n" not in str(caught.value) and caught.value.hint
    return str(caught.value)


def code(path: Path) -> str:
    """Python that makes a file."""
    return f"__import__('pathlib').Path('{path}').touch()"


def test_a_program_with_an_open_size_loads_and_answers_as_its_module(tmp_path: Path) -> None:
    program = load_student(str(saved(tmp_path / "m.pt2"))).program
    exported = torch.export.load(str(tmp_path / "m.pt2")).module()
    x = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(program.run({"x": x.numpy()})["y"], exported(x)["y"].detach().numpy())


def test_networks_with_control_flow_gradients_off_and_codes_load(tmp_path: Path) -> None:
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

    def coded(self: Any, x: torch.Tensor) -> torch.Tensor:
        codes = torch.ops.quantized_decomposed.quantize_per_tensor(x, 0.01, -3, -128, 127, torch.int8)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(codes, 0.01, -3, -128, 127, torch.int8)  # type: ignore[no-any-return]

    def branching(self: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))  # type: ignore[no-any-return]

    def quiet(self: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            y = torch.nn.functional.gelu(x, approximate="tanh")
        return torch.nn.functional.pad(y, (1, 1, 1, 1), mode="reflect") + torch.einsum("nchw,nchw->n", x, x).sum()

    for name, module in {"net": network(), "coded": Of1(coded), "branching": Of1(branching), "quiet": Of1(quiet)}.items():
        torch.export.save(torch.export.export(module, (IMAGE,)), tmp_path / f"{name}.pt2")
        assert load_student(str(tmp_path / f"{name}.pt2")).program.outputs


def test_expressions_of_open_sizes_load(tmp_path: Path) -> None:
    def shaped(self: Any, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        return torch.cat([x.reshape(n // 2, -1).sum(1), x.reshape(n * 2, -1).sum(1), torch.full((max(n, 3) - n % 2,), n**2 / 3.0)])

    exported = torch.export.export(Of1(shaped), (torch.ones(8, 4),), dynamic_shapes=({0: 2 * torch.export.Dim("half", min=2, max=32)},))
    torch.export.save(exported, tmp_path / "m.pt2")
    assert load_student(str(tmp_path / "m.pt2")).program.outputs


def test_a_pickle_that_runs_code_is_refused_wherever_it_is(tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    buffer = io.BytesIO()
    torch.save(((Bomb(mark),), {}), buffer)
    assert "not plain tensors" in refusal(changed(saved(tmp_path / "inputs.pt2"), {INPUTS: buffer.getvalue()}))
    for config, folder in ((WEIGHTS, "data/weights/weight_0"), (CONSTANTS, "data/constants/tensor_0")):
        change = {config: replaced(('"use_pickle": false', '"use_pickle": true')), folder: pickle.dumps(Bomb(mark))}
        assert "is an object" in refusal(changed(saved(tmp_path / "weight.pt2"), change))
    for prefix in ("opaque_obj_0", "custom_obj_0"):
        opaque = edited(lambda tree, prefix=prefix: next(iter(tree["config"].values())).update(path_name=prefix))
        hidden = changed(saved(tmp_path / "opaque.pt2"), {CONSTANTS: opaque})
        assert "is an object" in refusal(hidden)
        assert "it holds" in refusal(changed(hidden, {f"data/constants/{prefix}": pickle.dumps(Bomb(mark))}))
    assert not mark.exists()


@pytest.mark.parametrize(
    "member", ["data/weights/model.pt", "data/constants/model.pt", "models/other.json", "data/aotinductor/model/a.so", "x"]
)
def test_members_that_torch_would_open_as_code_or_pickles_are_refused(tmp_path: Path, member: str) -> None:
    mark = tmp_path / "touched"
    assert f"it holds '{member}'" in refusal(changed(saved(tmp_path / "m.pt2"), {member: pickle.dumps(Bomb(mark))}))
    assert not mark.exists()


def test_the_form_of_older_torch_whose_pickles_are_any_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("version", "8.9")
        for name in ("exported_program.json", "state_dict.pt", "constants.pt", "example_inputs.pt"):
            archive.writestr(f"serialized_{name}", pickle.dumps(Bomb(tmp_path / "touched")))
    assert "is not a torch.export program" in refusal(tmp_path / "m.pt2")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "size",
    [
        "{code}",
        "Symbol({code})",
        "Symbol('{code_escaped}')",
        "Add('{code_escaped}', 1)",
        "'{code_escaped}'",
        "(lambda: {code})()",
        "Symbol.__class__",
        "Pow(Pow(Pow(Integer(9), Integer(8)), Integer(8)), Integer(8))",
        "Pow(Integer(9), Integer(10000000000))",
        "9**9**9**9",
        "LShift(Integer(1), Integer(100000000000))",
        "factorial(100000000)",
        "(" * 3000,
    ],
)
def test_a_size_is_sums_and_products_of_sizes_alone(tmp_path: Path, size: str) -> None:
    mark = tmp_path / "touched"
    given = size.format(code=code(mark), code_escaped=code(mark).replace("'", "\\'"))

    def edit(tree: Any) -> None:
        held = tree["graph_module"]["graph"]["sym_int_values"]
        next(iter(held.values()))["as_expr"]["expr_str"] = given

    assert "no sum or product of sizes" in refusal(changed(saved(tmp_path / "m.pt2"), {MODEL: edited(edit)}))
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        *("torch.os.system", "torch.ops.load_library", "torch.load", "torch.ops.aten.from_file.default", "torch.ops.aten.save"),
        *("_operator.methodcaller", "_operator.attrgetter", "_operator.setitem", "math.factorial", "#triton:x", "builtins.eval", "torch"),
        *("torch.ops.aten.add.__class__", "torch.ops.aten.__class__", "torch.ops.aten.add.overloads", "torch.ops.aten.nothing"),
        *("torch.ops.higher_order.call_torchbind", "torch.ops.higher_order.triton_kernel_wrapper_functional", "torch.ops.mine.op"),
    ],
)
def test_a_node_calls_an_operator_of_a_network_alone(tmp_path: Path, target: str) -> None:
    def edit(tree: Any) -> None:
        tree["graph_module"]["graph"]["nodes"][1]["target"] = target

    assert "which is no operator of a network" in refusal(changed(saved(tmp_path / "m.pt2"), {MODEL: edited(edit)}))


def test_no_name_is_more_than_a_name_in_the_code_torch_makes_of_it(tmp_path: Path) -> None:
    """torch writes input names, keys of dicts and weight names into the source of forward, and executes that."""
    mark = tmp_path / "touched"
    hidden = json.dumps(f"x={code(mark)}")[1:-1]
    for old in ('"x"', r"\\\"y\\\"", '"input"', '"p_parts_0_weight"', '"parts.0.weight"'):
        new = old.replace("y", hidden) if old.startswith("\\") else f'"{hidden}"'
        path = changed(saved(tmp_path / "m.pt2"), {MODEL: replaced((old, new))})
        assert "holds the name" in refusal(path)
    assert not mark.exists()


def test_guards_of_the_file_are_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "touched"
    path = changed(saved(tmp_path / "m.pt2"), {MODEL: edited(lambda tree: tree.update(guards_code=[code(mark)]))})
    assert load_student(str(path)).program.outputs and not mark.exists()


@pytest.mark.parametrize("kind", ["collections.defaultdict", "collections.namedtuple", "enum.Enum"])
def test_a_container_of_a_type_that_torch_would_import_is_refused(tmp_path: Path, kind: str) -> None:
    path = changed(saved(tmp_path / "m.pt2"), {MODEL: replaced((r"\"builtins.dict\"", rf"\"{kind}\""))})
    assert f"takes or returns a {kind}" in refusal(path)


def test_bounds_of_the_archive_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", b" " * 10**7)
        archive.writestr("m/.data/version", "6")
    assert "more than its own size" in refusal(tmp_path / "bomb.pt2")
    deep = changed(saved(tmp_path / "deep.pt2"), {MODEL: b"[" * 200_000 + b"]" * 200_000})
    assert "nests too deep" in refusal(deep)

    def enlarge(tree: Any) -> None:
        next(iter(tree["config"].values()))["tensor_meta"]["sizes"] = [{"as_int": 2**40}]

    large = changed(saved(tmp_path / "large.pt2"), {WEIGHTS: edited(enlarge)})
    assert "more numbers than are stored" in refusal(large)
