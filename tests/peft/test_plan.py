import pytest

torch = pytest.importorskip("torch")

from edgetuner.errors import BudgetError, UsageError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.plan import plan  # noqa: E402
from edgetuner.peft.saved import saved_for_backward  # noqa: E402
from tests.peft.nets import CHANNELS, LENGTH, Deciding, Excited  # noqa: E402


def t_resnet(**options):
    return LeanLoraEdge(build("t_resnet", 97, 60, 17), torch.randn(2, 97, 60), rank=2, **options)


@pytest.fixture(scope="module")
def adapter():
    return t_resnet()


@pytest.fixture(scope="module")
def planned(adapter):
    return plan(adapter, torch.zeros(1, 97, 60))


def measured(adapter, x):
    with saved_for_backward(adapter) as saved:
        logits = adapter(x)
        assert logits.requires_grad
    return saved.bytes


@pytest.mark.parametrize("windows", [1, 5, 8, 64])
def test_what_is_kept_is_foretold(adapter, planned, windows):
    kept = measured(adapter, torch.randn(windows, 97, 60))
    assert planned.saved_bytes(windows) == pytest.approx(kept, rel=0.01)


def test_the_peak_of_t_resnet_is_at_the_floor(planned):
    assert planned.peak_bytes(64) <= 3.2e6
    assert planned.saved_bytes(8) <= planned.saved_bytes(64) / 8 * 1.02


def test_layers_add_up_to_the_whole(adapter, planned):
    assert sum(layer.trained for layer in planned.layers) == adapter.trained()
    assert sum(layer.saved_bytes for layer in planned.layers) == planned.window_bytes
    assert all(layer.why == "" for layer in planned.layers)
    by_name = {layer.name: layer for layer in planned.layers}
    first, second = by_name["blocks.0.body.conv8"], by_name["blocks.0.body.conv5"]
    assert first.macs == 60 * (66 * 97 * 8 + 64 * 2)  # nothing back: its input is nobody's
    assert second.macs == 60 * (66 * 64 * 5 + 64 * 64 * 5 + 64 * 2)
    assert (first.rank, first.trained) == (2, 128)
    assert first.saved_bytes == 60 * 2 * 4 + 60 * 64 / 8


def test_beta_and_head_are_counted_where_they_are():
    adapter = t_resnet(batch_norm_beta=True, head="head")
    trained = {layer.name: layer.trained for layer in plan(adapter, torch.zeros(1, 97, 60)).layers}
    assert sum(trained.values()) == adapter.trained()
    assert trained["head"] == 129 * 17
    assert trained["blocks.0.body.norm0"] == 97


def test_a_budget_decides_the_micro_batch(planned):
    enough = planned.peak_bytes(64)
    assert planned.micro_batch(64, enough) == 64
    assert planned.micro_batch(64, enough - 1) == 32  # two alike rather than 63 and 1
    for budget in range(planned.peak_bytes(1), enough, 50_000):
        size = planned.micro_batch(64, budget)
        assert 1 <= size <= 64
        assert planned.peak_bytes(size) <= budget


def test_a_budget_that_cannot_be_met_is_refused_in_words(planned):
    with pytest.raises(BudgetError, match=r"at least .* MB: weights .* one window .* raise"):
        planned.micro_batch(64, planned.peak_bytes(1) - 1)
    with pytest.raises(UsageError, match="batch"):
        planned.micro_batch(0, 10**9)


def test_why_a_layer_is_not_lean_is_said():
    x = torch.randn(2, CHANNELS, LENGTH)
    layers = {layer.name: layer for layer in plan(LeanLoraEdge(Excited(), x, rank=2), x).layers}
    assert layers["mul"].why == "no lean form of mul"
    assert layers["mul"].saved_bytes > 0


def test_a_module_that_cannot_be_captured_has_a_plan_too():
    x = torch.randn(2, CHANNELS, LENGTH)
    adapter = LeanLoraEdge(Deciding().eval(), x, rank=2)
    planned = plan(adapter, x)
    assert planned.layers == ()
    assert "cannot be traced" in planned.why
    kept = measured(adapter, torch.randn(32, CHANNELS, LENGTH))
    assert planned.saved_bytes(32) == pytest.approx(kept, rel=0.02)
