//! Recognizes inputs that are not UTF-8 text by their first bytes, and says what to do.
//!
//! Without this, most would fail with a message about invalid UTF-8, which does not help, and
//! some would pass as text.

use super::Input;
use crate::error::Error;

/// A format that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    what: &'static str,
    advice: Advice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// A command that takes a file as its last argument, or else reads standard input.
    Pipe {
        verb: &'static str,
        command: &'static str,
    },
    /// A command that reads standard input only.
    PipeFrom {
        verb: &'static str,
        command: &'static str,
    },
    Say(&'static str),
}

const fn packed(what: &'static str, command: &'static str) -> Foreign {
    Foreign { what, advice: Advice::Pipe { verb: "unpack it", command } }
}

const fn encoded(what: &'static str, command: &'static str) -> Foreign {
    Foreign { what, advice: Advice::Pipe { verb: "convert it", command } }
}

/// First bytes and their formats. The first entry that fits counts.
const MARKS: [(&[u8], Foreign); 11] = [
    (b"\xff\xfe\0\0", encoded("is UTF-32 text", "iconv -f UTF-32 -t UTF-8")),
    (b"\0\0\xfe\xff", encoded("is UTF-32 text", "iconv -f UTF-32 -t UTF-8")),
    (b"\xff\xfe", encoded("is UTF-16 text", "iconv -f UTF-16 -t UTF-8")),
    (b"\xfe\xff", encoded("is UTF-16 text", "iconv -f UTF-16 -t UTF-8")),
    (b"\x1f\x8b", packed("is gzip data", "gzip -dc")),
    (b"\x28\xb5\x2f\xfd", packed("is zstd data", "zstd -dc")),
    (b"\xfd7zXZ\0", packed("is xz data", "xz -dc")),
    (b"PK\x03\x04", packed("is zip data", "unzip -p")),
    (b"%PDF-1.", Foreign { what: "is a PDF document", advice: Advice::Say("pdftotext reads it") }),
    (
        b"\x93NUMPY",
        Foreign {
            what: "is a NumPy array",
            advice: Advice::Say("the input is text, one text a line"),
        },
    ),
    (b"\x7fELF", Foreign { what: "is a program", advice: Advice::Say("the input is text") }),
];

/// Bytes of the first line that are examined.
const HEAD: usize = 512;

impl Foreign {
    pub(super) const CARRIAGE_RETURNS: Self = Self {
        what: "has carriage returns between its lines, as files of old Macs do",
        advice: Advice::PipeFrom { verb: "convert it", command: r"tr '\r' '\n'" },
    };

    pub(super) fn refuse(self, input: &Input) -> Error {
        let file = |before| match input {
            Input::Stdin => String::new(),
            Input::File(path) => format!("{before}{}", path.display()),
        };
        let (verb, command) = match self.advice {
            Advice::Say(advice) => {
                return Error::failure(format!("{input} {}: {advice}", self.what));
            }
            Advice::Pipe { verb, command } => (verb, format!("{command}{}", file(" "))),
            Advice::PipeFrom { verb, command } => (verb, format!("{command}{}", file(" < "))),
        };
        Error::failure(format!("{input} {}; {verb} first: {command} | slipring embed", self.what))
    }
}

/// Returns the format of an input whose first line, with its ending, is this, unless it may be
/// UTF-8 text.
pub(super) fn of(line: &[u8]) -> Option<Foreign> {
    if let Some((_, found)) = MARKS.iter().find(|(mark, _)| line.starts_with(mark)) {
        return Some(*found);
    }
    // A digit (the block size) stands between the two parts.
    if line.starts_with(b"BZh") && line.get(4..10) == Some(b"1AY&SY") {
        return Some(packed("is bzip2 data", "bzip2 -dc"));
    }
    utf_16(line)
}

/// Recognizes UTF-16 without a byte order mark, if most characters are ASCII: then every second
/// byte is zero, and no other byte is.
fn utf_16(line: &[u8]) -> Option<Foreign> {
    let head = line.get(..HEAD).unwrap_or(line);
    // The line can end in the middle of a character; `chunks_exact` leaves that byte out.
    let pairs = head.chunks_exact(2);
    let count = pairs.len();
    let zeros = |at: usize| pairs.clone().filter(|pair| pair.get(at) == Some(&0)).count();
    let is_every_second = |zeros: usize| zeros >= 2 && zeros * 5 >= count * 4;
    match (zeros(0), zeros(1)) {
        (0, odd) if is_every_second(odd) => {
            Some(encoded("is UTF-16 text", "iconv -f UTF-16LE -t UTF-8"))
        }
        (even, 0) if is_every_second(even) => {
            Some(encoded("is UTF-16 text", "iconv -f UTF-16BE -t UTF-8"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_foreign_format_whatever_it_begins_with() {
        for line in [
            &b""[..],
            b"\n",
            b"a\0b\n",
            b"\0\n",
            b"\0\0\n",
            b"\0\0\0\0\n",
            b"BZh9 is no archive\n",
            b"PK\n",
            b"%PDF\n",
            b"\xef\xbb\xbfwords\n",
            "\u{4f60}\u{597d}\n".as_bytes(),
        ] {
            assert_eq!(of(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_advice_names_the_file_or_takes_standard_input() {
        let gzip = of(b"\x1f\x8b\x08").unwrap();
        let said = |input: &Input| gzip.refuse(input).to_string();
        assert_eq!(
            said(&Input::File("a.gz".into())),
            "a.gz is gzip data; unpack it first: gzip -dc a.gz | slipring embed"
        );
        assert_eq!(
            said(&Input::Stdin),
            "standard input is gzip data; unpack it first: gzip -dc | slipring embed"
        );
    }
}
