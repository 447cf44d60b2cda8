"""The CUDA path without a GPU: fake tensors on ``cuda:0``, and a record of what the device would be asked to do.

A fake tensor has a shape, a type and a device, but no numbers; operations on it run no kernel. Some numbers steer the
code, such as token ids and masks: a tensor of whole numbers or truth values that follows from known ones has a *twin*, a
real tensor on the CPU, which answers ``bool()``, ``tolist()`` and ``nonzero``. What depends on weights is read as 0, but
``all`` of it as true.

PyTorch without CUDA has no device guard for it, which indexing and copies ask for. `fake_cuda` lends it the guard of the
meta device, which does nothing.

As a program, it prints the records of models of `wide_models`:

    PYTHONPATH=workflow:tests/helpers python -m fake_cuda [model ...] [--questions 1 3] [--parts clean knockouts] [--details]
"""

import argparse
import ctypes
import linecache
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import masking_utils

from crossflow.core.flows import PUBLISHED_FLOWS, parse_flow
from crossflow.engine import shared_prefix_attention
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.edges import Row, edges_of, patched_row
from crossflow.engine.forward import CleanRun, run_clean_together
from crossflow.engine.patches import Patch
from crossflow.engine.shared_prefix import run_together
from crossflow.experiments.answers import answer_together
from crossflow.experiments.logit_lens import last_states, track
from crossflow.models.model import MultimodalModel
from knocked import no_op, rows_for
from wide_models import LAYERS, WIDE, build_wide, wide_questions

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 80 * 2**30
PARTS = ("clean", "knockouts", "modules", "patches", "mass", "lens", "answers")
# With four layers, as large a share of the joined rows acts in a layer as in a published study.
WINDOW = 1

aten = torch.ops.aten
_SUFFIX_KERNELS = {aten._scaled_dot_product_flash_attention, aten._scaled_dot_product_efficient_attention}
# Kept whole, though PyTorch can take it apart: on CUDA, it is one kernel.
_ATTENTION = {*_SUFFIX_KERNELS, aten.scaled_dot_product_attention}
_NO_LAUNCH = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten._local_scalar_dense,
}  # fmt: skip
_COPIES = {aten._to_copy, aten.copy_}
# The shape of the result depends on numbers, so that the host waits for them.
_COUNTS = {
    aten.nonzero, aten.masked_select, aten.repeat_interleave,
    aten.unique_dim, aten._unique, aten._unique2, aten.unique_consecutive,
}  # fmt: skip
_STEP = 8  # elements: CUDA kernels read 16 bytes at once
_MOST_BLOCKS = 65535
_CUDA, _META = 1, 14  # c10::DeviceType


class NoGuardError(Exception):
    """This build of PyTorch gives no access to its device guards."""


def _guards() -> Any:
    """PyTorch's table of device guards, one pointer for each type of device."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libc10.so", "libc10.dylib"):
        if (folder / name).exists():
            try:
                table = ctypes.c_void_p * (_META + 1)
                return table.in_dll(ctypes.CDLL(str(folder / name)), "_ZN3c104impl26device_guard_impl_registryE")
            except (OSError, ValueError) as error:
                raise NoGuardError(str(error)) from error
    raise NoGuardError(f"no libc10 in {folder}")


@contextmanager
def _guard() -> Iterator[None]:
    guards = _guards()
    own = guards[_CUDA]
    if not guards[_META]:
        raise NoGuardError("the meta device has no guard")
    guards[_CUDA] = own or guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = own


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Tensors made inside are fake, and ``cuda:0`` exists, with `MEMORY` bytes.

    Raises:
        NoGuardError: this PyTorch cannot be told that there is such a device.
    """
    properties = SimpleNamespace(total_memory=MEMORY, name="fake", major=9, minor=0)
    with ExitStack() as stack:
        stack.enter_context(_guard())
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", return_value=properties))
        # The trial of the kernels compares numbers.
        stack.enter_context(mock.patch.object(shared_prefix_attention, "_is_sound", return_value=True))
        # Without CUDA, memory cannot be pinned.
        # Else transformers builds the masks that it leaves out for true tensors.
        stack.enter_context(mock.patch.object(masking_utils, "is_tracing", return_value=False))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, *_: tensor))
        yield mode


class Site(NamedTuple):
    """Where the host asked for something: a module's function, and the line in it."""

    function: str
    line: str


def _site() -> Site:
    """The innermost function of crossflow, or of a model in transformers, that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(("crossflow.", "transformers.")) and not module.startswith("transformers.utils."):
            code = frame.f_code
            text = linecache.getline(code.co_filename, frame.f_lineno).strip()
            function = code.co_qualname.partition(".<locals>")[0]
            return Site(f"{module.rpartition('.')[2]}.{function}", f"{frame.f_lineno}: {text}")
        frame = frame.f_back
    return Site("elsewhere", "")


@dataclass
class Record:
    """What the device was asked to do.

    Attributes:
        inside: Operations other than views between the beginning of the first decoder layer and the end of the last,
            by name.
        outside: All others.
        waits: Host synchronisations: (kind, site, whether inside the layer loop) -> how many. A copy to the device is
            one, too, unless it is ``non_blocking``; that its memory is pinned is not checked.
        mixed: Operations on tensors of the CPU and of the device.
        misaligned: What a CUDA kernel for attention would refuse.
        kernels: Calls of the kernels that the engine uses for suffixes, by whether they have a bias.
        queries: As `kernels`, but the number of queries, over all heads.
    """

    inside: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    waits: Counter[tuple[str, Site, bool]] = field(default_factory=Counter)
    mixed: Counter[tuple[str, Site]] = field(default_factory=Counter)
    misaligned: Counter[tuple[str, Site]] = field(default_factory=Counter)
    kernels: Counter[bool] = field(default_factory=Counter)
    queries: Counter[bool] = field(default_factory=Counter)

    def waits_by_function(self) -> dict[tuple[str, str], int]:
        """Host synchronisations: (kind, function) -> how many."""
        found: Counter[tuple[str, str]] = Counter()
        for (kind, site, _), times in self.waits.items():
            found[kind, site.function] += times
        return dict(found)

    def without_bias(self) -> tuple[float, float]:
        """The shares of the suffixes' kernel calls, and of their queries, that have no bias."""
        calls, queries = (counted[False] / max(1, counted.total()) for counted in (self.kernels, self.queries))
        return calls, queries

    def waits_inside(self) -> list[tuple[str, Site]]:
        """Host synchronisations inside the layer loop."""
        return [(kind, site) for kind, site, inside in self.waits if inside]


def _twin(value: Any) -> Any:
    """The numbers of a tensor, None if they are unknown; any other value as it is."""
    return getattr(value, "twin", None) if isinstance(value, FakeTensor) else value


def _tensors(*values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
    return found


@cache
def _is_view(func: Any) -> bool:
    aliases = [result.alias_info for result in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def is_launch(func: Any) -> bool:
    """Whether an operation runs a kernel: it neither only looks at a tensor in another way, nor only takes memory."""
    return func.namespace != "prim" and func.overloadpacket not in _NO_LAUNCH and not _is_view(func)


@cache
def _is_composed(func: Any) -> bool:
    """Whether an operation is made of others; inside `torch.inference_mode` they arrive whole."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return key in func.py_kernels or torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def _counts(func: Any, args: Sequence[Any]) -> bool:
    if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return func.overloadpacket in _COUNTS


def _refused(tensor: Tensor, dtype: torch.dtype) -> Iterator[str]:
    """Why a CUDA kernel for attention would not take one of its arguments, ``(batch, heads, length, width)``."""
    if tensor.dtype != dtype:
        yield "type"
    strides = [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]
    if tensor.shape[-1] > 1 and strides.pop() != 1:
        yield "last stride"
    if any(stride % _STEP for stride in strides):
        yield "stride"
    if tensor.storage_offset() % _STEP:
        yield "offset"
    if max(tensor.shape[:2]) > _MOST_BLOCKS:
        yield "batch or heads"


class _Watch(TorchDispatchMode):
    """Writes a `Record`, and keeps the twins of fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()
        self.inside = False

    def read(self, tensor: Tensor, form: str) -> Any:
        """The numbers of a tensor as a tensor's method of that name gives them; the host waits for the device."""
        if tensor.device.type == "cuda":
            self.wait("number")
        twin = _twin(tensor)
        with unset_fake_temporarily():
            return getattr(torch.zeros(tensor.shape, dtype=tensor.dtype) if twin is None else twin, form)()

    def wait(self, kind: str) -> None:
        """Record that the host waits for the device."""
        self.record.waits[kind, _site(), self.inside] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if func.namespace == "prim":  # asks for a device or a layout
            return func(*args, **kwargs)
        if packet not in _ATTENTION and _is_composed(func):
            with self:
                return func.decompose(*args, **kwargs)
        if packet is aten._local_scalar_dense:
            return self.read(args[0], "item")
        if packet is aten.equal:
            self.wait("number")
            return True
        given = _tensors(args, kwargs)
        if _counts(func, args):
            twins = self._run_twins(func, args, kwargs)
            assert twins is not None, f"{func} counts what depends on weights, in {_site()}"
            found = tree_map(lambda twin: torch.empty(twin.shape, dtype=twin.dtype, device=given[0].device), twins)
        else:
            found = func(*args, **kwargs)
            steers = any(not each.dtype.is_floating_point for each in _tensors(found))
            twins = self._run_twins(func, args, kwargs) if steers else None
        if any(each.device.type == "cuda" for each in (*given, *_tensors(found))) and is_launch(func):
            self._note(func, given, found, args, kwargs)
        self._keep_twins(packet, _tensors(found), None if twins is None else _tensors(twins))
        return found

    def _run_twins(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operation on real numbers; None if some are unknown."""
        if any(_twin(each) is None for each in _tensors(args, kwargs)):
            return None

        def real(value: Any) -> Any:
            return CPU if isinstance(value, torch.device) else _twin(value)

        args, kwargs = tree_map(real, (args, kwargs))
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _keep_twins(self, packet: Any, outputs: Sequence[Tensor], twins: Sequence[Tensor] | None) -> None:
        if twins is None and packet in (aten.all, aten.any, aten.argmax):
            with unset_fake_temporarily():
                twins = [torch.full(each.shape, packet is aten.all, dtype=each.dtype) for each in outputs]
        for place, output in enumerate(outputs):
            if isinstance(output, FakeTensor):
                known = twins is not None and not output.dtype.is_floating_point
                output.twin = twins[place] if known else None  # type: ignore[attr-defined, index]

    def _note(self, func: Any, given: Sequence[Tensor], found: Any, args: Any, kwargs: Any) -> None:
        packet, record = func.overloadpacket, self.record
        (record.inside if self.inside else record.outside)[packet.__name__] += 1
        if packet in _COPIES:
            source, target = given[-1].device.type, _tensors(found)[0].device.type
            at_leisure = kwargs.get("non_blocking") or args[2:3] == (True,)
            if source != target and not at_leisure and given[-1].numel():
                self.wait(f"to {target}")
        elif any(each.device.type == "cpu" and each.dim() for each in given):
            record.mixed[packet.__name__, _site()] += 1
        if _counts(func, args):
            self.wait("count")
        if packet in _ATTENTION:
            bias = args[3] if packet is aten._scaled_dot_product_efficient_attention else None
            for name, each in zip(("query", "key", "value", "bias"), (*args[:3], bias), strict=True):
                for reason in () if each is None else _refused(each, args[0].dtype):
                    record.misaligned[f"{reason} of {name}", _site()] += 1
            if packet in _SUFFIX_KERNELS:
                record.kernels[bias is not None] += 1
                record.queries[bias is not None] += args[0].shape[:3].numel()


@contextmanager
def watching(model: MultimodalModel) -> Iterator[Record]:
    """Record what happens inside, within `fake_cuda`."""
    watch, make = _Watch(), torch.tensor

    def tensor(data: Any, **how: Any) -> Tensor:
        """Torch reads the tensors in a list without asking the watch."""
        listed = isinstance(data, list | tuple)
        return make(
            tree_map(lambda each: each.item() if isinstance(each, Tensor) else each, data) if listed else data, **how
        )

    def enter(*_: Any) -> None:
        watch.inside = True

    def leave(*_: Any) -> None:
        watch.inside = False

    handles = [model.layers[0].register_forward_pre_hook(enter), model.layers[-1].register_forward_hook(leave)]
    try:
        with (
            mock.patch.object(torch, "tensor", tensor),
            mock.patch.object(torch.cuda, "synchronize", side_effect=lambda *_: watch.wait("everything")),
            mock.patch.object(FakeTensor, "tolist", lambda tensor: watch.read(tensor, "tolist")),
            mock.patch.object(FakeTensor, "numpy", lambda tensor: watch.read(tensor, "numpy")),
            watch,
        ):
            yield watch.record
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Measured:
    """The records of one model and some questions together.

    Attributes:
        model_type: The architecture.
        questions: How many.
        parts: Name -> its record.
    """

    model_type: str
    questions: int
    parts: dict[str, Record]

    def launches(self, part: str) -> float:
        """Operations per question and layer, inside the layer loop; of the attention mass, which calls none, all."""
        record = self.parts[part]
        return (record.outside if part == "mass" else record.inside).total() / self.questions / LAYERS

    def launches_outside(self, part: str) -> float:
        """Operations per question outside of the layer loop."""
        return self.parts[part].outside.total() / self.questions


def _patches(clean: CleanRun) -> list[Row]:
    """Rows that patch a question at some sets, after some layers, with the states of the run itself."""
    positions = clean.prepared.positions
    return [
        patched_row(Patch(on_device, clean.entering, clean.first), int(positions[name][0]), layer)
        for name in ("question", "last")
        for on_device in [torch.from_numpy(positions[name]).to(clean.after.device)]
        for layer in (0, 2, LAYERS)
    ]


def measure(name: str, count: int, parts: Sequence[str] = PARTS) -> Measured:
    """Run a model's whole path on fake tensors, with some questions together.

    Args:
        name: A model of `WIDE`.
        count: How many questions.
        parts: What to record, of `PARTS`; the clean run always is.
    """
    questions = wide_questions(name, count)
    rows = [rows_for(question, LAYERS, WINDOW) for question in questions]
    flows = [[edges_of(parse_flow(flow), each.positions, 0, "") for flow in PUBLISHED_FLOWS] for each in questions]
    for each in rows:
        each += [no_op(start, LAYERS) for start in sorted({row.start for row in each})]
    with fake_cuda():
        model = build_wide(name, CUDA)
        with watching(model):
            assert model.sizes  # once per model, not per question
            prompts = [question.to(CUDA) for question in questions]
        with watching(model) as clean:
            cleans = run_clean_together(model, prompts, [min(row.start for row in each) for each in rows])
        silenced = [rows_for(question, LAYERS, WINDOW, ("attn:question", "mlp:last")) for question in questions]
        patched = [(clean, _patches(clean)) for clean in cleans]
        runs: dict[str, Callable[[], object]] = {
            "knockouts": lambda: run_together(model, list(zip(cleans, rows, strict=True))),
            "modules": lambda: run_together(model, list(zip(cleans, silenced, strict=True))),
            "patches": lambda: run_together(model, patched),
            "mass": lambda: [attention_mass(clean, edges) for clean, edges in zip(cleans, flows, strict=True)],
            "lens": lambda: [track(model, states, {"answer": 0}) for states in last_states(model, prompts)],
            "answers": lambda: answer_together(model, prompts, [True] * len(prompts)),
        }
        found = {"clean": clean}
        for part in parts:
            if part in runs:
                with watching(model) as found[part]:
                    runs[part]()
    return Measured(model.network.config.model_type, count, found)


def _print(measured: Measured, details: bool) -> None:
    for part, record in measured.parts.items():
        calls, queries = record.without_bias()
        print(
            f"  {part:10} {measured.launches(part):7.1f} {measured.launches_outside(part):8.1f} "
            f"{record.waits.total() / measured.questions:7.1f} {len(record.waits_inside()):7} "
            f"{record.mixed.total():6} {record.misaligned.total():6}"
            + (f"   {calls:6.1%} {queries:6.1%} of {record.kernels.total()}" if record.kernels else "")
        )
        if details:
            for (kind, site, inside), times in record.waits.items():
                print(f"      wait, {kind}{' INSIDE' if inside else ''}: {times} x {site.function}: {site.line}")
            for title, found in (("mixed", record.mixed), ("misaligned", record.misaligned)):
                for (what, site), times in found.items():
                    print(f"      {title}, {what}: {times} x {site.function}: {site.line}")
            for title, operations in (("inside", record.inside), ("outside", record.outside)):
                counted = ", ".join(f"{name} {times}" for name, times in operations.most_common())
                print(f"      {title}: {counted}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what a GPU would be asked to do.")
    parser.add_argument("models", nargs="*", default=list(WIDE), metavar="model", help=", ".join(WIDE))
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 3], help="how many together")
    parser.add_argument("--details", action="store_true", help="every operation, and the line of every wait")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what to run")
    given = parser.parse_args()
    print(
        "launches: per question and layer in the layer loop, and per question outside; waits: per question, and lines"
    )
    print("inside the loop; then mixed and misaligned, and the share of suffix kernels without a bias: calls, queries")
    for name in given.models:
        for count in given.questions:
            begin = time.process_time()
            measured = measure(name, count, given.parts)
            print(f"{name}, {count} together ({time.process_time() - begin:.1f} s of CPU)")
            print("  part        inside  outside   waits  inside  mixed misaln   without a bias")
            _print(measured, given.details)


if __name__ == "__main__":
    main()
