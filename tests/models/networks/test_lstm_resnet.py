"""The LSTM before the ResNet reads pixels row by row, and its outputs form an image again."""

import resource

import torch
from torchvision.models import resnet18

from tumorboard.models.networks.lstm_resnet import LstmResNet18


def test_parameters_by_hand() -> None:
    lstm = 4 * 12 * (3 + 12) + 2 * 4 * 12
    convolution = 9 * 12 * 3 + 3
    inner = sum(parameter.numel() for parameter in resnet18().parameters())
    counted = sum(parameter.numel() for parameter in LstmResNet18().parameters())
    assert counted == inner + lstm + convolution == 11_690_655


def test_a_pixel_changes_no_output_before_its_own() -> None:
    torch.manual_seed(0)
    network = LstmResNet18().eval()
    seen = []
    network.convolution.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    images = torch.rand(2, 3, 32, 40)
    changed = images.clone()
    changed[0, 1, 10, 7] += 1
    with torch.no_grad():
        network(images)
        network(changed)
    assert seen[0].shape == (2, 12, 32, 40)
    differs = (seen[0] != seen[1]).any(dim=1)
    assert not differs[1].any()
    assert differs[0].flatten().nonzero()[0].item() == 10 * 40 + 7


def test_elu_and_convolution_lead_to_the_resnet() -> None:
    torch.manual_seed(0)
    network = LstmResNet18().eval()
    images = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        sequence, _ = network.lstm(images.permute(0, 2, 3, 1).reshape(1, 32 * 40, 3))
        picture = sequence.reshape(1, 32, 40, 12).permute(0, 3, 1, 2)
        three = network.convolution(picture)
        assert three.min() < 0
        expected = network.resnet(torch.where(three > 0, three, three.exp() - 1))
        torch.testing.assert_close(network(images), expected)


def test_a_sequence_of_fifty_thousand_pixels_trains() -> None:
    """At 224 pixels, batch 8 and bf16, the default recipe's precision, every parameter gets a finite gradient."""
    torch.manual_seed(0)
    network = LstmResNet18()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.rand(8, 3, 224, 224)).float().logsumexp(1).mean()
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 2**20  # KiB; 24 GiB are allowed
