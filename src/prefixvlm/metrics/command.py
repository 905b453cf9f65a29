"""`prefixvlm score`: score the prediction files of any system, or compare two evaluations, without a model."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefixvlm.metrics import files
from prefixvlm.metrics.captions import java
from prefixvlm.metrics.captions.caption_scores import caption_scores
from prefixvlm.metrics.captions.cider import OF_ONE_IMAGE, DocumentFrequencies
from prefixvlm.metrics.captions.diversity import diversity
from prefixvlm.metrics.captions.words import words_of
from prefixvlm.metrics.paired import paired_test
from prefixvlm.metrics.pairs import check_ids
from prefixvlm.metrics.vqa.answer_metrics import ANSWER_METRICS, check_several
from prefixvlm.metrics.vqa.report import vqa_report


def add_score(parser: argparse.ArgumentParser) -> None:
    """Add `captions`, `vqa` and `compare`."""
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    captions = commands.add_parser(
        "captions", help="BLEU, ROUGE-L and CIDEr of COCO's JSON files; METEOR and SPICE with Java"
    )
    _file(captions, "references", "COCO annotations: {annotations: [{image_id, caption}]}")
    _file(captions, "predictions", "results: [{image_id, caption}]")
    _file(
        captions,
        "document-frequencies",
        "saved document frequencies for CIDEr; default: those of the references",
        required=False,
    )
    _file(
        captions,
        "save-document-frequencies",
        "where to save the document frequencies of the references",
        required=False,
    )
    only = "score only the images that have a prediction, such as Karpathy's 5,000 of val2014"
    captions.add_argument("--only-predicted", action="store_true", help=only)
    captions.add_argument("--no-java", action="store_true", help="leave out METEOR and SPICE even if they could run")
    captions.set_defaults(run=_captions)
    vqa = commands.add_parser("vqa", help="accuracy of VQA's JSON files")
    _file(vqa, "questions", "{questions: [{question_id, question}]}")
    _file(vqa, "annotations", "{annotations: [{question_id, answers, answer_type, question_type}]}")
    _file(vqa, "predictions", "results: [{question_id, answer}]")
    vqa.add_argument("--variant", choices=ANSWER_METRICS, default="vqa", help="default: vqa, the official accuracy")
    vqa.set_defaults(run=_vqa)
    compare = commands.add_parser("compare", help="paired test of two evaluations of the same items")
    compare.add_argument("a", type=Path, metavar="A", help="predictions.jsonl of eval.py, or its folder")
    compare.add_argument("b", type=Path, metavar="B", help="the same of the other evaluation")
    compare.set_defaults(run=_compare)
    for command in (captions, vqa, compare):
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _file(parser: argparse.ArgumentParser, name: str, help: str, required: bool = True) -> None:
    parser.add_argument(f"--{name}", type=Path, required=required, metavar="FILE", help=help)


def _captions(arguments: argparse.Namespace) -> None:
    references = files.read_references(arguments.references)
    predictions = files.read_predictions(arguments.predictions, "image_id", "caption")
    if arguments.only_predicted:
        references = {id: texts for id, texts in references.items() if id in predictions}
    check_ids(predictions, references)
    words = words_of(references.values())
    saved = arguments.document_frequencies and DocumentFrequencies.load(arguments.document_frequencies)
    if arguments.save_document_frequencies:
        DocumentFrequencies.of(references, words.tokenize).save(arguments.save_document_frequencies)
    result = caption_scores(predictions, references, saved, words)
    scores: dict[str, Any] = dict(result.scores)
    left_out = dict.fromkeys(("meteor", "spice"), "left out by --no-java")
    missing = left_out if arguments.no_java else java.unavailable(words)
    for name, metric in (("meteor", java.meteor), ("spice", java.spice)):
        if name not in missing:
            scores[name] = metric(predictions, references)[0]
    scores |= diversity(list(predictions.values()), words)
    facts: dict[str, Any] = {"num_images": len(predictions), "variant": result.variant, "missing": missing}
    if len(references) == 1 and not saved:
        facts["note"] = OF_ONE_IMAGE
    _show(arguments, scores | facts, [(name, f"{value:.4f}") for name, value in scores.items()], facts)


def _vqa(arguments: argparse.Namespace) -> None:
    annotations = files.read_annotations(arguments.annotations)
    files.check_questions(files.read_question_ids(arguments.questions), annotations, arguments.questions)
    predictions = files.read_predictions(arguments.predictions, "question_id", "answer")
    for annotation in annotations.values():
        check_several(ANSWER_METRICS[arguments.variant], annotation.answers)
    report = asdict(vqa_report(predictions, annotations, arguments.variant))
    del report["per_item"]
    rows = [("overall", report["overall"]), *report["per_answer_type"].items(), *report["per_question_type"].items()]
    facts = {"num_questions": len(predictions)}
    _show(
        arguments,
        report | facts,
        [(name, f"{value:.2f}") for name, value in rows],
        {"variant": report["variant"], **facts},
    )


def _compare(arguments: argparse.Namespace) -> None:
    a, b = files.read_scores(arguments.a), files.read_scores(arguments.b)
    result: dict[str, dict[str, Any]] = {}
    for task in sorted(a.keys() & b.keys()):
        if a[task].variant != b[task].variant:
            raise ValueError(
                f"{task}: A was scored by {a[task].variant!r} and B by {b[task].variant!r}, which do not compare"
            )
        ours, theirs = a[task].items, b[task].items
        if different := ours.keys() ^ theirs.keys():
            raise ValueError(
                f"{task}: {len(different)} items are in one of the two only, {min(different)!r} among them; "
                "compare evaluations of the same items (the same split and limit)"
            )
        keys = [key for key, _ in ours.values()]
        for name in sorted({name for _, scores in ours.values() for name in scores}):
            pairs = [(ours[id][1].get(name), theirs[id][1].get(name)) for id in ours]
            if all(x is not None and y is not None for x, y in pairs):
                test = paired_test([x for x, _ in pairs if x is not None], [y for _, y in pairs if y is not None], keys)
                facts = {"num_items": len(pairs), "num_images": len(set(keys))}
                result.setdefault(task, {})[name] = asdict(test) | facts
    if not result:
        raise ValueError(f"{arguments.a} and {arguments.b} have no score of the same task in common")
    head = f"{'A':>9} {'B':>9} {'B - A':>9}  {'95 % interval':>20}   {'p':>6}  {'items':>7}  {'images':>7}"
    rows = [(f"{task} {name}", _row(test)) for task, tests in result.items() for name, test in tests.items()]
    _show(arguments, result, [("", head), *rows], {})


def _row(t: Mapping[str, Any]) -> str:
    low, high = t["interval"]
    means = f"{t['mean_a']:9.3f} {t['mean_b']:9.3f} {t['difference']:+9.3f}"
    return f"{means}  {low:+9.3f} {high:+9.3f}    {t['p_value']:6.4f}  {t['num_items']:7}  {t['num_images']:7}"


def _show(
    arguments: argparse.Namespace, result: Mapping[str, Any], rows: list[tuple[str, str]], facts: Mapping[str, Any]
) -> None:
    if arguments.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")
    for name, value in facts.items():
        for line in [f"{each}: {reason}" for each, reason in value.items()] if isinstance(value, dict) else [value]:
            print(f"{name}: {line}")
