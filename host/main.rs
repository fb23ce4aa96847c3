use std::process::ExitCode;

fn main() -> ExitCode {
    compute_host::cli::main()
}
