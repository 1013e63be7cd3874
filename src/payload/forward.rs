//! Payloads and sources that are those of the value inside them.

use std::borrow::Cow;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use super::{Payload, Source};
use crate::error::Result;

/// Implements [`Payload`] for a type by what one of its methods returns.
macro_rules! forward_payload {
    ($([$($generics:tt)*] $type:ty: $inner:ident),+ $(,)?) => {$(
        impl<$($generics)*> Payload for $type {
            #[inline]
            fn encoded_len(&self) -> usize {
                self.$inner().encoded_len()
            }

            #[inline]
            fn encode(&self, out: &mut [u8]) -> Result<()> {
                self.$inner().encode(out)
            }

            #[inline]
            fn as_parts(&self) -> Option<[&[u8]; 3]> {
                self.$inner().as_parts()
            }
        }
    )+};
}

/// As above, for [`Source`].
macro_rules! forward_source {
    ($([$($generics:tt)*] $type:ty: $inner:ident),+ $(,)?) => {$(
        impl<$($generics)*> Source for $type {
            #[inline]
            fn len(&self) -> usize {
                Source::len(self.$inner())
            }

            #[inline]
            fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
                self.$inner().read_at(offset, out)
            }
        }
    )+};
}

forward_payload! {
    [] str: as_bytes,
    [] String: as_bytes,
    [] Vec<u8>: as_slice,
    [const N: usize] [u8; N]: as_slice,
    [T: Payload + ?Sized] &T: deref,
    [T: Payload + ?Sized] &mut T: deref,
    [T: Payload + ?Sized] Box<T>: deref,
    [T: Payload + ?Sized] Rc<T>: deref,
    [T: Payload + ?Sized] Arc<T>: deref,
    [T: Payload + ToOwned + ?Sized] Cow<'_, T>: deref,
}

forward_source! {
    [] Vec<u8>: as_slice,
    [const N: usize] [u8; N]: as_slice,
    [T: Source + ?Sized] &T: deref,
    [T: Source + ?Sized] &mut T: deref,
    [T: Source + ?Sized] Box<T>: deref,
    [T: Source + ?Sized] Rc<T>: deref,
    [T: Source + ?Sized] Arc<T>: deref,
    [T: Source + ToOwned + ?Sized] Cow<'_, T>: deref,
}
