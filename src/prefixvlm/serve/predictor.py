"""Image files and perhaps a question go in, a caption or an answer for each comes out."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from prefixvlm.build import build_module
from prefixvlm.data.sample import Question, Sample, decode_image
from prefixvlm.training.checkpoint import KEY, load
from prefixvlm.training.module import PrefixModule


class Predictor:
    """A checkpoint, rebuilt once, for any number of calls."""

    def __init__(self, checkpoint: str | Path) -> None:
        loaded = load(checkpoint)
        module = build_module(OmegaConf.create(loaded[KEY]["config"]))
        assert isinstance(module, PrefixModule), "only a PrefixModule has the checkpoint's trained tensors"
        module.load_trained(loaded)
        self.module = module
        self.module.eval()

    def __call__(self, images: Sequence[Path], question: str | None = None) -> list[str]:
        """Raises ValueError if the checkpoint was not trained for it, or for a file that is no image."""
        name = "captioning" if question is None else "vqa"
        if name not in self.module.tasks:
            trained = ", ".join(self.module.tasks)
            raise ValueError(f"the checkpoint was trained for {trained}, not for {name}; train one with task={name}")
        task, collate = self.module.tasks[name], self.module.test_collates[name].collate
        questions = () if question is None else (Question("0", question, ("",)),)
        rows = []
        for path in images:
            try:
                image = decode_image(path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            rows += task.prompt_rows(Sample(str(path), image, captions=("",), questions=questions))
        batch = collate(rows, False, name).to(self.module.device)
        return [prediction.prediction for prediction in task.predict(self.module.model, batch)]
