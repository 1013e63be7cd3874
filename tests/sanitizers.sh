#!/bin/sh
# Runs the suite under AddressSanitizer; needs the nightly toolchain, takes about five
# minutes. What it cannot see, and why there is no ThreadSanitizer here, is in
# docs/SAFETY.md.
set -eu
cd "$(dirname "$0")/.."
# Workers end with _exit, so that leaks cannot be told from what is still in use; and tests
# want to see the signals that workers die of.
export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0
export RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer"
export CARGO_TARGET_DIR=target/address
# One test bounds resident memory, which here has a shadow and a quarantine in it.
exec cargo +nightly test -p slipring --all-features --target x86_64-unknown-linux-gnu \
    --lib --test calls --test streams --test concurrency --test closing \
    --test hostile_worker --test thread_worker --test fuzz_replay -- \
    --skip a_stream_that_ignores_its_credit
