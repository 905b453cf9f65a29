"""examples/consensus_alone.py: each image gets training captions of its own colour, and these are scored."""

import runpy
from pathlib import Path

import prefixvlm
from prefixvlm.data.image import decode_image
from prefixvlm.data.shards.write import write_shards
from prefixvlm.inference.captioner import Captioner
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.consensus import Consensus
from tests.task.results.test_consensus import BEAMS, COLOURS, raw
from tests.test_end_to_end import ROOT
from tests.training.test_module import module_of


def test_the_captions_of_the_same_colour_are_chosen_and_scored(tmp_path, monkeypatch, capsys):
    splits = {split: raw(lambda name: [f"here is a {name} thing"]) for split in ("train", "val")}
    write_shards(splits, tmp_path / "shards", "a test", "none")
    task = Captioning(decoding=BEAMS, consensus=Consensus(str(tmp_path / "shards"), ridge=0.01))
    model = Captioner.of(module_of(tasks={"captioning": task}), decode_image, Path("none"))
    monkeypatch.setattr(prefixvlm, "load", lambda checkpoint: model)
    runpy.run_path(str(ROOT / "examples" / "consensus_alone.py"))["main"]("none", "val")
    # Every caption is its image's own reference; n-grams that all images share weigh nothing.
    assert f"CIDEr-D 10.000, {len(COLOURS)} distinct captions of {len(COLOURS)}" in capsys.readouterr().out
