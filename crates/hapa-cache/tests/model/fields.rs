//! A list of fields, as an encoder sees it: what `tests/key.rs` and the fuzz target `key` encode.

use hapa_cache::KeyEncoder;

/// One field of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Field {
    Text(String),
    Absent,
    Unsigned(u64),
    Texts(Vec<String>),
    Pairs(Vec<(String, String)>),
}

/// The fields with their tags, encoded.
pub(crate) fn encode(fields: &[(u8, Field)]) -> KeyEncoder {
    let mut encoder = KeyEncoder::new("test", 1);
    for (tag, field) in fields {
        match field {
            Field::Text(text) => encoder.text(*tag, text),
            Field::Absent => encoder.absent(*tag),
            Field::Unsigned(value) => encoder.unsigned(*tag, *value),
            Field::Texts(texts) => encoder.texts(*tag, texts),
            Field::Pairs(pairs) => {
                let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
                encoder.pairs(*tag, &pairs)
            }
        };
    }
    encoder
}
