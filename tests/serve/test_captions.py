"""The endpoints /v1/caption and /v1/rank, at a real server."""

import json
import math

import httpx
import pytest

from prefixvlm.inference.request import Request
from prefixvlm.serve import work
from prefixvlm.task.classification import Classification
from prefixvlm.task.vqa import Vqa
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


def test_a_text_longer_than_those_of_training_has_all_its_tokens(url, model, paths, monkeypatch):
    asked = {"image": data_url(paths[0])}
    answer = httpx.post(f"{url}/v1/caption", json=asked).json()
    assert len(answer["tokens"]) > 2
    with_eos = model.log_probs(paths[0], answer["text"])
    monkeypatch.setattr(model.module.collate, "max_target_length", 2)
    assert httpx.post(f"{url}/v1/caption", json=asked).json()["tokens"] == answer["tokens"]
    assert model.log_probs(paths[0], answer["text"]) == with_eos


def test_answers_of_a_closed_list_stay_in_it_whatever_the_decoding(url, model, paths, monkeypatch):
    monkeypatch.setitem(model.module.tasks, "vqa", Vqa(answers=["red", "blue"]))
    expected = model.answer(paths[0], "is it?")
    asked = {"image": data_url(paths[0]), "question": "is it?", "decoding": {"method": "greedy", "max_new_tokens": 9}}
    assert httpx.post(f"{url}/v1/caption", json=asked).json()["text"] == expected
    streamed = events(httpx.post(f"{url}/v1/caption", json={**asked, "stream": True}))
    assert [part["text"] for part in streamed] == [expected, expected]
    image = {"type": "image_url", "image_url": {"url": asked["image"]}}
    message = {"role": "user", "content": [image, {"type": "text", "text": "is it?"}]}
    chat = {"model": "prefixvlm", "messages": [message], "temperature": 1, "n": 2, "max_tokens": 9}
    choices = httpx.post(f"{url}/v1/chat/completions", json=chat).json()["choices"]
    assert [each["message"]["content"] for each in choices] == [expected, expected]
    ranked = httpx.post(f"{url}/v1/rank", json={"image": asked["image"], "question": "is it?"}).json()["answers"]
    assert [each["text"] for each in ranked] == sorted(["red", "blue"], key=expected.__ne__)
    with pytest.raises(ValueError, match="task vqa predicts by ranking and has no decoding options"):
        model.answer(paths[0], "is it?", max_new_tokens=9)


def test_an_ensemble_of_prompts_is_predicted_whole(url, model, paths, monkeypatch):
    task = Classification(["cat", "dog", "bird"], prompts=["This is", "a photo of a", "look, a"]).renamed("names")
    monkeypatch.setitem(model.module.tasks, "names", task)
    asked = {"image": data_url(paths[0]), "task": "names"}
    (answer,) = model.answers([paths[0]], Request(), "names")
    assert httpx.post(f"{url}/v1/caption", json=asked).json()["text"] == answer.prediction.prediction
    ranked = httpx.post(f"{url}/v1/rank", json=asked).json()["answers"]
    assert {each["text"]: each["share"] for each in ranked} == pytest.approx(task.probabilities(answer.prediction))


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


def test_many_texts_are_ranked_in_parts_that_fit_in_memory(url, paths, monkeypatch):
    asked = {"image": data_url(paths[0]), "question": "is it?", "texts": ["a", "bb", "no", "a longer one", "c"]}
    whole = httpx.post(f"{url}/v1/rank", json=asked).json()["answers"]
    monkeypatch.setattr(work, "MAX_POSITIONS", 70)
    parts = httpx.post(f"{url}/v1/rank", json=asked).json()["answers"]
    assert [each["text"] for each in parts] == [each["text"] for each in whole]
    assert [each["share"] for each in parts] == pytest.approx([each["share"] for each in whole], rel=1e-4)
    refused = httpx.post(f"{url}/v1/rank", json={**asked, "texts": ["a", "b" * 501]})
    assert (refused.status_code, "texts.1 is not valid" in refused.text) == (400, True)
