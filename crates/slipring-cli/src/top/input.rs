//! Reads the keys, in a thread of its own. It reads only what is there, so that neither bytes that are no
//! key nor a terminal that is another job's, or gone, can stop the screen or this thread.

use std::fs::File;
use std::io::{self, IsTerminal, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::PERIOD;
use super::terminal::is_in_the_foreground;

const ESCAPE: u8 = 0x1b;

/// How long the rest of a key may take that begins as the Esc key does.
const PATIENCE: Duration = Duration::from_millis(50);

/// No key has more bytes.
const LONGEST: usize = 32;

/// What the user or the terminal does.
#[derive(Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    /// There is something to draw.
    Redraw,
    /// The terminal is gone.
    Failed(io::Error),
}

/// Starts the thread that reads keys.
pub(super) fn start(to: SyncSender<Input>) -> io::Result<()> {
    let terminal = match stdin().is_terminal() {
        true => stdin().as_fd().try_clone_to_owned()?,
        false => OwnedFd::from(File::open("/dev/tty")?),
    };
    let run = move || {
        let mut bytes = Vec::new();
        loop {
            if let Err(error) = read(&terminal, &mut bytes) {
                let _ = to.send(Input::Failed(error));
                return;
            }
            for key in keys(&mut bytes) {
                // Without a receiver the program is about to end.
                let _ = to.send(Input::Key(key));
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(run).map(drop)
}

/// Waits for keys, and appends their bytes.
fn read(terminal: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<()> {
    has_more(terminal, None)?;
    // They are for another job. To read them would stop this one, also while a signal is to end it.
    if !is_in_the_foreground() {
        thread::sleep(PERIOD);
        return Ok(());
    }
    loop {
        let mut read = [0; 1024];
        match rustix::io::read(terminal, &mut read) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(count) => bytes.extend(read.iter().take(count)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if bytes.last() != Some(&ESCAPE) || !has_more(terminal, Some(PATIENCE))? {
            return Ok(());
        }
    }
}

/// Whether bytes come within a time; with none, waits until some do.
fn has_more(terminal: &OwnedFd, within: Option<Duration>) -> io::Result<bool> {
    let within = within.map(|time| Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() });
    loop {
        let mut polled = [PollFd::new(terminal, PollFlags::IN)];
        match poll(&mut polled, within.as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(count) => return Ok(count > 0),
        }
    }
}

/// Takes the keys out of bytes. A key that is not whole stays.
fn keys(bytes: &mut Vec<u8>) -> Vec<KeyEvent> {
    let mut keys = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((length, key)) = first(rest) {
        keys.extend(key);
        rest = rest.get(length..).unwrap_or_default();
    }
    *bytes = if rest.len() < LONGEST { rest.to_vec() } else { Vec::new() };
    keys
}

/// How many bytes the first key has, and the key, if it is one that is known. `None` if there are too few.
fn first(bytes: &[u8]) -> Option<(usize, Option<KeyEvent>)> {
    let plain = |code| Some(KeyEvent::from(code));
    let control = |byte: u8| {
        let letter = KeyCode::Char(char::from(byte | 0x60));
        Some(KeyEvent::new(letter, KeyModifiers::CONTROL))
    };
    match bytes {
        [] => None,
        [ESCAPE] => Some((1, plain(KeyCode::Esc))),
        // The Linux console's function keys.
        [ESCAPE, b'[', b'[', rest @ ..] => rest.first().map(|_| (4, None)),
        [ESCAPE, b'[', rest @ ..] => {
            let last = rest.iter().position(|byte| matches!(byte, 0x40..=0x7e))?;
            Some((last + 3, sequence(rest.get(..=last)?)))
        }
        [ESCAPE, b'O', rest @ ..] => rest.first().map(|last| (3, sequence(&[*last]))),
        // With Alt, a key is what it is without.
        [ESCAPE, ..] => Some((1, None)),
        [b'\r' | b'\n', ..] => Some((1, plain(KeyCode::Enter))),
        [0x7f | 0x08, ..] => Some((1, plain(KeyCode::Backspace))),
        [byte @ 0x01..=0x1a, ..] => Some((1, control(*byte))),
        [byte, ..] if byte.is_ascii_control() => Some((1, None)),
        _ => {
            let most = bytes.get(..bytes.len().min(4))?;
            let (length, letter) = match most.utf8_chunks().next()? {
                chunk if !chunk.valid().is_empty() => {
                    let letter = chunk.valid().chars().next()?;
                    (letter.len_utf8(), Some(letter))
                }
                // The begin of a letter, if there are no bytes behind it that do not belong to it.
                chunk if chunk.invalid().len() == bytes.len() && is_begun(bytes) => return None,
                chunk => (chunk.invalid().len(), None),
            };
            let letter = letter.filter(|letter| !letter.is_control());
            Some((length, letter.and_then(|letter| plain(KeyCode::Char(letter)))))
        }
    }
}

/// Whether bytes are valid so far.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// The key of a sequence without its begin, if it is known and no other key is held.
fn sequence(sequence: &[u8]) -> Option<KeyEvent> {
    let code = match sequence {
        b"A" => KeyCode::Up,
        b"B" => KeyCode::Down,
        b"H" | b"1~" | b"7~" => KeyCode::Home,
        b"F" | b"4~" | b"8~" => KeyCode::End,
        b"5~" => KeyCode::PageUp,
        b"6~" => KeyCode::PageDown,
        _ => return None,
    };
    Some(KeyEvent::from(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys, and how many bytes stay.
    fn read(bytes: &[u8]) -> (Vec<KeyCode>, usize) {
        let mut bytes = bytes.to_vec();
        let keys = keys(&mut bytes).into_iter().map(|key| key.code);
        (keys.collect(), bytes.len())
    }

    #[test]
    fn keys_are_known_whatever_comes_in_front_of_them() {
        use KeyCode::{Backspace, Char, Down, End, Enter, Esc, Home, PageDown, PageUp, Up};
        let all = [
            (&b"q"[..], Char('q')),
            (b"\r", Enter),
            (b"\x7f", Backspace),
            (b"\x08", Backspace),
            (b"\x1b[A", Up),
            (b"\x1bOB", Down),
            (b"\x1b[H", Home),
            (b"\x1b[1~", Home),
            (b"\x1b[4~", End),
            (b"\x1b[5~", PageUp),
            (b"\x1b[6~", PageDown),
            ("\u{e9}".as_bytes(), Char('\u{e9}')),
            ("\u{1f40d}".as_bytes(), Char('\u{1f40d}')),
            (b"\x1b", Esc),
        ];
        for front in [&b""[..], b"\xff", b"\xc3\xff", b"\x1b[200~", b"\x1b[1;5A", b"\x1b[[A", b"\0"]
        {
            for (bytes, key) in all {
                assert_eq!(read(&[front, bytes].concat()), (vec![key], 0), "{front:?} {bytes:?}");
            }
        }
        let control = keys(&mut b"\x03\x1a".to_vec());
        assert!(control.iter().all(|key| key.modifiers == KeyModifiers::CONTROL));
        assert_eq!(read(b"\x03\x1a\xc2\x9b"), (vec![Char('c'), Char('z')], 0));
        assert_eq!(read(b"\x1bx\x1b\x1b"), (vec![Char('x'), Esc], 0));
    }

    #[test]
    fn a_key_that_is_not_whole_waits_for_its_end_but_not_for_ever() {
        for bytes in [&b"\x1b["[..], b"\x1bO", b"\x1b[1;", b"\xf0\x9f", b"\xc3"] {
            assert_eq!(read(bytes), (vec![], bytes.len()), "{bytes:?}");
        }
        assert_eq!(read(&[b"\x1b[".as_slice(), &[b'0'; LONGEST]].concat()), (vec![], 0));
    }
}
