import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.peft.footprint import Footprint, Growth, step_footprint  # noqa: E402

lines = st.lists(st.tuples(st.integers(0, 1000), st.integers(-50, 50)), min_size=1)


def test_a_block_counts_once_and_as_long_as_anything_holds_it():
    known = torch.zeros(100)
    footprint = Footprint([known])
    with footprint:
        a = known + 1  # 400 bytes
        b = a.view(10, 10)[:5]
        known.add_(1)
        del a
        c = b + b  # 200
        del b
        d = c * 1
    assert footprint.alive[0] == 400
    assert footprint.alive[-2:] == [600, 400]
    assert d.shape == (5, 10)


def test_a_convolution_lays_out_its_kernel_anew():
    x, kernel = torch.zeros(1, 2, 8), torch.zeros(4, 2, 3)
    footprint = Footprint([x, kernel])
    with footprint:
        torch.nn.functional.conv1d(x, kernel)
    assert max(footprint.alive) == 4 * (4 * 6 + kernel.numel())


@given(lines, st.integers(0, 100))
def test_the_envelope_is_the_largest_of_all_lines(lines, windows):
    largest = max(fixed + slope * windows for fixed, slope in lines)
    assert Growth(lines).bytes(windows) == largest


def test_what_grows_faster_decides_for_many():
    def run(count):
        footprint = Footprint([])
        with footprint:
            torch.zeros(1000)
            torch.zeros(count, 10)
        return footprint

    growth = Growth.of(run, 2, 10)
    assert growth.bytes(1) == growth.bytes(100) == 4000
    assert growth.bytes(1000) == 40_000


def test_another_computation_for_another_batch_is_taken_to_grow_with_it():
    runs = iter([[100, 20], [100, 990, 1]])

    def run(_):
        footprint = Footprint([])
        footprint.alive = next(runs)
        return footprint

    assert Growth.of(run, 2, 10).bytes(20) == 1980


def test_a_step_leaves_no_gradient_behind():
    weight = torch.ones(3, requires_grad=True)
    x = torch.ones(2, 3)
    footprint = step_footprint(lambda given: given[0] * weight, [x], [weight], [])
    assert weight.grad is None
    assert max(footprint.alive) >= 24
