import pytest

torch = pytest.importorskip("torch")

from hypothesis import assume, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgetuner.models import build  # noqa: E402
from edgetuner.peft.activation import activation_of  # noqa: E402
from edgetuner.peft.geometry import Geometry  # noqa: E402
from edgetuner.peft.lean import LeanConvolution  # noqa: E402
from edgetuner.peft.lean_lora_edge import LeanLoraEdge  # noqa: E402
from edgetuner.peft.mixture import Mixture, Responses  # noqa: E402
from edgetuner.peft.saved import saved_for_backward  # noqa: E402
from tests.peft.nets import CHANNELS, CLASSES, LENGTH  # noqa: E402
from tests.peft.test_lean import ALPHA, convolutions  # noqa: E402


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=80, deadline=None)
@given(convolutions(), st.booleans())
def test_two_halves_are_the_whole(drawn, beside):
    conv, norm, update, activation, dims = drawn
    assume(conv.groups == 1 or update is None)
    conv.requires_grad_(False)
    if norm is not None:
        norm.module.requires_grad_(False)
    layer = LeanConvolution(
        conv, Geometry.of(conv), norm, activation_of(activation), update=update, alpha=ALPHA
    )
    x = torch.randn(2, conv.in_channels, *(13, 11)[:dims]).double()
    shape = layer(x).shape
    residual = torch.randn(shape).double().requires_grad_() if beside else None
    core, beta = update and update.core, norm and norm.beta
    wanted = [t for t in (residual, core, beta) if t is not None and t.requires_grad]

    def halves():
        return Mixture(layer)(*Responses(layer)(x), residual=residual)

    for value in (halves(), torch.no_grad()(halves)()):
        assert value.shape == shape
        torch.testing.assert_close(value, layer(x, residual), rtol=1e-12, atol=1e-12)
    if not wanted:
        return
    weight = torch.randn(shape).double()
    theirs = torch.autograd.grad((layer(x, residual) * weight).sum(), wanted)
    ours = torch.autograd.grad((halves() * weight).sum(), wanted)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backbone", ["t_resnet", "mobilenet_v2", "small_cnn"])
def test_an_adapter_in_two_halves_answers_and_keeps_as_before(backbone):
    base = build(backbone, CHANNELS, LENGTH, CLASSES)
    x = torch.randn(4, CHANNELS, LENGTH)
    whole = LeanLoraEdge(base, x[:2], rank=2, clip=True)
    apart = LeanLoraEdge(base, x[:2], rank=2, clip=True, apart=True)
    assert apart.why == whole.why == ""
    names = [step.name for step in apart.program.steps if isinstance(step.run, Mixture)]
    assert names, "the first trained convolutions are taken in two steps"
    torch.testing.assert_close(apart(x), whole(x), rtol=1e-4, atol=1e-5)
    kept = []
    for adapter in (whole, apart):
        with saved_for_backward(adapter) as saved:
            adapter(x)
        kept.append(saved.bytes)
    assert kept[0] == kept[1]


def test_groups_stay_whole_since_their_q_would_be_more_than_the_input():
    base = nn.Sequential(nn.Conv1d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(6 * 22, 3))
    adapter = LeanLoraEdge(base, torch.randn(2, 6, 24), rank=1, apart=True)
    assert not any(isinstance(step.run, Mixture) for step in adapter.program.steps)
