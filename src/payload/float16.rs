//! The two 16-bit floating-point formats, as bits in a `u16`.
//!
//! `f16` is IEEE 754 binary16 (1 sign, 5 exponent, 10 fraction bits); `bf16` is the upper half
//! of an `f32` (1, 8, 7). Widening is exact. Narrowing rounds to the nearest value, ties to
//! even; a value that is too large becomes infinity. A NaN stays a NaN and keeps its sign and
//! the upper bits of its fraction, so that each of the 65,536 patterns survives the way to `f32`
//! and back.
//!
//! The functions have no table and no early return, so that loops over them vectorize.

/// Bits of an `f32` without its sign.
const MAGNITUDE: u32 = 0x7fff_ffff;
const F32_INFINITY: u32 = 0x7f80_0000;
const F16_INFINITY: u32 = 0x7c00;
/// `f32` has exponent bias 127, `f16` has 15: the difference, in place.
const REBIAS: u32 = (127 - 15) << 23;
/// 2^-14, the smallest normal `f16`, as `f32` bits.
const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
/// 2^16, where every `f16` has become infinity, as `f32` bits.
const OVERFLOW: u32 = (127 + 16) << 23;

/// Returns the value of the `f16` with these bits. Exact.
#[must_use]
#[inline]
pub fn f16_to_f32(bits: u16) -> f32 {
    const EXPONENT: u32 = F16_INFINITY << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let exponent = magnitude & EXPONENT;
    // A subnormal has no implied one. One is added, and subtracted as a float, which also
    // normalizes.
    let subnormal = f32::from_bits(magnitude + SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL);
    let wide = if exponent == 0 {
        subnormal.to_bits()
    } else if exponent == EXPONENT {
        magnitude + 2 * REBIAS
    } else {
        magnitude + REBIAS
    };
    f32::from_bits(sign | wide)
}

/// Returns the bits of the `f16` nearest to `value`, ties to even. A value of 65,520 or more
/// becomes infinity; a NaN stays one.
///
/// ```
/// use slipring::payload::{f16_to_f32, f32_to_f16};
///
/// assert_eq!(f32_to_f16(1.0), 0x3c00);
/// assert_eq!(f16_to_f32(f32_to_f16(65_504.0)), 65_504.0);
/// assert_eq!(f16_to_f32(f32_to_f16(65_520.0)), f32::INFINITY);
/// ```
#[must_use]
#[inline]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let sign = (bits >> 16) & 0x8000;
    let narrow = if magnitude < SMALLEST_NORMAL {
        // The last bit of a float in [0.5, 1) is 2^-24, and so is that of a subnormal f16: the
        // addition rounds to it.
        (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits())
    } else if magnitude < OVERFLOW {
        // A carry out of the fraction goes into the exponent, as far as infinity.
        (magnitude - REBIAS + 0x0fff + ((magnitude >> 13) & 1)) >> 13
    } else if magnitude <= F32_INFINITY {
        F16_INFINITY
    } else {
        nan(F16_INFINITY, (magnitude >> 13) & 0x03ff, 0x0200)
    };
    low_half(sign | narrow)
}

/// Returns the value of the `bf16` with these bits. Exact.
#[must_use]
#[inline]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns the bits of the `bf16` nearest to `value`, ties to even. A NaN stays one.
///
/// ```
/// use slipring::payload::{bf16_to_f32, f32_to_bf16};
///
/// assert_eq!(f32_to_bf16(1.0), 0x3f80);
/// assert_eq!(bf16_to_f32(f32_to_bf16(3.141)), 3.140625);
/// ```
#[must_use]
#[inline]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let sign = (bits >> 16) & 0x8000;
    let narrow = if magnitude <= F32_INFINITY {
        (magnitude + 0x7fff + ((magnitude >> 16) & 1)) >> 16
    } else {
        nan(F32_INFINITY >> 16, (magnitude >> 16) & 0x7f, 0x40)
    };
    low_half(sign | narrow)
}

/// Returns a NaN with this fraction, or the quiet one if only bits that are lost made it a NaN.
#[inline]
fn nan(infinity: u32, fraction: u32, quiet: u32) -> u32 {
    infinity | if fraction == 0 { quiet } else { fraction }
}

#[inline]
fn low_half(bits: u32) -> u16 {
    #[expect(clippy::as_conversions, reason = "the upper half is zero, and no From says so")]
    let half = (bits & 0xffff) as u16;
    half
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A 16-bit format by the textbook: sign, exponent and fraction to a number.
    #[derive(Clone, Copy)]
    struct Format {
        fraction_bits: u16,
        bias: i32,
        widen: fn(u16) -> f32,
        narrow: fn(f32) -> u16,
    }

    const FORMATS: [Format; 2] = [
        Format { fraction_bits: 10, bias: 15, widen: f16_to_f32, narrow: f32_to_f16 },
        Format { fraction_bits: 7, bias: 127, widen: bf16_to_f32, narrow: f32_to_bf16 },
    ];

    impl Format {
        fn infinity(self) -> u16 {
            0x7fff >> self.fraction_bits << self.fraction_bits
        }

        /// What the bits mean; beyond the largest finite value, what would come next.
        fn value(self, bits: u16) -> f64 {
            let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
            let exponent = i32::from((bits & 0x7fff) >> self.fraction_bits);
            let scale = f64::from(1_u16 << self.fraction_bits);
            let fraction = f64::from(bits & ((1 << self.fraction_bits) - 1)) / scale;
            if exponent == 0 {
                sign * fraction * 2_f64.powi(1 - self.bias)
            } else {
                sign * (1.0 + fraction) * 2_f64.powi(exponent - self.bias)
            }
        }

        fn is_nan(self, bits: u16) -> bool {
            bits & 0x7fff > self.infinity()
        }

        /// The nearest by search among all finite magnitudes, ties to even.
        fn nearest(self, value: f32) -> u16 {
            let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
            let wanted = f64::from(value.abs());
            let (mut low, mut high) = (0, self.infinity());
            if wanted >= self.value(high) {
                return sign | high;
            }
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if self.value(middle) <= wanted { low = middle } else { high = middle }
            }
            let (below, above) = (wanted - self.value(low), self.value(high) - wanted);
            let up = below > above || (below == above && low % 2 == 1);
            sign | if up { high } else { low }
        }
    }

    #[test]
    fn every_16_bit_pattern_widens_to_what_its_fields_mean() {
        for format in FORMATS {
            for bits in 0..=u16::MAX {
                let wide = (format.widen)(bits);
                assert_eq!(wide.is_sign_negative(), bits & 0x8000 != 0, "{bits:#06x}");
                if format.is_nan(bits) {
                    assert!(wide.is_nan(), "{bits:#06x}");
                    let fraction = u32::from(bits & !format.infinity() & 0x7fff);
                    assert_eq!(wide.to_bits() & 0x7f_ffff, fraction << (23 - format.fraction_bits));
                } else if bits & 0x7fff == format.infinity() {
                    assert!(wide.is_infinite(), "{bits:#06x}");
                } else {
                    assert_eq!(f64::from(wide), format.value(bits), "{bits:#06x}");
                }
            }
        }
    }

    #[test]
    fn every_16_bit_pattern_survives_the_way_to_f32_and_back() {
        for format in FORMATS {
            for bits in 0..=u16::MAX {
                assert_eq!((format.narrow)((format.widen)(bits)), bits);
            }
        }
    }

    #[test]
    fn every_midpoint_and_both_its_neighbours_round_to_nearest_even() {
        for format in FORMATS {
            for bits in (0..format.infinity()).flat_map(|bits| [bits, bits | 0x8000]) {
                // Half a step beyond the value: the bit below its last one, as f32.
                let wide = (format.widen)(bits);
                let next = (format.widen)(bits + 1);
                let middle = if next.is_infinite() {
                    f32::from_bits(wide.to_bits() + (1 << (22 - format.fraction_bits)))
                } else {
                    // Exact, though the sum of the largest two bf16 would overflow.
                    wide / 2.0 + next / 2.0
                };
                let around = [middle.to_bits() - 1, middle.to_bits(), middle.to_bits() + 1];
                for value in around.map(f32::from_bits) {
                    let narrow = (format.narrow)(value);
                    assert_eq!(narrow, format.nearest(value), "{value:e} of {bits:#06x}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_large_becomes_infinity_and_what_is_too_small_zero() {
        assert_eq!(f32_to_f16(65_519.996), 0x7bff);
        assert_eq!(f32_to_f16(-65_520.0), 0xfc00);
        assert_eq!(f32_to_f16(f32::MAX), 0x7c00);
        assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
        assert_eq!(f32_to_f16(2_f32.powi(-25)), 0);
        assert_eq!(f32_to_f16(-f32::from_bits(1)), 0x8000);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert_eq!(f32_to_bf16(f32::NEG_INFINITY), 0xff80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x8000)), 0);
    }

    #[test]
    fn a_nan_whose_upper_bits_are_zero_does_not_become_infinity() {
        assert_eq!(f32_to_f16(f32::from_bits(0x7f80_0001)), 0x7e00);
        assert_eq!(f32_to_f16(f32::from_bits(0xff80_1fff)), 0xfe00);
        assert_eq!(f32_to_bf16(f32::from_bits(0x7f80_0001)), 0x7fc0);
        assert_eq!(f32_to_bf16(f32::from_bits(0xff80_ffff)), 0xffc0);
    }

    proptest::proptest! {
        #[test]
        fn any_number_rounds_to_the_nearest_even(bits: u32) {
            let value = f32::from_bits(bits);
            for format in FORMATS {
                let narrow = (format.narrow)(value);
                if value.is_nan() {
                    assert!(format.is_nan(narrow));
                } else {
                    assert_eq!(narrow, format.nearest(value));
                }
            }
        }
    }
}
