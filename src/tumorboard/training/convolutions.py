"""Computes the convolutions of a training on the CPU by other means where oneDNN's bf16 kernels are slow.

A bf16 convolution with many channels and few output pixels has a gradient that costs oneDNN up to ten times as much as
the matrix product that it is; that of a depthwise convolution with a large kernel or a stride costs several times as
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
        pixels = _output_pixels(_pair(input.shape[2:]), kernel, strides, pads)
        if groups == 1 and kernel == strides == (1, 1) and pads == (0, 0) and pixels <= _POINTWISE_PIXELS:
            return functional.linear(input.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        if groups == 1 and pixels <= _PIXELS and weight.shape[0] * weight.shape[1] >= _CHANNELS:
            output: Tensor = _MatrixProduct.apply(input.to(dtype), weight.to(dtype), strides, pads)
            return output if bias is None else output + bias.to(dtype).view(1, -1, 1, 1)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _pair(number: int | Iterable[int]) -> Pair:
    """Returns an argument of a convolution for height and width; a sequence of one counts for both."""
    numbers = (number,) if isinstance(number, int) else tuple(number)
    return numbers[0], numbers[-1]


def _output_pixels(side: Pair, kernel: Pair, stride: Pair, padding: Pair) -> int:
    """Returns the number of pixels of a convolution's output."""
    height, width = _output_side(side, kernel, stride, padding)
    return height * width


def _output_side(side: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Returns height and width of a convolution's output."""
    height, width = ((side[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1))
    return height, width


class _MatrixProduct(torch.autograd.Function):
    """A convolution as the product of all windows of the images with the weights."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:  # type: ignore[override]
        """Returns the convolution [N, D, height, width] of images [N, C, H, W] with weights [D, C, kernel]."""
        ctx.kernel, ctx.stride, ctx.padding = _pair(weight.shape[2:]), stride, padding
        ctx.shape, ctx.output = images.shape, _output_side(_pair(images.shape[2:]), ctx.kernel, stride, padding)
        pixels = images.permute(0, 2, 3, 1)
        pixels = functional.pad(pixels, (0, 0, padding[1], padding[1], padding[0], padding[0]))
        windows = pixels.unfold(1, ctx.kernel[0], stride[0]).unfold(2, ctx.kernel[1], stride[1])
        # One row per output pixel and one column per pixel and channel of the kernel.
        matrix = windows.permute(0, 1, 2, 4, 5, 3).reshape(len(images) * ctx.output[0] * ctx.output[1], -1)
        factors = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        ctx.save_for_backward(matrix, factors)
        return (matrix @ factors.t()).view(len(images), *ctx.output, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        """Returns the gradients by images and by weights."""
        matrix, factors = ctx.saved_tensors
        rows = gradient.permute(0, 2, 3, 1).reshape(len(matrix), -1)
        by_images = _add_windows(ctx, rows @ factors) if ctx.needs_input_grad[0] else None
        by_weights = None
        if ctx.needs_input_grad[1]:
            by_weights = (rows.t() @ matrix).view(len(factors), *ctx.kernel, -1).permute(0, 3, 1, 2)
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
