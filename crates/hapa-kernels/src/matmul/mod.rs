//! Matrix multiplication of packed weights with activations.
//!
//! All instruction sets compute the same sums in the same order: for each block of 32 columns an
//! exact integer sum, turned to a float, scaled, and added to the row's float sum. A row's result
//! does not depend on how many rows are in the batch.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx512;
mod dense;
mod scalar;

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) use self::avx512::multiply_tiles;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::activations::TILE_PANEL_ROWS;
use crate::activations::{ActivationRows, Activations, Panel};
use crate::elementwise;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::isa::Isa;
use crate::isa::Proven;
use crate::lanes::LANES;
use crate::pack::{BLOCK, PackedKind, PackedView, TILE_ROWS};
use crate::shared::SharedMut;
use crate::team::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// What happens to the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// It replaces what is in the output.
    Store,
    /// It is added to what is in the output: a residual connection.
    Add,
}

/// A product of several weight matrices with the same activations.
#[derive(Debug, Clone, Copy)]
pub struct MatMul<'a> {
    /// Matrices with the same number of columns. Their outputs follow one another in each output
    /// row.
    pub weights: &'a [PackedView<'a>],
    /// Added to each output row, as long as it.
    pub bias: Option<&'a [f32]>,
    /// Whether the output is replaced or added to.
    pub epilogue: Epilogue,
}

impl MatMul<'_> {
    /// Floats of an output row: the rows of all matrices.
    pub fn output_width(&self) -> usize {
        self.weights.iter().map(|w| w.layout().rows()).sum()
    }
}

/// Tiles that a unit of work takes together, so that each activation that is loaded is used by
/// both.
pub(crate) const UNIT_TILES: usize = 2;

/// Bytes of weights that a thread takes at a time at most.
const PIECE_BYTES: usize = 48 << 10;

/// Pieces that each thread gets at least, where there are so many units.
const PIECES: usize = 8;

/// Consecutive tiles of one matrix.
#[derive(Clone, Copy)]
pub(crate) struct UnitTiles<'a> {
    pub(crate) kind: PackedKind,
    /// Bytes of the first tile and of the second, where there is one.
    pub(crate) tiles: [Option<&'a [u8]>; UNIT_TILES],
    /// Column of the output where the first tile starts.
    column: usize,
    /// Columns of the output that the tiles have, padding excluded.
    width: usize,
}

/// Sums of one unit: `[panel][tile][row][16]`.
pub(crate) type Sums = Vec<[f32; LANES]>;

/// Computes `op` for all rows of `x` into `out`, `[rows][op.output_width()]`.
pub(crate) fn run(
    (team, isa): (&mut Team, Proven),
    scratch: &[Mutex<Sums>],
    op: &MatMul<'_>,
    x: &Activations,
    out: &mut [f32],
) {
    let width = op.output_width();
    assert_eq!(out.len(), x.rows() * width, "the output is [{}][{width}]", x.rows());
    if let Some(bias) = op.bias {
        assert_eq!(bias.len(), width, "a bias for each output");
    }
    let out = SharedMut::new(out);
    let (units, bytes) = check(op.weights, x);
    let size = UNIT_TILES * x.panel_rows();
    for_each_unit(team, scratch, (units, bytes), x, &|unit, panels, sums| {
        let tiles = unit_tiles(op.weights, unit);
        let sums = grown(sums, panels.len() * size);
        sum_unit(isa, &tiles, (x, panels.clone()), sums);
        for (panel, sums) in panels.zip(sums.chunks(size)) {
            finish(op, &tiles, &x.panel(panel), sums, &out);
        }
    });
}

/// Computes `silu(gate * x) * (up * x)` for all rows of `x` into `out`, without the two products
/// ever lying in memory: a unit has the gate and the up rows of one block of the next matmul's
/// columns.
pub(crate) fn run_gate(
    (team, isa): (&mut Team, Proven),
    scratch: &[Mutex<Sums>],
    [gate, up]: [PackedView<'_>; 2],
    x: &Activations,
    out: &mut Activations,
) {
    let inner = gate.layout().rows();
    assert_eq!(inner, up.layout().rows(), "gate and up have the same rows");
    out.reshape(x.rows(), inner);
    let (_, bytes) = check(&[gate, up], x);
    let units = gate.layout().tiles().div_ceil(UNIT_TILES);
    let rows = ActivationRows::new(out);
    let size = UNIT_TILES * x.panel_rows();
    for_each_unit(team, scratch, (units, bytes), x, &|unit, panels, sums| {
        let (gates, ups) = (unit_tiles(&[gate], unit), unit_tiles(&[up], unit));
        let part = panels.len() * size;
        let (gate_sums, up_sums) = grown(sums, 2 * part).split_at_mut(part);
        sum_unit(isa, &gates, (x, panels.clone()), gate_sums);
        sum_unit(isa, &ups, (x, panels.clone()), up_sums);
        let columns = gates.column..gates.column + gates.width;
        for (panel, sums) in panels.zip(gate_sums.chunks(size).zip(up_sums.chunks(size))) {
            // SAFETY: units have different columns, panels different rows.
            unsafe {
                elementwise::gate_unit(isa, sums, &x.panel(panel), columns.clone(), &rows);
            }
        }
    });
}

/// The first `len` sums, made where there are fewer.
fn grown(sums: &mut Sums, len: usize) -> &mut [[f32; LANES]] {
    if sums.len() < len {
        sums.resize(len, [0.0; LANES]);
    }
    &mut sums[..len]
}

/// Checks that weights and activations belong together; gives units and bytes.
fn check(weights: &[PackedView<'_>], x: &Activations) -> (usize, usize) {
    let (mut units, mut bytes) = (0, 0);
    for weights in weights {
        let layout = weights.layout();
        assert_eq!(layout.cols(), x.cols(), "weights and activations have the same columns");
        let (forms, dense) = (x.forms(), layout.kind().is_dense());
        assert!(if dense { forms.floats } else { forms.quantised }, "activations lack a form");
        units += layout.tiles().div_ceil(UNIT_TILES);
        bytes += layout.bytes();
    }
    (units, bytes)
}

/// Runs `job` for each unit and all panels of `x`, every member of the team with sums of its own.
/// Panels that fit a core's cache together meet a unit while its weights are in the cache too.
fn for_each_unit(
    team: &mut Team,
    scratch: &[Mutex<Sums>],
    (units, bytes): (usize, usize),
    x: &Activations,
    job: &(dyn Fn(usize, Range<usize>, &mut Sums) + Sync),
) {
    if units == 0 || x.rows() == 0 {
        return;
    }
    let grain =
        (units / (team.threads() * PIECES)).min(PIECE_BYTES / (bytes / units).max(1)).max(1);
    let together = x.panels_together();
    for group in (0..x.panels()).step_by(together) {
        let panels = group..(group + together).min(x.panels());
        team.for_each_piece(units, grain, &|thread, piece| {
            let mut sums = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            for unit in piece {
                job(unit, panels.clone(), &mut sums);
            }
        });
    }
}

/// The tiles of a unit that is counted over all matrices.
fn unit_tiles<'a>(weights: &[PackedView<'a>], mut unit: usize) -> UnitTiles<'a> {
    let mut column = 0;
    for view in weights {
        let layout = view.layout();
        let units = layout.tiles().div_ceil(UNIT_TILES);
        if unit < units {
            let first = unit * UNIT_TILES;
            let start = first * TILE_ROWS;
            return UnitTiles {
                kind: layout.kind(),
                tiles: std::array::from_fn(|i| {
                    (first + i < layout.tiles()).then(|| view.tile(first + i))
                }),
                column: column + start,
                width: (layout.rows() - start).min(UNIT_TILES * TILE_ROWS),
            };
        }
        unit -= units;
        column += layout.rows();
    }
    unreachable!("a unit past the last matrix");
}

/// Fills `sums` for all rows of some panels.
fn sum_unit(
    isa: Proven,
    unit: &UnitTiles<'_>,
    (x, panels): (&Activations, Range<usize>),
    sums: &mut [[f32; LANES]],
) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    let (panels, sums) =
        if isa.isa() == Isa::Amx && !unit.kind.is_dense() && x.panel_rows() == TILE_PANEL_ROWS {
            let whole = panels.start..panels.end.min(x.rows() / TILE_PANEL_ROWS);
            assert!(whole.len() * UNIT_TILES * TILE_PANEL_ROWS <= sums.len());
            // SAFETY: the features are proven; the panels are whole, there is room for their sums, and
            // the tiles have their columns, as `run` checked.
            unsafe { avx512::sum_panels(unit, (x, whole.clone()), sums) };
            let rest = whole.len() * UNIT_TILES * TILE_PANEL_ROWS;
            (whole.end..panels.end, &mut sums[rest..])
        } else {
            (panels, sums)
        };
    for (panel, sums) in panels.zip(sums.chunks_mut(UNIT_TILES * x.panel_rows())) {
        sum_panel(isa, unit, &x.panel(panel), sums);
    }
}

/// Fills `sums` for all rows of a panel.
fn sum_panel(isa: Proven, unit: &UnitTiles<'_>, panel: &Panel<'_>, sums: &mut [[f32; LANES]]) {
    if unit.kind.is_dense() {
        return dense::sum(isa, unit, panel, sums);
    }
    let blocks = panel.rows * (panel.cols / BLOCK);
    assert!(panel.quants.len() == blocks * BLOCK && panel.meta.len() == blocks);
    assert!(unit.tiles.iter().flatten().count() * panel.rows <= sums.len());
    match isa.isa() {
        // SAFETY: the features are proven; the panel has been checked above, and the tiles have its
        // columns, as `run` checked.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::Avx512Vnni | Isa::Amx => unsafe { avx512::sum(unit, panel, sums) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::AvxVnni => unsafe { avx2::sum_vnni(unit, panel, sums) },
        // SAFETY: as above.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Isa::Avx2 => unsafe { avx2::sum(unit, panel, sums) },
        _ => scalar::sum(unit, panel, sums),
    }
}

/// Writes the sums of a unit to the output.
fn finish(
    op: &MatMul<'_>,
    unit: &UnitTiles<'_>,
    panel: &Panel<'_>,
    sums: &[[f32; LANES]],
    out: &SharedMut<'_, f32>,
) {
    let total = op.output_width();
    let bias = op.bias.map(|bias| &bias[unit.column..unit.column + unit.width]);
    for row in 0..panel.rows {
        let at = (panel.first_row + row) * total + unit.column;
        // SAFETY: units have different columns, panels different rows.
        let out = unsafe { out.slice(at, unit.width) };
        for (tile, out) in out.chunks_mut(LANES).enumerate() {
            let mut sum = sums[tile * panel.rows + row];
            if let Some(bias) = bias {
                for (sum, bias) in sum.iter_mut().zip(&bias[tile * LANES..]) {
                    *sum += bias;
                }
            }
            match op.epilogue {
                Epilogue::Store => out.copy_from_slice(&sum[..out.len()]),
                Epilogue::Add => {
                    for (out, sum) in out.iter_mut().zip(sum) {
                        *out += sum;
                    }
                }
            }
        }
    }
}
