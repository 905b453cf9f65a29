"""The endpoint of heat maps: where in the image the tokens of a text come from."""

from typing import Any

from fastapi import APIRouter, Request

from prefixvlm.inspect.attribution import check_method, heat_maps
from prefixvlm.serve.api.schema import HeatMapRequest
from prefixvlm.serve.limits import check_characters
from prefixvlm.serve.service import Service


def router(service: Service) -> APIRouter:
    """Return the endpoint /v1/heat_map."""
    routes = APIRouter()

    @routes.post("/v1/heat_map")
    async def heat_map(asked: HeatMapRequest, request: Request) -> Any:
        async def answer() -> Any:
            check_method(asked.method)
            check_characters(asked.question or "", asked.text or "")
            _, image = await service.images.read(asked.image)
            question = (asked.question or "").strip() or None
            found = await service.computed(heat_maps, service.model, image, question, asked.text, asked.method)
            return {"tokens": found.tokens, "maps": found.maps.double().round(decimals=4).tolist()}

        return await service.bounded(request, answer())

    return routes
