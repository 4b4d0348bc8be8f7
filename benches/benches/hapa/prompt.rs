//! From text to tokens: tokenizer, chat template, fill-in-the-middle prompt.

use criterion::{Criterion, Throughput};
use hapa_model::{
    ChatMessage, ChatTemplate, EncodeOptions, FillInMiddle, FimRequest, Role, TextStream,
};

use crate::fixtures::{BenchModel, need, python};

const TEXT_BYTES: usize = 4 << 10;

pub(crate) fn bench(criterion: &mut Criterion, model: &BenchModel) {
    tokenize(criterion, model);
    prompts(criterion, model);
}

fn tokenize(criterion: &mut Criterion, model: &BenchModel) {
    let options = EncodeOptions { add_bos: false, parse_special: false };
    let text = python(TEXT_BYTES);
    let mut group = criterion.benchmark_group("tokenize");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function(format!("encode_4k/{}", model.id), |bencher| {
        let tokenizer = model.tokenizer();
        bencher.iter(|| need("encode", tokenizer.encode(text, options)));
    });
    group.bench_function(format!("decode_4k/{}", model.id), |bencher| {
        let tokenizer = model.tokenizer();
        let tokens = need("encode", tokenizer.encode(text, options));
        bencher.iter(|| tokenizer.decode(&tokens));
    });
    // One token at a time, as an answer is streamed: whole characters only, and no part of a stop string.
    group.bench_function(format!("stream_4k/{}", model.id), |bencher| {
        let tokenizer = model.tokenizer();
        let tokens = need("encode", tokenizer.encode(text, options));
        bencher.iter(|| {
            let mut stream =
                need("stream", TextStream::new(vec!["\n\n\n\n".to_owned(), "```".to_owned()]));
            let mut bytes = 0;
            for &token in &tokens {
                bytes += stream.push(&tokenizer.token_bytes(token)).text.len();
            }
            bytes + stream.finish().len()
        });
    });
    group.finish();
}

fn prompts(criterion: &mut Criterion, model: &BenchModel) {
    let mut group = criterion.benchmark_group("prompt");
    group.bench_function(format!("chat_template/{}", model.id), |bencher| {
        let template = need(model.id, ChatTemplate::from_gguf(model.file(), model.tokenizer()));
        let template = need(model.id, template.ok_or("the model has no chat template"));
        let messages = [
            ChatMessage::new(Role::System, "You write Python."),
            ChatMessage::new(Role::User, format!("Explain this:\n{}", python(1 << 10))),
            ChatMessage::new(Role::Assistant, "It compares numbers."),
            ChatMessage::new(Role::User, "Make it faster."),
        ];
        bencher.iter(|| need("render", template.render(&messages, true)));
    });
    // The small model has no tokens for this.
    if model.id.contains("coder") {
        group.bench_function(format!("fill_in_middle/{}", model.id), |bencher| {
            let fim = need(model.id, FillInMiddle::require(model.tokenizer(), model.id));
            let (prefix, suffix) = python(TEXT_BYTES).split_at(TEXT_BYTES / 2);
            let request = FimRequest {
                prefix: prefix.to_owned(),
                suffix: suffix.to_owned(),
                ..FimRequest::default()
            };
            bencher.iter(|| need("prompt", fim.prompt(model.tokenizer(), &request)));
        });
    }
    group.finish();
}
