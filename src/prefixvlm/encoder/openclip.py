"""Image encoders of open_clip: CLIP, SigLIP and others."""

from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor

from prefixvlm.encoder.loading import RANDOM, check_random, fixed_random_weights, on_meta
from prefixvlm.encoder.local_clip import KEYS
from prefixvlm.encoder.openclip_loading import check_name, load_clip
from prefixvlm.encoder.pretrained import PretrainedEncoder
from prefixvlm.encoder.transforms import open_clip_transform
from prefixvlm.options.ranges import Positive, Size


class OpenClipEncoder(PretrainedEncoder):
    """Image encoder of an open_clip model (ViT, ModifiedResNet or timm); see PretrainedEncoder.

    model_name: an open_clip name, or local-dir:PATH of a folder with open_clip_config.json and weights.
    pretrained: a tag of that name, a weights file, or "random" for a frozen control; None with local-dir, which has
        weights of its own, or to train from scratch.
    features: "pooled" is the vector that CLIP compares with the text's.
    layer: stage of a ModifiedResNet, from 0, the stem, to 4.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: str | None = None,
        features: str = "pooled",
        layer: int | list[int] | None = None,
        normalize: bool = False,
        trained: bool = False,
        dtype: str = "float32",
        image_size: Size | None = None,
        average_pooling: Positive = 1,
        pixel_shuffle: Positive = 1,
        exact_pixels: bool = True,
    ) -> None:
        super().__init__(features, layer, normalize, trained, dtype, image_size, average_pooling, pixel_shuffle)
        check_random(pretrained, trained)
        empty = pretrained == RANDOM or on_meta()
        check_name(model_name, None if empty else pretrained, trained or empty, KEYS)
        with fixed_random_weights(pretrained):
            # The text encoder is dropped; create_model cannot leave it out.
            self.visual = load_clip(model_name, pretrained, KEYS, image_size, empty).visual
        if hasattr(self.visual, "output_tokens"):
            self.visual.output_tokens = False  # CoCa's configs set it, and forward would return a tuple
        if isinstance(self.visual, ModifiedResNet):
            self._resize_resnet(image_size)
        self.transform = open_clip_transform(self.visual.preprocess_cfg, exact_pixels)
        size = self.visual.image_size
        self.infer_shapes(*((size, size) if isinstance(size, int) else size))

    def _resize_resnet(self, image_size: int | None) -> None:
        """Set the image size of a ModifiedResNet, and drop the attention pool where patches are read."""
        # Convolutions take any size. The attention pool has one position embedding per patch, and open_clip does not
        # interpolate them as it does a ViT's.
        if not self.pooled:
            self.visual.attnpool = None
        if image_size is None or image_size == self.visual.image_size:
            return
        if self.pooled:
            raise ValueError(
                f"encoder.image_size is {image_size}, but this attention pool has positions for "
                f"{self.visual.image_size} only: set encoder.image_size=null or encoder.features=patch"
            )
        self.visual.image_size = image_size
        self.visual.preprocess_cfg["size"] = image_size

    def _pooled(self, pixel_values: Tensor) -> Tensor:
        return self.visual(pixel_values)

    def _maps(self, pixel_values: Tensor) -> list[Tensor]:
        output = self.visual.forward_intermediates(
            pixel_values,
            indices=1 if self.layers is None else self.layers,
            # CoCa's last norm belongs to its attention pooling and has another width.
            normalize_intermediates=self.layers is None and getattr(self.visual, "attn_pool", None) is None,
            intermediates_only=True,
            # open_clip 3.3's ModifiedResNet tests stop_early the wrong way round (modified_resnet.py, line 211).
            stop_early=not isinstance(self.visual, ModifiedResNet),
        )
        return output["image_intermediates"]
