# Recipes of `just`; CONTRIBUTING.md explains them.

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

# Benchmarks of the claims about speed
bench:
    cargo bench
