# `just` lists these; CONTRIBUTING.md says what they are for.

_default:
    @just --list

# Everything that CI runs
ci:
    bash .ci/run

# The tests
test:
    cargo test

# Formatting and lints
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# The claims of speed, measured
bench:
    cargo bench
