"""The endpoint of heat maps: where in the image the tokens of a text come from."""

import base64
import io
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image

from prefixvlm.inspect.attribution import heat_maps
from prefixvlm.serve.api.schema import HeatMapRequest
from prefixvlm.serve.limits import check_characters
from prefixvlm.serve.service import Service


def router(service: Service) -> APIRouter:
    """Return the endpoint /v1/heat_map."""
    routes = APIRouter()

    @routes.post("/v1/heat_map")
    async def heat_map(asked: HeatMapRequest, request: Request) -> Any:
        async def answer() -> Any:
            check_characters(asked.question or "", asked.text or "")
            _, image = await service.images.read(asked.image)
            question = (asked.question or "").strip() or None
            found = await service.computed(heat_maps, service.model, image, question, asked.text)
            maps = found.maps.double().round(decimals=4).tolist()
            return {"tokens": found.tokens, "maps": maps, "picture": _picture(found.picture)}

        return await service.bounded(request, answer())

    return routes


def _picture(image: Image.Image) -> dict[str, Any]:
    """Return what the encoder sees, which the maps cover."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"url": url, "width": image.width, "height": image.height}
