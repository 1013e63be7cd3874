use super::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A process has one temporary file at a time, and so has this test program.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A directory of the test's own, removed at its end.
struct Directory(PathBuf, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Directory {
    fn new(name: &str) -> Self {
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let path = std::env::temp_dir().join(format!("slipring-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path, guard)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn create(path: &Path) -> Result<Output, Error> {
    Output::create(Target::parse(path.to_path_buf())?, 2, &[])
}

fn write_to(path: &Path) {
    let mut output = create(path).unwrap();
    output.write_rows(&[1.0, 2.0, 3.0, 4.0]).unwrap();
    output.finish().unwrap();
}

#[test]
fn an_npy_file_ends_with_the_right_shape_and_all_rows() {
    let directory = Directory::new("npy");
    let path = directory.path("a.npy");
    write_to(&path);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 128 + 4 * 4);
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (2, 2)"));
    assert_eq!(bytes[128..136], [0, 0, 128, 63, 0, 0, 0, 64]);
    assert_eq!(directory.names(), ["a.npy"]);
}

#[test]
fn an_output_that_is_not_finished_leaves_no_trace() {
    let directory = Directory::new("dropped");
    let path = directory.path("a.jsonl");
    fs::write(&path, "precious").unwrap();
    let mut output = create(&path).unwrap();
    output.write_rows(&[1.0, 2.0]).unwrap();
    drop(output);
    assert_eq!(directory.names(), ["a.jsonl"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_existing_file_keeps_its_permission_bits() {
    let directory = Directory::new("mode");
    let path = directory.path("a.jsonl");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    write_to(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_to_string(&path).unwrap(), "[1.0,2.0]\n[3.0,4.0]\n");
}

#[test]
fn a_symbolic_link_stays_and_its_target_is_written() {
    let directory = Directory::new("link");
    fs::create_dir(directory.path("sub")).unwrap();
    symlink("sub/real.jsonl", directory.path("one.jsonl")).unwrap();
    symlink("one.jsonl", directory.path("two.jsonl")).unwrap();
    for _ in 0..2 {
        // The first time it dangles.
        write_to(&directory.path("two.jsonl"));
        assert!(directory.path("two.jsonl").is_symlink());
        assert!(!directory.path("sub/real.jsonl").is_symlink());
    }
    assert_eq!(directory.names(), ["one.jsonl", "sub", "two.jsonl"]);
}

#[test]
fn links_in_a_circle_are_an_error() {
    let directory = Directory::new("circle");
    symlink("b.npy", directory.path("a.npy")).unwrap();
    symlink("a.npy", directory.path("b.npy")).unwrap();
    let error = create(&directory.path("a.npy")).err().unwrap();
    assert!(error.to_string().contains("too many symbolic links"), "{error}");
}

#[test]
fn a_link_to_a_device_is_written_through_and_stays() {
    let directory = Directory::new("device");
    let path = directory.path("null.jsonl");
    symlink("/dev/null", &path).unwrap();
    write_to(&path);
    assert!(path.is_symlink());
    symlink("/dev/null", directory.path("null.npy")).unwrap();
    let error = create(&directory.path("null.npy")).err().unwrap();
    assert!(error.to_string().contains(".npy needs a regular file"), "{error}");
}

#[test]
fn a_directory_and_a_missing_directory_are_errors_at_once() {
    let directory = Directory::new("directory");
    fs::create_dir(directory.path("d.npy")).unwrap();
    let error = create(&directory.path("d.npy")).err().unwrap();
    assert!(error.to_string().ends_with("d.npy: is a directory"), "{error}");
    let error = create(&directory.path("no/a.npy")).err().unwrap();
    assert!(error.to_string().contains("No such file"), "{error}");
    assert_eq!(directory.names(), ["d.npy"]);
}

#[test]
fn a_row_that_json_cannot_say_is_named() {
    let directory = Directory::new("nan");
    let mut output = create(&directory.path("a.jsonl")).unwrap();
    let error = output.write_rows(&[0.0, 1.0, f32::NAN, 0.0]).unwrap_err();
    assert_eq!(error.to_string(), "row 1 is not finite, which JSON cannot say");
}
