//! Fuzz target: the results of a random module must be the same on every engine. The test `fuzz`
//! does this for a sequence of seeds; here libFuzzer chooses. All other code is the test's.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{Corpus, fuzz_target};

#[path = "../../tests/meter/scramble.rs"]
mod scramble;
#[path = "../../tests/fuzz"]
mod shared {
    #[allow(dead_code, reason = "the test counts what came of the modules that agree")]
    pub mod agree;
    mod constants;
    mod enliven;
    pub mod subject;
    mod wasmi_faults;

    use super::scramble;
}

use shared::agree::{Engines, Verdict};
use shared::subject;

static ENGINES: LazyLock<Engines> = LazyLock::new(Engines::new);

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(subject) = subject::subject(bytes) else { return Corpus::Reject };
    match subject.judged(&ENGINES) {
        Verdict::Refused(_) => Corpus::Reject,
        Verdict::Agree(_) | Verdict::WasmiFails(_) => Corpus::Keep,
        Verdict::Differ(difference) | Verdict::WasmiDiffers(difference) => panic!("engines differ:\n{difference}"),
    }
});
