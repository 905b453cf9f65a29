"""The official VQA accuracy (Antol et al. 2015) against the answers of ten people, and its variants.

After GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py @a013f00. The variants normalise different texts
before the comparison, so their scores differ systematically.
"""

from collections.abc import Sequence

from prefixvlm.metrics.vqa.normalise import normalise, process_punctuation, strip_lines


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return the official accuracy, 0 to 1."""
    stripped = [strip_lines(answer) for answer in answers]
    # The official code normalises neither side if all people agree: "Yes." is then wrong where all wrote "yes".
    if len(set(stripped)) == 1:
        return leave_one_out(strip_lines(prediction), stripped)
    return leave_one_out(normalise(prediction), [normalise(answer) for answer in stripped])


def vqa_accuracy_normalise_both(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy with both sides always normalised, as OpenFlamingo 2.0 and lmms-eval (since #794) do."""
    return leave_one_out(normalise(prediction), [normalise(answer) for answer in answers])


def vqa_accuracy_lavis(prediction: str, answers: Sequence[str]) -> float:
    """Return the accuracy of LAVIS, 0 to 1: only punctuation of the answers is removed, and only if they differ."""
    # The prediction is always normalised, so none matches an answer with a capital, an article or a number word.
    agree = len(set(answers)) == 1
    return leave_one_out(normalise(prediction), answers if agree else [process_punctuation(each) for each in answers])


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Return the mean over people of min(1, number of matches among the other nine / 3)."""
    # Three people with the same answer suffice. One is left out at a time, since people's own accuracy can only be
    # measured against the other nine, and both are to be on one scale.
    matches = [answer == prediction for answer in answers]
    total = sum(matches)
    # Summed in the order of the original, which determines the last bit. It finds the others by comparing entries with
    # their answer_id, so they are the other positions, even with equal answers.
    return float(sum([min(1, float(total - match) / 3) for match in matches])) / len(matches)
