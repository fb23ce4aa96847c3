#!/usr/bin/env python3
"""Breaks the meter on purpose, one patch at a time, and demands that its tests notice.

    tests/meter/faults/replay.py [NAME...]

Each patch beside this file says in its first line which tests are to fail. The sources are copied below the target
directory and patched there; the working tree is left alone. Names choose patches by a part of theirs. A test that hangs
has noticed, too: some of these faults let a guest run for ever.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
SCRATCH = TARGET / "faults"
PATCHED = pathlib.Path("host/sandbox/meter")

# Of what a test says, so many characters are shown.
SAID_MAX = 160

# Longer than all of these tests take, where nothing is wrong.
SECONDS_MAX = 300


def copy_sources():
    shutil.rmtree(SCRATCH, ignore_errors=True)

    def unwanted(directory, names):
        return [name for name in names if name in (".git", "target") or pathlib.Path(directory, name) == TARGET]

    # As of now: what is older than the last build, with a fault in it, would not be built again.
    shutil.copytree(ROOT, SCRATCH, ignore=unwanted, copy_function=shutil.copy)
    # Cargo tells packages apart by name and version, not by directory: another version keeps what is built here from
    # being taken for what is built there. What both depend on is built once.
    manifest = SCRATCH / "Cargo.toml"
    text = re.sub(r'^version = "(.*)"$', r'version = "\1-faults"', manifest.read_text(), count=1, flags=re.MULTILINE)
    # The meter's tests use neither the program nor what stands behind the sandbox: those take most
    # of the time that a build takes.
    text = re.sub(r"^default-run = .*\n", "", text, flags=re.MULTILINE)
    manifest.write_text(re.sub(r"^\[\[bin\]\]\n(.+\n)+", "", text, flags=re.MULTILINE))
    library = SCRATCH / "host/lib.rs"
    sandbox = "pub mod sandbox;\n"
    library.write_text(library.read_text().split(sandbox)[0] + sandbox)


def restore_meter():
    for source in (ROOT / PATCHED).rglob("*.rs"):
        copy = SCRATCH / source.relative_to(ROOT)
        # Only what differs, so that it is only compiled again where it has to be.
        if copy.read_bytes() != source.read_bytes():
            copy.write_bytes(source.read_bytes())


def build():
    """The test program, or None and what the compiler said."""
    command = ["cargo", "test", "--offline", "--test", "meter", "--no-run", "--message-format=json-render-diagnostics"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(TARGET)}
    built = subprocess.run(command, cwd=SCRATCH, env=environment, capture_output=True, text=True)
    programs = [
        message["executable"]
        for message in map(json.loads, built.stdout.splitlines())
        if message.get("executable") and message["target"]["name"] == "meter"
    ]
    return (programs[0], "") if built.returncode == 0 and programs else (None, built.stderr)


def run(program, filters):
    """Which tests failed, and what one of them says; those that hang are ended."""
    process = subprocess.Popen(
        [program, *filters], cwd=SCRATCH, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    try:
        output, _ = process.communicate(timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return ["(hangs)"], ""
    failed = re.findall(r"^test (\S+) \.\.\. FAILED$", output, re.MULTILINE)
    ran = re.search(r"^running (\d+) tests?$", output, re.MULTILINE)
    if process.returncode == 0:
        return [] if ran and int(ran[1]) > 0 else ["(no such test)"], ""
    said = re.search(r"^thread .* panicked at .*\n(.*)", output, re.MULTILINE)
    return failed or ["(the test program died)"], said[1] if said else ""


def main():
    began = time.monotonic()
    chosen = sys.argv[1:]
    patches = [patch for patch in sorted(HERE.glob("*.patch")) if not chosen or any(part in patch.name for part in chosen)]
    copy_sources()
    program, complaint = build()
    if program is None:
        sys.exit(f"the meter's tests do not compile:\n{complaint}")
    filters = {patch: patch.read_text().splitlines()[0].removeprefix("Caught by: ").split() for patch in patches}
    failed, said = run(program, sorted({name for names in filters.values() for name in names}))
    if failed:
        sys.exit(f"the tests fail without a fault: {', '.join(failed)}: {said}")

    missed = 0
    for patch in patches:
        restore_meter()
        applied = subprocess.run(
            ["git", "apply", "--recount", "--unsafe-paths", f"--directory={SCRATCH}", str(patch)],
            cwd="/", capture_output=True, text=True,
        )
        if applied.returncode != 0:
            verdict = f"does not apply: {applied.stderr.strip()}"
        else:
            program, complaint = build()
            failed, said = run(program, filters[patch]) if program else ([], "")
            verdict = f"caught by {failed[0]} and {len(failed) - 1} more" if len(failed) > 1 else "".join(failed)
            verdict = verdict or ("MISSED" if program else f"does not compile: {complaint[-400:]}")
        is_caught = applied.returncode == 0 and program is not None and failed and failed != ["(no such test)"]
        missed += not is_caught
        print(f"{'ok    ' if is_caught else 'FAILED'}  {patch.stem:60}  {verdict}", flush=True)
        if is_caught and said:
            # That it is caught for what is wrong with it, nobody but a reader sees.
            print(f"        {said[:SAID_MAX]}", flush=True)
    print(f"{len(patches) - missed} of {len(patches)} faults are caught, in {time.monotonic() - began:.0f} s")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
