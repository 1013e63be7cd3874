//! Supported compilers and targets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The compiler that builds these tests, or the one in the path.
fn rustc() -> PathBuf {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from);
    let beside = cargo.map(|cargo| cargo.with_file_name("rustc"));
    beside.filter(|rustc| rustc.exists()).unwrap_or_else(|| "rustc".into())
}

/// Compiles the crate's root, changed so that it does not support this machine, and returns the
/// first lines of the compiler's errors.
fn errors(wanted: &str, other: &str) -> Vec<String> {
    let root = read("src/lib.rs");
    assert_eq!(root.matches(wanted).count(), 1, "{wanted}");
    let name = other.replace(|c: char| !c.is_alphanumeric(), "_");
    let directory = std::env::temp_dir().join(format!("slipring-{}{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("lib.rs");
    fs::write(&file, root.replace(wanted, other)).unwrap();
    let output = Command::new(rustc())
        .args(["--edition=2024", "--crate-type=lib", "--crate-name=slipring", "--emit=metadata"])
        .args(["--cap-lints=allow", "--out-dir"])
        .args([&directory, &file])
        .output()
        .unwrap();
    fs::remove_dir_all(directory).unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("error"));
    lines.filter(|line| !line.contains("aborting")).map(str::to_owned).collect()
}

#[test]
fn a_target_that_is_not_supported_is_one_error_that_says_so() {
    for (wanted, other, reason) in [
        ("not(target_os = \"linux\")", "target_os = \"linux\"", "Linux only"),
        ("target_pointer_width = \"64\"", "target_pointer_width = \"32\"", "64-bit"),
        ("target_endian = \"little\"", "target_endian = \"big\"", "little-endian"),
        ("target_env = \"musl\"", "not(target_env = \"musl\")", "musl"),
    ] {
        let errors = errors(wanted, other);
        let [error] = errors.as_slice() else { panic!("{other}: {errors:#?}") };
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_oldest_compiler_that_is_named_is_the_one_that_ci_compiles_with() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.unwrap().trim_matches('"');
    let minor = version.strip_suffix(".0").unwrap();
    assert!(read("README.md").contains(&format!("Rust {minor} or newer")), "{minor}");
    // A package does not contain the script of CI.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
    let Ok(ci) = fs::read_to_string(script) else { return };
    let commands: Vec<&str> = ci.lines().filter(|line| !line.starts_with('#')).collect();
    let reads =
        commands.iter().any(|line| line.starts_with("oldest=") && line.contains("rust-version"));
    let compiles = commands.iter().any(|line| line.contains("cargo +\"$oldest\" check"));
    assert!(reads && compiles);
}
