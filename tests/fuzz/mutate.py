"""Seeded mutations of files: of bytes, lines and cells, of the tree that JSON and YAML hold, of headers of a tar."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePath
from random import Random
from typing import Any

import torch
import yaml

BLOCK = tarfile.BLOCKSIZE
# What takes the place of a value in a tree: other types, limits, and what attacks are made of.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2**31, -(2**63), 2**64, 10**12, 10**30, 10**400, 0.5, -0.0, 1e308, -1e-320,
    float("inf"), float("nan"), "", " ", "\n", "a\nb", "\x00", "\x1b[2J", "\ud800", "\u2028", "\u00e4\u0308", "null",
    "-1", "1e999", "x" * 300, "../../etc/passwd", "/etc/passwd", ".", "..", "a/b", "http://127.0.0.1:1/{split}.tar",
    "${oc.env:HOME}", "${missing}", "${", "{split}", "os.system", [], {}, [None], [[]], {"": ""}, {"a": {"b": [1]}},
    {"_target_": "os.system", "command": "true"}, {"_target_": None}, {"_args_": [1]}, ["x", 1],
)  # fmt: skip
WORDS = (
    "=", "==", "+", "++", "~", "~seed", "@", "--", "-m", "--multirun", "--help", "--cfg", "job", "--info", "--resolve",
    "-c", "--package", "--config-dir", "--config-name", "conf", "[", "[]", "]", "{", "{}", "{a:1}", "${", "${seed}",
    "${oc.env:NONE}", "range(0,3)", "range(0,100000000)", "range(3,0)", "choice(1,2)", "choice()", "interval(0,1)",
    "glob(*)", "shuffle(1,2)", "sort(3,1)", "tag(a,1)", "float(x)", "1,2", ",", "null", "nan", "-1", "1e999",
    "9" * 400, "'", '"', "\\", "\t", "\n", "\u00e4", "\udcff", "seed", "task", "mapper", "mapper=linear",
    "mapper/x=y", "encoder=null", "trainer.devices=-1", "tune=lora", "task=[vqa,captioning]", "+experiment=x",
    "optim.lr", "data.shards", "callbacks.x._target_=os.system", "callbacks", "hydra.sweep.dir=x", "hydra/launcher=x",
    "init_from=.", "monitor=x", "plugins=[os]", "objectives=[a]", "logger=csv", "data=null",
)  # fmt: skip


def mutated(name: str, data: bytes, rng: Random) -> bytes:
    """Return damaged content of a file. name: its suffix says which mutations there are besides those of bytes."""
    suffix = PurePath(name).suffix
    kinds = OF_SUFFIX.get(suffix, ())
    kind = rng.choice(kinds) if kinds and rng.random() < 0.8 else rng.choice(OF_BYTES)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        try:
            data = kind(data, rng)
        except (ValueError, IndexError):  # what is left has no such structure
            break
    return data


def flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 5, 50))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def cut_out(data: bytes, rng: Random) -> bytes:
    first = rng.randrange(len(data))
    return data[:first] + data[first + rng.choice((1, 10, 100, BLOCK, 2 * BLOCK)) :]


def insert(data: bytes, rng: Random) -> bytes:
    place, size = rng.randrange(len(data)), rng.choice((1, 10, 100, BLOCK))
    return (
        data[:place]
        + rng.choice((bytes(size), rng.randbytes(size), b'"', b"[" * 20_000, b"\xef\xbb\xbf"))
        + data[place:]
    )


def _blocks(data: bytes) -> list[bytes]:
    return [data[first : first + BLOCK] for first in range(0, len(data), BLOCK)]


def swap_blocks(data: bytes, rng: Random) -> bytes:
    blocks = _blocks(data)
    first, second = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


def repeat_blocks(data: bytes, rng: Random) -> bytes:
    blocks = _blocks(data)
    first, place = rng.randrange(len(blocks)), rng.randrange(len(blocks))
    blocks[place:place] = blocks[first : first + rng.randrange(1, 8)]
    return b"".join(blocks)


def zero_block(data: bytes, rng: Random) -> bytes:
    blocks = _blocks(data)
    blocks[rng.randrange(len(blocks))] = bytes(BLOCK)
    return b"".join(blocks)


def header(data: bytes, rng: Random) -> bytes:
    """Change a header of a tar, mostly with a correct checksum, so that tarfile accepts it."""
    changed = bytearray(data)
    first = rng.choice([place for place in range(0, len(data), BLOCK) if data[place + 257 : place + 262] == b"ustar"])
    field = rng.choice((range(124, 136), range(156, 157), range(0, 20), range(345, 500)))
    for _ in range(rng.choice((1, 3))):
        changed[first + rng.choice(field)] = rng.choice((rng.randrange(256), rng.choice(b"01234567xgLKSVD\x80\xff")))
    if rng.random() < 0.7:
        total = tarfile.calc_chksums(bytes(changed[first : first + BLOCK]))[0]
        changed[first + 148 : first + 156] = b"%06o\0 " % total
    return bytes(changed)


def image(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    place = rng.choice([data.find(mark) for mark in (b"\xff\xd8\xff", b"\x89PNG", b"RIFF")])
    for _ in range(rng.choice((1, 10))):
        changed[place + rng.randrange(400)] = rng.randrange(256)
    return bytes(changed)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of each value in a tree."""
    for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(child, dict | list):
            yield from _places(child)


def damage_tree(tree: Any, rng: Random) -> Any:
    """Return a tree of dicts and lists with one change."""
    places = list(_places(tree)) if isinstance(tree, dict | list) else []
    if not places or rng.random() < 0.02:
        return rng.choice(VALUES)
    node, key = rng.choice(places)
    action = rng.randrange(10)
    if action < 5:
        node[key] = rng.choice(VALUES)
    elif action == 5:
        del node[key]
    elif action == 6:
        other, where = rng.choice(places)
        node[key], other[where] = other[where], node[key]
    elif action == 7:
        node[key] = rng.choice(([node[key]], {"a": node[key]}, [node[key]] * 3, str(node[key])))
    elif isinstance(node, list):
        node += node[key:] + node[key:]
    else:
        node[str(rng.choice(VALUES))[:20] if action == 8 else f"{key}s"] = node.pop(key)
    return tree


def json_tree(data: bytes, rng: Random) -> bytes:
    text = json.dumps(damage_tree(json.loads(data), rng), ensure_ascii=rng.random() < 0.8)
    return text.encode("utf-8", "surrogatepass")


def yaml_tree(data: bytes, rng: Random) -> bytes:
    return yaml.safe_dump(damage_tree(yaml.safe_load(data), rng)).encode("utf-8", "surrogatepass")


def json_line(data: bytes, rng: Random) -> bytes:
    lines = data.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = json_tree(lines[number], rng)
    return b"\n".join(lines)


def _pieces(separator: bytes, values: tuple[Any, ...]) -> Callable[[bytes, Random], bytes]:
    """Return a mutation of what stands between separators."""

    def mutation(data: bytes, rng: Random) -> bytes:
        pieces = data.split(separator)
        first, second, action = rng.randrange(len(pieces)), rng.randrange(len(pieces)), rng.randrange(5)
        value = str(rng.choice(values)).encode("utf-8", "surrogateescape" if separator == b"\n" else "surrogatepass")
        if action == 0:
            pieces[first], pieces[second] = pieces[second], pieces[first]
        elif action == 1:
            pieces[first:first] = pieces[second : second + rng.choice((1, 1, 3))]
        elif action == 2:
            del pieces[first]
        elif action == 3:
            pieces[first] = value
        else:
            place = rng.randrange(len(pieces[first]) + 1)
            pieces[first] = pieces[first][:place] + value + pieces[first][place + rng.choice((0, 1, 99)) :]
        return separator.join(pieces)

    return mutation


def checkpoint_tree(data: bytes, rng: Random) -> bytes:
    """Change what a checkpoint holds besides its tensors."""
    checkpoint = torch.load(io.BytesIO(data), weights_only=True)
    part = rng.choice(([checkpoint], [checkpoint["prefixvlm"]], [checkpoint["prefixvlm"]["config"]]))
    damage_tree(part[0], rng)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def checkpoint_member(data: bytes, rng: Random) -> bytes:
    """Change the bytes of a member of a checkpoint's archive, mostly of the pickle, with a right checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as file:
        members = source.infolist()
        chosen = rng.choice(
            [each for each in members if rng.random() < 0.1 or each.filename.endswith(".pkl")] or members
        )
        for each in members:
            content = source.read(each)
            file.writestr(each.filename, rng.choice(OF_BYTES)(content, rng) if each is chosen else content)
    return buffer.getvalue()


OF_BYTES = (flip, flip, cut, cut_out, insert, swap_blocks, repeat_blocks, zero_block)
_cells, _lines = _pieces(b",", VALUES), _pieces(b"\n", VALUES)
OF_SUFFIX: dict[str, tuple[Callable[[bytes, Random], bytes], ...]] = {
    ".tar": (*OF_BYTES, header, header, header, image, image),
    ".json": (json_tree,),
    ".jsonl": (json_line, json_line, _lines),
    ".yaml": (yaml_tree, yaml_tree, _lines),
    ".csv": (_cells, _lines),
    ".tsv": (_pieces(b"\t", VALUES), _lines),
    ".log": (_lines,),
    ".words": (_pieces(b"\n", WORDS), _pieces(b"\n", WORDS), _pieces(b"=", WORDS), _pieces(b".", WORDS)),
    ".ckpt": (checkpoint_tree, checkpoint_tree, checkpoint_member),
}
