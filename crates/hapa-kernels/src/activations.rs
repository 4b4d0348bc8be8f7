//! Activations as the matmul reads them: bytes with a scale for each 32 columns, or floats.

use crate::pack::BLOCK;
use crate::shared::SharedMut;

/// Which forms an [`Activations`] keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivationForms {
    /// Bytes with scales, for quantised weights. Columns must then be a multiple of 32.
    pub quantised: bool,
    /// Floats, for [dense](crate::PackedKind::is_dense) weights.
    pub floats: bool,
}

/// Scale and sums of 32 columns of one row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub(crate) struct BlockMeta {
    /// A byte times this is the activation.
    pub(crate) scale: f32,
    /// `scale` times the sum of the bytes: what a weight minimum is multiplied with.
    pub(crate) scaled_sum: f32,
    /// Minus the sum of the bytes: what a weight zero point is multiplied with.
    pub(crate) neg_sum: i32,
    /// Minus the sum of the first sixteen bytes.
    pub(crate) neg_low: i32,
}

/// Rows of activations, quantised once and read by any number of [`crate::Kernels::matmul`] calls.
///
/// Rows are kept in *panels*, block of columns by block of columns, so that a matmul that holds 32
/// columns of weights in registers reads them in one run. Buffers are reused: after the largest
/// batch was seen nothing is allocated.
#[derive(Debug)]
pub struct Activations {
    forms: ActivationForms,
    rows: usize,
    cols: usize,
    /// Whether batches of [`TILED_ROWS`] and more are cut into panels of [`TILE_PANEL_ROWS`].
    tiled: bool,
    panel_rows: usize,
    /// `[panel][block][row][32]`.
    pub(crate) quants: Vec<i8>,
    /// `[panel][block][row]`.
    pub(crate) meta: Vec<BlockMeta>,
    /// `[row][cols]`.
    pub(crate) floats: Vec<f32>,
}

/// Most rows of a panel: their sums for two tiles take 16 KB of the first-level cache.
const PANEL_ROWS: usize = 128;

/// Rows of the panels that AMX multiplies: those of its tiles.
pub(crate) const TILE_PANEL_ROWS: usize = 16;

/// Batches from which on AMX is faster than the byte dot product.
const TILED_ROWS: usize = 32;

/// Bytes of activations that a core keeps in its second-level cache while weights stream past.
const PANEL_BYTES: usize = 512 << 10;

/// The same on machines with AMX, whose second-level caches are larger.
const TILED_BYTES: usize = 1 << 20;

/// Consecutive rows of an [`Activations`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// Row of the batch that the panel starts with.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// `[block][row][32]`.
    pub(crate) quants: &'a [i8],
    /// `[block][row]`.
    pub(crate) meta: &'a [BlockMeta],
    /// `[row][cols]`.
    pub(crate) floats: &'a [f32],
}

impl Activations {
    /// An empty buffer that keeps `forms`.
    pub const fn new(forms: ActivationForms) -> Self {
        Self {
            forms,
            rows: 0,
            cols: 0,
            tiled: false,
            panel_rows: 1,
            quants: Vec::new(),
            meta: Vec::new(),
            floats: Vec::new(),
        }
    }

    /// Cuts larger batches into panels for AMX.
    pub(crate) const fn tiled(mut self) -> Self {
        self.tiled = true;
        self
    }

    /// Rows held.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a row.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// The forms that are kept.
    pub const fn forms(&self) -> ActivationForms {
        self.forms
    }

    /// Bytes of memory held.
    pub fn capacity_bytes(&self) -> usize {
        self.quants.capacity()
            + self.meta.capacity() * size_of::<BlockMeta>()
            + self.floats.capacity() * size_of::<f32>()
    }

    /// Makes room for `rows` by `cols`; contents are unspecified afterwards.
    pub(crate) fn reshape(&mut self, rows: usize, cols: usize) {
        assert!(
            !self.forms.quantised || cols.is_multiple_of(BLOCK),
            "quantised activations need a multiple of {BLOCK} columns, not {cols}"
        );
        self.rows = rows;
        self.cols = cols;
        let most = (PANEL_BYTES * 2 / 3 / cols.max(1)).clamp(8, PANEL_ROWS);
        let panels = rows.div_ceil(most).max(1);
        self.panel_rows = if self.tiled && rows >= TILED_ROWS {
            TILE_PANEL_ROWS
        } else {
            rows.div_ceil(panels).max(1)
        };
        if self.forms.quantised {
            self.quants.resize(rows * cols, 0);
            self.meta.resize(rows * (cols / BLOCK), BlockMeta::default());
        }
        if self.forms.floats {
            self.floats.resize(rows * cols, 0.0);
        }
    }

    /// Rows of each panel; the last may have fewer.
    pub(crate) const fn panel_rows(&self) -> usize {
        self.panel_rows
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(self.panel_rows)
    }

    /// Panels whose bytes fit the second-level cache together.
    pub(crate) fn panels_together(&self) -> usize {
        let bytes = self.panel_rows * self.cols * if self.forms.quantised { 3 } else { 8 } / 2;
        let together = if self.tiled { TILED_BYTES } else { PANEL_BYTES };
        (together / bytes.max(1)).max(1)
    }

    /// The rows of a panel.
    pub(crate) fn panel(&self, panel: usize) -> Panel<'_> {
        let first_row = panel * self.panel_rows;
        let rows = self.panel_rows.min(self.rows - first_row);
        let (at, len) = (first_row * self.cols, rows * self.cols);
        let part = |has: bool, unit: usize| if has { at / unit..(at + len) / unit } else { 0..0 };
        Panel {
            first_row,
            rows,
            cols: self.cols,
            quants: &self.quants[part(self.forms.quantised, 1)],
            meta: &self.meta[part(self.forms.quantised, BLOCK)],
            floats: &self.floats[part(self.forms.floats, 1)],
        }
    }

    /// How rows are spread over panels.
    pub(crate) const fn places(&self) -> Places {
        Places { rows: self.rows, blocks: self.cols / BLOCK, panel_rows: self.panel_rows }
    }
}

/// How the rows of an [`Activations`] are spread over panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    rows: usize,
    blocks: usize,
    panel_rows: usize,
}

impl Places {
    /// Where block 0 of `row` lies in `meta` (in `quants`: times 32), and how far its next block
    /// is.
    pub(crate) fn of(&self, row: usize) -> (usize, usize) {
        let first_row = row / self.panel_rows * self.panel_rows;
        let rows = self.panel_rows.min(self.rows - first_row);
        (first_row * self.blocks + row - first_row, rows)
    }
}

/// The rows of an [`Activations`] for threads that fill different parts of them.
pub(crate) struct ActivationRows<'a> {
    pub(crate) forms: ActivationForms,
    pub(crate) cols: usize,
    pub(crate) places: Places,
    pub(crate) quants: SharedMut<'a, i8>,
    pub(crate) meta: SharedMut<'a, BlockMeta>,
    pub(crate) floats: SharedMut<'a, f32>,
}

impl<'a> ActivationRows<'a> {
    pub(crate) fn new(all: &'a mut Activations) -> Self {
        Self {
            forms: all.forms,
            cols: all.cols,
            places: all.places(),
            quants: SharedMut::new(&mut all.quants),
            meta: SharedMut::new(&mut all.meta),
            floats: SharedMut::new(&mut all.floats),
        }
    }
}
