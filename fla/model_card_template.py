"""The words of a model card, in Jinja; `fla.model_card` fills in what the run knows."""

TEMPLATE = """---
{{ card_data }}
---

<!-- Written by fla-slt from the records of the run, and again when a split is decoded. -->

# {{ title }}

Translates videos of {{ data_set.sign_language or "a sign language" }}, one sentence each, into
written text (`{{ description.language }}`), without glosses. {{ model }}
The method is FLa-LLM (Chen et al., LREC-COLING 2024), in an independent implementation.

## Use

Needs `torch` and `transformers` (5.20 or newer), nothing of the toolkit that trained it:

```python
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, AutoTokenizer

folder = "export"  # this folder
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

# All frames of one sentence, upright: RGB, uint8, (frames, height, width, 3).
inputs = processor(frames, fps=25)
ids = model.generate(**inputs, num_beams=5, max_new_tokens=150)
print(tokenizer.batch_decode(ids, skip_special_tokens=True))
```

`trust_remote_code` runs the two `.py` files of this folder; read them first. The weights are
stored in {{ dtype }}; another `dtype=` computes in that one. {%- if description.autocast %} In
training they computed under `torch.autocast` in bfloat16. {%- endif %}

PyAV gives the very pixels that training saw, where that decoded on a CPU:

```python
import av

with av.open("video.mp4") as video:
    frames = [
        frame.to_ndarray(
            format="rgb24", width={{ resize_px }}, height={{ resize_px }},
            interpolation="BILINEAR", src_colorspace="ITU601",
        )
        for frame in video.decode(video=0)
    ]
```

The processor scales frames of any other size; that differs by one or two of 256 levels on
average, and by more along sharp edges.

## Training data

| data set | {{ data_set.name }} |
|---|---|
{%- if corpus.num_samples %}
| training sentences | {{ "{:,}".format(corpus.num_samples) }} |
| hours | {{ corpus.hours }} |
| signers | {{ corpus.num_signers or "not annotated" }} |
| SHA-256 of the ids | `{{ corpus.fingerprint.ids_sha256 }}` |
| SHA-256 of the sentences | `{{ corpus.fingerprint.references_sha256 }}` |
{%- endif %}

## Scores
{% if scores %}
| split | sentences | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | ROUGE-L | chrF2 |
|---|---|---|---|---|---|---|---|
{%- for row in scores %}
| {{ row.split }} | {{ row.num_sentences }} | {{ row.numbers | join(" | ") }} |
{%- endfor %}
{% for row in scores %}
- {{ row.split }}: {{ row.note }}
  - signature: `{{ row.signature }}`
{%- if row.references_sha256 %}
  - SHA-256 of the references: `{{ row.references_sha256 }}`
{%- endif %}
{%- endfor %}
{% else %}
None yet.
{% endif %}
## Training
{% for line in training %}
- {{ line }}
{%- endfor %}

## License

{{ data_set.terms }}
{%- if description.stage == 2 %}
The language model that training started from has a license of its own.
{%- endif %}
The code in this folder is Apache-2.0.

## Limits

- It translates one signed sentence at a time and does not find where sentences begin and end.
- It knows what its corpus is about{{ ": " ~ data_set.subject if data_set.subject }}. About anything
  else it says something fluent and wrong.
- It has seen {{ signers }}. How well it translates other people, cameras, light or clothes has not
  been measured.
- A fluent sentence need not be a right one, and a high confidence is no guarantee.
- It is no interpreter. Do not use it where a mistake harms somebody: in medicine, at court, with
  authorities, in an emergency.
- Videos show who signs. Translate them only with these people's consent.
"""
