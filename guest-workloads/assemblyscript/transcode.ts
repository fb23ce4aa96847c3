// Variant of transcode.wat: its proof is BLAKE3 of the slice, as computed by the host.
import { DIGEST_BYTES, inputBlake3, inputLen, proofCommit } from "./compute";

export function run(): i32 {
  const proof = memory.data(DIGEST_BYTES);
  inputBlake3(0, inputLen(), proof);
  proofCommit(proof);
  return 0;
}
