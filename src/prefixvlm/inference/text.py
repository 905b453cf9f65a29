"""Texts that a notebook shows beneath their images."""

import base64
import html
import io

from PIL import Image

MAX_SIDE = 320  # pixels of a picture in a notebook


class Text(str):
    """A generated text. image: what it is about, None for a prompt without images. asked: the question, "" without."""

    image: Image.Image | None
    asked: str

    @classmethod
    def of(cls, text: str, image: Image.Image | None, asked: str = "") -> "Text":
        self = cls(text)
        self.image, self.asked = image, asked
        return self

    def _repr_html_(self) -> str:
        """Return a figure for a notebook."""
        picture = ""
        if self.image is not None:
            small, buffer = self.image.copy(), io.BytesIO()
            small.thumbnail((MAX_SIDE, MAX_SIDE))
            small.save(buffer, "PNG")
            data = base64.b64encode(buffer.getvalue()).decode()
            picture = f'<img src="data:image/png;base64,{data}" alt="{html.escape(self)}">'
        asked = f"<em>{html.escape(self.asked)}</em><br>" if self.asked else ""
        return f"<figure>{picture}<figcaption>{asked}{html.escape(self)}</figcaption></figure>"
