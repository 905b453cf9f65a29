"""gather_by_id and on_rank_zero, on one process and on two real processes with gloo."""

import json
from dataclasses import asdict, replace

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from prefixvlm.distributed.gather import gather_by_id, on_rank_zero
from prefixvlm.task.results.prediction import Prediction


def prediction(key, number=0):
    return Prediction("vqa", key, f"{key}-{number}", "is it?", f"answer to {key}", ("yes", "no"), 0.5)


def test_the_order_is_by_image_then_item():
    expected = [prediction(key, number) for key in ("a", "b", "c") for number in range(3)]
    assert gather_by_id(expected[::-1]) == expected
    assert gather_by_id(expected[4:] + expected[:4], num_keys=3) == expected


def test_an_item_that_comes_twice_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"'b-0'"):
        gather_by_id([prediction("a"), prediction("b"), prediction("c"), prediction("b")])


@pytest.mark.parametrize("num_keys", [1, 3])
def test_a_lost_or_additional_image_is_an_error_with_both_numbers(num_keys):
    with pytest.raises(ValueError, match=rf"\b2 images.*\b{num_keys}\b"):
        gather_by_id([prediction("a"), prediction("a", 1), prediction("b")], num_keys=num_keys)


def _rank(rank, folder, work):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        result = work(rank)
    except ValueError as error:
        result = f"error: {error}"
    (folder / f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def on_two_ranks(folder, work):
    """Return the result of work(rank) on each rank, or the error that it raises."""
    folder.mkdir(exist_ok=True)
    context = mp.start_processes(_rank, (folder, work), nprocs=2, join=False, start_method="fork")
    for _ in range(2):  # once for each process
        if context.join(timeout=60):
            break
    else:
        for process in context.processes:
            process.kill()
        pytest.fail("the ranks wait for each other")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def gathered(folder, ranks, num_keys=None):
    """Return the gathered (id, key) pairs of each rank. ranks: its predictions, or a string of their keys."""
    own = [[prediction(each) if isinstance(each, str) else each for each in rank] for rank in ranks]

    def work(rank):
        return [(p.id, p.key) for p in gather_by_id(own[rank], num_keys)]

    return on_two_ranks(folder, work)


def test_the_first_rank_has_everything_in_order_and_the_other_nothing(tmp_path):
    assert gathered(tmp_path, ["dbe", "ca"], num_keys=5) == [[[f"{key}-0", key] for key in "abcde"], []]


def test_all_fields_of_a_prediction_are_gathered(tmp_path):
    theirs = replace(prediction("b"), groups=("x",), values=[0.25])

    def work(rank):
        return [(asdict(p), p.values) for p in gather_by_id([[prediction("a")], [theirs]][rank])]

    first, _ = on_two_ranks(tmp_path, work)
    assert first[1] == json.loads(json.dumps([asdict(theirs), [0.25]]))


def test_a_rank_may_have_none_and_shared_items_count_once(tmp_path):
    both = [["a-0", "a"], ["b-0", "b"]]
    assert gathered(tmp_path / "none", ["ab", ""], num_keys=2) == [both, []]
    assert gathered(tmp_path / "first", ["", "ba"], num_keys=2) == [both, []]
    assert gathered(tmp_path / "padded", ["ab", "ba"], num_keys=2) == [both, []]


@pytest.mark.parametrize(
    ("ranks", "num_keys", "message"),
    [
        (["a", "bcb"], None, "the id 'b-0' comes twice"),
        (["aab", "c"], None, "the id 'a-0' comes twice"),
        (["ab", [Prediction("vqa", "c", "b-0", "", "", (), None)]], None, "the id 'b-0' comes twice"),
        (["ab", "c"], 4, "3 images were predicted, but the shards hold 4"),
        (["ab", "c"], 2, "3 images were predicted, but the shards hold 2"),
    ],
)
def test_a_wrong_set_of_items_is_the_same_error_on_every_rank(tmp_path, ranks, num_keys, message):
    first, second = gathered(tmp_path, ranks, num_keys)
    assert message in first
    assert first == second


def test_the_result_of_rank_zero_is_returned_everywhere(tmp_path):
    assert on_two_ranks(tmp_path, lambda rank: on_rank_zero(lambda: {"rank": rank})) == [{"rank": 0}] * 2


def test_only_rank_zero_does_the_work(tmp_path):
    def work(rank):
        done = []
        on_rank_zero(lambda: done.append(rank))
        return done

    assert on_two_ranks(tmp_path, work) == [[0], []]


def test_other_ranks_return_elsewhere(tmp_path):
    assert on_two_ranks(tmp_path, lambda rank: on_rank_zero(lambda: [rank, 7], elsewhere=[])) == [[0, 7], []]


@pytest.mark.parametrize("elsewhere", [None, []])
def test_an_error_on_rank_zero_is_one_everywhere(tmp_path, elsewhere):
    def fail():
        raise ValueError("rank zero cannot")

    assert on_two_ranks(tmp_path, lambda rank: on_rank_zero(fail, elsewhere)) == ["error: rank zero cannot"] * 2


def test_a_single_process_is_rank_zero():
    assert on_rank_zero(lambda: 3, elsewhere=0) == 3
    with pytest.raises(ZeroDivisionError):
        on_rank_zero(lambda: 1 / 0)
