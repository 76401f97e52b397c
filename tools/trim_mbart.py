"""Trim mBART to a corpus: python tools/trim_mbart.py MBART_DIR OUT_DIR --manifests DIR."""

import argparse
import sys
from pathlib import Path

from fla.data.command import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write an mBART whose vocabulary is what the sentences of a corpus need, and "
        "report what that does to each split. Logits of the tokens that stay are those of before.",
    )
    parser.add_argument("mbart_dir", type=Path, help="local Hugging Face folder of an mBART")
    parser.add_argument("out_dir", type=Path, help="new folder for weights, tokenizer and report")
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument(
        "--manifests",
        type=Path,
        metavar="DIR",
        help="folder that an importer wrote: train.tsv decides, dev.tsv and test.tsv are measured",
    )
    text.add_argument(
        "--text", type=Path, metavar="FILE", help="text with one sentence a line, instead"
    )
    parser.add_argument(
        "--language", default="en_XX", help="mBART's code of the language (default: %(default)s)"
    )
    parser.add_argument(
        "--characters",
        action="store_true",
        help="keep pieces of one character alone, so that sentences are cut into characters, as "
        "usual for Chinese",
    )
    return parser.parse_args()


def main() -> int:
    words = parse_arguments()

    def work() -> int:
        # torch takes seconds to import; help and a mistyped option are answered without it.
        from fla.trim import read_manifest_texts, read_text, trim_mbart

        report = trim_mbart(
            words.mbart_dir,
            words.out_dir,
            texts=read_manifest_texts(words.manifests)
            if words.manifests
            else read_text(words.text),
            language=words.language,
            characters=words.characters,
        )
        print(report.summarize())
        return 0

    return run_tool(work)


if __name__ == "__main__":
    sys.exit(main())
