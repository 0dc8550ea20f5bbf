"""Tests of tumorboard.training.convolutions."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tumorboard.training.convolutions import convolve, faster_convolutions

# Shapes of images and weights, stride and padding of convolutions that are computed as matrix products.
PRODUCTS = {
    "3 x 3": ((5, 128, 4, 4), (128, 128, 3, 3), 1, 1),
    "3 x 3 of 2 pixels": ((5, 128, 2, 2), (160, 128, 3, 3), 1, 1),
    "no padding": ((3, 128, 5, 6), (128, 128, 3, 3), 1, 0),
    "strides": ((3, 128, 8, 8), (128, 128, 3, 3), 2, 1),
    "strides that leave pixels over": ((3, 128, 7, 6), (128, 128, 2, 3), (3, 2), (0, 1)),
    "1 x 7": ((3, 128, 2, 7), (128, 128, 1, 7), 1, (0, 3)),
    "7 x 1": ((3, 128, 7, 2), (128, 128, 7, 1), (1,), (3, 0)),
    "padding beyond the kernel": ((2, 128, 2, 2), (128, 128, 1, 1), 1, 1),
    "one pixel with strides": ((3, 128, 8, 8), (256, 128, 1, 1), 2, 0),
    "one image of one pixel": ((1, 128, 1, 1), (128, 128, 3, 3), 1, 1),
}


class Operations(TorchDispatchMode):
    """Collects the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def sparse_integers(*shape: int, seed: int) -> Tensor:
    """Returns -1, 0 and 1, so few other than 0 that sums of their products are exact in bf16."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < 0.2).float() * (
        torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
    )


def results(convolution: Any, images: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> list[Tensor]:
    """Returns the output of a convolution and its gradients by images, weights and bias."""
    tensors = [tensor.clone().requires_grad_() for tensor in (images, weight, bias) if tensor is not None]
    output = convolution(*tensors, *([] if bias is not None else [None]), *arguments)
    return [output, *torch.autograd.grad(output, tensors, sparse_integers(*output.shape, seed=3).to(output.dtype))]


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("bias", [False, True])
def test_matrix_product_equals_the_convolution(name: str, bias: bool) -> None:
    images_shape, weight_shape, *arguments = PRODUCTS[name]
    images, weight = sparse_integers(*images_shape, seed=1), sparse_integers(*weight_shape, seed=2)
    shift = sparse_integers(weight_shape[0], seed=4) if bias else None
    expected = results(torch.conv2d, images, weight, shift, *arguments)
    assert max(tensor.abs().max().item() for tensor in expected) <= 256  # all integers up to here are exact in bf16
    with Operations() as operations:
        half = [None if tensor is None else tensor.bfloat16() for tensor in (images, weight, shift)]
        got = results(convolve, half[0], half[1], half[2], *arguments)  # type: ignore[arg-type]
    assert "mm" in operations.names
    assert "convolution" not in operations.names
    for one, other in zip(expected, got, strict=True):
        assert other.dtype == torch.bfloat16
        torch.testing.assert_close(other.float(), one, rtol=0, atol=0)


@pytest.mark.parametrize("padded", [False, True])
def test_product_of_real_numbers_is_as_exact_as_bf16(padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 256, 4, 4, generator=generator).bfloat16()
    weight = torch.randn(192, 256, 3, 3, generator=generator).bfloat16()
    arguments = (1, 1) if padded else (1, 0)
    expected = results(torch.conv2d, images.double(), weight.double(), None, *arguments)
    for one, other in zip(expected, results(convolve, images, weight, None, *arguments), strict=True):
        # One rounding of each window's share and one of the sum: 2^-8 of the largest value is above both.
        assert (one - other.double()).abs().max() <= 2**-8 * one.abs().max()


@pytest.mark.parametrize(
    ("images", "weight", "arguments", "plain"),
    [
        ((2, 128, 5, 4), (128, 128, 3, 3), (1, 1), True),  # 20 pixels
        ((2, 127, 4, 4), (128, 127, 3, 3), (1, 1), True),
        ((2, 64, 8, 8), (8, 64, 1, 1), (1, 0), False),
        ((2, 64, 8, 9), (8, 64, 1, 1), (1, 0), True),
        ((2, 64, 8, 8), (8, 64, 1, 1), (2, 0), True),
        ((2, 128, 4, 4), (128, 128, 3, 3), (1, 2, 2), True),  # dilation
        ((2, 128, 4, 4), (128, 128, 3, 3), (1, "same"), True),
        ((128, 4, 4), (128, 128, 3, 3), (1, 1), True),  # one image without its axis
        ((2, 256, 4, 4), (256, 128, 3, 3), (1, 1, 1, 2), True),  # groups
        ((2, 128, 4, 4), (128, 1, 3, 3), (1, 1, 1, 128), True),  # depthwise
    ],
)
def test_rule(images: tuple[int, ...], weight: tuple[int, ...], arguments: tuple[Any, ...], plain: bool) -> None:
    one, two = sparse_integers(*images, seed=1).bfloat16(), sparse_integers(*weight, seed=2).bfloat16()
    with Operations() as operations:
        got = convolve(one, two, None, *arguments)
    assert ("convolution" in operations.names) == plain
    for layout in (torch.contiguous_format, torch.channels_last) if one.dim() == 4 else ():
        ordered = one.to(memory_format=layout), two.to(memory_format=layout)
        expected = torch.conv2d(*ordered, None, *arguments)
        assert convolve(*ordered, None, *arguments).stride() == expected.stride()
    torch.testing.assert_close(got, torch.conv2d(one, two, None, *arguments), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kernel", "stride", "in_float32"), [(3, 1, False), (3, 2, True), (5, 1, True), (5, 2, True), (1, 1, False)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_depthwise_convolutions(kernel: int, stride: int, in_float32: bool, bias: bool) -> None:
    """A large kernel or a stride is computed in float32, also below autocast, and rounded to bf16."""
    images = sparse_integers(2, 6, 9, 9, seed=1) + 1e-3  # bf16 has 2 to 3 digits, so that the bits tell the types apart
    weight = sparse_integers(12, 1, kernel, kernel, seed=2) / 3
    shift = sparse_integers(12, seed=3) if bias else None
    with torch.autocast("cpu", torch.bfloat16):
        got, *gradients = results(convolve, images, weight, shift, stride, kernel // 2, 1, 6)
        plain = torch.conv2d(images, weight, shift, stride, kernel // 2, 1, 6)
    exact = torch.conv2d(images, weight, shift, stride, kernel // 2, 1, 6).bfloat16()
    assert not torch.equal(plain, exact)
    torch.testing.assert_close(got, exact if in_float32 else plain, rtol=0, atol=0)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_autocast_decides_the_type_and_gradients_have_that_of_their_tensor() -> None:
    images, weight = sparse_integers(2, 128, 4, 4, seed=1), sparse_integers(128, 128, 3, 3, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        output, *gradients = results(convolve, images, weight, None, 1, 1)
    assert output.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    with Operations() as operations:
        assert results(convolve, images, weight, None, 1, 1)[0].dtype == torch.float32
    assert "mm" not in operations.names  # float32 is left to torch


@pytest.mark.parametrize(("of_images", "of_weight"), [(True, False), (False, True)])
def test_only_gradients_that_are_asked_for(of_images: bool, of_weight: bool) -> None:
    """Weights of a frozen backbone need none, nor do the images."""
    images = sparse_integers(2, 128, 4, 4, seed=1).bfloat16().requires_grad_(of_images)
    weight = sparse_integers(128, 128, 3, 3, seed=2).bfloat16().requires_grad_(of_weight)
    convolve(images, weight, None, 1, 1).sum().backward()
    assert (images.grad is not None, weight.grad is not None) == (of_images, of_weight)


def test_network_in_the_context_has_the_gradients_of_the_network_outside() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=2).to(memory_format=torch.channels_last)
    images, labels = torch.randn(8, 3, 64, 64), torch.tensor([0, 1] * 4)

    def gradients(context: AbstractContextManager[object], precision: torch.dtype | None) -> tuple[set[str], Tensor]:
        network.zero_grad()
        with Operations() as operations:
            with context, torch.autocast("cpu", precision, enabled=precision is not None):
                logits = network(images.to(memory_format=torch.channels_last))
            functional.cross_entropy(logits.float(), labels).backward()
        return operations.names, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    _, exact = gradients(nullcontext(), None)
    plain_names, plain = gradients(nullcontext(), torch.bfloat16)
    names, faster = gradients(faster_convolutions(torch.device("cpu")), torch.bfloat16)
    assert "unfold" in names - plain_names

    def distance(one: Tensor) -> float:
        return float((one - exact).norm() / exact.norm())

    assert 0 < distance(faster) <= 1.2 * distance(plain)


def test_nothing_changes_on_a_gpu_and_outside_of_the_context() -> None:
    images, weight = torch.ones(2, 128, 4, 4).bfloat16(), torch.ones(128, 128, 3, 3).bfloat16()
    for context in (nullcontext(), faster_convolutions(torch.device("cuda"))):
        with context, Operations() as operations:
            functional.conv2d(images, weight, padding=1)
        assert "mm" not in operations.names
    with faster_convolutions(torch.device("cpu")), Operations() as operations:
        functional.conv2d(images, weight, padding=1)
    assert "mm" in operations.names


@pytest.mark.parametrize("bias", [False, True])
def test_result_may_be_changed_in_place(bias: bool) -> None:
    """As by ReLU(inplace=True) behind a convolution without batch norm, and by the sum of a residual block."""
    images, weight = sparse_integers(2, 128, 4, 4, seed=1), sparse_integers(128, 128, 3, 3, seed=2)
    gradients = []
    for convolution in (torch.conv2d, convolve):
        half = [tensor.bfloat16().requires_grad_() for tensor in (images, weight)]
        shift = [torch.ones(128).bfloat16()] if bias else [None]
        output = convolution(*half, *shift, 1, 1)
        output += 1
        output.relu_()
        gradients.append(torch.autograd.grad(output.float().sum(), half))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1)


def test_no_images_and_wrong_shapes_are_left_to_torch() -> None:
    weight = torch.ones(128, 128, 3, 3).bfloat16()
    assert convolve(torch.ones(0, 128, 4, 4).bfloat16(), weight, None, 1, 1).shape == (0, 128, 4, 4)
    for shape, message in (((2, 128, 2, 2), "Kernel size can't be greater"), ((2, 256, 4, 4), "to have 128 channels")):
        with pytest.raises(RuntimeError, match=message):
            convolve(torch.ones(shape).bfloat16(), weight)
