"""Load test of `prefixvlm serve`: requests of many clients beside one at a time, each answer compared with the model's.

The server runs in this process. python bench/serving.py --ckpt PATH; without --ckpt a small random checkpoint of the
tests is served.
"""

import argparse
import base64
import io
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from PIL import Image, ImageDraw

import prefixvlm
from prefixvlm.inference.captioner import Captioner
from prefixvlm.serve.app import create_app
from prefixvlm.serve.http.server import server_of, warm_up
from prefixvlm.serve.limits import Limits
from prefixvlm.serve.service import Settings

QUESTIONS = (None, "what color is the shape?", "what shape is in the image?", "is there a red shape?")
Asked = tuple[bytes, str | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path, metavar="PATH")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/serving.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = prefixvlm.load(arguments.ckpt or _random_checkpoint(Path(folder)), device="cpu")
    asked = [(_drawing(number), QUESTIONS[number % len(QUESTIONS)]) for number in range(arguments.requests)]
    expected = [model.caption(image) if text is None else model.answer(image, text) for image, text in asked]
    warm_up(model)
    # One at a time a request waits for no others.
    one, _, _ = measure(model, asked, expected, 1, Limits(max_wait_ms=0))
    many, latency, sizes = measure(model, asked, expected, arguments.clients, Limits())
    result = {
        "requests": len(asked), "clients": arguments.clients, "seconds_one_at_a_time": one, "seconds": many,
        "ratio": one / many, "median_latency": latency, "mean_batch": sizes, "threads": torch.get_num_threads(),
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(asked)} requests, none lost, all answers as alone: one at a time {one:.1f} s, {arguments.clients} "
          f"clients {many:.1f} s, {one / many:.1f} times as fast; batches of {sizes:.1f}; {arguments.out}")  # fmt: skip


def measure(
    model: Captioner, asked: Sequence[Asked], expected: Sequence[str], clients: int, limits: Limits
) -> tuple[float, float, float]:
    """Return the seconds for all requests, the median seconds of one, and the mean size of a batch."""
    with serving(model, limits) as url, httpx.Client(base_url=url, timeout=300) as client:

        def ask(pair: Asked) -> tuple[str, float]:
            begin = time.perf_counter()
            content = {"image": base64.b64encode(pair[0]).decode(), "question": pair[1]}
            answer = client.post("/v1/caption", json=content)
            answer.raise_for_status()
            return answer.json()["text"], time.perf_counter() - begin

        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(ask, asked))
        seconds = time.perf_counter() - start
        lines = client.get("/metrics").text.splitlines()
    if wrong := sum(text != each for (text, _), each in zip(answers, expected, strict=True)):
        sys.exit(f"error: {wrong} of {len(asked)} answers are not those of the model alone")
    total, count = (
        float(line.split()[1]) for name in ("sum", "count") for line in lines if f"batch_size_{name} " in line
    )
    return seconds, sorted(each for _, each in answers)[len(answers) // 2], total / count


@contextmanager
def serving(model: Captioner, limits: Limits) -> Iterator[str]:
    """Yield the URL of a server in a thread."""
    app = create_app(model, Settings(limits=limits))
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = server_of(app, bound, limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
            app.state.service.close()


def _drawing(seed: int) -> bytes:
    """Return a PNG with a shape of a random place, size and colour."""
    draw = random.Random(seed)
    image = Image.new("RGB", (64, 64), tuple(draw.randrange(256) for _ in range(3)))
    x, y, side = draw.randrange(32), draw.randrange(32), draw.randrange(12, 32)
    shape: Any = draw.choice([ImageDraw.ImageDraw.rectangle, ImageDraw.ImageDraw.ellipse])
    shape(ImageDraw.Draw(image), (x, y, x + side, y + side), fill=tuple(draw.randrange(256) for _ in range(3)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _random_checkpoint(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.inference.test_predictor import write_checkpoint

    write_checkpoint(folder)
    return folder / "x.ckpt"


if __name__ == "__main__":
    main()
