/* The `compute` ABI, version 1: the host functions of a guest.
 *
 * zig cc -target wasm32-freestanding -Os -nostdlib -Wl,--no-entry -s guest.c -o guest.wasm
 *
 * Each call costs gas: a base and a price per byte, so read windows of some kilobytes, not words. A
 * pointer out of range, or a call that the job does not allow, ends the run. */
#ifndef COMPUTE_H
#define COMPUTE_H

#include <stddef.h>
#include <stdint.h>

#define COMPUTE_IMPORT(name) __attribute__((import_module("compute"), import_name(#name))) extern

/* Entry of the guest: `COMPUTE_RUN int32_t run(void) { ... return 0; }`. 0 means success; any other
 * value is the guest's own failure code. */
#define COMPUTE_RUN __attribute__((export_name("run")))

#define COMPUTE_DIGEST_BYTES 32

/* The slice. A read copies up to `len` bytes from `offset` on, and returns their number: less than
 * `len` near the end, and 0 after it. */
COMPUTE_IMPORT(input_len) uint64_t input_len(void);
COMPUTE_IMPORT(input_read) size_t input_read(void *dst, uint64_t offset, size_t len);
/* BLAKE3 of a part of the slice, without copying it. The host already has that of the whole slice. */
COMPUTE_IMPORT(input_blake3) void input_blake3(uint64_t offset, uint64_t len, uint8_t dst[COMPUTE_DIGEST_BYTES]);

/* BLAKE3 of bytes in the guest's memory. */
COMPUTE_IMPORT(blake3) void blake3(const void *ptr, size_t len, uint8_t dst[COMPUTE_DIGEST_BYTES]);
/* The same in parts. Each run has one hasher, and `blake3_finish` resets it. */
COMPUTE_IMPORT(blake3_update) void blake3_update(const void *ptr, size_t len);
COMPUTE_IMPORT(blake3_finish) void blake3_finish(uint8_t dst[COMPUTE_DIGEST_BYTES]);

/* The job's arguments. */
COMPUTE_IMPORT(args_len) uint64_t args_len(void);
COMPUTE_IMPORT(args_read) size_t args_read(void *dst, uint64_t offset, size_t len);

/* Assets of the job, numbered from 0. The length of a missing asset is -1; reading one ends the
 * run. */
COMPUTE_IMPORT(asset_len) int64_t asset_len(uint32_t index);
COMPUTE_IMPORT(asset_read) size_t asset_read(uint32_t index, void *dst, uint64_t offset, size_t len);

/* Appends to the output. */
COMPUTE_IMPORT(output_write) void output_write(const void *ptr, size_t len);

/* Makes these bytes the slice's proof, at most once. Without a commit, the proof is BLAKE3 of the
 * output. */
COMPUTE_IMPORT(proof_commit) void proof_commit(const uint8_t proof[COMPUTE_DIGEST_BYTES]);

/* Logs a line for the operator; the line is not part of the result. C has a function `log`, hence
 * the name. */
COMPUTE_IMPORT(log) void log_line(const char *ptr, size_t len);

#endif
