//! Small products of float matrices, blocked for registers.

use crate::lanes::{LANES, Lanes};

/// Rows of floats, `stride` apart, `depth` of each used.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) depth: usize,
}

/// `c = a * b`, or `c += a * b`: `b` is (floats, stride, vectors of a row), `c` is (floats, stride,
/// rows).
///
/// Each element is one chain of multiply-adds over the depth, whatever the blocking.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes>(
    a: Matrix<'_>,
    b: (&[f32], usize, usize),
    c: (&mut [f32], usize, usize),
    add: bool,
) {
    let (b, b_stride, vectors) = b;
    let (c, c_stride, rows) = c;
    assert!(
        rows == 0 || a.depth == 0 || vectors == 0 || {
            a.data.len() >= (rows - 1) * a.stride + a.depth
                && b.len() >= (a.depth - 1) * b_stride + vectors * LANES
                && c.len() >= (rows - 1) * c_stride + vectors * LANES
        }
    );
    let mut column = 0;
    while column < vectors {
        let width = match vectors - column {
            4.. if L::WIDE => 4,
            2.. => 2,
            _ => 1,
        };
        let at = column * LANES;
        let mut row = 0;
        while row < rows {
            let height = (rows - row).min(if L::WIDE { 4 } else { 2 });
            // SAFETY: rows, columns and depth are within the slices, as asserted above; features
            // are passed on.
            unsafe {
                let strip = Strip {
                    a: a.data.as_ptr().add(row * a.stride),
                    a_stride: a.stride,
                    depth: a.depth,
                    b: b.as_ptr().add(at),
                    b_stride,
                    c: c.as_mut_ptr().add(row * c_stride + at),
                    c_stride,
                    add,
                };
                match (height, width) {
                    (4, 4) => strip.run::<L, 4, 4>(),
                    (3, 4) => strip.run::<L, 3, 4>(),
                    (2, 4) => strip.run::<L, 2, 4>(),
                    (1, 4) => strip.run::<L, 1, 4>(),
                    (4, 2) => strip.run::<L, 4, 2>(),
                    (3, 2) => strip.run::<L, 3, 2>(),
                    (2, 2) => strip.run::<L, 2, 2>(),
                    (1, 2) => strip.run::<L, 1, 2>(),
                    (4, _) => strip.run::<L, 4, 1>(),
                    (3, _) => strip.run::<L, 3, 1>(),
                    (2, _) => strip.run::<L, 2, 1>(),
                    _ => strip.run::<L, 1, 1>(),
                }
            }
            row += height;
        }
        column += width;
    }
}

/// A part of [`product`] whose sums fit the registers.
#[derive(Clone, Copy)]
struct Strip {
    a: *const f32,
    a_stride: usize,
    depth: usize,
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    c_stride: usize,
    add: bool,
}

impl Strip {
    /// # Safety
    /// `R` rows of `a` and `c` and `N` vectors of `b` and `c` must be there, and the features of
    /// `L`.
    #[inline(always)]
    unsafe fn run<L: Lanes, const R: usize, const N: usize>(self) {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[L::splat(0.0); N]; R];
            if self.add {
                for (r, row) in sums.iter_mut().enumerate() {
                    for (n, sum) in row.iter_mut().enumerate() {
                        *sum = L::load(&*self.c.add(r * self.c_stride + n * LANES).cast());
                    }
                }
            }
            for k in 0..self.depth {
                let b = self.b.add(k * self.b_stride);
                let mut columns = [L::splat(0.0); N];
                for (n, column) in columns.iter_mut().enumerate() {
                    *column = L::load(&*b.add(n * LANES).cast());
                }
                for (r, row) in sums.iter_mut().enumerate() {
                    let x = L::splat(*self.a.add(r * self.a_stride + k));
                    for (sum, column) in row.iter_mut().zip(columns) {
                        *sum = column.mul_add(x, *sum);
                    }
                }
            }
            for (r, row) in sums.iter().enumerate() {
                for (n, sum) in row.iter().enumerate() {
                    sum.store(&mut *self.c.add(r * self.c_stride + n * LANES).cast());
                }
            }
        }
    }
}
