//! Any bytes as a GGUF file: reading ends with a result, and what is accepted can be used.
#![no_main]

use hapa_model::gguf::{GgufFile, Summary, Value};
use hapa_model::{ChatTemplate, EncodeOptions, ModelConfig, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: Vec<u8>| {
    let Ok(file) = GgufFile::from_bytes(bytes, "fuzz.gguf") else {
        return;
    };
    for tensor in file.tensors() {
        assert_eq!(file.tensor_bytes(tensor).len(), tensor.bytes);
    }
    for key in file.metadata().keys() {
        if let Some(array) = file.metadata().get(key).and_then(Value::as_array) {
            std::hint::black_box((array.i32s(), array.f32s(), array.strings().map(|s| s.iter().count())));
        }
    }
    let _ = ModelConfig::from_gguf(&file);
    let _ = Summary::new(&file);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        let text = "def f(x):\n    return x  # 한글 <|im_end|>";
        if let Ok(ids) = tokenizer.encode(text, EncodeOptions::default()) {
            std::hint::black_box(tokenizer.decode(&ids));
        }
        if let Ok(Some(template)) = ChatTemplate::from_gguf(&file, &tokenizer) {
            let _ = template.render(&[], true);
        }
    }
});
