//! What a matrix is made of.

use std::fmt;

/// The type of the elements of a matrix.
///
/// ```
/// use slipring::payload::ElementType;
///
/// assert_eq!(ElementType::BF16.size(), 2);
/// assert_eq!(ElementType::from_code(1), Some(ElementType::F32));
/// assert_eq!(ElementType::I8.to_string(), "i8");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum ElementType {
    /// IEEE 754 binary32, 4 bytes.
    F32,
    /// IEEE 754 binary16, 2 bytes; see [`f16_to_f32`](super::f16_to_f32).
    F16,
    /// The upper half of an `f32`, 2 bytes; see [`bf16_to_f32`](super::bf16_to_f32).
    BF16,
    /// Signed integer, 1 byte.
    I8,
    /// Unsigned integer, 1 byte.
    U8,
}

impl ElementType {
    pub(super) const ALL: [Self; 5] = [Self::F32, Self::F16, Self::BF16, Self::I8, Self::U8];

    /// Returns the size of one element, in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// Returns the number that stands for this type in an encoded matrix. Never 0.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::F32 => 1,
            Self::F16 => 2,
            Self::BF16 => 3,
            Self::I8 => 4,
            Self::U8 => 5,
        }
    }

    /// Returns the type with this [`code`](Self::code), if there is one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|element| element.code() == code)
    }

    /// Returns the name: `f32`, `f16`, `bf16`, `i8` or `u8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I8 => "i8",
            Self::U8 => "u8",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that elements of a matrix have in memory: `f32`, `i8` and `u8`, and with the
/// feature `half` also `half::f16` and `half::bf16`.
///
/// No other type can implement this trait.
///
/// ```
/// use slipring::payload::{Element, ElementType};
///
/// assert_eq!(f32::TYPE, ElementType::F32);
/// ```
pub trait Element: Copy + Default + Send + Sync + 'static + sealed::Sealed {
    /// The type in the header of a matrix.
    const TYPE: ElementType;
}

pub(super) mod sealed {
    use zerocopy::{FromBytes, Immutable, IntoBytes};

    /// An element lies in memory as in an encoded matrix, and any bytes are an element.
    pub trait Sealed: FromBytes + IntoBytes + Immutable {}
}

/// Implements [`Element`].
macro_rules! elements {
    ($($type:ty: $name:ident),+) => {$(
        impl super::element::sealed::Sealed for $type {}

        impl super::element::Element for $type {
            const TYPE: super::element::ElementType = super::element::ElementType::$name;
        }

        const _: () = assert!(size_of::<$type>() == super::element::ElementType::$name.size());
    )+};
}

elements! { f32: F32, i8: I8, u8: U8 }
