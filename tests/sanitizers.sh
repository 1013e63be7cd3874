#!/bin/sh
# Runs the suite under AddressSanitizer and ThreadSanitizer; needs the nightly toolchain.
# What neither of them can see is in docs/SAFETY.md.
#
#     tests/sanitizers.sh [address|thread]      both without an argument
set -eu
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu

run() {
    sanitizer=$1
    shift
    echo "== $sanitizer: $*"
    # The standard library is not instrumented: the toolchain would refuse the mix.
    RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
        CARGO_TARGET_DIR="target/$sanitizer" \
        cargo +nightly test -p slipring --all-features --target $target "$@"
}

case ${1:-both} in
address | both)
    # Workers end with _exit, so that leaks cannot be told from what is still in use; and a
    # few tests limit the address space, of which the sanitizer's shadow takes terabytes.
    export ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_abort=0
    run address --lib --test calls --test streams --test concurrency --test closing \
        --test hostile_worker --test thread_worker --test fuzz_replay
    ;;
esac
case ${1:-both} in
thread | both)
    # Parent and worker in one process, over two mappings of the same memory.
    export TSAN_OPTIONS=halt_on_error=1:suppressions="$PWD/tests/tsan.txt"
    run thread --test thread_worker
    run thread --lib -- ring:: channel:: shm::
    ;;
esac
