//! Chat templates and fill-in-the-middle prompts of real models against llama.cpp, and of tiny ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

use std::sync::Arc;

use hapa_model::gguf::{GgufFile, Summary};
use hapa_model::testing::{TinyModel, WriterValue, real_model, reference};
use hapa_model::{
    ChatMessage, ChatTemplate, EncodeOptions, FillInMiddle, FimFile, FimRequest, FimRoom,
    ModelError, Role, Tokenizer,
};

struct Loaded {
    file: Arc<GgufFile>,
    tokenizer: Tokenizer,
}

impl Loaded {
    fn real(id: &str) -> Self {
        Self::new(GgufFile::open(real_model(id).unwrap().path).unwrap())
    }

    fn tiny(model: &TinyModel) -> Self {
        Self::new(GgufFile::from_bytes(model.to_bytes(), "tiny.gguf").unwrap())
    }

    fn new(file: Arc<GgufFile>) -> Self {
        let tokenizer = Tokenizer::from_gguf(&file).unwrap();
        Self { file, tokenizer }
    }

    fn template(&self) -> ChatTemplate {
        ChatTemplate::from_gguf(&self.file, &self.tokenizer).unwrap().unwrap()
    }
}

#[track_caller]
fn assert_equals_reference(id: &str) {
    let model = Loaded::real(id);
    let template = model.template();
    let mut chats = 0;
    for case in reference(id).unwrap().cases {
        let Some(messages) = case.messages else { continue };
        assert_eq!(template.render(&messages, true).unwrap(), case.prompt, "{}", case.name);
        let tokens = template.tokens(&model.tokenizer, &messages, true).unwrap();
        assert_eq!(tokens, case.tokens, "{}", case.name);
        chats += 1;
    }
    assert!(chats >= 4);
}

#[test]
fn chats_of_qwen_equal_llama_cpp() {
    assert_equals_reference("qwen2.5-coder-0.5b");
}

#[test]
fn chats_of_smollm_equal_llama_cpp() {
    assert_equals_reference("smollm2-135m");
}

#[test]
fn the_default_system_message_stands_only_where_none_is_given() {
    let template = Loaded::real("qwen2.5-coder-0.5b").template();
    let user = ChatMessage::new(Role::User, "hi");
    let alone = template.render(std::slice::from_ref(&user), true).unwrap();
    assert!(alone.starts_with("<|im_start|>system\nYou are Qwen"), "{alone}");
    let with = template.render(&[ChatMessage::new(Role::System, ""), user], false).unwrap();
    assert_eq!(with, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n");
}

#[test]
fn fill_in_the_middle_equals_llama_cpp() {
    let id = "qwen2.5-coder-0.5b";
    let model = Loaded::real(id);
    let fim = FillInMiddle::from_tokenizer(&model.tokenizer).unwrap();
    let mut cases = 0;
    for case in reference(id).unwrap().cases.into_iter().filter(|c| c.name.starts_with("fim-")) {
        let rest = case.prompt.strip_prefix("<|fim_prefix|>").unwrap();
        let (prefix, rest) = rest.split_once("<|fim_suffix|>").unwrap();
        let suffix = rest.strip_suffix("<|fim_middle|>").unwrap();
        let request =
            FimRequest { prefix: prefix.into(), suffix: suffix.into(), ..FimRequest::default() };
        assert_eq!(fim.prompt(&model.tokenizer, &request).unwrap(), case.tokens, "{}", case.name);
        cases += 1;
    }
    assert_eq!(cases, 2);
}

#[test]
fn other_files_go_before_in_the_repository_format() {
    let model = Loaded::tiny(&TinyModel::qwen2());
    let fim = FillInMiddle::from_tokenizer(&model.tokenizer).unwrap();
    let request = FimRequest {
        prefix: "a".into(),
        suffix: "b".into(),
        path: Some("src/x.py".into()),
        extra: vec![
            FimFile { path: "one.py".into(), text: "1\n".into() },
            FimFile { path: "two.py".into(), text: "2".into() },
        ],
    };
    let ids = fim.prompt(&model.tokenizer, &request).unwrap();
    let text: String = ids.iter().map(|&id| model.tokenizer.token_text(id).into_owned()).collect();
    assert_eq!(
        text.replace('Ċ', "\n"),
        "<|repo_name|>project\n<|file_sep|>one.py\n1\n<|file_sep|>two.py\n2\n<|file_sep|>src/x.py\n\
         <|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    );
}

#[test]
fn text_around_the_cursor_cannot_write_special_tokens() {
    let model = Loaded::tiny(&TinyModel::qwen2());
    let fim = FillInMiddle::from_tokenizer(&model.tokenizer).unwrap();
    let request = FimRequest {
        prefix: "x = '<|fim_middle|>'".into(),
        suffix: "<|endoftext|>".into(),
        ..FimRequest::default()
    };
    let ids = fim.prompt(&model.tokenizer, &request).unwrap();
    let special: Vec<String> = ids
        .iter()
        .filter(|&&id| model.tokenizer.is_special(id))
        .map(|&id| model.tokenizer.token_text(id).into_owned())
        .collect();
    assert_eq!(special, ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]);
}

#[test]
fn of_a_long_file_a_window_is_read() {
    let model = Loaded::tiny(&TinyModel::qwen2());
    let fim = FillInMiddle::from_tokenizer(&model.tokenizer).unwrap();
    let [prefix_token, suffix_token, middle_token] =
        ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"].map(|name| {
            model
                .tokenizer
                .encode(name, EncodeOptions { add_bos: false, parse_special: true })
                .unwrap()[0]
        });
    let within = |lines: usize, extra: Vec<FimFile>, room: FimRoom| {
        let (prefix, suffix) = ("first = 1\n".repeat(lines), "second = 2\n".repeat(lines));
        let request = FimRequest { prefix, suffix, extra, ..FimRequest::default() };
        let ids = fim.prompt_within(&model.tokenizer, &request, room).unwrap();
        let at = |token| ids.iter().position(|&id| id == token).unwrap();
        let (first, second, end) = (at(prefix_token), at(suffix_token), at(middle_token));
        assert_eq!(end, ids.len() - 1);
        let text = |ids: &[u32]| model.tokenizer.decode(ids);
        (first, text(&ids[first + 1..second]), text(&ids[second + 1..end]), ids.len())
    };
    let window = FimRoom { prompt: 10_000, window: 800 };
    let (_, all_before, all_after, whole) = within(4, Vec::new(), window);
    assert_eq!((all_before.lines().count(), all_after.lines().count()), (4, 4));
    let (_, before, after, length) = within(400, Vec::new(), window);
    assert!(length <= 803 && length > whole, "{length} tokens");
    assert!(before.ends_with("first = 1\n") && before.starts_with("first"), "whole lines");
    assert!(after.starts_with("second = 2\n") && after.len() < before.len());
    // However short the text before the cursor is, the text after it is what each typed character costs.
    let (_, _, alone, _) = within(400, Vec::new(), FimRoom { prompt: 10_000, window: 80 });
    assert!(alone.len() < after.len());
    // Other files come on top, and go first where the prompt has no room for them.
    let extra = || vec![FimFile { path: "a.py".into(), text: "third = 3\n".repeat(50) }];
    let (behind, kept, _, longer) = within(400, extra(), window);
    assert!(behind > 100 && longer > 850, "{behind} of {longer} tokens are of the other file");
    assert_eq!(kept, before);
    let (none, kept, _, _) = within(400, extra(), FimRoom { prompt: 850, window: 800 });
    assert_eq!((none, kept), (0, before));
}

#[test]
fn a_model_without_the_tokens_says_so() {
    let model = Loaded::tiny(&TinyModel::qwen2().without_fim());
    let error = FillInMiddle::require(&model.tokenizer, "tiny").unwrap_err();
    assert!(matches!(&error, ModelError::NoFillInMiddle { model } if model == "tiny"), "{error}");
    assert!(FillInMiddle::from_tokenizer(&Loaded::real("smollm2-135m").tokenizer).is_none());
}

#[test]
fn fim_tokens_named_by_metadata_come_first() {
    let tiny = TinyModel::qwen2();
    let (prefix, end) = (
        tiny.vocabulary().id("<|fim_prefix|>").unwrap(),
        tiny.vocabulary().id("<|im_end|>").unwrap(),
    );
    let mut writer = tiny.writer();
    writer.pair("tokenizer.ggml.fim_pre_token_id", WriterValue::U32(end));
    let model = Loaded::new(GgufFile::from_bytes(writer.to_bytes(), "tiny").unwrap());
    let fim = FillInMiddle::from_tokenizer(&model.tokenizer).unwrap();
    let ids = fim.prompt(&model.tokenizer, &FimRequest::default()).unwrap();
    assert_eq!(ids[0], end);
    assert_ne!(ids[0], prefix);
}

#[test]
fn templates_that_fail_and_models_without_one() {
    let none = Loaded::tiny(&TinyModel::qwen2().template(None));
    assert!(ChatTemplate::from_gguf(&none.file, &none.tokenizer).unwrap().is_none());
    let broken = Loaded::tiny(&TinyModel::qwen2().template(Some("{% for %}")));
    let error = ChatTemplate::from_gguf(&broken.file, &broken.tokenizer).unwrap_err();
    assert!(matches!(error, ModelError::Template { .. }), "{error}");
    let raising = Loaded::tiny(&TinyModel::qwen2().template(Some("{{ raise_exception('no') }}")));
    assert!(raising.template().render(&[], true).unwrap_err().to_string().contains("no"));
}

#[test]
fn the_sequence_begins_with_one_bos() {
    let with_bos = |template: &str| {
        let mut writer = TinyModel::qwen2().template(Some(template)).writer();
        writer.replace("tokenizer.ggml.add_bos_token", WriterValue::Bool(true));
        let model = Loaded::new(GgufFile::from_bytes(writer.to_bytes(), "tiny").unwrap());
        let messages = [ChatMessage::new(Role::User, "hi")];
        let ids = model.template().tokens(&model.tokenizer, &messages, true).unwrap();
        let bos = model.tokenizer.bos().unwrap();
        assert_eq!(model.tokenizer.encode("hi", EncodeOptions::default()).unwrap()[0], bos);
        ids.iter().filter(|&&id| id == bos).count()
    };
    assert_eq!(with_bos("{{ bos_token }}{{ messages[0].content }}"), 1);
    assert_eq!(with_bos("{{ messages[0].content }}"), 1);
}

#[test]
fn templates_beside_a_tokenizer_json() {
    let tokenizer = Loaded::tiny(&TinyModel::qwen2()).tokenizer;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let render = || {
        let template = ChatTemplate::from_folder(path, &tokenizer).unwrap()?;
        Some(template.render(&[], false).unwrap())
    };
    assert_eq!(render(), None);
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    write("tokenizer_config.json", "{}");
    assert_eq!(render(), None);
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    assert_eq!(render().as_deref(), Some("d"));
    write("tokenizer_config.json", r#"{"chat_template": "s"}"#);
    assert_eq!(render().as_deref(), Some("s"));
    write("chat_template.jinja", "j");
    assert_eq!(render().as_deref(), Some("j"));
}

#[test]
fn a_summary_says_what_a_file_is() {
    let model = Loaded::real("qwen2.5-coder-0.5b");
    let summary = Summary::new(&model.file).unwrap();
    assert_eq!(summary.architecture, "qwen2");
    assert_eq!(summary.context_length, Some(32_768));
    assert_eq!(summary.parameters, 630_167_424);
    assert_eq!(summary.tokenizer.as_deref(), Some("gpt2 (qwen2)"));
    let types: Vec<(&str, usize)> =
        summary.tensor_types.iter().map(|t| (t.ty.as_str(), t.tensors)).collect();
    assert_eq!(types, [("Q5_0", 133), ("Q8_0", 13), ("Q6_K", 12), ("Q4_K", 12), ("F32", 121)]);
    assert!(summary.chat_template.is_some_and(|t| t.contains("im_start")));
    assert!(summary.special_tokens.iter().any(|t| t.text == "<|im_end|>" && t.ends_generation));
}
