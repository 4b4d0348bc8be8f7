//! Metadata values: scalars by value, strings and arrays as places in the file.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::cursor::{Cursor, Defect};
use super::map::FileBytes;

/// The type of a metadata value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the types they name")]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub(crate) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one scalar in a file; for strings and arrays the least that one can take.
    pub(crate) fn min_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::String => 8,
            Self::Array => 12,
        }
    }

    fn read(cursor: &mut Cursor<'_>, field: &str) -> Result<Self, Defect> {
        let id = cursor.u32(field)?;
        Self::from_id(id).ok_or_else(|| {
            Defect::new(field, format!("has value type {id}, expected one of 0 to 12"))
        })
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        })
    }
}

/// One metadata value.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the variants are the types they name")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value as an unsigned integer, whatever its width; `None` for negative ones and other types.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::U64(v) => Some(v),
            Self::I8(v) => v.try_into().ok(),
            Self::I16(v) => v.try_into().ok(),
            Self::I32(v) => v.try_into().ok(),
            Self::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a number of single precision; integers are not converted.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(v) => Some(v),
            Self::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The value as a truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }

    pub(crate) fn read(
        cursor: &mut Cursor<'_>,
        file: &Arc<FileBytes>,
        key: &str,
    ) -> Result<Self, Defect> {
        Ok(match ValueType::read(cursor, key)? {
            ValueType::U8 => Self::U8(u8::from_le_bytes(cursor.array(key)?)),
            ValueType::I8 => Self::I8(i8::from_le_bytes(cursor.array(key)?)),
            ValueType::U16 => Self::U16(u16::from_le_bytes(cursor.array(key)?)),
            ValueType::I16 => Self::I16(i16::from_le_bytes(cursor.array(key)?)),
            ValueType::U32 => Self::U32(u32::from_le_bytes(cursor.array(key)?)),
            ValueType::I32 => Self::I32(i32::from_le_bytes(cursor.array(key)?)),
            ValueType::F32 => Self::F32(f32::from_le_bytes(cursor.array(key)?)),
            ValueType::U64 => Self::U64(u64::from_le_bytes(cursor.array(key)?)),
            ValueType::I64 => Self::I64(i64::from_le_bytes(cursor.array(key)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(cursor.array(key)?)),
            ValueType::Bool => match cursor.array::<1>(key)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [other] => {
                    return Err(Defect::new(
                        key,
                        format!("is a bool of value {other}, expected 0 or 1"),
                    ));
                }
            },
            ValueType::String => Self::String(cursor.string(key)?.to_owned()),
            ValueType::Array => Self::Array(Array::read(cursor, file, key)?),
        })
    }
}

/// An array of scalars or strings that stays in the file.
#[derive(Clone)]
pub struct Array {
    element: ValueType,
    len: usize,
    /// Where the elements lie in the file, length prefixes of strings included.
    data: Range<usize>,
    /// Ends of the strings from the start of `data`; empty for scalars.
    ends: Arc<[u32]>,
    file: Arc<FileBytes>,
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, file: &Arc<FileBytes>, key: &str) -> Result<Self, Defect> {
        let element = ValueType::read(cursor, key)?;
        if element == ValueType::Array {
            // The format allows it, no known model uses it, and llama.cpp refuses it as well.
            return Err(Defect::new(
                key,
                "is an array of arrays, expected an array of numbers or strings",
            ));
        }
        let len = cursor.count(element.min_bytes(), key)?;
        let start = cursor.position();
        let mut ends = Vec::new();
        if element == ValueType::String {
            ends.reserve_exact(len);
            for _ in 0..len {
                cursor.string(key)?;
                let end = u32::try_from(cursor.position() - start).map_err(|_| {
                    Defect::new(key, "is an array of more than 4 GiB, expected less")
                })?;
                ends.push(end);
            }
        } else {
            // `count` proved that the product fits the file.
            cursor.take(len * element.min_bytes(), key)?;
        }
        Ok(Self {
            element,
            len,
            data: start..cursor.position(),
            ends: ends.into(),
            file: Arc::clone(file),
        })
    }

    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The array's strings; `None` when the elements are of another type.
    pub fn strings(&self) -> Option<StringArray<'_>> {
        (self.element == ValueType::String)
            .then(|| StringArray { data: &self.file[self.data.clone()], ends: &self.ends })
    }

    /// The elements as i32 (unsigned and narrower ones are converted); `None` when one does not fit or
    /// the elements are no integers.
    pub fn i32s(&self) -> Option<Vec<i32>> {
        let data = &self.file[self.data.clone()];
        let width = self.element.min_bytes();
        let items = data.chunks_exact(width);
        match self.element {
            ValueType::I32 => Some(items.map(|b| i32::from_le_bytes(fixed(b))).collect()),
            ValueType::U32 => items.map(|b| u32::from_le_bytes(fixed(b)).try_into().ok()).collect(),
            ValueType::I16 => Some(items.map(|b| i16::from_le_bytes(fixed(b)).into()).collect()),
            ValueType::U16 => Some(items.map(|b| u16::from_le_bytes(fixed(b)).into()).collect()),
            ValueType::I8 => Some(items.map(|b| i8::from_le_bytes(fixed(b)).into()).collect()),
            ValueType::U8 => Some(data.iter().map(|&b| b.into()).collect()),
            ValueType::I64 => items.map(|b| i64::from_le_bytes(fixed(b)).try_into().ok()).collect(),
            ValueType::U64 => items.map(|b| u64::from_le_bytes(fixed(b)).try_into().ok()).collect(),
            ValueType::F32
            | ValueType::F64
            | ValueType::Bool
            | ValueType::String
            | ValueType::Array => None,
        }
    }

    /// The elements as f32; `None` when they are no floating-point numbers.
    pub fn f32s(&self) -> Option<Vec<f32>> {
        let items = self.file[self.data.clone()].chunks_exact(self.element.min_bytes());
        match self.element {
            ValueType::F32 => Some(items.map(|b| f32::from_le_bytes(fixed(b))).collect()),
            ValueType::F64 => Some(items.map(|b| f64::from_le_bytes(fixed(b)) as f32).collect()),
            _ => None,
        }
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the elements: there may be hundreds of thousands.
        write!(f, "[{}; {}]", self.element, self.len)
    }
}

/// A slice of chunks_exact as an array: the widths agree by construction, zeros otherwise.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// Strings of a metadata array, read in place.
#[derive(Debug, Clone, Copy)]
pub struct StringArray<'a> {
    data: &'a [u8],
    ends: &'a [u32],
}

impl<'a> StringArray<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index` as bytes. They were checked to be UTF-8 when the file was opened.
    pub fn bytes(&self, index: usize) -> Option<&'a [u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1] as usize,
        };
        // Eight bytes of length stand before each string.
        self.data.get(start + 8..end)
    }

    /// String `index`.
    pub fn get(&self, index: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(index)?).ok()
    }

    /// All strings as bytes, in order.
    pub fn iter_bytes(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let (data, mut start) = (self.data, 0);
        self.ends.iter().map(move |&end| {
            let string = &data[start + 8..end as usize];
            start = end as usize;
            string
        })
    }

    /// All strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.iter_bytes().map(|bytes| std::str::from_utf8(bytes).unwrap_or_default())
    }
}
