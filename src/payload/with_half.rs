//! Elements of the `half` crate: `Matrix::new(rows, cols, &halves)` and the like.

elements! { half::f16: F16, half::bf16: BF16 }

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::tests::{assert_invalid, encoded};
    use super::super::{
        ElementType, Matrix, MatrixReader, MatrixShape, MatrixWriter, bf16_to_f32, f16_to_f32,
        f32_to_bf16, f32_to_f16,
    };

    #[test]
    fn half_floats_come_out_as_they_went_in() {
        let halves = [1.5, -0.0, 65_504.0, 6e-8].map(f16::from_f32);
        let matrix = Matrix::new(2, 2, &halves).unwrap();
        assert_eq!(matrix.as_slice::<f16>(), Some(&halves[..]));
        let bytes = encoded(&matrix);
        let reader = MatrixReader::new(&bytes).unwrap();
        let mut row = [f16::ZERO; 2];
        reader.copy_row_exact(1, &mut row).unwrap();
        assert_eq!(row, halves[2..]);
        let mut wrong = [bf16::ZERO; 2];
        assert_invalid(reader.copy_row_exact(1, &mut wrong), "f16 elements, not bf16");

        let brains = [1.5, -0.0, 3e38].map(bf16::from_f32);
        let shape = MatrixShape::new(1, 3, ElementType::BF16).unwrap();
        let mut slot = vec![0; shape.encoded_len()];
        let mut writer = MatrixWriter::new(&mut slot, shape).unwrap();
        writer.row_exact_mut(0).unwrap().copy_from_slice(&brains);
        let mut all = [bf16::ZERO; 3];
        MatrixReader::new(&slot).unwrap().copy_to_exact(&mut all).unwrap();
        assert_eq!(all, brains);
    }

    #[test]
    fn both_libraries_convert_every_number_alike() {
        for bits in 0..=u16::MAX {
            let (half, brain) = (f16::from_bits(bits), bf16::from_bits(bits));
            if !half.is_nan() {
                assert_eq!(half.to_f32().to_bits(), f16_to_f32(bits).to_bits());
            }
            if !brain.is_nan() {
                assert_eq!(brain.to_f32().to_bits(), bf16_to_f32(bits).to_bits());
            }
        }
        for bits in (0..=u32::MAX).step_by(65_519) {
            let value = f32::from_bits(bits);
            if !value.is_nan() {
                assert_eq!(f16::from_f32(value).to_bits(), f32_to_f16(value), "{value:e}");
                assert_eq!(bf16::from_f32(value).to_bits(), f32_to_bf16(value), "{value:e}");
            }
        }
    }
}
