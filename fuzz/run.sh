#!/usr/bin/env bash
# Fuzzes: `fuzz/run.sh [TARGET]... [-- LIBFUZZER OPTION...]`. Without a target it runs all of
# them, one after the other; without an option, for ten seconds each. It starts from the seeds
# and the regressions in the repository, and keeps new inputs in fuzz/corpus, which git ignores.
#
#   fuzz/run.sh -- -max_total_time=5                 as CI does
#   SANITIZER=none fuzz/run.sh matrix -- -runs=100000000   a decoder, for a release
#   fuzz/run.sh hostile_peer -- -max_total_time=3600       a live channel, for a release
#
# The sanitizer is AddressSanitizer, unless SANITIZER names another. The decoders have no
# unsafe code, and without one they run three to ten times as fast.
# It needs a nightly toolchain, and installs cargo-fuzz if that is missing. Without either,
# `cd fuzz && cargo test --no-default-features` replays the seeds and the regressions.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=() options=()
while (($#)); do
  if [[ $1 == -- ]]; then
    shift
    options=("$@")
    break
  fi
  targets+=("$1")
  shift
done
((${#targets[@]})) || mapfile -t targets < <(ls fuzz/seeds)
((${#options[@]})) || options=(-max_total_time=10)

# cargo-fuzz adds its own flags to these, and does not read fuzz/.cargo/config.toml.
export RUSTFLAGS="--cfg slipring_fuzzing ${RUSTFLAGS:-}"
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
for target in "${targets[@]}"; do
  printf '\n== %s\n' "$target"
  mkdir -p "fuzz/corpus/$target"
  inputs=("fuzz/corpus/$target" "fuzz/seeds/$target")
  [[ -d fuzz/regressions/$target ]] && inputs+=("fuzz/regressions/$target")
  cargo +nightly fuzz run -s "${SANITIZER:-address}" "$target" "${inputs[@]}" -- "${options[@]}"
done
