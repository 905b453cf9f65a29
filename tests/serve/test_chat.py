"""OpenAI's own client at a real server."""

import openai
import pytest
from PIL import Image

from prefixvlm.serve.prompts import Turn, prompt_of
from prefixvlm.task.dialogue import Dialogue
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


def said(client, messages, **options):
    return client.chat.completions.create(model="prefixvlm", messages=messages, **options).choices[0].message.content


def test_a_conversation_is_a_prompt_with_its_earlier_turns(client, model, paths):
    messages = [message(paths[0], "is it?"), {"role": "assistant", "content": "yes"}]
    asked = said(client, [*messages, {"role": "user", "content": "how many?"}])
    prompt = [paths[0], "Question: is it? Answer: yes\nQuestion: how many? Answer:"]
    assert asked == model.generate(prompt) != model.answer(paths[0], "how many?")
    system = {"role": "system", "content": "Be brief."}
    prompt = ["Be brief.\n", paths[0], "Question: is it? Answer:"]
    assert said(client, [system, message(paths[0], "is it?")]) == model.generate(prompt)


def test_several_images_stand_before_the_text_in_their_order(client, model, paths):
    first, second = message(paths[0])["content"], message(paths[1], "is it?")["content"]
    asked = said(client, [{"role": "user", "content": [*first, *second]}])
    assert asked == model.generate([paths[0], paths[1], "Question: is it? Answer:"])
    turned = said(client, [{"role": "user", "content": [*second, *first]}])
    assert turned == model.generate([paths[1], paths[0], "Question: is it? Answer:"])


def test_the_turns_of_a_dialogue_are_those_of_its_task(model, paths, monkeypatch):
    monkeypatch.setitem(model.module.tasks, "dialogue", Dialogue())
    image = Image.open(paths[0]).convert("RGB")
    task, (row,) = prompt_of(model, [Turn((image,), "is it?", "yes"), Turn((), "how many?")], name="dialogue")
    expected = task.prompt_rows(task.request("", image, ["is it?", "how many?"], ["yes"]))[-1]
    assert [(type(part), part) for part in row.parts] == [(type(part), part) for part in expected.parts]


def test_sampling_is_by_seed_and_without_options_as_trained(client, model, paths):
    messages = [message(paths[0])]
    options = {"temperature": 2.0, "max_tokens": 12}
    one, other = (said(client, messages, **options, seed=seed) for seed in (1, 2))
    assert one != other
    assert one == model.caption(paths[0], method="nucleus", top_p=1.0, seed=1, temperature=2.0, max_new_tokens=12)
    several = client.chat.completions.create(model="prefixvlm", messages=messages, n=3, seed=0, **options)
    assert [each.message.content for each in several.choices][1:] == [one, other]
    assert said(client, messages, temperature=0) == said(client, messages) == model.caption(paths[0])
    text = model.caption(paths[0], max_new_tokens=12)
    assert said(client, messages, max_tokens=12, stop=text[3:5]) == text[:3].strip()


def test_log_probabilities_are_those_of_the_tokens_and_of_the_likeliest(client, model, paths):
    done = client.chat.completions.create(
        model="prefixvlm", messages=[message(paths[0], "is it?")], logprobs=True, top_logprobs=3
    )
    tokens = done.choices[0].logprobs.content
    expected = model.log_probs(paths[0], done.choices[0].message.content, "is it?")[:-1]
    assert [each.token for each in tokens] == [token for token, _ in expected]
    assert [each.logprob for each in tokens] == pytest.approx([value for _, value in expected], abs=1e-4)
    for each in tokens:
        values = [other.logprob for other in each.top_logprobs]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert values[0] >= each.logprob - 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "gpt"}, "there is no model 'gpt'; set model to 'prefixvlm'"),
        ({"max_tokens": 1000}, "1000 tokens are asked for; at most 256 are generated"),
        ({"n": 2}, "n is 2, and without sampling all texts are equal"),
        ({"n": 100, "temperature": 1}, "n is not valid: Input should be less than or equal to 8"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"temperature": 3}, "temperature is not valid"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported; leave it out"),
        ({"response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": []}, "messages is not valid"),
        ({"messages": [{"role": "user", "content": "is it?"}]}, "task vqa is about an image; give one or more"),
        ({"messages": [{"role": "assistant", "content": "yes"}]}, "messages.0 is of assistant; user and assistant"),
        ({"messages": [{"role": "system", "content": "yes"}]}, "the last message must be of the user"),
        ({"messages": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]}, "messages.0.content"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(client, paths, changes, said):
    asked = {"model": "prefixvlm", "messages": [message(paths[0])], **changes}
    with pytest.raises(openai.APIStatusError, match=said) as error:
        client.chat.completions.create(**asked)
    assert error.value.status_code == (404 if "model" in changes else 400)


def test_options_that_ask_for_nothing_special_are_taken(client, model, paths):
    neutral = {"presence_penalty": 0, "frequency_penalty": 0, "response_format": {"type": "text"}, "user": "me"}
    assert said(client, [message(paths[0])], **neutral) == model.caption(paths[0])


def test_too_many_images_are_refused(client, paths):
    images = [part for _ in range(9) for part in message(paths[0])["content"]]
    with pytest.raises(openai.BadRequestError, match="there are 9 images; at most 8 are read"):
        said(client, [{"role": "user", "content": images}])


def test_the_model_is_listed(client):
    assert [each.id for each in client.models.list()] == ["prefixvlm"]
