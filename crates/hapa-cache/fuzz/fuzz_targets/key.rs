//! Two lists of fields, and two requests: their keys are equal exactly when they are.
#![no_main]

#[path = "../../tests/model/fields.rs"]
mod fields;

use fields::{Field, encode};
use hapa_cache::{Digest, RequestKey, SamplingKey, StreamShape};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// Short texts of few letters, so that two of them are often equal or differ by where they are cut.
fn text<'a>(bytes: &mut Unstructured<'a>) -> Result<&'a str> {
    let length = bytes.int_in_range(0..=6)?;
    Ok(std::str::from_utf8(bytes.bytes(length)?).unwrap_or("é"))
}

fn many<'a, T>(
    bytes: &mut Unstructured<'a>,
    mut one: impl FnMut(&mut Unstructured<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..bytes.int_in_range(0..=4)?).map(|_| one(bytes)).collect()
}

fn field(bytes: &mut Unstructured<'_>) -> Result<(u8, Field)> {
    let owned = |bytes: &mut Unstructured<'_>| text(bytes).map(str::to_owned);
    let tag = bytes.int_in_range(0..=3)?;
    let field = match bytes.int_in_range(0..=4)? {
        0 => Field::Text(owned(bytes)?),
        1 => Field::Absent,
        2 => Field::Unsigned(bytes.arbitrary()?),
        3 => Field::Texts(many(bytes, owned)?),
        _ => Field::Pairs(many(bytes, |bytes| Ok((owned(bytes)?, owned(bytes)?)))?),
    };
    Ok((tag, field))
}

fn lists(bytes: &mut Unstructured<'_>) -> Result<()> {
    let (a, b) = (many(bytes, field)?, many(bytes, field)?);
    assert_eq!(a == b, encode(&a).as_bytes() == encode(&b).as_bytes(), "{a:?} and {b:?}");
    Ok(())
}

/// What a [`RequestKey`] borrows.
#[derive(Debug, PartialEq)]
struct Owned<'a> {
    texts: [&'a str; 6],
    context: Option<&'a str>,
    file_path: Option<&'a str>,
    parts: Vec<(&'a str, &'a str)>,
    sampling: SamplingKey,
    max_tokens: u64,
    stop: Vec<String>,
    shape: StreamShape,
}

fn optional<'a>(bytes: &mut Unstructured<'a>) -> Result<Option<&'a str>> {
    Ok(if bytes.arbitrary()? { Some(text(bytes)?) } else { None })
}

fn owned<'a>(bytes: &mut Unstructured<'a>) -> Result<Owned<'a>> {
    let mut texts = [""; 6];
    for one in &mut texts {
        *one = text(bytes)?;
    }
    Ok(Owned {
        texts,
        context: optional(bytes)?,
        file_path: optional(bytes)?,
        parts: many(bytes, |bytes| Ok((text(bytes)?, text(bytes)?)))?,
        sampling: SamplingKey {
            temperature: *bytes.choose(&[0.0, -0.0, 0.5, f32::MIN_POSITIVE])?,
            top_k: bytes.int_in_range(0..=2)?,
            top_p: bytes.arbitrary()?,
            min_p: *bytes.choose(&[0.0, -0.0, 0.1])?,
            repetition_penalty: *bytes.choose(&[1.0, 1.1])?,
            repetition_window: bytes.int_in_range(0..=2)?,
            seed: if bytes.arbitrary()? { Some(bytes.int_in_range(0..=2)?) } else { None },
        },
        max_tokens: bytes.int_in_range(0..=2)?,
        stop: many(bytes, |bytes| text(bytes).map(str::to_owned))?,
        shape: StreamShape {
            logprobs: if bytes.arbitrary()? { Some(bytes.int_in_range(0..=1)?) } else { None },
        },
    })
}

impl Owned<'_> {
    fn key(&self) -> RequestKey<'_> {
        let [namespace, model_digest, template, task, prompt, language] = self.texts;
        RequestKey {
            namespace,
            model_digest,
            template,
            task,
            prompt,
            context: self.context,
            language,
            file_path: self.file_path,
            parts: &self.parts,
            sampling: self.sampling,
            max_tokens: self.max_tokens,
            stop: &self.stop,
            shape: self.shape,
        }
    }

    /// Without what can't change the answer.
    fn canonical(mut self) -> Self {
        let sampling = &mut self.sampling;
        if sampling.temperature == 0.0 {
            *sampling = SamplingKey { top_k: 0, top_p: 0.0, min_p: 0.0, seed: None, ..*sampling };
        }
        if sampling.repetition_penalty == 1.0 {
            sampling.repetition_window = 0;
        }
        self
    }
}

fn requests(bytes: &mut Unstructured<'_>) -> Result<()> {
    let (a, b) = (owned(bytes)?, owned(bytes)?);
    let (Ok(first), Ok(second)) = (a.key().digest(), b.key().digest()) else {
        assert!(!a.sampling.top_p.is_finite() || !b.sampling.top_p.is_finite());
        return Ok(());
    };
    assert_eq!(a.key().digest().ok(), Some(first), "the same request, the same key");
    assert_eq!(first.key.to_hex().parse::<Digest>().ok(), Some(first.key));
    let (a, b) = (a.canonical(), b.canonical());
    assert_eq!(a == b, first.key == second.key, "{a:?} and {b:?}");
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    // Too few bytes make no case.
    let _ = lists(&mut Unstructured::new(bytes));
    let _ = requests(&mut Unstructured::new(bytes));
});
