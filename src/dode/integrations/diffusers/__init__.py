"""dode in diffusers: tableaux as a scheduler, and a pipeline as a network.

result = dode.distill(pipe, "deis", nfe=(4, 6, 8), prompts=[...], guidance_scale=5.0)
pipe.scheduler = DodeScheduler.from_tableaux(result, pipe.scheduler.config)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "scheduler": ["DodeScheduler"],
        "driver": ["drive"],
        "saved": ["save_scheduler"],
        "class_conditional": ["ClassConditionalPipeline", "fashion_pipeline"],
    },
)
