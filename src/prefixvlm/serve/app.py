"""The application: all endpoints of a model."""

from typing import Any

from fastapi import FastAPI, Response

from prefixvlm.inference.captioner import Captioner
from prefixvlm.serve.api import captions, chat, corrections, maps
from prefixvlm.serve.api.errors import add_handlers
from prefixvlm.serve.http import page
from prefixvlm.serve.http.guard import Guard
from prefixvlm.serve.metrics import CONTENT_TYPE
from prefixvlm.serve.service import Service, Settings


def create_app(model: Captioner, settings: Settings, key: str | None = None, local: bool = True) -> FastAPI:
    """Return the application, whose `state.service` is to be closed. key, local: see Guard."""
    service = Service(model, settings)
    # Without FastAPI's pages of documentation, which load their scripts from another host.
    app = FastAPI(title="prefixvlm", docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(
        Guard, limits=settings.limits, key=key, local=local, on_answer=service.metrics.answered
    )  # fmt: skip
    add_handlers(app)
    for router in (page.router(), *(each.router(service) for each in (captions, chat, corrections, maps))):
        app.include_router(router)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        tasks = list(model.module.tasks)
        feedback = settings.feedback is not None
        queued = len(service.batcher)
        return {"status": "ok", "model": settings.name, "tasks": tasks, "queued": queued, "feedback": feedback}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return app
