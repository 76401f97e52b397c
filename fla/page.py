"""A local web page: upload or record a video, see segments, translation and confidence on it.

An upload lies in a folder of the page's own, only until it has been translated; the player shows
the copy that the browser kept. The page loads nothing from other machines and reports to none.
"""

import ipaddress
import math
import os
import socket
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import uvicorn
from fastapi import FastAPI
from jinja2 import Environment
from starlette.middleware.trustedhost import TrustedHostMiddleware

from fla.errors import ConfigError, DataError, FlaError
from fla.translate import Segment, Translation, VideoTranslator, read_recording
from fla.translating.activity import Cut, find_signing
from fla.translating.subtitles import Subtitle, format_subtitles

# Requests that wait for their turn; who comes later is told to try again.
MAX_WAITING = 8
LOOPBACK_NAMES = ("localhost", "127.0.0.1")

# The browser's own copy to play: the server is about to delete its one.
KEEP_CLIP = """async (clip, several) => {
    if (window.clip) URL.revokeObjectURL(window.clip);
    window.clip = clip && URL.createObjectURL(await (await fetch(clip.url)).blob());
    return [clip, several];
}"""
PLAY_CLIP = """() => {
    const player = document.querySelector("#answer video");
    if (player) player.src = window.clip;
}"""

GREETING = """# Sign language translation
A video of at most {{ "%g" | format(limits.max_length_s) }} s and
{{ "%g" | format(limits.max_size_mb) }} MB, also one that this browser does not play. It stays on
this machine, and it is deleted when it has been translated.
"""
ANSWER = """
<video controls muted playsinline onerror="this.hidden = true">
  <track default kind="subtitles" src="data:text/vtt;base64,{{ subtitles }}">
</video>
{% for warning in warnings %}<p class="warning">{{ warning }}</p>{% endfor %}
<table>
  <thead><tr><th>start</th><th>end</th><th>translation</th><th>confidence</th></tr></thead>
  <tbody>{% for line in lines %}
  <tr>
    <td><button title="Play from here" onclick="const player =
      document.querySelector('#answer video'); player.currentTime = {{ line.start_s }};
      player.play()">{{ "%.2f" | format(line.start_s) }} s</button></td>
    <td>{{ "%.2f" | format(line.end_s) }} s</td>
    <td>{{ line.best.text }}
    {% if line.others %}<details><summary>other hypotheses</summary><ol start="2">
      {% for other in line.others %}<li>{{ other.text }} ({{ other.percent }} %)</li>{% endfor %}
    </ol></details>{% endif %}</td>
    <td>{{ line.best.percent }} %</td>
  </tr>{% endfor %}
  </tbody>
</table>
<p>Confidence is the geometric mean of the probabilities that the model gave to the pieces of its
sentence. It is not the probability that the sentence is right.</p>
"""
REFUSAL = '<p role="alert">{{ sentence }}</p>'
STYLE = """
#answer video {width: 100%; max-height: 45vh; background: black}
#answer video::cue {font-size: 1rem}
#answer table {width: 100%}
#answer th, #answer td {text-align: left; vertical-align: top; padding: 0.3em 0.6em}
#answer td button {text-decoration: underline; white-space: nowrap}
#answer [role=alert], #answer .warning {padding: 0.6em; border-left: 4px solid #c2410c}
"""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the page takes, and for how long."""

    max_size_mb: float = 100.0
    """Largest upload, in 10^6 bytes."""
    max_length_s: float = 120.0
    """Longest video that is translated."""
    max_age_s: int = 600
    """How long an upload that nobody translates is kept."""


def serve_page(translator: VideoTranslator, *, host: str, port: int, limits: Limits) -> None:
    """Serve the page until the process is told to end; then nothing of any upload is left.

    Args:
        host: Address or name to listen at.
        port: 0 takes a free one.
        limits: What is refused.

    Raises:
        ConfigError: Nothing can listen there.
    """
    with (
        TemporaryDirectory(prefix="fla_page_") as uploads,
        _listen(host, port) as listener,
    ):
        app = build_app(translator, uploads=Path(uploads), limits=limits)
        address, bound_port, *_ = listener.getsockname()
        shown = name_in_url(host)
        if ipaddress.ip_address(address).is_loopback:
            # A page elsewhere could give its own name this address, and read what is here.
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, shown])
        else:
            print(
                f"Warning: {host} is not this machine alone. The page has no password: whoever "
                "reaches it can use it.",
                flush=True,
            )
        print(f"Open http://{shown}:{bound_port} (Ctrl+C ends it).", flush=True)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        )
        server.run(sockets=[listener])


def name_in_url(host: str) -> str:
    """A host as a browser has it, in the address and in what it asks for."""
    return f"[{host}]" if ":" in host else host


def build_app(translator: VideoTranslator, *, uploads: Path, limits: Limits) -> FastAPI:
    """The page as an ASGI application.

    Args:
        uploads: Folder for what is uploaded; its owner removes it.
    """
    # Where gradio keeps uploads, read when its parts are built.
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        _build_blocks(_Answers(translator, uploads=uploads, limits=limits), limits),
        path="",
        css=STYLE,
        max_file_size=round(limits.max_size_mb * 1e6),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    return app


def _build_blocks(answer: Callable[[str | None, bool], str], limits: Limits) -> gr.Blocks:
    # Twice the age at most, where nobody translates what was uploaded.
    forget = (limits.max_age_s, limits.max_age_s)
    blocks = gr.Blocks(title="FLa-LLM", analytics_enabled=False, delete_cache=forget)
    with blocks:
        gr.Markdown(_render(GREETING, limits=limits))
        with gr.Row():
            with gr.Column(scale=2):
                # No microphone is asked for: the sound is of no interest.
                video = gr.Video(
                    sources=["upload", "webcam"],
                    include_audio=False,
                    label="Video",
                    elem_id="video",
                )
                # gradio would copy any file of this machine, and download what lies at any address,
                # that a request names in the place of an upload.
                setattr(video, "async_move_resource_to_block_cache", _leave_where_it_is)  # noqa: B010
                several = gr.Checkbox(
                    value=True, label="Look for its sentences by motion (approximate)"
                )
                button = gr.Button("Translate", variant="primary")
            with gr.Column(scale=3):
                shown = gr.HTML(elem_id="answer")
        button.click(
            lambda clip, several: (answer(clip["path"] if clip else None, several), None),
            inputs=[video, several],
            outputs=[shown, video],
            js=KEEP_CLIP,
            # gradio would cut the sound out, with an ffmpeg that need not be there.
            preprocess=False,
            concurrency_limit=1,
            api_visibility="private",
        ).then(None, js=PLAY_CLIP)
    blocks.queue(max_size=MAX_WAITING)
    return blocks


async def _leave_where_it_is(path: str) -> str:
    return path


class _Answers:
    """What the page says to an upload, as HTML; the upload is gone then."""

    def __init__(self, translator: VideoTranslator, *, uploads: Path, limits: Limits) -> None:
        self._translator, self._limits = translator, limits
        self._uploads = uploads.resolve()

    def __call__(self, upload: str | None, several: bool) -> str:
        """Translate an upload.

        Args:
            upload: Where it lies.
            several: Whether to look for sentences; else it is one.
        """
        if upload is None:
            return _render(REFUSAL, sentence="There is no video yet. Upload or record one.")
        video = Path(upload).resolve()
        if not video.is_relative_to(self._uploads):
            raise ValueError(f"{video} is no upload.")
        try:
            html = self._translate(video, several)
        except FlaError as error:
            html = _render(REFUSAL, sentence=str(error))
        finally:
            video.unlink(missing_ok=True)
            # gradio made a folder for it.
            with suppress(OSError):
                video.parent.rmdir()
        # Sentences name the file; where it lay is of no use.
        return html.replace(f"{video.parent}/", "")

    def _translate(self, video: Path, several: bool) -> str:
        recording, most_s = read_recording(video), self._limits.max_length_s
        if recording.duration_s > most_s:
            raise DataError(
                f"{video} lasts {recording.duration_s:.1f} s, and this page takes at most "
                f"{most_s:g} s. Cut it, or translate it with tools/translate.py."
            )
        segments = [Segment()]
        if several:
            segments = find_signing(recording, cut=Cut(), on_progress=lambda time_s: None)
        lines = [_Line.of(found) for found in self._translator.translate(recording, segments)]
        subtitles = [
            Subtitle(line.start_s, line.end_s, f"{line.best.text} ({line.best.percent} %)")
            for line in lines
        ]
        return _render(
            ANSWER,
            lines=lines,
            subtitles=b64encode(format_subtitles(subtitles, kind="vtt").encode()).decode(),
            warnings=[
                *self._translator.describe_unlike(recording),
                *(warning for line in lines for warning in line.warnings),
            ],
        )


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    text: str
    percent: int


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A row of the table."""

    start_s: float
    end_s: float
    best: _Sentence
    others: tuple[_Sentence, ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, translation: Translation) -> "_Line":
        best, *others = (
            _Sentence(text=found.text, percent=round(100 * math.exp(found.log_prob)))
            for found in translation.hypotheses
        )
        segment = translation.segment
        return cls(
            start_s=segment.start_s,
            end_s=segment.end_s,
            best=best,
            others=tuple(others),
            warnings=translation.warnings,
        )


def _render(template: str, **values: object) -> str:
    return Environment(autoescape=True).from_string(template).render(**values)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{host}:{port}: nothing can listen there ({error}). Take another --host or --port; "
            "port 0 is any that is free."
        ) from None
