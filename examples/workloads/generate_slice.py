#!/usr/bin/env python3
"""Make sample slices: an image for the transcode job, a tensor for the inference job.

A transcode slice is a binary PPM image (https://netpbm.sourceforge.net/doc/ppm.html): a part of the Mandelbrot set,
chosen by the seed. An inference slice is a NumPy .npy file (format 1.0,
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html) with a float32 tensor: noisy waves. Both have
exactly the requested size, and the same size and seed give the same bytes on every machine.
"""

import argparse
import os
import random
import re
import struct
import sys
import tempfile

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# Longest content that is computed value by value; a larger slice repeats it. Python computes about
# a mebibyte a second.
COMPUTED_BYTES_MAX = 1 << 20


def size(text):
    """Parses a size in bytes, or with a unit: 64KiB, 4G, 1.5MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write bytes, or a unit as in 64KiB or 4GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def repeated(block, length):
    """Yields `length` bytes: the block, repeated."""
    while length > 0:
        yield block[:length]
        length -= len(block)


def ppm(length, seed):
    """Yields a PPM image of `length` bytes. A comment in the header fills the bytes that are less than a row."""
    width = max(1, int((length / 3) ** 0.5))
    while True:
        def header(comment):
            return b"P6\n#" + comment + f"\n{width} {height}\n255\n".encode()

        height = max(1, (length - len(f"P6\n#\n{width} 1000000000\n255\n")) // (3 * width))
        rest = length - len(header(b"")) - 3 * width * height
        if rest >= 0:
            break
        if width == 1:
            raise ValueError("a transcode slice has at least 16 bytes")
        width -= 1
    yield header(b" " * rest)
    rows = min(height, max(1, COMPUTED_BYTES_MAX // (3 * width)))
    yield from repeated(mandelbrot(width, rows, seed), 3 * width * height)


def mandelbrot(width, height, seed):
    """Returns RGB rows. Only +, - and * are used on floats, which IEEE 754 rounds alike everywhere."""
    chance = random.Random(seed)
    centre_x, centre_y = -0.745 + chance.random() * 0.01, 0.1 + chance.random() * 0.02
    span = 2.4 - chance.random() * 2.3
    palette = [tuple(chance.randrange(256) for _ in range(3)) for _ in range(32)]
    pixels = bytearray()
    for row in range(height):
        y0 = centre_y + span * (row / height - 0.5)
        for column in range(width):
            x0 = centre_x + span * (column / width - 0.5)
            x = y = 0.0
            count = 0
            while count < 64 and x * x + y * y < 4.0:
                x, y = x * x - y * y + x0, 2.0 * x * y + y0
                count += 1
            pixels += bytes((0, 0, 0) if count == 64 else palette[count % 32])
    return bytes(pixels)


def npy(length, seed):
    """A .npy file of `length` bytes: the header's padding takes what no float32 fills."""
    prefix = b"\x93NUMPY\x01\x00"

    def fields(count):
        return f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}".encode()

    count = max(0, (length - len(prefix) - 2 - len(fields(length)) - 1) // 4)
    padding = length - len(prefix) - 2 - len(fields(count)) - 1 - 4 * count
    if padding < 0:
        raise ValueError("an inference slice has at least 68 bytes")
    header = fields(count) + b" " * padding + b"\n"
    yield prefix + struct.pack("<H", len(header)) + header
    values = min(count, COMPUTED_BYTES_MAX // 4)
    yield from repeated(waves(values, seed), 4 * count)


def waves(count, seed):
    """Returns little-endian float32 values: sums of three triangle waves, and noise."""
    chance = random.Random(seed)
    periods = [chance.randrange(50, 5000) for _ in range(3)]
    values = []
    for index in range(count):
        value = sum(abs(index % period / period - 0.5) * 4.0 - 1.0 for period in periods) / 3.0
        values.append(value + (chance.random() - 0.5) * 0.1)
    return struct.pack(f"<{count}f", *values)


KINDS = {"transcode": ppm, "inference": npy}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  generate_slice.py transcode                          the sample transcode.slice, in this folder\n"
        "  generate_slice.py inference --size 64MiB --seed 7    another inference.slice\n"
        "  generate_slice.py transcode --out /tmp/transcode-7.slice\n",
    )
    parser.add_argument("kind", choices=KINDS, help="what to make")
    parser.add_argument("--size", type=size, default="48KiB", metavar="BYTES", help="exactly so many; 64KiB, 4G and the like work too (default: 48KiB)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another slice (default: 0)")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: KIND.slice)")
    arguments = parser.parse_args()

    path = arguments.out or f"{arguments.kind}.slice"
    folder = os.path.dirname(path) or "."
    try:
        # A temporary file in the same folder: no one sees half a slice, and a failure leaves no
        # file.
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            try:
                for part in KINDS[arguments.kind](arguments.size, arguments.seed):
                    file.write(part)
                file.flush()
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except ValueError as error:
        sys.exit(f"generate_slice.py: {error}")
    except OSError as error:
        sys.exit(f"generate_slice.py: cannot write {path}: {error.strerror}")
    print(f"{path}: {arguments.kind}, {arguments.size} bytes, seed {arguments.seed}")


if __name__ == "__main__":
    main()
