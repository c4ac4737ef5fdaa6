import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from benchmarks.allocator import peak_allocated  # noqa: E402
from edgetuner.errors import BudgetError, UsageError  # noqa: E402
from edgetuner.models import build  # noqa: E402
from edgetuner.peft.layout import kernels_innermost  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.plan import Course, plan  # noqa: E402
from edgetuner.peft.prefix import PrefixCache  # noqa: E402
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


@pytest.mark.parametrize(
    ("backbone", "args", "options"),
    [
        ("t_resnet", {}, {}),
        ("t_resnet", {}, {"batch_norm_beta": True, "head": "head", "apart": True}),
        ("small_cnn", {}, {"q_dtype": torch.float16, "apart": True}),
        ("mobilenet_v2", {"rgb": True}, {"clip": True}),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("windows", [8, 32])
def test_the_measured_peak_is_within_a_tenth_of_the_foretold(
    backbone, args, options, windows, cached
):
    base = build(backbone, 97, 60, 17, args)
    kernels_innermost(base)
    adapter = LeanLoraEdge(base, torch.randn(2, 97, 60), rank=2, **options)
    planned = plan(adapter, torch.zeros(1, 97, 60))
    x, trained = torch.randn(windows, 97, 60), [p for p in adapter.parameters() if p.requires_grad]
    y, rows = torch.zeros(windows, dtype=torch.long), torch.arange(windows)
    cache = PrefixCache(adapter, windows) if cached else None

    def step():
        if cache is None:
            inputs = [x[rows]]
            logits = adapter(inputs[0])
        else:
            inputs = cache.border(rows.tolist(), x)
            logits = adapter.program.resume(inputs)
        torch.autograd.grad(nn.functional.cross_entropy(logits, y), trained)

    filling = 0 if cache is None else peak_allocated(lambda: cache.border(rows.tolist(), x))
    step()
    peak = planned.peak_bytes(windows, cached=cached)
    held = planned.state_bytes(0) - planned.saved_bytes(0)
    beside = 0 if cache is None else cache.nbytes
    assert peak == pytest.approx(held + max(filling - beside, peak_allocated(step)), rel=0.1)


def test_the_state_of_t_resnet_is_at_the_floor(planned):
    assert planned.state_bytes(64) <= 3.2e6
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
    assert planned.course(64, 1000, enough) == Course(64, False, enough)
    assert planned.course(64, 1000, enough - 1).micro_batch == 32  # two alike, not 63 and 1
    for budget in range(planned.peak_bytes(1), enough, 50_000):
        course = planned.course(64, 1000, budget)
        assert 1 <= course.micro_batch <= 64
        assert course.peak_bytes == planned.peak_bytes(course.micro_batch) <= budget


def test_the_cache_is_taken_where_it_leaves_room_for_a_fair_micro_batch():
    planned = plan(t_resnet(apart=True), torch.zeros(1, 97, 60))
    assert planned.border_bytes == 60 * 2 * (64 + 2) * 2  # u and q of two layers, in float16
    cache = planned.cache_bytes(1000)
    whole, least = (cache + planned.peak_bytes(n, cached=True) for n in (64, 8))
    assert planned.course(64, 1000, whole) == Course(64, True, whole)
    assert planned.course(64, 1000, least) == Course(8, True, least)
    assert planned.course(64, 1000, least - 1) == Course(64, False, planned.peak_bytes(64))


def test_a_budget_that_cannot_be_met_is_refused_in_words(planned):
    with pytest.raises(BudgetError, match=r"at least .* MB: weights .* 1 window .* raise"):
        planned.course(64, 1000, planned.peak_bytes(1) - 1)
    with pytest.raises(UsageError, match="batch"):
        planned.course(0, 1000, 10**9)


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


def test_what_normalises_by_the_batch_is_taken_whole_and_never_cached():
    base = build("small_cnn", CHANNELS, LENGTH, 3)
    base.features.norm1 = nn.BatchNorm1d(32, track_running_stats=False)
    x = torch.randn(2, CHANNELS, LENGTH)
    layers = ["features.conv2", "features.conv3"]
    planned = plan(LeanLoraEdge(base, x, rank=2, layers=layers, apart=True), x)
    assert planned.whole
    assert planned.border_bytes == 0
    assert planned.course(64, 10, 10**9) == Course(64, False, planned.peak_bytes(64))
    with pytest.raises(BudgetError, match="64 windows"):
        planned.course(64, 10, planned.peak_bytes(64) - 1)


def test_filling_the_cache_is_part_of_the_peak():
    # early maps of MobileNetV2 are many times those of the last stage, which alone is trained
    base = build("mobilenet_v2", 97, 60, 17, {"rgb": True})
    kernels_innermost(base)
    layers = ["features.18.0"]
    adapter = LeanLoraEdge(base, torch.randn(2, 97, 60), rank=2, layers=layers, apart=True)
    planned = plan(adapter, torch.zeros(1, 97, 60))
    x = torch.randn(32, 97, 60)
    cache = PrefixCache(adapter, len(x))
    held = planned.state_bytes(0) - planned.saved_bytes(0)
    measured = held + peak_allocated(lambda: cache.border(range(len(x)), x))
    assert planned.peak_bytes(32, cached=True) + cache.nbytes == pytest.approx(measured, rel=0.1)
    assert any(slope == 0 for _, slope in planned.cached_growth)
