//! The program's results, from the outside.

use std::fs;
use std::process::Command;

use crate::common::{Directory, Npy, bits, digest, glosses, parse_jsonl};

/// The vectors of the texts, from one worker that gets them one by one. That these are right is
/// tested beside the embedder.
fn directly(texts: &[&str], dim: usize) -> Vec<u32> {
    let directory = Directory::new();
    let text: String = texts.iter().flat_map(|text| [text, "\n"]).collect();
    let (dim, longest) = (dim.to_string(), text.len().to_string());
    let one_by_one = ["--batch", "1", "--workers", "1", "--dim", &dim, "--max-line", &longest];
    directory.embed(&one_by_one, &text).succeeded();
    bits(&Npy::parse(&directory.read("vectors.npy")).values)
}

#[test]
fn vectors_equal_the_embedder_s_to_the_bit_with_any_batches_and_workers() {
    let path = glosses();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // That of the embedder itself, by a test beside it.
    let expected = include_str!("../data/glosses.fnv1a").trim_end();
    let directory = Directory::new();
    let few = [("1", "1"), ("7", "2"), ("64", "1")];
    let many = [("1", "3"), ("64", "3"), ("1000", "2")];
    for (batch, workers) in [few, many].concat() {
        let args = [path.to_str().unwrap(), "--batch", batch, "--workers", workers];
        directory.embed(&args, "").succeeded();
        let npy = Npy::parse(&directory.read("vectors.npy"));
        assert_eq!((npy.rows, npy.dim), (lines.len(), 384));
        assert_eq!(digest(&npy.values), expected, "{args:?}");
    }
    assert_eq!(directory.names(), ["vectors.npy"]);
}

#[test]
fn long_lines_and_long_vectors_travel_in_rings_that_fit_them() {
    let directory = Directory::new();
    let long = "word ".repeat(500_000);
    let text = format!("short\n{long}\nshort\n");
    let limit = long.len().to_string();
    let args = ["--max-line", &limit, "--dim", "65536", "--batch", "7", "--workers", "2"];
    directory.embed(&args, &text).succeeded();
    let npy = Npy::parse(&directory.read("vectors.npy"));
    assert!(bits(&npy.values) == directly(&["short", &long, "short"], 65_536));
}

#[test]
fn row_i_is_line_i_with_any_line_endings() {
    let directory = Directory::new();
    directory.embed(&["--dim", "64"], "one\r\n\n\r\ntwo words\nlast").succeeded();
    let npy = Npy::parse(&directory.read("vectors.npy"));
    assert_eq!(npy.rows, 5);
    assert_eq!(bits(&npy.values), directly(&["one", "", "", "two words", "last"], 64));
    for empty in [1, 2] {
        assert_eq!(bits(npy.row(empty)), [0; 64]);
    }
}

#[test]
fn files_and_standard_input_follow_each_other() {
    let directory = Directory::new();
    directory.write("a.txt", "\u{feff}from a, without a newline at its end");
    directory.write("b.txt", "\u{feff}from b\n");
    let args = ["a.txt", "-", "b.txt", "a.txt", "--dim", "32", "--batch", "2"];
    directory.embed(&args, "from stdin\n").succeeded();
    let a = "from a, without a newline at its end";
    let npy = Npy::parse(&directory.read("vectors.npy"));
    assert_eq!(bits(&npy.values), directly(&[a, "from stdin", "from b", a], 32));
}

#[test]
fn json_lines_hold_the_same_numbers_as_npy() {
    let directory = Directory::new();
    let text = "kindness: a kind act\n\nfetch: the action of fetching\n";
    directory.embed(&["-o", "v.npy"], text).succeeded();
    directory.embed(&["-o", "v.jsonl"], text).succeeded();
    let stdout = directory.embed(&["-o", "-"], text).succeeded().stdout;
    let jsonl = String::from_utf8(directory.read("v.jsonl")).unwrap();
    assert_eq!(stdout, jsonl);
    let npy = Npy::parse(&directory.read("v.npy"));
    assert_eq!(bits(&parse_jsonl(&jsonl).concat()), bits(&npy.values));
    assert_eq!(directory.names(), ["v.jsonl", "v.npy"]);
}

#[test]
fn numpy_opens_the_file_if_there_is_numpy() {
    let directory = Directory::new();
    directory.embed(&["--dim", "3"], "a\nb\n").succeeded();
    let script = "try:
    import numpy
except ImportError:
    print('no numpy')
else:
    a = numpy.load('vectors.npy', mmap_mode='r')
    print(a.shape, a.dtype, a.flags['C_CONTIGUOUS'])";
    let ran =
        Command::new("python3").args(["-c", script]).current_dir(directory.path(".")).output();
    let Ok(output) = ran else {
        return;
    };
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(["no numpy\n", "(2, 3) float32 True\n"].contains(&&*answer), "{output:?}");
}

#[test]
fn a_pipe_may_be_an_input() {
    let directory = Directory::new();
    let script = format!(
        "mkfifo p && {{ echo hello > p & }} && exec {} embed p --dim 16 -q",
        env!("CARGO_BIN_EXE_slipring")
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(directory.path("."));
    assert!(command.status().unwrap().success());
    let npy = Npy::parse(&directory.read("vectors.npy"));
    assert_eq!(bits(&npy.values), directly(&["hello"], 16));
}

#[test]
fn the_summary_goes_to_standard_error_in_one_plain_line() {
    let directory = Directory::new();
    for output in ["v.npy", "v.jsonl", "-"] {
        let stderr = directory.embed(&["-o", output], "a\nb\nc\n").succeeded().stderr;
        assert!(stderr.contains(": 3 texts in "), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let parts = ["texts/s", "requests 23 bytes", "replies 4.5 KiB", "p50 ", "p99 "];
        for part in [&parts[..], &["worker CPU 0.", "parent waited ", " %, slipring "]].concat() {
            assert!(stderr.contains(part), "{part} is missing in {stderr}");
        }
        assert!(!stderr.contains('\x1b'), "{stderr:?}");
    }
}

#[test]
fn quiet_is_silent() {
    let directory = Directory::new();
    let done = directory.embed(&["--quiet"], "a\n").succeeded();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
}

#[test]
fn the_help_documents_every_option_and_exit_code() {
    let directory = Directory::new();
    let help = directory.embed(&["--help"], "").succeeded().stdout;
    let options = ["--output", "--workers", "--batch", "--dim", "--max-line", "--timeout"];
    let more =
        ["--log-dir", "--allow-empty", "--quiet", "--help", "--version", "NO_COLOR", "lexical"];
    let codes = ["\n    0 ", "\n    1 ", "\n    2 ", "\n    3 ", "\n  130 ", "143"];
    for word in [&options[..], &more, &codes].concat() {
        assert!(help.contains(word), "{word:?} is missing");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 80));
    let version = directory.embed(&["--version"], "").succeeded().stdout;
    assert_eq!(version, format!("slipring {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_link_at_the_output_stays_and_its_target_is_replaced() {
    let directory = Directory::new();
    directory.write("real.npy", "old");
    std::os::unix::fs::symlink("real.npy", directory.path("link.npy")).unwrap();
    directory.embed(&["-o", "link.npy"], "a\n").succeeded();
    assert!(directory.path("link.npy").is_symlink());
    assert_eq!(Npy::parse(&directory.read("real.npy")).rows, 1);
    assert_eq!(directory.names(), ["link.npy", "real.npy"]);
}

#[test]
fn the_output_may_be_one_of_the_inputs() {
    let directory = Directory::new();
    directory.write("x.jsonl", "a\nb\n");
    directory.embed(&["x.jsonl", "-o", "x.jsonl", "--dim", "4"], "").succeeded();
    let rows = parse_jsonl(&String::from_utf8(directory.read("x.jsonl")).unwrap());
    assert_eq!(bits(&rows.concat()), directly(&["a", "b"], 4));
}
