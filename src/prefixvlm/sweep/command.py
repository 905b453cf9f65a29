"""The command `prefixvlm sweep`."""

import argparse
from pathlib import Path


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add `prefixvlm sweep report DIR` to the parser."""
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    report = commands.add_parser(
        "report", help="compare the jobs: a table, effects of the options, and learning curves"
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="the folder of a sweep")
    report.add_argument(
        "--metric", metavar="NAME", help="the metric to compare by; default: the value that the jobs returned"
    )
    report.add_argument("--out", type=Path, metavar="FILE", help="the page; default: DIR/report.html")
    report.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> None:
    from prefixvlm.sweep.report import compare, text_report, write_report

    sweep = compare(arguments.folder, arguments.metric)
    path = arguments.out or arguments.folder / "report.html"
    write_report(sweep, path)
    print(text_report(sweep))
    print(f"Report: {path}")
