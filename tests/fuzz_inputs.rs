//! Replays what the fuzzer has found, in a build of its own: the checks need the inside of the
//! library, which other builds do not show. `cd fuzz && cargo test --no-default-features` does
//! the same.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

#[test]
fn every_seed_and_regression_of_the_fuzzer_passes() {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--no-default-features", "--test", "replay"])
        // `.cargo/config.toml` there has the flag, which the variables would override.
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz"))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    assert!(printed.contains("3 passed"), "{printed}");
}
