"""Weights files that open_clip models take."""

import hashlib
import json

import open_clip
import pytest
import torch

from prefixvlm.encoder.openclip_loading import check_name

KEYS = ("encoder.model_name", "encoder.pretrained")
NAMES = ("ViT-B-32", "ViT-B-32-quickgelu")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_refused_with_what_to_set(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "openai.pt")
    with pytest.raises(ValueError, match=r"a TorchScript program .* set encoder.pretrained=openai"):
        check_name("ViT-B-32-quickgelu", str(tmp_path / "openai.pt"), False, KEYS)


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"any")
    return str(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_does_not_say_its_activation_is_taken_with_a_word(weights, name, caplog):
    check_name(name, weights, False, KEYS)
    assert [record.getMessage() for record in caplog.records] == [
        f"the file {weights} does not say whether its weights were trained with GELU (encoder.model_name=ViT-B-32) or "
        f"QuickGELU (ViT-B-32-quickgelu), as OpenAI's were; {name} is taken: check it where the file comes from"
    ]


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("told_by", ["hash", "configuration beside it"])
def test_a_file_whose_activation_is_known_is_taken_under_its_own_name_only(
    weights, tmp_path, quick, told_by, monkeypatch, caplog
):
    if told_by == "hash":
        digest = hashlib.sha256(b"any").hexdigest()
        for name in NAMES:
            tag = {"url": f"https://a.b/released-{digest[:8]}.pt", "quick_gelu": quick}
            monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"released": tag})
    else:
        config = {"model_cfg": {"quick_gelu": True} if quick else {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    check_name(NAMES[quick], weights, False, KEYS)
    with pytest.raises(ValueError, match=f"trained with another activation: set encoder.model_name={NAMES[quick]}$"):
        check_name(NAMES[not quick], weights, False, KEYS)
    assert not caplog.records


def test_a_model_with_one_activation_takes_a_file_without_a_word(weights, caplog):
    check_name("ViT-B-16-SigLIP", weights, False, KEYS)
    assert not caplog.records
