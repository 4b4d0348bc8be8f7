//! `hapa bench` and `hapa eval`.

use hapa_model::testing::{PERPLEXITY_TEXT, TinyModel};

use crate::sandbox::{Sandbox, small};

#[test]
fn the_engines_figures() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let args = [
        "bench",
        "engine",
        "-m",
        &model,
        "--prompt-tokens",
        "64",
        "--gen-tokens",
        "16",
        "--runs",
        "2",
    ];
    let args: Vec<&str> = args.into_iter().chain(["--batch", "3", "--threads", "1"]).collect();
    let json: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let figures = sandbox.run(&json).ok().json();
    for key in [
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "batch_decode_tokens_per_second",
        "load_seconds",
        "peak_resident_bytes",
    ] {
        assert!(figures[key].as_f64() > Some(0.0), "{key}: {figures}");
    }
    assert_eq!(
        (&figures["batch"], &figures["threads"], &figures["runs"]),
        (&3.into(), &1.into(), &2.into())
    );
    let text = sandbox.run(&args).ok().stdout;
    assert!(text.contains("decode, batch of 3") && text.contains("tokens/s"), "{text}");
    let bench =
        |flag: &str, value: &str| sandbox.run(&["bench", "engine", "-m", &model, flag, value]);
    bench("--gen-tokens", "1").refused(2, &["--gen-tokens is 1"]);
    bench("--batch", "0").refused(2, &["--batch is 0"]);
    bench("--prompt-tokens", "600").refused(2, &["the context holds 512"]);
}

#[test]
fn the_reviews_table() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let review = |more: &[&str]| {
        let base = ["bench", "review", "-m", &model, "--rounds", "1", "--requests", "2"];
        let base =
            [&base[..], &["--clients", "2", "--max-tokens", "24", "--threads", "1"]].concat();
        sandbox.run(&[&base[..], more].concat())
    };
    let found = review(&["--json", "--output", "out"]).ok();
    let found = found.json();
    assert_eq!(found["schema"], "hapa-review/1");
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{found}");
    for row in rows {
        for figure in ["before", "after", "times_better"] {
            assert!(row["review"][figure].as_f64() > Some(0.0), "{row}");
            assert!(row["here"][figure].as_f64() > Some(0.0), "{row}");
        }
    }
    // A kept answer is no computed one, at any speed of the machine.
    assert!(rows[1]["here"]["times_better"].as_f64() > Some(1.0), "{found}");
    let read = |name: &str| std::fs::read_to_string(sandbox.path(&format!("out/{name}"))).unwrap();
    let written: serde_json::Value = serde_json::from_str(&read("review.json")).unwrap();
    assert_eq!(written, found);
    assert!(read("review.md").contains("| 1.50 s to 300 ms | 5.0x |"), "{}", read("review.md"));
    assert!(read("review.svg").contains("memory, two requests at once"));
    sandbox.run(&["bench", "review", "-m", &model, "--rounds", "0"]).refused(2, &["--rounds is 0"]);
    sandbox.file("taken", "");
    let refused = review(&["--output", "taken"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("could not write taken"), "{refused:?}");
}

#[test]
fn completions_of_what_was_held_out() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    for n in 0..3 {
        let function = format!(
            "def f_{n}(values):\n    total = {n}\n    for value in values:\n        total += value\n    return total\n\n\n"
        );
        sandbox.file(&format!("code/{n}.py"), function.repeat(9));
    }
    sandbox.file("code/broken.py", "def f(:\n".repeat(100));
    let eval = |more: &[&str]| {
        let base = ["eval", "completion", "code", "-m", &model, "--max-tokens", "4", "--json"];
        sandbox.run(&[&base[..], &["--output", "r.jsonl", "--window", "400"], more].concat())
    };
    let some = eval(&["--holes", "2"]).ok().json();
    assert_eq!((&some["holes"], &some["unanswered"]), (&2.into(), &0.into()), "{some}");
    let all = eval(&["--holes", "50"]).ok();
    assert!(all.stderr.contains("2 completions are there already"), "{}", all.stderr);
    let all = all.json();
    assert_eq!(all["holes"], 6, "two a file, none of the broken one: {all}");
    for kind in all["kinds"].as_array().unwrap() {
        for share in ["exact", "similarity", "valid"] {
            assert!((0.0..=1.0).contains(&kind[share].as_f64().unwrap()), "{all}");
        }
    }
    let kept = std::fs::read_to_string(sandbox.path("r.jsonl")).unwrap();
    assert_eq!(kept.lines().count(), 7, "conditions, then one line a hole");
    let table = sandbox.run(&["eval", "completion", "code", "-m", &model, "--holes", "2"]).ok();
    assert!(table.stdout.contains("rest of a block"), "{}", table.stdout);
    let other = ["eval", "completion", "code", "-m", &model, "--output", "r.jsonl"];
    sandbox.run(&other).refused(2, &["other conditions", "--window"]);
    eval(&["--holes", "0"]).refused(2, &["--holes is 0"]);
    eval(&["--url", "http://127.0.0.1:1", "--api", "hapa"])
        .refused(2, &["no place for the text after"]);
    sandbox.run(&["eval", "completion", "nowhere"]).refused(1, &["nowhere"]);
}

#[test]
fn perplexity_of_a_text() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox.file("text.py", "def f(x):\n    return x + 1\n".repeat(40));
    let run = |chunk: &str| {
        sandbox.run(&[
            "eval",
            "perplexity",
            "--file",
            "text.py",
            "-m",
            &model,
            "--chunk",
            chunk,
            "--json",
        ])
    };
    let measured = run("64").ok().json();
    assert!(measured["perplexity"].as_f64() > Some(1.0), "{measured}");
    // llama.cpp scores positions n/2 .. n-2 of each chunk.
    let chunks = measured["chunks"].as_u64().unwrap();
    assert_eq!(measured["tokens"], chunks * 31);
    run("100000").refused(2, &["at least one whole chunk"]);
    run("3").refused(2, &["at least 4"]);
    sandbox.file("binary", b"\xff\xfe");
    sandbox
        .run(&["eval", "perplexity", "--file", "binary", "-m", &model])
        .refused(2, &["binary is not UTF-8"]);
}

#[test]
fn perplexity_of_the_small_model_is_llama_cpps() {
    let sandbox = Sandbox::new();
    sandbox.file("ppl.txt", PERPLEXITY_TEXT);
    let measured = sandbox
        .run(&["eval", "perplexity", "--file", "ppl.txt", "-m", &small(), "--json"])
        .ok()
        .json();
    let perplexity = measured["perplexity"].as_f64().unwrap();
    assert!((perplexity / 4.404 - 1.0).abs() < 0.01, "{measured}");
}

#[test]
fn a_typing_session() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox.file("mean.py", "def mean(values):\n    total = sum(values)\n    return total\n");
    let typing = |more: &[&str]| {
        let base = ["bench", "typing", "mean.py", "-m", &model, "--threads", "1", "--max-tokens"];
        sandbox.run(&[&base[..], &["8", "--interval-ms", "20"], more].concat())
    };
    let figures = typing(&["--line", "2", "--lines", "1", "--json"]).ok().json();
    let number = |path: &str| figures.pointer(path).and_then(|n| n.as_u64()).expect(path);
    assert_eq!(number("/keys"), 23, "four blanks and `total = sum(values)`: {figures}");
    assert_eq!(number("/shown") + number("/superseded"), 23, "{figures}");
    let sources = ["/computed", "/typed_through", "/cached"].map(number);
    assert_eq!(sources.iter().sum::<u64>(), number("/shown"), "{figures}");
    assert!(number("/shown") > 0, "nobody cancels the last one: {figures}");
    assert!(
        number("/begun") <= 23 && figures["seconds_to_begin"]["median"].is_number(),
        "{figures}"
    );
    let [asked, reused, computed] =
        ["/prompt_tokens/asked", "/prompt_tokens/reused", "/prompt_tokens/computed"].map(number);
    assert_eq!(asked, reused + computed, "{figures}");
    assert!(asked > 0, "{figures}");
    let text = typing(&["--lines", "1"]).ok().stdout;
    assert!(text.contains("shown in time") && text.contains("reused"), "{text}");
    typing(&["--line", "9"]).refused(2, &["mean.py", "no line 9", "3 lines"]);
    typing(&["--lines", "0"]).refused(2, &["--lines is 0"]);
}
