/* The `compute` ABI, version 1: what a guest may ask of the node that runs it.
 *
 * zig cc -target wasm32-freestanding -Os -nostdlib -Wl,--no-entry -s guest.c -o guest.wasm
 *
 * Every call costs the job some of its fuel: a base, and a price a byte. So read in windows of some kilobytes, not in
 * words. A pointer out of range, or what the job does not allow, ends the run within the call. */
#ifndef COMPUTE_H
#define COMPUTE_H

#include <stddef.h>
#include <stdint.h>

#define COMPUTE_IMPORT(name) __attribute__((import_module("compute"), import_name(#name))) extern

/* The guest's entry: `COMPUTE_RUN int32_t run(void) { ... return 0; }`. 0 is done, all else the guest's own failure. */
#define COMPUTE_RUN __attribute__((export_name("run")))

#define COMPUTE_DIGEST_BYTES 32

/* The slice. A read copies up to `len` bytes from `offset` on, and says how many: fewer at the end, none behind it. */
COMPUTE_IMPORT(input_len) uint64_t input_len(void);
COMPUTE_IMPORT(input_read) size_t input_read(void *dst, uint64_t offset, size_t len);
/* BLAKE3 of a part of the slice, without a copy of it; of the whole slice the host has it already. */
COMPUTE_IMPORT(input_blake3) void input_blake3(uint64_t offset, uint64_t len, uint8_t dst[COMPUTE_DIGEST_BYTES]);

/* BLAKE3 of the guest's memory. */
COMPUTE_IMPORT(blake3) void blake3(const void *ptr, size_t len, uint8_t dst[COMPUTE_DIGEST_BYTES]);
/* The same in parts; the run has one such hasher, and `blake3_finish` begins it anew. */
COMPUTE_IMPORT(blake3_update) void blake3_update(const void *ptr, size_t len);
COMPUTE_IMPORT(blake3_finish) void blake3_finish(uint8_t dst[COMPUTE_DIGEST_BYTES]);

/* The job's parameters. */
COMPUTE_IMPORT(args_len) uint64_t args_len(void);
COMPUTE_IMPORT(args_read) size_t args_read(void *dst, uint64_t offset, size_t len);

/* The blobs that the job brings, numbered from 0. The length is -1 for one that it does not bring; to read that ends
 * the run. */
COMPUTE_IMPORT(asset_len) int64_t asset_len(uint32_t index);
COMPUTE_IMPORT(asset_read) size_t asset_read(uint32_t index, void *dst, uint64_t offset, size_t len);

/* Appends to the output. */
COMPUTE_IMPORT(output_write) void output_write(const void *ptr, size_t len);

/* Makes these bytes the slice's proof, once; without it the proof is BLAKE3 of the output. */
COMPUTE_IMPORT(proof_commit) void proof_commit(const uint8_t proof[COMPUTE_DIGEST_BYTES]);

/* Shows the operator a line, which is no part of the result. C has a `log` of its own, hence the name. */
COMPUTE_IMPORT(log) void log_line(const char *ptr, size_t len);

#endif
