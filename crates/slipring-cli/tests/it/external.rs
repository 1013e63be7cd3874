//! Commands that are programs of their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Finished;

/// A directory with the program in it, and with another one of this name where that is given.
struct Installed(PathBuf);

impl Installed {
    fn new(name: &str) -> Self {
        // On the file system of the program, which is linked, not copied.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::hard_link(env!("CARGO_BIN_EXE_slipring"), path.join("slipring")).unwrap();
        Self(path)
    }

    /// Puts a program there that prints its arguments.
    fn with_echo(self, name: &str) -> Self {
        symlink("/bin/echo", self.0.join(name)).unwrap();
        self
    }

    fn run(&self, path: &Path, args: &[&str]) -> Finished {
        let mut command = Command::new(self.0.join("slipring"));
        command.args(args).env("PATH", path).output().unwrap().into()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const ARGS: [&str; 7] = ["gateway", "--role", "embed", "--help", "--", "worker", "-x"];
const TOLD: &str = "--role embed --help -- worker -x\n";

#[test]
fn the_gateway_is_the_program_that_lies_beside() {
    let installed = Installed::new("beside").with_echo("slipring-gateway");
    let done = installed.run(Path::new("/nowhere"), &ARGS).succeeded();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), (TOLD, ""));
}

#[test]
fn without_one_beside_it_is_the_first_on_the_path() {
    let elsewhere = Installed::new("elsewhere").with_echo("slipring-gateway");
    let done = Installed::new("without").run(&elsewhere.0, &ARGS).succeeded();
    assert_eq!(done.stdout, TOLD);
}

#[test]
fn a_gateway_that_is_not_installed_is_an_error_that_says_what_to_do() {
    let done = Installed::new("missing").run(Path::new("/nowhere"), &ARGS);
    assert_eq!(done.code, 1, "{}", done.stderr);
    assert!(done.stderr.contains("cargo install slipring-gateway"), "{}", done.stderr);
}
