"""core/compiling.py: when functions are compiled, what is said, and what happens when they can't be."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attar.core import log
from attar.core.compiling import CPU, WORTHWHILE, Amount, Compiler, Costs, out_of_memory
from attar.core.randomness import generator
from attar.methods import cda
from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation
from attar.synthesis.objective import Objective, pixel_gradient
from attar.synthesis.observed import Observed
from attar.synthesis.statistics import Distance
from attar.synthesis.task import Network, Task
from attar.synthesis.terms import CrossEntropy

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


class Voice:
    """What the user is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def compiler(self, choice: Literal["auto", "on", "off"], device: str = "cpu") -> Compiler:
        return Compiler(choice, device, self.said.append, self.warned.append)


class Compiled:
    """Takes the place of torch.compile: notes what it is given, and may fail, at once or when the function is used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None, at_once: bool = False):
        self.functions: list[Callable[..., Any]] = []
        self.choices: list[dict[str, Any]] = []
        self.error, self.at_once = error, at_once
        self.num_calls = 0
        monkeypatch.setattr(torch, "compile", self)

    def __call__(self, function: Callable[..., Any], **choices: Any) -> Callable[..., Any]:
        self.functions.append(function)
        self.choices.append(choices)
        if self.error is not None and self.at_once:
            raise self.error

        def fast(*arguments: Any) -> Any:
            self.num_calls += 1
            if self.error is not None:
                raise self.error
            return function(*arguments)

        return fast


def use(function: Callable[[int], int], value: int) -> int:
    return 10 * function(value)


def double(value: int) -> int:
    return 2 * value


def triple(value: int) -> int:
    return 3 * value


def amount_of(steps: float, operations: float, values: float, num_layers: int) -> Amount:
    """All steps together, each of so many operations, values and layers."""
    return Amount(steps * operations, steps * values, num_layers, steps)


CONVNET, RESNET20, RESNET18 = (6.6e8, 5.4e5, 4), (1.63e10, 2.0e7, 22), (8.9e11, 2.46e8, 21)
"""Steps of 50 images of 8 pixels, 100 of 32 and 100 of 64: operations, values and layers of the networks."""


def test_compiling_pays_on_a_cpu_where_the_steps_together_save_what_it_takes():
    costs = Costs(function=10.0, layer=2.0, saved_value=1e-9, saved_layer=1e-3)
    amount = Amount(1e12, 3e10, num_layers=5, num_calls=4000)
    assert costs.taken(amount) == pytest.approx(10 + 2 * 5)
    assert costs.saved(amount) == pytest.approx(1e-9 * 3e10 + 1e-3 * 5 * 4000)


@pytest.mark.parametrize(
    ("step", "never", "always"),
    [
        (CONVNET, 5_000, 20_000),  # digits take 500 to 1,000: seconds, whatever is done
        (RESNET20, 250, 1_000),  # 4 and 16 TFLOP: seven minutes of work, of which compiling saves two
        (RESNET18, 20, 120),  # 18 and 107 TFLOP
    ],
)
def test_auto_on_a_cpu_counts_what_is_between_the_layers(
    step: tuple[float, float, int], never: int, always: int, monkeypatch: pytest.MonkeyPatch
):
    """For small networks that is most of the time, so that fewer operations are worth compiling."""
    compiled, voice = Compiled(monkeypatch), Voice()
    compiler = voice.compiler("auto")
    assert compiler(use, double, amount_of(never, *step))(3) == 60
    assert compiled.functions == []
    assert compiler(use, triple, amount_of(always, *step))(3) == 90
    assert compiled.functions == [triple]
    assert voice.said[0].startswith("not compiled (")
    assert voice.said[1].startswith("compiled (")
    assert voice.warned == []


def test_what_auto_expects_on_a_cpu_is_said():
    few, many = Amount(1e12, 1e9, 10, 100), Amount(4e13, 4e12, 10, 1000)
    compiler = Voice().compiler("auto")
    for amount, word, work in ((few, "not compiled", "1 TFLOP"), (many, "compiled", "40 TFLOP")):
        seconds = f"about {round(CPU.taken(amount))} s of CPU time and saves about {round(CPU.saved(amount)):,} s"
        assert compiler.reason(amount) == f"{word} ({work} to do: compiling takes {seconds})"


def test_auto_counts_operations_alone_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    voice, compiled = Voice(), Compiled(monkeypatch)
    compiler = voice.compiler("auto", "cuda")
    enough = WORTHWHILE["cuda"]
    assert compiler(use, double, 0.99 * enough)(3) == 60
    assert compiled.functions == []
    assert compiler(use, triple, Amount(enough))(3) == 90
    assert compiled.functions == [triple]
    assert compiled.num_calls == 1
    work = [f"{part * enough / 1e12:,.0f} TFLOP to do" for part in (0.99, 1)]
    assert voice.said == [f"not compiled ({work[0]}, too little to pay)", f"compiled ({work[1]})"]
    assert voice.warned == []


def test_auto_compiles_on_no_device_that_was_not_measured(monkeypatch: pytest.MonkeyPatch):
    compiled = Compiled(monkeypatch)
    assert Voice().compiler("auto", "mps")(use, double, 1e30)(3) == 60
    assert compiled.functions == []


@pytest.mark.parametrize(("choice", "operations"), [("on", 1.0), ("off", 1e30)])
def test_on_and_off_are_obeyed(choice: Literal["on", "off"], operations: float, monkeypatch: pytest.MonkeyPatch):
    voice, compiled = Voice(), Compiled(monkeypatch)
    assert voice.compiler(choice)(use, double, operations)(3) == 60
    assert compiled.num_calls == (choice == "on")
    assert voice.said == ["compiled, as asked" if choice == "on" else "not compiled, as asked"]


def test_what_is_said_is_said_once(monkeypatch: pytest.MonkeyPatch):
    Compiled(monkeypatch)
    voice = Voice()
    compiler = voice.compiler("auto", "cuda")
    for operations in (1e12, 1e12, 4e16, 1e12, 4e16):
        compiler(use, double, operations)
    assert voice.said == ["not compiled (1 TFLOP to do, too little to pay)", "compiled (40,000 TFLOP to do)"]


def test_what_is_compiled_is_named_and_each_is_said_once(monkeypatch: pytest.MonkeyPatch):
    Compiled(monkeypatch)
    voice = Voice()
    compiler = voice.compiler("auto", "cuda")
    for what, operations in (("gradients", 1e12), ("gradients", 2e12), ("features", 1e12), ("gradients", 4e16)):
        compiler(use, double, operations, what=what)
    assert voice.said == [
        "gradients: not compiled (1 TFLOP to do, too little to pay)",
        "features: not compiled (1 TFLOP to do, too little to pay)",
        "gradients: compiled (40,000 TFLOP to do)",
    ]


def test_shapes_are_fixed_and_vectors_short_for_narrow_layers_on_cpus(monkeypatch: pytest.MonkeyPatch):
    compiled = Compiled(monkeypatch)
    for device, narrow in (("cpu", True), ("cpu", False), ("cuda", True)):
        Voice().compiler("on", device)(use, double, 1.0, narrow)(3)
    assert [choices["dynamic"] for choices in compiled.choices] == [False] * 3
    found = [(choices.get("options") or {}).get("cpp.simdlen") for choices in compiled.choices]
    assert found == [256, None, None]


def test_the_first_call_and_each_new_shape_are_shown_as_compiling(monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    def look(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        shown.append(log._REPORTER.activity)
        return function(images)

    compiled = Voice().compiler("on")(look, torch.neg, 1.0)
    for size in (2, 2, 3, 2):
        compiled(torch.ones(size))
    assert shown == ["compiling", "", "compiling", ""]
    assert log._REPORTER.activity == ""


@pytest.mark.parametrize("at_once", [False, True])
def test_a_failed_compilation_is_one_warning_and_the_plain_result(at_once: bool, monkeypatch: pytest.MonkeyPatch):
    """Also for the functions after it, and for those that were prepared before."""
    voice = Voice()
    compiler = voice.compiler("on")
    error = ValueError("\nno C++ compiler\nand a long trace")
    compiled = Compiled(monkeypatch, error, at_once)
    first, second = (compiler(use, function, 1.0) for function in (double, triple))
    assert [first(3), second(3), first(4), second(4)] == [60, 90, 80, 120]
    assert compiler.failed
    assert not compiler.wants(1e30)
    assert voice.warned == ["compilation failed, running uncompiled, which is slower (ValueError: no C++ compiler)"]
    assert compiler(use, double, 1.0)(5) == 100
    assert compiled.num_calls == (0 if at_once else 1), "it was tried again"
    assert voice.said == ["compiled, as asked", "not compiled, because that failed"]
    assert len(voice.warned) == 1


def test_a_failure_without_words_is_a_warning_too(monkeypatch: pytest.MonkeyPatch):
    voice = Voice()
    Compiled(monkeypatch, NotImplementedError())
    assert voice.compiler("on")(use, double, 1.0)(3) == 60
    assert voice.warned == [
        "compilation failed, running uncompiled, which is slower (NotImplementedError: no reason given)"
    ]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_running_out_of_memory_is_no_failed_compilation(error: BaseException, monkeypatch: pytest.MonkeyPatch):
    """The caller has to make the work smaller; the smaller work is compiled again."""
    voice = Voice()
    compiler = voice.compiler("on")
    compiled = Compiled(monkeypatch, error)
    ready = compiler(use, double, 1.0)
    with pytest.raises(type(error)):
        ready(3)
    assert not compiler.failed
    assert voice.warned == []
    compiled.error = None
    assert ready(3) == compiler(use, double, 1.0)(3) == 60
    assert compiled.num_calls == 3


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_lack_of_memory_is_told_from_other_errors(error: BaseException):
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(ValueError("out of range"))


NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SIDE, NUM_CLASSES, SIZES = 16, 5, (5, 3)


def teacher() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallResNet(8, NUM_CLASSES)
        for _ in range(3):
            network(torch.randn(32, 3, SIDE, SIDE))  # running statistics of its own
    return network.eval().requires_grad_(False)


class Silent:
    """A monitor that ignores everything."""

    def step(self, iteration: int, images: Callable[[], Tensor], **metrics: Tensor) -> None:
        pass


def recovered(compiler: Compiler, precision: Literal["fp32", "bf16"] = "fp32") -> Tensor:
    """Two units of unequal size side by side, ten iterations, by a network that nothing was prepared for."""
    task = Task(
        labels=torch.cat([torch.arange(size) for size in SIZES]),
        slots=torch.zeros(sum(SIZES), dtype=torch.int64),
        size=(SIDE, SIDE),
        teachers=(Network(teacher(), NORMALISATION, precision, compiler),),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, unit, *names) for unit in range(len(SIZES))),
        shared_stream=lambda *names: generator(0, *names),
        monitor=Silent(),
        unit_sizes=SIZES,
    )
    return cda.recover(task, cda.Config(iterations=10, jitter=4, learning_rate=0.1)).images


def report(choice: Literal["on", "off"]) -> None:
    """What the processes started below print: the pixels, as a hash, and what was said."""
    voice = Voice()
    pixels = recovered(voice.compiler(choice), "bf16")
    found = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    print(json.dumps({"pixels": found, "said": voice.said, "warned": voice.warned}))


def reported(folder: Path, choice: str = "on", **environment: str) -> dict[str, Any]:
    """What a process of its own finds, which has compiled nothing before."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['report'](sys.argv[2])"
    surroundings = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-c", code, __file__, choice]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_compiled_gradient_is_the_plain_one(precision: Literal["fp32", "bf16"]):
    voice = Voice()
    observed = Observed(teacher(), torch.zeros(2, 3, SIDE, SIDE), precision)
    distance = Distance(0.05, 10.0)
    objective = Objective(observed, (CrossEntropy(), distance), NORMALISATION)
    pixels = torch.randn(8, 3, SIDE, SIDE, generator=generator(0, "pixels"))
    average = torch.block_diag(*(torch.full((1, size), 1 / size) for size in SIZES))
    own = ({}, distance.constants_of(observed)), ({}, {})
    arguments = ((), (SIDE, SIDE), torch.arange(8) % NUM_CLASSES, average, *own)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = voice.compiler("on")(pixel_gradient, objective, 1.0, observed.narrow)
    slope, metrics, *_ = compiled(pixels, *arguments)
    assert voice.warned == []
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    expected, plain, *_ = pixel_gradient(objective, pixels, *arguments)
    assert slope.is_contiguous()
    if precision == "fp32":
        torch.testing.assert_close(slope, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
        torch.testing.assert_close(metrics["loss"], plain["loss"], rtol=1e-5, atol=0)
    else:
        assert F.cosine_similarity(slope.flatten(), expected.flatten(), dim=0) >= 0.99
        torch.testing.assert_close(metrics["loss"], plain["loss"], rtol=0.01, atol=0)
    assert all(torch.equal(*pair) for pair in zip(compiled(pixels, *arguments)[:1], (slope,), strict=True))


@pytest.mark.slow
def test_every_shape_is_compiled_however_many_there_are(monkeypatch: pytest.MonkeyPatch):
    """Views of several sizes and groups halved for memory are shapes; PyTorch's own limit of eight says no word."""
    real = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda function, options, **choices: real(function, backend="eager", **choices),  # compiles in no time
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    voice, counts = Voice(), range(2, 22)
    compiler = voice.compiler("on")
    for count in (*counts, *counts):
        assert compiler(lambda function, pixels: function(pixels), squared, 1.0)(torch.ones(count)).sum() == count
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(counts)


def squared(pixels: Tensor) -> Tensor:
    return pixels.square()


@pytest.mark.slow
def test_compiled_runs_repeat_themselves_bit_by_bit():
    voice = Voice()
    first, second = (recovered(voice.compiler("on"), "bf16") for _ in range(2))
    assert voice.warned == []
    assert torch.equal(first, second)
    assert not torch.equal(first, recovered(voice.compiler("off"), "bf16")), "it was not compiled"


@pytest.mark.slow
def test_two_processes_that_compile_for_themselves_make_the_same_bits(tmp_path: Path):
    first, second = (reported(tmp_path / name) for name in ("first", "second"))
    assert first == second
    assert first["warned"] == []


@pytest.mark.slow
def test_without_a_c_compiler_the_images_are_made_all_the_same(tmp_path: Path):
    plain = reported(tmp_path / "plain", "off")
    found = reported(tmp_path / "none", CXX=str(tmp_path / "no-compiler"))
    assert found["pixels"] == plain["pixels"]
    assert len(found["warned"]) == 1
    assert found["warned"][0].startswith("compilation failed, running uncompiled, which is slower (")
