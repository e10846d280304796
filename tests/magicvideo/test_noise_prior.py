"""The latent noise prior: mean and variance of each kind, and the noise left alone."""

import pytest
import torch

from magicvideo.noise_prior import noise_prior


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(1, 4, 32, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


REFERENCE = torch.full((1, 4, 40, 40), 2.0, dtype=torch.float64)


def test_none_is_the_noise_itself(noise: torch.Tensor) -> None:
    assert torch.equal(noise_prior(REFERENCE, noise, "none", strength=0.3), noise)


@pytest.mark.parametrize(("kind", "variance"), [("shift", 1.0), ("matched", 1 - 0.3**2)])
def test_mean_leans_to_the_reference(noise: torch.Tensor, kind: str, variance: float) -> None:
    latents = noise_prior(REFERENCE, noise, kind, strength=0.3)  # type: ignore[arg-type]
    assert float(latents.mean()) == pytest.approx(0.6, abs=0.01)
    assert float(latents.var()) == pytest.approx(variance, abs=0.01)


def test_matched_is_forward_diffusion(noise: torch.Tensor) -> None:
    from magicvideo.sprites.architecture import build_scheduler

    scheduler = build_scheduler()
    strength = float(scheduler.alphas_cumprod[999].sqrt())
    video = REFERENCE.unsqueeze(2).expand_as(noise)
    expected = scheduler.add_noise(video, noise, torch.tensor([999]))
    assert torch.allclose(noise_prior(REFERENCE, noise, "matched", strength=strength), expected, atol=1e-6)


def test_decay_starts_matched_and_ends_free(noise: torch.Tensor) -> None:
    latents = noise_prior(REFERENCE, noise, "decay", strength=0.3)
    matched = noise_prior(REFERENCE, noise, "matched", strength=0.3)
    assert torch.equal(latents[:, :, 0], matched[:, :, 0])
    assert torch.equal(latents[:, :, -1], noise[:, :, -1])


def test_mixed_noise_is_standard_normal_and_half_shared(noise: torch.Tensor) -> None:
    latents = noise_prior(0 * REFERENCE, noise, "mixed", strength=0.0)
    assert float(latents.var()) == pytest.approx(1.0, abs=0.01)
    correlation = (latents[:, :, 0] * latents[:, :, 9]).mean()
    assert float(correlation) == pytest.approx(0.5, abs=0.03)


def test_mixing_leaves_a_single_frame_alone(noise: torch.Tensor) -> None:
    single = noise[:, :, :1]
    assert torch.equal(noise_prior(REFERENCE, single, "mixed", strength=0.0), single)


def test_bad_arguments_are_refused(noise: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="unknown noise prior 'warm'; known: none, shift"):
        noise_prior(REFERENCE, noise, "warm", strength=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="strength"):
        noise_prior(REFERENCE, noise, "shift", strength=1.5)
    with pytest.raises(ValueError, match="reference must be"):
        noise_prior(REFERENCE[:, :2], noise, "shift", strength=0.1)
