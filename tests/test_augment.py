from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Generator  # noqa: E402

from edgetuner.augment import Augmentation, rotations, triads  # noqa: E402

CHANNELS = ("acc_x", "acc_y", "acc_z", "pressure", "gyr_x", "gyr_y", "gyr_z")


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_triads_are_found_by_name() -> None:
    assert triads(CHANNELS) == (0, 4)
    assert triads(("x", "y", "z")) == (0,)
    assert triads(("acc_x", "acc_y", "gyr_z")) == ()
    assert triads(("a", "b")) == ()


def test_rotations_are_rotations() -> None:
    turn = rotations(200, 30, generator())
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand_as(turn))
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(200))
    angle = torch.rad2deg(((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos())
    assert 25 < angle.square().mean().sqrt() < 35


def test_rotation_turns_both_sensors_alike_and_keeps_their_norm() -> None:
    x = torch.randn(5, 7, 16, generator=generator(1))
    x[:, 4:] = x[:, :3]
    moved = Augmentation(rotation_deg=20)(x, torch.ones(7), (0, 4), generator())
    assert not torch.allclose(moved[:, :3], x[:, :3], atol=0.01)
    torch.testing.assert_close(moved[:, :3], moved[:, 4:])
    torch.testing.assert_close(moved[:, :3].norm(dim=1), x[:, :3].norm(dim=1))
    torch.testing.assert_close(moved[:, 3], x[:, 3])


def test_scale_is_one_gain_a_sensor() -> None:
    x = torch.rand(400, 7, 4, generator=generator(1)) + 1
    gain = Augmentation(scale=0.1)(x, torch.ones(7), (0, 4), generator()) / x
    torch.testing.assert_close(gain[:, 0], gain[:, 2])
    torch.testing.assert_close(gain[:, 0, 0], gain[:, 0, 3])
    assert not torch.allclose(gain[:, 0], gain[:, 3])
    assert 0.08 < gain.std() < 0.12


def test_jitter_is_in_standard_deviations() -> None:
    std = torch.tensor([1.0, 10.0])
    noise = Augmentation(jitter=0.05)(torch.zeros(100, 2, 100), std, (), generator())
    torch.testing.assert_close(noise.std(dim=(0, 2)), 0.05 * std, rtol=0.05, atol=0)


def test_it_copies_and_repeats() -> None:
    x = torch.randn(4, 7, 8, generator=generator(1))
    before = x.clone()
    change = Augmentation(10, 0.1, 0.1)
    first, second = (change(x, torch.ones(7), (0, 4), generator()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x, before)
    assert torch.equal(Augmentation()(x, torch.ones(7), (0, 4), generator()), x)
