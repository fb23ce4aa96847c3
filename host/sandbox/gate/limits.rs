//! The limits of the gate, in one place: the subject, value and reason of each, and advice for
//! authors.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One limit.
#[derive(Debug)]
pub struct Limit {
    pub name: LimitName,
    /// The key in the config, and the code of the refusal.
    pub key: &'static str,
    /// The noun phrase for what is counted.
    pub what: &'static str,
    pub default: u64,
    /// The largest value that the config can set: the default, except for the two limits with an
    /// `up to`.
    pub highest: u64,
    pub reason: &'static str,
    pub hint: &'static str,
}

macro_rules! limits {
    ($($name:ident $key:ident = $default:expr $(, up to $highest:expr)?; $what:literal; $reason:literal; $hint:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum LimitName { $($name),* }

        /// One value for each limit: the limit itself, or a module's use of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct GateLimits { $(pub $key: u64),* }

        impl Default for GateLimits {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl GateLimits {
            pub const DEFAULT: Self = Self { $($key: $default),* };

            /// All values zero.
            pub const NONE: Self = Self { $($key: 0),* };

            pub const fn of(&self, name: LimitName) -> u64 {
                match name { $(LimitName::$name => self.$key),* }
            }

            /// Returns these limits with one value replaced.
            pub const fn with(mut self, name: LimitName, value: u64) -> Self {
                *self.of_mut(name) = value;
                self
            }

            pub(super) const fn of_mut(&mut self, name: LimitName) -> &mut u64 {
                match name { $(LimitName::$name => &mut self.$key),* }
            }
        }

        /// All limits, in the order of [`LimitName`].
        pub static LIMITS: &[Limit] = &[$({
            let highest = $default;
            $(let highest = { let _ = highest; $highest };)?
            Limit {
                name: LimitName::$name, key: stringify!($key), what: $what, default: $default, highest,
                reason: $reason, hint: $hint,
            }
        }),*];
    };
}

/// Must be raised when the gate's rules change in a way that its limits do not show.
const RULES_VERSION: u32 = 3;

impl GateLimits {
    /// Returns a digest that identifies the rules and limits which an admitted module has passed.
    pub fn digest(&self) -> Digest {
        let values = LIMITS.iter().flat_map(|limit| self.of(limit.name).to_le_bytes());
        let bytes: Vec<u8> = RULES_VERSION.to_le_bytes().into_iter().chain(values).collect();
        Digest::in_domain("compute-host gate v1", &bytes)
    }
}

impl LimitName {
    pub const fn limit(self) -> &'static Limit {
        &LIMITS[self as usize]
    }
}

limits! {
    ModuleBytes module_bytes = 4 << 20, up to 16 << 20; "bytes";
        "bounds all that follows; NEAR has the same limit";
        "build with optimisation for size and `strip` it; pass large data as an asset"

    MeteredBytes metered_bytes = 16 << 20, up to 64 << 20; "bytes with the meter in it";
        "the compiler gets the metered module; compilers' output grows to two to three times its size";
        "use fewer floating-point operations whose results the bits of a NaN can reach; split the module"

    Types types = 1_024; "types";
        "for each there is a piece of code that calls from outside what is of it";
        "many types come from many signatures; link only what the guest uses"
    Params params = 64; "parameters in one function type";
        "each call moves them, and two bytes make a call";
        "pass a pointer to a structure"
    Results results = 64; "results in one function type";
        "each call moves them, and two bytes make a call";
        "return a pointer to a structure"

    Imports imports = 16; "imports";
        "the compute ABI has 13 functions";
        "import each function once"
    Exports exports = 1_024; "exports";
        "each is looked up by its name; the host uses two";
        "export `memory` and `run` alone"
    NameBytes name_bytes = 256; "bytes in one name";
        "names are shown and compared";
        "shorten the name"

    Functions functions = 16_384; "functions";
        "each takes the compiler 5 KB, however small it is";
        "link only what the guest uses (`lto`, `--gc-sections`)"
    Globals globals = 1_000; "globals";
        "each is initialised at each start of the guest";
        "keep data in memory"
    Tables tables = 1; "tables";
        "the pool holds one a guest";
        "use one table for all indirect calls"
    TableElements table_elements = 10_000; "elements in the table";
        "tables are host memory that no job's memory limit counts";
        "link only the functions that the guest calls indirectly"
    MemoryPages memory_pages = 1_024; "pages of 64 KiB that the memory starts with";
        "what a guest starts with is not the job's to refuse; more can be had by `memory.grow`";
        "start with less (`--initial-memory`), and grow"

    DataSegments data_segments = 100_000; "data segments";
        "five bytes make one, and each is read into an image of the memory";
        "let the linker merge them"
    ElementItems element_items = 10_000; "items in element segments, summed";
        "each is a reference that is made when the guest starts";
        "link only the functions that the guest calls indirectly"

    BodyBytes body_bytes = 256 << 10; "bytes of code";
        "the compiler holds a function as a whole";
        "split the function; lower the limit for inlining"
    Locals locals = 1_024; "locals and parameters";
        "three bytes declare any number of them";
        "keep arrays in memory"
    Blocks blocks = 8_192; "blocks, loops, ifs, elses and conditional branches";
        "each is a node in graphs that the compiler walks again and again";
        "split the function; use tables for what is switched over"
    Nesting nesting = 1_024; "blocks in each other";
        "the compiler keeps what is known in each, for all of them at once";
        "split the function"
    LoopNesting loop_nesting = 64; "loops in each other";
        "loops in loops cost the compiler the square of their depth";
        "split the function"
    StackValues stack_values = 1_024; "values on the operand stack at once";
        "each is alive up to where it is used, and takes a register or a place on the stack";
        "split the expression"
    BranchTargets branch_targets = 8_192; "targets in tables of branches";
        "each is an edge in the graph of the function";
        "switch over ranges, or by a table in memory"
    Joins joins = 262_144; "values that change on several ways, for each way where these meet";
        "each takes the compiler a kilobyte";
        "split the function; keep what changes together in memory"
    BlockValues block_values = 8_192; "values that blocks take and give and branches carry";
        "each takes the compiler up to 13 KB";
        "keep values in locals; build without multi-value"
    CallValues call_values = 16_384; "parameters and results of its calls";
        "beyond, what they cost the compiler grows with their square";
        "split the function; pass pointers to structures"
    FunctionCost function_cost = 4_500_000; "units of what compiling it costs, as estimated";
        "the compiler holds a function as a whole, with the meter in it and up to 500 bytes a unit";
        "split the function; lower the limit for inlining"
    CompileCost compile_cost = 100; "percent of the compiling that a module of its size may cost";
        "compilers' output has 35 to 98, some microseconds a byte; code made to be slow to compile has thousands";
        "lower the limit for inlining and optimise for size (`opt-level = \"s\"`)"

    CustomSections custom_sections = 16; "custom sections";
        "nothing of the host reads them";
        "strip the module (`wasm-tools strip`, `-s`)"
    CustomBytes custom_bytes = 1 << 20; "bytes in custom sections, summed";
        "nothing of the host reads them";
        "strip the module (`wasm-tools strip`, `-s`)"
}
