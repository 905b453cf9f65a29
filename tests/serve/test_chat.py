"""OpenAI's own client at a real server."""

import openai
import pytest

from tests.serve.serving import data_url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def message(path, text=""):
    parts = [{"type": "text", "text": text}] if text else []
    return {"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": data_url(path)}}]}


def test_an_image_is_captioned_and_a_question_answered(client, model, paths):
    for text in ("", "is it?"):
        done = client.chat.completions.create(model="prefixvlm", messages=[message(paths[0], text)])
        expected = model.answer(paths[0], text) if text else model.caption(paths[0])
        assert done.choices[0].message.content == expected
        assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_a_stream_is_the_same_text_with_its_usage(client, model, paths):
    asked = {"model": "prefixvlm", "messages": [message(paths[0], "is it?")], "max_tokens": 9}
    whole = client.chat.completions.create(**asked)
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content == model.answer(paths[0], "is it?", max_new_tokens=9)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.usage == whole.usage
    assert len(chunks) > 3
