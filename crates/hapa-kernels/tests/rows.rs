//! Rows that are read back out of packed matrices.

mod common;
use common::*;
use hapa_kernels::*;

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_row_comes_back_to_the_last_bit_from_every_kind_that_is_exact() {
    let mut random = Random(11);
    for ty in weight_types() {
        // The last tile is not full.
        let (rows, cols) = sized((37, 512), (18, least_cols(ty)));
        let matrix = Matrix::random(&mut random, ty, rows, cols);
        let mut row = vec![f32::NAN; cols];
        let mut differ = 0;
        for (index, floats) in matrix.floats.chunks_exact(cols).enumerate() {
            matrix.view().dequantize_row(index, &mut row).unwrap();
            differ += usize::from(bits(&row) != bits(floats));
        }
        assert_eq!(differ == 0, matrix.layout.kind().is_exact_for(ty), "{ty}: {differ} of {rows}");
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let matrix = Matrix::random(&mut Random(12), GgmlType::Q8_0, 20, 64);
    let view = matrix.view();
    view.dequantize_row(19, &mut [0.0; 64]).unwrap();
    for (row, len) in [(20, 64), (usize::MAX, 64), (0, 63), (0, 0)] {
        let error = view.dequantize_row(row, &mut vec![0.0; len]).unwrap_err();
        assert_eq!(error, KernelError::PackedRow { row, len, rows: 20, cols: 64 });
    }
}
