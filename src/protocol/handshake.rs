//! The two messages of the handshake, which travel over the bootstrap socket: the parent's
//! [`WorkerSetup`], with descriptors, and the worker's [`AttachReply`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{CopyRoutine, Tuning, WaitStrategy};
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::codec::{FieldReader, FieldWriter, cut};
use crate::protocol::role::{MAX_BLOB, MAX_FDS, RoleConfig, check_fd_name};
use crate::shm::layout::as_u64;

/// Version of these two messages.
const VERSION: u32 = 2;
const MAGIC: u32 = u32::from_le_bytes(*b"SLRG");
/// The most bytes of a message: few enough that it always fits the socket's buffer.
pub(crate) const MAX_LEN: usize = 64 << 10;
/// The most descriptors of a message: two regions, two wake descriptors, the blob, and those
/// that the host passes.
pub(crate) const MAX_MESSAGE_FDS: usize = 5 + MAX_FDS;

/// The most bytes of an [`AttachReply`]'s reason. A longer one is cut.
const MAX_REASON: usize = 4 << 10;

/// The limits that the worker applies to itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub(crate) allow_core_dumps: bool,
    pub(crate) nice: Option<i32>,
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Vec<u32>,
}

/// The parent's message. It comes with these descriptors, in this order: the regions down and
/// up; the worker's wake descriptors, its own first, if `is_pollable`; the blob, if its length
/// is not zero; one for each of `fd_names`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerSetup {
    pub(crate) parent: u32,
    pub(crate) tuning: Tuning,
    pub(crate) limits: Limits,
    /// Without its blob and its descriptors, which are not part of the message.
    pub(crate) role: RoleConfig,
    pub(crate) is_pollable: bool,
    pub(crate) blob_len: u64,
    pub(crate) fd_names: Vec<String>,
    /// What the parent's rings have found of copies: see [`copy_to_number`].
    pub(crate) found_copies: u32,
}

impl WorkerSetup {
    /// Returns the number of descriptors that come with the message.
    pub(crate) fn fd_count(&self) -> usize {
        2 + 2 * usize::from(self.is_pollable) + usize::from(self.blob_len > 0) + self.fd_names.len()
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = FieldWriter::default();
        writer.u32(MAGIC).u32(VERSION).u32(self.parent);
        let (code, spin) = wait_to_numbers(self.tuning.wait);
        writer.u32(code).u64(spin);
        let limits = &self.limits;
        writer.u32(u32::from(limits.allow_core_dumps));
        writer.u32(u32::from(limits.nice.is_some()));
        writer.u32(limits.nice.unwrap_or(0).cast_unsigned());
        writer.u64(limits.memory.unwrap_or(u64::MAX));
        writer.u32(u32::try_from(limits.cpus.len()).unwrap_or(u32::MAX));
        limits.cpus.iter().for_each(|cpu| {
            writer.u32(*cpu);
        });
        let role = &self.role;
        writer.bytes(role.role.as_bytes());
        writer.bytes(role.model.as_ref().map_or(&[][..], |m| m.as_os_str().as_bytes()));
        writer.bytes(role.mode.as_deref().unwrap_or_default().as_bytes());
        writer.u32(u32::try_from(role.extras.len()).unwrap_or(u32::MAX));
        for (key, value) in &role.extras {
            writer.bytes(key.as_bytes()).bytes(value.as_bytes());
        }
        writer.u32(u32::from(self.is_pollable)).u64(self.blob_len);
        writer.u32(u32::try_from(self.fd_names.len()).unwrap_or(u32::MAX));
        for name in &self.fd_names {
            writer.bytes(name.as_bytes());
        }
        writer.u32(copy_to_number(self.tuning.copy, self.found_copies));
        if writer.len() > MAX_LEN {
            return Err(Error::invalid_config(format!(
                "role configuration of {} bytes, at most {MAX_LEN}; a blob can be longer",
                writer.len()
            )));
        }
        Ok(writer.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FieldReader::new(bytes);
        check_version(&mut reader)?;
        let parent = reader.u32()?;
        let wait = wait_from_numbers(reader.u32()?, reader.u64()?);
        let allow_core_dumps = reader.u32()? != 0;
        let (has_nice, nice) = (reader.u32()? != 0, reader.u32()?.cast_signed());
        let memory = reader.u64()?;
        let cpus = reader.list(FieldReader::u32)?;
        let limits = Limits {
            allow_core_dumps,
            nice: has_nice.then_some(nice),
            memory: (memory != u64::MAX).then_some(memory),
            cpus,
        };
        let role = reader.text()?;
        let model = reader.bytes()?;
        let mode = reader.text()?;
        let extras = reader.list(|reader| Ok((reader.text()?, reader.text()?)))?;
        let (is_pollable, blob_len) = (reader.u32()? != 0, reader.u64()?);
        if blob_len > as_u64(MAX_BLOB) {
            return Err(garbage(format!("blob of {blob_len} bytes, at most {MAX_BLOB}")));
        }
        let mut fd_names: Vec<String> = Vec::new();
        for _ in 0..reader.u32()? {
            let name = reader.text()?;
            check_fd_name(&name, fd_names.iter().map(String::as_str))
                .map_err(|e| garbage(e.to_string()))?;
            fd_names.push(name);
        }
        let (copy, found_copies) = copy_from_number(reader.u32()?);
        let tuning = Tuning { wait, copy };
        let model = (!model.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(model)));
        let mode = (!mode.is_empty()).then_some(mode);
        let role = RoleConfig { role, model, mode, extras, ..RoleConfig::default() };
        Ok(Self { parent, tuning, limits, role, is_pollable, blob_len, fd_names, found_copies })
    }
}

/// The worker's message: whether it has attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttachReply {
    /// It has attached; its process id in its own pid namespace.
    Attached(u32),
    /// It could not attach, because the two sides do not agree; the reason.
    Mismatch(String),
    /// It could not attach for another reason.
    Failed(String),
}

impl AttachReply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = FieldWriter::default();
        writer.u32(MAGIC).u32(VERSION);
        match self {
            Self::Attached(pid) => writer.u32(0).u32(*pid),
            Self::Mismatch(why) => writer.u32(1).bytes(cut(why, MAX_REASON).as_bytes()),
            Self::Failed(why) => writer.u32(2).bytes(cut(why, MAX_REASON).as_bytes()),
        };
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FieldReader::new(bytes);
        check_version(&mut reader)?;
        match reader.u32()? {
            0 => reader.u32().map(Self::Attached),
            1 => reader.text().map(Self::Mismatch),
            _ => reader.text().map(Self::Failed),
        }
    }
}

/// A strategy as a code and as nanoseconds, which also a named channel's parent tells its worker.
pub(crate) fn wait_to_numbers(wait: WaitStrategy) -> (u32, u64) {
    match wait {
        WaitStrategy::Spin => (0, 0),
        WaitStrategy::SpinThenPark(spin) => (1, u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX)),
        WaitStrategy::Park => (2, 0),
    }
}

/// The strategy of which [`wait_to_numbers`] has made these.
pub(crate) fn wait_from_numbers(code: u32, spin: u64) -> WaitStrategy {
    match code {
        0 => WaitStrategy::Spin,
        1 => WaitStrategy::SpinThenPark(Duration::from_nanos(spin)),
        _ => WaitStrategy::Park,
    }
}

/// The routine that the host has chosen, zero if none, and above it what the parent's rings have
/// found for their classes, as [`CopyChoices::to_bits`](crate::config::CopyChoices::to_bits) tells
/// it.
pub(crate) fn copy_to_number(copy: Option<CopyRoutine>, found: u32) -> u32 {
    copy.map_or(0, CopyRoutine::code) | (found << 8)
}

/// What [`copy_to_number`] has made this of.
pub(crate) fn copy_from_number(number: u32) -> (Option<CopyRoutine>, u32) {
    (CopyRoutine::from_code(number & 0xff), number >> 8)
}

fn garbage(message: String) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

fn check_version(reader: &mut FieldReader<'_>) -> Result<()> {
    let (magic, version) = (reader.u32()?, reader.u32()?);
    if magic != MAGIC {
        let message = format!("handshake starts with {magic:#010x}, expected {MAGIC:#010x}");
        return Err(Error::new(ErrorKind::Handshake, message));
    }
    if version != VERSION {
        return Err(Error::mismatch(format!(
            "handshake version {version}, this side speaks {VERSION}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> WorkerSetup {
        WorkerSetup {
            parent: 5,
            tuning: Tuning {
                wait: WaitStrategy::SpinThenPark(Duration::from_micros(7)),
                copy: Some(CopyRoutine::PastCaches),
            },
            limits: Limits {
                nice: Some(-3),
                memory: Some(9),
                cpus: vec![0, 2],
                ..Limits::default()
            },
            role: RoleConfig {
                role: "embed".into(),
                model: Some("/models/a".into()),
                mode: None,
                extras: vec![("dim".into(), "384".into())],
                ..RoleConfig::default()
            },
            is_pollable: true,
            blob_len: 1 << 20,
            fd_names: vec!["in".into(), "out".into()],
            found_copies: 0x312,
        }
    }

    #[test]
    fn both_messages_read_back() {
        assert_eq!(WorkerSetup::decode(&setup().encode().unwrap()).unwrap(), setup());
        let (mismatch, failed) =
            (AttachReply::Mismatch("no".into()), AttachReply::Failed("no".into()));
        for reply in [AttachReply::Attached(7), mismatch, failed] {
            assert_eq!(AttachReply::decode(&reply.encode()).unwrap(), reply);
        }
        assert_eq!(setup().role.extra("dim"), Some("384"));
    }

    #[test]
    fn cut_and_foreign_messages_are_refused() {
        let bytes = setup().encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(WorkerSetup::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut other = bytes.clone();
        other[4] = 9;
        let error = WorkerSetup::decode(&other).unwrap_err();
        assert!(error.to_string().contains("version 9, this side speaks 2"), "{error}");
        assert_eq!(
            AttachReply::decode(b"GET / HTTP/1.1").unwrap_err().kind(),
            ErrorKind::Handshake
        );
    }

    #[test]
    fn descriptors_and_blobs_that_no_parent_sends_are_refused() {
        assert_eq!(setup().fd_count(), 7);
        for (blob_len, names) in [(1 << 40, &["a"][..]), (0, &["a", "a"]), (0, &[""])] {
            let fd_names = names.iter().map(ToString::to_string).collect();
            let bytes = WorkerSetup { blob_len, fd_names, ..setup() }.encode().unwrap();
            assert_eq!(WorkerSetup::decode(&bytes).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }

    #[test]
    fn a_reason_of_any_length_fits_an_answer() {
        let long = AttachReply::Failed("\u{1F980}".repeat(MAX_LEN)).encode();
        assert!(long.len() <= MAX_LEN);
        assert_eq!(
            AttachReply::decode(&long).unwrap(),
            AttachReply::Failed("\u{1F980}".repeat(1024))
        );
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        let mut big = setup();
        big.role.extras.push(("x".into(), "y".repeat(MAX_LEN)));
        assert_eq!(big.encode().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
