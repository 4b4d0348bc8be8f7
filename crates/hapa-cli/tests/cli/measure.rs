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
