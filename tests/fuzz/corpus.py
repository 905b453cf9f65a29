"""Inputs that were once a fault: target, file and content."""

CORPUS: list[tuple[str, str, bytes]] = [
    ("vqa", "questions.json", b'{"data_subtype": "a\\nb", "questions": []}'),
    ("vqa", "questions.json", b'{"questions": [{"image_id": 0, "question": "what?", "question_id": "\\n"}]}'),
    ("vqa", "vizwiz.json", b'[{"image": "v.j%s", "question": "what?", "answers": []}]' % (b"[" * 20_000)),
    ("coco", "captions.json", b'{"images": [{"id": 1, "file_name": "\\ud800.jpg"}], "annotations": []}'),
    ("options", "options.json", b'{"trainer": {"_target_": "lightning.pytorch.Trainer", "\\n": 1}}'),
    ("options", "options.json", b'{"mapper": {"_target_": "prefixvlm.mapper.mlp%s.MLPMapper"}}' % (b"[" * 20_000)),
    ("commands", "mine/experiment/mine.yaml", b"# @package _global_\nseed: \x82\n"),
    ("commands", "mine/experiment/mine.yaml", b"# @package _global_\ndefaults: {a: b}\n"),
    ("commands", "mine/experiment/mine.yaml", b"# @package _global_\ndefaults:\n- [1]\n"),
    ("commands", "sweep.words", b"train\n-m\nseed=range(0,1000000000)"),
]
