"""The consensus of a checkpoint without its language model: of all training captions, one for each image of a split.

python examples/consensus_alone.py outputs/photos/checkpoints/best.ckpt val
It prints their CIDEr-D, as a baseline of the model with its consensus.
"""

import sys

import prefixvlm
from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.resolve import resolve_shards
from prefixvlm.metrics.captions.cider import cider
from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize


def main(checkpoint: str, split: str) -> None:
    model = prefixvlm.load(checkpoint)
    consensus = model.module.tasks["captioning"].consensus

    def samples(split: str) -> list[Sample]:
        paths = resolve_shards(consensus.shards, split)
        return [decode(key, members, path.name) for path in paths for key, members in read_shard(path)]

    captions = list(dict.fromkeys(text for sample in samples("train") for text in sample.captions))
    found, truth = {}, {}
    for sample in samples(split):
        batch = model.batch([Row((sample.image,))])
        (found[sample.key],) = consensus.choose(model.module.model, batch, [captions])
        truth[sample.key] = [ptb_tokenize(text) for text in sample.captions]
    score, _ = cider({key: ptb_tokenize(text) for key, text in found.items()}, truth)
    print(f"CIDEr-D {score:.3f}, {len(set(found.values()))} distinct captions of {len(found)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
