//! What speculation is worth: answers that were mostly written before, with drafts and without, in turn.
//!
//! `cargo run --release -p hapa-benches --example code_edit [-- --model M] [--rounds N] [--lines N] [--work edit]`
//!
//! - `edit`: the model is given a Python file and writes it again with one change.
//! - `again`: a question that was answered before is asked once more. (Its answer is no copy of the prompt.)
//! - `new`: a question that nothing is known of: drafts must cost nothing here.
//!
//! Decode speed is tokens after the first one by the time after the first one; the middle round of each counts.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use hapa_model::testing::real_store;
use hapa_model::{
    Answer, ChatMessage, DEFAULT_MODEL, GenerateRequest, LoadOptions, Model, ModelRef, NoProgress,
    ResolvedModel, Role, Store, StoreOptions,
};

struct Options {
    model: String,
    rounds: usize,
    lines: usize,
    /// One of the three; empty for all.
    work: String,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options =
            Self { model: DEFAULT_MODEL.to_owned(), rounds: 3, lines: 100, work: String::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--model" => options.model = value,
                "--rounds" => options.rounds = value.parse()?,
                "--lines" => options.lines = value.parse()?,
                "--work" => options.work = value,
                _ => {
                    return Err(
                        format!("{name}: --model, --rounds, --lines and --work are known").into()
                    );
                }
            }
        }
        Ok(options)
    }
}

/// A Python file of so many lines, each function a little different.
fn file(lines: usize) -> String {
    let names = ["orders", "invoices", "customers", "payments", "refunds", "parcels", "stores"];
    let verbs = ["load", "filter", "count", "merge", "export"];
    let mut text = String::from("import csv\nimport json\nfrom pathlib import Path\n\n\n");
    let mut number = 0;
    while text.lines().count() + 9 <= lines {
        let (name, verb) = (names[number % names.len()], verbs[number / names.len() % verbs.len()]);
        let key = ["id", "date", "total", "status"][number % 4];
        text.push_str(&format!(
            "def {verb}_{name}(path, limit={}):\n    rows = []\n    with Path(path).open() as source:\n        \
             for row in csv.DictReader(source):\n            if row[\"{key}\"] and len(rows) < limit:\n                \
             rows.append({{\"{key}\": row[\"{key}\"], \"kind\": \"{name}\"}})\n    return rows\n\n\n",
            10 * (number + 1),
        ));
        number += 1;
    }
    while text.lines().count() < lines {
        text.push_str("# end\n");
    }
    text
}

/// The user's own store, then the one that the tests share, then a download.
fn resolve(name: &str) -> Result<ResolvedModel, Box<dyn Error>> {
    let reference: ModelRef = name.parse()?;
    for store in
        [Store::open(StoreOptions { offline: true, ..StoreOptions::default() }), real_store()]
    {
        if let Ok(found) = store?.resolve(&reference, &NoProgress) {
            return Ok(found);
        }
    }
    Ok(Store::open(StoreOptions::default())?.resolve(&reference, &NoProgress)?)
}

fn run(
    model: &Model,
    prompt: &[u32],
    namespace: u64,
    most: usize,
) -> Result<Answer, Box<dyn Error>> {
    let request = GenerateRequest { namespace, ..GenerateRequest::new(prompt.to_vec(), most) };
    Ok(model.generate(request)?.blocking_collect()?)
}

fn decode_speed(answer: &Answer) -> f64 {
    let seconds = answer.finish.timings.decode.as_secs_f64();
    answer.finish.usage.generated_tokens.saturating_sub(1) as f64 / seconds.max(1e-9)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse()?;
    let resolved = resolve(&options.model)?;
    let load = |speculation| {
        Model::load(&resolved, &LoadOptions { speculation, ..LoadOptions::default() }, &NoProgress)
    };
    let models = [load(false)?, load(true)?];
    let chat = |text: String| models[0].chat_prompt(&[ChatMessage::new(Role::User, text)]);
    let source = file(options.lines);
    let mut edit = chat(format!(
        "Rename the function `load_invoices` to `read_invoices` in this file. Write the whole file again and change nothing \
         else.\n\n```python\n{source}```"
    ))?;
    // So that it does write the file, and not about it.
    edit.extend(models[0].encode("```python\nimport csv\nimport json\n")?);
    let file_tokens = models[0].encode(&source)?.len();
    let question = chat("Write a Python class for a bank account with tests.".to_owned())?;
    println!("{} lines, prompt {} tokens, {}", options.lines, edit.len(), options.model);
    println!("| work | tokens | off, tok/s | on, tok/s | on : off | drafted | accepted | same |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let wanted = |work: &&str| options.work.is_empty() || options.work == *work;
    for work in ["edit", "again", "new"].into_iter().filter(wanted) {
        let (prompt, most) = if work == "edit" { (&edit, file_tokens) } else { (&question, 400) };
        let mut speeds = [Vec::new(), Vec::new()];
        let mut last: [Option<Answer>; 2] = [None, None];
        for round in 0..options.rounds as u64 {
            for (side, model) in models.iter().enumerate() {
                // A namespace of its own knows nothing; that of the question asked again knows its answer.
                let namespace = match work {
                    "again" => 1_000_000,
                    "edit" => 1 + round,
                    _ => 1_000 + round,
                };
                if work == "again" && round == 0 {
                    run(model, prompt, namespace, most)?;
                }
                let answer = run(model, prompt, namespace, most)?;
                speeds[side].push(decode_speed(&answer));
                last[side] = Some(answer);
            }
        }
        let [off, on] = speeds.map(median);
        let [Some(plain), Some(drafted)] = last else { continue };
        let usage = drafted.finish.usage;
        println!(
            "| {work} | {} | {off:.1} | {on:.1} | {:.2} | {} | {} | {} |",
            usage.generated_tokens,
            on / off,
            usage.drafted_tokens,
            usage.accepted_tokens,
            if plain.output.tokens == drafted.output.tokens { "yes" } else { "NO" },
        );
    }
    Ok(())
}
