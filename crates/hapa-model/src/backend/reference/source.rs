//! Where weights come from: tensors by their GGUF names, as stored bytes.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::error::{ModelError, Result};
use crate::gguf::{GgmlType, GgufFile};

/// A tensor as it lies in a file.
pub(super) struct StoredTensor<'a> {
    /// Its element format.
    pub(super) dtype: GgmlDType,
    /// Outermost dimension first.
    pub(super) shape: Vec<usize>,
    /// The data, as long as type and shape say.
    pub(super) bytes: &'a [u8],
}

/// A file or folder of weights.
pub(super) trait WeightSource {
    /// The tensor with this GGUF name (`blk.3.attn_q.weight`); `None` when there is none.
    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>>;

    /// An error about one tensor.
    fn invalid(&self, name: &str, problem: String) -> ModelError;

    /// A tensor that must be there with this shape.
    fn require(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>> {
        let Some(tensor) = self.tensor(name)? else {
            return Err(
                self.invalid(name, format!("is missing, expected a tensor of shape {shape:?}"))
            );
        };
        if tensor.shape != shape {
            let problem = format!("has shape {:?}, expected {shape:?}", tensor.shape);
            return Err(self.invalid(name, problem));
        }
        Ok(tensor)
    }
}

/// Tensors of a GGUF file.
pub(super) struct GgufSource<'a> {
    file: &'a Arc<GgufFile>,
}

impl<'a> GgufSource<'a> {
    pub(super) fn new(file: &'a Arc<GgufFile>) -> Self {
        Self { file }
    }
}

impl WeightSource for GgufSource<'_> {
    fn tensor(&self, name: &str) -> Result<Option<StoredTensor<'_>>> {
        let Some(info) = self.file.tensor(name) else {
            return Ok(None);
        };
        Ok(Some(StoredTensor {
            dtype: candle_type(info.ty).ok_or_else(|| ModelError::Unsupported {
                what: format!("tensor `{name}` of type {}", info.ty.name()),
                help: "candle has no such type; convert the file to Q4_K_M, Q8_0 or F16".into(),
            })?,
            shape: info.shape.clone(),
            bytes: self.file.tensor_bytes(info),
        }))
    }

    fn invalid(&self, name: &str, problem: String) -> ModelError {
        ModelError::InvalidGguf {
            path: self.file.path().to_owned(),
            field: name.to_owned(),
            problem,
        }
    }
}

/// candle's name of a type.
fn candle_type(ty: GgmlType) -> Option<GgmlDType> {
    Some(match ty {
        GgmlType::F32 => GgmlDType::F32,
        GgmlType::F16 => GgmlDType::F16,
        GgmlType::BF16 => GgmlDType::BF16,
        GgmlType::Q4_0 => GgmlDType::Q4_0,
        GgmlType::Q4_1 => GgmlDType::Q4_1,
        GgmlType::Q5_0 => GgmlDType::Q5_0,
        GgmlType::Q5_1 => GgmlDType::Q5_1,
        GgmlType::Q8_0 => GgmlDType::Q8_0,
        GgmlType::Q2K => GgmlDType::Q2K,
        GgmlType::Q3K => GgmlDType::Q3K,
        GgmlType::Q4K => GgmlDType::Q4K,
        GgmlType::Q5K => GgmlDType::Q5K,
        GgmlType::Q6K => GgmlDType::Q6K,
        _ => return None,
    })
}

impl StoredTensor<'_> {
    /// Copies the bytes into a candle tensor of the same type.
    pub(super) fn quantised(&self) -> Result<QTensor> {
        quantised(self.dtype, self.bytes, &self.shape)
    }

    /// Rows `from..to` of a matrix as a tensor of their own.
    pub(super) fn quantised_rows(&self, from: usize, to: usize) -> Result<QTensor> {
        let columns: usize = self.shape[1..].iter().product();
        let row_bytes = columns / self.dtype.block_size() * self.dtype.type_size();
        let bytes = &self.bytes[from * row_bytes..to * row_bytes];
        quantised(self.dtype, bytes, &[to - from, columns])
    }

    /// The values as 32-bit floats.
    pub(super) fn float(&self) -> Result<Tensor> {
        Ok(self.quantised()?.dequantize(&Device::Cpu)?)
    }
}

fn quantised(dtype: GgmlDType, bytes: &[u8], shape: &[usize]) -> Result<QTensor> {
    /// The strictest alignment among candle's block types.
    const ALIGNMENT: usize = 8;
    // candle reads the bytes through typed pointers and panics when they are not aligned. Files with the usual
    // alignment of 32 never are; a file may ask for less.
    let misaligned = bytes.as_ptr().align_offset(ALIGNMENT) != 0;
    let mut copy = Vec::new();
    let aligned = if misaligned {
        copy.resize(bytes.len() + ALIGNMENT, 0u8);
        let start = copy.as_ptr().align_offset(ALIGNMENT);
        let place = &mut copy[start..start + bytes.len()];
        place.copy_from_slice(bytes);
        &*place
    } else {
        bytes
    };
    let storage = QStorage::from_data(aligned.into(), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?)
}
