"""timm's weights by name, through timm's own loader: ``timm/<model>.<tag>``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from maskrcnn.errors import CheckpointError
from maskrcnn.files import save_tensors, unwritten
from maskrcnn.run.named_weights import PUBLISHERS, WeightsFacts
from maskrcnn.weights.fetch import alone
from maskrcnn.weights.published import folder_of, unknown
from maskrcnn.weights.safe_load import first_line

logger = logging.getLogger(__name__)

#: Files that may be put there by hand, and the one that is made.
BY_HAND, MADE = ("model.safetensors", "pytorch_model.bin"), "weights.pth"


@PUBLISHERS.register("timm")
class TimmWeights:
    """See :class:`maskrcnn.run.named_weights.Publisher`."""

    def facts(self, name: str) -> WeightsFacts:
        """The tag's own statistics."""
        config = _config(name)
        mean, std = (tuple(255 * value for value in values) for values in (config.mean, config.std))
        return WeightsFacts(name, mean, std, licence=config.license)

    def outlook(self, name: str) -> str:
        """See there."""
        config = _config(name)
        return "" if _here(name) else f"{name} would be fetched by timm from {_address(config)}"

    def local(self, name: str) -> Path:
        """See there."""
        config, timm = _config(name), _timm(name)
        made = folder_of(name) / MADE
        with alone(made.with_name("lock"), f"another process that fetches {name}", logger.info):
            if there := _here(name):
                return there
            logger.info("fetching %s by timm from %s; licence: %s", name, _address(config), config.license)
            try:
                state = timm.create_model(name.removeprefix("timm/"), pretrained=True).state_dict()
            except Exception as error:  # whatever its hub raises without a network
                hand = " or ".join(str(made.with_name(file)) for file in BY_HAND)
                raise CheckpointError(
                    f"{name}: timm could not fetch it from {_address(config)} ({first_line(error)}); is there"
                    f" a network? Else download that file elsewhere and put it there by hand: {hand}"
                ) from None
            try:
                save_tensors(made, state)
            except OSError as error:
                raise unwritten(made, error) from None
        return made


def _here(name: str) -> Path | None:
    return next((p for n in (*BY_HAND, MADE) if (p := folder_of(name) / n).is_file()), None)


def _timm(name: str) -> Any:
    try:
        import timm  # optional, and slow to import
    except ImportError:
        raise CheckpointError(f"{name} needs the timm library: pip install timm") from None
    return timm


def _config(name: str) -> Any:
    """timm's statement of what it publishes as ``name``.

    Raises:
        CheckpointError: nothing, or the tag is missing.
    """
    timm = _timm(name)
    model, _, tag = name.removeprefix("timm/").partition(".")
    tags = timm.list_models(f"{model}.*", pretrained=True) if timm.is_model(model) else []
    if f"{model}.{tag}" in tags:
        return timm.get_pretrained_cfg(f"{model}.{tag}")
    if tags:
        names = ", ".join(f"timm/{n}" for n in tags[:10])
        raise CheckpointError(f"{name}: timm {timm.__version__} has weights of {model} as {names}")
    raise CheckpointError(
        f"{name}: {unknown(name, [f'timm/{n}' for n in timm.list_models(pretrained=True)])}"
    )


def _address(config: Any) -> str:
    if config.hf_hub_id:
        return (
            f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{config.hf_hub_filename or BY_HAND[0]}"
        )
    return str(config.url)
