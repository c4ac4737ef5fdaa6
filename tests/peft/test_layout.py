import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgetuner.models import build  # noqa: E402
from edgetuner.peft.layout import image, inner, kernels_innermost, outer, rows  # noqa: E402


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5)])
def test_an_image_lies_with_its_maps_innermost(shape):
    x = torch.randn(shape)
    y = image(x)
    assert inner(y).is_contiguous()
    assert torch.equal(y.squeeze(2) if x.ndim == 3 else y, x)
    assert rows(inner(y)).data_ptr() == y.data_ptr()
    assert outer(inner(y)).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("backbone", ["t_resnet", "mobilenet_v2"])
def test_kernels_are_laid_out_anew_and_stay_what_they_are(backbone):
    module = build(backbone, 6, 24, 4).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x = torch.randn(2, 6, 24)
    expected = module(x)
    parameters = dict(module.named_parameters())
    kernels_innermost(module)
    assert dict(module.named_parameters()).items() == parameters.items()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
    for conv in module.modules():
        if isinstance(conv, nn.Conv1d | nn.Conv2d):
            assert inner(image(conv.weight)).data_ptr() == conv.weight.data_ptr()
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)
