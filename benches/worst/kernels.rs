//! Kernels: chains of one operator, denormal floats, memory in random order, and host calls.

use compute_host::sandbox::meter;

use super::chains::{chain, moving};

pub struct Kernel {
    pub name: String,
    pub code: String,
    /// Waits for memory that is in no cache, which no price covers.
    pub is_cold: bool,
}

/// Reads the locals `$x_TYPE` and `$y_TYPE`, `$zero`, and leaves the operand stack as it is.
pub fn kernels() -> Vec<Kernel> {
    let kernel = |name: String, code: String| Kernel { name, code: code.replace("RANDOM", RANDOM), is_cold: false };
    let operators = meter::costs().filter_map(|(name, _)| {
        let code = chain(&name)?.code;
        Some(kernel(name, code))
    });
    let denormals = ["f32", "f64", "f32x4", "f64x2"].into_iter().flat_map(|ty| {
        DENORMAL.into_iter().map(move |(what, code)| kernel(format!("{ty}: {what}"), code.replace("TYPE", ty)))
    });
    let moved = ["memory.fill", "memory.copy", "memory.init", "table.fill", "table.copy", "table.init"];
    let moves = moved
        .into_iter()
        .flat_map(|name| [0, 1, 65, 1_000].map(|count| kernel(format!("{name} of {count}"), moving(name, count))));
    let hashes = [0, 1, 64, 1_024, 1_025, 4_096, 16_384].into_iter().flat_map(|len| {
        let at = format!("i32.const 4096 i32.const {len}");
        [
            kernel(format!("blake3 of {len}"), format!("{at} i32.const 64 call $blake3")),
            kernel(format!("blake3_update of {len}"), format!("{at} call $blake3_update")),
            kernel(
                format!("blake3_update of {len}, and the end"),
                format!("{at} call $blake3_update i32.const 64 call $blake3_finish"),
            ),
            kernel(
                format!("input_read of {len}"),
                format!("i32.const 4096 i64.const 0 i32.const {len} call $input_read drop"),
            ),
            kernel(
                format!("input_blake3 of {len}"),
                format!("i64.const 1 i64.const {len} i32.const 64 call $input_blake3"),
            ),
            kernel(format!("output_write of {len}"), format!("{at} call $output_write")),
        ]
    });
    let cold = COLD.into_iter().map(|(name, code)| Kernel {
        name: name.to_owned(),
        code: code.replace("RANDOM", RANDOM),
        is_cold: true,
    });
    let others = OTHERS.into_iter().map(|(name, code)| kernel(name.to_owned(), code.to_owned()));
    operators.chain(denormals).chain(moves).chain(hashes).chain(cold).chain(others).collect()
}

/// `$d_TYPE` is denormal and stays so; `$one_TYPE` is a little less than one, and `$n_TYPE` is the
/// least normal number.
const DENORMAL: [(&str, &str); 4] = [
    ("a product", "local.get $d_TYPE local.get $one_TYPE TYPE.mul local.set $d_TYPE"),
    ("a quotient", "local.get $d_TYPE local.get $one_TYPE TYPE.div local.set $d_TYPE"),
    ("a difference", "local.get $n_TYPE local.get $d_TYPE TYPE.add local.get $n_TYPE TYPE.sub local.set $d_TYPE"),
    (
        "a product and its root",
        "local.get $d_TYPE local.get $one_TYPE TYPE.mul local.tee $d_TYPE TYPE.sqrt local.set $root_TYPE",
    ),
];

const RANDOM: &str = "local.get $y_i64 i64.const 6364136223846793005 i64.mul i64.const 1442695040888963407 i64.add
    local.tee $y_i64 i64.const 39 i64.shr_u i32.wrap_i64";

const COLD: [(&str, &str); 2] = [
    ("a load in no order", "local.get $cold i32.load local.set $cold"),
    ("a store in no order", "RANDOM i32.const 1 i32.store offset=2097152"),
];

const OTHERS: [(&str, &str); 6] = [
    ("a branch that cannot be foreseen", "RANDOM i32.const 1 i32.and if nop global.get $g global.set $g end"),
    (
        "a jump that cannot be foreseen",
        "block block block block RANDOM i32.const 3 i32.and br_table 0 1 2 3 end end end end",
    ),
    (
        "a call that cannot be foreseen",
        "local.get $x_i32 RANDOM i32.const 3 i32.and call_indirect (type $unary) local.set $x_i32",
    ),
    ("a page that is added", "i32.const 1 memory.grow drop"),
    ("a page that cannot be added", "i32.const 65536 memory.grow drop"),
    ("the arguments", "call $args_len drop"),
];
