//! `hapa bench serve`, `hapa bench compare` and `hapa eval humaneval`.

use hapa_model::testing::TinyModel;

use crate::sandbox::Sandbox;
use crate::serve::Running;

fn serving(sandbox: &Sandbox) -> Running {
    let model = sandbox.tiny(&TinyModel::qwen2());
    Running::start(sandbox.hapa(&["serve", "--port", "0", "-m", &model, "--threads", "1"]))
}

#[test]
fn a_load_test_of_the_own_server_and_its_reports() {
    let sandbox = Sandbox::new();
    let server = serving(&sandbox);
    let url = server.url();
    let bench = |more: &[&str]| {
        let base = ["bench", "serve", &url, "--max-tokens", "4", "--warmup", "2", "-c", "2"];
        sandbox.run(&[&base[..], more].concat())
    };
    let synthetic = ["--synthetic", "8-16:4", "--requests", "12", "--json"];
    let report = bench(&[&synthetic[..], &["--output", "a.json", "--html", "a.html"]].concat());
    let report = report.ok().json();
    assert_eq!(report["schema"], "hapa-loadtest/1");
    assert_eq!(
        (&report["requests"]["succeeded"], &report["requests"]["total"]),
        (&12.into(), &12.into())
    );
    assert!(report["cold"]["end_to_end"].as_f64() > Some(0.0), "{report}");
    assert_eq!(report["by_cache"][0]["cache"], "miss", "{report}");
    let beside = &report["latency"]["first_token_beside_engine"];
    assert_eq!(beside["count"], report["latency"]["time_to_first_token"]["count"], "{report}");
    assert!(report["throughput"]["output_tokens"].as_u64() > Some(0), "{report}");
    assert!(std::fs::read_to_string(sandbox.path("a.html")).unwrap().contains("<svg"));

    let same = bench(&["--prompt", "x = ", "--requests", "6", "--json", "--output", "b.json"]);
    assert_eq!(same.ok().json()["requests"]["succeeded"], 6);
    let compared = sandbox.run(&["bench", "compare", "a.json", "b.json"]).ok().stdout;
    assert!(compared.contains("end to end, p50") && compared.contains("careful"), "{compared}");

    let api = ["--api", "openai-completions", "--synthetic", "8:4", "--rate", "200", "-n", "10"];
    let text = bench(&api).ok().stdout;
    assert!(text.contains("Poisson arrivals at 200") && text.contains("10 succeeded"), "{text}");
    let sweep = bench(&["--sweep", "1,2", "-n", "4", "--synthetic", "8:4"]).ok().stdout;
    assert!(sweep.contains("clients"), "{sweep}");
    let versus = ["--vs", &url, "--rounds", "2", "-n", "4", "--synthetic", "8:4"];
    let versus = bench(&versus).ok().stdout;
    assert!(versus.contains("within 95%") && versus.contains("2 rounds"), "{versus}");

    bench(&["--synthetic", "8"]).refused(2, &["--synthetic is `8`"]);
    bench(&["--rate", "0"]).refused(2, &["rate"]);
    bench(&["--goodput", "ttft=5"]).refused(2, &["no unit"]);
    sandbox.run(&["bench", "compare", "a.html", "b.json"]).refused(2, &["a.html", "not JSON"]);
}

#[test]
fn a_server_that_is_not_there_is_counted_and_kept() {
    let sandbox = Sandbox::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let ran = sandbox.run(&["bench", "serve", &url, "-n", "5", "--output", "report.json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("1 x connect (error)"), "{}", ran.stdout);
    assert!(ran.stderr.contains("of 1 requests, 1 failed"), "{}", ran.stderr);
    assert!(sandbox.path("report.json").exists());
}

#[test]
fn human_eval_runs_what_the_model_wrote_and_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    let model = sandbox.tiny(&TinyModel::qwen2());
    // The first problem is solved by nothing at all, the second by nothing that this model writes.
    let problem = |number: u32, prompt: &str, test: &str| {
        format!(
            "{{\"task_id\":\"T/{number}\",\"prompt\":\"{prompt}\",\"entry_point\":\"f\",\
             \"canonical_solution\":\"\",\"test\":\"{test}\"}}\n"
        )
    };
    let easy = problem(
        0,
        "def f():\\n    return 1\\nr'''",
        "'''\\ndef check(c):\\n    assert f() == 1\\n",
    );
    let hard = problem(
        1,
        "def f():\\n    return 2\\nr'''",
        "'''\\ndef check(c):\\n    assert f() == 1\\n",
    );
    sandbox.file("problems.jsonl", format!("{easy}{hard}"));
    let eval = |more: &[&str]| {
        let base = ["eval", "humaneval", "--problems", "problems.jsonl", "-m", &model];
        let base = [&base[..], &["--max-tokens", "1", "--output", "r.jsonl", "--json"]].concat();
        sandbox.run(&[&base[..], more].concat())
    };
    let first = eval(&["--limit", "1"]).ok().json();
    assert_eq!((&first["passed"], &first["of"]), (&1.into(), &1.into()), "{first}");
    let both = eval(&[]).ok();
    assert!(both.stderr.contains("1 answers are there already"), "{}", both.stderr);
    let both = both.json();
    assert_eq!((&both["passed"], &both["of"]), (&1.into(), &2.into()), "{both}");
    assert_eq!(both["pass_at_1"], 0.5);
    assert_eq!(both["problems"][1]["verdicts"][0], "failed: AssertionError");
    eval(&["--temperature", "0.5"]).refused(2, &["other conditions"]);
    eval(&["--k", "2"]).refused(2, &["--k 2 needs"]);
}
