//! The operators of a forward pass, as methods of one value that owns threads and scratch memory.

use crate::activations::{ActivationForms, Activations};
use crate::attention::{self, AttentionOp, KvPool, KvRows, KvSlot};
use crate::elementwise::{self, ALONE, Source};
use crate::error::KernelError;
use crate::isa::{Isa, Proven};
use crate::limits::{self, MachineLimits};
use crate::matmul::{self, MatMul, Sums};
use crate::pack::PackedView;
use crate::rope::{HeadRows, RopeTable, turn_row};
use crate::shared::SharedMut;
use crate::team::Team;
use std::sync::{Mutex, PoisonError};

/// Runs operators with a team of threads and one instruction set.
///
/// All matrices are row-major slices of `f32`. Wrong lengths are errors of the calling program and
/// panic; each method says which. Nothing is allocated once the largest batch was seen.
#[derive(Debug)]
pub struct Kernels {
    team: Team,
    isa: Proven,
    sums: Vec<Mutex<Sums>>,
    attention: Vec<Mutex<attention::Scratch>>,
    plan: attention::Plan,
}

impl Kernels {
    /// Takes over a team.
    ///
    /// # Errors
    /// [`KernelError::UnsupportedIsa`] where this machine lacks `isa`.
    pub fn new(team: Team, isa: Isa) -> Result<Self, KernelError> {
        let isa = Proven::new(isa).ok_or(KernelError::UnsupportedIsa { isa })?;
        let threads = team.threads();
        Ok(Self {
            team,
            isa,
            sums: (0..threads).map(|_| Mutex::default()).collect(),
            attention: (0..threads).map(|_| Mutex::default()).collect(),
            plan: attention::Plan::default(),
        })
    }

    /// The instruction set in use.
    pub const fn isa(&self) -> Isa {
        self.isa.isa()
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// The team, for work of the caller's own between operators.
    pub const fn team(&mut self) -> &mut Team {
        &mut self.team
    }

    /// Measures what this team can do at most on this machine with its instruction set: half a second, and 256 MiB of
    /// memory meanwhile. `None` where that memory cannot be had.
    pub fn machine_limits(&mut self) -> Option<MachineLimits> {
        limits::measure(&mut self.team, self.isa)
    }

    /// Takes `x`, `[rows][cols]`, into the forms that `out` keeps.
    ///
    /// # Panics
    /// When `x` is not `rows * cols` long, or `cols` is no multiple of 32 and `out` keeps bytes.
    pub fn quantize(&mut self, x: &[f32], rows: usize, cols: usize, out: &mut Activations) {
        assert_eq!(x.len(), rows * cols, "x is [{rows}][{cols}]");
        out.reshape(rows, cols);
        elementwise::fill(&mut self.team, self.isa, Source::Plain(x), out);
    }

    /// RMS norm of the rows of `x`, as wide as `weight`, and [`Self::quantize`] of the result.
    ///
    /// # Panics
    /// When `x` is not whole rows, or the width is no multiple of 32 and `out` keeps bytes.
    pub fn rms_norm_quantize(
        &mut self,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut Activations,
    ) {
        let rows = whole_rows(x.len(), weight.len());
        out.reshape(rows, weight.len());
        elementwise::fill(&mut self.team, self.isa, Source::Norm { x, weight, eps }, out);
    }

    /// `silu(gate) * up` and [`Self::quantize`] of the result. Each of `rows` rows of `gate_up`
    /// holds gate and then up.
    ///
    /// # Panics
    /// When `gate_up` does not split into `2 * rows` equal parts, or these are no multiple of 32
    /// wide and `out` keeps bytes.
    pub fn silu_gate_quantize(&mut self, gate_up: &[f32], rows: usize, out: &mut Activations) {
        let width = gate_up.len().checked_div(rows).unwrap_or(0);
        assert_eq!(width * rows, gate_up.len(), "gate and up for each of {rows} rows");
        assert!(width.is_multiple_of(2), "gate and up are equally wide");
        out.reshape(rows, width / 2);
        elementwise::fill(&mut self.team, self.isa, Source::SiluGate(gate_up), out);
    }

    /// RMS norm of consecutive rows as wide as `weight`, in place.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub fn rms_norm(&mut self, x: &mut [f32], weight: &[f32], eps: f32) {
        whole_rows(x.len(), weight.len());
        elementwise::norm_in_place(self.isa, x, weight, eps);
    }

    /// RMS norm of each head of `rows` rows, in place; `weight` is one head wide (qwen3's q and k
    /// norm).
    ///
    /// # Panics
    /// When the heads are not within `x`, or `weight` has another width.
    pub fn rms_norm_heads(
        &mut self,
        x: &mut [f32],
        rows: usize,
        heads: HeadRows,
        norm: (&[f32], f32),
    ) {
        let (weight, eps) = norm;
        assert_eq!(weight.len(), heads.head_dim, "a norm weight for each element of a head");
        for row in 0..rows {
            elementwise::norm_in_place(self.isa, &mut x[heads.range(row)], weight, eps);
        }
    }

    /// Multiplies: `out`, `[x.rows()][op.output_width()]`, gets the products of all matrices of
    /// `op`.
    ///
    /// # Panics
    /// When columns differ, `out` or the bias have another length, or `x` lacks the form that a
    /// matrix needs: bytes for quantised kinds, floats for dense ones.
    pub fn matmul(&mut self, op: &MatMul<'_>, x: &Activations, out: &mut [f32]) {
        matmul::run((&mut self.team, self.isa), &self.sums, op, x, out);
    }

    /// [`Self::matmul`] with `gate` and with `up`, and [`Self::silu_gate_quantize`] of the two
    /// products, in one operator that never writes them to memory: `out` gets `[x.rows()][rows of
    /// gate]`.
    ///
    /// # Panics
    /// When the shapes of `gate` and `up` differ, columns differ from those of `x`, `x` lacks the
    /// form that a matrix needs, or `out` keeps bytes and the rows of `gate` are no multiple of 32.
    pub fn matmul_silu_gate(
        &mut self,
        gate: PackedView<'_>,
        up: PackedView<'_>,
        x: &Activations,
        out: &mut Activations,
    ) {
        matmul::run_gate((&mut self.team, self.isa), &self.sums, [gate, up], x, out);
    }

    /// Turns heads of `x` in place: those of row `r` to position `positions[r]`. The table must
    /// have been [grown](RopeTable::grow) beyond the largest position.
    ///
    /// # Panics
    /// When the heads are not within `x`, are narrower than what turns, or a position is not in the
    /// table.
    pub fn rope(&mut self, x: &mut [f32], heads: HeadRows, positions: &[u32], table: &RopeTable) {
        assert!(table.options().dims <= heads.head_dim, "more dims turn than a head has");
        let isa = self.isa;
        let turn = |row: usize, x: &mut [f32]| {
            turn_row(isa, x, heads.head_dim, positions[row] as usize, table);
        };
        let width = heads.heads * heads.head_dim;
        if positions.len() * width < ALONE {
            for row in 0..positions.len() {
                turn(row, &mut x[heads.range(row)]);
            }
            return;
        }
        assert!(width <= heads.row_stride, "rows of heads overlap");
        let x = SharedMut::new(x);
        self.team.for_each_piece(positions.len(), 8, &|_, piece| {
            for row in piece {
                // SAFETY: rows do not overlap, as asserted, and each is turned once.
                turn(row, unsafe { x.slice(heads.range(row).start, width) });
            }
        });
    }

    /// Writes keys and values of row `r` of `rows` to `slots[r]` of the pool.
    ///
    /// # Panics
    /// When a slot, the layer or a row is out of range.
    pub fn kv_write(
        &mut self,
        pool: &mut KvPool,
        layer: usize,
        rows: &KvRows<'_>,
        slots: &[KvSlot],
    ) {
        attention::write(&mut self.team, self.isa, (pool, layer), rows, slots);
    }

    /// Causal attention with grouped queries: `out`, `[rows][heads * head_dim]`, gets the rows that
    /// the sequences name.
    ///
    /// # Panics
    /// When heads are no multiple of the pool's, a sequence has more queries than tokens or fewer
    /// pages than its tokens need, sequences share rows, or a page, the layer or a row is out of
    /// range.
    pub fn attention(&mut self, pool: &KvPool, op: &AttentionOp<'_>, out: &mut [f32]) {
        let shape = *pool.shape();
        let heads = op.heads.heads;
        assert!(heads.is_multiple_of(shape.kv_heads), "query heads share key heads evenly");
        assert_eq!(op.heads.head_dim, shape.head_dim, "queries and keys are equally wide");
        let mut next_row = 0;
        for s in op.sequences {
            assert!(s.query_rows <= s.kv_len, "queries are among the tokens");
            assert!(s.pages.len() * shape.page_tokens >= s.kv_len, "a page for each token");
            assert!(s.query_start_row >= next_row, "sequences are in the order of their rows");
            next_row = s.query_start_row + s.query_rows;
        }
        assert!(out.len() >= next_row * heads * shape.head_dim, "a row of output for each query");
        let threads = self.team.threads();
        self.plan.make(op.sequences, &shape, heads / shape.kv_heads, threads);
        let attention::Plan { units, joins, partials } = &mut self.plan;
        let (isa, scratch, out) = (self.isa, &self.attention, SharedMut::new(out));
        let shared = SharedMut::new(partials);
        self.team.for_each_piece(units.len(), 1, &|thread, piece| {
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            for unit in &units[piece] {
                // SAFETY: units have different rows, heads or segments, as sequences have different
                // rows.
                unsafe { attention::attend(isa, pool, op, *unit, &mut scratch, (&out, &shared)) };
            }
        });
        let mut scratch = scratch[0].lock().unwrap_or_else(PoisonError::into_inner);
        for unit in joins {
            // SAFETY: no one else is at work.
            unsafe { attention::join(isa, &shape, op, *unit, &mut scratch, (partials, &out)) };
        }
    }

    /// The place of the largest value, the first of several; 0 where there is none.
    pub fn argmax(&self, x: &[f32]) -> usize {
        elementwise::argmax(self.isa, x)
    }

    /// Turns logits into probabilities, in place.
    pub fn softmax(&self, x: &mut [f32]) {
        elementwise::softmax(self.isa, x);
    }

    /// An [`Activations`] that suits weights of these kinds.
    pub fn activations(&self, kinds: impl IntoIterator<Item = crate::PackedKind>) -> Activations {
        let mut forms = ActivationForms { quantised: false, floats: false };
        for kind in kinds {
            if kind.is_dense() { forms.floats = true } else { forms.quantised = true }
        }
        let activations = Activations::new(forms);
        if self.isa() == Isa::Amx { activations.tiled() } else { activations }
    }
}

/// Rows of `width` in `len` floats.
fn whole_rows(len: usize, width: usize) -> usize {
    assert!(width > 0 && len.is_multiple_of(width), "{len} floats are no rows of {width}");
    len / width
}
