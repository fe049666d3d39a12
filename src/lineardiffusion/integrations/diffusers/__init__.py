"""diffusers: its models in the samplers of this library, and processes of this library in its pipelines.

`from_diffusers` and `sampler_from_diffusers` read what others trained; `LinearDiffusionScheduler` is a scheduler for
any process and solver, `LinearDiffusionPipeline` a pipeline for those whose shape grows.
"""

from lineardiffusion._checks import missing

try:
    from lineardiffusion.integrations.diffusers.models import Pretrained as Pretrained
    from lineardiffusion.integrations.diffusers.models import from_diffusers as from_diffusers
    from lineardiffusion.integrations.diffusers.pipeline import LinearDiffusionPipeline as LinearDiffusionPipeline
    from lineardiffusion.integrations.diffusers.samplers import sampler_from_diffusers as sampler_from_diffusers
    from lineardiffusion.integrations.diffusers.scheduler import LinearDiffusionScheduler as LinearDiffusionScheduler
except ModuleNotFoundError as error:
    raise missing("diffusers", error) from error
