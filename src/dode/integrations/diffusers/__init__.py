"""dode in diffusers: tableaux as a scheduler, and a pipeline as a network.

result = dode.distill(pipe, "deis", nfe=(4, 6, 8), prompts=[...], guidance_scale=5.0)
pipe.scheduler = DodeScheduler.from_tableaux(result, pipe.scheduler.config)
"""

from typing import Any

import lazy_loader

_attribute, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "scheduler": ["DodeScheduler"],
        "driver": ["drive"],
        "saved": ["save_scheduler"],
        "class_conditional": ["ClassConditionalPipeline", "fashion_pipeline"],
    },
)


def __getattr__(name: str) -> Any:
    try:
        return _attribute(name)
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if library not in ("diffusers", "transformers", "accelerate"):
            raise
        raise ImportError(f"dode.integrations.diffusers needs {library}: pip install dode[diffusers]", name=library) from error
