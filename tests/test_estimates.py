"""Means and standard errors against NumPy, and their text."""

import numpy as np
import pytest
import torch

from vaebook.estimates import Estimate, effect, monte_carlo


def test_mean_and_standard_error_equal_numpys() -> None:
    draws = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    estimate = monte_carlo(draws)
    flat = draws.double().numpy().ravel()
    assert estimate.value == pytest.approx(flat.mean())
    assert estimate.stderr == pytest.approx(flat.std(ddof=1) / np.sqrt(flat.size))


def test_a_z_score_is_positive_above_the_truth() -> None:
    assert Estimate(2.0, 0.5).z_score(1.0) == 2.0
    assert Estimate(0.5, 0.5).z_score(1.0) == -1.0
    assert Estimate(1.0, 0.0).z_score(1.0) == 0.0
    assert Estimate(0.9, 0.0).z_score(1.0) == -float("inf")


def test_one_draw_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="at least 2 draws .* got 1"):
        monte_carlo(torch.zeros(1))


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-12.34567, 0.0123), "-12.346 ± 0.012"),
        (Estimate(1234.5, 20.0), "1234 ± 20"),
        (Estimate(3.0, 0.0), "3 ± 0"),
    ],
)
def test_the_text_has_two_digits_of_the_standard_error(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


def test_complex_samples_have_no_standard_error_here() -> None:
    with pytest.raises(ValueError, match="samples needs real numbers"):
        monte_carlo(torch.tensor([1 + 5j, 2 + 1j]))


def test_an_effect_has_the_errors_of_seeds_and_of_images() -> None:
    """Over many draws of models and of images, the mean scatters as its standard error says."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = [effect(0.5 * drawn(8, 1) + 2 * drawn(1, 50) + 0.5 * drawn(8, 50)) for _ in range(2000)]
    values, errors = torch.tensor(found).T
    scatter = values.std().item()  # known to 1.6 %
    assert errors.square().mean().sqrt().item() == pytest.approx(scatter, rel=0.08)
    by_images = 2 / 50**0.5
    assert scatter > 1.05 * by_images  # neither error alone is enough


def test_an_effect_of_one_number_a_model_has_their_error() -> None:
    assert effect(torch.tensor([1.0, 2.0, 3.0])) == monte_carlo(torch.tensor([1.0, 2.0, 3.0]))


def test_an_effect_wants_two_models() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        effect(torch.zeros(1, 100))
