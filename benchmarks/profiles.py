"""Where the time of one step goes: kernels against launches, and which kernels, for recover, squeeze and a student.

    python benchmarks/profiles.py --device cuda

For each step: milliseconds by the clock, milliseconds in kernels, how many kernels it launches, the share of the time
that the device is busy, and the time by kind of kernel. On a CPU operators take the place of kernels.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import tables
from attar.core.compiling import Compiler
from attar.core.device import Device, Execution, resolve
from attar.core.randomness import generator
from attar.methods import cda
from attar.models.build import build
from attar.ops import views
from attar.ops.pixels import from_bytes
from attar.stages.protocols import PROTOCOLS
from attar.training.choices import Optimisation
from attar.training.optimiser import Optimiser
from sides import NORMALISATION, ROWS, Sides, teacher_of

STEPS = 10
"""Steps that are profiled; as many before them fill caches."""
KINDS = {
    "convolutions": ("conv", "xmma", "cudnn", "implicit", "sm90", "sm80", "wgrad", "dgrad", "mkldnn"),
    "products": ("gemm", "mm", "linear", "cutlass", "bmm"),
    "fused": ("triton", "graph"),
    "normalisation": ("batch_norm", "bn_", "norm"),
    "optimiser": ("adam", "multi_tensor", "foreach", "sgd", "lerp"),
    "copies": ("copy", "memcpy", "memset", "fill", "clone", "to_copy", "cat"),
}
"""Words in the names of kernels; the first kind that fits holds, what fits none is 'others'."""
WIDTHS = {"step": 20, "ms": 8, "ms in kernels": 13, "kernels": 7, "busy": 5, "where the time goes": 60}


@dataclass(frozen=True)
class Line:
    """One step, as profiled; times are means over the steps."""

    step: str
    milliseconds: float
    """By the clock, without the profiler."""
    kernel_milliseconds: float
    num_kernels: float
    kinds: dict[str, float]
    """Milliseconds by kind."""

    def cells(self) -> list[str]:
        """What the table shows of it."""
        whole = sum(self.kinds.values()) or 1.0
        shares = sorted(self.kinds.items(), key=lambda item: -item[1])
        return [
            self.step,
            f"{self.milliseconds:.2f}",
            f"{self.kernel_milliseconds:.2f}",
            f"{self.num_kernels:.0f}",
            f"{min(1.0, self.kernel_milliseconds / self.milliseconds):.0%}",
            ", ".join(f"{kind} {part / whole:.0%}" for kind, part in shares if part / whole >= 0.01),
        ]


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    lower = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "others")


def profiled(name: str, run: Callable[[int], None], device: torch.device) -> Line:
    """Run some steps, time as many, profile as many. ``run`` takes the number of steps."""
    on_gpu = device.type == "cuda"

    def finish() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)

    run(STEPS)
    finish()
    started = time.perf_counter()
    run(STEPS)
    finish()
    seconds = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        run(STEPS)
        finish()
    kinds: dict[str, float] = {}
    num_kernels = 0
    for event, microseconds in _kernels(found, on_gpu):
        kinds[kind_of(event)] = kinds.get(kind_of(event), 0.0) + microseconds / 1e3 / STEPS
        num_kernels += 1
    return Line(name, 1e3 * seconds / STEPS, sum(kinds.values()), num_kernels / STEPS, kinds)


def _kernels(found: Any, on_gpu: bool) -> Iterable[tuple[str, float]]:
    """Names and microseconds of all kernels, or of a CPU's operators without what they call."""
    for event in found.events():
        if on_gpu:
            if event.device_type.name == "CUDA":
                yield event.name, event.time_range.elapsed_us()
        elif event.self_cpu_time_total > 0:
            yield event.name, event.self_cpu_time_total


def recover_step(row: str, quick: bool) -> Callable[[int], None]:
    """Iterations of a unit, as the method does them."""
    chosen = ROWS[row]
    sides = Sides(chosen, teacher_of(chosen.network, chosen.num_classes, chosen.size, chosen.device), quick)
    task = sides.task(monitor=SimpleNamespace(step=lambda *_, **__: None))

    def run(count: int) -> None:
        cda.recover(task, chosen.config.changed(iterations=count))

    return run


def training_step(network: str, num_classes: int, size: int, batch: int, device: Device, compiled: bool, soft: bool):
    """Steps of a training on images that lie on the device as bytes: a teacher's with classes, a student's with soft
    labels under CDA's protocol."""
    where = device.device
    module = build(network, num_classes, size, seed=0).to(where, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    protocol = PROTOCOLS["cda"]
    choice = protocol.training if soft else Optimisation(learning_rate=0.2)
    optimiser = Optimiser(module, choice)
    draws = generator(0, "profile")
    images = torch.randint(0, 256, (4 * batch, 3, size, size), generator=draws, dtype=torch.uint8).to(where)
    labels = torch.randint(num_classes, (4 * batch,), generator=draws).to(where)
    answers = torch.randn(4 * batch, num_classes, generator=draws).to(where)
    compiler = Compiler("on" if compiled else "off", where.type)
    forward = compiler(lambda function, seen: function(seen), module, 0.0)

    def run(count: int) -> None:
        for step in range(count):
            rows = slice(step % 4 * batch, (step % 4 + 1) * batch)
            view = views.ViewChoice().draw(batch, size, size, draws)
            seen = NORMALISATION.apply(views.apply(from_bytes(images[rows]), view))
            optimiser.zero_grad()
            with device.autocast():
                logits = forward(seen.contiguous(memory_format=torch.channels_last)).float()
            if soft:
                target = F.softmax(answers[rows] / protocol.temperature, 1)
                loss = F.kl_div(F.log_softmax(logits / protocol.temperature, 1), target, reduction="batchmean")
            else:
                loss = F.cross_entropy(logits, labels[rows])
            loss.backward()
            optimiser.step(choice.learning_rate)

    return run


def cases(device: Device, quick: bool) -> dict[str, Callable[[], Callable[[int], None]]]:
    """The steps that are profiled, each made when its turn comes."""
    if quick:
        return {
            "recover": lambda: recover_step("rehearsal", True),
            "student": lambda: training_step("convnet3", 10, 16, 8, device, False, True),
        }
    return {
        "recover, 64 px": lambda: recover_step("tiny-gpu", False),
        "recover, 224 px": lambda: recover_step("imagenet-gpu", False),
        "squeeze, eager": lambda: training_step("resnet18", 200, 64, 256, device, False, False),
        "squeeze, compiled": lambda: training_step("resnet18", 200, 64, 256, device, True, False),
        "student, eager": lambda: training_step("resnet18", 200, 64, 128, device, False, True),
        "student, compiled": lambda: training_step("resnet18", 200, 64, 128, device, True, True),
    }


def main(arguments: list[str] | None = None) -> list[Line]:
    """Print the table, a line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small networks on a CPU, to try it out")
    asked = parser.parse_args(arguments)
    device = resolve(Execution(device="cpu" if asked.quick else asked.device))
    if device.device.type == "cpu" and not asked.quick:
        print("These steps are sized for a GPU, and there is none here; --quick profiles small ones.", file=sys.stderr)
        raise SystemExit(2)
    print(f"{device.describe()}, torch {torch.__version__}, {device.precision}, {STEPS} steps", flush=True)
    table, lines = tables.Table(WIDTHS), []
    for name, make in cases(device, asked.quick).items():
        lines.append(profiled(name, make(), device.device))
        table.add(lines[-1:])
    return lines


if __name__ == "__main__":
    main()
