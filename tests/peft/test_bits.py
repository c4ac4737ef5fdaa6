import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgetuner.peft import bits  # noqa: E402

masks = st.lists(st.booleans(), min_size=1, max_size=67)


@given(masks)
def test_bits_come_back(mask):
    x = torch.tensor(mask).float()
    packed = bits.pack_between(x, 0.0, float("inf"))
    assert len(packed) == -(-len(mask) // 8)
    assert bits.unpack(packed, x.shape).tolist() == mask


@given(masks)
def test_shifts_give_the_bits_that_numpy_gives(mask):
    packed = bits._pack(torch.tensor(mask))
    assert packed.tolist() == np.packbits(mask).tolist()
    assert bits._unpack(packed, len(mask)).tolist() == mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_ends_lie_outside(dtype):
    x = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0], dtype=dtype)
    inside = bits.unpack(bits.pack_between(x, 0.0, 6.0), x.shape)
    assert inside.tolist() == [0, 0, 1, 0, 0]
