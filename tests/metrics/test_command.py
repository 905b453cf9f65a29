"""`prefixvlm score` on small files in the published layouts: figures by hand, and what is wrong with a file."""

import json
import sys

import pytest

from prefixvlm import cli

REFERENCES = {
    1: ["A man rides a horse.", "a man on a brown horse"],
    2: ["Two dogs play."],
    3: ["a cat", "the cat sits"],
}
PREDICTIONS = {1: "a man rides a horse", 2: "dogs are playing.", 3: "a cat"}
ANSWERS = {
    10: (["yes"] * 10, "yes/no", "is the"),
    11: (["2"] * 3 + ["two"] * 2 + ["3"] * 5, "number", "how many"),
    12: (["red", *["blue"] * 9], "other", "what color"),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Writes each value as a JSON file under its option and runs the command; returns exit code and both outputs."""

    def call(what, *flags, **files):
        arguments = ["prefixvlm", "score", what, *flags]
        for name, content in files.items():
            path = tmp_path / f"{name}.json"
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            arguments += [f"--{name}", str(path)]
        monkeypatch.setattr(sys, "argv", arguments)
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def coco(references=REFERENCES):
    found = [{"image_id": id, "caption": text} for id, texts in references.items() for text in texts]
    return {"images": [{"id": id} for id in references], "annotations": found}


def results(predictions=PREDICTIONS):
    return [{"image_id": id, "caption": text} for id, text in predictions.items()]


def vqa(answers=ANSWERS):
    annotations = [
        {"question_id": id, "answers": [{"answer": a, "answer_id": i + 1} for i, a in enumerate(given)],
         "answer_type": kind, "question_type": question}
        for id, (given, kind, question) in answers.items()
    ]  # fmt: skip
    questions = [{"question_id": id, "image_id": id, "question": "what?"} for id in answers]
    said = {10: "yes", 11: "two.", 12: "Red"}
    predictions = [{"question_id": id, "answer": said.get(id, "no")} for id in answers]
    return {
        "questions": {"questions": questions},
        "annotations": {"annotations": annotations},
        "predictions": predictions,
    }


def test_captions_have_the_figures_of_the_functions_and_name_what_is_missing(run):
    code, out, _ = run("captions", "--json", "--no-java", references=coco(), predictions=results())
    found = json.loads(out)
    assert code == 0
    assert found["bleu_1"] == pytest.approx(8 / 10)  # "are" and "playing" are in no reference
    assert found["cider"] > found["rouge_l"] > 0
    assert found["variant"] == "coco; ptb; df=references"
    assert found["missing"].keys() == {"meteor", "spice"}
    assert "\nrouge_l " in run("captions", "--no-java", references=coco(), predictions=results())[1]


def test_a_subset_may_be_scored_if_one_says_so(run):
    some, few = results({id: PREDICTIONS[id] for id in (1, 3)}), coco({id: REFERENCES[id] for id in (1, 3)})
    whole = run("captions", "--json", "--no-java", references=few, predictions=some)
    assert run("captions", "--json", "--no-java", "--only-predicted", references=coco(), predictions=some) == whole
    assert run("captions", "--no-java", references=coco(), predictions=some)[0] == 2


def test_saved_document_frequencies_change_cider_alone(run, tmp_path):
    saved = str(tmp_path / "df.json.gz")
    run("captions", "--no-java", "--save-document-frequencies", saved, references=coco(), predictions=results())
    few, said = {1: REFERENCES[1]}, {1: PREDICTIONS[1]}
    alone = json.loads(run("captions", "--json", "--no-java", references=coco(few), predictions=results(said))[1])
    flags = ("--json", "--no-java", "--document-frequencies", saved)
    within = json.loads(run("captions", *flags, references=coco(few), predictions=results(said))[1])
    assert alone["cider"] == 0
    assert within["cider"] > 1
    assert within["bleu_4"] == alone["bleu_4"]
    assert within["variant"] == "coco; ptb; df=df.json.gz"


def test_vqa_is_in_percent_with_two_decimals_by_type(run):
    found = json.loads(run("vqa", "--json", **vqa())[1])
    # "two." becomes 2, which five people say; "Red" one person.
    assert found["overall"] == 76.67
    assert found["per_answer_type"] == {"yes/no": 100.0, "number": 100.0, "other": 30.0}
    assert found["per_question_type"] == {"is the": 100.0, "how many": 100.0, "what color": 30.0}
    assert found["variant"] == "vqa_official"
    lenient = json.loads(run("vqa", "--json", "--variant", "gqa_strict", **vqa())[1])
    assert lenient["variant"] == "gqa_exact_match_strict"


@pytest.mark.parametrize(
    ("what", "files", "words"),
    [
        ("captions", {"references": coco(), "predictions": results({1: "a", 2: "b"})}, ["1 without a prediction (3)"]),
        ("captions", {"references": coco(), "predictions": results({**PREDICTIONS, 9: "a"})}, ["references (9)"]),
        ("captions", {"references": coco(), "predictions": results() * 2}, ["3 image_id come twice (1, 2, 3)"]),
        ("captions", {"references": coco(), "predictions": "{"}, ["predictions.json is not a JSON"]),
        ("captions", {"references": coco(), "predictions": {"1": "a"}}, ["a list of predictions"]),
        ("captions", {"references": [], "predictions": results()}, ["a list of annotations"]),
        ("captions", {"references": coco(), "predictions": [{"image_id": 1}]}, ["image_id and a text caption"]),
        ("vqa", vqa() | {"predictions": vqa()["predictions"][:2]}, ["without a prediction (12)"]),
        ("vqa", vqa() | {"predictions": vqa()["predictions"] * 2}, ["3 question_id come twice"]),
        ("vqa", vqa() | {"questions": {"questions": vqa()["questions"]["questions"][1:]}}, ["in 1 question_ids (10"]),
        ("vqa", vqa() | {"annotations": {"annotations": [{"question_id": 1}]}}, ["question_id and answers"]),
        ("vqa", vqa() | {"predictions": [{"question_id": 10, "answer": 2}]}, ["a text answer"]),
        ("vqa", vqa({10: (["yes"], "yes/no", "is the")}), ["--variant exact_match"]),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_sentence_and_exit_code_2(run, what, files, words):
    code, out, err = run(what, **files)
    assert code == 2
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def lines(correct, variant="exact"):
    same = {"task": "vqa", "variant": variant}
    entries = [{"id": f"q{i}", "key": f"k{i // 2}", "scores": {"accuracy": 100.0 * c}} for i, c in enumerate(correct)]
    return "".join(json.dumps(same | entry) + "\n" for entry in entries)


def test_compare_is_a_paired_test_by_task_and_score(run, tmp_path, monkeypatch, capsys):
    for name, correct in (("a", [0, 1] * 20), ("b", [1, 1] * 20), ("c", [0, 1] * 19)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "predictions.jsonl").write_text(lines(correct))

    def compare(*names):
        return run("compare", "--json", *(str(tmp_path / name) for name in names))

    code, out, _ = compare("a", "b")
    found = json.loads(out)["vqa"]["accuracy"]
    assert code == 0
    assert (found["mean_a"], found["mean_b"], found["difference"]) == (50, 100, 50)
    assert (found["num_items"], found["num_images"]) == (40, 20)
    assert found["p_value"] < 0.01
    assert json.loads(compare("a", "a")[1])["vqa"]["accuracy"]["p_value"] == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "predictions.jsonl").write_text(lines([1, 1] * 20, "vqa_official"))
    assert "'exact' and B by 'vqa_official', which do not compare" in compare("a", "other")[2]
    code, _, err = compare("a", "c")
    assert code == 2
    assert "'q38'" in err
    (tmp_path / "c" / "predictions.jsonl").write_text("{}")
    assert "is not predictions of eval.py" in compare("a", "c")[2]
