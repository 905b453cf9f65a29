"""Weights files that open_clip models take."""

import pytest
import torch

from prefixvlm.encoder.openclip_loading import check_name


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_file_is_refused_with_what_to_set(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "openai.pt")
    with pytest.raises(ValueError, match=r"a TorchScript program .* set encoder.pretrained=openai"):
        check_name(
            "ViT-B-32-quickgelu", str(tmp_path / "openai.pt"), False, ("encoder.model_name", "encoder.pretrained")
        )
