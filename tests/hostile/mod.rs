//! A peer that knows the shared memory from `docs/MEMORY.md` alone. It uses nothing of the library:
//! it takes the descriptors from the bootstrap socket, maps them, and writes anything.
#![allow(dead_code, reason = "every file of tests uses a part of this")]
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]
#![allow(unsafe_code, reason = "system calls, and memory that is shared with another process")]

pub mod handshake;
pub mod memory;
pub mod script;
pub mod worker;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::common;

pub const HEADER: usize = 384;
/// First control line of the data side and of the health side.
pub const DATA: usize = 512;
pub const HEALTH: usize = 1024;
pub const SLEEP_AT: usize = 0;
pub const HEAD: usize = 128;
pub const SPACE_AT: usize = 256;
pub const BELL: usize = 384;
pub const CHECKED: usize = 392;
pub const COPIES: usize = 400;
pub const HIGH_WATER: usize = 408;
pub const STATUS: usize = 1664;
pub const OWNER: usize = 1792;
pub const MARKS: usize = 4096;
pub const NEVER: u64 = u64::MAX;

pub const PING: u16 = 1;
pub const PONG: u16 = 2;
pub const SHUTDOWN: u16 = 3;
pub const ACK: u16 = 4;
pub const RESULT: u16 = 5;
pub const ERROR: u16 = 6;
pub const CHUNK: u16 = 7;
pub const END: u16 = 8;
pub const CANCEL: u16 = 9;
pub const READY: u16 = 10;
pub const VOID: u16 = 11;

pub const STREAM: u16 = 1;
pub const MORE: u16 = 2;
pub const CONTINUED: u16 = 4;

/// A change of one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Set(u8),
    Flip(u8),
}

impl Op {
    pub fn apply(self, byte: u8) -> u8 {
        match self {
            Self::Set(value) => value,
            Self::Flip(bit) => byte ^ (1 << bit),
        }
    }
}

/// Mapped memory of a region.
#[derive(Debug, Clone, Copy)]
pub struct Map {
    base: *mut u8,
    len: usize,
}

// SAFETY: shared memory is reached through atomics and raw copies only.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    pub fn new(fd: RawFd, len: usize, protection: i32) -> std::io::Result<Self> {
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping of a descriptor that the caller keeps open.
        let base = unsafe { libc::mmap(anywhere, len, protection, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(offset) }.cast()
    }

    pub fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: aligned and inside the mapping, which is never unmapped.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    pub fn half(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: aligned and inside the mapping, which is never unmapped.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    pub fn u64(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Acquire)
    }

    pub fn u32(&self, offset: usize) -> u32 {
        self.half(offset).load(Ordering::Acquire)
    }

    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: the source is inside the mapping, as just checked.
        let from = unsafe { self.base.add(offset) };
        // SAFETY: `bytes` has room for `len` bytes; it does not overlap the mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        bytes
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: the target is inside the mapping, as just checked.
        let to = unsafe { self.base.add(offset) };
        // SAFETY: as above; the mapping is writable wherever this is called.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

/// The place of a ring: 32 bytes in a region's header.
#[derive(Debug, Clone, Copy)]
pub struct Ring {
    pub offset: usize,
    pub capacity: u64,
    pub origin: u64,
    pub max_frame: usize,
}

/// The geometry of one region: 88 bytes of a header.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub region_len: usize,
    pub data: Ring,
    pub health: Ring,
    pub requests: usize,
    pub request_count: u64,
}

pub fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut word = [0; 8];
    word[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(word)
}

impl Geometry {
    pub fn read(header: &[u8], at: usize) -> Self {
        let ring = |at| Ring {
            offset: number(header, at, 8) as usize,
            capacity: number(header, at + 8, 8),
            origin: number(header, at + 16, 8),
            max_frame: number(header, at + 24, 4) as usize,
        };
        Self {
            region_len: number(header, at, 8) as usize,
            data: ring(at + 8),
            health: ring(at + 40),
            requests: number(header, at + 72, 8) as usize,
            request_count: number(header, at + 80, 4),
        }
    }
}

/// The header of the worker's region, made from the parent's.
pub fn answering_header(down: &[u8]) -> Vec<u8> {
    let mut up = down.to_vec();
    up[12..16].copy_from_slice(&2_u32.to_le_bytes());
    up[40..128].copy_from_slice(&down[128..216]);
    up[128..216].copy_from_slice(&down[40..128]);
    up[232..236].copy_from_slice(&std::process::id().to_le_bytes());
    up[240..304].fill(0);
    up[240..247].copy_from_slice(b"hostile");
    up
}

/// The length of the slot of a frame with this payload.
pub fn span(len: usize) -> u64 {
    (32 + len as u64).next_multiple_of(64)
}

/// The region that this process writes, with lies about single bytes of its words.
#[derive(Debug)]
pub struct Own {
    pub map: Map,
    pub lies: Vec<(usize, Op)>,
}

impl Own {
    pub fn put64(&self, offset: usize, value: u64) {
        let mut bytes = value.to_le_bytes();
        self.lie(offset, &mut bytes);
        self.map.word(offset).store(u64::from_le_bytes(bytes), Ordering::Release);
    }

    pub fn put32(&self, offset: usize, value: u32) {
        let mut bytes = value.to_le_bytes();
        self.lie(offset, &mut bytes);
        self.map.half(offset).store(u32::from_le_bytes(bytes), Ordering::Release);
    }

    fn lie(&self, offset: usize, bytes: &mut [u8]) {
        for (at, op) in &self.lies {
            if let Some(byte) = at.checked_sub(offset).and_then(|i| bytes.get_mut(i)) {
                *byte = op.apply(*byte);
            }
        }
    }

    /// Lies from now on, even about a word that is not stored again.
    pub fn tell(&mut self, offset: usize, op: Op) {
        self.lies.push((offset, op));
        let byte = self.map.read(offset, 1)[0];
        self.map.write(offset, &[op.apply(byte)]);
    }
}

/// The producing end of a ring.
#[derive(Debug)]
pub struct Out {
    pub ring: Ring,
    /// Offset of the control lines of its side.
    pub side: usize,
    pub tail: u64,
    pub announced: u64,
    pub bell: u32,
    /// A lie about a byte of the next frame's header.
    pub lie: Option<(usize, Op)>,
    /// The next frame's commit word.
    pub commit: Option<u64>,
}

impl Out {
    pub fn new(own: &Own, ring: Ring, side: usize) -> Self {
        own.put64(side + SPACE_AT, NEVER);
        own.put64(side + CHECKED, ring.origin);
        Self {
            ring,
            side,
            tail: ring.origin,
            announced: ring.origin,
            bell: 0,
            lie: None,
            commit: None,
        }
    }

    pub fn at(&self, position: u64) -> usize {
        self.ring.offset + (position & (self.ring.capacity - 1)) as usize
    }

    pub fn rest(&self) -> u64 {
        self.ring.capacity - (self.tail & (self.ring.capacity - 1))
    }

    pub fn has_room(&self, peer: &Map, len: usize) -> bool {
        let needed = span(len) + 64 + if span(len) > self.rest() { self.rest() } else { 0 };
        self.tail.wrapping_add(needed).wrapping_sub(peer.u64(self.side + HEAD))
            <= self.ring.capacity
    }

    /// Publishes a frame, even without room for it.
    pub fn publish(&mut self, own: &Own, head: [u64; 3], payload: &[u8]) {
        let mut start = self.tail;
        let is_padded = span(payload.len()) > self.rest();
        if is_padded {
            start = start.wrapping_add(self.rest());
        }
        let at = self.at(start);
        let next = start.wrapping_add(span(payload.len()));
        own.map.word(self.at(next)).store(0, Ordering::Relaxed);
        own.map.write(at + 32, payload);
        let commit = self.commit.take().unwrap_or(start | 1);
        let mut words = [commit, head[0], head[1], head[2]];
        if let Some((byte, op)) = self.lie.take() {
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes[byte] = op.apply(bytes[byte]);
            words = std::array::from_fn(|i| number(&bytes, 8 * i, 8));
        }
        for i in (0..4).rev() {
            own.map.word(at + 8 * i).store(words[i], Ordering::Release);
        }
        if is_padded {
            own.map.word(self.at(self.tail)).store(self.tail | 2, Ordering::Release);
        }
        self.tail = next;
    }

    /// Wakes the peer if it sleeps for what was published.
    pub fn ring_if_awaited(&mut self, own: &Own, peer: &Map) {
        fence(Ordering::SeqCst);
        let awaited = peer.u64(self.side + SLEEP_AT) & !63;
        if awaited.wrapping_sub(self.announced) < self.tail.wrapping_sub(self.announced) {
            self.ring(own);
        }
        self.announced = self.tail;
        own.put64(self.side + CHECKED, self.tail);
    }

    pub fn ring(&mut self, own: &Own) {
        self.bell = own.map.u32(self.side + BELL).wrapping_add(1);
        own.put32(self.side + BELL, self.bell);
        wake(own.map.half(self.side + BELL));
    }
}

/// The first words of a header: length, kind and flags; request; aux.
pub fn head(kind: u16, flags: u16, request: u64, aux: u64, len: usize) -> [u64; 3] {
    [len as u64 | u64::from(kind) << 32 | u64::from(flags) << 48, request, aux]
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    pub kind: u16,
    pub flags: u16,
    pub request: u64,
    pub payload: Vec<u8>,
}

/// The consuming end of a ring.
#[derive(Debug)]
pub struct In {
    pub ring: Ring,
    pub side: usize,
    pub next: u64,
}

impl In {
    pub fn new(own: &Own, ring: Ring, side: usize) -> Self {
        own.put64(side + SLEEP_AT, NEVER);
        own.put64(side + HEAD, ring.origin);
        Self { ring, side, next: ring.origin }
    }

    pub fn poll(&mut self, own: &Own, peer: &Map) -> Option<Came> {
        loop {
            let at = self.ring.offset + (self.next & (self.ring.capacity - 1)) as usize;
            let word = peer.u64(at);
            if word == self.next | 2 {
                let rest = self.ring.capacity - (self.next & (self.ring.capacity - 1));
                self.next = self.next.wrapping_add(rest);
                continue;
            }
            if word != self.next | 1 {
                let nothing = [0, self.next.wrapping_sub(self.ring.capacity) | 1];
                let is_as_said = nothing.contains(&word);
                assert!(is_as_said, "{word:#x}: the honest peer's ring is what the document says");
                return None;
            }
            let first = peer.u64(at + 8);
            let len = (first & 0xffff_ffff) as usize;
            let came = Came {
                kind: (first >> 32) as u16,
                flags: (first >> 48) as u16,
                request: peer.u64(at + 16),
                payload: peer.read(at + 32, len),
            };
            self.next = self.next.wrapping_add(span(len));
            self.publish(own, peer);
            return Some(came);
        }
    }

    fn publish(&self, own: &Own, peer: &Map) {
        own.put64(self.side + HEAD, self.next);
        fence(Ordering::SeqCst);
        let awaited = peer.u64(self.side + SPACE_AT) & !63;
        // Wakes every wait for space that has room by now.
        if awaited != NEVER & !63 && self.next.wrapping_sub(awaited) < 1 << 40 {
            own.put32(self.side + BELL, own.map.u32(self.side + BELL).wrapping_add(1));
            wake(own.map.half(self.side + BELL));
        }
    }
}

pub fn wake(word: &AtomicU32) {
    // SAFETY: a live word; a wake does not touch it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

const RIGHTS: usize = 8;

#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fds: [RawFd; RIGHTS],
}

/// Receives bytes into `buffer`, and descriptors.
pub fn receive(socket: RawFd, buffer: &mut [u8], flags: i32) -> (isize, Vec<OwnedFd>) {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut rights = Rights {
        header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 },
        fds: [-1; RIGHTS],
    };
    let mut header = message(&mut part, &mut rights, size_of::<Rights>());
    // SAFETY: one live buffer and one live control record, with their lengths.
    let receive = || unsafe { libc::recvmsg(socket, &raw mut header, flags) };
    let len = common::uninterrupted(receive);
    let mut fds = Vec::new();
    if len >= 0 && header.msg_controllen >= 16 && rights.header.cmsg_type == libc::SCM_RIGHTS {
        for fd in rights.fds.iter().take((rights.header.cmsg_len - 16) / 4) {
            // SAFETY: the kernel has just made it.
            fds.push(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    (len, fds)
}

/// Sends all of `bytes`, with the descriptors beside the first of them.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> std::io::Result<()> {
    let mut rights = Rights {
        header: libc::cmsghdr {
            cmsg_len: 16 + 4 * fds.len(),
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fds: [-1; RIGHTS],
    };
    rights.fds[..fds.len()].copy_from_slice(fds);
    let mut rest = bytes;
    let mut control = if fds.is_empty() { 0 } else { rights.header.cmsg_len };
    while !rest.is_empty() {
        let mut part =
            libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
        let header = message(&mut part, &mut rights, control);
        // SAFETY: one live buffer and one live control record, with their lengths.
        let sent = unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Err(std::io::Error::last_os_error());
        }
        rest = &rest[sent as usize..];
        control = 0;
    }
    Ok(())
}

fn message(part: &mut libc::iovec, rights: &mut Rights, control: usize) -> libc::msghdr {
    let control_at = if control == 0 { std::ptr::null_mut() } else { std::ptr::from_mut(rights) };
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: part,
        msg_iovlen: 1,
        msg_control: control_at.cast(),
        msg_controllen: control,
        msg_flags: 0,
    }
}

/// A message of the handshake: its length and its bytes.
pub fn framed(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    [&len.to_le_bytes(), bytes].concat()
}

/// Receives one message of the handshake; `None` at the end of the stream.
pub fn receive_message(socket: RawFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut all = Vec::new();
    let mut fds = Vec::new();
    loop {
        let wanted = match all.len() {
            0..4 => 4,
            _ => 4 + number(&all, 0, 4) as usize,
        };
        if all.len() == wanted && wanted > 4 || (wanted == 4 && all.len() == 4) {
            return Some((all.split_off(4), fds));
        }
        let mut buffer = vec![0; wanted - all.len()];
        let (len, came) = receive(socket, &mut buffer, 0);
        if len <= 0 {
            return None;
        }
        all.extend_from_slice(&buffer[..len as usize]);
        fds.extend(came);
    }
}

pub fn raw(fds: &[OwnedFd]) -> Vec<RawFd> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}
