//! The paged key and value store.

use crate::aligned::AlignedBytes;
use crate::elementwise::ALONE;
use crate::error::KernelError;
use crate::isa::{Proven, for_each_isa};
use crate::lanes::{LANES, Lanes, load_part};
use crate::shared::SharedMut;
use crate::team::Team;

/// Element type of a [`KvPool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvKind {
    /// IEEE halves.
    F16,
    /// Bytes with one f32 scale for each token and head.
    Q8,
}

/// Shape of a [`KvPool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Transformer blocks.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Floats of a head.
    pub head_dim: usize,
    /// Tokens of a page: a multiple of 16.
    pub page_tokens: usize,
    /// Pages.
    pub pages: usize,
    /// Element type.
    pub kind: KvKind,
}

impl KvShape {
    /// Elements that a head takes: `head_dim` rounded up to whole vectors.
    pub(crate) const fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Bytes of the keys (or the values) of one head in one page.
    const fn part_bytes(&self) -> usize {
        let elements = self.page_tokens * self.padded_dim();
        match self.kind {
            KvKind::F16 => elements * 2,
            KvKind::Q8 => elements + self.page_tokens * 4,
        }
    }

    /// Bytes of one page over all layers and heads.
    pub fn page_bytes(&self) -> usize {
        self.checked_page_bytes().unwrap_or(usize::MAX)
    }

    fn checked_page_bytes(&self) -> Option<usize> {
        let padded = self.head_dim.checked_next_multiple_of(LANES)?;
        // Four bytes for each element and a scale bound the kinds above.
        padded.checked_add(4)?.checked_mul(self.page_tokens)?.checked_mul(4)?;
        (2 * self.part_bytes()).checked_mul(self.kv_heads)?.checked_mul(self.layers)
    }
}

/// Where one token's keys and values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvSlot {
    /// Page.
    pub page: u32,
    /// Token within the page.
    pub offset: u32,
}

/// Rows that hold new keys and values, such as the output of a fused q|k|v matmul.
#[derive(Debug, Clone, Copy)]
pub struct KvRows<'a> {
    /// The rows.
    pub data: &'a [f32],
    /// Floats from one row to the next.
    pub row_stride: usize,
    /// Floats before the key heads of a row.
    pub k_offset: usize,
    /// Floats before the value heads of a row.
    pub v_offset: usize,
}

/// Keys and values of many sequences in pages of a fixed number of tokens.
///
/// A page holds, for each layer and head, the keys and then the values. Keys lie in groups of
/// sixteen tokens, element by element (`[group][element][token]`), values token by token. Memory is
/// taken from the system when a page is first written.
#[derive(Debug)]
pub struct KvPool {
    shape: KvShape,
    bytes: AlignedBytes,
}

/// Keys (or values) of one head in one page.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    F16(&'a [u16]),
    Q8 { bytes: &'a [i8], scales: &'a [f32] },
}

enum PartMut<'a> {
    F16(&'a mut [u16]),
    Q8 { bytes: &'a mut [i8], scales: &'a mut [f32] },
}

impl KvPool {
    /// An empty pool.
    ///
    /// # Errors
    /// [`KernelError::KvShape`] for a page that is no multiple of sixteen tokens, a side that is
    /// zero, or more bytes than the system gives.
    pub fn new(shape: KvShape) -> Result<Self, KernelError> {
        let sides = [shape.layers, shape.kv_heads, shape.head_dim, shape.page_tokens, shape.pages];
        let refuse = |bytes, why| Err(KernelError::KvShape { bytes, why });
        if sides.contains(&0) {
            return refuse(0, "a side is zero");
        }
        if !shape.page_tokens.is_multiple_of(LANES) {
            return refuse(0, "a page must hold a multiple of 16 tokens");
        }
        let Some(bytes) = shape.checked_page_bytes().and_then(|page| page.checked_mul(shape.pages))
        else {
            return refuse(usize::MAX, "the size overflows; use fewer pages");
        };
        match AlignedBytes::zeroed(bytes) {
            Some(bytes) => Ok(Self { shape, bytes }),
            None => refuse(bytes, "the system does not give that much memory; use fewer pages"),
        }
    }

    /// Its shape.
    pub const fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Copies all layers of a page: the start of a sequence that parts from another within a page.
    ///
    /// # Panics
    /// When a page is not in the pool.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        let page = self.shape.page_bytes();
        let (from, to) = (from as usize * page, to as usize * page);
        self.bytes.copy_within(from..from + page, to);
    }

    fn part_at(&self, layer: usize, page: u32, head: usize, values: bool) -> usize {
        let s = &self.shape;
        assert!((page as usize) < s.pages && layer < s.layers && head < s.kv_heads);
        pool_part_at(s, layer, page, head, values)
    }

    /// Keys or values of one head in one page.
    pub(crate) fn part(&self, layer: usize, page: u32, head: usize, values: bool) -> Part<'_> {
        let at = self.part_at(layer, page, head, values);
        let bytes = &self.bytes[at..at + self.shape.part_bytes()];
        let elements = self.shape.page_tokens * self.shape.padded_dim();
        match self.shape.kind {
            KvKind::F16 => Part::F16(cast(bytes)),
            KvKind::Q8 => {
                let (bytes, scales) = bytes.split_at(elements);
                Part::Q8 { bytes: cast(bytes), scales: cast(scales) }
            }
        }
    }
}

/// Writes keys and values of row `r` of `rows` to `slots[r]`.
pub(crate) fn write(
    team: &mut Team,
    isa: Proven,
    (pool, layer): (&mut KvPool, usize),
    rows: &KvRows<'_>,
    slots: &[KvSlot],
) {
    let shape = pool.shape;
    let (dim, padded, heads) = (shape.head_dim, shape.padded_dim(), shape.kv_heads);
    for slot in slots {
        assert!((slot.offset as usize) < shape.page_tokens, "a slot past the end of its page");
        // Also checks page and layer.
        let _ = pool.part_at(layer, slot.page, 0, false);
    }
    // A unit is all keys or all values of one head: threads share no part of a page.
    let offsets: [(bool, usize); 2] = [(false, rows.k_offset), (true, rows.v_offset)];
    let part_bytes = shape.part_bytes();
    let at = |page, head, values| pool_part_at(&shape, layer, page, head, values);
    let bytes = SharedMut::new(&mut pool.bytes);
    let one = |unit: usize| {
        let (head, (values, offset)) = (unit / 2, offsets[unit % 2]);
        for (row, slot) in slots.iter().enumerate() {
            let token = slot.offset as usize;
            let x = &rows.data[row * rows.row_stride + offset + head * dim..][..dim];
            // SAFETY: each head's keys and values are written by one thread.
            let part = unsafe { bytes.slice(at(slot.page, head, values), part_bytes) };
            let place = if values {
                (token, token * padded, 1)
            } else {
                (token, token / LANES * LANES * padded + token % LANES, LANES)
            };
            write_head(isa, x, part_mut(&shape, part), place);
        }
    };
    if slots.len() * 2 * heads * dim < ALONE {
        (0..2 * heads).for_each(one);
    } else {
        team.for_each_piece(2 * heads, 1, &|_, piece| piece.for_each(one));
    }
}

/// Where keys or values of one head in one page start.
fn pool_part_at(shape: &KvShape, layer: usize, page: u32, head: usize, values: bool) -> usize {
    let head_at = (page as usize * shape.layers + layer) * shape.kv_heads + head;
    (2 * head_at + usize::from(values)) * shape.part_bytes()
}

fn part_mut<'a>(shape: &KvShape, bytes: &'a mut [u8]) -> PartMut<'a> {
    match shape.kind {
        KvKind::F16 => PartMut::F16(cast_mut(bytes)),
        KvKind::Q8 => {
            let (bytes, scales) = bytes.split_at_mut(shape.page_tokens * shape.padded_dim());
            PartMut::Q8 { bytes: cast_mut(bytes), scales: cast_mut(scales) }
        }
    }
}

for_each_isa! {
    fn write_head(x: &[f32], to: PartMut<'_>, place: (usize, usize, usize)) = write_lanes
}

/// Narrows one head and scatters it from `place.1` in steps of `place.2`.
#[inline(always)]
unsafe fn write_lanes<L: Lanes>(x: &[f32], to: PartMut<'_>, place: (usize, usize, usize)) {
    let (token, at, step) = place;
    // SAFETY: features are passed on to the caller.
    unsafe {
        match to {
            PartMut::F16(to) => {
                // Beyond the largest half lies infinity, and infinity times a masked weight of zero
                // is not a number.
                let limit = L::splat(65504.0);
                for (i, chunk) in x.chunks(LANES).enumerate() {
                    let lanes = load_part::<L>(chunk, 0.0).min(limit).max(L::splat(-65504.0));
                    let mut halves = [0; LANES];
                    lanes.store_half(&mut halves);
                    scatter(&halves[..chunk.len()], to, at + i * LANES * step, step);
                }
            }
            PartMut::Q8 { bytes: to, scales } => {
                let mut largest = L::splat(0.0);
                for chunk in x.chunks(LANES) {
                    largest = largest.max(load_part::<L>(chunk, 0.0).abs());
                }
                let largest = largest.largest();
                scales[token] = largest / 127.0;
                let inverse = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
                for (i, chunk) in x.chunks(LANES).enumerate() {
                    let mut bytes = [0; LANES];
                    load_part::<L>(chunk, 0.0).mul(inverse).round().store_i8(&mut bytes);
                    scatter(&bytes[..chunk.len()], to, at + i * LANES * step, step);
                }
            }
        }
    }
}

#[inline(always)]
fn scatter<T: Copy>(from: &[T], to: &mut [T], at: usize, step: usize) {
    for (value, slot) in from.iter().zip(to[at..].iter_mut().step_by(step)) {
        *slot = *value;
    }
}

/// Numbers for which every bit pattern is a value.
trait Number: Copy {}
impl Number for u16 {}
impl Number for i8 {}
impl Number for f32 {}

fn cast<T: Number>(bytes: &[u8]) -> &[T] {
    // SAFETY: every bit pattern of a `Number` is a value, and `align_to` keeps to aligned elements.
    let (head, all, tail) = unsafe { bytes.align_to::<T>() };
    assert!(head.is_empty() && tail.is_empty(), "pool parts are aligned");
    all
}

fn cast_mut<T: Number>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: as in `cast`, and every value of a `Number` is plain bytes.
    let (head, all, tail) = unsafe { bytes.align_to_mut::<T>() };
    assert!(head.is_empty() && tail.is_empty(), "pool parts are aligned");
    all
}
