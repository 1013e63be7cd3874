//! Runs the tests of the packages outside the workspace. Each is built by itself: the checks of
//! `fuzz` need the inside of the library, which other builds do not show, and
//! `examples/web_service` needs a web server, which no other build shall wait for.

use std::path::Path;
use std::process::Command;

/// Runs `cargo test` in a package and returns what it prints.
fn test(package: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet"])
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(package))
        // They would override the flags in the `.cargo/config.toml` of the package.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(package))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    printed
}

#[test]
fn every_seed_and_regression_of_the_fuzzer_passes() {
    let printed = test("fuzz", &["--no-default-features", "--test", "replay"]);
    assert!(printed.contains("3 passed"), "{printed}");
}

#[test]
#[ignore = "builds a web server; .ci/run runs it"]
fn the_web_service_outlives_its_clients_and_its_workers() {
    let printed = test("examples/web_service", &[]);
    assert!(printed.contains("3 passed"), "{printed}");
}
