"""An answer and the answers of ten people go in; the official VQA accuracy comes out, or a named variant of it.

Antol et al. 2015; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py @a013f00. The variants differ in
what is normalised before answers are compared, and so systematically in their figures.
"""

from collections.abc import Sequence

from prefixvlm.metrics.vqa.normalise import normalise, process_punctuation, strip_lines


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official accuracy, 0 to 1. Where all people gave the same answer, nothing is normalised on either side."""
    stripped = [strip_lines(answer) for answer in answers]
    if len(set(stripped)) == 1:
        return leave_one_out(strip_lines(prediction), stripped)
    return leave_one_out(normalise(prediction), [normalise(answer) for answer in stripped])


def vqa_accuracy_normalise_both(prediction: str, answers: Sequence[str]) -> float:
    """Both sides always normalised: OpenFlamingo 2.0, lmms-eval since its pull request 794. 0 to 1."""
    return leave_one_out(normalise(prediction), [normalise(answer) for answer in answers])


def vqa_accuracy_lavis(prediction: str, answers: Sequence[str]) -> float:
    """The prediction always normalised, the answers only without punctuation and only where they differ: LAVIS. 0 to 1.

    An answer with a capital, an article, a number word or a missing apostrophe can thus never be matched.
    """
    agree = len(set(answers)) == 1
    return leave_one_out(normalise(prediction), answers if agree else [process_punctuation(each) for each in answers])


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """The mean over people of min(1, matches among the other answers / 3).

    The original takes for "others" the entries that differ from a person's own; each has its own answer_id, so these
    are the other positions. Summed in its order, which decides the last bit.
    """
    matches = [answer == prediction for answer in answers]
    total = sum(matches)
    return float(sum([min(1, float(total - match) / 3) for match in matches])) / len(matches)
