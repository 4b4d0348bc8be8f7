//! `hapa model` and `hapa doctor`.

use hapa_model::testing::TinyModel;

use crate::sandbox::{Ran, Sandbox, arg};

#[test]
fn an_empty_store_lists_what_could_be_fetched() {
    let sandbox = Sandbox::new();
    let list = sandbox.run(&["model", "list"]).ok();
    assert!(list.stdout.starts_with("MODEL"), "{list:?}");
    let line = list.stdout.lines().find(|line| line.starts_with("qwen2.5-coder-0.5b")).unwrap();
    assert!(line.contains("491 MB") && line.contains("not here") && line.contains("Apache-2.0"));
    let json = sandbox.run(&["model", "list", "--json"]).ok().json();
    assert_eq!(json["home"], arg(&sandbox.home()));
    assert_eq!(json["models"][0]["name"], "qwen2.5-coder-0.5b");
    assert_eq!(json["models"][0]["present"], false);
    assert_eq!(json["leftovers"].as_array().map(Vec::len), Some(0));
    assert_eq!(sandbox.files(), Vec::<String>::new(), "listing touches nothing");
}

#[test]
fn leftovers_are_told_and_removed() {
    let sandbox = Sandbox::new();
    sandbox.file("home/models/smollm2-135m/.smollm2-135m.gguf.hub.part", vec![0; 5_000_000]);
    sandbox.file("home/models/smollm2-135m/.packing-x1y2", vec![0; 1_000_000]);
    let list = sandbox.run(&["model", "list"]).ok();
    assert!(list.stderr.contains("6.00 MB of interrupted downloads"), "{list:?}");
    let removed = sandbox.run(&["model", "rm", "--leftovers", "--json"]).ok().json();
    assert_eq!(removed["removed"][0]["freed_bytes"], 6_000_000);
    assert!(
        !sandbox.files().iter().any(|file| file.contains(".part") || file.contains(".packing"))
    );
}

#[test]
fn inspecting_shows_what_a_file_is() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let json = sandbox.run(&["model", "inspect", &model, "--json"]).ok().json();
    assert_eq!(json["architecture"], "qwen2");
    assert_eq!(json["context_length"], 512);
    assert_eq!(json["tensor_types"][0]["type"], "F32");
    assert!(json["parameters"].as_u64() > Some(1000));
    let text = sandbox.run(&["model", "inspect", &model]).ok().stdout;
    for part in
        ["architecture", "qwen2", "512 tokens", "F32", "<|im_end|>", "ends an answer", "fim prefix"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let template = sandbox.run(&["model", "inspect", &model, "--template"]).ok().stdout;
    assert!(template.contains("add_generation_prompt"), "{template}");
    assert_eq!(sandbox.files(), ["tiny.gguf"], "the header was read, nothing else");
    let none = sandbox.file("none.gguf", TinyModel::qwen2().template(None).to_bytes());
    sandbox.run(&["model", "inspect", &arg(&none), "--template"]).refused(1, &["no chat template"]);
}

#[test]
fn packing_ahead_of_the_first_start() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    let packed = sandbox.run(&["model", "pack", &model, "--json"]).ok().json();
    assert_eq!(packed["path"], format!("{model}.packed"));
    let bytes = std::fs::metadata(sandbox.path("tiny.gguf.packed")).unwrap().len();
    assert_eq!(packed["bytes"], bytes);
    let again = sandbox.run(&["model", "pack", &model]).ok();
    assert_eq!(again.stdout, format!("{model}.packed\n"));
    assert!(!sandbox.files().iter().any(|file| file.contains(".packing")), "{:?}", sandbox.files());
    // A folder in its place: nothing can be kept there.
    std::fs::remove_file(sandbox.path("tiny.gguf.packed")).unwrap();
    std::fs::create_dir(sandbox.path("tiny.gguf.packed")).unwrap();
    let refused = sandbox.run(&["model", "pack", &model]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("could not be kept"), "{refused:?}");
}

#[test]
fn a_first_answer_leaves_packed_weights_and_nothing_else() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    sandbox.run(&["complete", "--prefix", "x", "-m", &model, "--max-tokens", "1"]).ok();
    let files = sandbox.files();
    let beside: Vec<_> = files.iter().filter(|file| !file.starts_with("home")).collect();
    assert_eq!(beside, ["tiny.gguf", "tiny.gguf.packed"]);
}

#[test]
fn the_doctor_says_what_is_missing() {
    let sandbox = Sandbox::new();
    let sick = sandbox.run(&["doctor", "--json"]);
    assert_eq!(sick.code, Some(1), "{sick:?}");
    let report = sick.json();
    assert!(report["problems"][0].as_str().unwrap().contains("hapa model pull"), "{report}");
    assert_eq!(report["model"]["present"], false);
    assert_eq!(report["model"]["fetch_bytes"], 491_400_064);
    assert_eq!(report["hub"]["offline"], true);
    assert_eq!(report["store"]["home"], arg(&sandbox.home()));
    assert!(report["machine"]["physical_cores"].as_u64() >= Some(1));
    assert!(report["machine"]["memory_bytes"].as_u64() > Some(1 << 20));
    let available = report["machine"]["isa_available"].as_array().unwrap();
    assert!(available.contains(&"scalar".into()) && available.contains(&report["machine"]["isa"]));

    let model = sandbox.tiny(&TinyModel::qwen2());
    let well = sandbox.run(&["doctor", "--model", &model]).ok();
    for part in ["processor", "instructions", "memory", "store", "hub", "pip", "ready"] {
        assert!(well.stdout.contains(part), "{part}: {well:?}");
    }
    let with_isa = |isa: &str| {
        let mut command = sandbox.hapa(&["doctor", "--json", "--model", &model]);
        Ran::new(command.env("HAPA_ISA", isa).output().unwrap())
    };
    assert_eq!(with_isa("scalar").ok().json()["machine"]["isa"], "scalar");
    let unknown = with_isa("mmx");
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.json()["problems"][0].as_str().unwrap().contains("HAPA_ISA"), "{unknown:?}");
    assert!(!sandbox.home().exists(), "the doctor leaves nothing behind");
}
