// The `compute` ABI, version 1: what a guest may ask of the node that runs it.
//
// asc guest.ts -O3 --runtime stub --use abort= -o guest.wasm
//
// Without `--use abort=` the module imports `env.abort`, which the node refuses. Statements outside of functions, and the
// runtime's heap, make a start function: the node runs it before `run`, as part of the run.
//
// Every call costs the job some of its gas: a base, and a price a byte. So read in windows of some kilobytes, not in
// words. A pointer out of range, or what the job does not allow, ends the run within the call.

export const DIGEST_BYTES = 32;

/** The length of the slice. */
@external("compute", "input_len")
export declare function inputLen(): u64;

/** Copies up to `len` bytes of the slice from `offset` on, and says how many: fewer at its end, none behind it. */
@external("compute", "input_read")
export declare function inputRead(dst: usize, offset: u64, len: u32): u32;

/** BLAKE3 of a part of the slice, without a copy of it; of the whole slice the host has it already. */
@external("compute", "input_blake3")
export declare function inputBlake3(offset: u64, len: u64, dst: usize): void;

/** BLAKE3 of the guest's memory. */
@external("compute", "blake3")
export declare function blake3(ptr: usize, len: u32, dst: usize): void;

/** Hashes memory in parts; the run has one such hasher. */
@external("compute", "blake3_update")
export declare function blake3Update(ptr: usize, len: u32): void;

/** The digest of all parts so far; the hasher begins anew. */
@external("compute", "blake3_finish")
export declare function blake3Finish(dst: usize): void;

/** The length of the job's parameters. */
@external("compute", "args_len")
export declare function argsLen(): u64;

/** Copies from the job's parameters, as `inputRead` does from the slice. */
@external("compute", "args_read")
export declare function argsRead(dst: usize, offset: u64, len: u32): u32;

/** The length of a blob that the job brings, numbered from 0; -1 if it brings no such. */
@external("compute", "asset_len")
export declare function assetLen(index: u32): i64;

/** Copies from an asset, as `inputRead` does from the slice; one that the job does not bring ends the run. */
@external("compute", "asset_read")
export declare function assetRead(index: u32, dst: usize, offset: u64, len: u32): u32;

/** Appends to the output. */
@external("compute", "output_write")
export declare function outputWrite(ptr: usize, len: u32): void;

/** Makes 32 bytes the slice's proof, once; without it the proof is BLAKE3 of the output. */
@external("compute", "proof_commit")
export declare function proofCommit(ptr: usize): void;

/** Shows the operator a line of UTF-8, which is no part of the result. */
@external("compute", "log")
export declare function log(ptr: usize, len: u32): void;
