//! `hapa generate` and `hapa complete`.

use hapa_model::testing::TinyModel;
use serde_json::Value;

use crate::sandbox::{Sandbox, small};

#[test]
fn code_to_standard_output_and_the_rest_to_standard_error() {
    let sandbox = Sandbox::new();
    let ran = sandbox
        .run(&[
            "generate",
            "Write a Python function that adds two numbers.",
            "-m",
            &small(),
            "--max-tokens",
            "96",
        ])
        .ok();
    assert!(ran.stdout.contains("def "), "{ran:?}");
    assert!(!ran.stdout.contains("```"), "{ran:?}");
    assert!(ran.stdout.ends_with('\n') && !ran.stdout.ends_with("\n\n"), "{ran:?}");
    let receipt = ran.stderr.lines().last().unwrap();
    for part in [
        "smollm2-135m",
        "loaded in",
        "prompt tokens",
        "first token after",
        "tokens/s",
        "cache miss",
    ] {
        assert!(receipt.contains(part), "{part}: {receipt}");
    }
    assert!(!ran.stderr.contains('\x1b'), "no colours in a pipe: {ran:?}");
    let quiet = sandbox
        .run(&[
            "generate",
            "Write a Python function that adds two numbers.",
            "-m",
            &small(),
            "--max-tokens",
            "96",
            "-q",
        ])
        .ok();
    assert_eq!(quiet.stdout, ran.stdout, "the same question has the same answer");
    assert!(!quiet.stderr.contains("tokens/s"), "{quiet:?}");
}

#[test]
fn one_json_object() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let ran = sandbox.run(&["generate", "hello", "-m", &model, "--max-tokens", "8", "--json"]).ok();
    let answer = ran.json();
    for key in ["generated_code", "explanation", "usage", "cache", "timings", "syntax", "model"] {
        assert!(!answer[key].is_null(), "{key}: {answer}");
    }
    assert_eq!(answer["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert_eq!(answer["cache"]["outcome"], "miss");
    assert!(answer["timings"]["model_loading_seconds"].as_f64() > Some(0.0));
    assert!(ran.stderr.contains("--max-tokens allows more"), "{ran:?}");
}

#[test]
fn questions_and_contexts_from_files_and_pipes() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let common = ["-m", model.as_str(), "--max-tokens", "4", "--json", "-q"];
    let prompt_tokens = |args: &[&str], stdin: &str| {
        let args: Vec<&str> = ["generate"].iter().chain(args).chain(&common).copied().collect();
        let answer = sandbox.run_with(&args, stdin.as_bytes()).ok().json();
        (answer["usage"]["prompt_tokens"].as_u64().unwrap(), answer["cache"]["key"].clone())
    };
    let (_, plain) = prompt_tokens(&["say x"], "");
    assert_eq!(prompt_tokens(&["-"], "say x").1, plain);
    sandbox.file("code.py", "x = 1\n");
    let (with, key) = prompt_tokens(&["say x", "--context", "code.py"], "");
    assert_ne!(key, plain);
    let (piped, _) = prompt_tokens(&["say x", "--context", "-"], "x = 1\n");
    assert!(piped < with, "a file's name is told to the model, a pipe has none");
    let named = prompt_tokens(&["say x", "--context", "-", "--file-path", "code.py"], "x = 1\n");
    assert_eq!(named, (with, key));
    let (_, other) = prompt_tokens(&["say x", "--language", "Rust"], "");
    assert_ne!(other, plain);
}

#[test]
fn sampling_flags_reach_the_model() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let complete = |flags: &[&str]| {
        let args: Vec<&str> =
            ["complete", "--prefix", "x = ", "-m", &model, "--max-tokens", "12", "-q"]
                .iter()
                .chain(flags)
                .copied()
                .collect();
        sandbox.run(&args).ok().stdout
    };
    let greedy = complete(&[]);
    assert_eq!(complete(&[]), greedy);
    assert_eq!(complete(&["--temperature", "1", "--top-k", "1"]), greedy);
    assert_eq!(complete(&["--temperature", "1", "--min-p", "1"]), greedy);
    let seven = complete(&["--temperature", "2", "--seed", "7"]);
    assert_eq!(complete(&["--temperature", "2", "--seed", "7"]), seven);
    assert_ne!(complete(&["--temperature", "2", "--seed", "8"]), seven);
    let bypass = ["generate", "x", "-m", &model, "--max-tokens", "2", "--no-cache", "--json"];
    assert_eq!(sandbox.run(&bypass).ok().json()["cache"]["outcome"], "bypass");
}

#[test]
fn completions_at_a_cursor_or_between_texts() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox.file("app.py", "def f():\n    x = \n    return x\n");
    let common = ["-m", model.as_str(), "--max-tokens", "6", "-q", "--json"];
    let run = |args: &[&str]| {
        let args: Vec<&str> = ["complete"].iter().chain(args).chain(&common).copied().collect();
        sandbox.run(&args).ok().json()
    };
    let at_end = run(&["--file", "app.py", "--line", "2"]);
    assert_eq!(
        run(&["--file", "app.py", "--line", "2", "--column", "9"])["cache"],
        at_end["cache"]
    );
    assert_ne!(
        run(&["--file", "app.py", "--line", "2", "--column", "5"])["cache"],
        at_end["cache"]
    );
    assert!(at_end["completions"][0].is_string(), "{at_end}");
    let several = run(&["--prefix", "x = ", "--suffix", "\n", "--n", "3"]);
    let texts: Vec<&Value> = several["completions"].as_array().unwrap().iter().collect();
    assert!((1..=3).contains(&texts.len()), "{several}");
    for key in ["finish_reason", "usage", "cache", "timings"] {
        assert!(!several[key].is_null(), "{key}: {several}");
    }
    assert_eq!(
        run(&["--prefix", "x = ", "--suffix", "\n", "--n", "3"])["completions"],
        several["completions"]
    );
}

#[test]
fn every_command_teaches_by_example() {
    let sandbox = Sandbox::new();
    for command in [
        &["generate"][..],
        &["complete"],
        &["serve"],
        &["chat"],
        &["edit"],
        &["batch"],
        &["doctor"],
        &["completions"],
        &["man"],
        &["profile", "cpu"],
        &["profile", "heap"],
        &["top"],
        &["model", "list"],
        &["model", "pull"],
        &["model", "inspect"],
        &["model", "pack"],
        &["model", "rm"],
        &["bench", "engine"],
        &["bench", "review"],
        &["bench", "serve"],
        &["bench", "compare"],
        &["eval", "perplexity"],
    ] {
        let args: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let help = sandbox.run(&args).ok().stdout;
        assert!(help.contains("Examples:\n  hapa "), "{command:?}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{command:?}: {help}");
    }
    let script = sandbox.run(&["completions", "bash"]).ok().stdout;
    assert!(script.contains("_hapa()") && script.contains("perplexity"));
    assert_eq!(sandbox.files(), Vec::<String>::new(), "help touches nothing");
}
