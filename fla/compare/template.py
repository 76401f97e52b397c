"""The report's page, in Jinja; `fla.compare.report` fills it in. It asks for nothing outside."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --card: #f6f8fa;
  --good: #116329; --good-back: #dafbe1; --bad: #a40e26; --bad-back: #ffebe9;
  --run0: #0550ae; --run1: #bc4c00; --run2: #1a7f37; --run3: #8250df; --run4: #9a6700;
  --run5: #bf3989;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --rule: #30363d; --card: #161b22;
    --good: #7ee787; --good-back: #12361f; --bad: #ffa198; --bad-back: #4c1519;
    --run0: #79c0ff; --run1: #ffa657; --run2: #7ee787; --run3: #d2a8ff; --run4: #e3b341;
    --run5: #ff9bce;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .6rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
h4 { margin: 1.2rem 0 .4rem; }
p { margin: .4rem 0; max-width: 48rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.verdict {
  border-left: .3rem solid var(--rule); background: var(--card); padding: .6rem .9rem;
  max-width: none; font-size: 1.05rem;
}
.verdict.won { border-color: var(--good); }
.verdict.lost { border-color: var(--bad); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
thead th { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td small { color: var(--soft); display: block; }
td.won, .gain.won { color: var(--good); } td.lost, .gain.lost { color: var(--bad); }
code { font: .88em ui-monospace, monospace; overflow-wrap: anywhere; }
td:has(code) { min-width: 9rem; }
.run { font-weight: 600; white-space: nowrap; }
.run::before { content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .4em;
  border-radius: 50%; background: currentColor; }
.run0 { color: var(--run0); } .run1 { color: var(--run1); } .run2 { color: var(--run2); }
.run3 { color: var(--run3); } .run4 { color: var(--run4); } .run5 { color: var(--run5); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr));
  gap: 1rem; }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; }
svg .line.run1, svg .line.run4 { stroke-dasharray: 7 3; }
svg .line.run2, svg .line.run5 { stroke-dasharray: 2 3; }
svg .line.interval { stroke-width: 3; stroke-dasharray: none; }
svg .dot { fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0; padding: 0;
  list-style: none; }
.sentences { display: grid; gap: .9rem; padding: 0; margin: .5rem 0; list-style: none; }
.sentence { display: grid; grid-template-columns: 13rem minmax(0, 1fr); gap: .3rem 1rem;
  background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem; }
.sentence video { width: 100%; max-height: 13rem; background: #000; border-radius: .3rem; }
.sentence.bare { grid-template-columns: minmax(0, 1fr); }
.sentence dl { margin: 0; } .sentence dt { font-size: .85rem; }
.sentence dd { margin: 0 0 .4rem; }
ins { color: var(--good); background: var(--good-back); text-decoration: underline; }
del { color: var(--bad); background: var(--bad-back); text-decoration: line-through; }
details { margin: .6rem 0; } summary { cursor: pointer; }
@media (max-width: 40rem) {
  .sentence { grid-template-columns: minmax(0, 1fr); }
  th, td { padding: .3rem .45rem; }
}
"""

MACROS = """
{% macro run(number) -%}
<span class="run run{{ number % 6 }}">{{ it.records[number].name }}</span>
{%- endmacro %}

{% macro run_heads(kind="") -%}
{% for record in it.records %}<th scope="col" class="{{ kind }}">{{ run(loop.index0) }}</th>
{% endfor %}
{%- endmacro %}

{% macro heads(titles, kind="") -%}
{% for title in titles %}<th scope="col" class="{{ kind }}">{{ title }}</th>
{% endfor %}
{%- endmacro %}

{% macro table(label) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ label }}"><table>
{{ caller() }}
</table></div>
{% endmacro %}

{% macro line_chart(chart) %}
{% set floor = height - bottom %}
<figure>
<figcaption>{{ chart.title }}</figcaption>
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="{{ chart.description }}">
  <title>{{ chart.title }}</title><desc>{{ chart.description }}</desc>
  {% for tick in chart.y_ticks %}
  <path class="grid" d="M{{ left }} {{ tick.place }}H{{ width - right }}"/>
  <text x="{{ left - 6 }}" y="{{ tick.place + 4 }}" text-anchor="end">{{ tick.label }}</text>
  {% endfor %}
  {% for tick in chart.x_ticks %}
  {% set anchor = "end" if loop.last else "middle" %}
  <path class="grid" d="M{{ tick.place }} {{ floor }}v4"/>
  <text x="{{ tick.place }}" y="{{ floor + 16 }}" text-anchor="{{ anchor }}">
    {{- tick.label }}</text>
  {% endfor %}
  <text x="{{ (left + width - right) / 2 }}" y="{{ height - 6 }}" text-anchor="middle">
    {{- chart.x_label }}</text>
  {% for line in chart.lines %}
  <polyline class="line run{{ line.run % 6 }}" points="{{ line.path }}"/>
  {% if line.points | length <= 12 %}{% for x, y in line.points %}
  <circle class="dot run{{ line.run % 6 }}" cx="{{ x }}" cy="{{ y }}" r="3"/>
  {% endfor %}{% endif %}
  {% endfor %}
</svg>
</figure>
{% endmacro %}

{% macro interval_chart(chart) %}
{% set floor = chart.height - bottom + 6 %}
<figure>
<figcaption>{{ chart.title }} with 95 % intervals</figcaption>
<svg viewBox="0 0 {{ width }} {{ chart.height }}" role="img"
  aria-label="{{ chart.description }}">
  <title>{{ chart.title }}</title><desc>{{ chart.description }}</desc>
  {% for tick in chart.x_ticks %}
  {% set anchor = "start" if loop.first else "end" if loop.last else "middle" %}
  <path class="grid" d="M{{ tick.place }} 2V{{ floor }}"/>
  <text x="{{ tick.place }}" y="{{ floor + 14 }}" text-anchor="{{ anchor }}">
    {{- tick.label }}</text>
  {% endfor %}
  {% for row in chart.rows %}
  <path class="line interval run{{ row.run % 6 }}" d="M{{ row.low }} {{ row.y }}H{{ row.high }}"/>
  <circle class="dot run{{ row.run % 6 }}" cx="{{ row.value }}" cy="{{ row.y }}" r="5"/>
  {% endfor %}
</svg>
</figure>
{% endmacro %}

{% macro groups(rows, by) %}
{% call table("Scores by " ~ by) %}
<caption>BLEU-4 by {{ by }}, and its difference to the baseline</caption>
<thead><tr>{{ heads([by]) }}{{ heads(["sentences"], "number") }}
{{ run_heads("number") }}</tr></thead>
<tbody>{% for group in rows %}<tr>
  <th scope="row">{{ group.name }}</th><td class="number">{{ group.num_sentences }}</td>
  {% for scores in group.scores %}
  <td class="number">{{ "%.2f" % scores.bleu4 }}<small>
    {%- if not loop.first %}{{ "%+.2f" % (scores.bleu4 - group.scores[0].bleu4) }}; {% endif -%}
    ROUGE-L {{ "%.2f" % scores.rouge_l }}</small></td>
  {% endfor %}
</tr>{% endfor %}</tbody>
{% endcall %}
{% endmacro %}

{% macro pieces(some) -%}
{% for piece in some %}{{ piece.gap }}
{%- if piece.kind == "added" %}<ins>{{ piece.text }}</ins>
{%- elif piece.kind == "missing" %}<del>{{ piece.text }}</del>
{%- else %}{{ piece.text }}{% endif %}{% endfor %}
{%- endmacro %}

{% macro sentences(heading, some, num_all) %}
{% if some %}
<h4>{{ heading }}{% if num_all > some | length %}: the first {{ some | length }}{% endif %}</h4>
<ol class="sentences">{% for sentence in some %}
{% set url = none if sentence.is_repeated else it.clips.urls.get(sentence.id) %}
<li class="sentence{{ '' if url else ' bare' }}">
  {% if url %}<video controls muted playsinline preload="auto" src="{{ url }}"
    aria-label="The clip of {{ sentence.id }}"></video>{% endif %}
  <div>
  <p class="soft"><code>{{ sentence.id }}</code>
    {%- if sentence.signer %}, signer {{ sentence.signer }}{% endif %},
    <span class="gain {{ 'won' if sentence.gain > 0 else 'lost' }}">
    {{- "%+.1f" % sentence.gain }} chrF2</span>
    {%- if sentence.is_repeated %}; its clip is further up{% endif %}</p>
  <dl>
    <dt>reference</dt><dd>{{ sentence.reference }}</dd>
    {% for attempt in sentence.attempts %}
    <dt>{{ run(attempt.run) }} <span class="soft">{{ "%.1f" % attempt.score }}</span></dt>
    <dd>{{ pieces(attempt.pieces) }}</dd>
    {% endfor %}
  </dl>
  </div>
</li>{% endfor %}
</ol>
{% endif %}
{% endmacro %}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src data:;
 style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="soft">{{ it.paired.split }} split, {{ "{:,}".format(it.paired.ids | length) }} sentences
that all runs translated. Baseline: {{ run(0) }}. Made {{ made }}.</p>
{% for sentence, outcome in verdicts %}
<p class="verdict {{ outcome }}">{{ sentence }}</p>
{% endfor %}
{% for note in it.paired.notes %}<p>{{ note }}</p>{% endfor %}
</header>

<section>
<h2>What differs</h2>
{% call table("The runs") %}
<thead><tr>{{ heads(["run", "where"]) }}{{ heads(facts) }}</tr></thead>
<tbody>{% for record in it.records %}<tr>
  <th scope="row">{{ run(loop.index0) }}</th><td><code>{{ record.where }}</code></td>
  {% for fact in facts %}<td>{{ record.facts.get(fact, "") }}</td>{% endfor %}
</tr>{% endfor %}</tbody>
{% endcall %}
{% if it.settings_note %}<p>{{ it.settings_note }}</p>{% endif %}
{% if it.differences %}
<details{{ " open" if it.differences | length <= 15 }}>
<summary>{{ it.differences | length }}
{{- " setting differs" if it.differences | length == 1 else " settings differ" }}</summary>
{% call table("Settings that differ") %}
<thead><tr>{{ heads(["setting"]) }}{{ run_heads() }}</tr></thead>
<tbody>{% for difference in it.differences %}<tr>
  <th scope="row"><code>{{ difference.key }}</code></th>
  {% for value in difference.values %}<td>
  {%- if value is none %}<span class="soft">no such setting</span>
  {%- elif value == "" %}<span class="soft">empty</span>
  {%- else %}<code>{{ value }}</code>{% endif %}</td>
  {% endfor %}
</tr>{% endfor %}</tbody>
{% endcall %}
</details>
{% else %}<p>No setting differs.</p>{% endif %}
</section>

<section>
<h2>Scores</h2>
{% call table("Scores") %}
<thead><tr>{{ heads(["run"]) }}{{ heads(score_names.values(), "number") }}</tr></thead>
<tbody>{% for scored in it.scored %}<tr>
  <th scope="row">{{ run(loop.index0) }}</th>
  {% for key in score_names %}
  {% set interval = scored.intervals.get(key) %}
  <td class="number">{{ "%.2f" % scored.scores[key] }}
    {%- if interval %}<small>
    {{- "%.2f to %.2f" % (interval.low, interval.high) }}</small>{% endif %}</td>
  {% endfor %}
</tr>{% endfor %}</tbody>
{% endcall %}
<div class="charts">{% for chart in it.intervals %}{{ interval_chart(chart) }}{% endfor %}</div>
{% call table("Tests against the baseline") %}
<caption>Against {{ it.records[0].name }}. Colored where both tests give less than
{{ significant }}.</caption>
<thead><tr>{{ heads(["run", "metric"]) }}
{{ heads(["difference", "paired bootstrap", "approximate randomisation"], "number") }}</tr></thead>
<tbody>{% for scored in it.scored if scored.comparisons %}
{% set number = loop.index %}
{% for key, name in metrics.items() %}
{% set found = scored.comparisons[key] %}<tr>
  <th scope="row">{{ run(number) }}</th><td>{{ name }}</td>
  <td class="number {{ outcome(scored.wins[key]) }}">
    {{- "%+.2f" % (found.other - found.baseline) }}</td>
  <td class="number">{{ format_p(found.bootstrap_p) }}</td>
  <td class="number">{{ format_p(found.randomisation_p) }}</td>
</tr>{% endfor %}{% endfor %}</tbody>
{% endcall %}
<p class="soft">Protocol <code>{{ it.paired.protocol }}</code>, signature
<code>{{ it.scored[0].scores.signature }}</code>. Intervals and p-values are of drawing these
sentences anew; they do not cover another seed.</p>
</section>

<section>
<h2>Training</h2>
{% if it.curves or it.more_curves %}
<ul class="legend">{% for record in it.records %}<li>{{ run(loop.index0) }}</li>{% endfor %}</ul>
<div class="charts">{% for chart in it.curves %}{{ line_chart(chart) }}{% endfor %}</div>
{% if it.more_curves %}<details><summary>{{ it.more_curves | length }} more curves</summary>
<div class="charts">{% for chart in it.more_curves %}{{ line_chart(chart) }}{% endfor %}</div>
</details>{% endif %}
{% else %}<p>No run has a record of its training here.</p>{% endif %}
</section>

<section>
<h2>By length and by signer</h2>
{{ groups(it.by_length, "length of the reference") }}
{% if it.by_signer %}{{ groups(it.by_signer, "signer") }}
{% else %}<p>{{ it.signer_note }}</p>{% endif %}
<p class="soft">Each group is scored as a corpus of its own; small ones say little.</p>
</section>

<section>
<h2>Sentences</h2>
<p>By chrF2 of the single sentence. In each hypothesis, <ins>underlined</ins> is not in the
reference, and <del>struck through</del> is in the reference alone.</p>
{% for note in it.clips.notes %}<p>{{ note }}</p>{% endfor %}
{% for one in it.changed %}
{% set name = it.records[one.run].name %}
<h3>{{ run(one.run) }}: {{ one.changes.better | length }} better than {{ it.records[0].name }},
{{ one.changes.worse | length }} worse, {{ one.changes.num_equal }} equal</h3>
{{ sentences("Better in " ~ name, one.better, one.changes.better | length) }}
{{ sentences("Worse in " ~ name, one.worse, one.changes.worse | length) }}
{% endfor %}
</section>
</body>
</html>
"""
