//! Fields: what the payloads of the roles are made of. The layout is in the documentation of
//! [`roles`](super).

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::{Payload, Source, SourceRange, invalid, widen, wrong_slot};
use crate::error::{ErrorKind, Result};

/// The length of a field's tag and length, in bytes.
pub(super) const HEADER_LEN: usize = 8;

/// The bit of a tag whose field must not be ignored by a decoder that does not know it.
const REQUIRED: u32 = 1 << 31;

/// Implements [`Payload`] for types with a method `put` that puts their fields.
macro_rules! payload_of_fields {
    ($([$($generics:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($generics)*> $crate::payload::Payload for $type {
            fn encoded_len(&self) -> usize {
                $crate::payload::roles::fields::encoded_len(|fields| self.put(fields))
            }

            fn encode(&self, out: &mut [u8]) -> $crate::error::Result<()> {
                $crate::payload::roles::fields::encode(|fields| self.put(fields), out)
            }
        }
    )+};
}

/// Returns the length of what `put` puts. If it fails, the length is one at which
/// [`encode`] fails, too.
pub(super) fn encoded_len(put: impl FnOnce(&mut FieldWriter<'_>) -> Result<()>) -> usize {
    let mut fields = FieldWriter { len: 0, out: None };
    let _ = put(&mut fields);
    fields.len
}

/// Writes what `put` puts to `out`, which is as long as that.
pub(super) fn encode(
    put: impl FnOnce(&mut FieldWriter<'_>) -> Result<()>,
    out: &mut [u8],
) -> Result<()> {
    let slot = out.len();
    let mut fields = FieldWriter { len: 0, out: Some(out) };
    put(&mut fields)?;
    match fields.out {
        Some([]) => Ok(()),
        _ => Err(wrong_slot(slot, fields.len)),
    }
}

/// Writes fields one after another, or adds up their lengths only.
pub(super) struct FieldWriter<'a> {
    /// Of all fields so far.
    len: usize,
    /// What is left of the slot. `None`: only the length is wanted, or the slot was too short.
    out: Option<&'a mut [u8]>,
}

impl FieldWriter<'_> {
    pub(super) fn bytes(&mut self, tag: u32, value: &[u8]) -> Result<()> {
        self.payload(tag, value)
    }

    /// Puts a payload as the value of a field.
    pub(super) fn payload<P: Payload + ?Sized>(&mut self, tag: u32, value: &P) -> Result<()> {
        let len = value.encoded_len();
        self.len = self.len.saturating_add(HEADER_LEN).saturating_add(len);
        let header = header(tag, len)?;
        let Some(out) = self.out.take() else { return Ok(()) };
        let Some((place, rest)) = out.split_first_chunk_mut() else { return Ok(()) };
        *place = header;
        let Some((place, rest)) = rest.split_at_mut_checked(len) else { return Ok(()) };
        value.encode(place)?;
        self.out = Some(rest);
        Ok(())
    }

    pub(super) fn text(&mut self, tag: u32, value: Option<&str>) -> Result<()> {
        value.map_or(Ok(()), |value| self.bytes(tag, value.as_bytes()))
    }

    pub(super) fn u32(&mut self, tag: u32, value: Option<u32>) -> Result<()> {
        value.map_or(Ok(()), |value| self.bytes(tag, &value.to_le_bytes()))
    }

    pub(super) fn u64(&mut self, tag: u32, value: Option<u64>) -> Result<()> {
        value.map_or(Ok(()), |value| self.bytes(tag, &value.to_le_bytes()))
    }

    /// Puts a number, which must be finite.
    pub(super) fn f32(&mut self, tag: u32, name: &str, value: Option<f32>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        check_finite(name, value)?;
        self.bytes(tag, &value.to_le_bytes())
    }
}

/// Encodes the tag and the length of a field.
pub(super) fn header(tag: u32, len: usize) -> Result<[u8; HEADER_LEN]> {
    let Ok(len) = u32::try_from(len) else {
        return Err(invalid(format!(
            "a field of {len} bytes cannot be encoded: it is limited to {}",
            u32::MAX
        )));
    };
    Ok(zerocopy::transmute!([tag.to_le_bytes(), len.to_le_bytes()]))
}

fn check_finite(name: &str, value: f32) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(invalid(format!("`{name}` is {value}"))) }
}

/// One field of a source. Its header was copied and checked; its value was not read.
pub(super) struct Field<'a, S: ?Sized> {
    pub(super) tag: u32,
    source: &'a S,
    start: usize,
    len: usize,
}

/// Calls `take` for each field of a source. `what` names the payload in errors.
pub(super) fn for_each_field<'a, S: Source + ?Sized>(
    source: &'a S,
    what: &str,
    mut take: impl FnMut(Field<'a, S>) -> Result<()>,
) -> Result<()> {
    let total = source.len();
    let mut at = 0;
    while at < total {
        if total - at < HEADER_LEN {
            let left = total - at;
            return Err(invalid(format!("{what} ends in a field's header: {left} bytes at {at}")));
        }
        let mut header = [[0; 4]; 2];
        source.read_at(at, header.as_mut_bytes())?;
        let [tag, len] = header.map(u32::from_le_bytes);
        let (len, start) = (widen(len), at + HEADER_LEN);
        let left = total - start;
        if len > left {
            return Err(invalid(format!(
                "field {tag} of {what} has {len} bytes, but {left} are left"
            )));
        }
        at = start + len;
        let field = Field { tag, source, start, len };
        take(field).map_err(|error| match error.kind() {
            // The names of fields are those of one payload.
            ErrorKind::InvalidPayload => invalid(format!("{what}: {error}")),
            _ => error,
        })?;
    }
    Ok(())
}

impl<'a, S: Source + ?Sized> Field<'a, S> {
    /// Copies the value, which has exactly `N` bytes.
    fn array<const N: usize>(&self, name: &str) -> Result<[u8; N]> {
        let mut value = [0; N];
        if self.len != N {
            return Err(invalid(format!("`{name}` has {} bytes, not {N}", self.len)));
        }
        self.source.read_at(self.start, &mut value)?;
        Ok(value)
    }

    pub(super) fn u8(&self, name: &str) -> Result<u8> {
        self.array::<1>(name).map(|[value]| value)
    }

    pub(super) fn u32(&self, name: &str) -> Result<u32> {
        self.array(name).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&self, name: &str) -> Result<u64> {
        self.array(name).map(u64::from_le_bytes)
    }

    /// Copies a number, which must be finite.
    pub(super) fn f32(&self, name: &str) -> Result<f32> {
        let value = self.array(name).map(f32::from_le_bytes)?;
        check_finite(name, value).map(|()| value)
    }

    /// Copies text into memory that is no longer than the source.
    pub(super) fn text(&self, name: &str) -> Result<String> {
        String::from_utf8(self.elements(name)?).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            invalid(format!("`{name}` is not UTF-8 from byte {at} on"))
        })
    }

    /// Copies a sequence of values without gaps, into memory that is no longer than the source.
    pub(super) fn elements<E>(&self, name: &str) -> Result<Vec<E>>
    where
        E: FromBytes + IntoBytes + Immutable + Clone,
    {
        if !self.len.is_multiple_of(size_of::<E>()) {
            let (len, size) = (self.len, size_of::<E>());
            return Err(invalid(format!("`{name}` has {len} bytes, no multiple of {size}")));
        }
        let mut values = vec![E::new_zeroed(); self.len / size_of::<E>()];
        self.source.read_at(self.start, values.as_mut_slice().as_mut_bytes())?;
        Ok(values)
    }

    /// Returns the value where it lies.
    pub(super) fn value(&self) -> Result<SourceRange<&'a S>> {
        SourceRange::new(self.source, self.start..self.start + self.len)
    }

    /// Returns where the value lies in the source.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len
    }

    /// Reads a value that a payload has once at most.
    pub(super) fn once<T>(
        &self,
        name: &str,
        place: &mut Option<T>,
        read: impl FnOnce(&Self, &str) -> Result<T>,
    ) -> Result<()> {
        if place.is_some() {
            return Err(invalid(format!("`{name}` is there twice")));
        }
        *place = Some(read(self, name)?);
        Ok(())
    }

    /// Ignores a field that this version does not know, unless its tag forbids that.
    pub(super) fn ignore(&self) -> Result<()> {
        if self.tag & REQUIRED == 0 {
            return Ok(());
        }
        Err(invalid(format!("field {:#x} is unknown, and must not be ignored", self.tag)))
    }
}
