//! The packed store: weights in the kernels' layout, made once, mapped from then on.
//!
//! Beside `model.gguf` lies `model.gguf.packed`: a head that names the model's digest, the layout's version and
//! every tensor; the matrices; a table, whose rows are as in the model file; and checksums (XXH3, against accidents,
//! not attackers: who can write to the store can replace the model as well). A file whose head differs from the
//! [`Plan`] that the GGUF file asks for, or whose checksums fail, is stale or damaged and is made again.
//!
//! Packing writes straight into a mapping of a temporary file, so that the packed bytes exist once, in the page
//! cache. The file gets its name by an atomic rename as soon as it is whole.
//! Where no file can be made (read-only folder, full disk) the bytes stay in memory and a warning says so.
//! Either way nothing of the model file is needed afterwards: who owns it may write into it while the model is in use.
//!
//! The layout is the same for all instruction sets, so one file serves them all.

mod plan;
mod storage;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hapa_kernels::{PackedLayout, PackedView, Team, pack_matrix};
use twox_hash::XxHash3_64;

use self::plan::{CHECKED_BYTES, Plan, layout_of, rows_of};
use self::storage::{Draft, Storage};
use crate::error::{ModelError, Result};
use crate::gguf::{GgufFile, TensorInfo};
use crate::store::{LoadEvent, ProgressSink};

/// All packed matrices of one model, in the order of the names that were asked for, and its table.
#[derive(Debug)]
pub(super) struct PackedWeights {
    storage: Storage,
    matrices: Vec<(PackedLayout, Range<usize>)>,
    table: Range<usize>,
}

/// Everything that packing needs to know of a model.
pub(super) struct PackRequest<'a> {
    pub(super) gguf: &'a GgufFile,
    /// SHA-256 of the model file.
    pub(super) digest: &'a str,
    /// Tensors to pack.
    pub(super) names: &'a [String],
    /// A tensor to keep as it is, since single rows of it are read and not the whole.
    pub(super) table: Option<&'a str>,
}

/// Where the packed file of a model lies, once it was made.
pub fn packed_path(model: &Path) -> PathBuf {
    let mut name = model.as_os_str().to_owned();
    name.push(".packed");
    name.into()
}

/// Whether the kernels can take a matrix.
pub(super) fn can_pack(tensor: &TensorInfo) -> Result<()> {
    layout_of(tensor).map(drop)
}

impl PackedWeights {
    /// Maps the packed file of a model, or makes it.
    ///
    /// # Errors
    /// When a tensor cannot be packed, memory runs out, the model file changes meanwhile, or the load was cancelled
    /// through `progress`.
    pub(super) fn open(
        request: &PackRequest<'_>,
        team: &mut Team,
        progress: &dyn ProgressSink,
    ) -> Result<Self> {
        let plan = Plan::new(request)?;
        let path = packed_path(request.gguf.path());
        let storage = match read(&path, &plan, team) {
            Ok(storage) => storage,
            Err(why) => {
                tracing::info!(path = %path.display(), why, "packing the weights");
                let mut draft = Draft::new(&path, plan.file_bytes())?;
                fill(&mut draft, &plan, request, (team, progress))?;
                // What was read of a file that changed must not be kept under the digest of what it was.
                request.gguf.ensure_unchanged()?;
                draft.finish(&path)
            }
        };
        let matrices = plan.entries.iter();
        let matrices =
            matrices.map(|e| (e.layout, e.offset..e.offset + e.layout.bytes())).collect();
        Ok(Self { storage, matrices, table: plan.table })
    }

    /// One matrix, by its place among the names that were asked for.
    pub(super) fn view(&self, index: usize) -> PackedView<'_> {
        let (layout, range) = &self.matrices[index];
        #[expect(clippy::expect_used, reason = "the range was made from the layout's own length")]
        PackedView::new(*layout, &self.storage[range.clone()]).expect("as long as its layout")
    }

    /// The table's rows after each other, as in the model file; nothing where none was asked for.
    pub(super) fn table(&self) -> &[u8] {
        &self.storage[self.table.clone()]
    }

    /// The layout of a matrix.
    pub(super) fn layout(&self, index: usize) -> &PackedLayout {
        &self.matrices[index].0
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Bytes under checksum `index`.
fn checked_range(plan: &Plan, index: usize) -> Range<usize> {
    let start = index * CHECKED_BYTES;
    start..(start + CHECKED_BYTES).min(plan.bytes)
}

/// Maps a packed file and proves that it is whole and the one that is wanted.
fn read(path: &Path, plan: &Plan, team: &mut Team) -> Result<Storage, String> {
    let storage = Storage::map(path).map_err(|e| e.to_string())?;
    if storage.len() != plan.file_bytes() {
        return Err(format!("it has {} bytes, {} are expected", storage.len(), plan.file_bytes()));
    }
    if !storage.starts_with(&plan.head) {
        return Err("it was made for another model, layout or version".into());
    }
    let damaged = AtomicBool::new(false);
    team.for_each_piece(plan.checksums(), 1, &|_, piece| {
        for index in piece {
            let range = checked_range(plan, index);
            let actual = checksum(&storage[range.clone()]).to_le_bytes();
            // The matrices are read with every token and stay; of the table only some rows are.
            if range.start >= plan.table.start {
                storage.forget(range);
            }
            let at = plan.bytes + 8 * index;
            if storage[at..at + 8] != actual {
                damaged.store(true, Ordering::Relaxed);
            }
        }
    });
    if damaged.into_inner() { Err("a checksum is wrong".into()) } else { Ok(storage) }
}

/// Writes head, matrices, table and checksums.
fn fill(
    draft: &mut Draft,
    plan: &Plan,
    request: &PackRequest<'_>,
    (team, progress): (&mut Team, &dyn ProgressSink),
) -> Result<()> {
    draft[..plan.head.len()].copy_from_slice(&plan.head);
    for (done, (entry, name)) in plan.entries.iter().zip(request.names).enumerate() {
        if progress.is_cancelled() {
            return Err(ModelError::LoadAbandoned);
        }
        let tensor = request.gguf.require_tensor(name)?;
        let source = rows_of(request.gguf, tensor);
        let target = &mut draft[entry.offset..entry.offset + entry.layout.bytes()];
        pack_matrix(team, &entry.layout, source, target)
            .map_err(|e| ModelError::Engine { problem: format!("packing `{name}`: {e}") })?;
        // Else a model would be in memory twice when the last of it is packed.
        request.gguf.forget_tensor(tensor);
        progress.event(&LoadEvent::Packing { done: done + 1, total: plan.entries.len() });
    }
    if let Some(name) = request.table {
        let tensor = request.gguf.require_tensor(name)?;
        draft[plan.table.clone()].copy_from_slice(request.gguf.tensor_bytes(tensor));
        request.gguf.forget_tensor(tensor);
    }
    let sums: Vec<_> = (0..plan.checksums()).map(|_| std::sync::OnceLock::new()).collect();
    let bytes: &[u8] = draft;
    team.for_each_piece(sums.len(), 1, &|_, piece| {
        for index in piece {
            sums[index].get_or_init(|| checksum(&bytes[checked_range(plan, index)]));
        }
    });
    for (kept, sum) in draft[plan.bytes..].chunks_exact_mut(8).zip(sums) {
        kept.copy_from_slice(&sum.into_inner().unwrap_or_default().to_le_bytes());
    }
    Ok(())
}
