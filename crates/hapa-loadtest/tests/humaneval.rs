//! Programs that a model might write, judged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::time::Duration;

use common::{Fake, Received, respond};
use hapa_loadtest::humaneval::{
    Judge, JudgeLimits, Problem, Verdict, answered, continued, test_program,
};
use hapa_loadtest::{Api, Ask, Control, Prompt, Target, TargetOptions, answers};

fn judge() -> Judge {
    Judge::new(JudgeLimits { cpu: Duration::from_secs(2), ..JudgeLimits::default() }).unwrap()
}

fn failure(program: &str) -> String {
    match judge().run(program).unwrap() {
        Verdict::Failed(reason) => reason,
        other => panic!("{program}: {other}"),
    }
}

#[test]
fn right_and_wrong() {
    let problem = Problem {
        task_id: "t/0".to_owned(),
        prompt: "def add(a, b):\n    \"\"\"Sum.\"\"\"\n".to_owned(),
        entry_point: "add".to_owned(),
        canonical_solution: "    return a + b\n".to_owned(),
        test: "def check(f):\n    assert f(1, 2) == 3, 'one and two'\n".to_owned(),
    };
    let run = |program: String| judge().run(&test_program(&problem, &program)).unwrap();
    assert_eq!(run(continued(&problem, &problem.canonical_solution)), Verdict::Passed);
    let wrong = run(continued(&problem, "    return a - b\n"));
    assert_eq!(wrong, Verdict::Failed("AssertionError: one and two".to_owned()));
    let answer = "```python\ndef add(a, b):\n    return a + b\n```";
    assert_eq!(run(answered(&problem, answer)), Verdict::Passed);
    assert!(failure("def f(:\n").starts_with("SyntaxError"));
    assert!(failure("raise SystemExit(0)").starts_with("SystemExit"));
    assert!(failure("import os\nos._exit(0)").starts_with("ended before its end"));
    assert_eq!(
        judge().run("print('passed')\nimport math, typing, hashlib, re").unwrap(),
        Verdict::Passed
    );
}

#[test]
fn limits_hold() {
    assert_eq!(judge().run("while True: pass").unwrap(), Verdict::TimedOut);
    assert!(failure("x = bytearray(3 << 30)").starts_with("MemoryError"));
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("x");
    assert!(failure(&format!("open({path:?}, 'w')")).starts_with("PermissionError"));
    assert!(!path.exists());
    std::fs::write(&path, "keep").unwrap();
    assert!(failure(&format!("import os\nos.remove({path:?})")).starts_with("PermissionError"));
    assert!(path.exists());
    for program in [
        "import socket\nsocket.socket()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.fork()",
        "import os\nos.kill(1, 0)",
    ] {
        assert!(failure(program).starts_with("PermissionError"), "{program}");
    }
    // Its own folder is its own, up to the limit of a file.
    assert_eq!(judge().run("open('x', 'w').write('y' * 1000)").unwrap(), Verdict::Passed);
    let large = judge().run("f = open('x', 'w')\nf.write('y' * (8 << 20))\nf.close()").unwrap();
    assert!(matches!(large, Verdict::Failed(_)), "{large}");
}

#[test]
fn answers_come_with_their_prompts() {
    let fake = Fake::start(|request: &Received| {
        if request.body.contains("p3") {
            return vec![respond(500, "text/plain", "", "no")];
        }
        let number =
            request.body.split("\"prompt\":\"p").nth(1).unwrap().split('"').next().unwrap();
        let body = format!("{{\"choices\":[{{\"text\":\"a{number}\"}}]}}");
        vec![respond(200, "application/json", "", &body)]
    });
    let options = TargetOptions {
        url: fake.url(),
        api: Api::OpenaiCompletions,
        whole: true,
        ..TargetOptions::default()
    };
    let target = Target::new(options).unwrap();
    let prompts: Vec<Prompt> =
        (0..12).map(|n| Prompt::new(Ask::Text(format!("p{n}")), 4)).collect();
    let mut seen = Vec::new();
    let timeout = Duration::from_secs(60);
    answers((&target, &prompts), 4, timeout, &Control::new(), |index, answer| {
        match answer {
            Ok(answer) => assert_eq!(answer.text, format!("a{index}")),
            Err(reason) => assert_eq!((index, reason.as_str()), (3, "status 500: no")),
        }
        seen.push(index);
    })
    .unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
}
