#!/bin/sh
# Runs the suite under AddressSanitizer, and what runs in one process under
# ThreadSanitizer; `address` or `thread` chooses one of them. Needs the nightly toolchain,
# takes about ten minutes. What they cannot see is in docs/SAFETY.md.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${CARGO_TARGET_DIR:-target}"
targets=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)

# The target is named so that build scripts are not instrumented.
run() {
    cargo +nightly test -p slipring --all-features --target x86_64-unknown-linux-gnu "$@"
}

address() {
    # Workers end with _exit, so that leaks cannot be told from what is still in use; and
    # tests want to see the signals that workers die of.
    export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0
    export RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer"
    export CARGO_TARGET_DIR="$targets/address"
    # One test bounds resident memory, which here has a shadow and a quarantine in it.
    run --lib --test hostile_worker -- --skip a_stream_that_ignores_its_credit
    run --test it -- memfd:: thread:: thread_worker:: closing::
    # The library with the checks of the fuzz targets in it.
    RUSTFLAGS="$RUSTFLAGS --cfg slipring_fuzzing" CARGO_TARGET_DIR="$targets/address-fuzz" \
        cargo +nightly test --manifest-path fuzz/Cargo.toml --no-default-features \
        --target x86_64-unknown-linux-gnu
}

thread() {
    # The cfg gives both ends one map, and makes locks and loads such as can be seen.
    export RUSTFLAGS="--cfg slipring_tsan -Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    export CARGO_TARGET_DIR="$targets/thread"
    export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp"
    # What tests print would be kept behind a lock that cannot be seen.
    run --lib -- --test-threads=1 --nocapture ring:: channel:: worker:: --skip process_tests
    # In one test nothing but std's OnceLock orders the start of the worker and its end.
    run --test it -- --test-threads=1 --nocapture thread:: thread_worker:: \
        --skip a_worker_thread_that_panics_before_it_serves
    tree=$(CARGO_TARGET_DIR=$targets tests/mutants.sh tree)
    for mutant in CommitRelaxed PollRelaxed HeadRelaxed HeadSeenRelaxed; do
        must_notice $mutant two_threads_that_sleep_at_random_lose_nothing --lib
    done
    # Credits and replies order here what a head would.
    for mutant in CommitRelaxed PollRelaxed; do
        must_notice $mutant calls::thread::frames_of_random_lengths --test it
    done
}

# Fails unless a race is reported in the copy of the sources where one ordering is too weak.
must_notice() {
    mutant=$1
    test=$2
    shift 2
    said=$(cd "$tree" && SLIPRING_MUTANT=$mutant TSAN_OPTIONS="$TSAN_OPTIONS halt_on_error=1" \
        run "$@" -- "$test" 2>&1) || true
    case $said in
        *"WARNING: ThreadSanitizer: data race"*) echo "$mutant: noticed by $test" ;;
        *) echo "$mutant: not noticed by $test: $said" && exit 1 ;;
    esac
}

case ${1:-both} in
    address) address ;;
    thread) thread ;;
    both)
        (address)
        (thread)
        ;;
    *) echo "address, thread, or nothing for both" && exit 1 ;;
esac
