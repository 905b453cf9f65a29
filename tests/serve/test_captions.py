"""The endpoints /v1/caption and /v1/rank, at a real server."""

import json
import math

import httpx
import pytest

from tests.serve.serving import data_url


def events(answer):
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]


@pytest.mark.parametrize("question", [None, "is it?"])
def test_a_text_is_that_of_the_model_with_its_tokens(url, model, paths, question):
    asked = {"image": data_url(paths[0]), "question": question}
    answer = httpx.post(f"{url}/v1/caption", json=asked)
    expected = model.answer(paths[0], question) if question else model.caption(paths[0])
    assert (answer.status_code, answer.json()["text"]) == (200, expected)
    *tokens, _ = model.log_probs(paths[0], expected, question)  # without the EOS
    assert [text for text, _ in answer.json()["tokens"]] == [text for text, _ in tokens]
    assert [value for _, value in answer.json()["tokens"]] == pytest.approx([value for _, value in tokens], abs=1e-4)


@pytest.mark.parametrize("decoding", [{}, {"method": "beam", "num_beams": 2}, {"temperature": 2.0, "seed": 3}])
def test_a_stream_brings_the_same_text_in_parts(url, paths, decoding):
    asked = {"image": data_url(paths[1]), "decoding": {**decoding, "max_new_tokens": 12}}
    whole = httpx.post(f"{url}/v1/caption", json=asked).json()
    answer = httpx.post(f"{url}/v1/caption", json={**asked, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last = events(answer)
    assert "".join(part["text"] for part in parts) == last["text"] == whole["text"]
    assert last["done"] is True
    assert [text for text, _ in last["tokens"]] == [text for text, _ in whole["tokens"]]
    assert len(parts) == 1 if decoding.get("method") == "beam" else len(parts) > 1


def test_texts_are_ranked_by_their_probabilities(url, model, paths):
    asked = {"image": data_url(paths[0]), "question": "is it?", "texts": ["a", "bb", "no"]}
    answers = httpx.post(f"{url}/v1/rank", json=asked).json()["answers"]
    expected = model.rank(paths[0], asked["texts"], "is it?")
    assert [each["text"] for each in answers] == [text for text, _ in expected]
    assert [each["probability"] for each in answers] == pytest.approx([math.exp(v) for _, v in expected], rel=1e-4)
    assert sum(each["share"] for each in answers) == pytest.approx(1)


def test_without_texts_those_of_beam_search_are_ranked(url, model, paths):
    answers = httpx.post(f"{url}/v1/rank", json={"image": data_url(paths[0])}).json()["answers"]
    texts = [each["text"] for each in answers]
    assert len(set(texts)) == len(texts) > 1
    assert model.caption(paths[0], method="beam", num_beams=8) in texts
    assert [text for text, _ in model.rank(paths[0], texts)] == texts
