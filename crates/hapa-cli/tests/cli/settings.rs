//! Settings in layers, from outside.

use crate::sandbox::{Ran, Sandbox};

fn shown(sandbox: &Sandbox, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let args: Vec<&str> = ["serve", "--print-config"].iter().chain(args).copied().collect();
    Ran::new(sandbox.hapa(&args).envs(variables.iter().copied()).output().unwrap())
}

fn has(ran: &Ran, lines: &[&str]) {
    for line in lines {
        assert!(
            ran.stdout.lines().any(|shown| shown == *line),
            "`{line}` is not in\n{}",
            ran.stdout
        );
    }
}

#[test]
fn each_value_names_its_source() {
    let sandbox = Sandbox::new();
    sandbox
        .file("hapa.toml", "model = 'smollm2-135m'\n\n[server]\nport = 1\n[engine]\nthreads = 1\n");
    let ran = shown(
        &sandbox,
        &["--port", "3"],
        &[("HAPA_SERVER_PORT", "2"), ("HAPA_ENGINE_THREADS", "2")],
    )
    .ok();
    has(
        &ran,
        &[
            "model = \"smollm2-135m\" # hapa.toml:1",
            "threads = 2 # HAPA_ENGINE_THREADS",
            "port = 3 # --port",
            "host = \"127.0.0.1\" # default",
            "keep_alive = \"10m\" # default",
        ],
    );
    // What was printed is a settings file that means the same.
    sandbox.file("printed.toml", &ran.stdout);
    let again = shown(&sandbox, &["--config", "printed.toml"], &[("HAPA_HOME", "")]).ok();
    let values = |ran: &Ran| -> Vec<String> {
        let lines = ran.stdout.lines().filter(|line| !line.starts_with("home"));
        lines.map(|line| line.split(" # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(values(&again), values(&ran));
}

#[test]
fn the_first_file_that_there_is_is_the_only_one() {
    let sandbox = Sandbox::new();
    sandbox.file(".config/hapa/hapa.toml", "log = 'error'\n[server]\nport = 5\n");
    let of_user = shown(&sandbox, &[], &[]).ok();
    assert!(of_user.stdout.contains(".config/hapa/hapa.toml:3"), "{of_user:?}");
    sandbox.file("hapa.toml", "log = 'info'\n");
    let of_folder = shown(&sandbox, &[], &[]).ok();
    has(&of_folder, &["log = \"info\" # hapa.toml:1", "port = 8000 # default"]);
    sandbox.file("named.toml", "log = 'debug'\n");
    has(
        &shown(&sandbox, &[], &[("HAPA_CONFIG", "named.toml")]).ok(),
        &["log = \"debug\" # named.toml:1"],
    );
    sandbox.file("flag.toml", "log = 'trace'\n");
    let by_flag =
        shown(&sandbox, &["--config", "flag.toml"], &[("HAPA_CONFIG", "named.toml")]).ok();
    has(&by_flag, &["log = \"trace\" # flag.toml:1"]);
}

#[test]
fn mistakes_are_bad_usage() {
    let sandbox = Sandbox::new();
    let with = |text: &str| {
        sandbox.file("hapa.toml", text);
        shown(&sandbox, &[], &[])
    };
    with("[engine]\nthread = 2\n").refused(2, &["hapa.toml:2", "did you mean `engine.threads`?"]);
    with("[cache]\nttl = 'soon'\n").refused(2, &["hapa.toml:2: `cache.ttl`", "never"]);
    with("[server]\nport = '8000'\n").refused(2, &["`server.port`"]);
    with("oops").refused(2, &["not valid TOML"]);
    with("log = 'caf\u{e9}").refused(2, &["not valid TOML"]);
    sandbox.file("hapa.toml", b"log = 'caf\xe9'");
    shown(&sandbox, &[], &[]).refused(2, &["hapa.toml is not UTF-8"]);
    shown(&sandbox, &["--config", "none.toml"], &[]).refused(2, &["none.toml", "No such file"]);
    std::fs::remove_file(sandbox.path("hapa.toml")).unwrap();
    shown(&sandbox, &[], &[("HAPA_ENGINE_BACKEND", "gpu")])
        .refused(2, &["HAPA_ENGINE_BACKEND", "auto, cpu or reference"]);
    sandbox.run(&["doctor", "--offline", "--log", "=,="]).refused(2, &["log"]);
    let ran = shown(&sandbox, &[], &[("HAPA_MODLE", "x")]).ok();
    assert!(ran.stderr.contains("warning:") && ran.stderr.contains("did you mean HAPA_MODEL?"));
}

#[test]
fn a_window_that_reads_nothing_is_bad_usage() {
    let sandbox = Sandbox::new();
    sandbox.file("hapa.toml", "[engine]\ncompletion_window = 8\n");
    sandbox
        .run(&["complete", "--prefix", "x = "])
        .refused(2, &["engine.completion_window is 8", "64"]);
}

#[test]
fn several_models_are_named_in_all_layers() {
    let sandbox = Sandbox::new();
    let by_flag = shown(&sandbox, &["--also", "a/b", "--also", "c/d:Q4_K_M"], &[]).ok();
    has(&by_flag, &["models = [\"a/b\", \"c/d:Q4_K_M\"] # --also"]);
    sandbox.file("hapa.toml", "models = ['a/b', 'c/d']\n[engine]\nmemory_budget = '3GiB'\n");
    let by_file = shown(&sandbox, &[], &[]).ok();
    has(&by_file, &["models = [\"a/b\", \"c/d\"] # hapa.toml:1"]);
    has(&by_file, &["memory_budget = \"3GiB\" # hapa.toml:3"]);
    let variables = [("HAPA_MODELS", "e/f, g/h"), ("HAPA_ENGINE_MEMORY_BUDGET", "4096")];
    let by_variable = shown(&sandbox, &["--memory-budget", "2MiB"], &variables).ok();
    has(&by_variable, &["models = \"e/f, g/h\" # HAPA_MODELS"]);
    has(&by_variable, &["memory_budget = \"2MiB\" # --memory-budget"]);
    shown(&sandbox, &["--memory-budget", "much"], &[]).refused(2, &["--memory-budget", "64MiB"]);
}

#[test]
fn models_of_one_name_are_bad_usage() {
    let sandbox = Sandbox::new();
    let serve = |args: &[&str]| {
        let args: Vec<&str> = ["serve", "--port", "0"].iter().chain(args).copied().collect();
        sandbox.run(&args)
    };
    serve(&["--model", "one/m.gguf", "--also", "./two/m.gguf"])
        .refused(2, &["the setting models", "one/m.gguf", "./two/m.gguf", "`m`"]);
    serve(&["--also", "qwen2.5-coder-0.5b"]).refused(2, &["qwen2.5-coder-0.5b", "leave one out"]);
    serve(&["--also", "qwen2.5-coder-0.5"]).refused(2, &["did you mean qwen2.5-coder-0.5b?"]);
}

#[test]
fn variables_reach_the_work() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&hapa_model::testing::TinyModel::qwen2());
    let mut command = sandbox.hapa(&["generate", "hello", "--json"]);
    command.env("HAPA_MODEL", &model).env("HAPA_GENERATE_MAX_TOKENS", "3");
    let answer = Ran::new(command.output().unwrap()).ok().json();
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let mut command = sandbox.hapa(&["generate", "hello", "--json"]);
    command.env("HAPA_MODEL", &model).env("HAPA_ENGINE_CONTEXT_TOKENS", "16");
    Ran::new(command.output().unwrap()).refused(2, &["the context holds 16"]);
}
