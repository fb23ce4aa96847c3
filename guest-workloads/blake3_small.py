"""BLAKE3 of short data, because Python's standard library has none.

Source: the specification, https://github.com/BLAKE3-team/BLAKE3-specs. `cargo test` compares the results with the
crate `blake3`.
"""

import struct

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
COLUMNS_THEN_DIAGONALS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
WORD = 0xFFFFFFFF


def rotated(word, bits):
    return (word >> bits | word << (32 - bits)) & WORD


def compressed(chaining_value, block, flags, counter=0):
    """Returns the chaining value after a block of at most 64 bytes."""
    words = struct.unpack("<16I", block.ljust(64, b"\0"))
    state = [*chaining_value, *IV[:4], counter & WORD, counter >> 32, len(block), flags]
    for _ in range(7):
        for index, (a, b, c, d) in enumerate(COLUMNS_THEN_DIAGONALS):
            for word, first, second in ((words[2 * index], 16, 12), (words[2 * index + 1], 8, 7)):
                state[a] = (state[a] + state[b] + word) & WORD
                state[d] = rotated(state[d] ^ state[a], first)
                state[c] = (state[c] + state[d]) & WORD
                state[b] = rotated(state[b] ^ state[c], second)
        words = [words[index] for index in PERMUTATION]
    return tuple(state[i] ^ state[i + 8] for i in range(8))


def chunk(data, counter, flags):
    """Returns the chaining value of a chunk of at most 1024 bytes."""
    blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    value = IV
    for index, block in enumerate(blocks):
        first, last = index == 0, index == len(blocks) - 1
        value = compressed(value, block, first * CHUNK_START | last * (CHUNK_END | flags), counter)
    return value


def subtree(data, counter=0, flags=0):
    """Returns the chaining value of a subtree. Its left half is the largest power of two of chunks that leaves a right half."""
    if len(data) <= 1024:
        return chunk(data, counter, flags)
    chunks_left = 1 << ((len(data) - 1) // 1024).bit_length() - 1
    left = subtree(data[: chunks_left * 1024], counter)
    right = subtree(data[chunks_left * 1024 :], counter + chunks_left)
    return compressed(IV, struct.pack("<16I", *left, *right), PARENT | flags)


def hexdigest(data):
    """Returns the 64 digits that `b3sum` prints."""
    return struct.pack("<8I", *subtree(data, flags=ROOT)).hex()
