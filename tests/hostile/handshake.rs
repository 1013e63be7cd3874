//! The hostile worker's answers to its parent's handshake.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::worker::{answer, text};
use super::*;

/// Answers the handshake as the mode says. Returns whether the worker is to serve honestly then.
pub fn answer_hello(mode: &str, socket: RawFd, fds: &[OwnedFd]) -> bool {
    let Some(case) = mode.strip_prefix("handshake: ") else { return true };
    let file = |fd: &OwnedFd| std::fs::File::from(fd.try_clone().unwrap());
    let len = |fd| file(fd).metadata().unwrap().len() as usize;
    let down = Map::new(fds[0].as_raw_fd(), len(&fds[0]), libc::PROT_READ).unwrap();
    let read_write = libc::PROT_READ | libc::PROT_WRITE;
    let up = Map::new(fds[1].as_raw_fd(), len(&fds[1]), read_write).unwrap();
    let mut header = answering_header(&down.read(0, HEADER));
    let pid = std::process::id().to_le_bytes();
    let mut bytes = answer(0, &pid);
    if let Some(byte) = case.strip_prefix("byte ") {
        let at: usize = byte.parse().unwrap();
        header[at] = !header[at];
    }
    match case {
        "magic" => header[0] = b'X',
        "version" => header[8] = 9,
        "side" => header[12] = 1,
        "channel" => header[16] ^= 0xff,
        "features" => header[32] = 4,
        "length" => header[40..48].copy_from_slice(&4096_u64.to_le_bytes()),
        "capacity" => header[56..64].copy_from_slice(&(1_u64 << 29).to_le_bytes()),
        "offset" => header[48..56].copy_from_slice(&(1_u64 << 40).to_le_bytes()),
        "origin" => header[64] = 1,
        "frames" => header[72..76].fill(0xff),
        "build" => header[240..304].fill(0x1b),
        "reserved" => header[383] = 1,
        "nothing" => header.fill(0),
        "garbage" => bytes = framed(&[0x5a; 64]),
        "empty" => bytes = framed(&[]),
        "short" => bytes = framed(b"SLRG\x02\0\0\0"),
        "other version" => bytes = framed(b"SLRG\x03\0\0\0\0\0\0\0\0\0\0\0"),
        "too long" => bytes = u32::MAX.to_le_bytes().to_vec(),
        "64 KiB and one" => bytes = framed(&vec![0; (64 << 10) + 1]),
        "half" => bytes.truncate(9),
        "refused" => bytes = answer(1, &text(b"I do not like it")),
        "refused without end" => bytes = answer(1, &[0xff; 64]),
        "silence" => bytes.clear(),
        "by drops" => {
            up.write(0, &header);
            for byte in bytes {
                if send(socket, &[byte], &[]).is_err() {
                    std::process::exit(0);
                }
                std::thread::sleep(Duration::from_millis(60));
            }
            return false;
        }
        "descriptors" => {
            up.write(0, &header);
            let _ = send(socket, &bytes, &raw(fds));
            return false;
        }
        "twice" => bytes = [bytes.clone(), bytes].concat(),
        "end" => std::process::exit(0),
        _ => {}
    }
    up.write(0, &header);
    let _ = send(socket, &bytes, &[]);
    if case == "half" {
        std::process::exit(3);
    }
    false
}
