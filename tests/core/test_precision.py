"""core/precision.py: which of two speeds is taken, measured by a clock of the tests."""

import pytest
import torch

from attar.core import precision
from attar.core.precision import DTYPES, NUM_ROUNDS, SECONDS, Workload, measure, measured


class Clock:
    """Time that passes only when work is done; every piece of work takes what its precision and kind say."""

    def __init__(self, **seconds: float) -> None:
        self.now, self.seconds, self.done = 0.0, seconds, []

    def __call__(self) -> float:
        return self.now

    def workloads(self) -> dict[precision.Precision, Workload]:
        return {name: Workload(self.work(f"{name}_product"), self.work(f"{name}_convolution")) for name in DTYPES}

    def work(self, name: str):
        def do() -> None:
            self.done.append(name)
            disturbed = 10 if self.done.count(name) in (1, 3) else 1  # the first prepares, the third meets other work
            self.now += disturbed * self.seconds[name]

        return do


def clock(scale: float = 1.0, product: float = 2.0, convolution: float = 1.5) -> Clock:
    """A processor whose float32 takes a thousandth of a second for either, times ``scale``."""
    plain = 1e-3 * scale
    return Clock(
        fp32_product=plain, fp32_convolution=plain, bf16_product=plain / product, bf16_convolution=plain / convolution
    )


def test_the_best_of_several_counts_and_the_precisions_take_turns():
    watched = clock()
    found = measure(watched.workloads(), watched)
    assert found.gains() == pytest.approx((2.0, 1.5))
    assert found.product["fp32"] == pytest.approx(2 * precision.SIDE**3 / 1e-3)
    assert found.convolution["fp32"] == pytest.approx(2 * 2 * 9 * 64 * 64 * 16 * 16 * 8 / 1e-3)
    order = ["fp32_product", "fp32_convolution", "bf16_product", "bf16_convolution"]
    assert watched.done == order * (len(watched.done) // 4)
    assert len(watched.done) == 4 * (1 + NUM_ROUNDS)


def test_a_slow_processor_is_measured_no_longer_than_needed():
    watched = clock(scale=1000 * SECONDS)
    assert measure(watched.workloads(), watched).gains() == pytest.approx((2.0, 1.5))
    assert len(watched.done) == 4 * 3


@pytest.mark.parametrize(
    ("product", "convolution", "choice"),
    [(1.25, 1.25, "bf16"), (1.24, 3.0, "fp32"), (3.0, 1.24, "fp32"), (0.7, 0.7, "fp32"), (1.0, 1.0, "fp32")],
)
def test_bf16_has_to_win_clearly_on_both(product: float, convolution: float, choice: str):
    watched = clock(product=product, convolution=convolution)
    assert measure(watched.workloads(), watched).choice() == choice


def test_measuring_leaves_threads_and_random_numbers_alone():
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    measured.cache_clear()
    found = measured()
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
    assert min(*found.product.values(), *found.convolution.values()) > 0
    assert measured() is found, "a second answer could differ from the first"
