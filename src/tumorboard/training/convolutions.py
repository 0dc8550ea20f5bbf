"""Computes the convolutions of a training on the CPU by other means where oneDNN's bf16 kernels are slow.

A bf16 convolution with many channels and few output pixels costs oneDNN up to four times as much, forward and backward,
as the matrix products that it is; a depthwise convolution with a large kernel or a stride costs two to three times as
much as in float32. `faster_convolutions` exchanges these alone, and only while a network is trained. Each result is
that of the convolution but for its rounding. `benchmarks.convolutions` measures the gain.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Pair: TypeAlias = tuple[int, int]  # along height and width

_PIXELS = 16  # largest output, in pixels per image, of a convolution that is computed as a matrix product
_POINTWISE_PIXELS = 64  # the same for a kernel of one pixel, whose matrix is the image itself
_CHANNELS = 128 * 128  # least product of its input and output channels; not asked of a kernel of one pixel


def faster_convolutions(device: torch.device) -> AbstractContextManager[object]:
    """Returns the context in which a network's forward pass is to run in a training; it changes nothing on a GPU."""
    return _FasterConvolutions() if device.type == "cpu" else nullcontext()


class _FasterConvolutions(TorchFunctionMode):
    """Calls `convolve` for `torch.conv2d`, which is what layers call."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return (convolve if func is torch.conv2d else func)(*args, **(kwargs or {}))


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """Returns the same as `torch.conv2d`, in bf16 by whichever means is faster on a CPU.

    Args:
        input: [N, C, H, W].
        weight: [D, C / groups, kernel height, kernel width].
        bias: [D].
        stride: in pixels, for both axes or for height and width.
        padding: pixels of zeros on each side, as for the stride.
        dilation: distance of the kernel's pixels.
        groups: number of groups of channels.

    Returns:
        [N, D, height, width] of the output.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else input.dtype
    if dtype == torch.bfloat16 and input.dim() == 4 and not isinstance(padding, str) and _pair(dilation) == (1, 1):
        kernel, strides, pads = _pair(weight.shape[2:]), _pair(stride), _pair(padding)
        if groups == input.shape[1] > 1 and (max(kernel) > 3 or max(strides) > 1):
            with torch.autocast("cpu", enabled=False):
                own = None if bias is None else bias.float()
                return torch.conv2d(input.float(), weight.float(), own, strides, pads, 1, groups).to(dtype)
        if groups == 1 and (output := _multiply(input, weight, bias, strides, pads, dtype)) is not None:
            # As torch: channels last if the images or the weights are.
            last = torch.channels_last
            either = any(one.is_contiguous(memory_format=last) and not one.is_contiguous() for one in (input, weight))
            return output if either else output.contiguous()
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _multiply(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dtype: torch.dtype
) -> Tensor | None:
    """Returns a convolution by a product of matrices, channels last; None where it is not faster or not possible."""
    kernel, (channels, depth) = _pair(weight.shape[2:]), (images.shape[1], weight.shape[0])
    height, width = _output_side(_pair(images.shape[2:]), kernel, stride, padding)
    if channels != weight.shape[1] or not len(images) or min(height, width) < 1:
        return None  # torch says what is wrong, or returns no images
    if kernel == stride == (1, 1) and padding == (0, 0) and height * width <= _POINTWISE_PIXELS:
        return functional.linear(images.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
    if height * width > _PIXELS or depth * channels < _CHANNELS:
        return None
    product: Tensor = _MatrixProduct.apply(images.to(dtype), weight.to(dtype), stride, padding)
    # Outside of the Function, whose result could not be changed in place if it were a view.
    output = product.view(len(images), height, width, depth).permute(0, 3, 1, 2)
    return output if bias is None else output + bias.to(dtype).view(1, -1, 1, 1)


def _pair(number: int | Iterable[int]) -> Pair:
    """Returns an argument of a convolution for height and width; a sequence of one counts for both."""
    numbers = (number,) if isinstance(number, int) else tuple(number)
    return numbers[0], numbers[-1]


def _output_side(side: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Returns height and width of a convolution's output."""
    height, width = ((side[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width


class _MatrixProduct(torch.autograd.Function):
    """A convolution as the product of all windows of the images with the weights."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:  # type: ignore[override]
        """Returns the convolution [N · height · width, D] of images [N, C, H, W] with weights [D, C, kernel]."""
        ctx.kernel, ctx.stride, ctx.padding = _pair(weight.shape[2:]), stride, padding
        ctx.shape, ctx.output = images.shape, _output_side(_pair(images.shape[2:]), ctx.kernel, stride, padding)
        pixels = images.permute(0, 2, 3, 1)
        pixels = functional.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        windows = pixels.unfold(1, ctx.kernel[0], stride[0]).unfold(2, ctx.kernel[1], stride[1])
        # One row per output pixel and one column per pixel and channel of the kernel.
        matrix = windows.permute(0, 1, 2, 4, 5, 3).reshape(len(images) * ctx.output[0] * ctx.output[1], -1)
        factors = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        ctx.save_for_backward(matrix, factors)
        return matrix @ factors.t()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        """Returns the gradients by images and by weights."""
        matrix, factors = ctx.saved_tensors
        by_images = _add_windows(ctx, gradient @ factors) if ctx.needs_input_grad[0] else None
        by_weights = None
        if ctx.needs_input_grad[1]:
            by_weights = (gradient.t() @ matrix).view(len(factors), *ctx.kernel, -1).permute(0, 3, 1, 2)
        return by_images, by_weights, None, None


def _add_windows(ctx: Any, windows: Tensor) -> Tensor:
    """Adds windows [N · height · width, kernel · C] to images [N, C, H, W] where they overlap, in float32."""
    (images, channels, *side), (height, width) = ctx.shape, ctx.output
    (top, left), (down, right) = ctx.padding, ctx.stride
    parts = windows.view(images, height, width, *ctx.kernel, channels)
    total = torch.zeros(images, side[0] + 2 * top, side[1] + 2 * left, channels)
    for row in range(ctx.kernel[0]):
        for column in range(ctx.kernel[1]):
            total[:, row : row + down * height : down, column : column + right * width : right] += parts[
                :, :, :, row, column
            ]
    return total[:, top : top + side[0], left : left + side[1]].to(windows.dtype).permute(0, 3, 1, 2)
