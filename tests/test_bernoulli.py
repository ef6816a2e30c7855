"""vaebook.bernoulli: the density of black-and-white pixels."""

import itertools

import pytest
import torch
from torch.distributions import Bernoulli, Independent

from vaebook.bernoulli import BernoulliPixels


def test_the_probabilities_of_all_pictures_sum_to_one() -> None:
    logits = torch.tensor([-3.0, 0.2, 1.5, 40.0], dtype=torch.float64)
    pictures = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    assert BernoulliPixels(logits).log_prob(pictures).exp().sum().item() == pytest.approx(1, abs=1e-14)


def test_value_and_gradient_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, 64, generator=generator, dtype=torch.float64).mul(4).requires_grad_()
    x = (torch.rand(7, 64, generator=generator) < 0.5).double()
    ours, theirs = BernoulliPixels(logits), Independent(Bernoulli(logits=logits), 1)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.mean, theirs.mean)
    gradients = [torch.autograd.grad(p.log_prob(x).sum(), logits)[0] for p in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [30.0, 500.0, 1e30])
def test_value_and_gradient_are_finite_for_huge_logits(size: float) -> None:
    logits = torch.tensor([size, -size], requires_grad=True)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert BernoulliPixels(logits).log_prob(right).item() == pytest.approx(0, abs=1e-12)
    value = BernoulliPixels(logits).log_prob(wrong)
    assert value.item() == pytest.approx(-2 * size)
    value.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("bad", [0.5, -1.0, float("inf"), float("nan")])
def test_other_pixels_raise_an_error_that_says_what_to_do(bad: float) -> None:
    x = torch.tensor([0.0, 1.0, bad])
    with pytest.raises(ValueError, match="x needs pixels that are 0 or 1, .*binarise"):
        BernoulliPixels(torch.zeros(3)).log_prob(x)
