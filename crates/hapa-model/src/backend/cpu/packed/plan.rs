//! What a packed file contains: computed from the GGUF file alone, so that it can be compared with what is on disk.

use std::ops::Range;

use hapa_kernels::{LAYOUT_VERSION, PackSource, PackedLayout};

use super::PackRequest;
use crate::error::{ModelError, Result};
use crate::gguf::{GgufFile, TensorInfo};

/// Matrices start at multiples of this, the width of a cache line and of the widest vector.
const ALIGNMENT: usize = 64;

/// First bytes of a packed file.
const MAGIC: &[u8; 8] = b"HAPAPACK";

/// Version of the file around the matrices; the matrices' own is [`LAYOUT_VERSION`].
const FORMAT_VERSION: u32 = 2;

/// Bytes that one checksum covers. Small enough that threads share the work evenly.
pub(super) const CHECKED_BYTES: usize = 4 << 20;

/// Where one matrix lies.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) layout: PackedLayout,
    pub(super) offset: usize,
}

/// The contents of a packed file, in order: head, matrices, the table, checksums.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// One for each name that was asked for, in the same order.
    pub(super) entries: Vec<Entry>,
    /// Where the table lies; empty where none was asked for.
    pub(super) table: Range<usize>,
    /// The head of the file: everything that must be equal for the file to be of use.
    pub(super) head: Vec<u8>,
    /// Bytes of head, matrices and table.
    pub(super) bytes: usize,
}

impl Plan {
    /// Plans what was asked for.
    ///
    /// # Errors
    /// When a tensor is missing, or one to pack is no matrix or of a type that the kernels cannot pack.
    pub(super) fn new(request: &PackRequest<'_>) -> Result<Self> {
        let PackRequest { gguf, digest, names, table } = *request;
        let mut head = Vec::new();
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        head.extend_from_slice(&LAYOUT_VERSION.to_le_bytes());
        put_str(&mut head, digest);
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let layout = layout_of(gguf.require_tensor(name)?)?;
            put_str(&mut head, name);
            put_str(&mut head, &format!("{layout:?}"));
            entries.push(Entry { layout, offset: 0 });
        }
        let table = table.map(|name| gguf.require_tensor(name)).transpose()?;
        if let Some(table) = table {
            put_str(&mut head, &table.name);
            put_str(&mut head, &format!("{} {:?}", table.ty, table.shape));
        }
        let mut bytes = head.len();
        for entry in &mut entries {
            entry.offset = bytes.next_multiple_of(ALIGNMENT);
            bytes = entry.offset + entry.layout.bytes();
        }
        let start = bytes.next_multiple_of(ALIGNMENT);
        let table = start..start + table.map_or(0, |table| table.bytes);
        let bytes = table.end.next_multiple_of(ALIGNMENT);
        Ok(Self { entries, table, head, bytes })
    }

    /// Number of checksums.
    pub(super) fn checksums(&self) -> usize {
        self.bytes.div_ceil(CHECKED_BYTES)
    }

    /// Bytes of the whole file: the checksums are 64 bits each.
    pub(super) fn file_bytes(&self) -> usize {
        self.bytes + 8 * self.checksums()
    }
}

fn put_str(head: &mut Vec<u8>, text: &str) {
    head.extend_from_slice(&(text.len() as u64).to_le_bytes());
    head.extend_from_slice(text.as_bytes());
}

/// The rows of a tensor, as the kernels take them.
pub(super) fn rows_of<'a>(gguf: &'a GgufFile, tensor: &TensorInfo) -> PackSource<'a> {
    PackSource { ty: tensor.ty, bytes: gguf.tensor_bytes(tensor) }
}

/// The packed layout of a matrix.
///
/// # Errors
/// [`ModelError::Unsupported`] when the kernels have none for its type and shape.
pub(super) fn layout_of(tensor: &TensorInfo) -> Result<PackedLayout> {
    let layout = match tensor.shape[..] {
        [rows, cols] => PackedLayout::for_ggml(tensor.ty, rows, cols),
        _ => None,
    };
    layout.ok_or_else(|| ModelError::Unsupported {
        what: format!(
            "tensor `{}` ({} {:?}) on the cpu backend",
            tensor.name,
            tensor.ty.name(),
            tensor.shape
        ),
        help: "use the reference backend (`--backend reference`)".into(),
    })
}
