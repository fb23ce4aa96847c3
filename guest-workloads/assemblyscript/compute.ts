// The `compute` ABI, version 1: the host functions of a guest.
//
// asc guest.ts -O3 --runtime stub --use abort= -o guest.wasm
//
// Without `--use abort=` the module imports `env.abort`, which the node refuses. Statements outside
// functions, and the runtime's heap, create a start function. The node runs it before `run`, as part
// of the run.
//
// Each call costs gas: a base and a price per byte, so read windows of some kilobytes, not words. A
// pointer out of range, or a call that the job does not allow, ends the run.

export const DIGEST_BYTES = 32;

/** Returns the length of the slice. */
@external("compute", "input_len")
export declare function inputLen(): u64;

/**
 * Copies up to `len` bytes of the slice from `offset` on, and returns their number: less than `len`
 * near the end, and 0 after it.
 */
@external("compute", "input_read")
export declare function inputRead(dst: usize, offset: u64, len: u32): u32;

/**
 * Writes BLAKE3 of a part of the slice, without copying the part. The host already has that of the
 * whole slice.
 */
@external("compute", "input_blake3")
export declare function inputBlake3(offset: u64, len: u64, dst: usize): void;

/** Writes BLAKE3 of bytes in the guest's memory. */
@external("compute", "blake3")
export declare function blake3(ptr: usize, len: u32, dst: usize): void;

/** Hashes memory in parts. Each run has one hasher. */
@external("compute", "blake3_update")
export declare function blake3Update(ptr: usize, len: u32): void;

/** Writes the digest of all parts so far, and resets the hasher. */
@external("compute", "blake3_finish")
export declare function blake3Finish(dst: usize): void;

/** Returns the length of the job's arguments. */
@external("compute", "args_len")
export declare function argsLen(): u64;

/** Copies from the job's arguments, as `inputRead` does from the slice. */
@external("compute", "args_read")
export declare function argsRead(dst: usize, offset: u64, len: u32): u32;

/** Returns the length of an asset of the job, numbered from 0; -1 if there is none. */
@external("compute", "asset_len")
export declare function assetLen(index: u32): i64;

/** Copies from an asset, as `inputRead` does from the slice. A missing asset ends the run. */
@external("compute", "asset_read")
export declare function assetRead(index: u32, dst: usize, offset: u64, len: u32): u32;

/** Appends to the output. */
@external("compute", "output_write")
export declare function outputWrite(ptr: usize, len: u32): void;

/**
 * Makes 32 bytes the slice's proof, at most once. Without a commit, the proof is BLAKE3 of the
 * output.
 */
@external("compute", "proof_commit")
export declare function proofCommit(ptr: usize): void;

/** Logs a line of UTF-8 for the operator; the line is not part of the result. */
@external("compute", "log")
export declare function log(ptr: usize, len: u32): void;
