#!/usr/bin/env python3
"""Build guests, or check that the built modules match their sources.

Each folder of guests has a file `dist/manifest.toml`, which lists the guests, their sources, and how to build them.
Only the toolchains in the manifest of guest-workloads are used, because another version makes other bytes. apt-get,
pip, npm and cargo download them once, into `compute-guests` in the user's cache folder; nothing is installed.
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
ROOT = HERE.parent
FOLDERS = ["guest-workloads", "benches/kernels"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compute-guests"

# A user's settings for other builds must not apply to these.
FOREIGN_SETTINGS = re.compile(r"RUSTFLAGS|RUSTC|RUSTC_.*|CARGO_(BUILD|PROFILE|TARGET|ENCODED|INCREMENTAL|UNSTABLE).*")


class Unavailable(Exception):
    """A toolchain is not available on this machine."""


class Failed(Exception):
    """A guest cannot be built with its toolchain."""


def run(command, fault, **settings):
    """Runs a command, and prints nothing if it succeeds."""
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
    """Returns the folder `name` of the cache, which `fetch(folder)` fills the first time, atomically."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"fetching {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
            fetch(Path(unfinished) / name)
            try:
                os.rename(Path(unfinished) / name, folder)
            except OSError:
                if not folder.is_dir():  # else another process has created the folder
                    raise
    return folder


class Rust:
    """Debian's Rust packages, unpacked, used by the installed cargo."""

    def __init__(self, toolchain, guests):
        version, packages = toolchain["version"], toolchain["packages"]
        folder = fetched(packages[0].replace("=", "-"), lambda folder: unpack(folder, packages))
        run([folder / "usr/bin/rustc", "--version"], Unavailable, env=dict(os.environ, **self.libraries(folder)))
        self.workspace = guests / toolchain.get("workspace", ".")
        self.settings = {name: value for name, value in os.environ.items() if not FOREIGN_SETTINGS.fullmatch(name)}
        # The packages have the sources of `std` and its dependencies, but no build of it for
        # wasm32.
        crates = self.crates(folder / f"usr/src/rustc-{version}/library/vendor")
        self.sources = ["--config", 'source.crates-io.replace-with="packaged"']
        self.sources += ["--config", f"source.packaged.directory='{crates}'"]
        # A panic message names its source file, but must not contain this machine's paths. The last
        # matching prefix applies.
        remapped = [(crates, "/crates"), (folder, "/rust"), (guests, "/guests")]
        self.settings |= self.libraries(folder) | {
            "RUSTC": str(folder / "usr/bin/rustc"),
            "RUSTC_BOOTSTRAP": "1",
            "CARGO_NET_OFFLINE": "true",
            "CARGO_TARGET_DIR": str(CACHE / "target"),
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER": str(folder / "usr/bin/wasm-ld-22"),
            "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(f"--remap-path-prefix={here}={there}" for here, there in remapped),
        }

    @staticmethod
    def libraries(folder):
        return {"LD_LIBRARY_PATH": str(folder / "usr/lib/x86_64-linux-gnu")}

    def crates(self, packaged):
        """Returns the folder of all crates' sources: those of the lock file and the packaged ones. Cargo accepts only one."""
        lock = (self.workspace / "Cargo.lock").read_bytes()
        if b"\nsource = " not in lock:
            return packaged

        def fetch(folder):
            vendor = ["cargo", "vendor", "--quiet", "--locked", "--versioned-dirs", folder]
            run(vendor, Unavailable, cwd=self.workspace, env=self.settings)
            for crate in packaged.iterdir():
                if not (folder / crate.name).exists():
                    (folder / crate.name).symlink_to(crate)

        # The links point into one toolchain, so the name depends on it.
        return fetched(f"crates-{hexdigest(bytes(packaged) + lock)[:16]}", fetch)

    def build(self, command, guest, output):
        cargo, *rest = shlex.split(command.format(**guest))
        run([cargo, *self.sources, *rest], Failed, cwd=self.workspace, env=self.settings)
        artefact = guest.get("binary") or guest["package"].replace("-", "_")
        shutil.copyfile(CACHE / f"target/wasm32-unknown-unknown/release/{artefact}.wasm", output)


def unpack(folder, packages):
    """Downloads and unpacks packages without root. Of apt's settings only the sources are used; its lists are separate."""
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
    """Zig, downloaded by pip."""

    def __init__(self, toolchain, guests):
        self.guests = guests
        name = f"ziglang=={toolchain['version']}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"]
        folder = fetched(name, lambda folder: run([*pip, folder, name], Unavailable))
        self.settings = dict(os.environ, PYTHONPATH=str(folder), ZIG_GLOBAL_CACHE_DIR=str(CACHE / "zig"))
        self.settings |= {"ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig")}

    def build(self, command, guest, output):
        _zig, *rest = shlex.split(command.format(source=guest["sources"][0], output=output))
        flags = [f"-ffile-prefix-map={self.guests}=/guests"]
        run([sys.executable, "-m", "ziglang", *rest, *flags], Failed, cwd=self.guests, env=self.settings)


class AssemblyScript:
    """The AssemblyScript compiler, downloaded by npm."""

    def __init__(self, toolchain, guests):
        self.guests = guests
        name = f"assemblyscript@{toolchain['version']}"
        npm = ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]
        self.folder = fetched(name, lambda folder: run([*npm, folder, name], Unavailable))

    def build(self, command, guest, output):
        _asc, *rest = shlex.split(command.format(source=guest["sources"][0], output=output))
        run(["node", self.folder / "node_modules/assemblyscript/bin/asc.js", *rest], Failed, cwd=self.guests)


LANGUAGES = {"rust": Rust, "c": C, "assemblyscript": AssemblyScript}


class Folder:
    """A folder of guests: sources, and `dist/`."""

    def __init__(self, path, toolchains):
        self.path = path
        self.dist = path / "dist"
        manifest = tomllib.loads((self.dist / "manifest.toml").read_text())
        self.guests = {guest["file"].removesuffix(".wasm"): guest for guest in manifest["guest"]}
        self.toolchains = {name: toolchains.get(name, {}) | own for name, own in manifest["toolchain"].items()}

    def built(self, names, output):
        """Yields each guest with its built bytes, or with the reason why its toolchain is not available."""
        ready = {}
        for guest in (guest for name, guest in self.guests.items() if name in names):
            language = guest["language"]
            toolchain = self.toolchains[language]
            if language not in ready:
                try:
                    ready[language] = LANGUAGES[language](toolchain, self.path)
                except Unavailable as reason:
                    ready[language] = Unavailable(f"{language} {toolchain['version']} cannot be had here: {reason}")
            if isinstance(ready[language], Unavailable):
                yield guest, ready[language]
            else:
                ready[language].build(toolchain["command"], guest, output)
                yield guest, output.read_bytes()

    def check(self, results):
        """Prints for each guest whether it matches its sources, and returns whether all do."""
        differ = False
        for guest, result in results:
            if isinstance(result, Unavailable):
                print(f"not rebuilt: {guest['file']}: {result}", file=sys.stderr, flush=True)
                continue
            same = hexdigest(result) == guest["blake3"]
            differ |= not same
            print(f"{'same' if same else 'DIFFERS'}: {guest['file']}", flush=True)
        return not differ

    def write(self, results):
        """Writes the built modules to `dist/`, and their digests to the manifest."""
        manifest = self.dist / "manifest.toml"
        for guest, result in results:
            if isinstance(result, Unavailable):
                raise Failed(f"{guest['file']}: {result}")
            (self.dist / guest["file"]).write_bytes(result)
            head, *entries = manifest.read_text().split("[[guest]]\n")
            for index, entry in enumerate(entries):
                if f'file = "{guest["file"]}"\n' in entry:
                    entry = re.sub(r"^bytes = .*$", f"bytes = {len(result)}", entry, flags=re.MULTILINE)
                    entry = re.sub(r"^blake3 = .*$", f'blake3 = "{hexdigest(result)}"', entry, flags=re.MULTILINE)
                    entries[index] = entry
            manifest.write_text("[[guest]]\n".join([head, *entries]))
            print(f"{hexdigest(result)}  {guest['file']}  {len(result)} bytes", flush=True)
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="build elsewhere, and compare with the manifest's digests")
    parser.add_argument("--folder", choices=FOLDERS, help="the guests of this folder only (default: of all)")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a guest, as its file is called (default: all)")
    arguments = parser.parse_args()

    toolchains = tomllib.loads((HERE / "dist/manifest.toml").read_text())["toolchain"]
    folders = [Folder(ROOT / path, toolchains) for path in FOLDERS if arguments.folder in (None, path)]
    known = [name for folder in folders for name in folder.guests]
    for name in arguments.names:
        if name not in known:
            parser.error(f"there is no guest `{name}`; there are {', '.join(known)}")

    well = True
    with tempfile.TemporaryDirectory() as elsewhere:
        try:
            for folder in folders:
                results = folder.built(arguments.names or known, Path(elsewhere) / "guest.wasm")
                well &= folder.check(results) if arguments.check else folder.write(results)
        except Failed as error:
            sys.exit(f"build.py: {error}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
