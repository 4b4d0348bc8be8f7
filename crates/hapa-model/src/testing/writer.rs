//! Writes GGUF files: good ones for models, and bad ones field by field for tests of the reader.

use hapa_kernels::GgmlType;

/// A metadata value to write.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they name")]
pub enum WriterValue {
    U8(u8),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// A type number and the bytes that follow it, as they are.
    Raw(u32, Vec<u8>),
}

impl WriterValue {
    fn write(&self, out: &mut Vec<u8>) {
        let id = |out: &mut Vec<u8>, id: u32| out.extend(id.to_le_bytes());
        match self {
            Self::U8(v) => {
                id(out, 0);
                out.push(*v);
            }
            Self::U32(v) => {
                id(out, 4);
                out.extend(v.to_le_bytes());
            }
            Self::I32(v) => {
                id(out, 5);
                out.extend(v.to_le_bytes());
            }
            Self::F32(v) => {
                id(out, 6);
                out.extend(v.to_le_bytes());
            }
            Self::Bool(v) => {
                id(out, 7);
                out.push(u8::from(*v));
            }
            Self::String(v) => {
                id(out, 8);
                write_string(out, v);
            }
            Self::U64(v) => {
                id(out, 10);
                out.extend(v.to_le_bytes());
            }
            Self::Strings(v) => {
                write_array_head(out, 8, v.len());
                v.iter().for_each(|s| write_string(out, s));
            }
            Self::I32s(v) => {
                write_array_head(out, 5, v.len());
                v.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::F32s(v) => {
                write_array_head(out, 6, v.len());
                v.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Raw(type_id, bytes) => {
                id(out, *type_id);
                out.extend(bytes);
            }
        }
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_array_head(out: &mut Vec<u8>, element: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(element.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

#[derive(Debug, Clone)]
struct WriterTensor {
    name: String,
    innermost_first: Vec<u64>,
    type_id: u32,
    /// `None`: right after the one before.
    offset: Option<u64>,
    data: Vec<u8>,
}

/// Collects metadata and tensors, then lays them out as one file. Checks nothing, on purpose.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    version: u32,
    alignment: u64,
    pairs: Vec<(String, WriterValue)>,
    tensors: Vec<WriterTensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// An empty file of version 3.
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, pairs: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version of the format.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets the padding between tensors, without writing it to the metadata.
    pub fn alignment(mut self, alignment: u64) -> Self {
        self.alignment = alignment;
        self
    }

    /// Adds a metadata value.
    pub fn pair(&mut self, key: impl Into<String>, value: WriterValue) -> &mut Self {
        self.pairs.push((key.into(), value));
        self
    }

    /// Sets a metadata value that may be there already.
    pub fn replace(&mut self, key: &str, value: WriterValue) -> &mut Self {
        self.pairs.retain(|(known, _)| known != key);
        self.pair(key, value)
    }

    /// Adds a tensor of `shape`, outermost first.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        ty: GgmlType,
        shape: &[usize],
        data: Vec<u8>,
    ) -> &mut Self {
        self.tensors.push(WriterTensor {
            name: name.into(),
            innermost_first: shape.iter().rev().map(|&n| n as u64).collect(),
            type_id: ty.to_u32(),
            offset: None,
            data,
        });
        self
    }

    /// Adds an entry to the tensor table as given, without data: `dimensions` innermost first.
    pub fn raw_tensor(
        &mut self,
        name: impl Into<String>,
        dimensions: &[u64],
        type_id: u32,
        offset: u64,
    ) -> &mut Self {
        self.tensors.push(WriterTensor {
            name: name.into(),
            innermost_first: dimensions.to_vec(),
            type_id,
            offset: Some(offset),
            data: Vec::new(),
        });
        self
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(b"GGUF");
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            write_string(&mut out, key);
            value.write(&mut out);
        }
        let align = |n: u64| n.next_multiple_of(self.alignment.max(1));
        let mut next = 0u64;
        for tensor in &self.tensors {
            write_string(&mut out, &tensor.name);
            out.extend((tensor.innermost_first.len() as u32).to_le_bytes());
            for n in &tensor.innermost_first {
                out.extend(n.to_le_bytes());
            }
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            if tensor.offset.is_none() {
                next = align(next + tensor.data.len() as u64);
            }
        }
        for tensor in &self.tensors {
            out.resize(align(out.len() as u64) as usize, 0);
            out.extend(&tensor.data);
        }
        out.resize(align(out.len() as u64) as usize, 0);
        out
    }
}
