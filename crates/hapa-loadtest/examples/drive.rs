//! The shortest load test: `cargo run --release -p hapa-loadtest --example drive -- URL DIALECT CLIENTS SECONDS`.

use std::time::Duration;

use hapa_loadtest::{
    Ask, Control, Limit, Load, LoadError, Mix, Plan, Prompt, Settings, Target, TargetOptions,
    Workload, WorkloadSource, run,
};

fn main() -> Result<(), LoadError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, api, clients, seconds] = arguments.as_slice() else {
        eprintln!("usage: drive URL DIALECT CLIENTS SECONDS");
        std::process::exit(2);
    };
    let target = TargetOptions { url: url.clone(), api: api.parse()?, ..TargetOptions::default() };
    let question = Prompt::new(Ask::Text("reverse a linked list".to_owned()), 64);
    let plan = Plan {
        target: Target::new(target)?,
        workload: Workload::new(WorkloadSource::One(question), Mix::default(), 64)?,
        load: Load::closed(clients.parse().unwrap_or(1)),
        limit: Limit::duration(Duration::from_secs(seconds.parse().unwrap_or(10))),
        warmup: Limit::duration(Duration::from_millis(500)),
        cold: true,
        settings: Settings::default(),
    };
    let report = run(&plan, &Control::new())?;
    eprintln!("{}", report.table());
    Ok(())
}
