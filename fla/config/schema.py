"""Every key of every run: name, type, default, meaning. Nothing here is computed.

`load.py` fills these values from a recipe and `key=value` words, `check.py` holds the rules across
keys. Sources of numbers: Chen et al., "Factorized Learning Assisted with Large Language Model for
Gloss-free Sign Language Translation", LREC-COLING 2024, unless a docstring names another.
"""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

ProtocolName = Literal[
    "text",
    "phoenix14t",
    "phoenix14t-period",
    "csl-daily-char",
    "csl-daily-char-nfkc",
    "how2sign",
    "how2sign-rbleu",
]
"""Of `fla.metrics.protocols.PROTOCOLS`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    manifest_dir: str = MISSING
    """Folder with train.tsv, dev.tsv and test.tsv, as an importer wrote it."""
    video_root: str = ""
    """Folder that video paths are relative to; empty: the one that the manifests name."""
    frame_stride: int = 4
    """One frame in so many reaches the encoder (paper: 4, table 6)."""
    target_fps: float = 0.0
    """Frames a second that reach it instead, whatever a recording's rate; 0: by frame_stride."""
    max_frames: int = 75
    """Most frames a clip, counted after the stride; longer clips are thinned evenly."""
    resize_px: int = 256
    """Frames are resized to a square of this many pixels a side."""
    crop_px: int = 224
    """Side of the square that the encoder sees, in pixels: random in training, else centered."""
    augment: bool = True
    """Random crop, rotation, scale and shift in training, one draw a clip."""
    max_rotation_deg: float = 30.0
    """Largest rotation in degrees (GFSLT-VLP)."""
    max_rescale_fraction: float = 0.2
    """Largest change of scale, as a fraction of the frame (GFSLT-VLP)."""
    max_shift_fraction: float = 0.04
    """Largest shift, as a fraction of the resized frame's side (GFSLT-VLP: 10 of 256 px)."""
    frames_per_batch: int = 600
    """Most frames of one micro-batch, all its clips together: the memory of a step."""
    num_threads: int = 2
    """Decoding threads a rank."""
    prefetch_batches: int = 4
    """Most micro-batches decoded ahead of the training step; those of a step, where it has more."""
    host_memory_gib: float = 4.0
    """Bound of the memory that a rank's decoded frames take outside of a GPU."""
    on_decode_error: Literal["stop", "skip"] = "stop"
    """A training clip that does not decode ends the run, or is left out and listed."""
    max_skipped_fraction: float = 0.01
    """Largest fraction of the training clips that skip may leave out before the run ends."""
    shuffle_videos: bool = False
    """Signing-blind control: deal the videos of each split to other sentences of it."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    tokenizer_dir: str = MISSING
    """Folder with a tokenizer of mBART or T5 in Hugging Face format."""
    language: str = "en_XX"
    """mBART's code of the spoken language; T5 has none, so there it is a word for people."""
    max_tokens: int = 150
    """Longest target sentence in tokens, the language code included; longer ones end the run."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    backbone_weights: str = ""
    """ImageNet weights of ResNet-18 (a torchvision .pth or .safetensors file); empty: random."""
    sign_width: int = 1024
    """Width of a sign-wise feature (C2RL)."""
    kernel_size: int = 3
    """Frames that the local temporal module sees at once (C2RL); odd."""
    dropout: float = 0.1
    """Dropout of Light-T."""
    light_t: Literal["tiny", "small", "base", "large"] = "base"
    """Size of Light-T (table 7)."""
    checkpointed_stages: int = 0
    """First stages of the ResNet, 0 to 4, whose activations are computed again in the backward pass
    instead of kept: memory against time."""
    compile: bool = False
    """Compile the ResNet by torch.compile, which takes minutes when it is first used."""


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig:
    encoder_export: str = MISSING
    """Export folder of stage 1, the visual encoder; empty: end to end from backbone_weights."""
    backbone_weights: str = ""
    """ResNet-18 of ImageNet (a torchvision file); without an encoder_export; empty: random."""
    sign_width: int = 1024
    """Width of a sign-wise feature without an encoder_export (C2RL)."""
    kernel_size: int = 3
    """Frames that the local temporal module sees at once, without an encoder_export (C2RL); odd."""
    freeze: Literal["all", "backbone", "nothing"] = "all"
    """What of the visual encoder stays as it is (table 9; the paper freezes all of it)."""
    input_features: Literal["frame_wise", "sign_wise", "light_t"] = "sign_wise"
    """What the LLM-Adapter reads (table 8); light_t: hidden states of Light-T's encoder."""
    export_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the exported weights; float32: the optimizer's, where the model has bfloat16."""
    llm_dir: str = MISSING
    """Folder with the weights of the LLM, such as mBART, in Hugging Face format."""
    random_llm: bool = False
    """Start the LLM from random weights, in the shape of llm_dir's config.json (table 10)."""
    gradient_checkpointing: bool = False
    """Compute the LLM's layers again in the backward pass instead of keeping their activations."""
    checkpointed_stages: int = 0
    """The same for so many first stages of a ResNet that is trained, 0 to 4."""
    compile: bool = False
    """Compile the frozen ResNet by torch.compile, which takes minutes when it is first used."""
    dropout: float = 0.3
    """Dropout of the LLM (MMTLB)."""
    attention_dropout: float = 0.1
    """Dropout of the LLM's attention weights (MMTLB); T5 has model.dropout for these, too."""


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    mode: Literal["online", "cached"] = "online"
    """cached: the frozen encoder runs once over each split and its features are read from disk."""
    cache_dir: str = ""
    """Folder of the caches; empty: features/ in the folder that holds the run folder."""
    encoder_memory_gib: float = 0.5
    """Bound of what a pass of the frozen encoder's backbone holds."""
    num_views: int = 0
    """Augmented views of a training clip, one an epoch in turn; 0: one that is not augmented."""


@dataclass(frozen=True, kw_only=True)
class Stage1OptimConfig:
    name: Literal["sgd", "adamw"] = "sgd"
    """Optimizer; the paper's stage 1 uses SGD."""
    learning_rate: float = 1e-2
    """Highest learning rate; it falls to 0 on a cosine."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: float = 1e-3
    """Weight decay of matrices and kernels; biases and norms have none (GFSLT-VLP)."""
    warmup_fraction: float = 0.0
    """Fraction of all steps on which the learning rate rises from 0."""
    max_grad_norm: float = 0.0
    """Clip the gradient's norm to this; 0: never."""


@dataclass(frozen=True, kw_only=True)
class Stage2OptimConfig:
    adapter_learning_rate: float = 1e-3
    """Highest learning rate of the LLM-Adapter; it falls to 0 on a cosine."""
    llm_learning_rate: float = 1e-5
    """Highest learning rate of the LLM; it falls to 0 on a cosine."""
    encoder_learning_rate: float = 1e-4
    """Highest learning rate of what model.freeze leaves to train of the visual encoder."""
    beta1: float = 0.9
    """Adam's decay of the gradient's mean."""
    beta2: float = 0.998
    """Adam's decay of the gradient's square (MMTLB)."""
    weight_decay: float = 1e-3
    """Weight decay of matrices; biases and norms have none (MMTLB)."""
    warmup_fraction: float = 0.0
    """Fraction of all steps on which the learning rates rise from 0."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this; 0: never."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptimConfig:
    learning_rate: float = 1e-3
    """Highest learning rate of AdamW; it falls to 0 on a cosine."""
    weight_decay: float = 1e-2
    """Weight decay of matrices; biases and norms have none."""
    warmup_fraction: float = 0.1
    """Fraction of all steps on which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this; 0: never."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    num_epochs: int = 75
    """Passes over the training split."""
    shortest_first_epochs: int = 0
    """First passes in which short clips come before long ones, a curriculum (Deep Speech 2)."""
    global_batch_size: int = 8
    """Sentences per optimizer step, over all ranks and micro-batches."""
    micro_batch_size: int = 4
    """Most sentences of one forward pass on one rank."""
    label_smoothing: float = 0.2
    """Probability mass spread over the vocabulary."""
    log_every_steps: int = 10
    """Steps between two rows of training metrics."""
    evaluate_every_steps: int = 0
    """Steps between evaluations on dev; 0: after every epoch. The last step is always evaluated."""
    profile_steps: int = 0
    """Steps that torch.profiler records into the run's profile folder, after three; 0: none."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, which is then evaluated and exported; 0: none."""
    max_steps: int = 0
    """Stop after so many optimizer steps, the schedule included; 0: by num_epochs."""
    patience_minutes: float = 10.0
    """Longest wait for another rank: after it a run ends whose other node is lost or hangs."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is no number ends the run, or is left out and told of."""
    max_nonfinite_steps: int = 10
    """Most steps that skip may leave out before the run ends."""
    save_every_minutes: float = 0.0
    """Most minutes between two checkpoints; 0: only before evaluations."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    keep_best_checkpoints: int = 1
    """Checkpoints with the best evaluations to keep beside them."""
    keep_every_steps: int = 0
    """Checkpoints of multiples of so many steps to keep beside them; 0: none."""


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    num_beams: int = 5
    """Hypotheses kept while decoding (paper: 5)."""
    length_penalty: float = 1.0
    """Exponent of the length by which a hypothesis' log-probability is divided."""
    max_new_tokens: int = 150
    """Longest hypothesis in tokens."""
    num_hypotheses: int = 1
    """Best hypotheses kept of each sentence, at most num_beams; the most probable one is scored.
    When sampling: how many are drawn."""
    temperature: float = 0.0
    """Above 0: sampling instead of beam search, by logits divided by this; num_beams must be 1."""
    top_k: int = 0
    """Sampling: draw from the most probable tokens only, so many; 0: from all."""
    top_p: float = 1.0
    """Sampling: draw from the most probable tokens that have this probability together."""
    batch_size: int = 16
    """Most sentences decoded at once on one rank."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    protocol: ProtocolName = "text"
    """Named scoring protocol of dev: how texts are prepared and counted; see tools/score.py."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    uri: str = ""
    """MLflow tracking URI; empty: sqlite:///mlflow.db in the folder that holds the run folder."""
    experiment: str = ""
    """MLflow experiment; empty: the name of the manifest folder, one experiment a corpus."""
    pipeline: str = ""
    """Name of the parent run that gathers the stages of one pipeline; empty: no parent."""


@dataclass(frozen=True, kw_only=True)
class Stage1Config:
    run_dir: str = MISSING
    """Run folder: everything that the run writes."""
    resume: str = "auto"
    """auto: the run folder's newest complete checkpoint, else a fresh start; none; or a path."""
    seed: int = 1
    """Seed of weights, order, augmentation and dropout."""
    deepspeed: str = "ds_configs/zero1_autocast.json"
    """DeepSpeed JSON: how to shard, in which precision."""
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: EncoderConfig = field(default_factory=EncoderConfig)
    optim: Stage1OptimConfig = field(default_factory=Stage1OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    beam: BeamConfig = field(default_factory=BeamConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass(frozen=True, kw_only=True)
class Stage2Config:
    run_dir: str = MISSING
    """Run folder: everything that the run writes."""
    resume: str = "auto"
    """auto: the run folder's newest complete checkpoint, else a fresh start; none; or a path."""
    seed: int = 1
    """Seed of weights, order, augmentation and dropout."""
    deepspeed: str = "ds_configs/zero3_bf16.json"
    """DeepSpeed JSON: how to shard, in which precision."""
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: TranslatorConfig = field(default_factory=TranslatorConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    optim: Stage2OptimConfig = field(default_factory=Stage2OptimConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            num_epochs=40, global_batch_size=16, micro_batch_size=16
        )
    )
    beam: BeamConfig = field(default_factory=BeamConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    export_dir: str = ""
    """Export folder of a stage: the model to decode with."""
    checkpoint: str = ""
    """Checkpoint to decode with, or a run: its newest one; empty: export_dir. The export of it is
    written to the run's exports/ folder."""
    average_last: int = 1
    """Checkpoints whose weights are averaged: this one and those before it."""
    ensemble: str = ""
    """Further models, separated by commas: exports, checkpoints or runs. All of them predict each
    token together, by the mean of their probabilities; needs output_dir."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """float32, in which a clip's translation does not depend on its batch; bfloat16: as trained."""
    split: Literal["train", "dev", "test"] = "test"
    """Split to translate."""
    protocol: Literal[ProtocolName, ""] = ""
    """Named scoring protocol; empty: the one of training."""
    manifest_dir: str = ""
    """Folder with the manifests; empty: the one the model was trained on."""
    video_root: str = ""
    """Folder that the manifests' video paths are relative to; empty: the one the manifests name."""
    output_dir: str = ""
    """Folder for decodes/ and scores.json; empty: the run folder that holds the export."""
    num_threads: int = 2
    """Decoding threads a rank."""
    frames_per_batch: int = 600
    """Most frames of one batch, all its clips together."""
    host_memory_gib: float = 4.0
    """Bound of the memory that a rank's decoded frames take outside of a GPU."""
    shuffle_videos: bool = False
    """Signing-blind control: deal the videos of the split to other sentences of it."""
    seed: int = 1
    """Seed of shuffle_videos and of sampling."""
    beam: BeamConfig = field(default_factory=BeamConfig)


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    train_text: str = MISSING
    """UTF-8 file with one sentence a line."""
    language: str = "en_XX"
    """mBART's code of the text's language."""
    max_pieces: int = 500
    """SentencePiece pieces to learn; fewer where the text has fewer."""
    mask_fraction: float = 0.35
    """Fraction of a sentence's tokens that is masked in spans (mBART: 0.35)."""
    mean_span_tokens: float = 3.5
    """Mean length of a masked span, Poisson (mBART: 3.5)."""


@dataclass(frozen=True, kw_only=True)
class SmallMbartConfig:
    d_model: int = 256
    """Width of embeddings and hidden states."""
    num_layers: int = 3
    """Layers of the encoder, and of the decoder."""
    num_heads: int = 4
    """Attention heads a layer."""
    ffn_width: int = 1024
    """Hidden width of a feed-forward block."""
    dropout: float = 0.1
    """Dropout in pretraining."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    run_dir: str = MISSING
    """Run folder; its export/ is a Hugging Face folder that stage 2 loads as llm_dir."""
    resume: str = "auto"
    """auto: nothing to do where the run folder holds this run, finished; none: train again."""
    seed: int = 1
    """Seed of weights, order, noise and dropout."""
    deepspeed: str = "ds_configs/zero1_autocast.json"
    """DeepSpeed JSON: how to shard, in which precision."""
    data: DenoisingConfig = field(default_factory=DenoisingConfig)
    model: SmallMbartConfig = field(default_factory=SmallMbartConfig)
    optim: PretrainOptimConfig = field(default_factory=PretrainOptimConfig)
    num_epochs: int = 5
    """Passes over the text."""
    global_batch_size: int = 64
    """Sentences per optimizer step, over all ranks."""
    log_every_steps: int = 50
    """Steps between two rows of training metrics."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
