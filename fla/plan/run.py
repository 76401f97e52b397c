"""Plan of a stage-2 run before it starts: what its model is, and what a rank will hold.

Of the LLM only config.json is read; its modules are built without memory. With manifests and a
tokenizer the largest micro-batch is that of the first epoch, without them the largest possible.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fla.build import build_encoder, feature_width
from fla.config.check import check_batches
from fla.config.deepspeed import read_deepspeed_config
from fla.config.schema import Stage2Config
from fla.config.sharding import Sharding, read_sharding
from fla.description import EncoderShape, read_description
from fla.errors import CheckpointError
from fla.models.adapters import Adapter
from fla.models.llm import build_llm
from fla.optim import decay_groups
from fla.plan.activations import Activations, BatchShape, LlmShape, plan_activations, plan_beams
from fla.plan.flops import EncoderWork, count_encoder
from fla.plan.length import RunLength, has_splits, largest_batch, measure_run
from fla.plan.memory import MemoryPlan, Surroundings, TrainedModel, plan_memory

_FP32, _BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will take."""

    model: TrainedModel
    llm: LlmShape
    encoder: EncoderWork
    sharding: Sharding
    batch: BatchShape
    """The micro-batch that needs most."""
    num_micro_batches: int
    """Of a step on one rank."""
    memory: MemoryPlan
    length: RunLength | None
    """None: there are no manifests, or no tokenizer."""

    @property
    def num_parameters(self) -> int:
        """That are trained."""
        return self.model.num_elements


def plan_run(config: Stage2Config, *, world_size: int) -> RunPlan:
    """Plan a run; neither a GPU nor the weights are needed.

    Args:
        config: Of the run; `model.llm_dir` holds at least a config.json.
        world_size: Ranks.

    Raises:
        FlaError: Something that the user can fix.
    """
    check_batches(config.train, world_size)
    sharding = _read_sharding(config, world_size)
    llm, shape = _build_llm(Path(config.model.llm_dir))
    encoder_shape = _read_encoder_shape(config)
    width = feature_width(encoder_shape)
    adapter = _on_meta(lambda: Adapter(in_width=width, out_width=shape.width))
    encoder = _on_meta(lambda: build_encoder(encoder_shape))
    frozen, trained = encoder.split(config.model.freeze)
    model = _count_trained(adapter, llm, trained)
    length = None
    batches: tuple[BatchShape, ...] = (largest_batch(config, feature_width=width),)
    num_micro_batches = config.train.global_batch_size // (
        config.train.micro_batch_size * world_size
    )
    if has_splits(config):
        length = measure_run(config, world_size=world_size, feature_width=width)
        batches, num_micro_batches = length.micro_batches, length.most_micro_batches
    activations, batch = _plan_largest(shape, batches, config, sharding)
    if config.model.freeze == "nothing" and encoder.backbone is not None:
        activations = _with_backbone(activations, encoder.backbone, batch, config.data.crop_px)
    runs_frozen = frozen is not None and config.features.mode == "online"
    frames = batch.num_real_frames * 3 * config.data.crop_px**2
    ahead = max(config.data.prefetch_batches, num_micro_batches)
    surroundings = Surroundings(
        encoder=0 if frozen is None else sum(_BF16 * t.numel() for t in _tensors(frozen)),
        # What is decoded ahead, and the step that is encoded or trained on.
        frames=(ahead + num_micro_batches) * _FP32 * frames
        if config.features.mode == "online"
        else 0,
        # It reads a copy in its own type.
        encoder_pass=_BF16 * frames + int(config.features.encoder_memory_gib * 2**30)
        if runs_frozen
        else 0,
        has_average=config.train.ema_decay > 0,
        beams=_plan_beams(shape, config, sharding),
    )
    return RunPlan(
        model=model,
        llm=shape,
        encoder=EncoderWork(
            frozen=count_encoder(frozen, config.data.crop_px) if runs_frozen else 0.0,
            trained=count_encoder(trained, config.data.crop_px),
        ),
        sharding=sharding,
        batch=batch,
        num_micro_batches=num_micro_batches,
        memory=plan_memory(
            model,
            sharding,
            world_size=world_size,
            activations=activations,
            num_micro_batches=num_micro_batches,
            surroundings=surroundings,
        ),
        length=length,
    )


def _read_sharding(config: Stage2Config, world_size: int) -> Sharding:
    deepspeed_config = read_deepspeed_config(
        Path(config.deepspeed),
        micro_batch_size=config.train.micro_batch_size,
        world_size=world_size,
        max_grad_norm=config.optim.max_grad_norm,
        # The plan is for GPUs, wherever it is made.
        has_gpu=True,
        global_batch_size=config.train.global_batch_size,
    )
    return read_sharding(deepspeed_config)


def _build_llm(folder: Path) -> tuple[Any, LlmShape]:
    path = folder / "config.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # mbart-large-cc25 names no first token; which one it is takes no memory.
        fields |= {"decoder_start_token_id": fields.get("decoder_start_token_id") or 0}
        llm = _on_meta(lambda: build_llm(fields))
    except FileNotFoundError:
        raise CheckpointError(
            f"model.llm_dir ({folder}): there is no config.json. Give a folder in Hugging Face "
            "format; its weights are not needed for a plan."
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: no LLM can be built by it ({error}). Restore the file."
        ) from error
    return llm, _read_shape(llm.config)


def _read_shape(config: Any) -> LlmShape:
    if hasattr(config, "d_ff"):
        return LlmShape(
            width=config.d_model,
            ffn_width=config.d_ff,
            num_heads=config.num_heads,
            num_encoder_layers=config.num_layers,
            num_decoder_layers=config.num_decoder_layers,
            vocab_size=config.vocab_size,
            # T5 drops hidden values, too.
            hidden_tensors=8 if config.feed_forward_proj == "gated-gelu" else 3,
            is_t5=True,
        )
    return LlmShape(
        width=config.d_model,
        ffn_width=max(config.encoder_ffn_dim, config.decoder_ffn_dim),
        num_heads=config.encoder_attention_heads,
        num_encoder_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        vocab_size=config.vocab_size,
        hidden_tensors=1 if config.activation_function == "relu" else 2,
    )


def _read_encoder_shape(config: Stage2Config) -> EncoderShape:
    """Of the export, where there is one already."""
    model = config.model
    folder = Path(model.encoder_export)
    if model.encoder_export and (folder / "config.json").is_file():
        description = read_description(folder)
        shape, light_t = description.encoder, str(description.translator.get("size", "base"))
    else:
        shape = EncoderShape(sign_width=model.sign_width, kernel_size=model.kernel_size)
        light_t = "base"
    return replace(
        shape,
        input_features=model.input_features,
        light_t=light_t if model.input_features == "light_t" else "",
    )


def _count_trained(adapter: nn.Module, llm: Any, trained: nn.Module | None) -> TrainedModel:
    parts: list[nn.Module] = [adapter, llm] if trained is None else [adapter, llm, trained]
    groups = [
        group["params"]
        for part in parts
        for group in decay_groups([part], learning_rate=0.0, weight_decay=0.0, name="")
    ]
    embedding = llm.get_input_embeddings().weight
    is_tied = embedding is llm.get_output_embeddings().weight
    return TrainedModel(
        groups=tuple(tuple(p.numel() for p in group) for group in groups),
        buffer_bytes=sum(b.nbytes for part in parts for b in part.buffers()),
        tied_elements=embedding.numel() if is_tied else 0,
    )


def _plan_largest(
    shape: LlmShape,
    batches: Iterable[BatchShape],
    config: Stage2Config,
    sharding: Sharding,
) -> tuple[Activations, BatchShape]:
    planned = (
        (
            plan_activations(
                shape,
                batch,
                precision=sharding.precision,
                has_dropout=config.model.dropout > 0,
                checkpoints=config.model.gradient_checkpointing,
            ),
            batch,
        )
        for batch in batches
    )
    return max(planned, key=lambda pair: pair[0].peak)


def _with_backbone(
    activations: Activations, backbone: nn.Module, batch: BatchShape, crop_px: int
) -> Activations:
    """Add what the backbone keeps where it is trained; float32, so a bound under autocast."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor)] = tensor
        return tensor

    frame = torch.empty(1, 3, crop_px, crop_px, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(frame)
    weights = {id(parameter) for parameter in _tensors(backbone)}
    of_frame = sum(t.nbytes for t in kept.values() if id(t) not in weights and t.ndim == 4)
    return replace(activations, saved=activations.saved + of_frame * batch.num_real_frames)


def _plan_beams(shape: LlmShape, config: Stage2Config, sharding: Sharding) -> int:
    return plan_beams(
        shape,
        num_clips=config.beam.batch_size,
        max_frames=config.data.max_frames,
        num_beams=max(config.beam.num_beams, config.beam.num_hypotheses),
        max_new_tokens=config.beam.max_new_tokens,
        weight_bytes=sharding.weight_bytes,
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _on_meta(build: Any) -> Any:
    with torch.device("meta"):
        return build()
