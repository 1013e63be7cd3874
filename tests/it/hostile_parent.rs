//! A parent that is not as a worker expects. Each disagreement is an error of its own, on the
//! worker's side and in its answer, that names both values. The worker touches nothing.
#![allow(unsafe_code, reason = "memfds of this test's own")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::common::*;
use crate::hostile::*;

const SEALS_LEN: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
const SEALS_UP: i32 = SEALS_LEN | libc::F_SEAL_SEAL;
const SEALS_DOWN: i32 = SEALS_UP | libc::F_SEAL_FUTURE_WRITE;
const DOWN_LEN: usize = 16384;
const UP_LEN: usize = 16384;

fn memfd(len: usize) -> OwnedFd {
    // SAFETY: a NUL-terminated name.
    let fd = unsafe {
        libc::memfd_create(c"hostile".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)
    };
    // SAFETY: the kernel has just made it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    File::from(fd.try_clone().unwrap()).set_len(len as u64).unwrap();
    fd
}

fn seal(fd: &OwnedFd, seals: i32) {
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
}

fn ring(offset: u64, max_frame: u32) -> Vec<u8> {
    let words = [offset, 4096, 0].map(u64::to_le_bytes).concat();
    [words, max_frame.to_le_bytes().to_vec(), vec![0; 4]].concat()
}

fn geometry(len: usize, data: u64, health: u64, requests: u32) -> Vec<u8> {
    let rings = [ring(data, 1000), ring(health, 1024)].concat();
    let count = [requests.to_le_bytes(), [0; 4]].concat();
    [&(len as u64).to_le_bytes()[..], &rings, &4096_u64.to_le_bytes(), &count].concat()
}

/// The header of an honest parent, as the document draws it.
fn honest_header() -> Vec<u8> {
    let mut header = b"SLIPRING".to_vec();
    header.extend([2_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat());
    header.extend([7; 16]);
    header.extend([0; 8]);
    header.extend(geometry(DOWN_LEN, 8192, 12288, 4));
    header.extend(geometry(UP_LEN, 8192, 12288, 4));
    header.extend([2048_u64, 1 << 20].map(u64::to_le_bytes).concat());
    header.extend(std::process::id().to_le_bytes());
    header.extend([0; 4]);
    header.extend(b"by hand");
    header.resize(HEADER, 0);
    header
}

fn honest_hello() -> Vec<u8> {
    let mut hello = b"SLRG".to_vec();
    let pid = std::process::id();
    hello.extend([2, pid, 2, 0, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
    hello.extend(u64::MAX.to_le_bytes());
    hello.extend(0_u32.to_le_bytes());
    for field in [&b"by-hand"[..], b"", b""] {
        hello.extend(framed(field));
    }
    // No extras, not pollable, no blob, no descriptors of the host's, no routine for copies.
    hello.extend([0; 4 + 4 + 8 + 4 + 4]);
    hello
}

/// The regions and messages of the parent.
struct Parent {
    header: Vec<u8>,
    hello: Vec<u8>,
    down: OwnedFd,
    up: OwnedFd,
    down_seals: i32,
    up_seals: i32,
    /// The descriptors in the order in which they are sent; `None` sends both regions.
    fds: Option<Vec<RawFd>>,
}

impl Parent {
    fn honest() -> Self {
        Self {
            header: honest_header(),
            hello: honest_hello(),
            down: memfd(DOWN_LEN),
            up: memfd(UP_LEN),
            down_seals: SEALS_DOWN,
            up_seals: SEALS_UP,
            fds: None,
        }
    }

    fn with_header(change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut parent = Self::honest();
        change(&mut parent.header);
        parent
    }

    fn start(&self) -> Started {
        File::from(self.down.try_clone().unwrap()).write_all_at(&self.header, 0).unwrap();
        if self.down_seals != 0 {
            seal(&self.down, self.down_seals);
        }
        if self.up_seals != 0 {
            seal(&self.up, self.up_seals);
        }
        self.send()
    }

    /// Starts a worker, and sends it the message and the descriptors.
    fn send(&self) -> Started {
        let started = Started::new();
        let both = vec![self.down.as_raw_fd(), self.up.as_raw_fd()];
        let fds = self.fds.as_ref().unwrap_or(&both);
        // A worker that has already refused does not read it.
        let _ = send(started.socket.as_raw_fd(), &framed(&self.hello), fds);
        started
    }
}

/// A worker whose parent is this test.
struct Started {
    child: Child,
    socket: UnixStream,
}

impl Started {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = OwnedFd::from(theirs);
        let number = std::fs::File::from(theirs.try_clone().unwrap()).metadata().unwrap().ino();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["worker_entry", "--exact", "--nocapture", "--test-threads=1"])
            .env("SLIPRING_WORKER", format!("{}:{number}", std::process::id()))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(LONG)).unwrap();
        Self { child, socket: ours }
    }

    /// The answer's code and its reason.
    fn answer(&self) -> Option<(u64, String)> {
        let (answer, _) = receive_message(self.socket.as_raw_fd())?;
        assert_eq!((&answer[..4], number(&answer, 4, 4)), (&b"SLRG"[..], 2));
        let code = number(&answer, 8, 4);
        let reason = if code == 0 { String::new() } else { reason(&answer) };
        Some((code, reason))
    }

    /// Returns the text that the worker wrote to standard error before it ended, which it must with
    /// code 9.
    fn last_words(mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        let status = within_long("the worker ends", || self.child.wait()).unwrap();
        assert_eq!(status.code(), Some(9), "{text}");
        text
    }
}

fn reason(answer: &[u8]) -> String {
    let len = number(answer, 12, 4) as usize;
    String::from_utf8(answer[16..16 + len].to_vec()).unwrap()
}

/// The answer of a worker that found a value which differs from its own.
const MISMATCH: u64 = 1;
/// The answer of a worker that could not attach for another reason.
const FAILED: u64 = 2;

/// Checks that the worker refuses the parent for a value that differs, and names both values.
fn assert_refused(what: &str, parent: &Parent, parts: &[&str]) {
    assert_answer(MISMATCH, what, parent, parts);
}

fn assert_answer(expected: u64, what: &str, parent: &Parent, parts: &[&str]) {
    let started = parent.start();
    let (code, reason) = started.answer().expect(what);
    let words = started.last_words();
    assert_eq!(code, expected, "{what}: {reason}");
    for part in parts {
        assert!(reason.contains(part), "{what}: {part} is missing in: {reason}");
        assert!(words.contains(part), "{what}: {part} is missing in: {words}");
    }
}

#[test]
fn a_region_made_by_hand_as_the_document_says_is_attached_to_and_answered() {
    let parent = Parent::honest();
    let started = parent.start();
    assert_eq!(started.answer(), Some((0, String::new())));
    let up = Map::new(parent.up.as_raw_fd(), UP_LEN, libc::PROT_READ).unwrap();
    let header = up.read(0, HEADER);
    let mut expected = answering_header(&parent.header);
    expected[232..304].copy_from_slice(&header[232..304]);
    assert_eq!(header, expected);
    assert_eq!(number(&header, 232, 4), u64::from(started.child.id()));
    assert!(header[240..].starts_with(b"slipring "));
    // The end of the parent tells the worker to end.
    let Started { mut child, socket } = started;
    drop(socket);
    within_long("the worker ends", || child.wait()).unwrap();
}

#[test]
fn a_header_that_differs_is_refused_with_both_values() {
    let set = |at: usize, bytes: &'static [u8]| {
        Parent::with_header(move |header| header[at..at + bytes.len()].copy_from_slice(bytes))
    };
    let expected_magic = "expected 0x474e495250494c53";
    let cases = [
        ("no magic", set(0, &[0; 8]), &["magic 0x0000000000000000", expected_magic][..]),
        ("version 1", set(8, &[1, 0, 0, 0]), &["version 1", "by hand", "speaks 2"]),
        ("side", set(12, &[2]), &["side 2", "expected side 1"]),
        ("features", set(32, &[1]), &["features 0x1", "knows 0x0"]),
        ("length", set(40, &[0, 0x80]), &["16384 bytes", "says 32768"]),
        ("capacity", set(56, &[1]), &["data ring of 4097 bytes", "cannot be"]),
        ("huge capacity", set(60, &[1]), &["4294971392 bytes", "cannot be"]),
        ("offset", set(48, &[64]), &["this region", "8256", "expected at", "8192"]),
        ("origin", set(64, &[1]), &["at position 1", "cannot be"]),
        ("frames", set(72, &[0xff; 4]), &["frames of 4294967295 bytes", "cannot be"]),
        ("no frames", set(72, &[0; 4]), &["frames of 0 bytes", "cannot be"]),
        ("table", set(120, &[0xff; 4]), &["this region", "expected at"]),
        ("other offset", set(136, &[64]), &["the other region", "8256", "8192"]),
        ("other table", set(208, &[5]), &["4 requests", "5"]),
        ("window", set(216, &[0; 8]), &["stream window 0"]),
        ("reserved", set(236, &[1]), &["reserved"]),
        ("tail", set(383, &[1]), &["reserved"]),
    ];
    for (what, parent, parts) in &cases {
        assert_refused(what, parent, parts);
        let up = Map::new(parent.up.as_raw_fd(), UP_LEN, libc::PROT_READ).unwrap();
        assert!(up.read(0, UP_LEN).iter().all(|byte| *byte == 0), "{what}: nothing is written");
    }
}

#[test]
fn missing_seals_and_wrong_sizes_are_refused_with_both_values() {
    for missing in [libc::F_SEAL_FUTURE_WRITE, libc::F_SEAL_SHRINK, libc::F_SEAL_GROW] {
        let found = SEALS_DOWN & !missing;
        let parent = Parent { down_seals: found, ..Parent::honest() };
        let parts = [format!("seals {found:#x}"), format!("{SEALS_DOWN:#x}")];
        assert_refused("down", &parent, &parts.each_ref().map(String::as_str));
    }
    for missing in [libc::F_SEAL_SHRINK, libc::F_SEAL_GROW] {
        let found = SEALS_UP & !missing;
        let parent = Parent { up_seals: found, ..Parent::honest() };
        let parts = [format!("seals {found:#x}"), format!("{SEALS_LEN:#x}")];
        assert_refused("up", &parent, &parts.each_ref().map(String::as_str));
    }
    let cut = Parent { down: memfd(4096), ..Parent::honest() };
    assert_refused("cut", &cut, &["4096 bytes", "says 16384"]);
    for len in [UP_LEN - 4096, UP_LEN + 4096, 384] {
        let parent = Parent { up: memfd(len), ..Parent::honest() };
        assert_refused("up", &parent, &[&format!("{len} bytes"), &format!("expected {UP_LEN}")]);
    }
    let mut tiny = Parent { down: memfd(0), header: Vec::new(), ..Parent::honest() };
    assert_refused("empty", &tiny, &["magic 0x0000000000000000"]);
    tiny = Parent { down: memfd(100), header: vec![1; 100], ..Parent::honest() };
    assert_refused("100 bytes", &tiny, &["magic 0x"]);
}

#[test]
fn descriptors_that_are_no_region_are_refused() {
    let null = File::open("/dev/null").unwrap();
    let (pipe, _end) = std::io::pipe().unwrap();
    let honest = Parent::honest();
    let (down, up) = (honest.down.as_raw_fd(), honest.up.as_raw_fd());
    let cases: [(&str, Vec<RawFd>, u64, &str); 6] = [
        ("none", vec![], FAILED, "descriptors"),
        ("one", vec![down], FAILED, "descriptors"),
        ("a device", vec![null.as_raw_fd(), up], MISMATCH, "not a memfd"),
        ("a pipe", vec![down, pipe.as_raw_fd()], MISMATCH, "not a memfd"),
        ("swapped", vec![up, down], MISMATCH, "seals"),
        ("down twice", vec![down, down], MISMATCH, "another process is attached"),
    ];
    // The regions are sealed by the first start.
    let first = honest.start();
    assert_eq!(first.answer(), Some((0, String::new())));
    first.hang_up();
    for (what, fds, expected, part) in cases {
        let parent = Parent { fds: Some(fds), ..honest.again() };
        let started = parent.send();
        let (code, reason) = started.answer().expect(what);
        assert_eq!(code, expected, "{what}: {reason}");
        assert!(reason.contains(part), "{what}: {reason}");
        started.last_words();
    }
    let five = Parent { fds: Some(vec![down; 5]), ..honest.again() };
    let words = five.send().last_words();
    assert!(words.contains("descriptors"), "{words}");
}

impl Parent {
    fn again(&self) -> Self {
        Self {
            header: self.header.clone(),
            hello: self.hello.clone(),
            down: self.down.try_clone().unwrap(),
            up: self.up.try_clone().unwrap(),
            down_seals: 0,
            up_seals: 0,
            fds: None,
        }
    }
}

impl Started {
    /// Hangs up on a worker that has attached.
    fn hang_up(self) {
        let Self { mut child, socket } = self;
        drop(socket);
        within_long("the worker ends", || child.wait()).unwrap();
    }
}

#[test]
fn a_second_worker_on_the_same_regions_is_refused() {
    let parent = Parent::honest();
    let first = parent.start();
    assert_eq!(first.answer(), Some((0, String::new())));
    for _ in 0..3 {
        let second = parent.again().send();
        let (code, reason) = second.answer().unwrap();
        assert_eq!(code, 1);
        assert!(reason.contains("attached to this channel already"), "{reason}");
        second.last_words();
    }
    let up = Map::new(parent.up.as_raw_fd(), UP_LEN, libc::PROT_READ).unwrap();
    assert_eq!(up.u32(232), first.child.id());
    assert!(is_running(first.child.id()));
    first.hang_up();
}

#[test]
fn a_hello_that_cannot_be_is_refused() {
    let hello = |hello: Vec<u8>| Parent { hello, ..Parent::honest() };
    let mut other_version = honest_hello();
    other_version[4] = 7;
    assert_refused("version", &hello(other_version), &["version 7", "speaks 2"]);
    assert_answer(FAILED, "garbage", &hello(vec![0x5a; 200]), &["0x5a5a5a5a", "expected 0x"]);
    assert_answer(FAILED, "empty", &hello(Vec::new()), &["ends before"]);
    let honest = honest_hello();
    for cut in [8, 20, 44, honest.len() - 1] {
        assert_answer(FAILED, "cut", &hello(honest[..cut].to_vec()), &["ends before"]);
    }
    let mut lengths = honest.clone();
    lengths[44..48].fill(0xff);
    assert_answer(FAILED, "processors without end", &hello(lengths), &["ends before"]);
    let mut lengths = honest.clone();
    lengths[48..52].fill(0xff);
    assert_answer(FAILED, "a role without end", &hello(lengths), &["ends before"]);
    let mut orphan = honest;
    orphan[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let parts = ["process 1,", &format!("it is {}", std::process::id())];
    assert_answer(FAILED, "a parent that is another", &hello(orphan), &parts);
}

/// An honest setup but for the length of the blob and the names of passed descriptors.
fn setup_with(blob_len: u64, names: &[&[u8]]) -> Vec<u8> {
    let mut setup = honest_hello();
    setup.truncate(setup.len() - 16);
    setup.extend(blob_len.to_le_bytes());
    setup.extend((names.len() as u32).to_le_bytes());
    names.iter().for_each(|name| setup.extend(framed(name)));
    setup.extend(0_u32.to_le_bytes());
    setup
}

#[test]
fn a_blob_or_passed_descriptors_that_cannot_be_are_refused() {
    let (pipe, _end) = std::io::pipe().unwrap();
    let pipe = pipe.as_raw_fd();
    let long = [b'x'; 33];
    type Case<'a> = (&'a str, u64, &'a [&'a [u8]], &'a [RawFd], u64, &'a str);
    let cases: [Case<'_>; 8] = [
        ("a pipe for a blob", 5, &[], &[pipe], MISMATCH, "not a memfd"),
        ("no blob", 5, &[], &[], FAILED, "2 descriptors came"),
        ("a blob that is not named", 0, &[], &[pipe], FAILED, "3 descriptors came"),
        ("a blob without end", u64::MAX, &[], &[pipe], FAILED, "at most 67108864"),
        ("a name without a descriptor", 0, &[b"a", b"b"], &[pipe], FAILED, "3 descriptors came"),
        ("a name twice", 0, &[b"a", b"a"], &[pipe; 2], FAILED, "passed twice"),
        ("an empty name", 0, &[b""], &[pipe], FAILED, "its name must be"),
        ("a long name", 0, &[&long], &[pipe], FAILED, "its name must be"),
    ];
    for (what, blob_len, names, fds, code, part) in cases {
        let mut parent = Parent { hello: setup_with(blob_len, names), ..Parent::honest() };
        let regions = [parent.down.as_raw_fd(), parent.up.as_raw_fd()];
        parent.fds = Some([&regions[..], fds].concat());
        assert_answer(code, what, &parent, &[part]);
    }
}

#[test]
fn a_parent_that_says_nothing_or_half_of_it_or_too_much_ends_the_worker() {
    for bytes in [&b""[..], b"\x10", b"\x10\0\0\0half", &u32::MAX.to_le_bytes()] {
        let started = Started::new();
        send(started.socket.as_raw_fd(), bytes, &[]).unwrap();
        started.socket.shutdown(std::net::Shutdown::Write).unwrap();
        let words = started.last_words();
        assert!(words.contains("worker: "), "{words}");
    }
}

/// A frame of a request: its kind, flags, request and length. The longest has 1000 bytes.
type Sent = (u16, u16, u64, usize);

const READ: u16 = READ_BY[0].0.code();
const UNKNOWN: u16 = 0x7001;
const MIDDLE: u16 = MORE | CONTINUED;

/// Starts a worker that finds `frames` in its ring. Returns it, and the kinds of the frames by which
/// it has answered each request, in order.
fn answered(frames: &[Sent], requests: &[u64]) -> (Started, Vec<Option<u16>>) {
    // The longest message has as many bytes as two frames.
    let parent =
        Parent::with_header(|header| header[224..232].copy_from_slice(&2000_u64.to_le_bytes()));
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let down = Map::new(parent.down.as_raw_fd(), DOWN_LEN, read_write).unwrap();
    let up = Map::new(parent.up.as_raw_fd(), UP_LEN, libc::PROT_READ).unwrap();
    let ring = || Ring { offset: 8192, capacity: 4096, origin: 0, max_frame: 1000 };
    let own = Own { map: down, lies: Vec::new() };
    let (mut out, mut replies) = (Out::new(&own, ring(), DATA), In::new(&own, ring(), DATA));
    own.put64(HEALTH + SLEEP_AT, NEVER);
    for (kind, flags, request, len) in frames {
        out.publish(&own, head(*kind, *flags, *request, NEVER, *len), &vec![7; (*len).min(1000)]);
    }
    assert!(out.tail < 4096, "all frames fit into the ring");
    let started = parent.start();
    assert_eq!(started.answer(), Some((0, String::new())));
    let mut kinds = vec![None; requests.len()];
    eventually("it answers, or ends", || {
        while let Some(came) = replies.poll(&own, &up) {
            let at = requests.iter().position(|request| *request == came.request);
            kinds[at.expect("an answer to a request")] = Some(came.kind);
        }
        kinds.iter().all(Option::is_some) || !is_running(started.child.id())
    });
    (started, kinds)
}

#[test]
fn pieces_of_a_request_that_is_read_and_cannot_be_end_the_worker() {
    let short = |request| (READ, 0, request, 8);
    let first = (READ, MORE, 1, 100);
    let cases: [(&str, Vec<Sent>, &str); 16] = [
        ("no first piece", vec![(READ, MIDDLE, 1, 100)], "no start"),
        ("of another request", vec![first, (READ, CONTINUED, 2, 1)], "request 2 with no start"),
        ("of another kind", vec![first, (UNKNOWN, CONTINUED, 1, 1)], "request 1 with no start"),
        (
            "after the last one",
            vec![first, (READ, CONTINUED, 1, 1), (READ, CONTINUED, 1, 1)],
            "no start",
        ),
        (
            "too long",
            vec![(READ, MORE, 1, 1000), (READ, MIDDLE, 1, 1000), (READ, CONTINUED, 1, 1)],
            "over 2000 bytes",
        ),
        ("without bytes", vec![first, (READ, MIDDLE, 1, 0)], "without bytes"),
        (
            "a first one without bytes",
            vec![(READ, MORE, 1, 0), (READ, CONTINUED, 1, 1)],
            "without bytes",
        ),
        ("flags", vec![first, (READ, CONTINUED | 32, 1, 1)], "flags 0x24"),
        ("a trace", vec![first, (READ, CONTINUED | 16, 1, 1)], "in a later piece"),
        ("flags of a short one", vec![first, (READ, 32, 2, 1)], "flags 0x20"),
        ("longer than a frame", vec![first, (READ, CONTINUED, 1, 1001)], "1001 bytes"),
        ("longer than the ring", vec![first, (READ, CONTINUED, 1, usize::MAX >> 40)], "bytes"),
        ("twice while it is read", vec![first, first, (READ, CONTINUED, 1, 1)], "sent twice"),
        (
            "twice while it is collected",
            vec![(UNKNOWN, MORE, 1, 100), (UNKNOWN, MORE, 1, 100), (UNKNOWN, CONTINUED, 1, 1)],
            "sent twice",
        ),
        (
            "again after another one has cut it off",
            vec![first, (READ, MORE, 2, 100), (READ, CONTINUED, 2, 1), first],
            "sent twice",
        ),
        (
            "too many others",
            vec![first, short(2), short(3), short(4), short(5)],
            "can be in flight",
        ),
    ];
    for (what, frames, part) in cases {
        println!("{what}");
        let (started, _) = answered(&frames, &[1, 2, 3, 4, 5, 6]);
        let words = started.last_words();
        assert!(words.contains(part), "{what}: {words}");
    }
}
