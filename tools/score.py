"""Score translations by a named protocol: python tools/score.py HYPOTHESES REFERENCES.

Both are files: plain text with a sentence a line, tables (.tsv) with a column of ids such as
a run's decodes/*.tsv and manifests, JSON lines (.jsonl), or `sample: ID, prediction: TEXT` lines.
Needs neither a model nor a GPU. References are the annotation's own sentences, never decoded from
tokens.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fla.config.load import exit_on_user_error
from fla.metrics.outputs import Pairs, fingerprint_references, pair, read_outputs
from fla.metrics.protocols import PROTOCOLS, Protocol
from fla.metrics.scores import SCORES, score
from fla.metrics.significance import (
    Comparison,
    compare_by,
    compare_systems,
    read_seed,
    score_by,
    score_on_two_cores,
)


def build_parser() -> argparse.ArgumentParser:
    lines = [f"  {name:20} {protocol.description}" for name, protocol in PROTOCOLS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["protocols:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("hypotheses", type=Path)
    add("references", type=Path)
    add("--protocol", choices=PROTOCOLS, default="text", help="convention (default: text)")
    add("--json", action="store_true", help="print one JSON object")
    add(
        "--baseline",
        type=Path,
        metavar="OTHER",
        help="translations of another system: is the difference more than chance?",
    )
    add(
        "--bleurt-checkpoint",
        type=Path,
        metavar="DIR",
        help="folder of BLEURT-20 in PyTorch's form: that score, too; needs torch and minutes",
    )
    add("--all-protocols", action="store_true", help="what each convention would give")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    protocol = PROTOCOLS[args.protocol]
    references = read_outputs(args.references, "reference")
    pairs = pair(read_outputs(args.hypotheses, "hypothesis"), references)
    baseline = None
    if args.baseline is not None:
        baseline = pair(read_outputs(args.baseline, "hypothesis"), references)
    record = make_record(pairs, protocol)
    if baseline is not None:
        comparisons = compare_systems(
            baseline.hypotheses, pairs.hypotheses, pairs.references, protocol=protocol
        )
        record["comparisons"] = {name: asdict(it) for name, it in comparisons.items()}
    if args.bleurt_checkpoint is not None:
        add_bleurt(record, args.bleurt_checkpoint, pairs, baseline)
    if args.all_protocols:
        record["protocols"] = {
            name: score_by_protocol(pairs, other) for name, other in PROTOCOLS.items()
        }
    elif protocol.name == "phoenix14t":
        # The other half of the papers report this one.
        record["protocols"] = {
            "phoenix14t-period": score_by_protocol(pairs, PROTOCOLS["phoenix14t-period"])
        }
    print(json.dumps(record, indent=2, ensure_ascii=False) if args.json else describe(record))


def make_record(pairs: Pairs, protocol: Protocol) -> dict[str, Any]:
    """Scores, intervals and all that says how they came about."""
    scores, intervals = score_on_two_cores(pairs.hypotheses, pairs.references, protocol=protocol)
    return {
        **scores.as_dict(),
        "references_sha256": fingerprint_references(pairs),
        "intervals": {name: [it.low, it.high] for name, it in intervals.items()},
        "resampling_seed": read_seed(),
    }


def add_bleurt(
    record: dict[str, Any], checkpoint: Path, pairs: Pairs, baseline: Pairs | None
) -> None:
    """Put what BLEURT says beside the other scores."""
    # Here, not at the top: it brings torch.
    from fla.metrics.bleurt import score_pairs

    hypotheses = (*pairs.hypotheses, *(baseline.hypotheses if baseline else ()))
    references = pairs.references * (2 if baseline else 1)
    metric = score_pairs([*zip(hypotheses, references, strict=True)], checkpoint)
    score, interval, signature = score_by(metric, pairs.hypotheses, pairs.references)
    record["bleurt"] = score
    record["intervals"]["bleurt"] = [interval.low, interval.high]
    record["signature"] += f" {metric.title}|{signature}"
    if baseline:
        found = compare_by(
            {"bleurt": metric}, baseline.hypotheses, pairs.hypotheses, pairs.references
        )
        record["comparisons"] |= {name: asdict(it) for name, it in found.items()}


def score_by_protocol(pairs: Pairs, protocol: Protocol) -> dict[str, Any]:
    """Scores by another convention."""
    return score(pairs.hypotheses, pairs.references, protocol=protocol).as_dict()


def describe(record: dict[str, Any]) -> str:
    """The record for people, 80 columns wide but for signatures."""
    lines = [f"{record['num_sentences']} sentences"]
    titles = SCORES | {"bleurt": "BLEURT"}
    for name, title in titles.items():
        if name not in record:
            continue
        line = f"{title:8} {record[name]:6.2f}"
        if name in record["intervals"]:
            low, high = record["intervals"][name]
            line += f"   95 % interval {low:.2f} to {high:.2f}"
        lines.append(line)
    if "comparisons" in record:
        lines += ["", f"{'':8} baseline   this   difference   p bootstrap   p randomization"]
        lines += [
            describe_comparison(titles[name], Comparison(**it))
            for name, it in record["comparisons"].items()
        ]
    if "protocols" in record:
        lines += ["", f"{'protocol':20} " + " ".join(f"{title:>7}" for title in SCORES.values())]
        lines += [
            f"{name:20} " + " ".join(f"{scores[key]:7.2f}" for key in SCORES)
            for name, scores in record["protocols"].items()
        ]
    lines += ["", f"signature: {record['signature']}"]
    lines += [f"references: sha256 {record['references_sha256'][:16]}"]
    return "\n".join(lines)


def describe_comparison(title: str, it: Comparison) -> str:
    """A line of the table of two systems."""
    return (
        f"{title:8} {it.baseline:8.2f} {it.other:6.2f} {it.other - it.baseline:+12.2f} "
        f"{it.bootstrap_p:13.4f} {it.randomisation_p:17.4f}"
    )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
