"""The page of `prefixvlm inspect`: one HTML file that works offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from prefixvlm.inspect.attention import Attention
from prefixvlm.inspect.explanation import Explanation
from prefixvlm.inspect.faithfulness import RANDOM, Curves, table
from prefixvlm.inspect.picture import heat_uri, image_uri
from prefixvlm.report.page import render_page
from prefixvlm.report.plots import GRID, INK, SERIES, STYLES, plot_settings, to_svg

TEMPLATE = Path(__file__).parent / "page.html"
TITLES = {
    "gradient_x_input": "gradient x input",
    "integrated_gradients": "integrated gradients",
    "occlusion": "occlusion",
    RANDOM: "random maps",
}


def render(checkpoint: str, explanations: Sequence[Explanation]) -> str:
    """Return the page about a checkpoint. explanations: one for each image."""
    return render_page(
        TEMPLATE,
        f"{checkpoint} \u00b7 prefixvlm inspect",
        {"visible": visible, "probability": lambda value: f"{value.exp():.2g}" if value < -0.0001 else "1"},
        checkpoint=checkpoint,
        titles=TITLES,
        lines=table([each.curves for each in explanations]),
        images=[_view(number, each) for number, each in enumerate(explanations)],
    )


def visible(token: str) -> str:
    """Return a token with its leading space shown, and its line breaks."""
    text = token.replace("\n", "⏎")
    return f"␣{text[1:]}" if text.startswith(" ") else text or "(empty)"


def _view(number: int, found: Explanation) -> dict[str, Any]:
    """Return the template's variables for an image."""
    return {
        "id": f"image-{number}",
        "found": found,
        "picture": image_uri(found.picture),
        "total": float(found.log_probs.sum()),
        "maps": {method: _pictures(values) for method, values in found.maps.items()},
        "plots": _plots(number, found),
        "areas": {method: _areas(each) for method, each in found.curves.items()},
        "attention": _attention(found.attention),
        "without": _without(found),
    }


def _pictures(values: Tensor) -> list[str]:
    # One scale for all tokens: that of a token which does not depend on the image would show noise.
    return [heat_uri(each, float(values.abs().max())) for each in values]


def _attention(found: Attention | str) -> dict[str, Any] | str:
    """Return a picture of layers and prefix embeddings for each token, and the shares over all layers."""
    if isinstance(found, str):
        return found
    largest = float(found.prefix.max())
    return {
        "pictures": [heat_uri(found.prefix[:, token], largest) for token in range(found.prefix.shape[1])],
        "size": (found.prefix.shape[2], found.prefix.shape[0]),
        "largest": largest,
        "shares": [
            (float(prefix), float(found.prefix[..., 0].mean(0)[token]), float(prompt), float(text))
            for token, (prefix, prompt, text) in enumerate(
                zip(found.prefix.sum(-1).mean(0), found.prompt.mean(0), found.text.mean(0), strict=True)
            )
        ],
        "crossed": found.crossed,
    }


def _without(found: Explanation) -> list[dict[str, Any]]:
    """Return for each part of the prefix the changes of the log-probabilities without it, each with its shade."""
    changes = [change.log_probs - found.changes.log_probs for change in found.changes.without]
    largest = max(*(float(row.abs().max()) for row in changes), 1e-12)
    return [
        {
            "name": change.name,
            "cells": [(value, abs(value) / largest) for value in row.tolist()],
            "sum": float(row.sum()),
            "said": change.said,
        }
        for change, row in zip(found.changes.without, changes, strict=True)
    ]


def _areas(found: Curves) -> dict[str, Any]:
    """Return the mean areas over tokens and, of random maps, the smallest and the largest of a map."""
    deletion, insertion = (each.mean(-1) for each in found.areas())
    return {
        name: (float(each.mean()), None if each.ndim == 0 else (float(each.min()), float(each.max())))
        for name, each in (("deletion", deletion), ("insertion", insertion))
    }


def _plots(number: int, found: Explanation) -> dict[str, Markup]:
    """Return the plots of deletion and insertion, the mean over tokens."""
    return {name: _plot(f"{name}, image {number + 1}", name, found.curves) for name in ("deletion", "insertion")}


def _plot(title: str, name: str, curves: Mapping[str, Curves]) -> Markup:
    with plot_settings():
        figure = Figure(figsize=(3.6, 2.4))
        axes = figure.add_subplot()
        for place, (method, each) in enumerate(curves.items()):
            values = getattr(each, name)
            if method == RANDOM:
                maps = values.mean(1)  # float[maps, K]
                axes.fill_between(each.shares, maps.amin(0), maps.amax(0), color=INK, alpha=0.12, linewidth=0)
                axes.plot(each.shares, maps.mean(0), color=INK, linewidth=1, linestyle=":", label=TITLES[method])
            else:
                axes.plot(
                    each.shares, values.mean(0), color=SERIES[place], linestyle=STYLES[place], label=TITLES[method]
                )
        axes.set(
            xlim=(0, 1), ylim=(0, None), xlabel=f"share of the image {'removed' if name == 'deletion' else 'shown'}"
        )
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[:].set_visible(False)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8)
        return to_svg(figure, title)
