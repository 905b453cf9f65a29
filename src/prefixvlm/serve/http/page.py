"""The files of the page."""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

FOLDER = Path(__file__).parents[1] / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


def router() -> APIRouter:
    """Return the endpoints / and /page/FILE, for the files that are there when the server starts."""
    routes = APIRouter()
    files = {path.name: path.read_bytes() for path in FOLDER.glob("*") if path.suffix in TYPES}

    @routes.get("/page/{name}")
    def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name[:100]}")
        return Response(files[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"})

    @routes.get("/")
    def index() -> Response:
        return file("index.html")

    return routes
