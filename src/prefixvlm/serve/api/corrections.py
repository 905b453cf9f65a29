"""The endpoint /v1/feedback: corrections of captions and answers, which the page sends."""

import asyncio
from typing import Any

from fastapi import APIRouter, HTTPException, Request

from prefixvlm.serve.api.schema import ImageRequest
from prefixvlm.serve.feedback import record
from prefixvlm.serve.service import Service


class FeedbackRequest(ImageRequest):
    """What the model said about an image, and what is right."""

    prediction: str
    correction: str


def router(service: Service) -> APIRouter:
    """Return the endpoint, which answers 404 unless corrections are collected."""
    routes = APIRouter()

    @routes.post("/v1/feedback")
    async def feedback(asked: FeedbackRequest, request: Request) -> Any:
        folder = service.settings.feedback
        if folder is None:
            raise HTTPException(404, "this server collects no corrections; start it with --feedback DIR")

        async def answer() -> Any:
            data, _ = await service.images.read(asked.image)
            texts = (asked.prediction, asked.correction, asked.question or "")
            # In a thread: other processes may have the lock of the file.
            entry = await asyncio.to_thread(record, folder, data, *texts, service.model.decoder)
            return {"id": entry.id}

        return await service.bounded(request, answer())

    return routes
