"""A planned run, as what its steps ask of a machine: what predictions are made of."""

from fla.config.schema import Stage2Config
from fla.plan.length import Clips
from fla.plan.run import RunPlan
from fla.plan.scaling import Workload
from fla.plan.traffic import Trained

_FEATURE_BYTES = 2
_USUAL_FPS = 25.0
"""Assumed where no manifest tells the rate of recordings."""


def build_workload(plan: RunPlan, config: Stage2Config, *, most_clips: int) -> Workload:
    """Say what the steps of a run ask for.

    Args:
        plan: Of the run.
        config: Of the run.
        most_clips: Of a step. Without manifests there are as many, all as long as the settings
            allow.
    """
    data, length = config.data, plan.length
    if length is None:
        frames, tokens = (data.max_frames,), (config.text.max_tokens,)
        clips = Clips(frames=most_clips * frames, tokens=most_clips * tokens)
        decoded = max(1.0, _USUAL_FPS / data.target_fps) if data.target_fps else data.frame_stride
    else:
        clips = length.clips
        decoded = length.num_recorded_frames / sum(clips.frames)
    is_cached = config.features.mode == "cached"
    return Workload(
        llm=plan.llm,
        trained=_describe(plan),
        sharding=plan.sharding,
        encoder=plan.encoder,
        checkpoints=config.model.gradient_checkpointing,
        feature_width=plan.batch.feature_width,
        clips=clips,
        frames_per_batch=data.frames_per_batch,
        seed=config.seed,
        decoded_per_frame=0.0 if is_cached else float(decoded),
        read_per_frame=float(plan.batch.feature_width * _FEATURE_BYTES) if is_cached else 0.0,
    )


def _describe(plan: RunPlan) -> Trained:
    sizes = [size for group in plan.model.groups for size in group]
    num_matrices = sum(size > plan.sharding.persistence_threshold for size in sizes)
    return Trained(
        num_elements=plan.model.num_elements,
        num_matrices=num_matrices,
        num_vectors=len(sizes) - num_matrices,
    )
