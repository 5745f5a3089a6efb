"""The pixel likelihood of our VDVAE, against a float64 reference of its own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from vdvae_patch.upstream.vdvae.hps import Hyperparams
from vdvae_patch.upstream.vdvae.mixture import LogisticMixture
from vdvae_patch.upstream.vdvae.vae_helpers import DmolNet


def _log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


def _reference_nll(channels, target, intervals):
    """Nats per dimension of one image in float64, pixel by pixel and component by component."""
    K = channels.shape[-1] // 10
    total = 0.0
    for row, column in itertools.product(*map(range, target.shape[:2])):
        numbers, value = channels[row, column], target[row, column]
        logits, by_colour = numbers[:K], numbers[K:].reshape(3, 3, K)
        log_terms = logits - np.logaddexp.reduce(logits)
        for k in range(K):
            a, b, c = np.tanh(by_colour[:, 2, k])
            shift = [0.0, a * value[0], b * value[0] + c * value[1]]
            for colour in range(3):
                mean = by_colour[colour, 0, k] + shift[colour]
                log_scale = max(by_colour[colour, 1, k], -7.0)
                log_terms[k] += _reference_log_mass(value[colour], mean, log_scale, intervals)
        total += np.logaddexp.reduce(log_terms)
    return -total / target.size


def _reference_log_mass(value, mean, log_scale, intervals):
    upper, lower = ((value - mean + side / intervals) / math.exp(log_scale) for side in (1, -1))
    if value < -0.999:
        return _log_sigmoid(upper)
    if value > 0.999:
        return _log_sigmoid(-lower)
    log_mass = _log_sigmoid(upper) + _log_sigmoid(-lower) + math.log(-math.expm1(lower - upper))
    if log_mass > math.log(1e-5):
        return log_mass
    centre = (value - mean) / math.exp(log_scale)
    return _log_sigmoid(centre) + _log_sigmoid(-centre) - log_scale - math.log(intervals / 2)


def _net(dataset="cifar10", num_mixtures=3, width=8):
    torch.manual_seed(0)
    return DmolNet(Hyperparams(dataset=dataset, num_mixtures=num_mixtures, width=width))


@pytest.mark.parametrize(("dataset", "intervals"), [("cifar10", 255), ("ffhq_256", 31), ("ffhq_1024", 255)])
@pytest.mark.parametrize("size", [0.5, 3.0, 30.0])
def test_the_likelihood_is_that_of_the_reference(vdvae_batch, dataset, intervals, size):
    net = _net(dataset)
    px_z = size * torch.randn(2, 8, 4, 4)
    _, target = vdvae_batch(4)
    channels = net(px_z).detach().double().numpy()
    expected = [_reference_nll(c, x, intervals) for c, x in zip(channels, target.double().numpy(), strict=True)]
    torch.testing.assert_close(net.nll(px_z, target), torch.tensor(expected).float(), rtol=2e-4, atol=1e-5)


def test_five_bit_probabilities_sum_to_one_over_all_colours():
    grid = torch.linspace(-1, 1, 32, dtype=torch.float64)
    colours = torch.cartesian_prod(grid, grid, grid)[None, :, None]
    torch.manual_seed(0)
    channels = torch.randn(1, 1, 1, 20, dtype=torch.float64).expand(1, 32**3, 1, 20)
    probabilities = LogisticMixture.from_channels(channels).log_prob(colours, intervals=31).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)


def test_the_sharpest_scale_is_exp_of_minus_seven():
    channels = torch.zeros(1, 1, 1, 10)
    channels[..., [2, 5, 8]] = -7
    at_bound = LogisticMixture.from_channels(channels).log_prob(torch.full((1, 1, 1, 3), 0.01))
    channels[..., [2, 5, 8]] = -50
    assert torch.equal(LogisticMixture.from_channels(channels).log_prob(torch.full((1, 1, 1, 3), 0.01)), at_bound)


@pytest.mark.parametrize("intervals", [255, 31])
def test_a_sharp_component_far_away_gives_its_mass_down_to_1e_5_and_its_density_below(intervals):
    """At this scale a bin is many scales wide, so mass and density differ by several nats."""
    value, log_scale = 0.2, -1.2 - math.log(intervals)
    others = 2 * _reference_log_mass(0.0, 0.0, 0.0, intervals)
    expected, ours = [], []
    for distance in np.linspace(0, 16, 60):
        mean = value - distance * math.exp(log_scale)
        mixture = LogisticMixture.from_channels(torch.tensor([[[[0, mean, log_scale, 0, 0, 0, 0, 0, 0, 0]]]]))
        ours.append(mixture.log_prob(torch.tensor([[[[value, 0.0, 0.0]]]]), intervals).item() - others)
        expected.append(_reference_log_mass(value, mean, log_scale, intervals))
    assert ours == pytest.approx(expected, abs=0.02)
    assert min(np.diff(expected)) < -1, "the range must hold the step from mass to density"


def test_gradients_are_finite_where_no_component_reaches_the_data(vdvae_batch):
    net = _net()
    px_z = (100 * torch.randn(2, 8, 4, 4)).requires_grad_()
    net.nll(px_z, vdvae_batch(4)[1]).sum().backward()
    assert torch.isfinite(px_z.grad).all()
    assert px_z.grad.abs().sum() > 0


def test_parameters_come_channels_last_and_ten_a_mixture():
    net = _net(num_mixtures=4)
    assert net(torch.randn(2, 8, 5, 5)).shape == (2, 5, 5, 40)
    assert net.out_conv.weight.shape == (40, 8, 1, 1)
    assert torch.equal(net.out_conv.bias, torch.zeros(40))


def test_each_colour_moves_the_means_of_the_later_ones():
    """With scales at their sharpest and coefficients near ±1, a sample is its chain of means."""
    channels = torch.zeros(1, 1, 1, 10)
    channels[..., 1], channels[..., 4], channels[..., 7] = 0.5, -0.2, 0.1  # means
    channels[..., [2, 5, 8]] = -7.0
    channels[..., 3], channels[..., 6], channels[..., 9] = 20.0, 20.0, -20.0  # red to green, red to blue, green to blue
    torch.manual_seed(0)
    sample = LogisticMixture.from_channels(channels.expand(1, 50, 50, 10)).sample()
    torch.testing.assert_close(sample.mean(dim=(0, 1, 2)), torch.tensor([0.5, 0.3, 0.3]), atol=1e-3, rtol=0)


def test_samples_follow_the_likelihood():
    """The sample mean of -log p is the entropy estimate that importance weights from a uniform grid give."""
    torch.manual_seed(0)
    channels = 0.5 * torch.randn(1, 1, 1, 30)
    channels[..., 3:] -= 0.5
    grid = torch.linspace(-1, 1, 32)
    colours = torch.cartesian_prod(grid, grid, grid)[None, :, None]
    log_prob = LogisticMixture.from_channels(channels.expand(1, 32**3, 1, 30)).log_prob(colours, intervals=31)
    expected_red = (log_prob.exp().flatten() * colours[0, :, 0, 0]).sum()
    samples = LogisticMixture.from_channels(channels.expand(1, 200, 200, 30)).sample()
    assert samples[..., 0].mean().item() == pytest.approx(expected_red.item(), abs=0.02)


def test_a_sample_is_an_image_of_bytes():
    net = _net()
    images = net.sample(50 * torch.randn(3, 8, 6, 6))
    assert images.dtype == np.uint8
    assert images.shape == (3, 6, 6, 3)
    assert images.min() == 0
    assert images.max() == 255


@pytest.mark.parametrize(("mean", "byte"), [(-1.1, 0), (-0.5, 63), (0.502, 191), (1.1, 255)])
def test_values_from_minus_one_to_one_become_bytes_from_0_to_255(mean, byte):
    net = _net(num_mixtures=1)
    with torch.no_grad():
        net.out_conv.weight.zero_()
        net.out_conv.bias.copy_(torch.tensor([0.0, mean, -7, 0, mean, -7, 0, mean, -7, 0]))
    assert np.median(net.sample(torch.zeros(1, 8, 20, 20))) == byte


def test_sampling_draws_components_first_and_then_colours():
    net = _net(num_mixtures=2)
    px_z = torch.randn(1, 8, 2, 2)
    torch.manual_seed(3)
    images = net.sample(px_z)
    torch.manual_seed(3)
    component_noise, colour_noise = (torch.empty(1, 2, 2, n).uniform_(1e-5, 1 - 1e-5).double() for n in (2, 3))
    numbers = net(px_z).detach().double()
    for row, column in itertools.product(range(2), range(2)):
        own = numbers[0, row, column]
        k = (own[:2] - torch.log(-torch.log(component_noise[0, row, column]))).argmax()
        mean, log_scale, raw = own[2:].reshape(3, 3, 2)[:, :, k].unbind(dim=1)
        a, b, c = raw.tanh()
        free = mean + log_scale.clamp(min=-7).exp() * torch.logit(colour_noise[0, row, column])
        red = free[0].clamp(-1, 1)
        green = (free[1] + a * red).clamp(-1, 1)
        blue = (free[2] + b * red + c * green).clamp(-1, 1)
        expected = (torch.stack([red, green, blue]) + 1) * 127.5
        torch.testing.assert_close(torch.tensor(images[0, row, column]).double(), expected, atol=1.001, rtol=0)
