"""synthesis/statistics.py against plain formulas: what is collected of real images, targets, and the moving average."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from attar.core.errors import AttarError
from attar.core.randomness import generator
from attar.methods import cda
from attar.models.small import SmallResNet
from attar.ops.pixels import Normalisation, from_bytes
from attar.synthesis import statistics
from attar.synthesis.observed import Observed
from attar.synthesis.task import Context, Network, Task
from attar.synthesis.terms import Seen, UnitBatch

NUM_CLASSES, SIDE, SIZES = 3, 12, (4, 2)
COUNTS = (5, 3, 4)
NORMALISATION = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
LABELS = torch.tensor([0, 0, 2, 2, 1, 1])
ALL = ("batchnorm", "convolution", "patches")


class RealImages:
    """A few images of noise of each class."""

    num_classes = NUM_CLASSES

    def __init__(self) -> None:
        source = torch.Generator().manual_seed(3)
        self.images = [torch.randint(256, (count, 3, SIDE, SIDE), generator=source).byte() for count in COUNTS]

    def count(self, label: int) -> int:
        return COUNTS[label]

    def take(self, label: int, indices: Sequence[int]) -> Tensor:
        return self.images[label][list(indices)]

    def class_name(self, label: int) -> str:
        return "abc"[label]


REAL = RealImages()


def resnet() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SmallResNet(8, NUM_CLASSES)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.3)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("test_vit", num_classes=NUM_CLASSES, img_size=SIDE, patch_size=4).eval()


def context_of(network: Network, rows: range = range(NUM_CLASSES)) -> Context:
    return Context(
        rows=rows,
        teacher=network,
        number=0,
        real=REAL,
        size=(SIDE, SIDE),
        device=torch.device("cpu"),
        stream=lambda *names: generator(0, "prepare", *names),
    )


def collected(network: Network, rows: range = range(NUM_CLASSES), **values: Any) -> dict[str, Tensor]:
    asked = {"observe": (), "patch_side": 4, "statistics_images": 0} | values
    return statistics.collect(context_of(network, rows), SimpleNamespace(**asked))


def task_of(*networks: nn.Module, tables: dict[str, Tensor] | None = None) -> Task:
    return Task(
        labels=LABELS,
        slots=torch.zeros(len(LABELS), dtype=torch.int64),
        size=(SIDE, SIDE),
        teachers=tuple(Network(network, NORMALISATION) for network in networks),
        device=torch.device("cpu"),
        streams=lambda *names: tuple(generator(0, str(unit), *names) for unit in range(len(SIZES))),
        shared_stream=lambda *names: generator(0, *names),
        monitor=SimpleNamespace(step=lambda *given, **metrics: None),
        unit_sizes=SIZES,
        real=REAL,
        table=lambda name, teacher=0: (tables or {})[name.removeprefix("statistics.")],
    )


def fed(network: nn.Module, images: Tensor) -> dict[str, list[tuple[Any, Tensor]]]:
    """What BatchNorm layers and convolutions are fed, in order of registration."""
    seen: dict[nn.Module, Tensor] = {}
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d | nn.Conv2d)]
    handles = [layer.register_forward_hook(lambda layer, fed, _: seen.update({layer: fed[0]})) for layer in layers]
    network(images)
    for handle in handles:
        handle.remove()
    bns, convs = (
        [(layer, seen[layer]) for layer in layers if isinstance(layer, kind)] for kind in (nn.BatchNorm2d, nn.Conv2d)
    )
    return {"batchnorm": bns, "convolution": convs, "patches": convs}


def rows_of(kind: str, maps: Tensor) -> Tensor:
    """Channel (or patch) by value, of a batch as a whole."""
    if kind != "patches":
        return maps.transpose(0, 1).flatten(1)
    whole = [-(-length // 4) * 4 for length in maps.shape[2:]]
    cut = nn.functional.interpolate(maps, whole, mode="bilinear").unfold(2, 4, 4).unfold(3, 4, 4)
    return cut.permute(2, 3, 0, 1, 4, 5).flatten(2).flatten(0, 1)


def normalised(label: int) -> Tensor:
    return NORMALISATION.apply(from_bytes(REAL.images[label]))


def measured(network: nn.Module, images: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Mean and variance of every layer of every kind over all of the images."""
    found = fed(network, images).items()
    values = {kind: [rows_of(kind, maps) for _, maps in layers] for kind, layers in found}
    return {kind: [(each.mean(1), each.var(1, unbiased=False)) for each in layers] for kind, layers in values.items()}


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    means, variances = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(variances)


def test_collected_statistics_are_those_of_each_class(monkeypatch: pytest.MonkeyPatch):
    """In batches of two, so that a class takes several."""
    monkeypatch.setattr(statistics, "_LARGEST_BATCH", 2)
    network = resnet()
    tables = collected(Network(network, NORMALISATION), observe=ALL)
    assert tables["count"].tolist() == list(COUNTS)
    for label in range(NUM_CLASSES):
        for kind, layers in measured(network, normalised(label)).items():
            mean, variance = joined(layers)
            torch.testing.assert_close(tables[f"{kind}.mean"][label], mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(tables[f"{kind}.variance"][label], variance, rtol=1e-4, atol=1e-5)
            own = [joined(measured(network, image[None])[kind])[1] for image in normalised(label)]
            torch.testing.assert_close(tables[f"{kind}.within"][label], torch.stack(own).mean(0), rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_those_made_with_them_and_a_part_of_the_images_is_the_same_part():
    network = Network(resnet(), NORMALISATION)
    whole = collected(network, statistics_images=2)
    for label in range(NUM_CLASSES):
        alone = collected(network, range(label, label + 1), statistics_images=2)
        assert all(torch.equal(alone[name][0], table[label]) for name, table in whole.items())
    assert not torch.equal(whole["batchnorm.mean"], collected(network)["batchnorm.mean"])
    assert torch.equal(collected(network, statistics_images=9)["batchnorm.mean"], collected(network)["batchnorm.mean"])


def value_of(term: Any, task: Task, images: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Each unit's value, as the loop asks for it."""
    module = task.teachers[0].module
    observed = Observed(module, torch.zeros(2, 3, SIDE, SIDE), taps=term.taps)
    average = torch.block_diag(*(torch.full((1, size), 1 / size) for size in SIZES))
    seen = Seen(images, *observed(images))
    state = term.begin(task, 0, observed) if state is None else state
    return term(seen, UnitBatch(LABELS, average), term.constants(task, 0, observed), state)


def norms(now: list[tuple[Tensor, Tensor]], aims: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The distance of each layer."""
    return [(mean - aim[0]).norm() + (var - aim[1]).norm() for (mean, var), aim in zip(now, aims, strict=True)]


def split(
    table: dict[str, Tensor], kind: str, labels: Tensor, sizes: list[int], key: str
) -> list[tuple[Tensor, Tensor]]:
    """The layers' targets: averages of those of the images' classes."""
    mean, variance = (table[f"{kind}.{each}"][labels].mean(0).split(sizes) for each in ("mean", key))
    return list(zip(mean, variance, strict=True))


@pytest.mark.parametrize("class_variance", ["exact", "within"])
def test_mixed_targets_and_moving_average_are_those_written_out(class_variance: Any):
    """EDC's loss over three iterations, for the first of two units, with its gradient (Branch_CIFAR_10's formula)."""
    module = resnet()
    tables = collected(Network(module, NORMALISATION), observe=ALL)
    task = task_of(module, tables=tables)
    config = cda.Config(
        observe=ALL, target="mixed", class_share=0.25, class_variance=class_variance, statistics_momentum=0.8,
        first_bn_multiplier=10.0,
    )  # fmt: skip
    term, state = statistics.statistics_of(task, config), None
    everything = measured(module, torch.cat([normalised(label) for label in range(NUM_CLASSES)]))
    averages: dict[str, list[list[Tensor]]] = {}
    key, source = {"exact": "variance", "within": "within"}[class_variance], torch.Generator().manual_seed(5)
    for iteration in range(3):
        images = torch.randn(len(LABELS), 3, SIDE, SIDE, generator=source)
        ours, theirs = images.clone().requires_grad_(), images[: SIZES[0]].clone().requires_grad_()
        value, state = value_of(term, task, ours, state)
        expected = torch.zeros(())
        for kind, layers in measured(module, theirs).items():
            sums = averages.setdefault(kind, [[torch.zeros_like(part) for part in layer] for layer in layers])
            for layer, total in zip(layers, sums, strict=True):
                total[:] = [0.8 * old + 0.2 * new.detach() for old, new in zip(total, layer, strict=True)]
            weight = 1 - 0.8 ** (iteration + 1)
            now = [
                tuple(old / weight + new - new.detach() for old, new in zip(total, layer, strict=True))
                for layer, total in zip(layers, sums, strict=True)
            ]
            aims = everything[kind]
            if kind == "batchnorm":
                aims = [(layer.running_mean, layer.running_var) for layer, _ in fed(module, images)[kind]]
            own = split(tables, kind, LABELS[: SIZES[0]], [len(layer[0]) for layer in layers], key)
            away = [0.75 * one + 0.25 * two for one, two in zip(norms(now, aims), norms(now, own), strict=True)]
            first = 1.0 if kind == "batchnorm" else 10.0  # the network's first layer is a convolution
            expected = expected + first * away[0] + sum(away[1:])
        assert value[0].item() == pytest.approx(expected.item(), rel=1e-4)
        slope = torch.autograd.grad(value.sum(), ours)[0][: SIZES[0]]
        wanted = torch.autograd.grad(expected, theirs)[0]
        torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-3 * wanted.abs().max().item())
        state = {name: part.detach() for name, part in state.items()}


def test_statistics_of_all_classes_are_those_of_all_images():
    module = resnet()
    task = task_of(module, tables=collected(Network(module, NORMALISATION), observe=("convolution",)))
    images = torch.randn(len(LABELS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(6))
    everything = measured(module, torch.cat([normalised(label) for label in range(NUM_CLASSES)]))["convolution"]
    for target in ("running", "collected"):  # there are no running statistics of convolutions
        config = cda.Config(observe=("convolution",), target=target, first_bn_multiplier=1.0)
        value, state = value_of(statistics.statistics_of(task, config), task, images)
        for unit, own in enumerate(images.split(SIZES)):
            expected = sum(norms(measured(module, own)["convolution"], everything))
            assert value[unit].item() == pytest.approx(float(expected), rel=1e-4)
        assert state == {}


def test_a_teacher_without_batchnorm_is_observed_at_its_other_normalisations():
    """And one with BatchNorm needs no real images for its running statistics."""
    module, config = vit(), cda.Config()
    assert statistics.needs_collecting(config, module)
    assert not statistics.needs_collecting(config, resnet())
    task = task_of(module, tables=collected(Network(module, NORMALISATION)))
    value, _ = value_of(statistics.statistics_of(task, config), task, torch.cat([normalised(0)[:4], normalised(1)[:2]]))
    noise = 3 * torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    other, _ = value_of(statistics.statistics_of(task, config), task, noise)
    assert (value < other / 2).all(), "real images do not have the statistics of real images"


def test_teachers_of_both_kinds_are_refused_unless_one_kind_of_layer_is_named():
    task = task_of(resnet(), vit())
    with pytest.raises(AttarError, match=r"observed at different layers; name .* --recover.observe"):
        statistics.statistics_of(task, cda.Config())
    assert statistics.statistics_of(task, cda.Config(observe=("convolution",))).taps == (("convolution", ""),)


def test_a_network_without_any_normalisation_is_refused_with_the_mend():
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(AttarError, match=r"'plain' has no LayerNorm.*--recover.observe convolution"):
        statistics.refuse_unobservable(network, "plain", cda.Config())
    statistics.refuse_unobservable(network, "plain", cda.Config(observe=("convolution",)))


def test_a_teacher_without_one_of_the_kinds_is_matched_in_the_others():
    """A committee of EDC has an AlexNet among networks with BatchNorm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, NUM_CLASSES))
    module.eval().requires_grad_(False)
    images = torch.randn(len(LABELS), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(8))
    tables = collected(Network(module, NORMALISATION), observe=ALL)
    found = []
    for observe in (ALL, ("convolution", "patches")):
        task, config = task_of(module, tables=tables), cda.Config(observe=observe, target="mixed")
        statistics.refuse_unobservable(module, "plain", config)
        found.append(value_of(statistics.statistics_of(task, config), task, images)[0])
    torch.testing.assert_close(*found)
    assert (found[0] > 0).all()


def test_patches_at_another_size_are_refused():
    module = resnet()
    task = task_of(module, tables=collected(Network(module, NORMALISATION), observe=("patches",)))
    term = statistics.statistics_of(task, cda.Config(observe=("patches",)))
    with pytest.raises(AttarError, match="leave --recover.view-sizes at 1.0"):
        term.constants(task, 0, Observed(module, torch.zeros(2, 3, 20, 20), taps=term.taps))


def test_variances_have_a_weight_of_their_own():
    """The distance of DWA, written out: means once, variances eleven times."""
    stream = torch.Generator().manual_seed(5)
    mean, variance, target_mean, target_variance = torch.rand(4, 2, 6, generator=stream)
    layer_of = torch.eye(2).repeat_interleave(3, dim=0)
    weights = torch.tensor([10.0, 1.0])
    found = statistics.distance(mean, variance, target_mean, target_variance, layer_of, weights, 11.0)
    for unit in range(2):
        expected = sum(
            float(weight)
            * (
                (mean[unit, own] - target_mean[unit, own]).norm()
                + 11.0 * (variance[unit, own] - target_variance[unit, own]).norm()
            )
            for weight, own in zip(weights, (slice(3), slice(3, 6)), strict=True)
        )
        assert found[unit].item() == pytest.approx(float(expected), rel=1e-5)
    config = cda.Config(variance_weight=11.0)
    assert statistics.statistics_of(task_of(resnet()), config).variance_weight == 11.0
