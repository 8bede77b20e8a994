"""`python -m infra COMMAND`: what the Makefile is thin over."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; each command's modules are imported only when it runs."""
    parser = argparse.ArgumentParser(prog="python -m infra", description="The local stack and what surrounds it.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, description, configure) in COMMANDS.items():
        configure(commands.add_parser(name, help=description, description=description))
    options = parser.parse_args(arguments)
    run, _, _ = COMMANDS[options.command]
    return run(options)


def _check(_: argparse.Namespace) -> int:
    from infra.locks import faults

    found = faults()
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


def _lock(_: argparse.Namespace) -> int:
    from infra.locks import lock

    lock()
    return 0


def _openapi(_: argparse.Namespace) -> int:
    from infra.openapi import merged

    json.dump(merged(), sys.stdout, indent=2)
    return 0


def _dev(_: argparse.Namespace) -> int:
    from infra.dev import main as dev

    return dev()


def _demo(_: argparse.Namespace) -> int:
    from infra.demo.run import main as demo

    return demo()


def _migrate(options: argparse.Namespace) -> int:
    from infra.migrate import main as migrate

    return migrate(options.embedding_dimensions)


def _migrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--embedding-dimensions", type=int, required=True, help="of the deployment's embedding model")


def _reembed(options: argparse.Namespace) -> int:
    from infra.reembed import main as reembed

    return reembed(options.drop or options.source, dropping=options.drop is not None)


def _reembed_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--from", dest="source", metavar="COLLECTION", help="fill EMBEDDING_COLLECTION from that one")
    which.add_argument("--drop", metavar="COLLECTION", help="drop that one, once EMBEDDING_COLLECTION holds all of it")


def _package(options: argparse.Namespace) -> int:
    from infra.package import main as package

    return package(options.functions, options.architecture, options.interpreter)


def _package_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("functions", nargs="*", metavar="FUNCTION", help="all when none is named")
    parser.add_argument("--architecture", choices=["x86_64", "arm64"], default="x86_64")
    parser.add_argument("--interpreter", help="a Python of the functions' version, to compile them; else one on PATH")


def _bench(options: argparse.Namespace) -> int:
    from infra.bench import main as bench

    return bench(options.subjects)


def _bench_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="all when none is named")


def _nothing(_: argparse.ArgumentParser) -> None:
    """Take no options."""


Run = Callable[[argparse.Namespace], int]
Configure = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[Run, str, Configure]] = {
    "dev": (_dev, "keep the local stack up until Ctrl-C", _nothing),
    "demo": (_demo, "ingest sample documents, stream cited answers, check all of it", _nothing),
    "migrate": (
        _migrate,
        "bring both databases up to date (ADMIN_DATABASE_URL, ADMIN_VECTOR_DATABASE_URL)",
        _migrate_options,
    ),
    "reembed": (
        _reembed,
        "change the embedding model while searches go on (ADMIN_VECTOR_DATABASE_URL, EMBEDDING_…)",
        _reembed_options,
    ),
    "openapi": (_openapi, "print the functions' merged OpenAPI document", _nothing),
    "check": (_check, "say what is wrong with the lock files", _nothing),
    "package": (_package, "build functions' zips into .build/ and print their sizes", _package_options),
    "bench": (_bench, "measure the budgets: one table, and a picture of it in .local/bench/", _bench_options),
    "lock": (_lock, "resolve every lock file anew", _nothing),
}

if __name__ == "__main__":
    sys.exit(main())
