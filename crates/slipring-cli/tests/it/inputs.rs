//! Inputs that are not what they seem: each is reported clearly, and destroys nothing.
#![allow(unsafe_code, reason = "a terminal of the test's own")]

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Stdio;

use crate::common::{Directory, Finished, Npy, parse_jsonl, until};

#[test]
fn an_empty_input_is_an_error_and_replaces_nothing() {
    let hint = "(--allow-empty writes a result without rows)";
    for (args, what) in [
        (&[][..], "standard input is empty"),
        (&["-"], "standard input is empty"),
        (&["empty.txt"], "empty.txt is empty"),
        (&["empty.txt", "-"], "all 2 inputs are empty"),
        (&["-o", "-"], "standard input is empty"),
    ] {
        let directory = Directory::new();
        directory.write("vectors.npy", "precious");
        // A byte order mark is no text.
        for nothing in ["", "\u{feff}"] {
            directory.write("empty.txt", nothing);
            let done = directory.embed(args, nothing);
            assert_eq!(done.stderr, format!("slipring: {what} {hint}\n"));
            assert_eq!((done.code, done.stdout.as_str()), (1, ""));
            assert_eq!(directory.read("vectors.npy"), b"precious");
            assert_eq!(directory.names(), ["empty.txt", "vectors.npy"]);
        }
    }
}

#[test]
fn an_empty_input_that_is_allowed_gives_no_rows() {
    let directory = Directory::new();
    directory.embed(&["--allow-empty", "--dim", "5"], "").succeeded();
    let npy = Npy::parse(&directory.read("vectors.npy"));
    assert_eq!((npy.rows, npy.dim, npy.values.len()), (0, 5, 0));
    directory.embed(&["--allow-empty", "-o", "v.jsonl"], "").succeeded();
    assert!(directory.read("v.jsonl").is_empty());
    // One empty line is a text.
    directory.embed(&["--dim", "5"], "\n").succeeded();
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1);
}

#[test]
fn the_summary_names_the_output_and_its_shape() {
    let directory = Directory::new();
    for (output, says) in [
        ("v.npy", "v.npy has 3 x 20 float32: "),
        ("v.jsonl", "v.jsonl has 3 x 20 numbers, JSON lines: "),
        ("-", "standard output has 3 x 20 numbers, JSON lines: "),
    ] {
        let args = ["-o", output, "--dim", "20"];
        let stderr = directory.embed(&args, "a\nb\nc\n").succeeded().stderr;
        assert!(stderr.starts_with(&format!("slipring: {says}3 texts in ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(to_bytes).collect()
}

#[test]
fn inputs_that_are_not_utf8_text_are_named_with_what_to_do() {
    let le = utf16("some words\nand more\n", u16::to_le_bytes);
    let be = utf16("some words\nand more\n", u16::to_be_bytes);
    let utf32 = |text: &str| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    let utf32: Vec<u8> = utf32("\u{feff}some words\n");
    let rows: [(&str, Vec<u8>, &str, &str); 12] = [
        ("UTF-16 with a mark", [&b"\xff\xfe"[..], &le].concat(), "UTF-16", "iconv -f UTF-16 "),
        ("the same, big end first", [&b"\xfe\xff"[..], &be].concat(), "UTF-16", "iconv -f UTF-16 "),
        ("UTF-16 without a mark", le, "UTF-16", "iconv -f UTF-16LE "),
        ("the same, big end first", be, "UTF-16", "iconv -f UTF-16BE "),
        ("UTF-32", utf32, "UTF-32", "iconv -f UTF-32 "),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03abc".to_vec(), "gzip", "gzip -dc "),
        ("gzip, its name first", b"\x1f\x8b\x08\x08\n\n\n\nx\n".to_vec(), "gzip", "gzip -dc "),
        ("zstd", b"\x28\xb5\x2f\xfd\x04\x58\x19".to_vec(), "zstd", "zstd -dc "),
        ("xz", b"\xfd7zXZ\0\0\x04".to_vec(), "xz", "xz -dc "),
        ("bzip2", b"BZh91AY&SY\x94".to_vec(), "bzip2", "bzip2 -dc "),
        ("zip", b"PK\x03\x04\x14\0\x08\0a\n".to_vec(), "zip", "unzip -p "),
        ("an earlier result", b"\x93NUMPY\x01\0v\0{\n".to_vec(), "a NumPy array", "text"),
    ];
    for (what, bytes, format, advice) in rows {
        let directory = Directory::new();
        directory.write("vectors.npy", "precious");
        directory.write("in", &bytes);
        let done = directory.embed(&["in"], "");
        assert_eq!(done.code, 1, "{what}: {done:?}");
        let start = format!("slipring: in is {format}");
        assert!(done.stderr.starts_with(&start) && done.stderr.contains(advice), "{done:?}");
        let done = directory.embed(&[], &bytes);
        let start = format!("slipring: standard input is {format}");
        assert!(done.stderr.starts_with(&start), "{what}: {done:?}");
        assert_eq!(directory.read("vectors.npy"), b"precious");
        assert_eq!(directory.names(), ["in", "vectors.npy"]);
    }
}

#[test]
fn text_that_only_looks_odd_is_text() {
    let directory = Directory::new();
    for text in ["BZ is short\n", "PK\n", "a\0b\n", "\0\n", "progress 1\rprogress 2\nend\n", "x\r"]
    {
        directory.embed(&["-q", "--dim", "8"], text).succeeded();
    }
}

#[test]
fn lines_that_end_with_a_carriage_return_alone_are_refused() {
    let long = "0123456789\r".repeat(10);
    let ended = format!("{long}x\n");
    for (text, args) in [
        ("one\rtwo\rthree\r", &[][..]),
        ("one\rtwo", &[]),
        ("one\rtwo\rthree\n", &[]),
        (long.as_str(), &["--max-line", "50"]),
        (ended.as_str(), &["--max-line", "50"]),
    ] {
        let directory = Directory::new();
        directory.write("vectors.npy", "precious");
        directory.write("mac.txt", text);
        let done = directory.embed(&[&["mac.txt"], args].concat(), "");
        assert_eq!(done.code, 1, "{done:?}");
        let start = "slipring: mac.txt has carriage returns between its lines";
        assert!(done.stderr.starts_with(start), "{done:?}");
        assert!(done.stderr.contains(r"tr '\r' '\n' < mac.txt"), "{done:?}");
        assert_eq!(directory.read("vectors.npy"), b"precious");
    }
}

/// Both ends of a terminal: the user's end, and the program's.
fn terminal() -> (File, File) {
    // SAFETY: integers only.
    let fd = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was opened just now, and nothing else owns it.
    let master = unsafe { File::from_raw_fd(fd) };
    let mut name = [0; 64];
    let fd = master.as_raw_fd();
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::grantpt(fd) }, 0);
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::unlockpt(fd) }, 0);
    // SAFETY: the buffer has that length.
    assert_eq!(unsafe { libc::ptsname_r(fd, name.as_mut_ptr(), name.len()) }, 0);
    // SAFETY: the call has written a string with a NUL at its end.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_as_input_is_told_what_is_awaited() {
    let hint = "slipring: reading standard input, a text a line; Ctrl-D ends it\n";
    for (args, expected) in [(&["--dim", "4"][..], hint), (&["--dim", "4", "--quiet"], "")] {
        let directory = Directory::new();
        let (mut keyboard, screen) = terminal();
        let mut child = directory.command(args).stdin(Stdio::from(screen)).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let mut said = vec![0; expected.len()];
        stderr.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), expected);
        keyboard.write_all(b"typed\n\x04").unwrap();
        until("the end", || child.try_wait().unwrap().is_some());
        let done: Finished = child.wait_with_output().unwrap().into();
        assert_eq!(done.code, 0, "{done:?}");
        assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1);
    }
}

#[test]
fn more_files_than_may_be_open_at_once_are_read_one_after_the_other() {
    let directory = Directory::new();
    let mut args = vec!["-q".to_owned(), "--dim=4".to_owned(), "-o".to_owned(), "-".to_owned()];
    for number in 0..300 {
        let name = format!("{number}.txt");
        directory.write(&name, format!("text {number}\n"));
        args.push(name);
    }
    let script = format!("ulimit -n 64; exec {} embed \"$@\"", env!("CARGO_BIN_EXE_slipring"));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script, "sh"]).args(args).current_dir(directory.path("."));
    let done: Finished = command.output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(parse_jsonl(&done.stdout).len(), 300);
}
