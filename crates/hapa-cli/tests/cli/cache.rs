//! `hapa cache`, and answers that outlive the process.

use hapa_model::testing::TinyModel;

use crate::sandbox::Sandbox;

/// A question whose answer ends by itself, as seen in this sandbox.
fn answered(sandbox: &Sandbox, model: &str) -> Vec<String> {
    for question in
        ["sort a list", "add", "x", "print", "sum of squares", "reverse", "join", "a b c"]
    {
        // Near even chances for all tokens, the one that ends an answer among them.
        let sampling = ["--temperature", "2", "--seed", "1", "--max-tokens", "400"];
        let mut arguments = vec!["generate", question, "-m", model, "--json"];
        arguments.extend(sampling);
        let ran = sandbox.run(&arguments);
        if ran.stdout.contains("\"finish_reason\": \"stop\"") {
            return arguments.iter().map(|text| (*text).to_owned()).collect();
        }
    }
    panic!("the random model ended none of its answers by itself");
}

#[test]
fn the_file_is_shown_cleared_exported_and_imported() {
    let sandbox = Sandbox::new();
    let stats = |sandbox: &Sandbox| sandbox.run(&["cache", "stats", "--json"]).ok().json();
    assert_eq!(stats(&sandbox)["entries"], 0);
    assert!(!sandbox.home().join("cache").exists(), "looking makes nothing");
    assert!(sandbox.run(&["cache", "stats"]).ok().stdout.contains("0 answers"));
    assert_eq!(sandbox.run(&["cache", "clear", "--json"]).ok().json()["removed"], 0);

    let exported = sandbox.run(&["cache", "export", "answers.hapa", "--json"]).ok().json();
    assert_eq!(exported["exported"], 0);
    let imported = sandbox.run(&["cache", "import", "answers.hapa", "--json"]).ok().json();
    assert_eq!(imported["imported"], 0);
    sandbox.file("other.txt", "no snapshot");
    let refused = sandbox.run(&["cache", "import", "other.txt"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("not a snapshot"), "{}", refused.stderr);
    let off = sandbox.hapa(&["cache", "stats"]).env("HAPA_CACHE_DISK", "0").output().unwrap();
    assert_eq!(off.status.code(), Some(2));
}

#[test]
fn an_answer_outlives_the_process() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::llama());
    let question = answered(&sandbox, &model);
    let question: Vec<&str> = question.iter().map(String::as_str).collect();
    let again = sandbox.run(&question);
    assert_eq!(again.json()["cache"]["outcome"], "hit-l2");

    sandbox.run(&["cache", "export", "answers.hapa"]).ok();
    let removed = sandbox.run(&["cache", "clear", "--json"]).ok().json()["removed"].clone();
    assert!(removed.as_u64().unwrap() >= 1);
    assert_eq!(sandbox.run(&question).json()["cache"]["outcome"], "miss");
    sandbox.run(&["cache", "clear"]).ok();
    let imported = sandbox.run(&["cache", "import", "answers.hapa", "--json"]).ok().json();
    assert_eq!(imported["imported"], removed);
    assert_eq!(sandbox.run(&question).json()["cache"]["outcome"], "hit-l2");
}
