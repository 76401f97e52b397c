"""Send run folders to MLflow: python tools/sync_tracking.py RUN [RUN ...] [--uri URI].

For runs whose server was away when they ended, and for a copy of a run in another store. What is
there already is not sent twice.
"""

import argparse
from pathlib import Path

from fla.config.load import exit_on_user_error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--uri", default="", help="tracking URI (default: that of each run)")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    # MLflow takes seconds to import; help is answered without it.
    from fla.sync import sync_run

    for path in args.runs:
        synced = sync_run(path, uri=args.uri)
        print(
            f"{path}: {synced.num_points} points and {synced.num_files} files are in run "
            f"{synced.run_id} at {synced.uri}",
            flush=True,
        )


if __name__ == "__main__":
    with exit_on_user_error():
        main()
