//! The two messages of the handshake, which travel over the bootstrap socket: what
//! the worker is to be, and whether it could attach.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::WaitStrategy;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::codec::{Reader, Writer, cut};

/// Version of these two messages.
const VERSION: u32 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"SLRG");
/// The longest message, so that it always fits the socket's buffer.
pub(crate) const MAX_LEN: usize = 64 << 10;

/// The longest reason of an answer; what is longer is cut.
const MAX_REASON: usize = 4 << 10;

/// What a worker is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RoleConfig {
    /// What the worker is for: `embed`, `chat`; letters, digits, `_`, `-` and `.`.
    pub role: String,
    /// The model to load.
    pub model: Option<PathBuf>,
    /// How to run it.
    pub mode: Option<String>,
    /// Anything else, in the order given.
    pub extras: Vec<(String, String)>,
}

impl RoleConfig {
    /// The value of an extra.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&str> {
        self.extras.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What the worker does to itself before it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Limits {
    pub(crate) allow_core_dumps: bool,
    pub(crate) nice: Option<i32>,
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Vec<u32>,
}

/// The parent's message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) parent: u32,
    pub(crate) wait: WaitStrategy,
    pub(crate) limits: Limits,
    pub(crate) role: RoleConfig,
}

impl Hello {
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u32(MAGIC).u32(VERSION).u32(self.parent);
        let (code, spin) = match self.wait {
            WaitStrategy::Spin => (0, Duration::ZERO),
            WaitStrategy::SpinThenPark(spin) => (1, spin),
            WaitStrategy::Park => (2, Duration::ZERO),
        };
        writer.u32(code).u64(u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX));
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
        if writer.len() > MAX_LEN {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("role configuration of {} bytes, at most {MAX_LEN}", writer.len()),
            ));
        }
        Ok(writer.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader)?;
        let parent = reader.u32()?;
        let (code, spin) = (reader.u32()?, Duration::from_nanos(reader.u64()?));
        let wait = match code {
            0 => WaitStrategy::Spin,
            1 => WaitStrategy::SpinThenPark(spin),
            _ => WaitStrategy::Park,
        };
        let allow_core_dumps = reader.u32()? != 0;
        let (has_nice, nice) = (reader.u32()? != 0, reader.u32()?.cast_signed());
        let memory = reader.u64()?;
        let mut cpus = Vec::new();
        for _ in 0..reader.u32()? {
            cpus.push(reader.u32()?);
        }
        let limits = Limits {
            allow_core_dumps,
            nice: has_nice.then_some(nice),
            memory: (memory != u64::MAX).then_some(memory),
            cpus,
        };
        let role = reader.text()?;
        let model = reader.bytes()?;
        let mode = reader.text()?;
        let mut extras = Vec::new();
        for _ in 0..reader.u32()? {
            extras.push((reader.text()?, reader.text()?));
        }
        let model = (!model.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(model)));
        let mode = (!mode.is_empty()).then_some(mode);
        Ok(Self { parent, wait, limits, role: RoleConfig { role, model, mode, extras } })
    }
}

/// The worker's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It attached; its pid as it sees it.
    Attached(u32),
    /// It could not, and why: the two sides do not agree.
    Mismatch(String),
    /// It could not, and why: anything else.
    Failed(String),
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u32(MAGIC).u32(VERSION);
        match self {
            Self::Attached(pid) => writer.u32(0).u32(*pid),
            Self::Mismatch(why) => writer.u32(1).bytes(cut(why, MAX_REASON).as_bytes()),
            Self::Failed(why) => writer.u32(2).bytes(cut(why, MAX_REASON).as_bytes()),
        };
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        check_version(&mut reader)?;
        match reader.u32()? {
            0 => reader.u32().map(Self::Attached),
            1 => reader.text().map(Self::Mismatch),
            _ => reader.text().map(Self::Failed),
        }
    }
}

fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    let (magic, version) = (reader.u32()?, reader.u32()?);
    if magic != MAGIC {
        let message = format!("handshake starts with {magic:#010x}, expected {MAGIC:#010x}");
        return Err(Error::new(ErrorKind::Handshake, message));
    }
    if version != VERSION {
        let message = format!("handshake version {version}, this side speaks {VERSION}");
        return Err(Error::new(ErrorKind::Mismatch, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            parent: 5,
            wait: WaitStrategy::SpinThenPark(Duration::from_micros(7)),
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
            },
        }
    }

    #[test]
    fn both_messages_read_back() {
        assert_eq!(Hello::decode(&hello().encode().unwrap()).unwrap(), hello());
        let (mismatch, failed) = (Answer::Mismatch("no".into()), Answer::Failed("no".into()));
        for answer in [Answer::Attached(7), mismatch, failed] {
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
        assert_eq!(hello().role.extra("dim"), Some("384"));
    }

    #[test]
    fn cut_and_foreign_messages_are_refused() {
        let bytes = hello().encode().unwrap();
        for cut in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut other = bytes.clone();
        other[4] = 9;
        let error = Hello::decode(&other).unwrap_err();
        assert!(error.to_string().contains("version 9, this side speaks 1"), "{error}");
        assert_eq!(Answer::decode(b"GET / HTTP/1.1").unwrap_err().kind(), ErrorKind::Handshake);
    }

    #[test]
    fn a_reason_of_any_length_fits_an_answer() {
        let long = Answer::Failed("\u{1F980}".repeat(MAX_LEN)).encode();
        assert!(long.len() <= MAX_LEN);
        assert_eq!(Answer::decode(&long).unwrap(), Answer::Failed("\u{1F980}".repeat(1024)));
    }

    #[test]
    fn a_configuration_that_does_not_fit_is_refused() {
        let mut big = hello();
        big.role.extras.push(("x".into(), "y".repeat(MAX_LEN)));
        assert_eq!(big.encode().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
}
