//! The file as a whole: header, tensor table, data.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hapa_kernels::GgmlType;

use super::cursor::{Cursor, Defect};
use super::map::FileBytes;
use super::metadata::Metadata;
use super::stamp::FileStamp;
use crate::error::{ModelError, Result};

/// ggml tensors have at most four dimensions.
const MAX_DIMENSIONS: u32 = 4;
/// The format's own limit on the length of a tensor name.
const MAX_NAME_BYTES: usize = 64;
/// Name length, one byte of name, dimension count, one dimension, type, offset.
const MIN_TENSOR_INFO_BYTES: usize = 8 + 1 + 4 + 8 + 4 + 8;
/// Key length, one byte of key, value type, one byte of value.
const MIN_PAIR_BYTES: usize = 8 + 1 + 4 + 1;
/// Largest `general.alignment` that is taken; files use 32.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Where one tensor lies and how it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the file.
    pub name: String,
    /// How the numbers are stored.
    pub ty: GgmlType,
    /// Dimensions, outermost first: `[rows, columns]` of a matrix. One to four, none is zero.
    pub shape: Vec<usize>,
    /// Where the data starts, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked against overflow when the file was read.
        self.shape.iter().product()
    }
}

/// An opened and checked GGUF file.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    file: Arc<FileBytes>,
    /// None for a file that is in memory.
    opened: Option<Opened>,
}

/// The file behind a mapping, and what it was like before anything was read of it.
#[derive(Debug)]
struct Opened {
    file: File,
    stamp: FileStamp,
}

impl GgufFile {
    /// Maps a file and checks it. The file must not be truncated while it is open, and must not be changed in place,
    /// which [`Self::ensure_unchanged`] finds out; replacing it by rename is fine.
    ///
    /// # Errors
    /// [`ModelError::Io`] when it cannot be opened or mapped, [`ModelError::InvalidGguf`] when it breaks a
    /// rule of the format.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref();
        let io = |action| move |source| ModelError::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        // A folder opens on Unix and fails later with an obscure message.
        let metadata = file.metadata().map_err(io("read the size of"))?;
        if metadata.is_dir() {
            return Err(invalid(path, Defect::new("file", "is a folder, expected a file")));
        }
        let bytes = FileBytes::map(&file).map_err(io("map"))?;
        Self::check(bytes, path, Some(Opened { file, stamp: FileStamp::of(&metadata) }))
    }

    /// Checks a file that is in memory. `path` is only for messages.
    ///
    /// # Errors
    /// [`ModelError::InvalidGguf`] when it breaks a rule of the format.
    pub fn from_bytes(bytes: Vec<u8>, path: impl AsRef<Path>) -> Result<Arc<Self>> {
        Self::check(FileBytes::Owned(bytes.into()), path.as_ref(), None)
    }

    fn check(bytes: FileBytes, path: &Path, opened: Option<Opened>) -> Result<Arc<Self>> {
        let read = Self::read(Arc::new(bytes), path).map_err(|defect| invalid(path, defect))?;
        Ok(Arc::new(Self { opened, ..read }))
    }

    fn read(file: Arc<FileBytes>, path: &Path) -> Result<Self, Defect> {
        let bytes: &[u8] = &file;
        let mut cursor = Cursor::new(bytes);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.count(MIN_TENSOR_INFO_BYTES, "tensor count")?;
        let pair_count = cursor.count(MIN_PAIR_BYTES, "metadata count")?;
        let metadata = Metadata::read(&mut cursor, &file, pair_count, path)?;
        let alignment = read_alignment(&metadata)?;

        let mut tensors = Vec::with_capacity(tensor_count.min(1 << 16));
        let mut by_name = HashMap::with_capacity(tensor_count.min(1 << 16));
        for index in 0..tensor_count {
            let tensor = read_tensor_info(&mut cursor, alignment)
                .map_err(|defect| defect.within(&format!("tensor {index}")))?;
            if by_name.insert(tensor.name.clone(), index).is_some() {
                return Err(Defect::new(
                    format!("tensor {index}, name"),
                    format!("`{}` appears twice, expected once", tensor.name),
                ));
            }
            tensors.push(tensor);
        }
        place_tensors(&mut tensors, cursor.position(), alignment, bytes.len())?;
        Ok(Self { path: path.to_owned(), version, metadata, tensors, by_name, file, opened: None })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// A tensor by name that must be there.
    ///
    /// # Errors
    /// [`ModelError::InvalidGguf`] when the file has none of that name.
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensor(name)
            .ok_or_else(|| self.invalid(name, "is missing, expected a tensor of this name"))
    }

    /// The data of one of this file's tensors, [`TensorInfo::bytes`] long; empty for a tensor of another file
    /// that does not fit this one.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        usize::try_from(tensor.offset)
            .ok()
            .and_then(|start| self.file.get(start..start.checked_add(tensor.bytes)?))
            .unwrap_or_default()
    }

    /// The data of one of this file's tensors will not be read again soon: its pages leave this process's memory.
    pub(crate) fn forget_tensor(&self, tensor: &TensorInfo) {
        if let Ok(start) = usize::try_from(tensor.offset) {
            self.file.forget(start..start.saturating_add(tensor.bytes));
        }
    }

    /// What the file was like when it was opened; `None` for one that is in memory.
    pub fn stamp(&self) -> Option<FileStamp> {
        self.opened.as_ref().map(|opened| opened.stamp)
    }

    /// Proves that nobody wrote into the file since it was opened, so that what was read of it belongs together.
    ///
    /// # Errors
    /// [`ModelError::FileChanged`] when somebody did.
    pub fn ensure_unchanged(&self) -> Result<()> {
        let Some(Opened { file, stamp }) = &self.opened else { return Ok(()) };
        let now = file.metadata().map_err(|source| ModelError::Io {
            action: "read the size of",
            path: self.path.clone(),
            source,
        })?;
        match FileStamp::of(&now) == *stamp {
            true => Ok(()),
            false => Err(ModelError::FileChanged { path: self.path.clone() }),
        }
    }

    /// The whole file.
    pub fn file_bytes(&self) -> &[u8] {
        &self.file
    }

    /// An error about this file.
    pub(crate) fn invalid(
        &self,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> ModelError {
        invalid(&self.path, Defect::new(field, problem))
    }
}

fn invalid(path: &Path, defect: Defect) -> ModelError {
    ModelError::InvalidGguf { path: path.to_owned(), field: defect.field, problem: defect.problem }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Defect> {
    let magic: [u8; 4] = cursor.array("magic")?;
    if &magic != b"GGUF" {
        return Err(Defect::new(
            "magic",
            format!(
                "is \"{}\", expected \"GGUF\"; this is another kind of file or a broken download",
                magic.escape_ascii()
            ),
        ));
    }
    let version = cursor.u32("version")?;
    match version {
        2 | 3 => Ok(version),
        // Seen with its bytes swapped: the file was written for a big-endian machine.
        _ if matches!(version.swap_bytes(), 1..=3) => Err(Defect::new(
            "version",
            "is big endian, expected little endian; convert the file with gguf_convert_endian.py of llama.cpp",
        )),
        _ => Err(Defect::new(
            "version",
            format!("is {version}, expected 2 or 3; convert the model with a current tool"),
        )),
    }
}

fn read_alignment(metadata: &Metadata) -> Result<u64, Defect> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else {
        return Ok(32);
    };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => {
            Ok(alignment)
        }
        _ => Err(Defect::new(
            KEY,
            format!("is {value:?}, expected a power of two from 1 to {MAX_ALIGNMENT}"),
        )),
    }
}

/// Reads one entry of the tensor table. `offset` is still relative to the data section.
fn read_tensor_info(cursor: &mut Cursor<'_>, alignment: u64) -> Result<TensorInfo, Defect> {
    let name = cursor.string("name")?.to_owned();
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(Defect::new(
            "name",
            format!("has {} bytes, expected 1 to {MAX_NAME_BYTES}", name.len()),
        ));
    }
    read_layout(cursor, &name, alignment).map_err(|defect| defect.within(&format!("`{name}`")))
}

fn read_layout(cursor: &mut Cursor<'_>, name: &str, alignment: u64) -> Result<TensorInfo, Defect> {
    let dimensions = cursor.u32("dimension count")?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(Defect::new(
            "dimension count",
            format!("is {dimensions}, expected 1 to {MAX_DIMENSIONS}"),
        ));
    }
    // In the file the innermost dimension comes first.
    let mut innermost_first = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        innermost_first.push(cursor.u64("shape")?);
    }
    let type_id = cursor.u32("type")?;
    let offset = cursor.u64("offset")?;
    let ty = GgmlType::from_u32(type_id).ok_or_else(|| {
        Defect::new(
            "type",
            format!("is {type_id}, which is no known ggml type; the file is newer than this program or corrupted"),
        )
    })?;
    let bad_shape = |expected: &str| {
        Defect::new(
            "shape",
            format!(
                "is {innermost_first:?} (innermost first) of {}, expected {expected}",
                ty.name()
            ),
        )
    };
    if innermost_first.contains(&0) {
        return Err(bad_shape("no dimension of zero"));
    }
    let block = ty.block_elements() as u64;
    if innermost_first[0] % block != 0 {
        return Err(bad_shape(&format!("rows that are a multiple of {block} elements")));
    }
    // A signed 64-bit element count is ggml's own limit, and keeps later arithmetic in range.
    let elements = innermost_first
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(n))
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| bad_shape("fewer than 2^63 elements"))?;
    let bytes = (elements / block)
        .checked_mul(ty.block_bytes() as u64)
        .and_then(|n| usize::try_from(n).ok())
        .ok_or_else(|| bad_shape("data that fits memory"))?;
    if offset % alignment != 0 {
        return Err(Defect::new(
            "offset",
            format!("is {offset}, expected a multiple of the alignment {alignment}"),
        ));
    }
    let shape = innermost_first
        .iter()
        .rev()
        .map(|&n| usize::try_from(n).ok())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| bad_shape("dimensions that fit memory"))?;
    Ok(TensorInfo { name: name.to_owned(), ty, shape, offset, bytes })
}

/// Makes offsets absolute and checks that all data lies in the file without overlap.
fn place_tensors(
    tensors: &mut [TensorInfo],
    header_end: usize,
    alignment: u64,
    file_bytes: usize,
) -> Result<(), Defect> {
    // Cannot overflow: a header is a part of the file and the alignment is small.
    let data_start = (header_end as u64).next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes as u64 => tensor.offset = start,
            _ => {
                return Err(Defect::new(
                    format!("tensor `{}`, offset", tensor.name),
                    format!(
                        "{} bytes at offset {} of the data section, which starts at {data_start}, do not fit the file of {file_bytes} bytes; it is truncated or corrupted",
                        tensor.bytes, tensor.offset
                    ),
                ));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes as u64 > pair[1].offset {
            return Err(Defect::new(
                format!("tensor `{}`, offset", pair[1].name),
                format!("its data overlaps that of `{}`, expected none to overlap", pair[0].name),
            ));
        }
    }
    Ok(())
}
