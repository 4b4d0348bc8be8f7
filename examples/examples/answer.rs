//! One question, answered with code.
//!
//! `cargo run --release -p hapa-examples --example answer -- "reverse a linked list"`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;

use hapa_service::{ModelRef, Request, Service, ServiceOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let question =
        if words.is_empty() { "merge two sorted lists".to_owned() } else { words.join(" ") };
    let model = match std::env::var("HAPA_MODEL") {
        Ok(name) => name.parse()?,
        Err(_) => ModelRef::default(),
    };

    // Nothing is loaded yet: the first request does that.
    let service = Service::new(ServiceOptions::new(model))?;
    let mut request = Request::generate(question);
    request.max_tokens = 256;
    let answer = service.predict(request).await?;

    match &answer.code {
        Some(code) => println!("{code}"),
        None => println!("{}", answer.text),
    }
    // The receipt: what it took, and whether the code is Python.
    for issue in &answer.syntax.issues {
        eprintln!("line {}: {}", issue.line, issue.message);
    }
    eprintln!(
        "{} tokens in {:.1?} (model loaded in {:.1?}, first token after {:.1?}), cache: {}",
        answer.usage.generated_tokens,
        answer.timings.total,
        answer.timings.model_loading,
        answer.timings.time_to_first_token,
        answer.cache.outcome,
    );
    Ok(())
}
