"""Chat: rows of any kind have the tokens of the template."""

import pytest
import torch
from transformers import AutoTokenizer

from prefixvlm.batch import IGNORE_INDEX, IMAGE_ID, AssistantTurn, Row
from prefixvlm.lm import packaged
from prefixvlm.lm.causal import CausalLM
from prefixvlm.lm.chat import Chat
from prefixvlm.model.decoding import greedy
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.packaged.folders import cache_folder
from prefixvlm.task.rows.closed_set import ClosedSetAnswers, likelihoods
from tests.conftest import MeanEncoder, TinyMapper, byte_tokenizer, collator_of, tiny_lm, tiny_model
from tests.lm.test_packaged import needs_package
from tests.model import naive

VICUNA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + ' ' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def with_template(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(params=["smollm2", "vicuna"])
def tokenizer(request):
    if request.param == "vicuna":
        return with_template(VICUNA)
    folder = cache_folder() / "smollm2-135m-instruct"
    if not (folder / "tokenizer.json").exists():
        pytest.skip("SmolLM2 has not been converted yet (make demo)")
    return AutoTokenizer.from_pretrained(folder)


def collator(tokenizer, chat):
    model = tiny_model("gpt2")
    collate = collator_of(model)
    collate.tokenizer, collate.eos_id, collate.chat = tokenizer, tokenizer.eos_token_id, chat
    return collate


def messages(system, *turns):
    generated = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(turns)]
    return [{"role": "system", "content": system}, *generated] if system else generated


def rows(images):
    """Return rows, each with its turns."""
    question, other = "Question: what colour is it? Answer:", "And <|im_end|> 2 of them?"
    return [
        (Row((images[0], question), " a red one"), (question, "a red one")),
        (Row((question, images[0]), "Two words"), (question, "Two words")),
        (Row((images[0], ""), "a caption, with no prompt."), ("", "a caption, with no prompt.")),
        (Row((images[0], "What?"), " no", context=("Look.\n", images[1])), ("Look.\nWhat?", "no")),
        (
            Row(
                ("And?",),
                " 12",
                context=(images[0], question, AssistantTurn(" red"), "\n", "Why?", AssistantTurn(" It is so."), "\n"),
            ),
            (question, "red", "Why?", "It is so.", "And?", "12"),
        ),
        (
            Row((images[0], question, AssistantTurn(" red"), "\nWhy?", AssistantTurn("so"))),
            (question, "red", "Why?", "so"),
        ),
        (Row((images[0], other.replace("<|im_end|>", "more")), " x"), (other.replace("<|im_end|>", "more"), "x")),
    ]


@pytest.mark.parametrize("system", [None, "You answer in a word or two."])
def test_ids_are_those_of_the_template_and_assistant_turns_are_supervised(tokenizer, images, system):
    collate = collator(tokenizer, Chat(tokenizer, system))
    for row, turns in rows(images):
        text = collate.tokenize(row)
        ids = [i for i in text.ids if i != IMAGE_ID]
        expected = tokenizer.apply_chat_template(messages(system, *turns), return_dict=False)
        assert ids == expected[: len(ids)]
        assert tokenizer.decode(expected[len(ids) :]).strip() == ""  # some end a turn's line
        assert ids[-1] == tokenizer.eos_token_id
        generated = "".join(tokenizer.decode([i for i in text.labels if i != IGNORE_INDEX]).split())
        assert generated == "".join("".join(f"{turn}{tokenizer.eos_token}" for turn in turns[1::2]).split())


def test_a_prompt_ends_with_the_opening_of_an_assistant_turn(tokenizer, images):
    collate = collator(tokenizer, Chat(tokenizer))
    for row, turns in rows(images)[:5]:
        ids = [i for i in collate.tokenize(row, supervised=False).ids if i != IMAGE_ID]
        assert ids == tokenizer.apply_chat_template(
            messages(None, *turns[:-1]), add_generation_prompt=True, return_dict=False
        )


def test_special_tokens_in_user_turns_stay_text(tokenizer, images):
    collate = collator(tokenizer, Chat(tokenizer))
    eos = tokenizer.eos_token
    ids, plain = (
        collate.tokenize(Row((images[0], f"Why{text}?"), " no")).ids.count(tokenizer.eos_token_id) for text in (eos, "")
    )
    assert ids == plain


def test_tags_belong_to_the_texts_of_the_row(tokenizer, images):
    row = Row((images[0], "John", " sees"), tags=(3, 5))
    text = collator(tokenizer, Chat(tokenizer)).tokenize(row)
    tagged = [(id, tag) for id, tag in zip(text.ids, text.tags, strict=True) if tag != IGNORE_INDEX]
    assert [tag for _, tag in tagged] == [3, 5]
    assert [tokenizer.decode([id])[-1] for id, _ in tagged] == ["n", "s"]


@pytest.mark.parametrize("choose", ["ranking", "trie"])
def test_answers_are_scored_by_the_ids_of_training(images, choose):
    model = naive.make_images_count(tiny_model("gpt2"))
    model.lm.tokenizer.chat_template = VICUNA
    model.lm.max_positions = 512
    model.lm.model.transformer.wpe = torch.nn.Embedding(512, 32)
    model.lm.chat = Chat(model.lm.tokenizer)
    collate = collator_of(model, chat=model.lm.chat)
    answers = ["yes", "no", "a red one"]
    row = Row((images[0], "Q: what? A:"), id="q")
    losses = [model(collate([Row(row.prompt, " " + answer)])).sum().item() for answer in answers]
    batch = collate([row], supervised=False)
    found = likelihoods(model, batch, answers, "A:")[0].tolist()
    assert found == pytest.approx([-loss for loss in losses], abs=1e-3)
    generated = ClosedSetAnswers(answers, choose, False, "A:", "task.vqa")(model, batch)
    ids = [collate.tokenize(Row(row.prompt, " " + answer)) for answer in answers]
    ids = [[i for i in each.labels if i != IGNORE_INDEX][:-1] for each in ids]
    if choose == "ranking":
        assert generated == [answers[losses.index(min(losses))]]
    else:
        assert generated == [answers[ids.index(naive.constrained_greedy(model, row, ids))]]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template; set lm.chat=false"),
        (
            VICUNA.replace("eos_token", "'</s>'"),
            "ends a turn with '</s>.*', but texts end with '<eos>'; set lm.eos_token",
        ),
        (
            VICUNA.replace("m['content'] + eos", "m['content'] + m['content'] + eos"),
            "does more than insert texts",
        ),
        ("{{ raise_exception('no chats') }}", r"refuses a plain chat \(no chats\); set lm.system"),
    ],
)
def test_an_unsupported_template_is_an_error(template, message):
    with pytest.raises(ValueError, match=message):
        Chat(with_template(template))


def test_chat_is_an_option_of_a_language_model(tmp_path):
    lm = tiny_lm("gpt2")
    lm.tokenizer.chat_template = VICUNA
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    assert CausalLM.from_pretrained(str(tmp_path)).chat is None
    chat = CausalLM.from_pretrained(str(tmp_path), chat=True, system="Be brief.").chat
    assert (chat.first, chat.opening, chat.next) == ("Be brief. USER: ", " ASSISTANT: ", "USER: ")
    with pytest.raises(ValueError, match="set lm.chat=true, or lm.system=null"):
        CausalLM.from_pretrained(str(tmp_path), system="Be brief.")


@needs_package
@pytest.mark.slow
def test_smollm2_answers_in_a_chat():
    lm = packaged.SmolLM2.from_pretrained(dtype="float32", chat=True, system="You answer in one sentence.")
    model = PrefixLM(MeanEncoder(), TinyMapper(lm.width), lm)
    row = Row(("And of Italy?",), context=("What is the capital of France?", AssistantTurn("Paris."), "\n"))
    generated = greedy(model, collator_of(model, chat=lm.chat)([row], supervised=False), 12)[0]
    assert "Rome" in lm.tokenizer.decode(generated)
