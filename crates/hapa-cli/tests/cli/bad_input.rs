//! Bad input: a clear message, the right exit code, nothing left half-written, no panic.

use std::ffi::OsStr;

use hapa_model::testing::TinyModel;

use crate::sandbox::{Ran, Sandbox, arg};

/// Runs `generate` on a model file of these bytes, which must fail and leave only what was there.
fn generate_from(name: &str, bytes: &[u8]) -> (Ran, String) {
    let sandbox = Sandbox::new();
    let path = arg(&sandbox.file(name, bytes));
    let ran = sandbox.run(&["generate", "hello", "--model", &path]);
    let models = std::fs::read_dir(sandbox.path("")).unwrap().flatten();
    let models: Vec<_> = models.map(|entry| entry.file_name()).filter(|n| n != "home").collect();
    assert_eq!(models, [OsStr::new(name)], "nothing is left beside the file");
    (ran, path)
}

#[test]
fn files_that_are_no_models() {
    let good = TinyModel::qwen2().to_bytes();
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let zero_alignment = {
        // magic, version 3, no tensors, one key: general.alignment, a u32, 0.
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(0_u64.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(17_u64.to_le_bytes());
        file.extend(b"general.alignment");
        file.extend(4_u32.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        file
    };
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("truncated.gguf", good[..good.len() / 2].to_vec(), ""),
        ("header.gguf", good[..100].to_vec(), ""),
        ("magic.gguf", changed(0, b"GGML"), "magic"),
        ("version.gguf", changed(4, &[99]), "version"),
        ("tensors.gguf", changed(8, &u64::MAX.to_le_bytes()), "tensor"),
        ("keys.gguf", changed(16, &u64::MAX.to_le_bytes()), ""),
        ("alignment.gguf", zero_alignment, "general.alignment"),
        ("empty.gguf", Vec::new(), ""),
    ];
    for (name, bytes, field) in cases {
        let (ran, path) = generate_from(name, &bytes);
        ran.refused(1, &[&path, "not a usable GGUF file", field]);
    }
}

#[test]
fn tensors_that_overlap() {
    let good = TinyModel::llama().to_bytes();
    // The entry of a tensor ends with its offset; two entries with the same one share bytes.
    let name = b"blk.0.attn_q.weight";
    let at = good.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len();
    // dimension count, two dimensions, type, offset
    let offset = at + 4 + 2 * 8 + 4;
    let mut bad = good.clone();
    bad[offset..offset + 8].copy_from_slice(&0_u64.to_le_bytes());
    let (ran, path) = generate_from("overlap.gguf", &bad);
    ran.refused(1, &[&path, "not a usable GGUF file"]);
}

#[test]
fn an_architecture_that_nobody_knows() {
    let text = TinyModel::llama().to_bytes();
    let mut bytes = text.clone();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(5).position(|five| five == b"llama") {
        bytes[at + found..at + found + 5].copy_from_slice(b"zzzzz");
        at += found + 5;
    }
    let (ran, _) = generate_from("other.gguf", &bytes);
    ran.refused(1, &["architecture `zzzzz` is not supported", "qwen2"]);
}

#[test]
fn models_that_are_not_there() {
    let sandbox = Sandbox::new();
    let ran = |model: &str| sandbox.run(&["generate", "hello", "--model", model]);
    ran("qwen2.5-coder-0.5").refused(2, &["unknown model", "did you mean qwen2.5-coder-0.5b?"]);
    ran("no-such-model").refused(2, &["the catalogue has", "owner/name"]);
    ran("./missing.gguf").refused(1, &["./missing.gguf", "No such file"]);
    ran("qwen2.5-coder-0.5b")
        .refused(1, &["not on this machine", "hapa model pull qwen2.5-coder-0.5b"]);
    ran("owner/name").refused(1, &["owner/name", "not on this machine"]);
    sandbox.file("folder/readme", "no model");
    ran("./folder").refused(1, &["folder", "model.safetensors"]);
    sandbox
        .run(&["model", "inspect", "smollm2-135m"])
        .refused(1, &["hapa model pull smollm2-135m"]);
    sandbox.run(&["model", "rm", "smollm2-135m"]).refused(2, &["not in the store"]);
    sandbox.run(&["model", "pull", "./folder"]).refused(2, &["a path"]);
    sandbox.run(&["model", "pull", "smollm2-135m", "nonsense"]).refused(2, &["nonsense"]);
}

#[test]
fn a_file_of_the_store_with_the_wrong_digest() {
    let sandbox = Sandbox::new();
    let path =
        sandbox.file("home/models/smollm2-135m/smollm2-135m.gguf", TinyModel::llama().to_bytes());
    sandbox
        .run(&["generate", "hello", "--model", "smollm2-135m"])
        .refused(1, &["SHA-256", "expected b179c9523d0e"]);
    assert!(!path.exists(), "it was not kept");
}

#[test]
fn questions_that_cannot_be_asked() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let generate = |args: &[&str], stdin: &[u8]| {
        let args: Vec<&str> = ["generate", "--model", &model].iter().chain(args).copied().collect();
        sandbox.run_with(&args, stdin)
    };
    generate(&[""], b"").refused(2, &["the prompt"]);
    generate(&["-"], b"").refused(2, &["the prompt"]);
    generate(&["-"], b" \n\t\n").refused(2, &["the prompt"]);
    generate(&["-"], b"caf\xe9").refused(2, &["standard input is not UTF-8 text (byte 3)"]);
    generate(&["-", "--context", "-"], b"").refused(2, &["standard input"]);
    sandbox.file("latin1.py", b"# caf\xe9\n");
    generate(&["x", "--context", "latin1.py"], b"").refused(2, &["latin1.py is not UTF-8"]);
    generate(&["x", "--context", "missing.py"], b"").refused(1, &["missing.py", "No such file"]);
    sandbox.file("huge.py", "x".repeat(50_001));
    generate(&["x", "--context", "huge.py"], b"").refused(2, &["--context", "50000"]);
    generate(&[&"x".repeat(10_001)], b"").refused(2, &["the prompt", "10000"]);
    for (flag, value) in [
        ("--max-tokens", "0"),
        ("--temperature", "2.5"),
        ("--temperature", "NaN"),
        ("--top-p", "0"),
        ("--min-p", "1.5"),
        ("--repetition-penalty", "0"),
    ] {
        generate(&["x", flag, value], b"").refused(2, &[flag]);
    }
    assert!(!sandbox.home().exists(), "nothing was loaded");
    // Only the model can tell how many tokens a text is.
    generate(&[&"word ".repeat(1_000)], b"").refused(2, &["tokens, the context holds 512"]);
}

#[test]
#[cfg(unix)]
fn arguments_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let mut command = sandbox.hapa(&["generate"]);
    command.arg(OsStr::from_bytes(b"caf\xe9"));
    let ran = Ran::new(command.output().unwrap());
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("UTF-8"), "{ran:?}");
}

#[test]
fn cursors_that_are_nowhere() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox.file("app.py", "x = 1\n");
    let complete = |args: &[&str]| {
        let args: Vec<&str> = ["complete", "--model", &model].iter().chain(args).copied().collect();
        sandbox.run(&args)
    };
    complete(&["--file", "app.py", "--line", "7"]).refused(2, &["app.py", "no line 7", "1 to 2"]);
    complete(&["--file", "app.py", "--line", "1", "--column", "9"]).refused(2, &["no column 9"]);
    complete(&["--prefix", "x", "--n", "6"]).refused(2, &["--n is 6", "1 to 5"]);
    complete(&["--prefix", ""]).refused(2, &["the text before the cursor"]);
    assert_eq!(complete(&["--file", "app.py"]).code, Some(2), "a file needs a line");
    assert_eq!(complete(&[]).code, Some(2));
    let plain = sandbox.file("plain.gguf", TinyModel::qwen2().without_fim().to_bytes());
    sandbox
        .run(&["complete", "--prefix", "x", "--model", &arg(&plain)])
        .refused(2, &["no fill-in-the-middle tokens", "qwen2.5-coder-0.5b"]);
}

#[test]
fn a_store_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("a-file", "");
    let mut command = sandbox.hapa(&["model", "pull", "smollm2-135m"]);
    command.env("HAPA_HOME", &file).env_remove("HF_HUB_OFFLINE");
    Ran::new(command.output().unwrap()).refused(1, &["could not", &arg(&file)]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_disk_that_is_full() {
    use std::process::Stdio;
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    for args in [
        &["complete", "--prefix", "x = ", "--model", &model][..],
        &["model", "list"],
        &["serve", "--print-config"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = sandbox.hapa(args).stdout(Stdio::from(full)).output().unwrap();
        Ran::new(output).refused(1, &["standard output", "No space left"]);
    }
}

#[test]
fn an_instruction_set_that_there_is_not() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let mut command = sandbox.hapa(&["complete", "--prefix", "x", "--model", &model]);
    Ran::new(command.env("HAPA_ISA", "mmx").output().unwrap()).refused(2, &["HAPA_ISA", "mmx"]);
}
