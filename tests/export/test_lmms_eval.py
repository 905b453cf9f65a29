"""The model of lmms-eval: against the package where it is installed, and else against its interface as published."""

import abc
import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from prefixvlm.inference.captioner import Captioner
from tests.inference.test_predictor import write_checkpoint

INSTALLED = importlib.util.find_spec("lmms_eval") is not None
SPLIT = "test"


@dataclass
class Instance:
    """lmms_eval.api.instance.Instance of 0.7.3, without what the evaluator fills in."""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments if isinstance(self.arguments, tuple) else (self.arguments,)


@dataclass
class GenerationResult:
    text: str
    token_counts: object = None


class Lmms(abc.ABC):
    """lmms_eval.api.model.lmms of 0.7.3: its constructor, its abstract methods and what an evaluator reads."""

    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}
        self.cache_hook = type("CacheHook", (), {"add_partial": lambda self, attr, req, res: None})()

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    @property
    def rank(self):
        return self._rank

    @property
    def world_size(self):
        return self._world_size


@pytest.fixture(scope="module")
def adapter():
    """prefixvlm.export.lmms_eval, of the package, or of the interface above in its place."""
    with pytest.MonkeyPatch.context() as patch:
        if not INSTALLED:
            for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.api.instance"):
                patch.setitem(sys.modules, name, ModuleType(name))
            sys.modules["lmms_eval.api.model"].lmms = Lmms
            sys.modules["lmms_eval.api.instance"].Instance = Instance
            sys.modules["lmms_eval.api.instance"].GenerationResult = GenerationResult
        yield importlib.import_module("prefixvlm.export.lmms_eval")
        sys.modules.pop("prefixvlm.export.lmms_eval")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms")
    write_checkpoint(folder)
    return folder / "x.ckpt"


@pytest.fixture(scope="module")
def ours(checkpoint):
    return Captioner(checkpoint)


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)),
            "question": text,
            "answer": " red",
        }
        for text in ("what is it?", "how many?", "what is it?", "where?")
    ]


def model_of(adapter, checkpoint, documents, **options):
    model = adapter.PrefixVLM(pretrained=str(checkpoint), device="cpu", **options)
    model.task_dict["colours"] = {SPLIT: documents}  # as the evaluator does
    return model


def requests_of(kind, documents, second):
    """Requests as ConfigurableTask.construct_requests makes them."""
    instance = importlib.import_module("lmms_eval.api.instance").Instance
    return [
        instance(
            request_type=kind,
            arguments=(each["question"], second(each), lambda doc: [doc["image"]], number, "colours", SPLIT),
            idx=0,
            metadata={"task": "colours", "doc_id": number, "repeats": 1, "split": SPLIT},
        )
        for number, each in enumerate(documents)
    ]


def greedy(number):
    """As the benchmarks of lmms-eval write it, with options that are of other models."""
    return {"max_new_tokens": number, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False,
            "until": ["\n\n"], "image_aspect_ratio": "original"}  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_are_the_answers_of_the_checkpoint_in_the_order_of_the_requests(
    adapter, checkpoint, ours, documents, batch_size
):
    model = model_of(adapter, checkpoint, documents, batch_size=batch_size)
    lengths = iter((3, 6, 6, 3))  # of two groups, which are not next to each other
    requests = requests_of("generate_until", documents, lambda doc: greedy(next(lengths)))
    texts = model.generate_until(requests)
    expected = [
        ours.answer(doc["image"], doc["question"], max_new_tokens=request.args[1]["max_new_tokens"], stop=["\n\n"])
        for doc, request in zip(documents, requests, strict=True)
    ]
    assert texts == expected
    assert len(set(texts)) > 1
    assert all(type(text) is str for text in texts)


def test_prompts_of_captions_and_plain_ones(adapter, checkpoint, ours, documents):
    requests = requests_of("generate_until", documents[:1], lambda doc: greedy(5))
    image = documents[0]["image"]
    options = {"max_new_tokens": 5, "stop": ["\n\n"]}
    caption = model_of(adapter, checkpoint, documents, prompt="caption").generate_until(requests)
    assert caption == [ours.caption(image, **options)]
    plain = model_of(adapter, checkpoint, documents, prompt="plain").generate_until(requests)
    assert plain == [ours.generate([image, "what is it?"], **options)]
    assert plain != caption


def test_likelihoods_are_those_of_the_tokens_and_only_the_greedy_text_is_greedy(adapter, checkpoint, ours, documents):
    model = model_of(adapter, checkpoint, documents, batch_size=3)
    texts = [" red", " a longer answer", " b", " red"]
    given = iter(texts)
    found = model.loglikelihood(requests_of("loglikelihood", documents, lambda doc: next(given)))
    for (value, is_greedy), doc, text in zip(found, documents, texts, strict=True):
        tokens = ours.log_probs(doc["image"], text.strip(), doc["question"])[:-1]  # without the EOS
        assert value == pytest.approx(-sum(each for _, each in tokens), abs=1e-4)
        assert not is_greedy
    # Its first token is what greedy decoding says, in bytes that are no text alone; the continuation is read from them.
    ids = greedy_ids(ours, documents[0], 1)
    text = ours.module.model.lm.tokenizer.decode(ids)
    ((_, is_greedy),) = model.loglikelihood(requests_of("loglikelihood", documents[:1], lambda doc: text))
    assert is_greedy == (ours.module.model.lm.tokenizer(text).input_ids == ids)


def greedy_ids(ours, doc, number):
    from prefixvlm.model.decoding import greedy as decode

    _, row = ours._row(doc["image"], doc["question"])
    return decode(ours.module.model, ours.module.collate([row], False), number)[0]


def test_a_continuation_may_come_from_the_document_and_a_request_without_an_image(adapter, checkpoint, ours, documents):
    model = model_of(adapter, checkpoint, documents)
    called = model.loglikelihood(requests_of("loglikelihood", documents, lambda doc: lambda each: each["answer"]))
    given = model.loglikelihood(requests_of("loglikelihood", documents, lambda doc: doc["answer"]))
    assert called == given
    instance = importlib.import_module("lmms_eval.api.instance").Instance
    metadata = {"task": "colours", "doc_id": 0, "repeats": 1}
    ((value, _),) = model.loglikelihood([instance("loglikelihood", ("", " red"), 0, metadata)])
    assert np.isfinite(value)
    assert value != given[0][0]


def test_new_tokens_end_where_the_language_model_does(adapter, checkpoint, documents):
    model = model_of(adapter, checkpoint, documents)
    (text,) = model.generate_until(requests_of("generate_until", documents[:1], lambda doc: greedy(4096)))
    assert isinstance(text, str)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prompt": "chat"}, "prompt=chat; accepted are"), ({"beams": 3}, "beams=3; accepted are pretrained")],
)
def test_options_that_are_not_accepted_are_named(adapter, checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        adapter.PrefixVLM(pretrained=str(checkpoint), **options)


def test_decoding_options_are_named_as_in_transformers(adapter):
    assert adapter.decoding_of({}, None) == {"max_new_tokens": 128, "stop": [], "method": "greedy"}
    beam = adapter.decoding_of({"num_beams": 4, "until": "\n"}, 50)
    assert beam == {"max_new_tokens": 50, "stop": ["\n"], "method": "beam", "num_beams": 4}
    sampled = adapter.decoding_of({"temperature": 0.7, "top_p": None, "max_new_tokens": 8}, None)
    assert sampled == {"max_new_tokens": 8, "stop": [], "method": "nucleus", "temperature": 0.7, "top_p": 1.0}


@pytest.mark.skipif(not INSTALLED, reason="the package lmms-eval is not installed: pip install lmms-eval")
def test_the_package_evaluates_benchmarks_with_the_checkpoint(checkpoint, tmp_path, ours, documents):
    """Its registry, its tasks and its scores, on a generated and a multiple-choice benchmark of files."""
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    write_benchmarks(tmp_path, documents, ours)
    results = evaluator.simple_evaluate(
        model="prefixvlm", model_args=f"pretrained={checkpoint},device=cpu", tasks=["colours_text", "colours_choice"],
        task_manager=TaskManager(include_path=str(tmp_path), model_name="prefixvlm"), batch_size=2, cli_args=None,
    )["results"]  # fmt: skip
    assert results["colours_text"]["exact_match,none"] == 1.0
    assert results["colours_choice"]["acc,none"] == 1.0


def write_benchmarks(folder, documents, ours):
    """Benchmarks whose right answers are the checkpoint's own, so that every score is 1 exactly if all is right."""
    import datasets

    choices = ["red", "a", "12"]
    rows = []
    for doc in documents:
        best = ours.rank(doc["image"], choices, doc["question"])
        likely = {text: sum(v for _, v in ours.log_probs(doc["image"], text, doc["question"])[:-1]) for text, _ in best}
        answer = ours.answer(doc["image"], doc["question"], max_new_tokens=4, stop=["\n\n"])
        rows.append({**doc, "answer": answer, "choice": choices.index(max(likely, key=likely.get))})
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string"),
                                  "answer": datasets.Value("string"), "choice": datasets.Value("int64")})  # fmt: skip
    table = datasets.Dataset.from_list(rows, features=features)
    table.to_parquet(str(folder / "test.parquet"))
    (folder / "benchmark.py").write_text(
        "def visual(doc): return [doc['image'].convert('RGB')]\n"
        "def text(doc, lmms_eval_specific_kwargs=None): return doc['question']\n"
        "def choices(doc): return ['red', 'a', '12']\n"
    )
    common = (
        "dataset_path: parquet\n"
        f"dataset_kwargs:\n  data_files:\n    test: {folder / 'test.parquet'}\n"
        "test_split: test\ndoc_to_visual: !function benchmark.visual\ndoc_to_text: !function benchmark.text\n"
    )
    (folder / "colours_text.yaml").write_text(
        f"{common}task: colours_text\noutput_type: generate_until\ndoc_to_target: answer\n"
        'generation_kwargs:\n  max_new_tokens: 4\n  temperature: 0\n  do_sample: false\n  until: ["\\n\\n"]\n'
        "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
    )
    (folder / "colours_choice.yaml").write_text(
        f"{common}task: colours_choice\noutput_type: multiple_choice\ndoc_to_target: choice\n"
        "doc_to_choice: !function benchmark.choices\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
