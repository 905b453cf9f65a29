"""Heat maps: where in the image the log-probability of a token comes from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.images import ImageInput
from prefixvlm.inspect.cells import Cells
from prefixvlm.inspect.picture import as_seen
from prefixvlm.inspect.target import MAX_POSITIONS, Target, target_of

STEPS = 24  # of integrated gradients
GRADIENT_POSITIONS = 128  # of rows whose activations are stored at once


@dataclass(frozen=True)
class HeatMaps:
    """Maps of T tokens.

    tokens: their texts, without the EOS. maps: float32[T, rows, columns], the evidence for each token, scaled to 0..1:
        its largest cell is 1, and cells that speak against it are 0; on the CPU.
    values: the same, signed, in nats. log_probs: float32[T]. picture: the image as the encoder sees it, which the maps
        cover: cropped and resized.
    """

    tokens: list[str]
    maps: Tensor
    values: Tensor
    log_probs: Tensor
    picture: Image.Image


def heat_maps(
    model: Captioner,
    image: ImageInput,
    question: str | None = None,
    text: str | None = None,
    method: str = "gradient_x_input",
) -> HeatMaps:
    """Return a heat map for each token of the model's caption of an image or answer to a question, or for its class.

    text: a caption, an answer or a class to explain in place of the model's own.
    method: gradient_x_input, integrated_gradients (Sundararajan et al. 2017) or occlusion (Zeiler and Fergus 2014).
    Raises ValueError for another method, and for a model that cannot be explained; see target_of.
    """
    check_method(method)
    # A server may be in inference_mode, whose tensors have no gradients.
    with torch.inference_mode(False), torch.no_grad():
        target = target_of(model, image, question, text)
        values = attributions(target, method)
        log_probs = target.log_probs(target.pixel_values)[0].cpu()
        return HeatMaps(target.tokens, scaled(values), values, log_probs, as_seen(target))


def check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted are {', '.join(METHODS)}")


@torch.no_grad()
def attributions(target: Target, method: str, progress: bool = False) -> Tensor:
    """Return the attribution of each cell of the image to each token: float32[T, rows, columns], on the CPU."""
    cells = Cells.of(target.model, *target.pixel_values.shape[2:])
    return METHODS[method](target, cells, progress).float().cpu()


def scaled(values: Tensor) -> Tensor:
    """Return values without the negative ones, divided by the largest of each token: float[T, rows, columns]."""
    evidence = values.clamp_min(0)
    return evidence / evidence.amax((1, 2), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def gradient_x_input(target: Target, cells: Cells, progress: bool = False) -> Tensor:
    """Return the gradient of each pixel value times its difference to a blank, summed over channels and over each cell.

    Pixel values have no zero of their own, because they are normalised; the zero of this product is a blank image.
    """
    image = target.pixel_values
    return cells.sums((gradients(target, image, progress)[:, 0] * (image - target.blank)).sum(1))


def integrated_gradients(target: Target, cells: Cells, progress: bool = False, steps: int = STEPS) -> Tensor:
    """Return the integral of the gradient along the line from a blank image to the image, times their difference.

    The sum is the difference of the log-probabilities of the two (completeness).
    """
    # Gauss-Legendre needs fewer steps than sums of equal ones; nodes and weights are for [-1, 1].
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    image, blank = target.pixel_values, target.blank
    alphas = torch.as_tensor((nodes + 1) / 2, dtype=image.dtype, device=image.device)[:, None, None, None]
    mean = torch.zeros_like(image).repeat(len(target.tokens), 1, 1, 1)
    shares = torch.as_tensor(weights / 2, dtype=image.dtype, device=image.device)
    rows = target.rows_of(GRADIENT_POSITIONS)
    parts = list(zip(alphas.split(rows), shares.split(rows), strict=True))
    for alpha, share in tqdm(parts, "integrated gradients", leave=False, disable=None if progress else True):
        mean += torch.einsum("tbchw,b->tchw", gradients(target, blank + alpha * (image - blank)), share)
    return cells.sums((mean * (image - blank)).sum(1))


def occlusion(target: Target, cells: Cells, progress: bool = False) -> Tensor:
    """Return how much the log-probability of each token falls if a cell is blank."""
    image = target.pixel_values
    removed = torch.eye(len(cells), dtype=torch.bool).split(target.rows_of(MAX_POSITIONS))
    bar = tqdm(removed, "occlusion", leave=False, disable=None if progress else True)
    occluded = torch.cat([target.log_probs(cells.without(image, target.blank, part)) for part in bar])
    return (target.log_probs(image) - occluded).T.unflatten(1, (cells.rows, cells.columns))


def gradients(target: Target, pixel_values: Tensor, progress: bool = False) -> Tensor:
    """Return the gradients of the log-probabilities: float[B, 3, H, W] -> float[T, B, 3, H, W]."""
    with torch.enable_grad():
        # A leaf of its own, and not backward(), so that no tensor of the model gets a .grad.
        leaf = pixel_values.clone().requires_grad_()
        # The rows are independent: the gradient of their sum holds the gradient of each.
        sums = target.log_probs(leaf).sum(0)
        if not sums.requires_grad:
            name = type(target.model.encoder).__name__
            raise ValueError(f"{name} computes no gradients of its pixels; set the method to occlusion")
        bar = tqdm(sums, "gradients", leave=False, disable=None if progress else True)
        return torch.stack([torch.autograd.grad(each, leaf, retain_graph=True)[0] for each in bar])


METHODS: dict[str, Callable[[Target, Cells, bool], Tensor]] = {
    "gradient_x_input": gradient_x_input,
    "integrated_gradients": integrated_gradients,
    "occlusion": occlusion,
}
