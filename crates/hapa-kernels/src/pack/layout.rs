//! The packed formats and their sizes.

use crate::error::KernelError;
use crate::ggml::GgmlType;

/// Changes whenever packed bytes change their meaning: part of the key of a stored packed file.
pub const LAYOUT_VERSION: u32 = 1;

/// Rows in a tile.
pub const TILE_ROWS: usize = 16;

/// Columns that share one activation scale.
pub(crate) const BLOCK: usize = 32;

/// Columns of a super-block of the K kinds.
pub(crate) const SUPER_BLOCK: usize = 256;

/// How a packed matrix holds its weights.
///
/// A block is 16 rows by 32 columns. In *groups* of four columns, group `g` of a row is columns
/// `4g` to `4g + 4`, and a 64-byte vector holds one group of all sixteen rows, row by row. Nibbles:
/// vector `v` of four holds group `v` in the low and group `v + 4` in the high halves of its bytes.
/// The fifth bit: one vector, bit `g` of each byte belongs to group `g`. Bits five and six: two
/// vectors, `h` of them with group `4h + j` at bits `2j` and `2j + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PackedKind {
    /// `d * (q - 8)`. Block: 256 B nibbles, 32 B f16 `d`.
    Q4,
    /// `d * q + m`. Block: 256 B nibbles, 32 B f16 `d`, 32 B f16 `m`.
    Q4Min,
    /// `d * (q - 16)`. Block: 256 B nibbles, 64 B fifth bits, 32 B f16 `d`.
    Q5,
    /// `d * q + m`. Block: 256 B nibbles, 64 B fifth bits, 32 B f16 `d`, 32 B f16 `m`.
    Q5Min,
    /// `d * (q - 128)`. Block: 512 B bytes, eight vectors; 32 B f16 `d`.
    Q8,
    /// `d * s * q - e * m`. Super-block of 256 columns: 32 B f16 `d`, 32 B f16 `e`, 128 B `s`
    /// (unsigned, 16 for each block of 32 columns), 128 B `m` likewise, then the quants of eight
    /// blocks as in `Q4`.
    Q4K,
    /// As `Q4K` with the quants of `Q5`.
    Q5K,
    /// `d * s * (q - 32)`. Super-block: 32 B f16 `d`, 256 B `s` (signed, 16 for each 16 columns),
    /// then for each of eight blocks 256 B nibbles and 128 B bits five and six.
    Q6K,
    /// Column by column, 16 rows each, 32-bit floats.
    F32,
    /// Column by column, 16 rows each, IEEE halves.
    F16,
    /// Column by column, 16 rows each, brain floats.
    BF16,
}

impl PackedKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Q4,
        Self::Q4Min,
        Self::Q5,
        Self::Q5Min,
        Self::Q8,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::F32,
        Self::F16,
        Self::BF16,
    ];

    /// The kind that holds weights of a ggml type, or `None` for the activation types. All but
    /// `Q2_K` (requantised to eight bits) are held exactly; `Q3_K` becomes `Q6K`.
    pub const fn for_ggml(ty: GgmlType) -> Option<Self> {
        Some(match ty {
            GgmlType::F32 => Self::F32,
            GgmlType::F16 => Self::F16,
            GgmlType::BF16 => Self::BF16,
            GgmlType::Q4_0 => Self::Q4,
            GgmlType::Q4_1 => Self::Q4Min,
            GgmlType::Q5_0 => Self::Q5,
            GgmlType::Q5_1 => Self::Q5Min,
            GgmlType::Q8_0 | GgmlType::Q2K => Self::Q8,
            GgmlType::Q4K => Self::Q4K,
            GgmlType::Q5K => Self::Q5K,
            GgmlType::Q3K | GgmlType::Q6K => Self::Q6K,
            GgmlType::Q8_1 | GgmlType::Q8K => return None,
        })
    }

    /// Whether weights are floats: such kinds read activations as floats, the others as bytes.
    pub const fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Columns must be a multiple of this.
    pub const fn column_multiple(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4 | Self::Q4Min | Self::Q5 | Self::Q5Min | Self::Q8 => BLOCK,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER_BLOCK,
        }
    }

    /// Bytes of sixteen rows by [`Self::column_multiple`] columns.
    pub const fn record_bytes(self) -> usize {
        match self {
            Self::Q4 => 256 + 32,
            Self::Q4Min => 256 + 64,
            Self::Q5 => 320 + 32,
            Self::Q5Min => 320 + 64,
            Self::Q8 => 512 + 32,
            Self::Q4K => 320 + 8 * 256,
            Self::Q5K => 320 + 8 * 320,
            Self::Q6K => 288 + 8 * 384,
            Self::F32 => 64,
            Self::F16 | Self::BF16 => 32,
        }
    }

    /// Bytes that a block of sixteen rows by 32 columns takes, its share of a header included.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) const fn block_bytes(self) -> usize {
        self.record_bytes() * BLOCK / self.column_multiple()
    }

    /// A stable number for file headers.
    pub const fn to_u32(self) -> u32 {
        match self {
            Self::Q4 => 1,
            Self::Q4Min => 2,
            Self::Q5 => 3,
            Self::Q5Min => 4,
            Self::Q8 => 5,
            Self::Q4K => 6,
            Self::Q5K => 7,
            Self::Q6K => 8,
            Self::F32 => 9,
            Self::F16 => 10,
            Self::BF16 => 11,
        }
    }

    /// The kind with that number.
    pub fn from_u32(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_u32() == id)
    }
}

/// Shape and kind of a packed matrix of `rows` outputs by `cols` inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackedLayout {
    kind: PackedKind,
    rows: usize,
    cols: usize,
}

impl PackedLayout {
    /// A layout, or `None` where `cols` does not fit the kind, a side is zero, or the bytes
    /// overflow.
    pub fn new(kind: PackedKind, rows: usize, cols: usize) -> Option<Self> {
        let fits = rows > 0 && cols > 0 && cols.is_multiple_of(kind.column_multiple());
        let layout = Self { kind, rows, cols };
        (fits && layout.checked_bytes().is_some()).then_some(layout)
    }

    /// The layout for a ggml matrix of `rows` rows of `cols` weights, or `None` where there is
    /// none.
    pub fn for_ggml(ty: GgmlType, rows: usize, cols: usize) -> Option<Self> {
        ty.row_bytes(cols)?;
        Self::new(PackedKind::for_ggml(ty)?, rows, cols)
    }

    fn checked_bytes(&self) -> Option<usize> {
        let records = self.cols / self.kind.column_multiple();
        let tile = records.checked_mul(self.kind.record_bytes())?.checked_next_multiple_of(64)?;
        let bytes = tile.checked_mul(self.rows.div_ceil(TILE_ROWS))?;
        (bytes <= isize::MAX as usize).then_some(bytes)
    }

    /// How weights are held.
    pub const fn kind(&self) -> PackedKind {
        self.kind
    }

    /// Outputs.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Tiles of sixteen rows; the last may be padded with zero weights.
    pub const fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Bytes of one tile: a multiple of 64.
    pub const fn tile_bytes(&self) -> usize {
        (self.cols / self.kind.column_multiple() * self.kind.record_bytes()).next_multiple_of(64)
    }

    /// Bytes of the whole matrix.
    pub const fn bytes(&self) -> usize {
        self.tile_bytes() * self.tiles()
    }
}

/// Packed bytes whose length was checked against their layout. Any alignment works; 64 is fastest.
#[derive(Debug, Clone, Copy)]
pub struct PackedView<'a> {
    layout: PackedLayout,
    bytes: &'a [u8],
}

impl<'a> PackedView<'a> {
    /// Joins layout and bytes.
    ///
    /// # Errors
    /// [`KernelError::PackedLength`] where `bytes` has another length than [`PackedLayout::bytes`].
    pub fn new(layout: PackedLayout, bytes: &'a [u8]) -> Result<Self, KernelError> {
        if bytes.len() != layout.bytes() {
            return Err(KernelError::PackedLength { expected: layout.bytes(), found: bytes.len() });
        }
        Ok(Self { layout, bytes })
    }

    /// Shape and kind.
    pub const fn layout(&self) -> &PackedLayout {
        &self.layout
    }

    /// The packed bytes.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of one tile.
    pub(crate) fn tile(&self, tile: usize) -> &'a [u8] {
        let size = self.layout.tile_bytes();
        &self.bytes[tile * size..(tile + 1) * size]
    }
}
