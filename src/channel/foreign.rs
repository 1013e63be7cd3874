//! Bytes that did not come by a ring, with their owner.

#[cfg(feature = "bytes")]
use std::any::Any;
use std::fmt;

/// Bytes with their owner: `Bytes` as they are, without an allocation.
#[cfg(feature = "bytes")]
pub(crate) struct Foreign(bytes::Bytes);

#[cfg(not(feature = "bytes"))]
pub(crate) struct Foreign(Box<dyn Owner>);

#[cfg(feature = "bytes")]
impl Foreign {
    pub(super) fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let mut owner = Some(owner);
        let any: &mut dyn Any = &mut owner;
        let bytes = any.downcast_mut::<Option<bytes::Bytes>>().and_then(Option::take);
        let other = || owner.map(bytes::Bytes::from_owner).unwrap_or_default();
        Self(bytes.unwrap_or_else(other))
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> bytes::Bytes {
        self.0
    }
}

#[cfg(not(feature = "bytes"))]
impl Foreign {
    pub(super) fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self(Box::new(owner))
    }

    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[cfg(not(feature = "bytes"))]
trait Owner: Send + Sync {
    fn bytes(&self) -> &[u8];
}

#[cfg(not(feature = "bytes"))]
impl<T: AsRef<[u8]> + Send + Sync> Owner for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }
}

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}
