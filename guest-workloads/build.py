#!/usr/bin/env python3
"""Build the guests of this folder, or check that what `dist/` holds is what its sources make.

The toolchains are those that `dist/manifest.toml` names, and no others: another version makes other bytes. They are
fetched once, into `compute-guests` in the user's cache folder, by apt-get, pip and npm; nothing is installed.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from blake3_small import hexdigest

HERE = Path(__file__).resolve().parent
DIST = HERE / "dist"
MANIFEST = DIST / "manifest.toml"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compute-guests"

# What a user has set for other builds must not reach these.
FOREIGN_SETTINGS = re.compile(r"RUSTFLAGS|RUSTC|RUSTC_.*|CARGO_(BUILD|PROFILE|TARGET|ENCODED|INCREMENTAL|UNSTABLE).*")


class Unavailable(Exception):
    """A toolchain cannot be had on this machine."""


class Failed(Exception):
    """A guest cannot be built with the toolchain that it asks for."""


def run(command, fault, **settings):
    """Runs a command to its end, without a word if it went well."""
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)
    except FileNotFoundError as error:
        raise fault(f"`{error.filename}` is not here") from None
    if ran.returncode != 0:
        if fault is Unavailable:
            lines = ran.stdout.strip().splitlines()
            errors = [line for line in lines if re.search(r"\b(E:|error\b)", line, re.IGNORECASE)]
            raise Unavailable((errors or lines or [f"`{command[0]}` failed"])[0][:200])
        raise fault(f"{shlex.join(map(str, command))}\n{ran.stdout}")


def fetched(name, fetch):
    """The folder `name` of the cache, which `fetch(folder)` fills the first time: wholly, or not at all."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"fetching {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
            fetch(Path(unfinished) / name)
            try:
                os.rename(Path(unfinished) / name, folder)
            except OSError:
                if not folder.is_dir():  # else another process was here first
                    raise
    return folder


class Rust:
    """Debian's packages, unpacked, under the cargo that is there."""

    def __init__(self, toolchain):
        version, packages = toolchain["version"], toolchain["packages"]
        folder = fetched(packages[0].replace("=", "-"), lambda folder: unpack(folder, packages))
        run([folder / "usr/bin/rustc", "--version"], Unavailable, env=dict(os.environ, **self.libraries(folder)))
        # The packages hold the sources of `std` and of what it needs, but no build of it for wasm32.
        crates = folder / f"usr/src/rustc-{version}/library/vendor"
        self.sources = ["--config", 'source.crates-io.replace-with="packaged"']
        self.sources += ["--config", f"source.packaged.directory='{crates}'"]
        self.settings = {name: value for name, value in os.environ.items() if not FOREIGN_SETTINGS.fullmatch(name)}
        self.settings |= self.libraries(folder) | {
            "RUSTC": str(folder / "usr/bin/rustc"),
            "RUSTC_BOOTSTRAP": "1",
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TARGET_DIR": str(CACHE / "target"),
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER": str(folder / "usr/bin/wasm-ld-22"),
            # A panic's message names its source, but not where on this machine that lies.
            "CARGO_ENCODED_RUSTFLAGS": f"--remap-path-prefix={folder}=/rust\x1f--remap-path-prefix={HERE}=/guests",
        }

    @staticmethod
    def libraries(folder):
        return {"LD_LIBRARY_PATH": str(folder / "usr/lib/x86_64-linux-gnu")}

    def build(self, command, guest, output):
        cargo, *rest = shlex.split(command.format(package=guest["package"]))
        run([cargo, *self.sources, *rest], Failed, cwd=HERE, env=self.settings)
        artefact = guest["package"].replace("-", "_") + ".wasm"
        shutil.copyfile(CACHE / "target/wasm32-unknown-unknown/release" / artefact, output)


def unpack(folder, packages):
    """Takes no rights, and nothing from how apt is set but where it fetches: its lists, too, are kept apart."""
    downloads = folder / "downloads"
    for name in ("lists/partial", "cache/archives/partial"):
        (downloads / name).mkdir(parents=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={downloads}/lists", "-o", f"Dir::Cache={downloads}/cache"]
    apt += ["-o", "APT::Sandbox::User="]
    run([*apt, "update"], Unavailable)
    run([*apt, "download", *packages], Unavailable, cwd=downloads)
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg", "-x", package, folder], Unavailable)
    shutil.rmtree(downloads)


class C:
    """Zig, as pip gets it."""

    def __init__(self, toolchain):
        name = f"ziglang=={toolchain['version']}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"]
        folder = fetched(name, lambda folder: run([*pip, folder, name], Unavailable))
        self.settings = dict(os.environ, PYTHONPATH=str(folder), ZIG_GLOBAL_CACHE_DIR=str(CACHE / "zig"))
        self.settings |= {"ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig")}

    def build(self, command, guest, output):
        _zig, *rest = shlex.split(command.format(source=guest["sources"][0], output=output))
        flags = [f"-ffile-prefix-map={HERE}=/guests"]
        run([sys.executable, "-m", "ziglang", *rest, *flags], Failed, cwd=HERE, env=self.settings)


class AssemblyScript:
    """Its compiler, as npm gets it."""

    def __init__(self, toolchain):
        name = f"assemblyscript@{toolchain['version']}"
        npm = ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]
        self.folder = fetched(name, lambda folder: run([*npm, folder, name], Unavailable))

    def build(self, command, guest, output):
        _asc, *rest = shlex.split(command.format(source=guest["sources"][0], output=output))
        run(["node", self.folder / "node_modules/assemblyscript/bin/asc.js", *rest], Failed, cwd=HERE)


LANGUAGES = {"rust": Rust, "c": C, "assemblyscript": AssemblyScript}


def built(guests, toolchains, folder):
    """Yields each guest with the bytes that were built of it, or with the reason why its toolchain cannot be had."""
    ready = {}
    for guest in guests:
        language = guest["language"]
        toolchain = toolchains[language]
        if language not in ready:
            try:
                ready[language] = LANGUAGES[language](toolchain)
            except Unavailable as reason:
                ready[language] = Unavailable(f"{language} {toolchain['version']} cannot be had here: {reason}")
        if isinstance(ready[language], Unavailable):
            yield guest, ready[language]
        else:
            output = folder / guest["file"]
            ready[language].build(toolchain["command"], guest, output)
            yield guest, output.read_bytes()


def check(results):
    """Says of each guest whether it is what its sources make; fails if one is not."""
    differ = False
    for guest, result in results:
        if isinstance(result, Unavailable):
            print(f"not rebuilt: {guest['file']}: {result}", file=sys.stderr, flush=True)
            continue
        same = hexdigest(result) == guest["blake3"]
        differ |= not same
        print(f"{'same' if same else 'DIFFERS'}: {guest['file']}", flush=True)
    return 1 if differ else 0


def write(results):
    """Puts what was built into `dist/`, and its digests into the manifest."""
    for guest, result in results:
        if isinstance(result, Unavailable):
            raise Failed(f"{guest['file']}: {result}")
        (DIST / guest["file"]).write_bytes(result)
        head, *entries = MANIFEST.read_text().split("[[guest]]\n")
        for index, entry in enumerate(entries):
            if f'file = "{guest["file"]}"\n' in entry:
                entry = re.sub(r"^bytes = .*$", f"bytes = {len(result)}", entry, flags=re.MULTILINE)
                entries[index] = re.sub(r"^blake3 = .*$", f'blake3 = "{hexdigest(result)}"', entry, flags=re.MULTILINE)
        MANIFEST.write_text("[[guest]]\n".join([head, *entries]))
        print(f"{hexdigest(result)}  {guest['file']}  {len(result)} bytes", flush=True)
    return 0


def main():
    manifest = tomllib.loads(MANIFEST.read_text())
    guests = {guest["file"].removesuffix(".wasm"): guest for guest in manifest["guest"]}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="build elsewhere, and compare with the manifest's digests")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"a guest (default: all): {', '.join(guests)}")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in guests:
            parser.error(f"there is no guest `{name}`; there are {', '.join(guests)}")
    chosen = [guests[name] for name in arguments.names or guests]
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = built(chosen, manifest["toolchain"], Path(folder))
            return check(results) if arguments.check else write(results)
        except Failed as error:
            sys.exit(f"build.py: {error}")


if __name__ == "__main__":
    sys.exit(main())
