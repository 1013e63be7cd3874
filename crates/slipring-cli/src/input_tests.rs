use super::*;

fn lines_of(bytes: &'static [u8], max_line: usize) -> Result<Vec<String>, Error> {
    let mut source = source_of(bytes, 4, max_line);
    let mut all = Vec::new();
    let mut batch = Batch::default();
    while source.fill(&mut batch)? {
        all.extend(batch.texts().map(String::from));
        batch.clear();
    }
    Ok(all)
}

fn source_of(bytes: &'static [u8], texts: usize, max_line: usize) -> Source {
    let limits = Limits { texts, request_bytes: 200, max_line };
    let mut source = Source::new(Inputs::default(), limits);
    source.current = Some(Lines {
        input: Input::Stdin.into(),
        reader: BufReader::with_capacity(5, Box::new(bytes)),
        offset: 0,
        number: 0,
    });
    source
}

fn error_of(bytes: &'static [u8], max_line: usize) -> String {
    lines_of(bytes, max_line).unwrap_err().to_string()
}

#[test]
fn every_line_is_a_text_with_any_ending_or_none() {
    assert_eq!(lines_of(b"a\r\n\nb\n\r\nlast", 9).unwrap(), ["a", "", "b", "", "last"]);
    assert_eq!(lines_of(b"a\n", 9).unwrap(), ["a"]);
    assert_eq!(lines_of(b"\n", 9).unwrap(), [""]);
    assert_eq!(lines_of(b"", 9).unwrap(), [""; 0]);
}

#[test]
fn a_carriage_return_inside_a_line_is_text_if_another_sign_ends_lines() {
    assert_eq!(lines_of(b"a\rb\nc\n", 9).unwrap(), ["a\rb", "c"]);
    assert_eq!(lines_of(b"a\rb\n\n", 9).unwrap(), ["a\rb", ""]);
    assert_eq!(lines_of(b"c\na\rb\rd\n", 9).unwrap(), ["c", "a\rb\rd"]);
    assert_eq!(lines_of(b"a\rb\r\n", 9).unwrap(), ["a\rb"]);
    assert_eq!(lines_of(b"a\rb\r\r\n", 9).unwrap(), ["a\rb\r"]);
    assert_eq!(lines_of(b"a\r\n", 9).unwrap(), ["a"]);
}

#[test]
fn a_final_line_feed_does_not_make_text_of_carriage_returns() {
    // Within the limit, just beyond it, and far beyond it.
    for max_line in [100, 19, 18, 17, 14, 10, 5] {
        for bytes in [&b"one\rtwo\rthree\rfour\n"[..], b"\xef\xbb\xbfone\rtwo\rthree\rfour\n"] {
            let error = error_of(bytes, max_line);
            assert!(error.contains(r"tr '\r' '\n'"), "{max_line}: {error}");
        }
    }
    // With another line the line is too long, and no more.
    for bytes in [&b"one\rtwo\rthree\n\n"[..], b"one\rtwo\rthree\r\n"] {
        for max_line in [9, 5] {
            let error = error_of(bytes, max_line);
            assert!(error.contains("line 1 has 13 bytes"), "{max_line}: {error}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_removed_at_the_head_only() {
    assert_eq!(lines_of(b"\xef\xbb\xbfa\n", 1).unwrap(), ["a"]);
    assert_eq!(lines_of(b"a\n\xef\xbb\xbfb", 9).unwrap(), ["a", "\u{feff}b"]);
    assert_eq!(lines_of(b"\xef\xbb\xbf\n", 9).unwrap(), [""]);
    assert_eq!(lines_of(b"\xef\xbb\xbf", 9).unwrap(), [""; 0], "a mark alone is no text");
}

#[test]
fn a_line_of_exactly_the_limit_is_read_whatever_its_ending() {
    for bytes in [&b"12345"[..], b"12345\n", b"12345\r\n", b"\xef\xbb\xbf12345\r\n"] {
        assert_eq!(lines_of(bytes, 5).unwrap(), ["12345"], "{bytes:?}");
    }
}

#[test]
fn a_line_beyond_the_limit_is_named_with_its_length_and_the_option() {
    let expected = "standard input: line 2 has 6 bytes; the limit is 5 bytes \
                    (raise it with --max-line)";
    for bytes in [&b"a\n123456"[..], b"a\n123456\nb\n", b"a\n123456\r\nb"] {
        assert_eq!(error_of(bytes, 5), expected, "{bytes:?}");
    }
    // The ending's two bytes may be read apart, at any buffer boundary.
    for length in 6..40 {
        let line = format!("{}\r\n", "x".repeat(length)).into_bytes().leak();
        assert!(error_of(line, 5).contains(&format!("line 1 has {length} bytes")));
    }
    let long = b"0123456789 0123456789 0123456789 0123456789\n";
    assert!(error_of(long, 5).contains("line 1 has 43 bytes"));
}

#[test]
fn invalid_utf8_is_named_with_its_line_and_offsets() {
    assert_eq!(
        error_of(b"ok\nab\xff\n", 9),
        "standard input: line 2: invalid UTF-8 at byte offset 2 of the line (5 of the input)"
    );
    assert!(error_of(b"\xef\xbb\xbfa\xc3", 9).contains("byte offset 4 of the line (4 of"));
}

#[test]
fn batches_are_cut_by_count_and_by_bytes_and_lose_nothing() {
    let mut source = source_of(b"a\nb\nc\n", 2, 100);
    let mut batch = Batch::default();
    assert!(source.fill(&mut batch).unwrap());
    assert_eq!((batch.rows(), batch.consumed), (2, 4));
    batch.clear();
    assert!(source.fill(&mut batch).unwrap());
    assert_eq!((batch.rows(), batch.consumed), (1, 6));

    let long: &[u8] = format!("{0}\n{0}\n{0}\n", "x".repeat(95)).into_bytes().leak();
    let mut source = source_of(long, 9, 100);
    for _ in 0..3 {
        batch.clear();
        assert!(source.fill(&mut batch).unwrap());
        assert_eq!(batch.rows(), 1);
    }
    batch.clear();
    assert!(!source.fill(&mut batch).unwrap());
}

#[test]
fn a_missing_file_and_a_directory_are_found_before_any_work() {
    let open = |name: &str| Inputs::open(&[Input::File(name.into())]).map(drop).unwrap_err();
    let missing = open("no/such/file");
    assert!(missing.to_string().starts_with("cannot read no/such/file: No such file"));
    let directory = open("/");
    assert_eq!(directory.to_string(), "/ is a directory");
}
