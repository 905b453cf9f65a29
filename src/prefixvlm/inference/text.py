"""Texts that a notebook shows beneath their images."""

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

MAX_SIDE = 320  # pixels of a picture in a notebook


class Text(str):
    """A generated text. images: of its prompt, with any demonstrations left out. asked: the question, "" without."""

    images: tuple[Image.Image, ...]
    asked: str

    @classmethod
    def of(cls, text: str, images: Sequence[Image.Image], asked: str = "") -> "Text":
        self = cls(text)
        self.images, self.asked = tuple(images), asked
        return self

    def _repr_html_(self) -> str:
        """Return a figure for a notebook."""
        pictures = "".join(f'<img src="{_data_url(image)}" alt=""> ' for image in self.images)
        asked = f"<em>{html.escape(self.asked)}</em><br>" if self.asked else ""
        return f"<figure>{pictures}<figcaption>{asked}{html.escape(self)}</figcaption></figure>"


def _data_url(image: Image.Image) -> str:
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
