//! `hapa batch`, `hapa edit`, `hapa chat`, `hapa man`, `hapa doctor --fix`, `hapa profile`, `hapa top` and
//! `hapa generate --trace`.

use hapa_model::testing::TinyModel;
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};
use crate::serve::Running;

fn lines(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandbox.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_batch_goes_on_where_it_was_and_keeps_errors() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let questions = [
        r#"{"id": "a", "user_question": "say x"}"#,
        r#"{"prefix": "x = ", "suffix": "\n", "max_tokens": 3}"#,
        "",
        r#"{"messages": [{"role": "user", "content": "hello"}]}"#,
        "no json",
        r#"{"prompt": "say y", "max_tokens": 0}"#,
    ];
    sandbox.file("in.jsonl", questions.join("\n"));
    let batch = |more: &[&str]| {
        let base = ["batch", "in.jsonl", "out.jsonl", "-m", &model, "--max-tokens", "4", "--json"];
        sandbox.run(&[&base[..], more].concat())
    };
    let first = batch(&[]);
    assert_eq!(first.code, Some(1), "{first:?}");
    assert!(
        first.stderr.contains("2 lines failed") && first.stderr.contains("--retry-errors"),
        "{first:?}"
    );
    let summary = first.json();
    assert_eq!((&summary["answered"], &summary["failed"]), (&3.into(), &2.into()));
    let mut found = lines(&sandbox, "out.jsonl");
    found.sort_by_key(|line| line["line"].as_u64());
    let of: Vec<u64> = found.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(of, [1, 2, 4, 5, 6]);
    assert_eq!(
        (&found[0]["id"], &found[0]["usage"]["completion_tokens"]),
        (&"a".into(), &4.into())
    );
    assert_eq!(found[1]["usage"]["completion_tokens"], 3);
    assert!(found[1]["completions"][0].is_string() && found[2]["text"].is_string(), "{found:?}");
    assert_eq!((&found[3]["status"], &found[4]["status"]), (&"error".into(), &"error".into()));
    assert!(found[3]["error_message"].as_str().unwrap().contains("no question"), "{found:?}");
    assert!(found[4]["error_message"].as_str().unwrap().contains("max-tokens"), "{found:?}");

    // Nothing is computed twice; a line that was cut off is computed again.
    let again = batch(&[]).ok();
    assert!(again.stderr.contains("5 answers there already"), "{again:?}");
    assert_eq!(again.json()["answered"], 0);
    let text = std::fs::read_to_string(sandbox.path("out.jsonl")).unwrap();
    sandbox.file("out.jsonl", &text[..text.len() - 5]);
    let cut = batch(&[]).json();
    assert_eq!(cut["there_already"], 4);
    assert_eq!(lines(&sandbox, "out.jsonl").len(), 5);
    let retried = batch(&["--retry-errors"]);
    assert_eq!((retried.code, &retried.json()["failed"]), (Some(1), &2.into()));

    sandbox.file("in.jsonl", r#"{"prompt": "another question"}"#);
    batch(&[]).refused(2, &["another line 1", "another output file"]);
    sandbox.file("other.jsonl", "{}\n");
    sandbox
        .run(&["batch", "in.jsonl", "other.jsonl", "-m", &model])
        .refused(2, &["no result of `hapa batch`"]);
    batch(&["--concurrency", "0"]).refused(2, &["--concurrency is 0"]);
    sandbox
        .run(&["batch", "no.jsonl", "out.jsonl", "-m", &model])
        .refused(1, &["could not read no.jsonl"]);
}

#[test]
fn an_edit_is_never_half_done() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let before = "def add(a, b):\n    return a + b\n";
    sandbox.file("app.py", before);
    let edit = |more: &[&str]| {
        let base = ["edit", "app.py", "add type hints", "-m", &model, "--max-tokens", "8"];
        sandbox.run(&[&base[..], more].concat())
    };
    // Nobody can be asked through a pipe.
    edit(&[]).refused(2, &["--yes applies", "--diff-only"]);
    // What is cut is no edit.
    for more in [&["--yes"][..], &["--diff-only", "--json"]] {
        let ran = edit(more);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("the file is as it was"), "{}", ran.stderr);
    }
    edit(&["--diff-only", "--lines", "9:"]).refused(2, &["app.py: there is no line 9"]);
    let range = edit(&["--yes", "--lines", "x"]);
    assert!(range.code == Some(2) && range.stderr.contains("10:42"), "{range:?}");
    sandbox.run(&["edit", "none.py", "x", "--yes", "-m", &model]).refused(1, &["none.py"]);
    sandbox.run(&["edit", "-", "x", "--yes", "-m", &model]).refused(2, &["a file is needed"]);
    assert_eq!(std::fs::read_to_string(sandbox.path("app.py")).unwrap(), before);
}

#[test]
fn a_real_model_edits_a_file() {
    let sandbox = Sandbox::new();
    // A small model does not do much more than to repeat what it sees, but tidily.
    let before = "def add(a, b):   \n    return a + b   \n";
    sandbox.file("app.py", before);
    let model = crate::sandbox::small();
    let edit = |more: &[&str]| {
        let instruction = "remove trailing blanks";
        let base = ["edit", "app.py", instruction, "-m", &model, "--force", "--json"];
        sandbox.run(&[&base[..], more].concat())
    };
    let shown = edit(&["--diff-only"]).ok().json();
    assert_eq!((&shown["changed"], &shown["applied"]), (&true.into(), &false.into()), "{shown}");
    assert!(
        shown["diff"].as_str().unwrap().starts_with("--- a/app.py\n+++ b/app.py\n@@"),
        "{shown}"
    );
    assert_eq!(std::fs::read_to_string(sandbox.path("app.py")).unwrap(), before);
    let applied = edit(&["--yes"]).ok().json();
    assert_eq!((&applied["applied"], &applied["diff"]), (&true.into(), &shown["diff"]));
    assert_ne!(std::fs::read_to_string(sandbox.path("app.py")).unwrap(), before);
}

#[test]
fn a_conversation_through_a_pipe() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let chat = |text: &str, more: &[&str]| {
        let base = ["chat", "-m", &model, "--max-tokens", "4"];
        sandbox.run_with(&[&base[..], more].concat(), text.as_bytes())
    };
    sandbox.file("a.py", "x = 1\n");
    let text = "hello\n/max 2\n\"\"\"\nof two\nlines\n\"\"\"\n/undo\n/file a.py\nand this\n/retry\n/exit\nnever\n";
    let ran = chat(text, &["--json", "--system", "be brief"]).ok();
    let answers: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4, "{ran:?}");
    let prompt = |index: usize| answers[index]["usage"]["prompt_tokens"].as_u64().unwrap();
    let written = |index: usize| answers[index]["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!((written(0), written(1)), (4, 2));
    assert!(prompt(1) > prompt(0), "a conversation remembers: {answers:?}");
    assert_eq!(prompt(2), prompt(3), "the same question once more");
    assert!(ran.stderr.contains("a.py goes with the next question"), "{ran:?}");
    let plain = chat("hello", &["--system", "be brief", "-q"]).ok();
    assert_eq!(plain.stdout, format!("{}\n", answers[0]["text"].as_str().unwrap()));
    let wrong = chat("/hlep\nhello\n", &[]);
    wrong.refused(2, &["did you mean /help?"]);
    chat("/undo\n", &[]).refused(2, &["nothing to take back"]);
    assert_eq!(chat("", &[]).ok().stdout, "");
    assert!(
        !sandbox.files().iter().any(|name| name.contains("chat-history")),
        "a pipe is not remembered"
    );
}

#[test]
fn manual_pages_and_suggestions() {
    let sandbox = Sandbox::new();
    let page = sandbox.run(&["man"]).ok().stdout;
    assert!(page.starts_with(".ie") && page.contains(".TH hapa 1"), "{page}");
    sandbox.run(&["man", "pages"]).ok();
    for name in ["hapa", "hapa-generate", "hapa-bench-review", "hapa-model-pull"] {
        let page = std::fs::read_to_string(sandbox.path(&format!("pages/{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    let typo = sandbox.run(&["genrate", "x"]);
    assert!(typo.code == Some(2) && typo.stderr.contains("'generate'"), "{typo:?}");
    let typo = sandbox.run(&["generate", "x", "--max-token", "3"]);
    assert!(typo.code == Some(2) && typo.stderr.contains("'--max-tokens'"), "{typo:?}");
    let typo = sandbox.run(&["generate", "x", "-m", "qwen2.5-coder-05b", "--offline"]);
    assert!(typo.code == Some(2) && typo.stderr.contains("qwen2.5-coder-0.5b"), "{typo:?}");
}

#[test]
fn a_trace_of_a_request_opens_in_perfetto() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox
        .run(&["generate", "x", "-m", &model, "--max-tokens", "4", "--trace", "t.json", "--json"])
        .ok();
    let text = std::fs::read_to_string(sandbox.path("t.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for stage in ["request", "model_loading", "prompt", "queue", "prefill", "decode"] {
        for phase in ["b", "e"] {
            let wanted = |event: &&Value| event["name"] == stage && event["ph"] == phase;
            let event = events.iter().find(wanted);
            let event = event.unwrap_or_else(|| panic!("{stage} has no {phase}: {text}"));
            assert!(event["ts"].is_number(), "{event}");
        }
    }
}

#[test]
fn a_trace_with_kernels_names_each_layer() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let ask = ["generate", "x", "-m", &model, "--max-tokens", "4", "--no-cache", "--json"];
    sandbox.run(&[&ask[..], &["--trace", "t.json", "--trace-kernels"]].concat()).ok();
    let text = std::fs::read_to_string(sandbox.path("t.json")).unwrap();
    let trace: Value = serde_json::from_str(&text).unwrap();
    let count = |name: &str| {
        let events = trace["traceEvents"].as_array().unwrap().iter();
        events.filter(|event| event["name"] == name && event["ph"] == "b").count()
    };
    let steps = count("step");
    assert!(steps >= 2, "{text}");
    for name in ["layer 0", "layer 1", "logits"] {
        assert_eq!(count(name), steps, "{name}: {text}");
    }
    for kernel in ["qkv", "attention", "output", "gate_up", "down"] {
        assert!(count(kernel) >= 2 * steps, "{kernel}: {text}");
    }
    assert_eq!(trace["otherData"]["dropped_events"], 0);
    sandbox.run(&["generate", "x", "--trace-kernels"]).refused(2, &["--trace <FILE>"]);
}

#[test]
fn doctor_mends_what_can_be_mended() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    // What a download of the small model left when it was killed.
    let part = sandbox.file("home/models/smollm2-135m/.x.gguf.part", [0; 1000]);
    let fixed = sandbox.run(&["doctor", "--fix", "--offline", "--json", "-m", &model]).ok();
    let report = fixed.json();
    let done: Vec<&str> =
        report["fixed"].as_array().unwrap().iter().map(|done| done.as_str().unwrap()).collect();
    assert!(done.iter().any(|done| done.contains("interrupted")), "{report}");
    assert!(done.iter().any(|done| done.contains("packed")), "{report}");
    assert!(!part.exists());
    assert_eq!(
        (&report["store"]["leftover_bytes"], &report["problems"]),
        (&0.into(), &Value::Array(vec![]))
    );
    let again = sandbox.run(&["doctor", "--fix", "--offline", "--json", "-m", &model]).ok().json();
    assert_eq!(again["fixed"], Value::Array(vec![]), "{again}");
    let missing = sandbox.run(&["doctor", "--fix", "--offline"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("hapa model pull"), "{missing:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_profile_of_a_command() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let ran = sandbox
        .run(&[
            "profile",
            "cpu",
            "--folded",
            "f.txt",
            "--report",
            "r.json",
            "--",
            "bench",
            "engine",
            "-m",
            &model,
            "--prompt-tokens",
            "256",
            "--gen-tokens",
            "64",
            "--runs",
            "8",
            "--json",
        ])
        .ok();
    assert!(
        ran.json()["decode_tokens_per_second"].is_number(),
        "the command's own result: {ran:?}"
    );
    assert!(ran.stderr.contains("flame graph: hapa-cpu.svg"), "{ran:?}");
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    assert!(read("hapa-cpu.svg").contains("<svg"));
    let report: Value = serde_json::from_str(&read("r.json")).unwrap();
    assert!(report["samples"].as_u64() > Some(0), "{report}");
    let folded = read("f.txt");
    let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let total: u64 = folded.lines().map(count).sum();
    assert_eq!(Some(total), report["samples"].as_u64(), "each sample has a stack");
    assert!(folded.contains("hapa_model"), "{folded}");
    let failing = sandbox.run(&["profile", "cpu", "--", "generate", "", "-m", &model]);
    assert!(
        failing.code == Some(2) && failing.stderr.contains("the prompt is empty"),
        "{failing:?}"
    );
    sandbox.run(&["profile", "cpu", "--", "genrate"]).refused(2, &["'generate'"]);
    sandbox
        .run(&["profile", "cpu", "--", "profile", "cpu", "--", "doctor"])
        .refused(2, &["profile of a profile"]);
}

#[cfg(unix)]
#[test]
fn scopes_of_a_command_and_what_changed() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    // A step for each token.
    sandbox.file("hapa.toml", "[engine]\nspeculation = false\n");
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    let profile = |report: &str, more: &[&str], command: &[&str]| {
        let base = ["profile", "scopes", "--report", report];
        let command = [command, &["-m", &model, "--quiet"]].concat();
        sandbox.run(&[&base[..], more, &["--"], &command].concat())
    };
    let generate = ["generate", "add", "--max-tokens", "64", "--no-cache", "--json"];
    let ran = profile("a.json", &["--html", "a.html", "--markdown", "a.md"], &generate).ok();
    assert!(!ran.stderr.contains("engine::step"), "quiet is quiet: {ran:?}");
    let report: Value = serde_json::from_str(&read("a.json")).unwrap();
    let scopes = report["scopes"].as_array().unwrap();
    let step = scopes.iter().find(|scope| scope["name"] == "engine::step").unwrap();
    // The answer is complete before the last step is, and the process may end in between.
    assert!(step["calls"].as_u64() >= Some(32), "{step}");
    assert!(read("a.html").contains("engine::step") && read("a.html").contains("</html>"));
    assert!(read("a.md").contains("| `engine::step` |"), "{}", read("a.md"));

    let args = [&["profile", "scopes", "--"], &generate[..], &["-m", &model]].concat();
    let spans =
        |filter| Ran::new(sandbox.hapa(&args).env("HAPA_PROFILE_SPANS", filter).output().unwrap());
    for (filter, selects) in [("engine=debug", true), ("engine=info", false), ("", false)] {
        let ran = spans(filter).ok();
        assert!(ran.stderr.contains("model_loading"), "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("engine::step"), selects, "{filter}: {}", ran.stderr);
    }
    spans("a=b=c").refused(2, &["the setting `profile_spans` cannot be read"]);

    profile("b.json", &[], &generate).ok();
    let same = sandbox.run(&["profile", "diff", "a.json", "b.json", "--json"]).ok().json();
    assert!(same["rows"].as_array().unwrap().iter().any(|row| row["name"] == "engine::step"));
    // A report whose every call took longer: the same, with the histogram moved up.
    let mut slow: Value = serde_json::from_str(&read("a.json")).unwrap();
    for scope in slow["scopes"].as_array_mut().unwrap() {
        for key in ["mean_seconds", "p50_seconds"] {
            scope[key] = (scope[key].as_f64().unwrap() * 16.0).into();
        }
        for bucket in scope["histogram"].as_array_mut().unwrap() {
            bucket[0] = (bucket[0].as_u64().unwrap() + 100).into();
        }
    }
    sandbox.file("slow.json", slow.to_string());
    let diff = ["profile", "diff", "a.json", "slow.json"];
    let told = sandbox.run(&diff).ok();
    assert!(told.stdout.contains("slower"), "{told:?}");
    let failed = sandbox.run(&[&diff[..], &["--fail-on-slower"]].concat());
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("engine::step"), "{failed:?}");
    sandbox.run(&["profile", "diff", "a.json", "a.md"]).refused(1, &["a.md", "expected the JSON"]);
    sandbox.run(&["profile", "diff", "a.json", "none.json"]).refused(1, &["none.json"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_flame_graph_of_a_real_generation_names_the_matmul_kernel() {
    let sandbox = Sandbox::new();
    let profile = ["profile", "cpu", "--report", "r.json", "--"];
    let question = "write a function that adds two numbers";
    let command = ["generate", question, "-m", &crate::sandbox::small()];
    let options = ["--max-tokens", "48", "--no-cache", "--json"];
    let ran = sandbox.run(&[&profile[..], &command, &options].concat()).ok();
    assert!(ran.json()["usage"]["completion_tokens"].as_u64() > Some(1), "{ran:?}");
    let svg = std::fs::read_to_string(sandbox.path("hapa-cpu.svg")).unwrap();
    assert!(svg.contains("hapa_kernels::matmul::"), "no kernel in {}", ran.stderr);
    let report = std::fs::read_to_string(sandbox.path("r.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let is_kernel = |hot: &&Value| {
        hot["function"].as_str().is_some_and(|name| name.starts_with("hapa_kernels::matmul::"))
    };
    let kernel = report["functions"].as_array().unwrap().iter().find(is_kernel);
    assert!(kernel.unwrap()["self_seconds"].as_f64() > Some(0.0), "{report}");
    let lines = report["lines"].as_array().unwrap().iter();
    let mut files = lines.filter_map(|hot| hot["file"].as_str());
    assert!(files.any(|file| file.starts_with("hapa-kernels/src/matmul/")), "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_heap_profile_of_a_command() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let command = ["bench", "engine", "-m", &model, "--prompt-tokens", "32", "--gen-tokens", "8"];
    let profile = ["profile", "heap", "--every", "1", "--of", "allocated"];
    let files = ["--folded", "f.txt", "--report", "r.json", "--"];
    let ran = sandbox.run(&[&profile[..], &files, &command, &["--json"]].concat()).ok();
    assert!(ran.json()["decode_tokens_per_second"].is_number(), "{ran:?}");
    assert!(ran.stderr.contains("flame graph: hapa-heap.svg"), "{ran:?}");
    let read = |name: &str| std::fs::read_to_string(sandbox.path(name)).unwrap();
    assert!(read("hapa-heap.svg").contains("<svg"));
    let report: Value = serde_json::from_str(&read("r.json")).unwrap();
    let sites = report["call_sites"].as_array().unwrap();
    let kv = sites.iter().find(|site| {
        site["file"].as_str().is_some_and(|file| file.starts_with("hapa-kernels/src/"))
            && site["peak_bytes"].as_u64() > Some(0)
    });
    assert!(kv.is_some(), "keys and values live in memory that the kernels hold: {report}");
    let bytes = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let folded: u64 = read("f.txt").lines().map(bytes).sum();
    let allocated = report["allocated_bytes"].as_u64().unwrap();
    assert!(folded.abs_diff(allocated) <= allocated / 100, "{folded} and {allocated}");
    sandbox
        .run(&["profile", "heap", "--of", "all", "--", "doctor"])
        .refused(2, &["peak, live and allocated"]);
}

#[test]
fn a_server_on_one_screen() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let server =
        Running::start(sandbox.hapa(&["serve", "--port", "0", "-m", &model, "--threads", "1"]));
    let url = server.url();
    let load = ["bench", "serve", &url, "--synthetic", "8:4", "--max-tokens", "4", "-n", "6", "-q"];
    sandbox.run(&load).ok();
    let screen = sandbox.run(&["top", "--url", &url]).ok().stdout;
    for part in ["tiny", "ready", "tokens/s", "first token", "/api/v1/code/generate", "scope", &url]
    {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    let object = sandbox.run(&["top", "--url", &url, "--json"]).ok().json();
    assert_eq!(object["model_state"], "ready", "{object}");
    assert!(object["resident_bytes"].as_f64() > Some(1e6), "{object}");
    assert!(object["endpoints"][0]["count"].as_u64() > Some(0), "{object}");
    assert!(!object["scopes"].as_array().unwrap().is_empty(), "{object}");
    drop(server);
    sandbox.run(&["top", "--url", &url, "--once"]).refused(1, &["no answer from", "hapa serve"]);
}

#[test]
fn alerts_are_set_in_the_file() {
    let sandbox = Sandbox::new();
    sandbox.file("hapa.toml", "[alerts]\nerror_ratio = 0.2\nwebhook = 'ftp://x'\n");
    let shown = sandbox.run(&["serve", "--print-config"]).ok().stdout;
    assert!(shown.contains("error_ratio = 0.2 # hapa.toml:2"), "{shown}");
    let model = sandbox.tiny(&TinyModel::qwen2());
    let refused = sandbox.run(&["serve", "--port", "0", "-m", &model]);
    assert!(refused.code != Some(0) && refused.stderr.contains("alerts.webhook"), "{refused:?}");
    sandbox.file("hapa.toml", "[alerts]\nmemory_ratio = 90\n");
    sandbox
        .run(&["serve", "--port", "0", "-m", &model])
        .refused(2, &["alerts.memory_ratio is 90", "0.05"]);
}
