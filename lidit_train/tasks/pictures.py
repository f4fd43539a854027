"""What the tasks share that learn from captioned pictures: how their data is checked and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from ..data.autoencoders.find import find_autoencoder
from ..data.fetching import Fetcher
from ..data.held_out import HeldOut
from ..data.loader import Loader
from ..data.prepare import Prepared, prepare, unused, used_branches
from ..input_spec import InputSpec
from ..loop.computing.frozen import holds_half
from ..loop.parallel import share_of
from ..loop.validating.held_out_loss import HeldOutLoss
from ..recipe import Recipe


class PictureTask:
    """The part of `lidit_train.tasks.task.Task` that reads pictures and captions."""

    recipe: Recipe
    spec: InputSpec
    checkpoint: Path | None  # the model beside which its autoencoder may lie

    def check_data(self) -> None:
        """Look for the autoencoder, and at the sizes of what is drawn."""
        self.recipe.validation.check_sizes(self.spec.grain)
        latent = self.spec.latent
        find_autoencoder(self.recipe.model.vae, latent, self.checkpoint).check(latent)

    def read_llms(self) -> list[str]:
        """The names of the LLMs that some step reads."""
        used = used_branches(self.recipe.stages, self.recipe.validation, self.spec)
        return [self.spec.llms[i].name for i in used]

    def prepare(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> Prepared:
        """Open the sources and fill the caches."""
        own = partial(self.take_texts, out, accelerator)
        return prepare(self.recipe, self.spec, out, accelerator, llms, self.checkpoint, own)

    def take_texts(self, out: Path, accelerator: Accelerator, texts: Sequence[str]) -> None:
        """Make ready what a task needs of texts beside the LLMs' states; here nothing.

        Args:
            out: the run's folder.
            texts: captions, validation's prompts and the empty one, each once.
        Raises:
            LiDiTError: it cannot be had of some text.
        """

    def loader(self, ready: Prepared, accelerator: Accelerator) -> Loader:
        """The batches of this process."""
        fetcher = Fetcher(self.recipe, ready, share_of(accelerator))
        return Loader(fetcher, ready, accelerator.device)

    def held_out(
        self, ready: Prepared, loader: Loader, accelerator: Accelerator
    ) -> HeldOutLoss | None:
        """What measures pictures that are held out, where the recipe has some."""
        if not self.recipe.validation.held_out:
            return None
        half = holds_half(self.recipe.compute, accelerator.mixed_precision == "bf16")
        held = HeldOut(self.recipe, ready, loader.fetcher)
        return HeldOutLoss(held, loader, accelerator, half)

    def unused(self, out: Path, accelerator: Accelerator, llms: Mapping[str, str]) -> list[Path]:
        """Files in the caches that hold nothing it reads."""
        return unused(self.recipe, self.spec, out, accelerator, llms, self.checkpoint)
